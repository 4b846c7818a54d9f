"""What the apps compute, without gradio: in its place stands what only remembers what is laid out."""

import importlib.util
import json
import statistics
import sys
import types
from contextlib import nullcontext
from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers import BatchFeature

from hf_effmodels import pipelines
from hf_effmodels.demo import APP_TASKS, command
from hf_effmodels.prediction.predictor import MODULES


class Laid:
    """Any part of a page."""

    def __init__(self, *given, **options):
        self.given, self.options = given, options

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return False


class Gradio(types.ModuleType):
    def __init__(self):
        super().__init__("gradio")
        self.made, self.asked = [], {}

        def event(part, fn=None, inputs=None, outputs=None, api_name=None, api_visibility="public"):
            self.asked[api_name or fn] = SimpleNamespace(fn=fn, inputs=inputs, outputs=outputs, shown=api_visibility)
            return part

        self.events = dict.fromkeys(("click", "select", "change", "then"), event)

        class Error(Exception):
            def __init__(self, message, print_exception=True):
                super().__init__(message)
                assert not print_exception, "a traceback of what a user did"

        self.Error = Error

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)

        def make(part, *given, **options):
            Laid.__init__(part, *given, **options)
            self.made.append((name, part))

        setattr(self, name, type(name, (Laid,), {"__init__": make, **self.events}))
        return getattr(self, name)

    def all(self, name):
        return [part for kind, part in self.made if kind == name]


@pytest.fixture
def gradio(monkeypatch):
    stand_in = Gradio()
    monkeypatch.setitem(sys.modules, "gradio", stand_in)
    return stand_in


