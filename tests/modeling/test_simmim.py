"""SimMIM: what its cases do not show: other encoders, options, and where the encoder goes afterwards."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import (
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForPreTraining,
    BeitConfig,
    DeiTConfig,
    ResNetConfig,
    SwinConfig,
    Swinv2Config,
    ViTConfig,
    ViTForMaskedImageModeling,
)

from hf_effmodels import SimMimConfig, SimMimForPreTraining

PLAIN = {
    "image_size": 64,
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
STAGES = {"image_size": 64, "embed_dim": 8, "depths": [1, 1, 1], "num_heads": [1, 2, 2], "window_size": 4}
ENCODERS = {
    "beit": BeitConfig(**PLAIN, use_mask_token=True, use_shared_relative_position_bias=True, use_mean_pooling=False),
    "vit": ViTConfig(**PLAIN, patch_size=16),
    "deit": DeiTConfig(**PLAIN, patch_size=16),
    "swin": SwinConfig(**STAGES),
    "swinv2": Swinv2Config(**STAGES),
}


def build(encoder="vit", **fields) -> SimMimForPreTraining:
    torch.manual_seed(0)
    return SimMimForPreTraining(SimMimConfig(backbone_config=ENCODERS[encoder], **fields)).eval()


def pictures(count=2, side=64):
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("encoder", ENCODERS)
def test_any_encoder_with_a_mask_token_learns_and_goes_on_by_itself(encoder, tmp_path):
    model = build(encoder)
    output = model(pictures(), noise=torch.rand(2, 4))
    output.loss.backward()
    assert output.reconstruction.shape == (2, 3, 64, 64) and model.mask_token.grad.abs().sum() > 0
    model.save_encoder(tmp_path)
    for auto_class, options in ((AutoModel, {}), (AutoModelForImageClassification, {"num_labels": 7})):
        _, about = auto_class.from_pretrained(tmp_path, output_loading_info=True, **options)
        assert all(key.endswith("mask_token") for key in about["unexpected_keys"])
        assert all(key.split(".")[0] in ("pooler", "classifier", "layernorm") for key in about["missing_keys"])


@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_mask_token_begins_as_published_and_stays_as_it_was_trained(encoder, tmp_path):
    """Of a normal law cut off at two, as `trunc_normal_` of the official code; stock encoders begin it with zeros."""
    token = build(encoder, initializer_range=0.5).mask_token
    assert 0.2 < token.std() < 0.8 and abs(token.mean()) < 0.5 and token.abs().max() <= 2
    model = build(encoder)
    assert 0 < model.mask_token.abs().max() < 0.1
    with torch.no_grad():
        model.mask_token.fill_(7)
    model.save_pretrained(tmp_path)
    assert (SimMimForPreTraining.from_pretrained(tmp_path).mask_token == 7).all()
    state = {name: value for name, value in model.state_dict().items() if not name.endswith("mask_token")}
    lacking = SimMimForPreTraining.from_pretrained(None, config=model.config, state_dict=state)
    assert 0 < lacking.mask_token.abs().max() < 0.1, "what a checkpoint lacks begins as in a new network"


def test_it_computes_what_transformers_head_computes():
    theirs = ViTForMaskedImageModeling(ENCODERS["vit"]).eval()
    ours = build()
    ours.encoder.load_state_dict(theirs.vit.state_dict())
    ours.decoder.load_state_dict(theirs.decoder[0].state_dict())
    with torch.no_grad():
        ours.mask_token.normal_()
        theirs.vit.embeddings.mask_token.copy_(ours.mask_token)
        output = ours(pictures(), noise=torch.rand(2, 4))
        expected = theirs(pictures(), bool_masked_pos=output.mask.flatten(1).bool())
        again = ours(pictures(), bool_masked_pos=output.mask.flatten(1).bool())
    torch.testing.assert_close(output.loss, expected.loss)
    torch.testing.assert_close(output.reconstruction, expected.reconstruction)
    assert torch.equal(again.loss, output.loss)


@torch.no_grad()
@pytest.mark.parametrize("channels", [1, 4])
def test_the_loss_is_the_mean_error_of_what_is_masked_in_any_number_of_colours(channels):
    torch.manual_seed(0)
    model = SimMimForPreTraining(SimMimConfig(backbone_config=ViTConfig(**PLAIN, num_channels=channels))).eval()
    pixels = torch.randn(2, channels, 64, 64)
    output = model(pixels, noise=torch.rand(2, 4))
    masked = output.mask.repeat_interleave(16, 1).repeat_interleave(16, 2)[:, None].expand_as(pixels) > 0
    error = (pixels - output.reconstruction).abs()
    torch.testing.assert_close(output.loss, error[masked].mean())
    for number, alone in enumerate(model.image_losses(pixels, output)[:, 0]):
        torch.testing.assert_close(alone, error[number][masked[number]].mean())


@pytest.mark.parametrize("block, ratio, expected", [(32, 0.6, 3), (16, 0.3, 5), (64, 0.2, 1)])
def test_the_smallest_noise_is_masked_in_whole_blocks(block, ratio, expected):
    model = build("swin", mask_block_size=block, mask_ratio=ratio)
    blocks = (64 // block) ** 2
    noise = torch.rand(2, blocks)
    mask = model(pictures(), noise=noise).mask  # over patches of 4 pixels
    found = mask.view(2, 64 // block, block // 4, 64 // block, block // 4).mean((2, 4)).flatten(1)
    assert sorted(found.unique().tolist()) == ([0, 1] if expected < blocks else [1])
    for row, drawn in zip(found, noise, strict=True):
        assert row.sum() == expected and set(row.nonzero().flatten().tolist()) == set(
            drawn.argsort()[:expected].tolist()
        )


def test_a_saved_model_is_found_by_its_auto_class(tmp_path):
    model, noise = build("beit"), torch.rand(2, 4)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForPreTraining.from_pretrained(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(loaded(pictures(), noise=noise).loss, model(pictures(), noise=noise).loss)


def test_what_does_not_fit_is_named():
    with pytest.raises(StrictDataclassError, match="got model_type 'resnet', accepted are beit, vit"):
        SimMimConfig(backbone_config=ResNetConfig())
    for fields, message in (({"mask_ratio": 0.0}, "mask_ratio"), ({"mask_block_size": 24}, "multiples of 16")):
        with pytest.raises(StrictDataclassError, match=message):
            SimMimConfig(backbone_config=ENCODERS["vit"], **fields)
    model = build()
    with pytest.raises(ValueError, match="80×80 pixels, which mask_block_size 32"):
        model(pictures(side=80))
    with pytest.raises(ValueError, match=r"noise: got the shape \(2, 5\), expected \(2, 4\)"):
        model(pictures(), noise=torch.rand(2, 5))
    with pytest.raises(ValueError, match=r"bool_masked_pos: got the shape \(2, 4\), expected \(2, 16\)"):
        model(pictures(), bool_masked_pos=torch.ones(2, 4))
    with pytest.raises(ValueError, match="bool_masked_pos: give either bool_masked_pos or noise, not both"):
        model(pictures(), bool_masked_pos=torch.ones(2, 16), noise=torch.rand(2, 4))


@torch.no_grad()
def test_losses_of_images_are_those_of_batches_of_one():
    model = build()
    pixels, noise = torch.randn(3, 3, 64, 64), torch.rand(3, model.count_blocks(64, 64))
    each = model.image_losses(pixels, model(pixels, noise=noise))
    alone = [model(pixels[n : n + 1], noise=noise[n : n + 1]).loss for n in range(3)]
    torch.testing.assert_close(each[:, 0], torch.stack(alone))


def test_an_encoder_of_one_image_size_is_not_saved_for_another(tmp_path):
    with pytest.raises(
        ValueError, match="image_size: got 96; .*relative_position_bias.* is of one image size and is n"
    ):
        build("beit").save_encoder(tmp_path / "beit", image_size=96)
    with pytest.raises(ValueError, match="window_size: got 8, but ViTConfig has none that is one number"):
        build("vit").save_encoder(tmp_path / "vit", window_size=8)
