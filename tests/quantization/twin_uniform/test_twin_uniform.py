"""Quantising a promptable model of one's own: integers, intervals, files."""

import copy
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
from transformers import AutoModelForMaskGeneration, SamModel

from hf_effmodels.quantization import quantize_promptable
from hf_effmodels.quantization.twin_uniform import quantization, search, uniform
from hf_effmodels.quantization.twin_uniform.configuration_twin_uniform import TwinUniformConfig
from hf_effmodels.quantization.twin_uniform.layers import TwinLinear, twin_attention
from hf_effmodels.quantization.twin_uniform.published import PublishedLayers, put_published, take_published
from hf_effmodels.registry import ARCHITECTURES

from ...modeling.tiny import tiny_config
from ...pipelines.hierarchical_mask_generation.models import build


def sam() -> SamModel:
    torch.manual_seed(1)
    model = SamModel(copy.deepcopy(build("sam")[0].config))
    model.load_state_dict(build("sam")[0].state_dict())
    return model.eval()


def tinysam():
    torch.manual_seed(0)
    architecture = ARCHITECTURES["tinysam"]
    return architecture.model_class("AutoModel")(tiny_config(architecture)).eval()


def samples(count: int = 2) -> list[dict]:
    generator = torch.Generator().manual_seed(2)
    return [
        {
            "pixel_values": torch.randn(1, 3, 64, 64, generator=generator),
            "input_points": torch.rand(1, 3, 1, 2, generator=generator) * 64,
        }
        for _ in range(count)
    ]


@pytest.fixture(scope="module", params=[sam, tinysam])
def quantized(request):
    model = request.param()
    given = samples(3)
    with torch.no_grad():
        expected = model(**given[2]).pred_masks
    quantize_promptable(model, given[:2], rounds=1)
    return model, given[2], expected


@torch.no_grad()
def test_eight_bits_give_nearly_the_same_masks_and_six_bits_less_so(quantized):
    model, sample, expected = quantized
    off = (model(**sample).pred_masks - expected).std() / expected.std()
    assert 1e-4 < off < 0.3
    rough = type(model) is SamModel and sam() or tinysam()
    quantize_promptable(rough, samples(2), weight_bits=4, activation_bits=4, rounds=1)
    assert (rough(**sample).pred_masks - expected).std() / expected.std() > 2 * off


@torch.no_grad()
def test_files_have_integers_and_load_with_the_same_masks(quantized, tmp_path):
    model, sample, _ = quantized
    model.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    integers = {name for name, value in stored.items() if value.dtype == torch.int8}
    linears = [name for name, module in model.named_modules() if isinstance(module, TwinLinear)]
    assert len(linears) > 10 and integers == {f"{name}.integers" for name in linears}
    assert not any(f"{name}.weight" in stored for name in linears)
    assert not any(type(module) is nn.Linear for module in model.modules())
    attentions = {name for name, module in model.named_modules() if hasattr(module, "query_interval")}
    assert model.config.quantization_config.products.keys() == attentions and len(attentions) > 5
    assert all(f"{name}.value_interval" in stored and f"{name}.split" in stored for name in attentions)
    assert model.config.quantization_config.linears.keys() == set(linears)
    loaded = AutoModelForMaskGeneration.from_pretrained(tmp_path)
    assert loaded.config.quantization_config.quant_method == "twin_uniform"
    torch.testing.assert_close(loaded(**sample).pred_masks, model(**sample).pred_masks, atol=1e-4, rtol=1e-4)
    for name in linears:
        assert torch.equal(loaded.get_submodule(name).integers, model.get_submodule(name).integers)


