"""What each task says of what a model computes, and what it refuses before it loads anything."""

import io
import json
import re
from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BatchFeature

from hf_effmodels import pipelines
from hf_effmodels.prediction import run, talk
from hf_effmodels.prediction.forms import in_form, on_one_line, without_pictures
from hf_effmodels.prediction.predictor import Options, Source
from hf_effmodels.prediction.tasks import boxes, classes, conversation, enlarged, masks, named, segments


@pytest.mark.parametrize(
    "options, message",
    [
        ({}, "labels: of this model name what it is to choose from"),
        ({"labels": ("cat", " ")}, "labels: got 'cat', ' ', accepted are different names."),
        ({"labels": ("cat", "dog", "cat")}, "labels: got 'cat', 'dog', 'cat', accepted are different names."),
        ({"labels": ("cat",), "template": "a photo"}, "template: got 'a photo', accepted are texts with one {}"),
        ({"labels": ("cat",), "template": "{} and {}"}, "template: got '{} and {}', accepted are texts with one {}"),
    ],
)
def test_names_that_are_none_and_sentences_without_a_place_for_them_are_refused(monkeypatch, options, message):
    monkeypatch.setattr(named, "load_network", lambda *_: pytest.fail("a model is loaded"))
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        named.load("zero-shot-image-classification", Source("a/b"), Options(**options), "cpu")


def test_nothing_is_asked_of_pictures_without_a_question(monkeypatch):
    monkeypatch.setattr(conversation, "load_network", lambda *_: pytest.fail("a model is loaded"))
    for prompt in (None, ""):
        with pytest.raises(ValueError, match="^--prompt: what to ask about the pictures"):
            conversation.load("image-text-to-text", Source("a/b"), Options(prompt=prompt), "cpu")


def test_a_question_stands_behind_its_picture_and_the_answer_is_the_likeliest_without_spaces_around_it():
    asked, picture = [], Image.new("RGB", (2, 2))

    def talk(**how):
        asked.append(how)
        return [{"generated_text": "\n a cat \n"}]

    assert conversation._ask(talk, picture, Options(prompt="What?", max_new_tokens=9)) == "a cat"
    content = [{"type": "image", "image": picture}, {"type": "text", "text": "What?"}]
    assert asked == [
        {
            "text": [{"role": "user", "content": content}],
            "max_new_tokens": 9,
            "do_sample": False,
            "return_full_text": False,
        }
    ]


BOXES = [
    {"label": "cat", "score": 0.75, "box": {"xmin": 1.25, "ymin": 2.75, "xmax": 3.0, "ymax": 4.0}},
    {"label": "dog", "score": 0.5, "box": {"xmin": 0.0, "ymin": 0.0, "xmax": 9.0, "ymax": 9.0}},
    {"label": "cat", "score": 0.25, "box": {"xmin": 0.0, "ymin": 0.0, "xmax": 1.0, "ymax": 1.0}},
]


@pytest.fixture
def suppressing(monkeypatch, tmp_path):
    """A program with suppression in its graph, which keeps boxes from a quarter on."""
    (tmp_path / boxes.FACTS).write_text("{}")

    def detect(images):
        return [BOXES for _ in images]

    detect.suppression = SimpleNamespace(threshold=0.25)
    monkeypatch.setattr(boxes, "load_detector", lambda folder: detect if folder == str(tmp_path) else None)
    monkeypatch.setattr(boxes, "load_network", lambda *_: pytest.fail("it is no network"))
    return Source(str(tmp_path))


def test_a_program_that_suppresses_tells_the_boxes_from_the_threshold_on(suppressing):
    for threshold, kept in ((0.25, 3), (0.5, 2), (0.75, 1), (0.76, 0)):
        detector = boxes.load("object-detection", suppressing, Options(threshold=threshold), "cpu")
        first, second = detector.answer([None, None])
        expected = [{"label": box["label"], "score": box["score"], **box["box"]} for box in BOXES[:kept]]
        assert first == second == {"boxes": expected} and detector.rows(first) == expected
    with pytest.raises(ValueError, match="^threshold: got 0.2, but this program keeps boxes above 0.25 alone.$"):
        boxes.load("object-detection", suppressing, Options(threshold=0.2), "cpu")


