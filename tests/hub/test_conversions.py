"""What a conversion makes of its arguments: whose word counts, what goes on to the folder, and what is refused."""

import sys
from argparse import Namespace
from types import SimpleNamespace

import pytest
import torch
from transformers import CLIPConfig, LlamaConfig

from hf_effmodels.hub.convert import (
    ConversionError,
    ConversionReport,
    _fold_norms,
    _rename,
    convert,
    convert_state_dict,
    load_checkpoint,
)
from hf_effmodels.registry import ARCHITECTURES, PIPELINES, find

from ..modeling.tiny import tiny_config

module = sys.modules[convert.__module__]
ADAPTERS = "adem_vl-7b-instruction"
TOWER = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2}
PARTS = {
    "AutoConfig": {
        "llm": LlamaConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4),
        "clip": CLIPConfig(vision_config={**TOWER, "patch_size": 8, "image_size": 32}, projection_dim=8),
    },
    "AutoTokenizer": {"org/llm": "the tokenizer of org/llm", "/here/llm": "the tokenizer that is here"},
}


@pytest.fixture
def file(tmp_path):
    torch.save({"weight": torch.ones(1)}, tmp_path / "official.pth")
    return tmp_path / "official.pth"


@pytest.fixture
def built(monkeypatch):
    """Instead of a model its configuration and the weights that it would have been built with."""
    given = []

    def build(architecture, config, state_dict):
        given.append((config, state_dict))
        return SimpleNamespace(config=config), []

    monkeypatch.setattr(module, "convert_state_dict", build)
    return given


@pytest.fixture
def written(monkeypatch):
    """What would have been written; the model comes from nowhere, and is loaded with the arguments in "loaded"."""
    found = {}
    config = SimpleNamespace(text_model_name_or_path="org/llm", image_token_id=-1)

    def load(preset, checkpoint, **options):
        found["loaded"] = options
        return SimpleNamespace(config=config), ConversionReport(preset, checkpoint, "0", "ema", 1, [], False)

    def export(model, processor, folder, **options):
        found.update(options, model=model, processor=processor, folder=folder)

    monkeypatch.setattr(module, "load_checkpoint", load)
    monkeypatch.setattr("hf_effmodels.hub.export", export)
    monkeypatch.setattr(module, "_from_hub", lambda auto_class, where, argument: PARTS[auto_class][where])
    return found


# pipelines


@pytest.mark.parametrize(
    "name, value",
    [
        ("entry", "ema"),
        ("tokenizer", "mine"),
        ("num_labels", 0),
        ("id2label", {}),
        ("label2id", {"cat": 0}),
        ("text_model", "org/llm"),
        ("vision_model", "org/clip"),
    ],
)
def test_a_pipeline_has_no_use_for_what_models_have(name, value, tmp_path):
    with pytest.raises(ValueError, match=f"^{name}: got .*, but srdiff-x4 is a pipeline, which has no use for it"):
        convert("srdiff-x4", tmp_path / "none.ckpt", tmp_path / "out", **{name: value})


@pytest.mark.parametrize("options", [{}, {"allow_broken_weights": True}])
def test_a_pipeline_is_converted_by_its_own_rules(options, tmp_path, monkeypatch):
    entry = next(entry for entry in PIPELINES.values() if "srdiff-x4" in entry.presets)
    given = []
    monkeypatch.setattr(entry.conversion_module, "convert", lambda *a, **k: given.append((a, k)) or "report")
    place = "srdiff-x4", "official.ckpt", tmp_path / "out"
    assert convert(*place, license="mit", legacy_256=False, **options) == "report"
    assert given == [(place, {"license": "mit", "legacy_256": False, **options})]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").touch()
    with pytest.raises(FileExistsError):
        convert(*place)
    assert len(given) == 1


# where settings come from


