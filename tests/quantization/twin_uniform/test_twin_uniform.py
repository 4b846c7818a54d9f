"""Quantising a promptable model of one's own: integers, intervals, files."""

import copy

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
from transformers import AutoModelForMaskGeneration, SamModel

from hf_effmodels.quantization import quantize_promptable
from hf_effmodels.quantization.twin_uniform import search, uniform
from hf_effmodels.quantization.twin_uniform.configuration_twin_uniform import TwinUniformConfig
from hf_effmodels.quantization.twin_uniform.layers import TwinLinear
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