@pytest.fixture
def app(gradio):
    spec = importlib.util.spec_from_file_location("app_without_gradio", command.__file__.replace("command", "app"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def laid_out(app, gradio):
    """Lays out the app of a task over parts of a model; gives its function by name."""

    def lay(task, network, other=None, examples=None, **more):
        parts = SimpleNamespace(network=lambda auto: network, other=lambda auto: other, device="cpu", **more)
        app.APPS[task](parts, examples)
        return gradio.asked

    return lay


def network(answer, dtype=torch.float32, **config):
    """One that answers so, and remembers what it was given."""

    def call(**given):
        call.given.append(given)
        return answer(**given) if callable(answer) else answer

    call.given, call.dtype, call.device = [], dtype, torch.device("cpu")
    call.config = SimpleNamespace(**config)
    return call


def encoded(**values):
    return lambda *_, **__: BatchFeature(values)


@pytest.fixture
def picture(tmp_path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    return str(tmp_path / "a.png")


def test_an_app_has_the_model_its_place_its_name_and_its_examples(app, gradio, monkeypatch, tmp_path):
    laid = []
    monkeypatch.setitem(app.APPS, "text-generation", lambda *given: laid.append(given))
    options = {"revision": "v2", "token": "mine", "trust_remote_code": True}
    app.build("you/net/", "text-generation", **options, device="mps", title="Net", examples=[tmp_path / "a.png"])
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    app.build("you/net/", "text-generation", examples=[])
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    app.build(tmp_path, "text-generation")
    places = [(parts.model, parts.options, parts.device, examples) for parts, examples in laid]
    plain = {"revision": None, "token": None, "trust_remote_code": False}
    assert places == [
        ("you/net/", options, "mps", [str(tmp_path / "a.png")]),
        ("you/net/", plain, "cpu", None),
        (str(tmp_path), plain, "cuda", None),
    ]
    blocks = [part.options for part in gradio.all("Blocks")]
    assert [one["title"] for one in blocks] == ["Net", "net", tmp_path.name]
    assert all(one["analytics_enabled"] is False and one["delete_cache"] == (600, 3600) for one in blocks)
    assert gradio.all("Markdown")[1].given == ("# net\ntext generation",)
    with pytest.raises(ValueError, match="^task: got 'sing', accepted are image-classification, "):
        app.build("net", "sing")


def test_a_space_is_made_for_the_tasks_that_there_is_an_app_for_and_no_others(app):
    assert APP_TASKS == tuple(app.APPS) and {*APP_TASKS} <= MODULES.keys()


def test_one_answer_is_computed_at_a_time_and_nothing_is_shared_unless_asked_for(app):
    asked = []
    blocks = SimpleNamespace(queue=lambda **how: asked.append(how) or blocks, launch=lambda **how: asked.append(how))
    app.launch(blocks)
    app.launch(blocks, share=True, quiet=True)
    queue, plain = {"default_concurrency_limit": 1, "max_size": 32}, {"ssr_mode": False, "max_file_size": "20mb"}
    assert asked == [queue, plain | {"share": False}, queue, plain | {"share": True, "quiet": True}]


def test_parts_are_read_as_the_model_was_named_and_the_network_in_its_precision(app, monkeypatch):
    asked = []

    class Auto:
        @staticmethod
        def from_pretrained(name, **how):
            asked.append((name, how))
            return Auto()

        def to(self, device):
            asked.append(device)
            return self

        def eval(self):
            asked.append("eval")
            return self

    monkeypatch.setattr(transformers, "AutoModelForCausalLM", Auto)
    monkeypatch.setattr(transformers, "AutoTokenizer", Auto)
    parts = app._Parts("you/net", {"revision": "v2", "token": None}, "cuda:1")
    assert isinstance(parts.network("AutoModelForCausalLM"), Auto) and isinstance(parts.other("AutoTokenizer"), Auto)
    how = {"revision": "v2", "token": None}
    assert asked == [("you/net", how | {"dtype": "auto"}), "cuda:1", "eval", ("you/net", how)]


@pytest.mark.parametrize("template", [None, "x"])
@pytest.mark.parametrize("fills, end, filler", [(0, 3, 0), (7, 3, 7), (None, 3, 3)])
@pytest.mark.parametrize("temperature", [0, 0.7])
def test_a_text_goes_on_with_one_beginning_and_as_it_is_told(laid_out, template, fills, end, filler, temperature):
    """What a chat template has made has its special tokens already."""
    given = []

    class Tokenizer:
        pad_token_id, eos_token_id, chat_template = fills, end, template

        def __call__(self, text, **how):
            given.append((text, how))
            return BatchFeature({"input_ids": torch.tensor([[1, 2, 3]])})

        def apply_chat_template(self, said, **how):
            given.append((said, how))
            return "[asked]"

        def decode(self, tokens, skip_special_tokens):
            return f"{tokens.tolist()} {skip_special_tokens}"

    net = network(None)
    net.generate = lambda **how: given.append(how) or torch.tensor([[1, 2, 3, 8, 9]])
    generate = laid_out("text-generation", net, Tokenizer())["generate"].fn
    answer, told = generate("  a cat", 5.0, temperature)
    assert answer == "[8, 9] True" and told.startswith("2 tokens, ") and told.endswith(" a second")
    how = {"return_tensors": "pt", "return_token_type_ids": False}
    if template:
        said = given.pop(0)
        assert said == ([{"role": "user", "content": "  a cat"}], {"tokenize": False, "add_generation_prompt": True})
        assert given[0] == ("[asked]", how | {"add_special_tokens": False})
    else:
        assert given[0] == ("  a cat", how)
    drawn = {"do_sample": True, "temperature": 0.7} if temperature else {"do_sample": False}
    assert given[1].pop("input_ids").tolist() == [[1, 2, 3]]
    assert given[1] == {"max_new_tokens": 5, "pad_token_id": filler, **drawn}


def test_a_text_that_is_empty_or_has_no_tokens_is_said(laid_out, gradio):
    tokenizer = SimpleNamespace(chat_template=None)
    own = type("Tokenizer", (SimpleNamespace,), {"__call__": encoded(input_ids=torch.zeros(1, 0))})(**vars(tokenizer))
    generate = laid_out("text-generation", network(None), own)["generate"].fn
    for text in (None, "", " \n"):
        with pytest.raises(gradio.Error, match="^The text is empty.$"):
            generate(text, 5, 0)
    with pytest.raises(gradio.Error, match="^This model has no tokens for the text.$"):
        generate("a", 5, 0)


LOGITS = torch.tensor([0.5, -1.0, 2.0, 0.25, -3.0, 1.0])
NAMES = dict(enumerate(["crane", "dog", "crane", "owl", "cat", "bee"]))


def softmax(values):
    return np.exp(values) / np.exp(values).sum()


#: The five likeliest of six.
LIKELIEST = {"crane (2)": 2, "bee": 5, "crane (0)": 0, "owl": 3, "dog": 1}


@pytest.mark.parametrize(
    "config, scores",
    [
        ({}, softmax(LOGITS.numpy())),
        ({"problem_type": "multi_label_classification"}, 1 / (1 + np.exp(-LOGITS.numpy()))),
    ],
    ids=["one", "several"],
)
@pytest.mark.parametrize("task", ["image-classification", "text-classification"])
def test_the_five_likeliest_classes_are_told_and_two_of_one_name_apart(task, config, scores, laid_out, picture):
    net = network(SimpleNamespace(logits=LOGITS[None].double()), num_labels=6, id2label=NAMES, **config)
    asked = laid_out(task, net, encoded(input_ids=torch.ones(1, 2).long()))
    said, told = asked["classify"].fn(picture if task == "image-classification" else "a text")
    expected = {name: scores[number] for name, number in LIKELIEST.items()}
    assert list(said) == list(expected) and said == pytest.approx(expected, rel=1e-5)
    assert told.endswith(" ms (the network alone, median of 3)") and len(net.given) == 4, "one before it is timed"


def test_of_one_label_its_probability_is_told_and_of_a_regression_its_numbers(app):
    for logits, config, expected in (
        ([0.5], {"num_labels": 1, "id2label": {0: "yes"}}, {"yes": pytest.approx(1 / (1 + np.exp(-0.5)))}),
        ([1234.5], {"num_labels": 1, "id2label": {0: "stars"}, "problem_type": "regression"}, "stars 1234.5"),
        (
            [-0.25, 2.0],
            {"num_labels": 2, "id2label": {0: "x", 1: "y"}, "problem_type": "regression"},
            "x -0.25  y 2",
        ),
    ):
        assert app._probabilities(torch.tensor(logits), network(None, **config)) == expected


@pytest.mark.parametrize("limit, cut", [(7, {"truncation": True, "max_length": 7}), (None, {})])
def test_texts_are_cut_to_what_the_model_has_places_for(limit, cut, laid_out):
    given = []
    net = network(SimpleNamespace(logits=LOGITS[None]), num_labels=6, id2label=NAMES, max_position_embeddings=limit)

    def tokenizer(text, **how):
        given.append((text, how))
        return BatchFeature({"input_ids": torch.ones(1, 2).long()})

    laid_out("text-classification", net, tokenizer)["classify"].fn("a text")
    assert given == [("a text", {"padding": False, "return_tensors": "pt", **cut})]


@pytest.mark.parametrize(
    "config, channels",
    [
        ({"num_channels": 1, "backbone_config": SimpleNamespace(num_channels=4)}, 1),
        ({"backbone_config": SimpleNamespace(num_channels=4), "vision_config": SimpleNamespace(num_channels=1)}, 4),
        ({"backbone_config": None, "vision_config": SimpleNamespace(num_channels=1)}, 1),
        ({"backbone_config": SimpleNamespace()}, 3),
        ({}, 3),
    ],
)
def test_pictures_are_read_in_the_channels_that_the_network_or_a_part_of_it_has(config, channels, app, picture):
    assert app._channels(network(None, **config)) == channels
    assert len(app._read(picture, channels).getbands()) == channels


@pytest.mark.parametrize("config, own, shown", [
    ({"num_channels": 1}, None, ["digit-3.png", "digit-7.png"]),
    ({"num_channels": 3}, None, ["cat.jpg", "coffee.jpg"]),
    ({"num_channels": 1}, ["mine.png"], ["mine.png"]),
])  # fmt: skip
def test_pictures_to_try_are_those_that_are_given_and_else_of_the_networks_kind(
    config, own, shown, app, gradio, laid_out
):
    laid_out("image-classification", network(None, **config), None, own)
    (examples,) = gradio.all("Examples")
    files = [file for (file,) in examples.given[0]]
    assert files == (own or [str(app.EXAMPLES / name) for name in shown])
    assert own or all((app.EXAMPLES / name).is_file() for name in shown)


def test_a_network_with_branches_is_shown_beside_a_folded_copy_and_a_folded_one_alone(app):
    class Net:
        def __init__(self, done):
            self.config, self.calls = SimpleNamespace(reparameterized=done), []

        def reparameterize(self):
            self.calls.append("folded")

    net, done, plain = Net(False), Net(True), network(None)
    twins = app._twins(net)
    assert list(twins) == ["as trained", "folded"] and twins["as trained"] is net and twins["folded"] is not net
    assert net.calls == [] and twins["folded"].calls == ["folded"]
    assert app._twins(done) == {"": done} and app._twins(plain) == {"": plain} and not done.calls


def test_times_are_the_median_of_those_after_the_first(app, monkeypatch):
    clock, called = iter([0.0, 1.0, 10.0, 10.5, 20.0, 27.0]), []
    monkeypatch.setattr(app.time, "perf_counter", lambda: next(clock))
    result, ms = app._timed(lambda: called.append(1) or len(called))
    assert (result, len(called)) == (1, 4) and ms == statistics.median([1000, 500, 7000])
    assert app._milliseconds({"as trained": 2.0, "folded": 1.26}) == (
        "as trained 2.0 ms · folded 1.3 ms (the network alone, median of 3)"
    )
    assert app._milliseconds({"": 2.0}).startswith("2.0 ms (")


@pytest.mark.parametrize("channels", [1, 3])
def test_boxes_are_drawn_within_the_picture_the_surest_first(channels, laid_out, picture):
    asked = []

    class Processor:
        def __call__(self, images, return_tensors):
            asked.append([image.mode for image in images])
            return BatchFeature({"pixel_values": torch.zeros(1, channels, 4, 4)})

        def post_process_object_detection(self, outputs, threshold, sizes):
            asked.append((outputs, threshold, sizes))
            boxes = [[-3.0, 4.4, 70.0, 41.0], [2.6, 3.5, 10.4, 20.0]]
            return [
                {"scores": torch.tensor([0.25, 0.876]), "labels": torch.tensor([1, 0]), "boxes": torch.tensor(boxes)}
            ]

    net = network("outputs", torch.bfloat16, id2label={0: "cat", 1: "dog"}, num_channels=channels)
    (drawn, boxes), told = laid_out("object-detection", net, Processor())["detect"].fn(picture, 1)
    assert asked == [["L" if channels == 1 else "RGB"], ("outputs", 1.0, [(40, 60)])]
    assert boxes == [((3, 4, 10, 20), "cat 88 %"), ((0, 4, 60, 40), "dog 25 %")] and drawn.mode == "RGB"
    assert told.startswith("2 boxes · ") and net.given[0]["pixel_values"].dtype == torch.bfloat16


def test_of_a_folded_detector_the_boxes_are_those_of_the_copy(laid_out, picture):
    class Net:
        dtype, device = torch.float32, torch.device("cpu")

        def __init__(self):
            self.config, self.answer = SimpleNamespace(id2label={}, num_channels=3), "as trained"

        def __call__(self, **_):
            return self.answer

        def reparameterize(self):
            self.answer = "folded"

    seen = []

    class Processor:
        __call__ = encoded(pixel_values=torch.zeros(1, 3, 4, 4))

        def post_process_object_detection(self, outputs, *_):
            seen.append(outputs)
            return [{"scores": torch.zeros(0), "labels": torch.zeros(0), "boxes": torch.zeros(0, 4)}]

    (_, boxes), told = laid_out("object-detection", Net(), Processor())["detect"].fn(picture, 0.5)
    assert seen == ["folded"] and boxes == [] and told.startswith("no boxes · as trained ") and "folded" in told


def test_every_pixel_has_its_class_the_largest_first_and_two_of_one_name_apart(laid_out, picture):
    numbers = torch.tensor([[2, 2, 1], [0, 2, 1], [9, 1, 2]])

    class Processor:
        __call__ = encoded(pixel_values=torch.zeros(1, 3, 4, 4))

        def post_process_semantic_segmentation(self, outputs, target_sizes):
            assert (outputs, target_sizes) == ("outputs", [(40, 60)])
            return [numbers]

    net = network("outputs", torch.float64, id2label={0: "sky", 1: "sea", 2: "sea"})
    (_, masks), told = laid_out("image-segmentation", net, Processor())["segment"].fn(picture)
    assert [name for _, name in masks] == ["sea (2)", "sea (1)", "sky", "9"]
    for (mask, _), number in zip(masks, (2, 1, 0, 9), strict=True):
        assert mask.dtype == np.float32 and np.array_equal(mask, (numbers == number).float().numpy())
    assert net.given[0]["pixel_values"].dtype == torch.float64 and "median of 3" in told


class Promptable:
    """Sees a picture of 60 × 40 as 30 × 20 pixels of a square of 32, or stretched to it."""

    def __init__(self, keeps_sides):
        self.keeps_sides, self.encoded, self.asked = keeps_sides, [], []
        self.network = network(self.answer, torch.float64)
        self.network.get_image_embeddings = lambda pixels: self.encoded.append(pixels.dtype) or "embeddings"

        def post_process(masks, original_sizes, reshaped_input_sizes):
            self.asked.append((original_sizes, reshaped_input_sizes))
            return masks

        def post_process_plain(masks, original_sizes):
            self.asked.append(original_sizes)
            return masks

        self.post_process_masks = post_process if keeps_sides else post_process_plain

    def __call__(self, image, return_tensors):
        kept = {"reshaped_input_sizes": torch.tensor([[20, 30]])} if self.keeps_sides else {}
        return BatchFeature({"pixel_values": torch.zeros(1, 3, 32, 32), **kept})

    def answer(self, **prompts):
        masks = torch.zeros(1, 1, 3, 4, 5)
        masks[0, 0, 1, :2] = 1
        return SimpleNamespace(pred_masks=masks, iou_scores=torch.tensor([[[0.5, 0.75, 0.25]]]))


@pytest.mark.parametrize("keeps_sides", [True, False])
def test_clicks_cut_out_the_best_mask_at_their_places_and_a_picture_is_encoded_once(
    keeps_sides, laid_out, picture, gradio, tmp_path
):
    model = Promptable(keeps_sides)
    asked = laid_out("mask-generation", model.network, model)
    cut_out = asked["cut_out"].fn
    (_, masks), told, known = cut_out(picture, [], None)
    assert masks == [] and told == "Click on what is to be cut out." and model.encoded == [torch.float64]
    ((_, [(mask, name)]), told, known) = cut_out(picture, [[60, 40], [6, 10]], known)
    assert np.array_equal(mask, np.repeat([[1.0], [1.0], [0.0], [0.0]], 5, 1)) and name == "cut out"
    assert told.startswith("2 points, 10 pixels, expected overlap 0.75, ") and len(model.encoded) == 1
    given = model.network.given[0]
    points = [[[[30.0, 20.0], [3.0, 5.0]]]] if keeps_sides else [[[[32.0, 32.0], [3.2, 8.0]]]]
    torch.testing.assert_close(given["input_points"], torch.tensor(points))
    assert given["input_labels"].tolist() == [[[1, 1]]] and given["image_embeddings"] == "embeddings"
    assert model.asked == [([[40, 60]], [[20, 30]])] if keeps_sides else [[[40, 60]]]
    assert cut_out(picture, [[1, 1]], known)[1].startswith("1 point, ")
    Image.new("RGB", (9, 9)).save(tmp_path / "other.png")
    assert cut_out(str(tmp_path / "other.png"), None, known)[2]["file"] == str(tmp_path / "other.png")
    assert len(model.encoded) == 2, "another picture"
    for points in ([[61, 0]], [[0, 41]], [[-1, 0]]):
        with pytest.raises(gradio.Error, match="^points: accepted are x to 60 and y to 40.$"):
            cut_out(picture, points, known)
    for points in ([[1, 2, 3]], "x", [["a", "b"]]):
        with pytest.raises(gradio.Error, match=r"^points: got .*, accepted are \[\[x, y\], ...\] in pixels.$"):
            cut_out(picture, points, known)


def test_a_click_is_added_to_those_before_and_another_picture_has_none(laid_out, gradio):
    model = Promptable(True)
    asked = laid_out("mask-generation", model.network, model)
    functions = {fn.__name__: fn for fn in asked if callable(fn) and fn.__name__ == "click"}
    assert functions["click"]([[1, 2]], SimpleNamespace(index=(3.0, 4.9))) == [[1, 2], [3, 4]]
    assert functions["click"](None, SimpleNamespace(index=(3, 4))) == [[3, 4]]
    assert [fn() for fn in asked if callable(fn) and fn.__name__ == "<lambda>"] == [[], ([], None)]
    assert all(one.shown == "private" for name, one in asked.items() if name != "cut_out")


def test_no_picture_and_a_broken_one_are_said(app, gradio, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    with pytest.raises(gradio.Error, match="^Choose a picture first.$"):
        app._read(None)
    with pytest.raises(gradio.Error, match="^This picture cannot be read: "):
        app._read(str(tmp_path / "broken.png"))


@pytest.mark.parametrize(
    "named, code", [("Ours", {}), (["pipeline_ours", "Ours"], {}), ("Theirs", {"trust_remote_code": True})]
)
def test_a_picture_is_reduced_to_the_side_and_enlarged_beside_the_bicubic_one(
    named, code, laid_out, picture, gradio, monkeypatch
):
    seen = {}

    class Pipe:
        scheduler = SimpleNamespace(config=SimpleNamespace(num_train_timesteps=7))

        @staticmethod
        def load_config(name, **how):
            seen["index"] = name, how
            return {"_class_name": named}

        @staticmethod
        def from_pretrained(name, **how):
            seen["loaded"] = name, how
            return Pipe()

        def to(self, device):
            seen["device"] = device
            return self

        def set_progress_bar_config(self, disable):
            seen["silent"] = disable

        def __call__(self, image, num_inference_steps, generator):
            seen["asked"] = image.size, num_inference_steps, generator.initial_seed()
            return SimpleNamespace(images=[Image.new("RGB", (image.width * 4, image.height * 4))])

    monkeypatch.setattr(diffusers, "DiffusionPipeline", Pipe)
    monkeypatch.setattr(pipelines, "Ours", Pipe, raising=False)
    place = {"revision": "v2", "token": "mine"}
    asked = laid_out("super-resolution", None, model="you/net", options={**place, "trust_remote_code": True})
    assert seen["index"] == ("you/net", place) and seen["loaded"] == ("you/net", place | code)
    assert (seen["device"], seen["silent"]) == ("cpu", True)
    (before, after), told = asked["enlarge"].fn(picture, 3.0, 30.0)
    assert seen["asked"] == ((30, 20), 3, 0) and before.size == after.size == (120, 80)
    small = Image.open(picture).convert("RGB")
    small.thumbnail((30, 30))
    assert np.array_equal(np.asarray(before), np.asarray(small.resize((120, 80), Image.Resampling.BICUBIC)))
    assert told.startswith("30 x 20 to 120 x 80 pixels in ")
    steps, side = gradio.all("Slider")
    assert steps.given == (1, 7, 7) and side.given == (16, 512, 96)
    asked["enlarge"].fn(picture, 1, 512)
    assert seen["asked"][0] == (60, 40), "a small one stays as it is"


def test_a_question_about_a_picture_has_the_likeliest_answer_without_the_question(laid_out, picture, gradio):
    given = []

    class Processor:
        def apply_chat_template(self, said, **how):
            given.append((said, how))
            return BatchFeature({"input_ids": torch.tensor([[1, 2]]), "pixel_values": torch.zeros(1, 3, 2, 2)})

        def decode(self, tokens, skip_special_tokens):
            return f" {tokens.tolist()} {skip_special_tokens}\n"

    net = network(None, torch.bfloat16)
    net.generate = lambda **how: given.append(how) or torch.tensor([[1, 2, 8, 9]])
    ask = laid_out("image-text-to-text", net, Processor())["ask"].fn
    assert ask(picture, "What?", 5.0) == "[8, 9] True"
    (said, how), options = given
    image, text = said[0]["content"]
    assert image["type"] == "image" and image["image"].size == (60, 40)
    assert text == {"type": "text", "text": "What?"} and said[0]["role"] == "user"
    assert how == {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    assert options["pixel_values"].dtype == torch.bfloat16 and options["input_ids"].dtype == torch.int64
    assert (options["max_new_tokens"], options["do_sample"]) == (5, False)
    with pytest.raises(gradio.Error, match="^The question is empty.$"):
        ask(picture, " ", 5)


def test_a_space_is_served_as_the_file_beside_its_app_says(tmp_path, gradio, monkeypatch):
    """The file is run as a program there."""
    import runpy
    import shutil

    shutil.copy(command.__file__.replace("command", "app"), tmp_path / "app.py")
    (tmp_path / "demo.json").write_text(json.dumps({"model": "you/net", "task": "sing"}))
    with pytest.raises(ValueError, match="^task: got 'sing'"):
        runpy.run_path(str(tmp_path / "app.py"), run_name="__main__")


@pytest.mark.parametrize("examples", [None, ["a.png"]])
def test_an_app_is_of_the_model_that_is_named_at_the_revision_and_with_the_code_that_is_trusted(
    examples, gradio, monkeypatch
):
    from hf_effmodels.prediction import predictor
    from hf_effmodels.prediction.predictor import Source

    built = []
    stand_in = SimpleNamespace(APPS={"text-generation": None}, build=lambda *given, **how: built.append((given, how)))
    monkeypatch.setitem(sys.modules, "hf_effmodels.demo.app", stand_in)
    gradio.__spec__ = SimpleNamespace()
    monkeypatch.setattr("hf_effmodels.hub.ids.reading", lambda *_, **__: nullcontext())
    source = Source("you/net", "v2", "mine", True)
    found = {"text-generation": "text-generation", None: "fill-mask"}
    monkeypatch.setattr(
        predictor, "find_task", lambda source, task: (Source("/cache/net", "v2", "mine", True), found[task])
    )
    command.open_app(source, task="text-generation", device="mps", examples=examples)
    options = {"revision": "v2", "token": "mine", "trust_remote_code": True}
    assert built == [
        (("/cache/net", "text-generation"), {"device": "mps", "examples": examples, "title": "net", **options})
    ]
    with pytest.raises(
        ValueError, match="^MODEL: you/net is for fill-mask, of which there is no app; apps are for image-"
    ):
        command.open_app(source)