def test_what_is_asked_for_goes_before_what_a_pickled_model_says_of_itself(file, built, monkeypatch):
    conversion = ARCHITECTURES["gold_yolo"].conversion_module
    weights = {"weight": torch.ones(1)}
    monkeypatch.setattr(
        module, "read_pickled_model", lambda path, allowed, *, entry: (weights, f"{entry} of it", {"head": {"n": 3}})
    )
    monkeypatch.setattr(conversion, "settings_of_modules", lambda found: {"num_labels": found["head"]["n"]})
    model, report = load_checkpoint("gold-yolo-n", file, entry="ema")
    assert (model.config.num_labels, report.entry, report.converted) == (3, "ema of it", 1)
    assert built[0][1] is weights
    assert load_checkpoint("gold-yolo-n", file, num_labels=2)[0].config.num_labels == 2


def test_adapters_are_kept_in_full_and_know_where_the_parts_are(tmp_path, built, monkeypatch):
    """Settings of the file's own arguments go before those of the preset, and what is asked for before all."""
    weights = {"adapter_emb1": torch.tensor([1.5]).bfloat16(), "steps": torch.tensor([7])}
    arguments = Namespace(alpha=0.25, beta=0.125, no_cls=True)
    torch.save({"model": weights, "args": arguments}, tmp_path / "adapters.pth")
    monkeypatch.setattr(module, "_from_hub", lambda auto_class, where, argument: PARTS[auto_class][where])
    where = {"text_model": "llm", "vision_model": "clip"}
    model, _ = load_checkpoint(ADAPTERS, tmp_path / "adapters.pth", **where, beta=0.5, pool_sizes=[4, 2])
    ((config, kept),) = built
    assert (config.alpha, config.beta, config.use_cls_token) == (0.25, 0.5, False)
    assert config.text_config.hidden_size == 32 and config.text_model_name_or_path == "llm"
    # Of CLIP, which is of two parts, the tower.
    assert config.vision_config.model_type == "clip_vision_model" and config.vision_config.hidden_size == 24
    assert config.vision_model_name_or_path == "clip"
    assert kept["adapter_emb1"].dtype == torch.float32 and kept["adapter_emb1"].tolist() == [1.5]
    assert kept["steps"].dtype == torch.int64
    with pytest.raises(ValueError, match="^text_model: got None, but adem_vl-7b-instruction is a set of adapters"):
        load_checkpoint(ADAPTERS, tmp_path / "adapters.pth", vision_model="clip")


@pytest.mark.parametrize("part", ["text_model", "vision_model"])
def test_a_part_that_is_not_there_is_named(part, tmp_path, monkeypatch):
    torch.save({"model": {"adapter_emb1": torch.ones(1)}}, tmp_path / "adapters.pth")
    LlamaConfig().save_pretrained(tmp_path / "llm")
    where = {"text_model": str(tmp_path / "llm"), "vision_model": str(tmp_path / "llm")}
    missing = {part: str(tmp_path / "nowhere")}
    with pytest.raises(OSError, match=rf"^{part}: '.*nowhere' cannot be found or read \(AutoConfig: [^\n]+\)$"):
        load_checkpoint(ADAPTERS, tmp_path / "adapters.pth", **where | missing)


# what goes on to the folder


def test_adapters_are_written_with_the_processor_that_goes_with_them(written, monkeypatch):
    made = SimpleNamespace(image_token_id=7)
    asked = []
    monkeypatch.setattr(module, "_processor", lambda *arguments: asked.append(arguments) or made)
    convert(ADAPTERS, "official.pth", "out", vision_model="clip", license="mit", allow_broken_weights=True)
    assert written["loaded"] == {"entry": None, "vision_model": "clip", "allow_broken_weights": True}
    assert (written["processor"], written["preset"], written["license"]) == (made, ADAPTERS, "mit")
    assert (written["adapter_only"], written["base_model"], written["allow_broken_weights"]) == (True, "org/llm", True)
    assert written["conversion"]["entry"] == "ema" and written["model"].config.image_token_id == 7
    convert(ADAPTERS, "official.pth", "out", image_token_id=5, tokenizer="mine", entry="model")
    assert written["loaded"] == {"entry": "model", "image_token_id": 5}
    assert [arguments[-1] for arguments in asked] == ["the tokenizer of org/llm", "mine"]
    written["model"].config.image_token_id = 5
    convert(ADAPTERS, "official.pth", "out", image_token_id=5)
    assert written["model"].config.image_token_id == 5, "as it was asked for"
    written["model"].config.text_model_name_or_path = "/here/llm"
    convert(ADAPTERS, "official.pth", "out")
    assert written["base_model"] is None, "a place on this machine is none on the Hub"


