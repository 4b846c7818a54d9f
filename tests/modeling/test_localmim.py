"""LocalMIM: what its cases do not show: sparse attention against dense, options, where the encoder goes afterwards."""

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoModel, AutoModelForImageClassification, AutoModelForPreTraining, ResNetConfig

from hf_effmodels import LocalMimConfig, LocalMimForPreTraining
from hf_effmodels.modeling.layers.hog import histograms_of_gradients
from hf_effmodels.modeling.localmim.convert_localmim import adapt
from hf_effmodels.modeling.localmim.grouping import fill_group, group_windows, make_groups

BACKBONES = {
    "vit": {
        "model_type": "vit",
        "image_size": 64,
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_hidden_layers": 7,
        "num_attention_heads": 2,
    },
    "swin": {
        "model_type": "swin",
        "image_size": 128,
        "embed_dim": 8,
        "depths": [2, 2, 2, 1],
        "num_heads": [1, 2, 2, 2],
        "window_size": 4,
        "drop_path_rate": 0.0,
    },
}


def build(backbone, **fields) -> LocalMimForPreTraining:
    torch.manual_seed(0)
    settings = {"decoder_hidden_size": 32, "decoder_num_attention_heads": 2, "mask_ratio": 0.5, **fields}
    return LocalMimForPreTraining(LocalMimConfig(backbone_config=BACKBONES[backbone], **settings)).eval()


def pictures(model, count=2):
    side = model.config.image_size
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(5)).to(model.dtype)


def noise_for(model, count=2):
    generator = torch.Generator().manual_seed(6)
    return torch.rand(count, 16, generator=generator) if model.is_vit else torch.rand(16, generator=generator)


