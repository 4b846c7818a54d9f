"""Vision transformers with fewer heads, neurons and layers: what stays, what it costs, and the command."""

import copy
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import (
    AutoModelForImageClassification,
    BeitConfig,
    BeitForImageClassification,
    DeiTConfig,
    DeiTForImageClassification,
    IJepaConfig,
    IJepaForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
    ViTModel,
    ViTMSNConfig,
    ViTMSNForImageClassification,
)

from hf_effmodels.cli import main
from hf_effmodels.compression.command import prune, prune_vision
from hf_effmodels.compression.pruning import vision
from hf_effmodels.compression.pruning.vision import (
    VisionSizes,
    choose_vision_sizes,
    count_parameters,
    keep_structures,
    prune_vision_transformer,
    vision_scores,
)

_SIZES = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
_SIZES |= {"image_size": 16, "patch_size": 8, "num_labels": 5}
MODELS = {
    "vit": (ViTForImageClassification, ViTConfig(**_SIZES)),
    "deit": (DeiTForImageClassification, DeiTConfig(**_SIZES)),
    "vit_msn": (ViTMSNForImageClassification, ViTMSNConfig(**_SIZES)),
    "ijepa": (IJepaForImageClassification, IJepaConfig(**_SIZES)),
    "beit": (BeitForImageClassification, BeitConfig(**_SIZES, use_relative_position_bias=True)),
}
PIXELS = torch.randn(4, 6, 3, 16, 16, generator=torch.Generator().manual_seed(3))


def build(name):
    torch.manual_seed(0)
    network, config = MODELS[name]
    model = network(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)  # biases, scales and tables as well
    return model


@pytest.mark.parametrize("name", MODELS)
def test_dead_structures_go_and_nothing_changes(name, tmp_path):
    model = build(name).double()
    heads, neurons = [[0, 2, 3], [1, 2, 3], [0, 1, 2]], [[*range(40)], [*range(8, 48)], [*range(4, 44)]]
    with torch.no_grad():
        for layer, alive, speaking in zip(model.base_model.layers, heads, neurons, strict=True):
            (dead,) = {0, 1, 2, 3} - {*alive}
            layer.attention.v_proj.weight[dead * 6 : dead * 6 + 6] = 0
            layer.attention.v_proj.bias[dead * 6 : dead * 6 + 6] = 0
            silent = sorted({*range(48)} - {*speaking})
            layer.mlp.fc1.weight[silent] = 0
            layer.mlp.fc1.bias[silent] = 0  # gelu(0) = 0
        last = model.base_model.layers[1]  # a layer that does nothing
        for part in (last.attention.o_proj, last.mlp.fc2):
            part.weight.zero_()
            part.bias.zero_()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    smaller, report = prune_vision_transformer(
        model, PIXELS, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40
    )
    assert report.kept_layers == [0, 2] and report.kept_heads == [heads[0], heads[2]]
    assert report.kept_neurons == [neurons[0], neurons[2]] and report.divergence < 1e-12
    assert type(smaller) is type(model) and smaller.config.head_dim == 6
    with torch.no_grad():
        expected = model(PIXELS[0].double()).logits
        torch.testing.assert_close(smaller(PIXELS[0].double()).logits, expected, rtol=0, atol=1e-9)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    smaller.save_pretrained(tmp_path)
    loaded, info = AutoModelForImageClassification.from_pretrained(
        tmp_path, dtype=torch.float64, output_loading_info=True
    )
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        torch.testing.assert_close(loaded(PIXELS[0].double()).logits, expected, rtol=0, atol=1e-9)