def test_boxes_are_told_to_people_in_whole_pixels_and_drawn_with_their_names(suppressing):
    detector = boxes.load("object-detection", suppressing, Options(threshold=0.5), "cpu")
    (said,) = detector.answer([None])
    assert detector.line(said) == "cat 75.0 % at (1, 3, 3, 4)  dog 50.0 % at (0, 0, 9, 9)"
    assert detector.line({"boxes": []}) == "nothing"
    asked = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boxes, "draw_boxes", lambda *given: asked.append(given))
        detector.draw("picture", said)
    assert asked == [("picture", [[1.25, 2.75, 3.0, 4.0], [0.0, 0.0, 9.0, 9.0]], ["cat", "dog"], [0.75, 0.5])]


def test_classes_of_pixels_are_told_by_their_share_the_largest_first():
    numbers = np.array([[2, 2, 1], [7, 2, 1]])
    said = segments._said(numbers, {1: "sea", 2: "sand"})
    assert said["segments"] == [
        {"label": "sand", "share": 0.5},
        {"label": "sea", "share": pytest.approx(1 / 3)},
        {"label": "7", "share": pytest.approx(1 / 6)},
    ]
    assert (said["numbers"] == numbers).all() and without_pictures(said) == {"segments": said["segments"]}


def test_the_best_masks_are_told_to_people_and_all_of_them_to_tables(monkeypatch):
    class Network(tuple):
        config = SimpleNamespace(model_type="sam2")

    monkeypatch.setattr(masks, "load_network", lambda *given: Network(given))
    monkeypatch.setattr(masks, "load_part", lambda *given: SimpleNamespace(image_processor=given))
    made = []

    def segment(image, points_per_crop):
        assert (image, points_per_crop) == ("picture", 3)
        cover = np.ones((2, 3), dtype=bool)
        return {"masks": [cover, cover[:, :2], cover[:1]], "scores": torch.tensor([0.875, 0.5, 0.25])}

    monkeypatch.setattr("transformers.pipeline", lambda name, **how: made.append((name, how)) or segment)
    predictor = masks.load("mask-generation", Source("a/b"), Options(points=3, top_k=2), "cuda")
    (said,) = predictor.answer(["picture"])
    assert predictor.line(said) == "3 masks  0.88 (6 px)  0.50 (4 px)"
    assert [row["area"] for row in predictor.rows(said)] == [6, 4, 3]
    network, part = (Source("a/b"), "AutoModelForMaskGeneration", "cuda"), (Source("a/b"), "AutoProcessor")
    assert made == [("hierarchical-mask-generation", {"model": network, "image_processor": part})]


@pytest.fixture
def enlarging(monkeypatch):
    """Loads a pipeline of a class; gives what it was loaded with, and how it was called."""

    def load(named, **source):
        seen = {}

        class Pipe:
            components = {}

            @staticmethod
            def from_pretrained(name, **how):
                seen["loaded"] = name, how
                return Pipe()

            @staticmethod
            def load_config(name, **how):
                seen["index"] = name, how
                return {"_class_name": named}

            def to(self, device):
                seen["device"] = device
                return self

            def set_progress_bar_config(self, disable):
                seen["silent"] = disable

            def __call__(self, image, num_inference_steps, generator):
                seen.setdefault("drawn", []).append(torch.rand((), generator=generator).item())
                seen["steps"] = num_inference_steps
                return SimpleNamespace(images=[image.resize((image.width * 4, image.height * 4))])

        monkeypatch.setattr(diffusers, "DiffusionPipeline", Pipe)
        monkeypatch.setattr(pipelines, "Ours", Pipe, raising=False)
        options = Options(steps=7)
        seen["predictor"] = enlarged.load("super-resolution", Source("a/b", **source), options, "cpu")
        return seen

    return load


@pytest.mark.parametrize(
    "named, more",
    [
        ("Ours", {}),
        (["pipeline_ours", "Ours"], {}),
        ("Theirs", {"trust_remote_code": True}),
        (None, {"trust_remote_code": True}),
    ],
)
def test_code_beside_a_pipeline_is_run_where_it_is_not_ours_and_trusted(enlarging, named, more):
    place = {"revision": "v2", "token": "mine"}
    seen = enlarging(named, **place, trust_remote_code=True)
    assert seen["index"] == ("a/b", place) and seen["loaded"] == ("a/b", place | more)
    assert seen["device"] == "cpu" and seen["silent"] is True