@pytest.mark.parametrize("shift", [0, 2])
def test_attention_among_all_tokens_is_that_of_dense_windows(shift):
    model = build("swin").double()
    block = model.encoder.encoder.layers[0].blocks[1 if shift else 0]
    with torch.no_grad():
        block.attention.relative_position_bias.relative_position_bias_table.normal_()
    hidden = torch.randn(2, 1024, 8, dtype=torch.float64)
    coordinates = torch.stack([torch.arange(1024) // 32, torch.arange(1024) % 32], dim=1)
    shuffled = torch.randperm(1024)
    groups = make_groups(coordinates[shuffled], 4, shift)
    assert groups.size == 16 and len(groups.window) >= 64
    sparse = model._sparse_block(block, hidden[:, shuffled], coordinates[shuffled], groups)
    dense = block(hidden, (32, 32))
    torch.testing.assert_close(sparse, (dense[0] if isinstance(dense, tuple) else dense)[:, shuffled])


def test_every_second_block_sees_shifted_windows_but_where_one_window_is_the_map(monkeypatch):
    model, asked, made, taken = build("swin"), [], [], []

    def groups_of(places, window, shift):
        asked.append((window, shift))
        made.append(make_groups(places, window, shift))
        return made[-1]

    def block_of(block, hidden, places, groups):
        taken.append(next(number for number, group in enumerate(made) if group is groups))
        return hidden

    monkeypatch.setattr("hf_effmodels.modeling.localmim.modeling_localmim.make_groups", groups_of)
    monkeypatch.setattr(model, "_sparse_block", block_of)
    model(pictures(model), noise=noise_for(model))
    assert asked == [(4, 0), (4, 2)] * 3 + [(4, 0), (4, 0)]  # sides of 32, 16, 8 and 4 tokens
    assert taken == [0, 1, 2, 3, 4, 5, 6]
    # The release has one constant in all norms, whatever the encoder's configuration says.
    assert {m.eps for m in model.modules() if isinstance(m, torch.nn.LayerNorm)} == {1e-6}


@torch.no_grad()
def test_dropped_branches_leave_tokens_as_they_are():
    class Nothing(torch.nn.Module):
        def forward(self, hidden):
            return 0 * hidden

    model, hidden = build("swin"), torch.randn(2, 16, 8)
    block, coordinates = model.encoder.encoder.layers[0].blocks[0], torch.cartesian_prod(*[torch.arange(4)] * 2)
    block.drop_path = Nothing()
    groups = make_groups(coordinates, 4, 0)
    torch.testing.assert_close(model._sparse_block(block, hidden, coordinates, groups), hidden)


def test_windows_share_groups_but_do_not_see_each_other():
    assert group_windows([], 3) == []
    assert fill_group([5, 4, 3], 7) == [1, 2] and fill_group([9, 2], 10) == [0] and fill_group([4], 3) == []
    assert group_windows([5, 4, 3, 2], 7) == [[1, 2], [0, 3]]
    with pytest.raises(ValueError, match="a window has 9 tokens"):
        group_windows([9], 8)
    coordinates = torch.tensor([[row, column] for row in range(12) for column in range(0, 12, 2)])
    groups = make_groups(coordinates, 3, 0)
    assert groups.size == 6 and torch.equal(
        groups.unpack(groups.pack(coordinates[None].float()))[0], coordinates.float()
    )
    rows, columns = coordinates[groups.order].view(-1, 6, 2).unbind(-1)
    same = (rows[:, :, None] // 3 == rows[:, None] // 3) & (columns[:, :, None] // 3 == columns[:, None] // 3)
    full = groups.window >= 0
    assert torch.equal(~groups.apart(), same & full[:, :, None] & full[:, None])


@pytest.mark.parametrize("backbone", BACKBONES)
def test_what_is_hidden_is_not_seen(backbone):
    model = build(backbone).double()
    pixels, noise = pictures(model), noise_for(model)
    output = model(pixels, noise=noise)
    block = 16 if model.is_vit else 32
    side = model.config.image_size // block
    hidden = output.mask.view(2, 1, side, side).repeat_interleave(block, 2).repeat_interleave(block, 3).bool()
    assert output.mask.sum(1).tolist() == ([8, 8] if model.is_vit else [9, 9])  # the release adds 1
    changed = model(pixels.masked_fill(hidden, 7.0), noise=noise)
    seen = model(pixels.masked_fill(~hidden, 7.0), noise=noise)
    for before, after, other in zip(output.logits, changed.logits, seen.logits, strict=True):
        assert torch.equal(before, after) and not torch.allclose(before, other)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_scale_counts_by_its_weight(backbone):
    weights = [0.5, 2.0, 0.0, 3.0]
    model = build(backbone, scale_weights=weights, hog_bins=5).double()
    output = model(pictures(model), noise=noise_for(model))
    torch.testing.assert_close(output.loss, sum(w * loss for w, loss in zip(weights, output.losses, strict=True)))
    cells = [(4, 8, 16, 32), (8, 16, 32, 32)][not model.is_vit]
    for scale, cell in enumerate(cells):
        target = histograms_of_gradients(pictures(model), 5, cell, pooling="mean").flatten(2).transpose(1, 2)
        assert torch.equal(output.targets[scale], target) and output.logits[scale].shape == target.shape
        masked = output.cell_masks[scale]
        error = ((output.logits[scale] - target) ** 2).mean(-1)
        torch.testing.assert_close(output.losses[scale], (error * masked).sum() / masked.sum())


@pytest.mark.parametrize("normalize", [True, False])
def test_pixels_are_predicted_patch_by_patch(normalize):
    model = build("swin", target="pixels", normalize_target=normalize).double()
    pixels = pictures(model)
    target = model.target_of(pixels, 1)  # patches of 16 pixels, 8 in a row
    patch = pixels[1, :, 16:32, 48:64].permute(1, 2, 0).flatten()
    if normalize:
        patch = (patch - patch.mean()) / (patch.var() + 1e-6).sqrt()
    torch.testing.assert_close(target[1, 8 + 3], patch)
    output = model(pixels, noise=noise_for(model))
    assert [t.shape[-1] for t in output.logits] == [192, 768, 3072, 3072]


def test_the_shift_of_the_gradients_is_fixed_and_each_scales_own():
    model = build("vit", hog_bias=True)
    assert model.hog_bias.abs().max() <= 1 / 3 and len(model.hog_bias.unique()) == 8
    assert not model.hog_bias.requires_grad and (model.hog_bias < 0).any() and (model.hog_bias > 0).any()
    assert build("swin", hog_bias=True, target="pixels").hog_bias is None  # there are no gradients to shift
    found = model.target_of(pictures(model), 2)
    options = {"pooling": "mean", "bias": model.hog_bias[2]}
    expected = histograms_of_gradients(pictures(model), 9, 16, **options).flatten(2).transpose(1, 2)
    assert torch.equal(found, expected) and not torch.equal(found, build("vit").target_of(pictures(model), 2))


def test_other_taps_look_elsewhere():
    first, second = build("vit"), build("vit", taps=[0, 2, 3, 6])
    assert first.config.taps == [1, 3, 4, 6]
    noise = noise_for(first)
    latents = [model(pictures(model), noise=noise).latents for model in (first, second)]
    assert torch.equal(latents[0][3], latents[1][3]) and torch.equal(latents[0][1], latents[1][2])
    assert not torch.allclose(latents[0][0], latents[1][0])
    turned = build("vit", taps=[2, 0, 6, 3])  # a decoder looks where its own number says
    assert torch.equal(turned(pictures(turned), noise=noise).latents[0], latents[1][1])


def test_true_places_differ_from_the_published_ones_between_the_first_stage_and_the_last():
    published, true = build("swin"), build("swin", true_coordinates=True)
    for model in (published, true):
        for stage in model.encoder.encoder.layers:
            for block in stage.blocks:
                with torch.no_grad():
                    torch.manual_seed(1)
                    block.attention.relative_position_bias.relative_position_bias_table.normal_()
    latents = [model(pictures(model), noise=noise_for(model)).latents for model in (published, true)]
    assert torch.equal(latents[0][0], latents[1][0]) and not torch.allclose(latents[0][1], latents[1][1])


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_encoder_goes_on_as_a_model_of_its_own(backbone, tmp_path):
    model = build(backbone)
    model.train()
    model(pictures(model), noise=noise_for(model)).loss.backward()
    fixed = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert all(name.endswith("position_embeddings") for name in fixed)
    assert {name for name, p in model.named_parameters() if p.grad is None} == fixed
    model.save_pretrained(tmp_path / "whole")
    loaded = AutoModelForPreTraining.from_pretrained(tmp_path / "whole")
    assert {name for name, p in loaded.named_parameters() if not p.requires_grad} == fixed
    model.save_encoder(tmp_path / "encoder")
    for auto_class, options in ((AutoModel, {}), (AutoModelForImageClassification, {"num_labels": 7})):
        found, about = auto_class.from_pretrained(tmp_path / "encoder", output_loading_info=True, **options)
        assert not about["unexpected_keys"]
        assert all(key.startswith(("pooler", "classifier")) for key in about["missing_keys"])
        assert torch.equal(found.base_model.layernorm.weight, model.norms[3].weight)
    assert isinstance(model.encoder.layernorm, torch.nn.Identity)


@pytest.mark.parametrize(
    "backbone, fields, message",
    [
        ("vit", {"taps": [1, 3, 3, 6]}, "taps: got"),
        ("vit", {"taps": [1, 3, 4, 7]}, "taps: got"),
        ("vit", {"target": "pixels"}, "target: got 'pixels', accepted is hog"),
        ("vit", {"mask_ratio": 0.0}, "mask_ratio: got 0.0"),
        ("swin", {"taps": [0, 1, 2, 3]}, "give no taps"),
        ("swin", {"scale_weights": [1.0, 1.0]}, "scale_weights: got"),
        ("swin", {"decoder_hidden_size": 20}, "decoder_hidden_size: got 20"),
    ],
)
def test_settings_that_do_not_fit_are_named(backbone, fields, message):
    with pytest.raises(StrictDataclassError, match=message):
        LocalMimConfig(backbone_config=BACKBONES[backbone], **fields)


def test_images_and_encoders_that_do_not_fit_are_named():
    with pytest.raises(StrictDataclassError, match="got model_type 'resnet', accepted are vit and swin"):
        LocalMimConfig(backbone_config=ResNetConfig())
    with pytest.raises(StrictDataclassError, match="accepted are multiples of 32"):
        LocalMimConfig(backbone_config=BACKBONES["vit"] | {"image_size": 80})
    model = build("swin")
    with pytest.raises(ValueError, match="expected 128×128 pixels"):
        model(torch.zeros(1, 3, 64, 64))
    with pytest.raises(ValueError, match="mask_ratio: got 0.95, which leaves none of 16 blocks"):
        build("swin", mask_ratio=0.95)(pictures(model))
    assert build("swin", mask_ratio=0.93)(pictures(model)).loss.isfinite()  # 15 of 16 are hidden
    with pytest.raises(
        ValueError, match=r"1 of another shape: encoder.downsample.reduction is \(8, 6\), expected colum"
    ):
        adapt({"encoder.downsample.reduction": torch.zeros(8, 6)}, model.config)
    with pytest.raises(ValueError, match=r"noise: got the shape \(9,\), expected \(16,\)"):
        model(pictures(model), noise=torch.rand(9))


@pytest.mark.parametrize("hog_bias", [False, True])
def test_places_begin_as_sines_and_cosines_of_column_and_row_and_stay_where_they_are_stored(hog_bias, tmp_path):
    """Of a ViT's patches; a quarter of the width each, of frequencies down to a ten-thousandth, as in MAE. The class
    token, which comes first, has none."""
    model = build("vit", hog_bias=hog_bias)
    table = model.encoder.embeddings.position_embeddings[0].detach().numpy().copy()
    assert table.shape == (1 + 16, 24) and not table[0].any()
    frequencies = 10000.0 ** (-np.arange(6) / 6)
    for row, column in np.ndindex(4, 4):
        parts = [f(place * frequencies) for place in (column, row) for f in (np.sin, np.cos)]
        np.testing.assert_allclose(table[1 + 4 * row + column], np.concatenate(parts), atol=1e-6)
    assert not model.encoder.embeddings.position_embeddings.requires_grad
    with torch.no_grad():
        model.encoder.embeddings.position_embeddings.add_(1)
    model.save_pretrained(tmp_path)
    fixed = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert ("hog_bias" in fixed) == hog_bias
    loaded = LocalMimForPreTraining.from_pretrained(tmp_path)
    told, _ = LocalMimForPreTraining.from_pretrained(tmp_path, output_loading_info=True)
    for again in (loaded, told):  # as transformers loads, all would learn
        np.testing.assert_allclose(again.encoder.embeddings.position_embeddings[0].numpy(), table + 1)
        assert {name for name, parameter in again.named_parameters() if not parameter.requires_grad} == fixed
