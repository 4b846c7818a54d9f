"""Pruning to a budget: shapes that fit, what is compared, and the command."""

import copy
import inspect
import json
import math
import re
from types import SimpleNamespace

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GemmaConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    PhiConfig,
    Qwen2Config,
    Qwen3Config,
)

from hf_effmodels.cli import main
from hf_effmodels.compression.command import prune as command
from hf_effmodels.compression.pruning import minitron
from hf_effmodels.compression.pruning.candidates import _grid, _unevenness, count_for, list_candidates, step_of
from hf_effmodels.compression.pruning.inheritance import SIZES, inherit
from hf_effmodels.compression.pruning.minitron import choose_shapes, prune, retrain_shortly
from hf_effmodels.compression.pruning.structures import Sizes, check_architecture

_SIZES = {
    "vocab_size": 61,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
CONFIGS = {
    "llama": LlamaConfig(**_SIZES),
    "mistral": MistralConfig(**_SIZES, sliding_window=None),
    "qwen2": Qwen2Config(**_SIZES, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**_SIZES, head_dim=6),
    "gemma": GemmaConfig(**_SIZES, head_dim=6),
    "phi": PhiConfig(**_SIZES, partial_rotary_factor=0.7),
}
IDS = torch.arange(80).view(4, 20) * 7 % 61
BATCHES = [IDS, IDS.flip(0), IDS.flip(1), (IDS + 1) % 61]


def build(name):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(copy.deepcopy(CONFIGS[name])).eval()


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("way", ["width", "depth"])
def test_what_is_pruned_is_a_stock_model_within_the_budget(name, way, tmp_path):
    model = build(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    smaller, report = prune(model, BATCHES, target_parameters=0.7, way=way, tolerance=0.15)
    assert type(smaller) is type(model) and report.of == model.num_parameters()
    assert report.parameters == smaller.num_parameters() == pytest.approx(0.7 * report.of, rel=0.15)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    if way == "depth":
        assert smaller.config.num_hidden_layers < 4 and smaller.config.intermediate_size == 96
        assert len(report.made_of.layers) == smaller.config.num_hidden_layers
    else:
        assert smaller.config.num_hidden_layers == 4 and smaller.config.intermediate_size < 96
    smaller.save_pretrained(tmp_path)
    loaded, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    options = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
    assert torch.equal(loaded.generate(IDS, **options), smaller.generate(IDS, **options, use_cache=False))
    with torch.no_grad():
        torch.testing.assert_close(loaded(IDS).logits, smaller(IDS).logits, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_dead_structures_of_phi_go_and_nothing_changes():
    model = build("phi").double()
    for layer in model.model.layers:
        layer.mlp.fc2.weight[:, 80:] = 0
        layer.mlp.fc1.weight[80:] = 0
        layer.mlp.fc1.bias[80:] = 0  # gelu(0) = 0: these neurons say nothing
        layer.self_attn.v_proj.weight[18:] = 0
        layer.self_attn.v_proj.bias[18:] = 0  # nor does the last group of two heads
    smaller, _ = inherit(model, intermediate_size=80, num_attention_heads=6, method="activation", calibration=[IDS])
    torch.testing.assert_close(smaller(IDS).logits, model(IDS).logits, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", CONFIGS)
def test_parameters_are_counted_before_a_model_is_made(name):
    model = build(name)
    shapes = {key: tuple(weight.shape) for key, weight in model.named_parameters()}
    found = list_candidates(model.config, shapes, 0.6, way="any", tolerance=0.1)
    assert len({candidate.sizes for candidate in found}) == len(found) > 3
    kinds = {(candidate.sizes.num_hidden_layers, candidate.sizes.num_attention_heads) for candidate in found[:3]}
    assert len(kinds) == 3
    for candidate in found[:3]:
        smaller, _ = inherit(model, **candidate.fields())
        assert smaller.num_parameters() == candidate.parameters == pytest.approx(0.6 * model.num_parameters(), rel=0.1)
        assert count_for(shapes, Sizes.of(model.config), Sizes.of(smaller.config)) == candidate.parameters


def test_sizes_that_are_given_hold_and_the_rest_fits_the_budget():
    (shape,) = choose_shapes(build("llama"), 0.5, num_hidden_layers=3, hidden_size=40, tolerance=0.1)
    assert (shape["num_hidden_layers"], shape["hidden_size"]) == (3, 40)
    assert choose_shapes(build("llama"), None, intermediate_size=64) == [{"intermediate_size": 64}]
    unset = dict.fromkeys(SIZES) | {"intermediate_size": 64}
    assert choose_shapes(build("llama"), None, **unset) == [{"intermediate_size": 64}]
    with pytest.raises(ValueError, match="target_parameters: got None and no sizes"):
        choose_shapes(build("llama"), None, **dict.fromkeys(SIZES))
    # The most even shape first: the same share of both widths (20 of 48, 40 of 96), and half of the heads.
    (even,) = choose_shapes(build("llama"), 0.2, tolerance=0.1)
    assert (even["hidden_size"], even["intermediate_size"], even["num_attention_heads"]) == (20, 40, 4)


def test_heads_neurons_and_layers_that_are_given_hold_within_a_budget():
    for given in ({"num_attention_heads": 6, "num_key_value_heads": 3}, {"intermediate_size": 64}):
        (shape,) = choose_shapes(build("llama"), 0.5, tolerance=0.1, **given)
        assert {name: shape[name] for name in given} == given and shape["num_hidden_layers"] == 4
    (named,) = choose_shapes(build("llama"), 0.5, layers=[0, 1, 3], tolerance=0.1)
    assert named["num_hidden_layers"] == 3
    assert choose_shapes(build("llama"), None, layers=[0, 1, 3]) == [{"num_hidden_layers": 3}]


def test_one_batch_is_both_seen_and_compared_on():
    model = build("llama")
    smaller, report = prune(model, BATCHES[:1], intermediate_size=40)
    with torch.no_grad():
        assert report.loss == pytest.approx(smaller(IDS, labels=IDS).loss.item(), rel=1e-5)
        assert report.loss_of == pytest.approx(model(IDS, labels=IDS).loss.item(), rel=1e-5)
    assert report.sizes == {**{name: _SIZES[name] for name in SIZES}, "intermediate_size": 40, "head_dim": 6}
    told = report.to_dict()
    assert told["made_of"] == report.made_of.to_dict() and told["loss"] == report.loss


def test_the_command_does_what_the_function_does_unless_it_is_told_otherwise(
    tmp_path, lines, byte_level_tokenizer, monkeypatch
):
    """Every default of the command is that of `prune`, and every option reaches it."""
    called = []

    def watched(model, batches, **options):
        called.append((batches, options))
        raise ValueError("seen")

    monkeypatch.setattr(minitron, "prune", watched)
    LlamaForCausalLM(LlamaConfig(**{**_SIZES, "vocab_size": 901})).save_pretrained(large := tmp_path / "large")
    byte_level_tokenizer.save_pretrained(large)
    (text := tmp_path / "text.txt").write_text("\n".join(lines * 3), encoding="utf-8")
    plain = ["prune", str(large), str(tmp_path / "out"), "--dataset", str(text), "--target-parameters", "0.6"]
    assert main(plain) == 2
    batches, options = called.pop()
    defaults = {name: parameter.default for name, parameter in inspect.signature(prune).parameters.items()}
    sizes = dict.fromkeys(SIZES)
    assert (
        options
        == {**{name: defaults[name] for name in options if name not in sizes}, "target_parameters": 0.6} | sizes
    )
    assert set(defaults) - {"model", "calibration", "sizes"} == options.keys() - sizes.keys()
    assert [tuple(batch["input_ids"].shape) for batch in batches] == [(8, 256)] * 16, "as the help says"
    told = {"way": "any", "tolerance": 0.3, "candidates": 2, "retraining_steps": 3, "learning_rate": 0.01}
    told |= {"method": "l1", "layers": [0, 1, 3], "rescale_norms": True, "target_parameters": 110000.0}
    words = {"--select-layers": "0,1,3", "--target-parameters": "110k", "--heads": 6, "--key-value-heads": 3}
    words |= {f"--{name.replace('_', '-')}": told[name] for name in list(told)[:6]}
    words |= {"--hidden": 42, "--layers": 3, "--batch-size": 2, "--block-size": 16, "--calibration-batches": 3}
    assert main([*plain, *(str(word) for pair in words.items() for word in pair), "--rescale-norms"]) == 2
    batches, options = called.pop()
    given = {"num_hidden_layers": 3, "hidden_size": 42, "num_attention_heads": 6, "num_key_value_heads": 3}
    assert options == told | sizes | given | {"progress": False}
    assert [tuple(batch["input_ids"].shape) for batch in batches] == [(2, 16)] * 3


def test_the_best_of_the_candidates_is_kept_as_it_was_retrained():
    model = build("llama")
    _, untrained = prune(model, BATCHES, target_parameters=0.6, candidates=3, tolerance=0.1)
    smaller, report = prune(
        model, BATCHES, target_parameters=0.6, candidates=3, tolerance=0.1, retraining_steps=20, learning_rate=3e-3
    )
    assert len(report.candidates) == 3 and report.loss == min(row["loss"] for row in report.candidates)
    assert [row["loss"] for row in untrained.candidates] != [row["loss"] for row in report.candidates]
    with torch.no_grad():  # of the batch that was kept for it
        assert smaller(BATCHES[3], labels=BATCHES[3]).loss.item() == pytest.approx(report.loss, rel=1e-5)
        assert model(BATCHES[3], labels=BATCHES[3]).loss.item() == pytest.approx(report.loss_of, rel=1e-5)


def test_a_candidate_sees_three_batches_of_four_and_learns_from_them():
    model = build("llama")
    seen = [{"input_ids": ids, "labels": ids} for ids in BATCHES[:3]]
    expected, _ = inherit(model, intermediate_size=40, method="activation", layers="influence", calibration=seen)
    start = copy.deepcopy(expected)
    retrain_shortly(expected, model, seen, steps=1, learning_rate=3e-3)
    found, _ = prune(model, BATCHES, intermediate_size=40, retraining_steps=1, learning_rate=3e-3)
    assert all(torch.equal(found.state_dict()[name], value) for name, value in expected.state_dict().items())
    # Nothing decays: a word that no text has keeps its embedding.
    few = [{"input_ids": IDS % 30, "labels": IDS % 30}]
    retrain_shortly(start, model, few, steps=1, learning_rate=3e-3)
    before, after = model.model.embed_tokens.weight, start.model.embed_tokens.weight
    assert torch.equal(after[30:], before[30:]) and not torch.equal(after[:30], before[:30])


@pytest.mark.parametrize("ignored", ["prompts", "endings", "a whole text", "every other token", "nothing"])
def test_retraining_compares_what_is_said_of_the_tokens_that_are_labels(ignored):
    """A step with the mean divergence over them, in plain torch."""
    labels = IDS.clone()
    where = {"prompts": (slice(None), slice(0, 12)), "endings": (slice(2), slice(-5, None)), "a whole text": 1}
    where |= {"every other token": (slice(None), slice(0, None, 2)), "nothing": (slice(0), slice(0))}
    labels[where[ignored]] = -100
    model = build("llama").double()
    student, _ = inherit(model, num_hidden_layers=2)
    expected = copy.deepcopy(student)
    retrain_shortly(student, model, [{"input_ids": IDS, "labels": labels}], steps=1, learning_rate=1e-3)
    predicted = [(row, at - 1) for row in range(4) for at in range(1, 20) if labels[row, at] != -100]
    rows, places = torch.tensor(predicted).T
    wanted = model(IDS).logits[rows, places].detach().log_softmax(-1)
    said = expected(IDS).logits[rows, places].log_softmax(-1)
    (wanted.exp() * (wanted - said)).sum(-1).mean().backward()
    torch.nn.utils.clip_grad_norm_(expected.parameters(), 1.0)
    torch.optim.AdamW(expected.parameters(), lr=1e-3, weight_decay=0.0).step()
    for found, own in zip(student.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(found, own, rtol=0, atol=1e-5)


def test_retraining_brings_the_predictions_nearer():
    model = build("llama")
    with torch.no_grad():
        model.lm_head.weight *= 20
    smaller, _ = inherit(model, num_hidden_layers=2)

    def divergence():
        with torch.no_grad():
            teacher, student = (m(IDS).logits.log_softmax(-1) for m in (model, smaller))
        return (teacher.exp() * (teacher - student)).sum(-1).mean().item()

    before = divergence()
    batch = {"input_ids": IDS, "labels": IDS}
    start = {name: weight.clone() for name, weight in smaller.state_dict().items()}
    retrain_shortly(smaller, model, [batch], steps=1, learning_rate=0.0)
    assert all(torch.equal(weight, start[name]) for name, weight in smaller.state_dict().items())
    retrain_shortly(smaller, model, [batch], steps=30, learning_rate=3e-3)
    assert divergence() < 0.5 * before


@pytest.mark.parametrize(
    "name, options, reason",
    [
        ("llama", {"target_parameters": 1.0}, "target_parameters: got 1.0, accepted are shares below 1|no shape"),
        ("llama", {"target_parameters": 0.01}, "no shape has .* parameters within 5 %. With these settings"),
        ("llama", {"target_parameters": 0.5, "way": "deep"}, "way: got 'deep', accepted are 'width', 'depth', 'any'"),
        ("llama", {}, "target_parameters: got None and no sizes"),
        ("llama", {"num_attention_heads": 5, "num_key_value_heads": 2}, "num_key_value_heads: got 2, accepted"),
        ("gemma", {"hidden_size": 24}, "hidden_size: got 24, accepted is 48: gemma scales"),
        ("phi", {"intermediate_size": 24, "method": "learned"}, "method: got 'learned'"),
        ("gemma", {"intermediate_size": 24, "rescale_norms": True}, "rescale_norms: got True"),
        ("phi", {"intermediate_size": 24, "rescale_norms": True}, "rescale_norms: got True.* the norms of phi are no"),
        ("llama", {"target_parameters": 0.5, "candidates": 0}, "candidates: got 0"),
        ("llama", {"target_parameters": 0.5, "retraining_steps": -1}, "retraining_steps: got -1"),
        ("llama", {"target_parameters": 0.5, "learning_rate": 0.0}, "learning_rate: got 0.0, accepted are positive"),
        ("llama", {"target_parameters": 0.5, "learning_rate": float("inf")}, "learning_rate: got inf"),
        ("llama", {"target_parameters": 0.5, "tolerance": 0.0}, "tolerance: got 0.0, accepted are shares between"),
        ("llama", {"target_parameters": 0.5, "tolerance": 1.0}, "tolerance: got 1.0, accepted are shares between"),
        ("llama", {"target_parameters": 1e9}, "target_parameters: got 1000000000.0, accepted .* numbers below"),
        ("llama", {"layers": [0, 1], "num_hidden_layers": 3}, "num_hidden_layers: got 3 and 2 layers"),
        (
            "qwen3",
            {"intermediate_size": [24, 32]},
            r"intermediate_size: got \[24, 32\], accepted is one .*qwen3",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_the_work(name, options, reason):
    with pytest.raises(ValueError, match=reason):
        prune(build(name), iter(()), **options)


def test_norms_of_queries_that_follow_the_width_are_told():
    model = AutoModelForCausalLM.from_config(PhiConfig(**_SIZES, partial_rotary_factor=0.7, qk_layernorm=True))
    with pytest.raises(ValueError, match="hidden_size, num_attention_heads: got 40 and 8, accepted are 6 channels"):
        prune(model, BATCHES, hidden_size=40)
    smaller, _ = prune(model, BATCHES, hidden_size=36, num_attention_heads=6)
    assert smaller(IDS).logits.isfinite().all()


def test_layers_of_different_sizes_are_refused_since_no_stock_class_reads_them():
    for config in CONFIGS.values():
        config = type(config).from_dict(config.to_dict() | {"per_layer_config": {1: {"intermediate_size": 24}}})
        with pytest.raises(RuntimeError, match="'intermediate_size' is a per-layer attribute"):
            AutoModelForCausalLM.from_config(config)
        with pytest.raises(ValueError, match="model: its layers differ in intermediate_size .per_layer_config"):
            check_architecture(config)


def test_a_quantised_model_is_refused():
    model = build("llama")
    model.config.quantization_config = {"quant_method": "cbq"}
    with pytest.raises(ValueError, match="model: it is quantised"):
        prune(model, BATCHES, target_parameters=0.5)


def test_the_command_writes_a_checkpoint_and_keeps_what_is_not_its_own(tmp_path, lines, byte_level_tokenizer, capsys):
    large, small, text = tmp_path / "large", tmp_path / "small", tmp_path / "text.txt"
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**{**_SIZES, "vocab_size": 901})).save_pretrained(large)
    byte_level_tokenizer.save_pretrained(large)
    (large / "README.md").write_text("---\nlicense: mit\nbase_model: org/whole\n---\n")
    text.write_text("\n".join(lines), encoding="utf-8")
    corpus = ["--dataset", str(text), "--block-size", "16", "--calibration-batches", "4", "--batch-size", "2"]
    arguments = ["prune", str(large), str(small), "--target-parameters", "70%", *corpus]
    assert main([*arguments, "--layers", "3", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    model = AutoModelForCausalLM.from_pretrained(small)
    assert model.num_parameters() == report["parameters"] and report["parameters"] / report["of"] < 0.74
    assert model.config.num_hidden_layers == 3 == len(report["kept_layers"])
    card = (small / "README.md").read_text()
    assert "\nlicense: mit\n" in card and "\nbase_model: org/whole\n" in card and "| Made of | `large` |" in card
    assert f"| Parameters before | {report['of'] / 1e6:.3f} M |" in card and "it has not been trained since." in card
    assert f"| {report['loss']:.4f}, of the whole model {report['loss_of_the_whole']:.4f} |" in card
    assert "hf-effmodels train --task causal-lm --model . " in card and str(tmp_path) not in card
    written = json.loads((small / "pruning.json").read_text())
    assert written["candidates"][0]["num_hidden_layers"] == 3
    assert (report["loss"], report["loss_of_the_whole"]) == (written["loss"], written["loss_of"])
    assert report["loss"] != report["loss_of_the_whole"] and report["candidates"] == len(written["candidates"]) == 1
    assert report["kept_layers"] == written["made_of"]["layers"] and report["folder"] == str(small)
    assert {name: report[name] for name in SIZES} == {name: getattr(model.config, name) for name in SIZES}
    assert AutoTokenizer.from_pretrained(small)("text").input_ids == byte_level_tokenizer("text").input_ids
    assert main([*arguments, "--way", "depth", "--tolerance", "0.2"]) == 2
    assert f"{small} is not empty; choose another folder, or replace" in capsys.readouterr().err
    assert main([*arguments, "--way", "depth", "--tolerance", "0.2", "--overwrite"]) == 0  # its own folder is replaced
    (small / "config.json").write_text("{}")
    capsys.readouterr()
    new = [*arguments[:2], str(tmp_path / "new"), *arguments[3:]]
    for wrong, reason in (
        (arguments, "OUT: .*config.json has been changed since it was written"),
        ([*arguments[:2], str(tmp_path / "new"), "--layers", "9", *corpus], "--layers: got 9, accepted are 1 to 4"),
        ([*arguments[:2], str(tmp_path / "new"), "--layers", "2"], "--dataset is missing"),
        ([*arguments[:2], str(tmp_path / "new"), "--target-parameters", "2M", *corpus], "--target-parameters: got"),
        ([*arguments[:2], str(tmp_path / "new"), "--target-parameters", "101%"], "between 0% and 100%"),
        ([*arguments[:2], str(tmp_path / "new"), "--layers", "2,3", *corpus], "got 2,3, accepted is one number"),
        ([*arguments[:2], str(tmp_path / "new"), *corpus], "--target-parameters: got None and no sizes"),
        ([*new, "--images", str(tmp_path)], "--images: .* is no vision transformer; accepted are vit, deit"),
        ([*new, "--way", "deep"], "--way: got 'deep'"),
        ([*new, "--method", "none"], "--method: got 'none'"),
        ([*new, "--device", "abacus"], "--device: got 'abacus'"),
    ):
        assert main(wrong) == 2
        assert re.search(reason, capsys.readouterr().err)
    assert not (tmp_path / "new").exists()


def test_heads_are_kept_in_quarters_and_halves_of_their_groups():
    config = LlamaConfig(hidden_size=64, num_attention_heads=16, num_key_value_heads=8)
    found = _grid(config, Sizes.of(config), "width", {})
    heads = {(row["num_attention_heads"], row["num_key_value_heads"]) for row in found}
    assert heads == {(16, 8), (12, 6), (8, 4)}


@pytest.mark.parametrize("size, step", [(8, 1), (16, 1), (31, 1), (32, 2), (72, 4), (1024, 64), (11008, 256), (1, 1)])
def test_sizes_are_tried_in_steps_of_a_sixteenth_rounded_down_to_a_power_of_two(size, step):
    assert step_of(size) == step


def shapes_of(name: str) -> tuple:
    model = build(name)
    return model.config, {key: tuple(weight.shape) for key, weight in model.named_parameters()}


@pytest.mark.parametrize(
    "name, way", [*((name, "depth") for name in CONFIGS), ("llama", "width"), ("gemma", "width"), ("llama", "any")]
)
def test_a_way_changes_what_it_says_and_nothing_else(name, way):
    widths = {"hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"}
    changed = {"depth": {"num_hidden_layers"}, "width": widths, "any": {*SIZES}}[way]
    config, shapes = shapes_of(name)
    source = Sizes.of(config)
    found = [each.sizes for each in list_candidates(config, shapes, 0.6, way=way, tolerance=0.25)]
    if name == "gemma":
        changed = changed - {"hidden_size"}  # it scales its embeddings by it
    different = {size for size in SIZES for each in found if getattr(each, size) != getattr(source, size)}
    assert different == changed
    for each in found:
        assert each.num_attention_heads * source.num_key_value_heads == (
            each.num_key_value_heads * source.num_attention_heads
        )
        assert each.hidden_size > source.hidden_size // 4 and each.hidden_size % step_of(source.hidden_size) == 0
        assert each.intermediate_size % step_of(source.intermediate_size) == 0
        assert 1 <= each.num_hidden_layers <= source.num_hidden_layers


@pytest.mark.parametrize(
    "groups, kept", [(1, {1}), (2, {2, 1}), (3, {3, 2}), (4, {4, 3, 2}), (5, {5, 4, 3}), (8, {8, 6, 4})]
)
def test_all_three_quarters_or_half_of_the_key_value_heads_are_kept_rounded_up(groups, kept):
    heads = {"num_attention_heads": 2 * groups, "num_key_value_heads": groups, "head_dim": 6, "hidden_size": 240}
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**_SIZES | heads))
    shapes = {key: tuple(weight.shape) for key, weight in model.named_parameters()}
    found = list_candidates(model.config, shapes, 0.6, way="width", tolerance=0.3, hidden_size=240)
    assert {each.sizes.num_key_value_heads for each in found} == kept
    assert all(each.sizes.num_attention_heads == 2 * each.sizes.num_key_value_heads for each in found)


def test_sizes_that_are_none_are_searched_as_if_they_were_not_named():
    config, shapes = shapes_of("llama")
    found = list_candidates(config, shapes, 0.6, way="depth", tolerance=0.25, **dict.fromkeys(SIZES))
    assert found and all(each.sizes.num_hidden_layers < config.num_hidden_layers for each in found)
    assert found == list_candidates(config, shapes, 0.6, way="depth", tolerance=0.25)


def test_even_shapes_come_first_one_of_each_depth_and_number_of_heads():
    config, shapes = shapes_of("llama")
    found = [each.sizes for each in list_candidates(config, shapes, 0.6, way="any", tolerance=0.1)]
    kinds = [(each.num_hidden_layers, each.num_attention_heads) for each in found]
    number = len(set(kinds))
    assert len(set(kinds[:number])) == number < len(found)

    def uneven(each: Sizes) -> float:
        hidden, neurons, heads = (
            math.log(getattr(each, size) / getattr(config, size))
            for size in ("hidden_size", "intermediate_size", "num_attention_heads")
        )
        return abs(hidden - neurons) + abs(heads - hidden) / 2

    for part in (found[:number], found[number:]):
        values = [uneven(each) for each in part]
        assert values == sorted(values)
    for kind in set(kinds):
        of_kind = [uneven(each) for each, own in zip(found, kinds, strict=True) if own == kind]
        assert of_kind[0] == min(of_kind)


def test_a_budget_is_a_share_or_a_number_and_shapes_lie_within_its_tolerance():
    config, shapes = shapes_of("llama")
    whole = sum(math.prod(shape) for shape in shapes.values())
    for tolerance in (0.02, 0.2):
        share = list_candidates(config, shapes, 0.5, tolerance=tolerance)
        assert share == list_candidates(config, shapes, 0.5 * whole, tolerance=tolerance)
        off = [abs(each.parameters / (0.5 * whole) - 1) for each in share]
        assert max(off) <= tolerance and (tolerance < 0.1 or max(off) > 0.05)
    with pytest.raises(ValueError, match="within 0.1 %. With these settings there are") as refused:
        list_candidates(config, shapes, 0.5, way="depth", tolerance=0.001)
    told = re.search(r"there are (\d+) to (\d+)\.", str(refused.value)).groups()
    layer = sum(math.prod(shape) for key, shape in shapes.items() if ".layers.0." in key)
    assert [*map(int, told)] == [whole - 3 * layer, whole]
    for wrong in (0, -0.5, whole):
        with pytest.raises(ValueError, match="target_parameters: got .* shares below 1 and numbers below"):
            list_candidates(config, shapes, wrong)


@pytest.mark.parametrize("count, kept", [(8, [3, 7]), (5, [3]), (3, [2]), (2, [1])])
def test_every_fourth_batch_is_compared_on_and_the_others_are_seen(count, kept, monkeypatch):
    """Of fewer than four the last is, which is seen as well."""
    model, seen = build("llama"), []
    own = minitron.inherit
    monkeypatch.setattr(
        minitron,
        "inherit",
        lambda *a, calibration, **o: seen.append(calibration) or own(*a, calibration=calibration, **o),
    )
    batches = [(IDS + number) % 61 for number in range(count)]
    smaller, report = prune(model, batches, intermediate_size=40)
    expected = [number for number in range(count) if number not in kept or count < 4]
    assert [batch["input_ids"].tolist() for batch in seen[0]] == [batches[number].tolist() for number in expected]
    for loss, network in ((report.loss, smaller), (report.loss_of, model)):
        with torch.no_grad():
            losses = [network(batches[number], labels=batches[number]).loss.item() for number in kept]
        assert loss == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def test_retraining_takes_batches_in_turn_and_gradients_of_a_length_of_one_at_most():
    """Three steps over two batches, in plain torch; the predictions are so sure that gradients are long."""
    model = build("llama").double()
    with torch.no_grad():
        model.lm_head.weight *= 40
    student, _ = inherit(model, num_hidden_layers=2)
    expected, modes = copy.deepcopy(student), []
    handles = [
        each.register_forward_hook(lambda module, *_: modes.append(module.training)) for each in (model, student)
    ]
    batches = [{"input_ids": ids, "labels": ids} for ids in (BATCHES[0], BATCHES[2])]
    retrain_shortly(student, model, batches, steps=3, learning_rate=1e-2)
    for handle in handles:
        handle.remove()
    assert modes == [False, True] * 3 and not student.training and not model.training
    optimizer = torch.optim.AdamW(expected.parameters(), lr=1e-2, weight_decay=0.0)
    for ids in (BATCHES[0], BATCHES[2], BATCHES[0]):
        wanted = model(ids).logits[:, :-1].detach().log_softmax(-1)
        said = expected(ids).logits[:, :-1].log_softmax(-1)
        optimizer.zero_grad()
        (wanted.exp() * (wanted - said)).sum(-1).mean().backward()
        lengths = [weight.grad.norm() for weight in expected.parameters()]
        whole = torch.stack(lengths).norm()
        assert whole > 2
        for weight in expected.parameters():
            weight.grad /= whole
        optimizer.step()
    for found, own in zip(student.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(found, own, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_what_is_in_half_precision_learns_in_single_and_is_rounded_at_the_end(dtype):
    """Steps of a ten thousandth, of which half precision would take most for nothing, or for no numbers."""
    model = build("qwen2").to(dtype)
    student, _ = inherit(model, num_hidden_layers=2)
    expected = copy.deepcopy(student).float()
    batches = [{"input_ids": ids, "labels": ids} for ids in (BATCHES[0], BATCHES[2])]
    retrain_shortly(student, model, batches, steps=5, learning_rate=1e-4)
    retrain_shortly(expected, model, batches, steps=5, learning_rate=1e-4)
    assert student.dtype == dtype and student.lm_head.weight is student.model.embed_tokens.weight
    for found, own in zip(student.parameters(), expected.parameters(), strict=True):
        assert own.dtype == torch.float32 and torch.equal(found, own.to(dtype))
    smaller, report = prune(model, BATCHES, num_hidden_layers=2, retraining_steps=5)
    with torch.no_grad():  # of what is kept, as it was rounded
        loss = smaller(BATCHES[3], labels=BATCHES[3]).loss.item()
    assert smaller.dtype == dtype and report.loss == pytest.approx(loss, rel=1e-6)


@pytest.mark.parametrize("neurons, least", [(96, 24), (72, 20), (90, 24), (31, 8), (16, 4), (5, 2), (1, 1)])
def test_a_quarter_of_the_neurons_stays_at_least(neurons, least):
    """In steps: of 72 neurons (by fours) 20; and the smallest number of parameters that is told is that of a shape."""
    model = AutoModelForCausalLM.from_config(LlamaConfig(**_SIZES | {"intermediate_size": neurons}))
    shapes = {key: tuple(weight.shape) for key, weight in model.named_parameters()}
    whole = sum(weight.numel() for weight in model.parameters())
    narrow = whole - 4 * 3 * 48 * (neurons - least)
    fixed = {"hidden_size": 48, "num_attention_heads": 8, "num_key_value_heads": 4}
    with pytest.raises(ValueError, match=f"With these settings there are {narrow} to {whole}") as refused:
        list_candidates(model.config, shapes, 10, **fixed)
    assert str(refused.value).count("no shape has 10 parameters") == 1
    for budget in (narrow, 0.98 * narrow):
        if budget < whole:
            found = list_candidates(model.config, shapes, budget, tolerance=0.03, **fixed)
            assert [each.sizes.intermediate_size for each in found] == [least]
            assert found[0].parameters == narrow


def test_the_command_computes_where_it_is_told_to(tmp_path, byte_level_tokenizer, monkeypatch, capsys):
    model = LlamaForCausalLM(LlamaConfig(**{**_SIZES, "vocab_size": 901}))
    model.save_pretrained(large := tmp_path / "large")
    byte_level_tokenizer.save_pretrained(large)
    moved = []
    monkeypatch.setattr(command, "check_device", lambda device: moved.append(f"checked {device}"))
    monkeypatch.setattr(
        command, "load_model", lambda *_: SimpleNamespace(to=lambda device: moved.append(device) or model)
    )
    monkeypatch.setattr(command, "calibration_batches", lambda *_: [])
    argv = ["prune", str(large), str(tmp_path / "out"), "--dataset", "pydoc_topics", "--layers", "3"]
    assert main([*argv, "--device", "cuda:1"]) == 2 and "there are no batches" in capsys.readouterr().err
    assert moved == ["checked cuda:1", "cuda:1"]


@pytest.mark.parametrize("rescale", [False, True])
def test_of_candidates_that_are_made_alike_the_one_of_the_lowest_loss_is_returned(rescale, monkeypatch):
    """The whole model's own loss is measured after theirs."""
    losses, made = iter([3.0, 1.0, 2.0, 0.5]), []

    def making(model, **how):
        made.append(how.pop("rescale_norms"))
        return inherit(model, **how, rescale_norms=made[-1])

    monkeypatch.setattr(minitron, "mean_loss", lambda model, batches: next(losses))
    monkeypatch.setattr(minitron, "inherit", making)
    budget = {"target_parameters": 0.6, "candidates": 3, "tolerance": 0.1}
    smaller, report = prune(build("llama"), BATCHES, **budget, rescale_norms=rescale)
    assert made == [rescale] * 3 and [row["loss"] for row in report.candidates] == [3, 1, 2]
    best = report.candidates[1]
    assert (report.loss, report.loss_of, report.parameters) == (1, 0.5, best["parameters"])
    assert smaller.num_parameters() == best["parameters"]
    assert all(report.sizes[name] == best[name] for name in SIZES)


def test_query_heads_stay_where_the_keys_and_values_of_all_are_asked_for():
    model = build("llama")
    shapes = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
    keys = model.config.num_key_value_heads
    found = list_candidates(model.config, shapes, 0.6, way="width", tolerance=0.1, num_key_value_heads=keys)
    sizes = {(each.sizes.num_attention_heads, each.sizes.num_key_value_heads) for each in found}
    assert sizes == {(model.config.num_attention_heads, keys)}


@pytest.mark.parametrize(
    "hidden, neurons, heads, expected", [(4, 4, 2, 0), (4, 8, 2, 1), (8, 8, 2, 0.5), (8, 4, 1, 2), (2, 4, 4, 2)]
)
def test_a_shape_is_as_uneven_as_its_widths_differ_and_half_of_that_for_heads(hidden, neurons, heads, expected):
    """In doublings, of a model of eight channels, eight neurons and four heads."""
    source, sizes = Sizes(1, 8, 8, 4, 4, 0, 2), Sizes(1, hidden, neurons, heads, heads, 0, 2)
    assert _unevenness(sizes, source) == pytest.approx(expected * math.log(2))