@torch.no_grad()
def test_a_layer_computes_what_its_integers_and_intervals_say():
    config = TwinUniformConfig(weight_bits=6, activation_bits=5)
    linear, inputs = nn.Linear(6, 4), torch.randn(7, 6)
    weight_interval = torch.tensor([0.03, 0.05]).view(2, 1, 1, 1)
    input_interval = torch.tensor([[0.2], [0.4], [0.1]])
    layer = TwinLinear.of(linear, weight_interval, input_interval, [2, 1, 3, False], config)
    weight = torch.cat(
        [(linear.weight[rows] / s).round().clamp(-32, 31) * s for rows, s in ((slice(2), 0.03), (slice(2, 4), 0.05))]
    )
    rounded = torch.cat(
        [(inputs[:, 2 * n : 2 * n + 2] / s).round().clamp(-16, 15) * s for n, s in enumerate((0.2, 0.4, 0.1))], 1
    )
    torch.testing.assert_close(layer(inputs), F.linear(rounded, weight, linear.bias))
    after = TwinLinear.of(linear, weight_interval, torch.tensor([[0.3]]), [2, 1, 1, True], config)
    gelu, step = F.gelu(inputs * 2), 0.16997124254703522 / 16
    twin = (gelu / 0.3).round().clamp(0, 15) * 0.3 + (gelu / step).round().clamp(-16, 0) * step
    torch.testing.assert_close(after(gelu), F.linear(twin, weight, linear.bias))


def test_two_ranges_of_probabilities_are_chosen_by_the_split_unless_shifted():
    values = torch.tensor([0.0, 0.01, 0.0624, 0.07, 0.5, 1.0])
    split, q = torch.tensor(0.0625), 128
    expected = [
        round(v / (0.0625 / 127)) * 0.0625 / 127 if v < 0.0625 else round(v * 127) / 127 for v in values.tolist()
    ]
    assert uniform.levels(8) == q
    torch.testing.assert_close(uniform.quantize_after_softmax(values, split, 8), torch.tensor(expected))
    shifted = uniform.quantize_after_softmax(values, split, 8, shifted=True)
    assert abs(shifted[0].item() - 8 / 127) < 1e-6, "nothing comes out as about the split"


