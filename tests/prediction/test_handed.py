"""What a task hands to a network, where a picture goes, and what somebody at the terminal sees of it."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BatchFeature

from hf_effmodels import edge_masks
from hf_effmodels.cli import main
from hf_effmodels.prediction import command, predictor, run
from hf_effmodels.prediction.drawing import draw_boxes, draw_masks
from hf_effmodels.prediction.forms import place_of
from hf_effmodels.prediction.inputs import Input, Numbered
from hf_effmodels.prediction.predictor import Options, Predictor, Source
from hf_effmodels.prediction.processes import Processes
from hf_effmodels.prediction.tasks import boxes, classes, enlarged, masks, named, segments

HOW = {"save": None, "output": None, "json": True, "csv": False, "batch_size": 2}


class Network:
    """Remembers what it is given, and computes nothing."""

    config = SimpleNamespace(
        id2label={0: "cat"}, num_labels=1, text_config=SimpleNamespace(max_position_embeddings=9), num_channels=3
    )
    logit_scale = 1.0

    def __init__(self, dtype, device="meta"):
        self.dtype, self.device, self.given = dtype, torch.device(device), {}

    def __call__(self, **given):
        self.given |= given
        return SimpleNamespace(logits=torch.zeros(1, 1, dtype=self.dtype))

    def get_image_features(self, **given):
        self(**given)
        return SimpleNamespace(pooler_output=torch.ones(1, 2, dtype=self.dtype))

    def get_text_features(self, **given):
        self.given |= given
        return SimpleNamespace(pooler_output=torch.ones(1, 2, dtype=self.dtype))


class Processor:
    def __call__(self, images, return_tensors):
        return BatchFeature({"pixel_values": torch.zeros(1, 3, 4, 4), "pixel_mask": torch.ones(1, 4, 4).long()})

    def post_process_object_detection(self, outputs, threshold, sizes):
        return [{"scores": torch.ones(1), "labels": torch.zeros(1).long(), "boxes": torch.zeros(1, 4)}]

    def post_process_semantic_segmentation(self, outputs, target_sizes):
        return [torch.zeros(2, 2).long()]

    @property
    def image_processor(self):
        return self

    def tokenizer(self, texts, **_):
        return BatchFeature({"input_ids": torch.ones(1, 2).long()})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("module", [boxes, segments, named], ids=["boxes", "segments", "named"])
def test_pictures_come_where_the_network_is_and_in_its_precision_and_counts_stay_counts(module, dtype, monkeypatch):
    network = Network(dtype)
    monkeypatch.setattr(module, "load_network", lambda *_: network)
    monkeypatch.setattr(module, "load_part", lambda *_: Processor())
    task = {boxes: "object-detection", segments: "image-segmentation", named: "zero-shot-image-classification"}
    options = Options(labels=("cat",))
    (said,) = module.load(task[module], Source("m"), options, "cpu").answer([Image.new("RGB", (2, 2))])
    assert said and (network.given["pixel_values"].dtype, network.given["pixel_values"].device.type) == (dtype, "meta")
    for name in {"pixel_mask", "input_ids"} & network.given.keys():
        assert (network.given[name].dtype, network.given[name].device.type) == (torch.int64, "meta")


def test_shares_are_computed_in_full_precision_whatever_the_networks_is(monkeypatch):
    """In bfloat16 the third would be 0.0002 beside it."""
    network = Network(torch.bfloat16, "cpu")
    network.config = SimpleNamespace(num_labels=3, id2label=dict(enumerate("abc")))
    logits = torch.tensor([[1.0, 2.0, -3.0]])
    monkeypatch.setattr(classes, "load_network", lambda *_: network)
    monkeypatch.setattr(classes, "_encode_images", lambda _: lambda images: [{"x": torch.zeros(1)}])
    monkeypatch.setattr(Network, "__call__", lambda self, **_: SimpleNamespace(logits=logits.bfloat16()))
    (said,) = classes.load("image-classification", Source("m"), Options(), "cpu").answer([None])
    shares = np.exp([2.0, 1.0, -3.0]) / np.exp([2.0, 1.0, -3.0]).sum()
    assert [one["score"] for one in said["classes"]] == pytest.approx(shares.tolist(), rel=1e-5)
    # Names: of vectors in half precision the angle, too.
    half, up = Network(torch.bfloat16, "cpu"), torch.tensor([[3.0, 4.0]]).bfloat16()
    half.get_image_features = lambda **_: SimpleNamespace(pooler_output=up)
    half.get_text_features = lambda **_: SimpleNamespace(pooler_output=torch.tensor([[4.0, 3.0], [1, 0]]).bfloat16())
    monkeypatch.setattr(named, "load_network", lambda *_: half)
    monkeypatch.setattr(named, "load_part", lambda *_: Processor())
    options = Options(labels=("a", "b"))
    (said,) = named.load("zero-shot-image-classification", Source("m"), options, "cpu").answer([None])
    shares = np.exp([0.96, 0.6]) / np.exp([0.96, 0.6]).sum()
    assert [one["score"] for one in said["classes"]] == pytest.approx(shares.tolist(), rel=1e-5)


@pytest.mark.parametrize("exported", [True, False])
def test_masks_are_of_the_program_where_the_folder_has_one_and_else_of_the_network(exported, monkeypatch):
    made = []
    monkeypatch.setattr(edge_masks, "is_exported_promptable", lambda name: name == "m" and exported)
    monkeypatch.setattr(edge_masks, "load_promptable", lambda name: f"program {name}")
    network, asked = SimpleNamespace(config=SimpleNamespace(model_type="sam2")), []
    monkeypatch.setattr(masks, "load_network", lambda source, *how: asked.append((source.name, *how)) or network)
    monkeypatch.setattr(masks, "load_part", lambda *_: SimpleNamespace(image_processor="processor"))
    monkeypatch.setattr("transformers.pipeline", lambda task, **how: made.append(how))
    masks.load("mask-generation", Source("m"), Options(), "mps")
    assert asked == ([] if exported else [("m", "AutoModelForMaskGeneration", "mps")])
    assert made == [{"model": "program m" if exported else network, "image_processor": "processor"}]


def test_what_was_found_is_drawn_on_its_own_picture_also_behind_one_that_cannot_be_read(tmp_path):
    drawn = []
    colours = [10, None, 30, 40, 50]
    pictures = [None if c is None else Image.new("RGB", (2, 2), (c, c, c)) for c in colours]
    rows = Numbered(5, lambda n: Input(str(n), pictures[n], f"p{n}"), lambda n: f"p{n}", dict)

    def answer(images):
        return [{"of": image.getpixel((0, 0))[0]} for image in images]

    def draw(image, said):
        drawn.append((image.getpixel((0, 0))[0], said["of"]))
        return image

    how = SimpleNamespace(**{**HOW, "save": str(tmp_path), "batch_size": 3})
    assert run.predict(Predictor("x", "image", answer, str, list, draw), Options(), rows, how, Processes()) == 1
    assert drawn == [(colour, colour) for colour in (10, 30, 40, 50)]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["p0.png", "p2.png", "p3.png", "p4.png"]


def test_a_link_that_leads_nowhere_is_somebodys_and_nothing_is_written_through_it(tmp_path, capsys, monkeypatch):
    (tmp_path / "a.png").symlink_to(tmp_path / "elsewhere.png")
    with pytest.raises(FileExistsError, match="--save: .*a.png is there already, and not of an earlier call"):
        place_of(Input("b", "b.png", "a"), str(tmp_path))
    (tmp_path / "found.csv").symlink_to(tmp_path / "elsewhere.csv")
    monkeypatch.setattr(command, "task_early", lambda *_: pytest.fail("a model is looked at"))
    assert main(["predict", "m", "photo.jpg", "--output", str(tmp_path / "found.csv")]) == 2
    assert "found.csv is there already; name another file" in capsys.readouterr().err
    assert not (tmp_path / "elsewhere.csv").exists()


@pytest.mark.parametrize("of_rows", [True, False])
@pytest.mark.parametrize("screen", [True, False])
def test_a_bar_is_not_shown_on_the_screen_that_the_answers_are_on_and_knows_how_many_rows_there_are(
    screen, of_rows, monkeypatch, tmp_path
):
    asked = []
    monkeypatch.setattr(sys.stdout, "isatty", lambda: screen, raising=False)
    monkeypatch.setattr(run, "_answers", lambda *given: asked.append(given[3:]) or [(1, {})])
    rows = Numbered(7, lambda n: Input(str(n), "a"), str, dict) if of_rows else None
    how = SimpleNamespace(**HOW, inputs=["text"])
    run.predict(Predictor("x", "text", len, str, list), Options(), rows, how, Processes())
    assert asked == [(screen, 7 if of_rows else None)]


def test_texts_come_to_a_model_with_the_spaces_around_them(capsys):
    seen = []
    texts = ["  two", "one ", "\ttab"]
    rows = Numbered(3, lambda n: Input(str(n), texts[n]), str, dict)
    network = Predictor("x", "text", lambda given: seen.extend(given) or [{} for _ in given], str, list)
    run.predict(network, Options(), rows, SimpleNamespace(**HOW), Processes())
    assert seen == texts


@pytest.mark.parametrize("argv", [["--dataset=digits"], ["--dataset", "digits"]])
@pytest.mark.parametrize("before", [True, False])
def test_a_data_set_stands_for_inputs_however_its_option_is_written(argv, before, monkeypatch, capsys):
    asked = []

    def early(source, task):
        asked.append(source.name)
        raise ValueError("it is enough")

    monkeypatch.setattr(command, "task_early", early)
    assert main(["predict", *(argv if before else []), "m", *([] if before else argv)]) == 2
    assert asked == ["m"] and "it is enough" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["dataset_config", "dataset_revision", "data_files", "data_dir", "batch_size"])
def test_what_is_wrong_with_an_option_is_told_by_its_name_with_hyphens(name, monkeypatch, capsys):
    def early(*_):
        raise ValueError(f"{name}: got 'x'")

    monkeypatch.setattr(command, "task_early", early)
    assert main(["predict", "m", "--dataset", "digits"]) == 2
    assert f"--{name.replace('_', '-')}: got 'x'" in capsys.readouterr().err


@pytest.mark.parametrize("column, takes", [("image_column", "image"), ("text_column", "text")])
def test_a_column_that_is_not_there_is_told_by_the_option(column, takes, monkeypatch, capsys):
    def load_rows(arguments, asked):
        assert asked == takes
        raise ValueError(f"{column}: there is no 'x'")

    task = {"image": "image-classification", "text": "text-classification"}[takes]
    monkeypatch.setattr(command, "task_early", lambda *_: None)
    monkeypatch.setattr(command, "find_task", lambda source, _: (source, task))
    monkeypatch.setattr("hf_effmodels.prediction.rows.load_rows", load_rows)
    monkeypatch.setattr(command, "load_for_task", lambda *_: pytest.fail("a model is loaded"))
    assert main(["predict", "m", "--dataset", "digits", "--column", "x"]) == 2
    assert "--column: there is no 'x'" in capsys.readouterr().err


def test_inputs_behind_a_data_set_are_told_to_be_one_too_many(capsys):
    assert main(["predict", "m", "--dataset", "digits", "photo.png"]) == 2
    assert "INPUT: got 'photo.png', which does not go with --dataset digits." in capsys.readouterr().err


def test_only_tasks_with_pictures_take_a_folder_for_them():
    """Those whose module draws or enlarges."""
    folder = Path(predictor.__file__).with_name("tasks")
    makes = {
        task
        for task, module in predictor.MODULES.items()
        if re.search(r"def draw\(|\"picture\"", (folder / f"{module}.py").read_text())
    }
    assert makes == {*predictor.DRAWN}
    for task in predictor.MODULES:
        predictor.check_drawn(task, None)
        if task in makes:
            predictor.check_drawn(task, "drawn")
        else:
            with pytest.raises(ValueError, match=f"^save: got 'drawn', but {task} has nothing to draw.$"):
                predictor.check_drawn(task, "drawn")


@pytest.mark.parametrize(
    "argv, said",
    [
        (["--device", "tpu9"], "--device: got 'tpu9'"),
        (["--task", "x"], "unknown argument '--task'"),
        ([], "MODEL: m is for image-classification, not for text-generation"),
    ],
)
def test_a_talk_that_cannot_be_is_refused_before_anything_is_loaded(argv, said, monkeypatch, capsys):
    own = ["image-classification"] if not argv else ["text-generation"]
    monkeypatch.setattr(predictor, "check_model", lambda *_, **__: None)
    monkeypatch.setattr(predictor, "tasks_in_source", lambda name: own)
    monkeypatch.setattr("hf_effmodels.prediction.talk.talk", lambda *_: pytest.fail("it talks"))
    assert main(["chat", "m", *argv]) == 2
    assert said in capsys.readouterr().err


def test_a_talk_is_with_the_model_of_that_revision_token_and_trust(monkeypatch):
    asked = []
    monkeypatch.setattr(command, "task_early", lambda *given: asked.append(given))
    monkeypatch.setattr("hf_effmodels.prediction.talk.talk", lambda *given: asked.append(given))
    assert main(["chat", "a/b", "--revision", "v2", "--token", "mine", "--trust-remote-code"]) == 0
    source = Source("a/b", "v2", "mine", True)
    assert asked == [(source, "text-generation"), (source, None, 128, 0.0, 0)]


@pytest.mark.parametrize("options, asked", [(None, Options()), (Options(top_k=2), Options(top_k=2))])
def test_a_predictor_is_loaded_with_what_it_is_told(options, asked, monkeypatch):
    seen = []
    monkeypatch.setattr(predictor, "find_task", lambda source, task: (Source(source), task or "text-classification"))
    monkeypatch.setattr(predictor, "load_for_task", lambda *given: seen.append(given))
    predictor.load_predictor("m", task="image-classification", options=options, device="cuda:3")
    predictor.load_predictor("m", options=options)
    assert seen == [
        (Source("m"), "image-classification", asked, "cuda:3"),
        (Source("m"), "text-classification", asked, None),
    ]


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "RGB"])
def test_pictures_of_any_mode_are_drawn_on_in_colour_and_stay_as_they_were(mode):
    picture = Image.new("L", (60, 60), 90).convert(mode)
    before = picture.tobytes()
    mask = np.zeros((60, 60), dtype=bool)
    mask[40:] = True
    for drawn in (draw_boxes(picture, [(5, 30, 50, 50)], ["x"], [0.5]), draw_masks(picture, [mask])):
        assert drawn.mode == "RGB" and drawn.getpixel((58, 2)) == (90, 90, 90)
        assert len(set(drawn.getpixel((20, 50)))) > 1, "a colour"
    assert (picture.mode, picture.tobytes()) == (mode, before)


def test_noise_is_drawn_where_the_pipeline_is_and_weights_that_lack_are_told(monkeypatch):
    asked = []

    class Pipe:
        components = {"unet": "u", "encoder": "e"}

        @staticmethod
        def from_pretrained(name, **_):
            return Pipe()

        @staticmethod
        def load_config(name, **_):
            return {"_class_name": "Theirs"}

        def to(self, device):
            return self

        def set_progress_bar_config(self, disable):
            pass

        def __call__(self, image, num_inference_steps, generator):
            asked.append((num_inference_steps, generator))
            return SimpleNamespace(images=[image])

    class Generator:
        def __init__(self, device="cpu"):
            self.device = device

        def manual_seed(self, seed):
            return self.device, seed

    monkeypatch.setattr("diffusers.DiffusionPipeline", Pipe)
    monkeypatch.setattr(enlarged, "check_filled", lambda *given: asked.append(given))
    monkeypatch.setattr(torch, "Generator", Generator)
    network = enlarged.load("super-resolution", Source("a/b"), Options(), "cuda:1")
    network.answer([Image.new("RGB", (2, 2))])
    assert asked == [("MODEL", "a/b", "u", "e"), (None, ("cuda:1", 0))]