def test_every_picture_is_enlarged_from_the_same_noise_in_as_many_steps_as_told(enlarging):
    seen = enlarging("Ours")
    picture = Image.new("RGB", (3, 2))
    first, second = seen["predictor"].answer([picture, picture])
    (noise,) = set(seen["drawn"])
    assert noise == torch.rand((), generator=torch.Generator().manual_seed(0)).item() and seen["steps"] == 7
    assert (first["width"], first["height"], first["picture"].size) == (12, 8, (12, 8))
    assert seen["predictor"].draw(picture, second) is second["picture"]
    assert without_pictures(first) == {"width": 12, "height": 8}


def test_what_was_drawn_is_told_behind_the_answer_and_nothing_breaks_the_line():
    predictor = SimpleNamespace(line=lambda said: f"cat {said['n']}")
    line = in_form("lines", predictor)
    assert line("a\tb", {"n": 1}) == "a\\tb: cat 1\n"
    assert line("a", {"n": 1, "saved": "out/é\n.png"}) == "a: cat 1  -> out/é\\n.png\n"
    assert in_form("json", predictor)("é", {"n": 1}) == '{"input": "é", "n": 1}\n'
    assert on_one_line("a\u2028b") == "a\\u2028b"


def test_a_model_is_known_again_by_its_files_and_a_pipeline_by_those_of_its_parts_too(tmp_path):
    assert run._facts(tmp_path / "nowhere") == {}
    (tmp_path / "unet").mkdir()
    for name in ("config.json", "unet/config.json", "unet/weights.safetensors", "README.md"):
        (tmp_path / name).write_text("1")

    def changes(name, text="1 and more"):
        before, file = run._facts(tmp_path), tmp_path / name
        kept = file.read_text()
        file.write_text(text)
        after = run._facts(tmp_path)
        file.write_text(kept)
        assert run._facts(tmp_path) == before
        return after != before

    assert changes("config.json") and not changes("README.md")
    assert not changes("unet/config.json") and not changes("unet/weights.safetensors")
    (tmp_path / "model_index.json").write_text(json.dumps({}))
    assert changes("unet/config.json") and changes("unet/weights.safetensors") and not changes("README.md")
    for ending in ("bin", "onnx", "xml", "pte"):
        (tmp_path / f"model.{ending}").write_text("1")
        assert changes(f"model.{ending}")


def test_each_class_of_a_segmented_picture_is_drawn_where_it_is_and_called_by_its_name(monkeypatch):
    drawn = []
    monkeypatch.setattr(segments, "draw_masks", lambda *given: drawn.append(given) or "picture")
    monkeypatch.setattr(segments, "load_part", lambda *_: None)
    model = SimpleNamespace(config=SimpleNamespace(id2label={1: "sea"}), device="cpu", dtype=None)
    monkeypatch.setattr(segments, "load_network", lambda *_, **__: model)
    draw = segments.load("image-segmentation", Source("m"), Options(), "cpu").draw
    numbers = np.array([[1, 1, 4], [4, 1, 1]])
    assert draw("image", {"numbers": numbers}) == "picture"
    ((image, masks, names),) = drawn
    assert image == "image" and names == ["sea", "4"]
    assert [mask.tolist() for mask in masks] == [(numbers == 1).tolist(), (numbers == 4).tolist()]


@pytest.mark.parametrize("threshold", [0.5, 0.25])
def test_boxes_are_in_pixels_of_their_own_picture_whatever_else_is_in_the_batch(threshold, monkeypatch):
    sizes, asked = [(60, 40), (30, 90), (7, 7)], []

    class Processor:
        def __call__(self, images, return_tensors):
            asked.append([image.size for image in images])
            return BatchFeature({"pixel_values": torch.zeros(len(images), 3, 4, 4)})

        def post_process_object_detection(self, outputs, least, target_sizes):
            asked.append((outputs, least))
            # A box over the lower right quarter, and one of another picture's number.
            return [
                {
                    "scores": torch.tensor([0.25, 0.75]),
                    "labels": torch.tensor([0, number % 2]),
                    "boxes": torch.tensor([[0, 0, 1, 1], [width / 2, height / 2, width, height]]),
                }
                for number, (height, width) in enumerate(target_sizes)
            ]

    def model(pixel_values):
        return len(pixel_values)

    model.config = SimpleNamespace(id2label={0: "cat", 1: "dog"})
    monkeypatch.setattr(boxes, "load_network", lambda *given: asked.append(given[1:]) or model)
    monkeypatch.setattr(boxes, "load_part", lambda *_: Processor())
    predictor = boxes.load("object-detection", Source("m"), Options(threshold=threshold), "cuda:1")
    said = predictor.answer([Image.new("RGB", size) for size in sizes])
    for number, ((width, height), one) in enumerate(zip(sizes, said, strict=True)):
        best, least = one["boxes"]
        corners = {"xmin": width / 2, "ymin": height / 2, "xmax": width, "ymax": height}
        assert best == {"label": ("cat", "dog")[number % 2], "score": 0.75, **corners}
        assert (least["label"], least["xmax"], least["score"]) == ("cat", 1.0, 0.25)
    assert asked == [("AutoModelForObjectDetection", "cuda:1"), sizes, (3, threshold)]