def test_operands_are_grouped_by_heads_rows_and_columns_and_filled_up():
    values = torch.randn(2, 3, 5, 7)
    intervals = torch.rand(1, 2, 1, 2, 1, 3, 1) * 0.2 + 0.05
    got = uniform.quantize_operand(values, intervals, 6)
    for h in range(3):
        for r in range(5):
            for c in range(7):
                s = intervals[0, h // 2, 0, r // 3, 0, c // 3, 0]
                expected = (values[:, h, r, c] / s).round().clamp(-32, 31) * s
                torch.testing.assert_close(got[:, h, r, c], expected)


def test_the_search_finds_the_best_candidate_of_each_group():
    """One round over columns and inputs of two groups, against trying all by hand."""
    torch.manual_seed(0)
    inputs, weight, gradient = torch.randn(9, 4), torch.randn(3, 4), torch.randn(9, 3)
    options = {"weight_bits": 4, "input_bits": 4, "column_groups": 2, "input_groups": 2, "rounds": 1}
    w, a = search.search_linear(inputs, weight, None, gradient, **options)
    factors = [0.01 + i * 1.19 / 100 for i in range(100)]
    start_w = [weight[:, :2].abs().max() / 7.5, weight[:, 2:].abs().max() / 7.5]
    start_a = [inputs[:, :2].abs().max() / 7.5, inputs[:, 2:].abs().max() / 7.5]

    def error(ws, as_):
        wq = torch.cat([(weight[:, 2 * n : 2 * n + 2] / s).round().clamp(-8, 7) * s for n, s in enumerate(ws)], 1)
        xq = torch.cat([(inputs[:, 2 * n : 2 * n + 2] / s).round().clamp(-8, 7) * s for n, s in enumerate(as_)], 1)
        return (gradient * (xq @ wq.T - inputs @ weight.T)).square().mean().item()

    def best(start, group, score):
        return min((start[group] * f for f in factors), key=score)

    ws, as_ = list(start_w), list(start_a)
    for g in range(2):
        ws[g] = best(start_w, g, lambda s, g=g: error([*ws[:g], s, *ws[g + 1 :]], as_))
    for g in range(2):
        as_[g] = best(start_a, g, lambda s, g=g: error(ws, [*as_[:g], s, *as_[g + 1 :]]))
    torch.testing.assert_close(w.flatten(), torch.stack(ws))
    torch.testing.assert_close(a.flatten(), torch.stack(as_))


@pytest.mark.parametrize("rounds", [0, 2])
def test_as_many_rounds_are_searched_as_are_asked_for_and_attention_is_computed_as_before(monkeypatch, rounds):
    given = []
    for name in ("search_linear", "search_product"):
        real = getattr(quantization, name)
        monkeypatch.setattr(
            quantization,
            name,
            lambda *a, f=real, n=name, **o: given.append((n, o["rounds"])) or f(*a, **{**o, "rounds": 0}),
        )
    model = tinysam()
    quantize_promptable(model, samples(1), rounds=rounds)
    assert {*given} == {("search_linear", rounds), ("search_product", rounds)}
    # Of the parts that are not quantised, the model itself among them; no longer what has watched the others.
    used = {m.config._attn_implementation for m in model.modules() if hasattr(m, "config")}
    assert used == {"sdpa", "twin_uniform"} and model.config._attn_implementation == "sdpa"


def test_what_is_skipped_stays_and_bad_input_is_said(tmp_path):
    model = tinysam()
    with pytest.raises(ValueError, match="samples: got none"):
        quantize_promptable(model, [])
    with pytest.raises(ValueError, match="weight_bits: got 9, accepted are whole numbers from 2 to 8"):
        quantize_promptable(model, samples(1), weight_bits=9)
    broken = tinysam()
    broken.mask_decoder.iou_token.weight.data[0, 0] = float("inf")
    with pytest.raises(ValueError, match="^model: .* has 1 broken weights: mask_decoder.iou_token.weight"):
        quantize_promptable(broken, samples(1))
    quantize_promptable(model, samples(1), skip=["mask_decoder", "vision_encoder.stages.1"], rounds=1)
    assert not any(isinstance(module, TwinLinear) for module in model.mask_decoder.modules())
    assert type(model.vision_encoder.stages[1].blocks[0].mlp.fc1) is nn.Linear
    assert isinstance(model.vision_encoder.stages[2].blocks[0].mlp.fc1, TwinLinear)
    assert model.vision_encoder.stages[2].blocks[0].mlp.fc2.after_gelu
    assert model.vision_encoder.stages[2].blocks[0].attention.qkv.weight_interval.shape == (3, 1, 1, 1)
    with pytest.raises(ValueError, match="quantised already"):
        quantize_promptable(model, samples(1))
    with pytest.raises(ValueError, match="training mode"):
        quantize_promptable(tinysam().train(), samples(1))


class Single(nn.Module):
    """A promptable model that is a single layer."""

    def __init__(self, layer: nn.Linear, name: str = "linear"):
        super().__init__()
        self.name, self.config = name, SimpleNamespace(_attn_implementation="eager")
        self.add_module(name, layer)

    def forward(self, pixel_values):
        output = self.get_submodule(self.name)(pixel_values)
        return SimpleNamespace(pred_masks=output, iou_scores=output.mean(-1))


def squares(outputs, generator):
    return outputs.pred_masks.square().mean()


def single(values: torch.Tensor, name: str = "linear", outputs: int = 4, **options) -> TwinLinear:
    torch.manual_seed(0)
    model = Single(nn.Linear(values.shape[-1], outputs), name).eval().requires_grad_(False)
    quantize_promptable(model, [{"pixel_values": values}], **{"loss": squares, "rounds": 0, **options})
    return model.get_submodule(name)


def test_without_a_search_the_largest_value_decides():
    values = torch.randn(9, 6, generator=torch.Generator().manual_seed(3))
    layer = single(values, weight_bits=6, activation_bits=4)
    torch.manual_seed(0)
    weight = nn.Linear(6, 4).weight
    torch.testing.assert_close(layer.weight_interval.flatten(), weight.abs().max().view(1) / 31.5)
    torch.testing.assert_close(layer.input_interval.flatten(), values.abs().max().view(1) / 7.5)
    assert not layer.after_gelu and not layer.bias.requires_grad


@pytest.mark.parametrize(
    "least, after_gelu", [(-0.17, True), (-0.17006, True), (-0.1701, False), (0.0, False), (-1e-3, True)]
)
def test_inputs_no_lower_than_a_gelus_minimum_follow_one(least, after_gelu):
    values = torch.full((3, 6), 0.5)
    values[1, 2] = least
    assert single(values).after_gelu is after_gelu
    # Of inputs that follow one the largest decides, of others the largest magnitude.
    low = torch.full((3, 6), 0.1)
    low[1, 2] = least
    expected = 0.1 if after_gelu else max(0.1, -least)
    assert single(low).input_interval.item() == pytest.approx(expected / 127.5)


@pytest.mark.parametrize("rounds", [0, 1])
def test_inputs_of_which_none_is_positive_have_a_step_of_one(rounds):
    """What is negative after a GELU has one of its own."""
    layer = single(torch.full((3, 6), -0.1), rounds=rounds)
    assert layer.after_gelu and layer.input_interval.isfinite().all() and layer.input_interval.item() > 0
    if not rounds:
        assert layer.input_interval.item() == 1
    assert layer(torch.full((1, 6), -0.1)).isfinite().all()


def test_queries_keys_and_values_in_one_layer_have_an_interval_each():
    values = torch.randn(3, 6)
    shapes = [tuple(single(values, *named).weight_interval.shape) for named in (("qkv", 9), ("qkv", 8), ("kqv", 9))]
    assert shapes == [(3, 1, 1, 1), (1, 1, 1, 1), (1, 1, 1, 1)]


def test_rows_are_drawn_by_the_seed_where_there_are_more():
    values = torch.randn(40, 6, generator=torch.Generator().manual_seed(3))

    def interval(**options) -> float:
        return single(values, **options).input_interval.item()

    largest = values.abs().amax(1) / 127.5
    assert interval(most_rows=40) == interval(most_rows=40, seed=1) == pytest.approx(largest.max().item())
    drawn = {interval(most_rows=1, seed=seed) for seed in range(6)}
    assert len(drawn) > 1 and all(min(abs(largest - one)) < 1e-6 for one in drawn)
    assert interval(most_rows=1, seed=4) == interval(most_rows=1, seed=4)


def test_samples_that_give_an_attention_other_sizes_are_refused():
    given = samples(2)
    given[1]["input_points"] = given[1]["input_points"].repeat(1, 1, 2, 1)
    with pytest.raises(ValueError, match="samples: they give an attention other sizes; give all of them as many po"):
        quantize_promptable(tinysam(), given, rounds=0)


INTERVALS = {
    "a.weight": torch.ones(4, 6),
    "a.w_interval": torch.ones(1, 1, 1, 1),
    "a.a_interval": torch.ones(2, 1),
    "a.n_V": torch.tensor(1),
    "m.matmul1.A_interval": torch.ones(1, 4, 1, 1, 1, 1, 1),
    "m.matmul1.B_interval": torch.full((1, 4, 1, 1, 1, 1, 1), 2.0),
    "m.matmul2.A_interval": torch.tensor(0.5 / 127),
    "m.matmul2.split": torch.tensor(0.5),
    "m.matmul2.B_interval": torch.full((1, 4, 1, 1, 1, 1, 1), 3.0),
}
BITS = {"a": {"w_bit": 6, "a_bit": 8}, "m.matmul1": {"A_bit": 8, "B_bit": 8}, "m.matmul2": {"A_bit": 8, "B_bit": 8}}


def test_a_published_file_is_taken_apart():
    tensors = dict(INTERVALS)
    found = take_published(tensors, BITS)
    assert tensors.keys() == {"a.weight"} and (found.weight_bits, found.activation_bits) == (6, 8)
    assert found.linears["a"][2] is False and found.products["m"]["split"].tolist() == [0.5]
    assert [found.products["m"][name].mean().item() for name in ("query", "key", "value")] == [1, 2, 3]
    assert take_published(INTERVALS | {"a.a_neg_interval": torch.ones(1)}, BITS).linears["a"][2] is True
    products = {name: value for name, value in INTERVALS.items() if not name.startswith("a.")}
    assert take_published(dict(products), BITS).weight_bits == 8  # products have no weights
    linears = {name: value for name, value in INTERVALS.items() if name.startswith("a.")}
    alone = take_published(dict(linears), BITS)
    assert alone.linears.keys() == {"a"} and alone.products == {} and alone.weight_bits == 6
    raw = {name: {**bits, "mode": "raw"} for name, bits in BITS.items()}
    assert take_published(dict(INTERVALS), raw) is None and take_published({"a.weight": torch.ones(2, 2)}, {}) is None
    # A kernel becomes what its integers of four bits stand for.
    tensors = {"c.weight": torch.tensor([[[[0.6, 3.0]]]]), "c.w_interval": torch.tensor(0.25)}
    assert take_published(tensors, {"c": {"w_bit": 4, "a_bit": 32}}) is None
    assert tensors["c.weight"].flatten().tolist() == [0.5, 7 * 0.25]


@pytest.mark.parametrize(
    "tensors, bits, message",
    [
        ({}, {"a": {"a_bit": 8}}, "a has intervals and no w_bit"),
        ({}, {"m.matmul1": {"A_bit": 8, "B_bit": 6}}, "the operands of m.matmul1 have other numbers of bits each"),
        ({"m.matmul1.A_interval": None, "m.matmul1.B_interval": None}, {}, "of m only the second is quantised"),
        ({"m.matmul2.split": torch.tensor(0.25)}, {}, "the probabilities of m have an interval that is not that of"),
        (
            {"m.matmul1.B_interval": torch.ones(1, 4, 1, 2, 1, 1, 1)},
            {},
            r"the key of m has intervals \(1, 4, 1, 2, 1, 1, 1\), accepted is one a head",
        ),
        ({"m.matmul2.B_interval": torch.ones(4)}, {}, r"the value of m has intervals \(4,\), accepted is one a head"),
        (
            {"c.weight": torch.ones(1, 1, 1, 1), "c.w_interval": torch.ones(1)},
            {"c": {"w_bit": 8, "a_bit": 31}},
            "the convolution c has quantised inputs, accepted are floats",
        ),
        ({}, {"a": {"w_bit": 8, "a_bit": 6}}, r"weights of \[8\] and inputs of \[6, 8\] bits; accepted is one number"),
    ],
)
def test_published_layers_that_cannot_be_computed_are_named(tensors, bits, message):
    tensors = {name: value for name, value in (INTERVALS | tensors).items() if value is not None}
    with pytest.raises(ValueError, match=f"^checkpoint: .*{message}"):
        take_published(tensors, BITS | bits)


def test_groups_and_bits_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="groups: 3 × 1 do not divide a weight of 4 × 6"):
        uniform.weight_groups(torch.ones(4, 6), 3, 1)
    with pytest.raises(ValueError, match="groups: 2 × 4 do not divide a weight of 4 × 6"):
        uniform.weight_groups(torch.ones(4, 6), 2, 4)
    for wrong in (1, 17, 8.0):
        with pytest.raises(ValueError, match=f"bits: got {wrong}, accepted are whole numbers from 2 to 16"):
            uniform.levels(wrong)
    assert [uniform.levels(bits) for bits in (2, 16)] == [2, 32768]
    for wrong in ({"weight_bits": 1}, {"activation_bits": 17}, {"activation_bits": 1}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))}: got .*, accepted are whole numbers from 2 to"):
            TwinUniformConfig(**wrong)
    TwinUniformConfig(weight_bits=2, activation_bits=16), TwinUniformConfig(weight_bits=8, activation_bits=2)
    # A kernel has an interval for each of its filters, and one of zeros any.
    kernel = torch.tensor([[[[1.0, -3.0]]], [[[0.0, 0.0]]]])
    assert search.search_convolution(kernel, 4).flatten().tolist() == [pytest.approx(3 / 7.5), 1.0]
    assert uniform.quantize_map(torch.tensor([[[[0.9]]]]), torch.tensor(0.25), 4, shift=0.5).item() == 1.0