def test_a_decoder_is_written_with_the_tokenizer_that_is_given_and_a_classifier_with_its_processor(written):
    convert("pangu-pi-15m", "official.pth", "out", tokenizer="mine")
    assert (written["processor"], written["adapter_only"], written["base_model"]) == ("mine", False, None)
    assert "allow_broken_weights" not in {**written, **written["loaded"]}
    convert("pangu-pi-15m", "official.pth", "out")
    assert written["processor"] is None
    convert("vig-ti", "official.pth", "out", num_labels=3)
    assert written["processor"].crop_pct == 0.9 and written["loaded"] == {"entry": None, "num_labels": 3}


def test_a_folder_with_other_things_in_it_is_refused_before_anything_is_read(tmp_path):
    (tmp_path / "thesis.tex").touch()
    for preset in ("vig-ti", "srdiff-x4"):
        with pytest.raises(FileExistsError):
            convert(preset, "none.pth", tmp_path)
    with pytest.raises(ValueError, match="license: got 'Mine'"):
        convert("vig-ti", "none.pth", tmp_path, license="Mine")
    with pytest.raises(ValueError, match="needs license_name and license_link"):
        convert("srdiff-x4", "none.pth", tmp_path / "out", license="other", license_name="Mine")


# what does not fit


@pytest.mark.parametrize("foreign, searched", [(None, False), (False, True), (True, True)])
@pytest.mark.parametrize("preset", ["vig-ti", ADAPTERS])
def test_other_presets_are_looked_for_where_names_or_shapes_are_wrong(preset, foreign, searched, file, monkeypatch):
    """Of adapters none: they fit any decoder of their size."""

    def refuse(*_):
        error = ConversionError("1 missing: w.")
        error.names_are_foreign = foreign
        raise error

    monkeypatch.setattr(module, "convert_state_dict", refuse)
    monkeypatch.setattr(module, "_fitting_presets", lambda weights, besides: f" Not {besides}, but {len(weights)}.")
    monkeypatch.setattr(module, "_from_hub", lambda auto_class, where, argument: PARTS[auto_class][where])
    where = {"text_model": "llm", "vision_model": "clip", "pool_sizes": [4, 2]} if preset == ADAPTERS else {}
    hint = f" Not {preset}, but 1." if searched and preset != ADAPTERS else ""
    with pytest.raises(ConversionError) as told:
        load_checkpoint(preset, file, **where)
    assert str(told.value) == f"{file} is no checkpoint of {preset}. 1 missing: w.{hint}"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_unless_they_are_asked_for(value, tmp_path, monkeypatch):
    """Entries that are no weights may be anything."""
    torch.save({"weight": torch.tensor([1.0, value]), "seen": torch.tensor([value])}, tmp_path / "broken.pth")
    model = SimpleNamespace(config=SimpleNamespace(reparameterized=True))
    monkeypatch.setattr(module, "convert_state_dict", lambda *_: (model, ["seen"]))
    with pytest.raises(
        ValueError,
        match=r"^checkpoint: .*/broken.pth has 1 broken weights: weight \(1 of 2 values are not finite\). .* --allow-",
    ):
        load_checkpoint("vig-ti", tmp_path / "broken.pth")
    _, report = load_checkpoint("vig-ti", tmp_path / "broken.pth", allow_broken_weights=True)
    assert (report.converted, report.ignored, report.reparameterized) == (1, ["seen"], True)