def test_pixels_are_told_in_the_size_of_their_own_picture_whatever_else_is_in_the_batch(monkeypatch):
    sizes = [(6, 4), (3, 9), (2, 2)]

    class Processor:
        def __call__(self, images, return_tensors):
            return BatchFeature({"pixel_values": torch.zeros(len(images), 3, 4, 4)})

        def post_process_semantic_segmentation(self, outputs, target_sizes):
            return [torch.full(size, number) for number, size in enumerate(target_sizes)]

    model = SimpleNamespace(config=SimpleNamespace(id2label={0: "sky", 1: "sea", 2: "sand"}), device="cpu")
    model.dtype = torch.float32
    own = type("Own", (SimpleNamespace,), {"__call__": lambda self, pixel_values: None})(**vars(model))
    monkeypatch.setattr(segments, "load_network", lambda *_: own)
    monkeypatch.setattr(segments, "load_part", lambda *_: Processor())
    said = segments.load("image-segmentation", Source("m"), Options(), "cpu").answer(
        [Image.new("RGB", size) for size in sizes]
    )
    assert [one["numbers"].shape for one in said] == [(4, 6), (9, 3), (2, 2)]
    assert [one["segments"] for one in said] == [[{"label": name, "share": 1.0}] for name in ("sky", "sea", "sand")]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_of_a_batch_each_picture_has_its_own_classes(count, monkeypatch):
    logits = torch.eye(5)[:count] * 3
    model = SimpleNamespace(config=SimpleNamespace(num_labels=5, id2label=dict(enumerate("abcde"))), device="cpu")
    own = type("Own", (SimpleNamespace,), {"__call__": lambda self, **_: SimpleNamespace(logits=logits)})(
        dtype=torch.float32, **vars(model)
    )
    monkeypatch.setattr(classes, "load_network", lambda *_: own)
    monkeypatch.setattr(classes, "_encode_images", lambda source: lambda images: [{"x": torch.zeros(count)}])
    predictor = classes.load("image-classification", Source("m"), Options(top_k=1), "cpu")
    share = np.exp(3) / (np.exp(3) + 4)
    for name, said in zip("abcde", predictor.answer([None] * count), strict=False):
        assert said["classes"] == [{"label": name, "score": pytest.approx(share)}]
        assert predictor.rows(said) == [{"rank": 1, "label": name, "score": pytest.approx(share)}]


@pytest.mark.parametrize("temperature, how", [(0.0, {}), (0.2, {"do_sample": True, "temperature": 0.2})])
@pytest.mark.parametrize("template", [None, "x"])
def test_a_chat_draws_with_the_temperature_it_is_told_and_without_one_takes_the_likeliest(
    temperature, how, template, monkeypatch
):
    asked = []
    tokenizer = SimpleNamespace(chat_template=template)
    tokenizer.apply_chat_template = lambda said, **_: "|".join(part["content"] for part in said)
    monkeypatch.setattr(talk, "find_task", lambda source, task: (source, task))
    monkeypatch.setattr(talk, "load_part", lambda *_: tokenizer)
    monkeypatch.setattr(talk, "load_network", lambda *_: "network")
    monkeypatch.setattr(talk, "continuation", lambda *given, **options: asked.append((given, options)) or " yes ")
    monkeypatch.setattr("sys.stdin", io.StringIO("  one\ntwo"))
    talk.talk(Source("m"), "cpu", 7, temperature, 3)
    between = "| yes |" if template else " yes \n"
    prompts = ["  one", f"  one{between}two"]
    assert asked == [(("network", tokenizer, text, 7), how | {"add_special_tokens": not template}) for text in prompts]