@torch.no_grad()
@pytest.mark.parametrize("shifted", [False, True])
def test_an_attention_computes_on_rounded_operands_and_gives_its_own_weights(shifted):
    query, key, value = torch.randn(3, 2, 2, 5, 4, generator=torch.Generator().manual_seed(1)).unbind(0)
    bias = torch.randn(1, 2, 5, 5)
    steps = {name: torch.tensor([0.1, 0.2]) * factor for name, factor in (("query", 1), ("key", 2), ("value", 0.5))}
    module = SimpleNamespace(split=torch.tensor(0.25), product_bits=6, product_shifted=shifted)
    for name, step in steps.items():
        setattr(module, f"{name}_interval", step.view(1, 2, 1, 1, 1, 1, 1))

    def rounded(values, name):
        step = steps[name].view(1, 2, 1, 1)
        return (values / step).round().clamp(-32, 31) * step

    weights = (rounded(query, "query") @ rounded(key, "key").mT * 0.5 + bias).softmax(-1)
    low = (weights.clamp(max=0.25) / (0.25 / 31)).round() * 0.25 / 31
    high = (weights.clamp(min=0.25) * 31).round() / 31
    used = low + high if shifted else torch.where(weights < 0.25, low, high)
    output, given = twin_attention(module, query, key, value, bias, 0.5)
    torch.testing.assert_close(given, weights)
    torch.testing.assert_close(output, (used @ rounded(value, "value")).transpose(1, 2))
    plain, given = twin_attention(SimpleNamespace(), query, key, value, None, 0.5)
    torch.testing.assert_close(given, (query @ key.mT * 0.5).softmax(-1))
    torch.testing.assert_close(plain, (given @ value).transpose(1, 2))


