"""FastMIM: what its cases do not show: other encoders, options, and where the encoder goes afterwards."""

import math

import pytest
import torch
from transformers import (
    AutoBackbone,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForPreTraining,
    ConvNextConfig,
    PvtV2Config,
    ResNetConfig,
    SwinConfig,
    ViTConfig,
)

from hf_effmodels import FastMimConfig, FastMimForPreTraining, create_model
from hf_effmodels.hub import export
from hf_effmodels.modeling.layers.encoders import save_encoder
from hf_effmodels.modeling.layers.hog import histograms_of_gradients
from hf_effmodels.modeling.layers.positions import resize_positions, resize_relative_bias, sine_cosine_positions
from hf_effmodels.models import create_image_processor, get_config
from hf_effmodels.registry import ARCHITECTURES

from ..hub.client import run_snippets
from .tiny import tiny_config

ENCODERS = {
    "vit": lambda: ViTConfig(
        image_size=64, patch_size=16, hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
    ),
    "swin": lambda: SwinConfig(image_size=64, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=2),
    "pvt_v2": lambda: PvtV2Config(
        image_size=64,
        hidden_sizes=[8, 8, 16, 16],
        depths=[1] * 4,
        num_attention_heads=[1, 1, 2, 2],
        mlp_ratios=[2] * 4,
    ),
    "convnext": lambda: ConvNextConfig(hidden_sizes=[8, 8, 16, 16], depths=[1] * 4),
    "resnet": lambda: ResNetConfig(embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1] * 4, layer_type="basic"),
    **{
        name: lambda name=name: tiny_config(ARCHITECTURES[name], image_size=64)
        for name in ("ghostnetv3", "tinyvit", "pyramidvig", "cmt")
    },
}


def build(encoder="vit", **fields) -> FastMimForPreTraining:
    torch.manual_seed(0)
    stride = 16 if encoder == "vit" else 32
    settings = {"image_size": 64, "block_size": stride, "decoder_hidden_size": 32, "mask_ratio": 0.5, **fields}
    return FastMimForPreTraining(FastMimConfig(backbone_config=ENCODERS[encoder](), **settings)).eval()