@torch.no_grad()
def test_scores_are_their_formulas():
    model = build("vit")
    scores = vision_scores(model, [PIXELS[0], PIXELS[1]])
    seen = {}
    layer = model.vit.layers[1]
    for part, module in (("heads", layer.attention.o_proj), ("neurons", layer.mlp.fc2)):
        module.register_forward_pre_hook(lambda _, args, part=part: seen.update({part: args[0]}))
    states = model(PIXELS[:2].flatten(0, 1), output_hidden_states=True).hidden_states
    for unit in range(4):
        lengths = seen["heads"][..., unit * 6 : unit * 6 + 6].double().pow(2).sum(-1).sqrt()
        assert scores.heads[1][unit].item() == pytest.approx(lengths.mean(1).pow(2).sum().sqrt().item(), rel=1e-6)
    magnitudes = seen["neurons"][..., 7].double().abs()
    assert scores.neurons[1][7].item() == pytest.approx(magnitudes.mean(1).pow(2).sum().sqrt().item(), rel=1e-6)
    cosines = (states[1] * states[2]).sum(-1) / states[1].norm(dim=-1) / states[2].norm(dim=-1)
    assert scores.influences[1].item() == pytest.approx(1 - cosines.mean().item(), rel=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_layers_and_heads_of_a_network_in_half_precision_have_different_scores(dtype):
    """Layers that change little of what goes in, of a network whose first token is zero."""
    model = build("deit")
    for layer in model.deit.layers:
        layer.attention.o_proj.weight *= 0.05
        layer.mlp.fc2.weight *= 0.05
    model.deit.embeddings.cls_token.zero_()
    model.deit.embeddings.position_embeddings[:, 0] = 0
    model, seen = model.to(dtype), []
    model.deit.layers[1].attention.o_proj.register_forward_pre_hook(lambda _, args: seen.append(args[0].double()))
    scores = vision_scores(model, [PIXELS[0]])
    states = model(PIXELS[0].to(dtype), output_hidden_states=True).hidden_states
    states = [each.double() for each in states]
    for number in range(3):
        pairs = states[number], states[number + 1]
        lengths = [each.norm(dim=-1).clamp(min=1e-8) for each in pairs]
        expected = 1 - ((pairs[0] * pairs[1]).sum(-1) / lengths[0] / lengths[1]).mean().item()
        assert scores.influences[number].item() == pytest.approx(expected, rel=1e-3, abs=1e-7)
    assert len(set(scores.influences.tolist())) == 3
    lengths = seen[0].unflatten(-1, (4, 6)).norm(dim=-1).mean(1).square().sum(0).sqrt()
    assert scores.heads[1].tolist() == pytest.approx(lengths.tolist(), rel=1e-5)


@pytest.mark.parametrize("way", ["width", "depth", "any"])
def test_a_budget_is_met_by_sizes_that_are_counted_before_a_model_is_made(way):
    model = build("beit")
    smaller, report = prune_vision_transformer(model, PIXELS, target_parameters=0.7, way=way, tolerance=0.15)
    assert report.parameters == smaller.num_parameters() == pytest.approx(0.7 * report.of, rel=0.15)
    shapes = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
    sizes = VisionSizes.of(smaller.config)
    assert count_parameters(shapes, VisionSizes.of(model.config), sizes) == report.parameters
    whole = VisionSizes.of(model.config)
    assert (sizes.num_hidden_layers < whole.num_hidden_layers) >= (way == "depth")
    assert way != "width" or (sizes.num_hidden_layers == 3 and sizes.intermediate_size < 48)
    assert way != "depth" or (sizes.intermediate_size, sizes.num_attention_heads) == (48, 4)


@torch.no_grad()
def test_layers_that_are_named_are_kept():
    model = build("deit")
    smaller, report = prune_vision_transformer(model, PIXELS, layers=[2, 0])
    assert report.kept_layers == [0, 2] and smaller.config.num_hidden_layers == 2
    assert torch.equal(smaller.deit.layers[1].mlp.fc1.weight, model.deit.layers[2].mlp.fc1.weight)
    # Of four batches the last one is kept for comparing: it is measured on, and gives no scores.
    p, q = (network(PIXELS[3]).logits.double().softmax(-1) for network in (model, smaller))
    assert report.divergence == pytest.approx(float((p * (p / q).log()).sum(-1).mean()), rel=1e-5)
    batches = [*PIXELS[:3], PIXELS[3].repeat(5, 1, 1, 1)]
    _, report = prune_vision_transformer(model, batches, intermediate_size=20)
    best = [
        [of_layer.topk(20).indices.sort().values.tolist() for of_layer in vision_scores(model, seen).neurons]
        for seen in (batches[:3], batches)
    ]
    assert report.kept_neurons == best[0] != best[1]


@torch.no_grad()
def test_every_picture_counts_the_same_in_batches_of_any_size():
    """Of eight batches the fourth and the eighth are kept for comparing; layers go by the others."""
    model, pixels = build("vit"), PIXELS.flatten(0, 1)
    sizes = [2, 3, 1, 4, 5, 2, 1, 6]
    batches = list(pixels.split(sizes))
    smaller, report = prune_vision_transformer(model, batches, num_hidden_layers=2, intermediate_size=20)
    held_out = torch.cat([batches[3], batches[7]])
    p, q = (network(held_out).logits.double().softmax(-1) for network in (model, smaller))
    assert report.divergence == pytest.approx(float((p * (p / q).log()).sum(-1).mean()), rel=1e-5)
    seen = [batch for number, batch in enumerate(batches) if number not in (3, 7)]
    scores = vision_scores(model, seen)
    states = model(torch.cat(seen), output_hidden_states=True).hidden_states
    for layer, (before, after) in enumerate(zip(states[:3], states[1:4], strict=True)):
        if layer < 2:  # behind the last one the states are normalised
            cosines = F.cosine_similarity(before.double(), after.double(), dim=-1)
            assert scores.influences[layer].item() == pytest.approx(1 - cosines.mean().item(), rel=1e-5)
    whole = vision_scores(model, [torch.cat(seen)])
    torch.testing.assert_close(scores.influences, whole.influences, rtol=1e-5, atol=1e-7)
    assert report.kept_layers == scores.influences.topk(2).indices.sort().values.tolist()


@torch.no_grad()
@pytest.mark.parametrize("count", [1, 2, 3])
def test_of_few_batches_the_last_is_compared_on_and_all_are_seen(count):
    model, batches = build("vit"), list(PIXELS[:count])
    smaller, report = prune_vision_transformer(model, iter(batches), intermediate_size=20)
    p, q = (network(batches[-1]).logits.double().softmax(-1) for network in (model, smaller))
    assert report.divergence == pytest.approx(float((p * (p / q).log()).sum(-1).mean()), rel=1e-5)
    best = [of_layer.topk(20).indices.sort().values.tolist() for of_layer in vision_scores(model, batches).neurons]
    assert report.kept_neurons == best


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_what_is_left_computes_as_the_whole_did(training, attention):
    model = build("vit").train(training)
    model.set_attn_implementation(attention)
    smaller, report = prune_vision_transformer(model, PIXELS, intermediate_size=20)
    assert smaller.training == model.training == training and smaller.config._attn_implementation == attention
    assert "head_dim" not in smaller.config.to_dict() or smaller.config.head_dim in (None, 6)
    assert report.parameters < report.of and not any(module._forward_hooks for module in model.modules())


def test_what_cannot_be_is_refused_before_the_work():
    for options, reason in (
        ({"num_attention_heads": 5}, "num_attention_heads: got 5, accepted are 1 to 4"),
        ({"target_parameters": 1.0}, "no sizes have 1 parameters|target_parameters: got 1.0"),
        ({"target_parameters": 0.01}, "no sizes have .* within 5 %. With these settings there are"),
        ({"target_parameters": 0.5, "way": "deep"}, "way: got 'deep'"),
        ({}, "target_parameters: got None and no sizes"),
        ({"layers": [0, 3]}, "layers: got \\[0, 3\\], accepted are different numbers from 0 to 2"),
        ({"layers": "ends"}, "layers: got 'ends'"),
        ({"layers": [1, 1]}, "layers: got \\[1, 1\\], accepted are different numbers from 0 to 2"),
        ({"layers": []}, "layers: got \\[\\], accepted are different numbers"),
        ({"layers": [-1, 0]}, "layers: got \\[-1, 0\\], accepted are different numbers"),
        ({"layers": [0, 2], "num_hidden_layers": 1}, "num_hidden_layers: got 1, but layers are \\[0, 2\\]"),
        ({"target_parameters": 0.5, "tolerance": 0.0}, "tolerance: got 0.0, accepted are shares between 0 and 1"),
        ({"target_parameters": 0.5, "tolerance": 1.0}, "tolerance: got 1.0"),
        ({"target_parameters": 1e9}, "target_parameters: got 1000000000.0, accepted .* numbers below"),
        ({"target_parameters": 0.0}, "target_parameters: got 0.0"),
        ({"intermediate_size": 24}, "calibration: there are no pictures"),
    ):
        with pytest.raises(ValueError, match=reason):
            prune_vision_transformer(build("vit"), iter(()), **options)
    with pytest.raises(
        ValueError, match="heads: got \\[3, 4, 4\\] for 3 layers, accepted are as many in each: ViTFor"
    ):
        keep_structures(build("vit"), [0, 1, 2], [[0, 1, 2], [*range(4)], [*range(4)]], [[*range(48)]] * 3)
    shared = BeitForImageClassification(BeitConfig(**_SIZES, use_shared_relative_position_bias=True))
    with pytest.raises(ValueError, match="num_attention_heads: all layers share one table"):
        choose_vision_sizes(shared, num_attention_heads=3)
    assert choose_vision_sizes(shared, 0.9).num_attention_heads == 4


@pytest.mark.parametrize(
    "part, weight", [("heads", "attention.v_proj"), ("neurons", "mlp.fc1"), ("layers", "mlp.fc2")]
)
def test_what_says_no_number_is_named(part, weight):
    model = build("vit")
    with torch.no_grad():
        model.get_parameter(f"vit.layers.2.{weight}.weight").fill_(float("nan"))
    with pytest.raises(ValueError, match=f"model: what its {part} say on the calibration pictures is not finite"):
        vision_scores(model, PIXELS)


@torch.no_grad()
def test_a_network_without_a_head_is_pruned_without_a_divergence():
    model = ViTModel(ViTConfig(**_SIZES), add_pooling_layer=False).eval()
    smaller, report = prune_vision_transformer(model, PIXELS[:1], num_attention_heads=3, layers=[1, 2])
    assert report.divergence is None and type(smaller) is ViTModel
    assert report.sizes == {
        "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 48, "head_dim": 6, "hidden_size": 24
    }  # fmt: skip
    assert smaller(PIXELS[0]).last_hidden_state.shape == (6, 5, 24)


@pytest.mark.parametrize("neurons, step", [(64, 4), (72, 4), (160, 8), (512, 32)])
def test_neurons_are_searched_in_steps_of_a_sixteenth_rounded_down_to_a_power_of_two(neurons, step):
    model = ViTForImageClassification(ViTConfig(**_SIZES | {"intermediate_size": neurons}))
    shares = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9)
    kept = [choose_vision_sizes(model, share, tolerance=0.06).intermediate_size for share in shares]
    assert all(size % step == 0 for size in kept) and any(size % (2 * step) for size in kept)