@torch.no_grad()
def test_published_layers_take_the_places_of_ours_with_their_own_numbers_of_bits():
    model = Single(nn.Linear(6, 4))
    model.attention = nn.Module()
    model.attention.num_heads, model.attention.config = 3, model.config
    weight, inputs = torch.tensor([0.02, 0.03]).view(2, 1, 1, 1), torch.tensor([[0.1], [0.2], [0.3]])
    products = {
        name: torch.full((1, 1, 1, 1, 1, 1, 1), 0.1 * n) for n, name in enumerate(("query", "key", "value"), 1)
    }
    expected = {n: m.weight.clone() for n, m in model.named_modules() if isinstance(m, nn.Linear)}["linear"]
    put_published(
        model,
        PublishedLayers(6, 7, {"l": (weight, inputs, True)}, {"a": {**products, "split": torch.tensor([0.5])}}),
        {"l": "linear", "a": "attention"}.__getitem__,
    )
    layer, config = model.linear, model.config.quantization_config
    assert (config.weight_bits, config.activation_bits, config.shifted) == (6, 7, True)
    assert config.linears == {"linear": [2, 1, 3, True]} and config.products == {"attention": 3}
    assert (layer.bits, layer.after_gelu) == (7, True) and torch.equal(layer.input_interval, inputs)
    rows = weight.flatten().repeat_interleave(2)[:, None]
    torch.testing.assert_close(layer.weight, (expected / rows).round().clamp(-32, 31) * rows)
    assert model.attention.value_interval.flatten().tolist() == pytest.approx([0.3] * 3)
    assert (model.attention.product_bits, model.attention.product_shifted) == (7, True)
    assert model.attention.split.tolist() == [0.5] and model.config._attn_implementation == "twin_uniform"
    assert not any(parameter.requires_grad for parameter in model.parameters())