def pictures(count=2, side=64, dtype=torch.float64):
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(5)).to(dtype)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_any_encoder_is_trained_and_goes_on_as_a_model_of_its_own(encoder, tmp_path):
    model = build(encoder)
    model.train()
    output = model(pictures(dtype=torch.float32), noise=torch.rand(2, 16 if encoder == "vit" else 4))
    output.loss.backward()
    assert output.logits.shape[1] == (16 if encoder == "vit" else 4) and output.loss.isfinite()
    learned = [name for name, p in model.encoder.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    assert len(learned) > 0.8 * len([*model.encoder.parameters()])
    model.eval().save_encoder(tmp_path)
    encoder_alone, about = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not about["unexpected_keys"] and all("pooler" in key for key in about["missing_keys"])
    with torch.no_grad():
        expected = model.encoder(pictures(dtype=torch.float32)).last_hidden_state
        found = encoder_alone.eval()(pictures(dtype=torch.float32)).last_hidden_state
    # transformers' PVTv2 has one epsilon for all norms, the published one two.
    torch.testing.assert_close(found, expected, atol=1e-3 if encoder == "pvt_v2" else 1e-5, rtol=1e-3)
    if encoder != "pvt_v2":
        _, about = AutoModelForImageClassification.from_pretrained(tmp_path, num_labels=7, output_loading_info=True)
        heads = ("classifier", "head", "layernorm", "norm")
        assert not about["unexpected_keys"] and all(key.startswith(heads) for key in about["missing_keys"])
    if encoder not in ("vit", "pvt_v2"):  # transformers has no backbone of a ViT
        # AutoBackbone.from_pretrained of transformers 5.23 takes ids of the Hub only.
        backbone = type(AutoBackbone.from_config(model.config.backbone_config))
        _, about = backbone.from_pretrained(tmp_path, output_loading_info=True)
        assert all(key.startswith(("layernorm", "norm")) for key in about["unexpected_keys"])


def test_what_is_masked_is_painted_over_and_only_that_counts():
    model, pixels = build(block_size=32, mask_ratio=0.4).double(), pictures()
    with torch.no_grad():
        model.mask_token.copy_(torch.tensor([3.0, -2.0, 0.5]).view(1, 3, 1, 1))
    noise = torch.tensor([[0.9, 0.1, 0.4, 0.3], [0.2, 0.3, 0.1, 0.4]])
    output = model(pixels, noise=noise)
    # int(4 · 0.6) = 2 of four blocks stay: those of the smallest noise.
    kept = torch.tensor([[0, 1, 0, 1], [1, 0, 1, 0]])
    visible = kept.view(2, 1, 2, 2).repeat_interleave(32, 2).repeat_interleave(32, 3)
    assert torch.equal(output.pixel_mask, 1.0 - visible)
    assert torch.equal(output.masked_pixels * visible, pixels * visible)
    hidden = (output.masked_pixels * (1 - visible)).sum((0, 2, 3)) / (1 - visible).sum()
    torch.testing.assert_close(hidden, torch.tensor([3.0, -2.0, 0.5], dtype=torch.float64))
    by_mask = model(pixels, mask=1 - kept)
    assert torch.equal(by_mask.loss, output.loss)
    torch.manual_seed(3)
    drawn = model(pixels)
    assert drawn.pixel_mask.mean() == 0.5


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("encoder, block", [("vit", 8), ("vit", 32), ("swin", 16), ("swin", 64)])
def test_the_loss_over_pixels_is_the_mean_square_error_of_the_masked_ones(encoder, block, normalize):
    model = build(encoder, target="pixels", block_size=block, normalize_target=normalize, mask_ratio=0.75).double()
    if block == 64:
        model.config.mask_ratio = 0.99
    pixels, stride = pictures(), model.config.encoder_stride
    output = model(pixels, noise=torch.rand(2, (64 // block) ** 2))
    side = min(stride, block)
    error, count = 0.0, 0
    for image in range(2):
        for top in range(0, 64, side):
            for left in range(0, 64, side):
                if output.pixel_mask[image, 0, top, left] == 0:
                    continue
                patch = pixels[image, :, top : top + side, left : left + side].permute(1, 2, 0).flatten()
                if normalize:
                    patch = (patch - patch.mean()) / (patch.var() + 1e-6).sqrt()
                token = (top // stride) * (64 // stride) + left // stride
                cells = stride // side
                inner = (top % stride // side) * cells + left % stride // side
                said = output.logits[image, token].view(-1, cells * cells)[:, inner]
                error, count = error + ((said - patch) ** 2).sum(), count + len(patch)
    torch.testing.assert_close(output.loss, error / count)


def test_a_ramp_has_all_of_its_gradient_in_one_bin():
    ramp = torch.arange(32.0).expand(1, 2, 32, 32) * torch.tensor([0.5, 2.0]).view(1, 2, 1, 1)
    for picture, bin_of in ((ramp, 4), (ramp.transpose(2, 3), 0)):  # atan2(-1, 0) and atan2(0, -1) in 9 bins
        found = histograms_of_gradients(picture, cell=8, normalize=False)[0, :, 1:3, 1:3]
        expected = torch.zeros(2, 9, 2, 2)
        expected[:, bin_of] = torch.tensor([0.5, 2.0]).view(2, 1, 1) * 8 * 64
        torch.testing.assert_close(found, expected.flatten(0, 1))
    assert torch.equal(
        histograms_of_gradients(ramp, bins=5, cell=4, pooling="mean", normalize=False) * 16,
        histograms_of_gradients(ramp, bins=5, cell=4, normalize=False),
    )
    turned = histograms_of_gradients(ramp, bias=torch.tensor([0.0, 4.0]), normalize=False)[0, :9, 1, 1]
    assert turned.argmax() == math.floor(math.atan2(-4.0, 4.0) / math.pi * 9) % 9


def test_the_gaussian_window_weighs_the_middle_most():
    noise = pictures(1, 32)
    plain, windowed = (histograms_of_gradients(noise, 9, 8, window=w, normalize=False) for w in (0, 32))
    share = windowed.sum(1) / plain.sum(1)
    assert share[0, 1:3, 1:3].min() > share[0, 0].max()
    model = build(hog_window=32, target="hog", hog_bins=6, hog_cell=4).double()
    torch.testing.assert_close(model.target_of(pictures()), histograms_of_gradients(pictures(), 6, 4, window=32))


def test_position_tables_go_on_at_other_sizes():
    small, large = (sine_cosine_positions(32, n, n, extra_tokens=1)[None] for n in (8, 16))
    resized = resize_positions(small, 16, 16)
    assert torch.equal(resized[:, :1], small[:, :1]) and resized.shape == large.shape
    halved = resize_positions(large, 8, 8)[0, 1:].view(8, 8, 32)
    assert halved.shape == (8, 8, 32) and (halved[..., :16].std(0) < 1e-6).all(), "columns have the same first half"
    table = torch.randn(49, 3, dtype=torch.float64)
    assert torch.equal(resize_relative_bias(table, 4), table)
    for method in ("geometric", "bicubic"):  # constants stay constant, whatever the method
        same = resize_relative_bias(torch.ones(25, 2), 7, method=method)
        torch.testing.assert_close(same, torch.ones(169, 2))
    centre = resize_relative_bias(table, 7)[169 // 2]
    torch.testing.assert_close(centre, table[49 // 2])
    with pytest.raises(ValueError, match="squares of odd numbers"):
        resize_relative_bias(torch.ones(16, 2), 7)


def test_the_fixed_table_does_not_learn_and_stays_fixed_when_loaded(tmp_path):
    model = build()
    expected = sine_cosine_positions(24, 4, 4, extra_tokens=1).float()
    assert torch.equal(model.position_table[0], expected) and not model.position_table.requires_grad
    model.save_pretrained(tmp_path)
    loaded = AutoModelForPreTraining.from_pretrained(tmp_path)
    assert not loaded.position_table.requires_grad and torch.equal(loaded.position_table, model.position_table)
    learnt = build(fixed_positions=False)
    assert learnt.position_table is None and learnt.encoder.embeddings.position_embeddings.requires_grad


def test_a_folder_for_the_hub_opens_again_and_its_card_says_how(tmp_path, monkeypatch):
    model = build("ghostnetv3")
    processor = create_image_processor("fastmim-vit-base", image_size=64)
    export(model, processor, tmp_path / "hub", license="apache-2.0")
    monkeypatch.chdir(tmp_path / "hub")
    assert run_snippets((tmp_path / "hub" / "README.md").read_text(), package=True) == 1
    loaded = AutoModelForPreTraining.from_pretrained(tmp_path / "hub")
    noise = torch.rand(2, 4)
    with torch.no_grad():
        pixels = pictures(dtype=torch.float32)
        torch.testing.assert_close(loaded(pixels, noise=noise).loss, model(pixels, noise=noise).loss)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"mask_ratio": 1.0}, "mask_ratio: got 1.0"),
        ({"target": "rgb"}, "target: got 'rgb'"),
        ({"block_size": 24}, "block_size: got 24"),
        ({"image_size": 72}, "image_size: got 72"),
        ({"hog_cell": 5}, "hog_cell: got 5"),
        ({"decoder_num_attention_heads": 5}, "decoder_num_attention_heads: got 5"),
    ],
)
def test_settings_that_do_not_fit_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        get_config("fastmim-vit-base", **fields)


def test_images_and_masks_that_do_not_fit_are_named():
    model = build("convnext")
    with pytest.raises(ValueError, match="72×72 pixels, which block_size 32"):
        model(pictures(side=72, dtype=torch.float32))
    with pytest.raises(ValueError, match=r"noise: got the shape \(2, 9\), expected \(2, 4\)"):
        model(pictures(dtype=torch.float32), noise=torch.rand(2, 9))
    with pytest.raises(ValueError, match="either mask or noise"):
        model(pictures(dtype=torch.float32), noise=torch.rand(2, 4), mask=torch.ones(2, 4))
    for mask in (torch.zeros(2, 4), torch.tensor([[0, 1, 0, 0], [0, 0, 0, 0]]).bool()):
        with pytest.raises(
            ValueError, match="^mask: of an image nothing is masked, so that there is nothing to predict"
        ):
            model(pictures(dtype=torch.float32), mask=mask)
    assert model(pictures(dtype=torch.float32), mask=torch.eye(4)[:2]).loss.isfinite()
    with pytest.raises(ValueError, match="encoder_stride: got 8, but the encoder gives 17 tokens for 64×64 pixels"):
        build("vit", encoder_stride=8)(pictures(dtype=torch.float32))
    with pytest.raises(ValueError, match="cell: got 7"):
        histograms_of_gradients(pictures(), cell=7)


def test_the_presets_are_networks():
    with torch.device("meta"):
        assert type(create_model("fastmim-cmt-small")) is FastMimForPreTraining


def test_the_encoders_of_the_presets_are_the_papers():
    """Table 1 of the papers of Swin and of PVT v2, at 128 pixels; CMT-S is `cmt-small`."""
    vit, swin, pvt, cmt = (
        get_config(f"fastmim-{name}") for name in ("vit-base", "swin-base", "pvt-v2-b2", "cmt-small")
    )
    sizes = vit.backbone_config
    assert (sizes.hidden_size, sizes.num_hidden_layers, sizes.intermediate_size) == (768, 12, 3072)
    sizes = swin.backbone_config
    assert (sizes.embed_dim, sizes.depths, sizes.num_heads) == (128, [2, 2, 18, 2], [4, 8, 16, 32])
    assert (sizes.window_size, sizes.layer_norm_eps) == (4, 1e-5)  # 128 / 32: the last map is one window
    sizes = pvt.backbone_config
    assert (sizes.hidden_sizes, sizes.depths) == ([64, 128, 320, 512], [3, 4, 6, 3])
    assert (sizes.num_attention_heads, sizes.mlp_ratios) == ([1, 2, 5, 8], [8, 8, 4, 4])
    assert cmt.backbone_config.final_norm and cmt.backbone_config.embed_dims == [64, 128, 256, 512]
    for config in (vit, swin, pvt, cmt):
        assert config.image_size == 128 and config.backbone_config.image_size in (128, (128, 128))
        assert config.decoder_layer_norm_eps == (1e-6 if config is vit else 1e-5)
    assert [config.block_size for config in (vit, swin, pvt, cmt)] == [16, 32, 32, 32]
    assert [config.encoder_stride for config in (vit, swin, pvt, cmt)] == [16, 32, 32, 32]
    assert [config.decoder_num_hidden_layers for config in (vit, swin, pvt, cmt)] == [1, 4, 1, 1]
    assert [config.target for config in (vit, swin, pvt, cmt)] == ["hog", "hog", "pixels", "hog"]


def test_norms_of_pvt_have_the_two_epsilons_of_the_release():
    found = {}
    for name, module in build("pvt_v2").encoder.named_modules():
        if isinstance(module, torch.nn.LayerNorm):
            kind = "patches" if "patch_embedding" in name else "attention" if "attention" in name else "blocks"
            found.setdefault(kind, set()).add(module.eps)
    assert found["patches"] == {1e-5} and found["blocks"] == {1e-6} and found.get("attention", {1e-5}) == {1e-5}


@torch.no_grad()
@pytest.mark.parametrize("height, width", [(96, 64), (64, 96)])
def test_fixed_positions_of_another_size_are_computed_anew(height, width):
    model = build()
    pixels = torch.randn(1, 3, height, width)
    embeddings = model.encoder.embeddings
    found = embeddings(pixels, interpolate_pos_encoding=True)
    grid = height // 16, width // 16
    table = sine_cosine_positions(24, *grid, extra_tokens=1).float()[None]
    patches = embeddings.patch_embeddings.projection(pixels).flatten(2).transpose(1, 2)
    expected = torch.cat([embeddings.cls_token, patches], dim=1) + table
    torch.testing.assert_close(found, expected)
    assert model(pixels).logits.shape[1] == grid[0] * grid[1]
    assert torch.equal(embeddings(pictures(1).float()), embeddings(pictures(1).float(), interpolate_pos_encoding=True))


@torch.no_grad()
def test_an_encoder_goes_on_at_another_size_and_keeps_its_own(tmp_path):
    model = build("swin")
    model.save_encoder(tmp_path / "large", image_size=128, window_size=4)
    found = AutoModel.from_pretrained(tmp_path / "large")
    assert (found.config.image_size, found.config.window_size) == (128, 4)
    assert (model.encoder.config.image_size, model.encoder.config.window_size) == (64, 2)
    tables = {name: table for name, table in model.encoder.state_dict().items() if name.endswith("bias_table")}
    assert tables
    for name, table in tables.items():
        torch.testing.assert_close(found.state_dict()[name], resize_relative_bias(table, 4))
    with pytest.raises(ValueError, match="image_size: got 128, but PvtV2Config has none that is one number"):
        build("pvt_v2").save_encoder(tmp_path / "pvt", image_size=128)
    # What lies elsewhere comes in the place of what the encoder has of that name.
    vit = build("vit").encoder
    save_encoder(vit, tmp_path / "vit", also={"embeddings.cls_token": torch.full_like(vit.embeddings.cls_token, 3)})
    assert (AutoModel.from_pretrained(tmp_path / "vit").embeddings.cls_token == 3).all()