def test_a_quantised_network_is_not_pruned():
    model = build("vit")
    model.config = copy.deepcopy(model.config)
    model.config.quantization_config = {"quant_method": "cbq"}
    with pytest.raises(ValueError, match="model: it is quantised; accepted are weights in floating point"):
        choose_vision_sizes(model, 0.5)


def test_the_command_writes_a_classifier_that_loads_with_its_processor(tmp_path, capsys):
    large, small, pictures = tmp_path / "large", tmp_path / "small", tmp_path / "pictures"
    build("vit").save_pretrained(large)
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(large)
    pictures.mkdir()
    for number, values in enumerate(np.random.default_rng(0).integers(0, 256, (12, 20, 20, 3), dtype=np.uint8)):
        Image.fromarray(values).save(pictures / f"{number}.png")
    arguments = ["prune", str(large), str(small), "--images", str(pictures), "--batch-size", "3"]
    assert main([*arguments, "--target-parameters", "60%", "--tolerance", "0.15", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    model = AutoModelForImageClassification.from_pretrained(small)
    assert model.num_parameters() == report["parameters"] < 0.7 * report["of"] and report["divergence"] > 0
    assert (small / "preprocessor_config.json").exists() and model.config.head_dim == 6
    assert len(json.loads((small / "pruning.json").read_text())["kept_heads"][0]) == report["num_attention_heads"]
    new = str(tmp_path / "new")
    for wrong, reason in (
        ([*arguments[:2], new, *arguments[3:], "--hidden", "12"], "--hidden: got 12, which is for language models"),
        ([*arguments[:2], new, "--layers", "2"], "--images is missing"),
        ([*arguments[:2], new, "--layers", "2", "--images", "nowhere"], "--images: there is no folder 'nowhere'"),
        ([*arguments[:2], new, *arguments[3:], "--heads", "9"], "--heads: got 9, accepted are 1 to 4"),
        ([*arguments[:2], new, *arguments[3:], "--key-value-heads", "2"], "--key-value-heads: got 2, which is for"),
        ([*arguments[:2], new, *arguments[3:], "--candidates", "2"], "--candidates: got 2, which is for language"),
        ([*arguments[:2], new, *arguments[3:], "--retraining-steps", "1"], "--retraining-steps: got 1, which is for"),
        ([*arguments[:2], new, *arguments[3:], "--method", "l1"], "--method: got l1, which is for language models"),
        ([*arguments[:2], new, *arguments[3:], "--rescale-norms"], "--rescale-norms: got True, which is for language"),
        ([*arguments[:2], new, "--layers", "2", "--images", str(tmp_path / "none")], "--images: there is no folder"),
        ([*arguments[:2], new, "--layers", "2", "--images", str(large)], "--images: .* has 0 pictures, accepted are"),
    ):
        assert main(wrong) == 2
        assert re.search(reason, capsys.readouterr().err), wrong
    assert not (tmp_path / "new").exists()
    assert main([*arguments[:2], new, *arguments[3:], "--select-layers", "0,2", "--heads", "3", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["kept_layers"] == [0, 2] and report["num_hidden_layers"] == 2 and report["folder"] == new


def test_sizes_that_are_not_given_follow_from_the_layers_that_are():
    unset = {"num_attention_heads": None, "intermediate_size": None}
    model = build("vit")
    for given in ({}, {"num_hidden_layers": None}, {"num_hidden_layers": 2}):
        smaller, report = prune_vision_transformer(model, PIXELS, layers=[0, 2], **unset, **given)
        assert report.kept_layers == [0, 2] and smaller.config.num_hidden_layers == 2
        assert report.kept_heads == [[*range(4)]] * 2 and report.kept_neurons == [[*range(48)]] * 2


@torch.no_grad()
def test_a_smaller_network_computes_and_trains_in_the_way_of_the_larger():
    model = build("vit").to(torch.bfloat16).train()
    model.set_attn_implementation("eager")
    smaller = keep_structures(model, [2, 0], [[1, 3], [0, 2]], [[5, 4], [0, 47]])
    assert smaller.training and smaller.dtype == torch.bfloat16 and smaller.config._attn_implementation == "eager"
    assert (model.config.num_hidden_layers, smaller.config.num_hidden_layers, smaller.config.head_dim) == (3, 2, 6)
    # In the order that is given: the third layer is the first, its fifth neuron the second.
    first, third = smaller.vit.layers[0], model.vit.layers[2]
    assert torch.equal(first.mlp.fc1.weight, third.mlp.fc1.weight[[5, 4]])
    assert torch.equal(first.mlp.fc2.weight, third.mlp.fc2.weight[:, [5, 4]])
    rows = [*range(6, 12), *range(18, 24)]
    assert torch.equal(first.attention.v_proj.bias, third.attention.v_proj.bias[rows])
    assert torch.equal(first.attention.o_proj.weight, third.attention.o_proj.weight[:, rows])
    assert not keep_structures(model.eval(), [0], [[0]], [[0]]).training
    few = (([[0]], [[0], [1]], "heads"), ([[0], [1]], [[0]], "neurons"), ([[], []], [[0]] * 2, "heads"))
    for heads, neurons, name in few:
        with pytest.raises(ValueError, match=f"^{name}: got .* for 2 layers, accepted are as many in each"):
            keep_structures(model, [0, 1], heads, neurons)


@pytest.mark.parametrize("share", [0.4, 0.6, 0.8])
def test_the_sizes_of_a_budget_take_heads_and_neurons_as_evenly_as_can_be(share):
    """Against all sizes in their steps (of two neurons), counted by making none."""
    model = build("deit")
    shapes = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
    whole, target = VisionSizes.of(model.config), share * model.num_parameters()
    fitting = {}
    for heads in range(1, 5):
        for neurons in range(2, 49, 2):
            sizes = VisionSizes(3, heads, neurons, 6)
            count = count_parameters(shapes, whole, sizes)
            if abs(count / target - 1) <= 0.1:
                fitting[sizes] = abs(np.log(heads / 4) - np.log(neurons / 48)), abs(count / target - 1)
    found = choose_vision_sizes(model, share, tolerance=0.1)
    uneven, off = fitting[found]
    assert uneven == pytest.approx(min(each for each, _ in fitting.values()), abs=1e-6)
    assert off == min(off for each, off in fitting.values() if abs(each - uneven) < 1e-6)
    assert choose_vision_sizes(model, share * model.num_parameters(), tolerance=0.1) == found


@pytest.mark.parametrize("batches, size, expected", [(2, 3, [3, 3]), (3, 5, [5, 5, 2]), (1, 4, [4]), (1, 1, [1])])
def test_so_many_batches_of_pictures_are_looked_at_each_once(batches, size, expected, tmp_path, monkeypatch, capsys):
    build("vit").save_pretrained(tmp_path / "large")
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(tmp_path / "large")
    for number in range(12):  # in the folders of two classes, from dark to light
        folder = tmp_path / "pictures" / ("cat", "dog")[number // 6]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (20 * number, 0, 0)).save(folder / f"{number:02}.png")
    seen = []

    def look(model, given, **_):
        seen.extend(given)
        raise ValueError("model: this is enough")

    monkeypatch.setattr(vision, "prune_vision_transformer", look)
    sizes = ["--calibration-batches", str(batches), "--batch-size", str(size)]
    argv = ["prune", str(tmp_path / "large"), str(tmp_path / "small"), "--images", str(tmp_path / "pictures")]
    assert main([*argv, "--layers", "2", *sizes]) == 2 and "this is enough" in capsys.readouterr().err
    assert [len(batch) for batch in seen] == expected
    shades = torch.cat(seen)[:, 0, 0, 0].tolist()
    assert len({*shades}) == len(shades)
    seen.clear()
    assert main([*argv, "--layers", "2", *sizes]) == 2
    assert torch.cat(seen)[:, 0, 0, 0].tolist() == shades, "the same ones each time"
    if len(shades) > 1:
        assert shades != sorted(shades), "in random order"
        middle = (5.5 * 20 / 255 - 0.5) / 0.5  # between the classes, as the processor writes it
        assert min(shades) < middle < max(shades), "of both classes"


@pytest.mark.parametrize("chosen, layers, number", [("importance", "importance", 2), ("0,2", [0, 2], 2)])
def test_the_command_prunes_by_what_its_options_say(chosen, layers, number, tmp_path, monkeypatch, capsys):
    build("vit").save_pretrained(tmp_path / "large")
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(tmp_path / "large")
    for name in "abcdefgh":
        Image.new("RGB", (16, 16)).save(tmp_path / f"{name}.png")
    given = []

    def look(model, batches=None, **options):
        given.append(options)
        if batches is not None:
            raise ValueError("model: this is enough")

    monkeypatch.setattr(vision, "prune_vision_transformer", look)
    monkeypatch.setattr(vision, "choose_vision_sizes", look)
    argv = ["prune", str(tmp_path / "large"), str(tmp_path / "small"), "--images", str(tmp_path)]
    argv += ["--target-parameters", "40%", "--way", "any", "--tolerance", "0.2"]
    argv += ["--heads", "3", "--intermediate", "20"]
    argv += ["--select-layers", chosen] + (["--layers", "2"] if isinstance(layers, str) else [])
    assert main(argv) == 2 and "this is enough" in capsys.readouterr().err
    named = {"target_parameters": 0.4, "way": "any", "tolerance": 0.2}
    named |= {"num_hidden_layers": number, "num_attention_heads": 3, "intermediate_size": 20}
    assert given == [named, {**named, "layers": layers}]


def test_pictures_are_seen_in_the_precision_of_the_model():
    model = build("vit").bfloat16()
    smaller, report = prune_vision_transformer(model, PIXELS, intermediate_size=20, num_hidden_layers=2)
    assert smaller.dtype == torch.bfloat16 and PIXELS.dtype == torch.float32
    with torch.no_grad():
        p, q = (network(PIXELS[3].bfloat16()).logits.double().softmax(-1) for network in (model, smaller))
    assert report.divergence == pytest.approx(float((p * (p / q).log()).sum(-1).mean()), rel=1e-6)


def test_the_command_computes_where_it_is_told_to(tmp_path, monkeypatch, capsys):
    build("vit").save_pretrained(tmp_path / "large")
    for name in "abcdefgh":
        Image.new("RGB", (16, 16)).save(tmp_path / f"{name}.png")
    moved = []
    monkeypatch.setattr(prune, "check_device", lambda device: moved.append(f"checked {device}"))
    monkeypatch.setattr(prune_vision, "_load", lambda name: (SimpleNamespace(to=moved.append), None))

    def stop(*_, **__):
        raise ValueError("model: this is enough")

    monkeypatch.setattr(vision, "choose_vision_sizes", stop)
    argv = ["prune", str(tmp_path / "large"), str(tmp_path / "out"), "--images", str(tmp_path), "--layers", "2"]
    assert main([*argv, "--device", "cuda:1"]) == 2 and "this is enough" in capsys.readouterr().err
    assert moved == ["checked cuda:1", "cuda:1"]