FACTORS = [0.01 + i * 1.19 / 100 for i in range(100)]


def rounded(values, step, bits):
    return (values / step).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) * step


def test_intervals_of_a_product_are_the_best_of_each_head_in_turns():
    generator = torch.Generator().manual_seed(5)
    first, second = torch.randn(2, 2, 4, 3, generator=generator), torch.randn(2, 2, 3, 5, generator=generator)
    gradient = torch.randn(2, 2, 4, 5, generator=generator)
    a, b = search.search_product(first, second, gradient, bits=3, rounds=2)
    assert a.shape == b.shape == (1, 2, 1, 1, 1, 1, 1)
    for head in range(2):
        x, y, g = first[:, head], second[:, head], gradient[:, head]
        start = [values.abs().max() / 3.5 for values in (x, y)]

        def error(s, t, x=x, y=y, g=g):
            return (g * (rounded(x, s, 3) @ rounded(y, t, 3) - x @ y)).square().mean().item()

        s, t = start
        for _ in range(2):
            s = min((start[0] * factor for factor in FACTORS), key=lambda tried, t=t: error(tried, t))
            t = min((start[1] * factor for factor in FACTORS), key=lambda tried, s=s: error(s, tried))
        torch.testing.assert_close(torch.stack([s, t]), torch.stack([a.flatten()[head], b.flatten()[head]]))
    assert torch.equal(
        search.search_product(first, second, gradient, bits=3, rounds=0)[0].flatten(),
        (first.abs().amax((0, 2, 3)) / 3.5),
    )


