"""The RRDB encoder and the denoiser: sizes, gradients, precisions, attention processors, bad input."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from hf_effmodels.pipelines import RRDBModel, SamDiffSRUNet2DModel
from hf_effmodels.pipelines.sam_diffsr.configuration_sam_diffsr import PRESETS
from hf_effmodels.pipelines.sam_diffsr.modeling_sam_diffsr import LinearAttention

from .tiny import ENCODER, UNET


def tiny(**unet):
    torch.manual_seed(0)
    return RRDBModel(**ENCODER), SamDiffSRUNet2DModel(**{**UNET, **unet})


@pytest.mark.parametrize("name", PRESETS)
def test_presets_have_the_published_size_and_cost(name):
    preset = PRESETS[name]
    with torch.device("meta"):
        encoder, unet = RRDBModel(**preset.config["encoder"]), SamDiffSRUNet2DModel(**preset.config["unet"])
        images, noisy = torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 256, 256)
    sizes = [sum(p.numel() for p in model.parameters()) / 1e6 for model in (encoder, unet)]
    assert sizes == pytest.approx([preset.part_parameters["encoder"], preset.part_parameters["unet"]], abs=0.005)
    assert sum(sizes) == pytest.approx(preset.parameters, abs=0.01)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        condition = encoder(images).condition
    assert counter.get_total_flops() / 2e6 == pytest.approx(preset.part_macs["encoder"], rel=2e-3)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        unet(noisy, torch.zeros(1, device="meta"), condition)
    assert counter.get_total_flops() / 2e6 == pytest.approx(preset.macs, rel=2e-3)


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_gradient_checkpointing_changes_no_gradient_and_every_parameter_has_one(scale):
    encoder = RRDBModel(**{**ENCODER, "scale": scale})
    unet = SamDiffSRUNet2DModel(**{**UNET, "scale": scale}, use_attention=True, upsampled_input=True)
    with torch.no_grad():
        unet.mid_block.attention.gate.fill_(0.5)  # zero at first: no gradient behind it
        encoder.conv_last.bias.fill_(0.5)  # within the clamp
    low, noisy, upsampled = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8 * scale, 8 * scale), None
    upsampled = torch.randn_like(noisy)

    def gradients() -> dict[str, torch.Tensor]:
        encoded = encoder(low)
        output = unet(noisy, torch.tensor([3, 90]), encoded.condition, upsampled)
        (output.sample.square().mean() + encoded.sample.square().mean()).backward()
        found = {}
        for model in (encoder, unet):
            found |= {f"{type(model).__name__}.{name}": p.grad for name, p in model.named_parameters()}
            model.zero_grad(set_to_none=True)
        return found

    plain = gradients()
    assert not [name for name, gradient in plain.items() if gradient is None or not gradient.any()]
    encoder.enable_gradient_checkpointing()
    unet.enable_gradient_checkpointing()
    for name, gradient in gradients().items():
        torch.testing.assert_close(gradient, plain[name], msg=name)


def test_the_projected_condition_serves_all_timesteps():
    encoder, unet = tiny(upsampled_input=True)
    noisy, upsampled = torch.randn(1, 3, 32, 32), torch.randn(1, 3, 32, 32)
    maps = encoder(torch.randn(1, 3, 8, 8)).condition
    projected = unet(noisy, 99, maps, upsampled).condition
    calls = []
    unet.condition_proj.register_forward_hook(lambda *_: calls.append(1))
    again = unet(noisy, 50, projected)
    assert not calls
    torch.testing.assert_close(again.sample, unet(noisy, 50, maps, upsampled).sample)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_runs_and_stays_near(dtype):
    encoder, unet = tiny(use_attention=True)
    low, noisy = torch.randn(1, 3, 8, 8), torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        expected = unet(noisy, 42, encoder(low).condition).sample
        encoder, unet = encoder.to(dtype), unet.to(dtype)
        got = unet(noisy.to(dtype), 42, encoder(low.to(dtype)).condition).sample
    assert got.dtype == dtype
    torch.testing.assert_close(got.float(), expected, atol=0.05, rtol=0.05)


def test_linear_attention_is_its_formula_behind_a_gate():
    """x + g·W(Σ_n softmax_n(k)_n v_nᵀ)ᵀ q with the softmax over positions, head by head and position by position."""
    attention = LinearAttention(6, heads=2, head_size=3).double()
    x = torch.randn(2, 6, 4, 5, dtype=torch.float64)
    assert torch.equal(attention(x), x), "the gate starts closed"
    with torch.no_grad():
        attention.gate.fill_(0.7)
        query, key, value = (
            torch.einsum("oc,bchw->bohw", attention.to_qkv.weight[:, :, 0, 0], x).flatten(2).chunk(3, 1)
        )
        heads = []
        for head in range(2):
            q, k, v = (part[:, 3 * head : 3 * head + 3] for part in (query, key, value))
            k = k.exp() / k.exp().sum(2, keepdim=True)
            heads.append(torch.einsum("bdn,ben,bdm->bem", k, v, q))
        mixed = torch.einsum("oc,bcn->bon", attention.to_out.weight[:, :, 0, 0], torch.cat(heads, 1))
        expected = x + 0.7 * (mixed + attention.to_out.bias[:, None]).view_as(x)
        torch.testing.assert_close(attention(x), expected)


def test_the_attention_processor_can_be_exchanged():
    encoder, unet = tiny(use_attention=True)
    with torch.no_grad():
        unet.mid_block.attention.gate.fill_(1.0)
    noisy, maps = torch.randn(1, 3, 32, 32), encoder(torch.randn(1, 3, 8, 8)).condition
    before = unet(noisy, 1, maps).sample
    (processor,) = unet.attn_processors.values()

    def negated(attn, hidden_states):
        return -processor(attn, hidden_states)

    unet.set_attn_processor(negated)
    changed = unet(noisy, 1, maps).sample
    assert not torch.allclose(changed, before)
    with torch.no_grad():
        unet.mid_block.attention.gate.neg_()
    torch.testing.assert_close(unet(noisy, 1, maps).sample, before)


def test_the_encoder_alone_magnifies():
    model = RRDBModel(**ENCODER)
    assert model(torch.zeros(1, 3, 5, 7)).sample.shape == (1, 3, 20, 28)
    assert RRDBModel(**{**ENCODER, "scale": 8})(torch.zeros(1, 3, 5, 7)).sample.shape == (1, 3, 40, 56)
    assert model(torch.zeros(1, 3, 5, 7), output_image=False).sample is None


def test_outputs_are_tuples_where_they_are_asked_for():
    encoder, unet = tiny()
    low, noisy = torch.randn(1, 3, 8, 8), torch.randn(1, 3, 32, 32)
    encoded = encoder(low)
    image, features = encoder(low, return_dict=False)
    assert torch.equal(image, encoded.sample) and len(features) == len(encoded.features) == ENCODER["num_blocks"] + 1
    assert all(torch.equal(a, b) for a, b in zip(features, encoded.features, strict=True))
    noise, condition = unet(noisy, 3, encoded.condition, return_dict=False)
    expected = unet(noisy, 3, encoded.condition)
    assert torch.equal(noise, expected.sample) and torch.equal(condition, expected.condition)
    smallest = SamDiffSRUNet2DModel(**{**UNET, "hidden_size": 4, "dim_mults": [1, 1]})
    assert smallest(torch.randn(1, 3, 4, 4), 0, [torch.randn(1, 8, 1, 1)] * 2).sample.shape == (1, 3, 4, 4)


def test_bad_input_is_refused_by_name():
    encoder, unet = tiny()
    maps = encoder(torch.zeros(1, 3, 8, 8)).condition
    noisy = torch.zeros(1, 3, 32, 32)
    with pytest.raises(ValueError, match="scale: got 3, accepted are 2, 4, 8"):
        SamDiffSRUNet2DModel(scale=3)
    for wrong in ([2, 4], [1], [1, 0]):
        with pytest.raises(ValueError, match="dim_mults: got .*, accepted are two or more positive integers, first 1"):
            SamDiffSRUNet2DModel(dim_mults=wrong)
    for wrong in (2, 5):
        with pytest.raises(ValueError, match=f"hidden_size: got {wrong}, accepted are even numbers from 4"):
            SamDiffSRUNet2DModel(hidden_size=wrong)
    with pytest.raises(ValueError, match=r"condition: \(1, 8, 16, 16\) does not fit a sample \(1, 3, 32, 32\)"):
        unet(noisy, 0, torch.zeros(1, 8, 16, 16))
    with pytest.raises(ValueError, match="sample: sides must be multiples of 8 from 16"):
        unet(noisy[..., :8, :], 0, maps)
    with pytest.raises(ValueError, match=r"sample: expected \(batch, 3, height, width\), got \(1, 1, 8, 8\)"):
        encoder(torch.zeros(1, 1, 8, 8))
    with pytest.raises(ValueError, match="sample: sides must be multiples of 8 from 16"):
        unet(noisy[..., :30], 0, maps)
    with pytest.raises(ValueError, match="condition: expected 2 maps"):
        unet(noisy, 0, encoder(torch.zeros(1, 3, 8, 8)).features)
    with pytest.raises(ValueError, match=r"condition: expected maps \(batch, 8, 4, 4\)"):
        unet(noisy[..., :16, :16], 0, maps)
    with pytest.raises(ValueError, match="upsampled: got None"):
        tiny(upsampled_input=True)[1](noisy, 0, maps)