@pytest.mark.parametrize("left_out", ["lm_head.weight", "embed_tokens.weight", None])
def test_of_a_tied_weight_one_name_is_enough(left_out):
    architecture = ARCHITECTURES["pangu_pi"]
    given = architecture.model_class("AutoModelForCausalLM")(tiny_config(architecture, tie_word_embeddings=True))
    weights = {name.removeprefix("model."): value for name, value in given.state_dict().items()}
    weights.pop(left_out, None)
    if left_out == "embed_tokens.weight":
        with pytest.raises(ConversionError, match="1 missing: model.embed_tokens.weight"):
            convert_state_dict(architecture, given.config, weights)
        return
    model, ignored = convert_state_dict(architecture, given.config, weights)
    assert not model.training and ignored == []
    assert model.lm_head.weight is model.model.embed_tokens.weight
    for name, value in given.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


def test_norms_that_a_fused_file_still_has_are_folded_and_incomplete_ones_are_left_to_be_named():
    def norm(name, **more):
        parts = {"weight": [2.0, 3.0], "bias": [1.0, -1.0], "running_mean": [0.5, 0.0], "running_var": [3.0, 8.0]}
        return {f"{name}.norm.{key}": torch.tensor(value) for key, value in (parts | more).items()}

    kernel = torch.tensor([[1.0], [2.0]]).reshape(2, 1, 1, 1)
    whole = {"a.conv.weight": kernel, **norm("a"), "a.norm.num_batches_tracked": torch.tensor(3)}
    folded = _fold_norms({**whole, "b.weight": kernel}, 1.0)
    # 2 / √(3 + 1) = 1 and 3 / √(8 + 1) = 1: the kernels stay, the shifts are 1 − 0.5 · 1 and −1.
    assert folded.keys() == {"a.conv.weight", "a.conv.bias", "b.weight"}
    torch.testing.assert_close(folded["a.conv.weight"], kernel)
    torch.testing.assert_close(folded["a.conv.bias"], torch.tensor([0.5, -1.0]))
    for lacking in ("a.conv.weight", "a.norm.weight", "a.norm.bias", "a.norm.running_mean", "a.norm.running_var"):
        left = {name: value for name, value in whole.items() if name != lacking}
        assert _fold_norms(left, 1.0).keys() == left.keys(), lacking


def test_two_entries_for_one_weight_are_named_in_the_order_of_their_names():
    conversion = SimpleNamespace(RULES=((r"^(b|c)\.", "a."), (r"^a\.", "our.")))
    assert _rename(["d.x", "a.x"], conversion) == {"our.x": "a.x", "d.x": "d.x"}
    for names in (["c.x", "b.x"], ["b.x", "c.x"]):
        with pytest.raises(
            ConversionError, match="^The entries 'b.x' and 'c.x' are meant for the same weight 'our.x'.$"
        ):
            _rename(names, conversion)


@pytest.mark.parametrize("preset", ["ghostnet-1.0x", "pangu-pi-15m"])
@pytest.mark.parametrize("given", [None, "cc-by-4.0"])
def test_a_licence_that_is_given_goes_before_that_of_the_official_weights(preset, given, written):
    known = find(preset)[1].weights_license
    convert(preset, "official.pth", "out", license=given)
    assert written["license"] == (given or known)
    assert known != "cc-by-4.0" and (known is not None or preset == "pangu-pi-15m")


def test_a_tied_weight_that_a_file_has_in_two_ways_is_refused_by_both_names():
    architecture = ARCHITECTURES["pangu_pi"]
    given = architecture.model_class("AutoModelForCausalLM")(tiny_config(architecture, tie_word_embeddings=True))
    weights = {name.removeprefix("model."): value.clone() for name, value in given.state_dict().items()}
    weights["lm_head.weight"][3, 2] += 0.5
    with pytest.raises(
        ConversionError, match="^lm_head.weight and .*embed_tokens.weight.* are one weight in the model"
    ):
        convert_state_dict(architecture, given.config, weights)