@pytest.mark.parametrize("shifted", [False, True])
def test_the_split_of_probabilities_is_the_best_for_all_heads_and_the_values_have_one_each(shifted):
    generator = torch.Generator().manual_seed(6)
    probabilities = (3 * torch.randn(2, 2, 4, 6, generator=generator)).softmax(-1)
    values, gradient = (torch.randn(2, 2, n, 5, generator=generator) for n in (6, 4))
    split, interval = search.search_product_after_softmax(probabilities, values, gradient, bits=4, shifted=shifted)

    def used(at: float):
        low = (probabilities.clamp(max=at) / (at / 7)).round() * at / 7
        high = (probabilities.clamp(min=at) * 7).round() / 7
        return low + high if shifted else torch.where(probabilities < at, low, high)

    def error(product):
        return (gradient * (product - probabilities @ values)).square()

    best = min((2.0**-i for i in range(20)), key=lambda at: error(used(at) @ values).mean().item())
    assert split.tolist() == [best] and interval.shape == (1, 2, 1, 1, 1, 1, 1)
    for head in range(2):
        start = values[:, head].abs().max() / 7.5
        expected = min(
            (start * factor for factor in FACTORS),
            key=lambda step, head=head: error(used(best) @ rounded(values, step, 4))[:, head].mean().item(),
        )
        torch.testing.assert_close(interval.flatten()[head], expected)


def test_groups_of_rows_are_searched_as_layers_by_themselves():
    """With the inputs' first interval: a row's error is its own."""
    torch.manual_seed(1)
    inputs, weight, gradient, bias = torch.randn(2, 5, 4), torch.randn(6, 4), torch.randn(2, 5, 6), torch.randn(6)
    weight[4:] *= 3
    bits = {"weight_bits": 3, "input_bits": 6, "rounds": 1}
    together, _ = search.search_linear(inputs, weight, bias, gradient, row_groups=3, **bits)
    assert together.shape == (3, 1, 1, 1)
    for group in range(3):
        rows = slice(2 * group, 2 * group + 2)
        alone, _ = search.search_linear(inputs, weight[rows], bias[rows], gradient[..., rows], **bits)
        torch.testing.assert_close(together[group], alone[0])
    start, _ = search.search_linear(inputs, weight, bias, gradient, row_groups=3, **{**bits, "rounds": 0})
    torch.testing.assert_close(start.flatten(), weight.abs().reshape(3, -1).amax(1) / 3.5)


def test_after_a_gelu_the_interval_of_what_is_positive_is_searched():
    torch.manual_seed(2)
    inputs, weight, gradient = F.gelu(2 * torch.randn(9, 4)), torch.randn(3, 4), torch.randn(9, 3)
    bits = {"weight_bits": 8, "input_bits": 3, "after_gelu": True}
    both = search.search_linear(inputs, weight, None, gradient, rounds=1, **bits)
    (w,), (found,) = (each.flatten() for each in both)
    start, below = inputs.max() / 3.5, 0.16997124254703522 / 4

    def error(step):
        twin = (inputs / step).round().clamp(0, 3) * step + (inputs / below).round().clamp(-4, 0) * below
        return (gradient * (twin @ rounded(weight, w, 8).T - inputs @ weight.T)).square().mean().item()

    torch.testing.assert_close(found, min((start * factor for factor in FACTORS), key=error))


@pytest.mark.parametrize("most, windows", [(4096, 2), (9, 1)])
def test_each_search_is_given_its_bits_its_operands_and_its_own_gradients(monkeypatch, most, windows):
    """Of an attention with queries, keys and values: by the chain rule of what the loss says of its output."""
    torch.manual_seed(0)
    given = {name: [] for name in ("linear", "product", "product_after_softmax")}
    for name, calls in given.items():
        real = getattr(quantization, f"search_{name}")
        monkeypatch.setattr(
            quantization, f"search_{name}", lambda *a, f=real, c=calls, **o: c.append((a, o)) or f(*a, **o)
        )

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.config, self.proj = SimpleNamespace(_attn_implementation="eager"), nn.Linear(8, 8)

        def forward(self, x):
            heads = x.unflatten(-1, (2, 4)).transpose(1, 2)
            attend = quantization.ALL_ATTENTION_FUNCTIONS[self.config._attn_implementation]
            output, _ = attend(self, heads, heads + 1, heads * 2, None, 0.5)
            return self.proj(output.flatten(2))

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.config = Attention(), SimpleNamespace(_attn_implementation="eager")

        def forward(self, pixel_values):
            return SimpleNamespace(pred_masks=self.attention(pixel_values))

    model, pixels = Model().eval(), torch.randn(2, 5, 8)
    weight = model.attention.proj.weight.detach().clone()
    quantize_promptable(
        model, [{"pixel_values": pixels[:1]}, {"pixel_values": pixels[1:]}], weight_bits=6, activation_bits=7,
        loss=lambda outputs, generator: outputs.pred_masks.square().sum() / 2, rounds=0, most_rows=most,
    )  # fmt: skip
    heads = pixels.unflatten(-1, (2, 4)).transpose(1, 2).requires_grad_()
    product = heads @ (heads + 1).mT
    attended = (0.5 * product).softmax(-1) @ (2 * heads)
    outputs = F.linear(attended.transpose(1, 2).flatten(2), weight, model.attention.proj.bias)
    of_product, of_attended, of_outputs = torch.autograd.grad(outputs.square().sum() / 2, [product, attended, outputs])
    ((linear, options),) = given["linear"]
    assert (options["weight_bits"], options["input_bits"], options["rounds"]) == (6, 7, 0)
    if most == 4096:
        torch.testing.assert_close(linear[0], attended.transpose(1, 2).reshape(-1, 8))
        torch.testing.assert_close(linear[3], of_outputs.reshape(-1, 8))
    else:
        assert len(linear[0]) == len(linear[3]) == 9
    (((first, second, gradient), options),) = given["product"]
    (((weights, values, of_output), more),) = given["product_after_softmax"]
    assert options == {"bits": 7, "rounds": 0} and more == {"bits": 7}
    assert len(first) == windows  # 9 rows are one window of five
    (number,) = [n for n in range(2) if torch.equal(heads[n], first[0])] if windows == 1 else [0]
    own = slice(number, number + windows)
    for found, expected in (
        (first, heads), (second, (heads + 1).mT), (gradient, of_product), (weights, (0.5 * product).softmax(-1)),
        (values, 2 * heads), (of_output, of_attended),
    ):  # fmt: skip
        torch.testing.assert_close(found, expected[own])
    config = model.config.quantization_config
    assert (config.weight_bits, config.activation_bits, config.products) == (6, 7, {"attention": 2})
    assert config.linears == {"attention.proj": [1, 1, 1, False]} and config.shifted is False
    assert (model.attention.product_bits, model.attention.proj.bits) == (7, 7)


@torch.no_grad()
def test_the_loss_is_that_of_an_answer_drawn_from_the_models_own():
    torch.manual_seed(3)
    outputs = SimpleNamespace(pred_masks=3 * torch.randn(1, 2, 4, 4), iou_scores=torch.randn(1, 2))
    generator = torch.Generator().manual_seed(8)
    found = quantization.sampled_loss(outputs, torch.Generator().manual_seed(8))
    chances = outputs.pred_masks.sigmoid()
    drawn = (torch.rand(chances.shape, generator=generator) < chances).float()
    noise = torch.randn(1, 2, generator=generator)
    entropy = -(drawn * chances.log() + (1 - drawn) * (1 - chances).log()).mean()
    torch.testing.assert_close(found, entropy + noise.square().mean())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_in_half_precision_is_quantised_as_its_weights_are_in_single(dtype):
    """Whatever the samples are in: gradients of a millionth choose as well, though float16 has no squares of them."""
    found, intervals = torch.randn(64, 6, generator=torch.Generator().manual_seed(4)).to(dtype), []
    torch.manual_seed(5)
    layer = nn.Linear(6, 4).to(dtype)
    small = lambda outputs, generator: 1e-6 * outputs.pred_masks.square().sum()  # noqa: E731
    for own, pixels in ((layer, found), (copy.deepcopy(layer).float(), found.float())):
        model = quantize_promptable(Single(copy.deepcopy(own)).eval(), [{"pixel_values": pixels}], loss=small)
        intervals.append([model.linear.weight_interval, model.linear.input_interval, model.linear.integers])
        assert model(found.float()).pred_masks.dtype == torch.float32
    assert all(torch.equal(*pair) for pair in zip(*intervals, strict=True))


def test_a_model_all_of_which_is_skipped_has_nothing_to_quantise():
    model = Single(nn.Linear(6, 4)).eval()
    with pytest.raises(ValueError, match="^model: Single has no linear layers and no attention to quantise .skip is"):
        quantize_promptable(model, [{"pixel_values": torch.randn(3, 6)}], loss=squares, skip=["linear"])
    assert not hasattr(model.config, "quantization_config") and type(model.linear) is nn.Linear
