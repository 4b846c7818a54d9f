"""What detectors and masked image models are set beside is what its name says."""

import importlib
import sys
import types
from pathlib import Path

import pytest
import torch
from torch import nn

from hf_effmodels import create_model, get_config
from hf_effmodels.benchmarking import counting, peers
from hf_effmodels.benchmarking.bare_convolutions import BareConvolutions
from hf_effmodels.benchmarking.official_adder import broadcast_adders, cdist_adders
from hf_effmodels.benchmarking.official_denoiser import DenoisingStep, OfficialDenoiser
from hf_effmodels.benchmarking.official_ghostnet import Branches
from hf_effmodels.benchmarking.workloads import make_call
from hf_effmodels.compression.elastic import extract_submodel
from hf_effmodels.modeling.gold_yolo.modeling_gold_yolo import GoldYoloConv, GoldYoloPlainConv, GoldYoloRepBlock
from hf_effmodels.modeling.layers.adder import AdderConv2d
from hf_effmodels.registry import ARCHITECTURES

VIT = {
    "backbone_config": {
        "model_type": "vit", "hidden_size": 24, "num_hidden_layers": 4, "num_attention_heads": 2,
        "intermediate_size": 32, "image_size": 64, "patch_size": 16,
    },
    "decoder_hidden_size": 16,
    "decoder_num_attention_heads": 2,
}  # fmt: skip


def build(peer, preset, overrides):
    torch.manual_seed(0)
    return peers.PEERS[peer].build(preset, False, overrides)


def test_simmim_sees_224_pixels_whatever_is_given():
    model = build("simmim-224", "fastmim-vit-base", VIT)
    seen = []
    model.model.register_forward_pre_hook(lambda module, args: seen.append(tuple(args[0].shape)))
    model(torch.randn(2, 3, 64, 64)).loss.backward()
    assert seen == [(2, 3, 224, 224)]
    same = build("simmim", "fastmim-vit-base", VIT)
    assert same.encoder.config.hidden_size == 24 and same(torch.randn(2, 3, 64, 64)).loss.isfinite()


def test_the_masked_autoencoder_has_as_many_visible_patches():
    overrides = {**VIT, "taps": [0, 1, 2, 3], "mask_ratio": 0.5}
    model = build("mae", "localmim-vit-base", overrides)
    ours = create_model("localmim-vit-base", **overrides)
    pixels = torch.randn(2, 3, 64, 64)
    visible = {}
    model.vit.layers[0].register_forward_pre_hook(lambda module, args: visible.update(mae=args[0].shape))
    model(pixels)
    assert visible["mae"] == ours(pixels).latents[0].shape == (2, 1 + 8, 24)
    with pytest.raises(ValueError, match="mae is over a ViT, and localmim-swin-base is over swin"):
        peers.PEERS["mae"].build("localmim-swin-base", False, {})


def test_targets_at_hand_are_computed_once_and_the_loss_is_the_same():
    overrides = {**VIT, "image_size": 64}
    model, ours = (build(peer, "fastmim-vit-base", overrides) for peer in ("target-at-hand", "ours"))
    pixels, noise = torch.randn(2, 3, 64, 64), torch.rand(2, ours.count_blocks(64, 64))
    with torch.no_grad():
        expected = ours(pixels, noise=noise).loss
        torch.testing.assert_close(model(pixels, noise=noise).loss, expected)
        # The targets of the first images stay: those of others are not computed.
        assert abs(model(pixels.flip(-1), noise=noise).loss - ours(pixels.flip(-1), noise=noise).loss) > 1e-6


def test_the_official_detector_keeps_the_norms_of_its_injections_and_computes_the_same():
    torch.manual_seed(0)
    official = peers.PEERS["official-like"].build("gold-yolo-n", True, {"num_labels": 2}).eval()
    torch.manual_seed(0)
    ours = create_model("gold-yolo-n", num_labels=2)
    left = {name for name, module in official.named_modules() if isinstance(module, nn.BatchNorm2d)}
    injections = {name for name, module in ours.named_modules() if isinstance(module, GoldYoloPlainConv)}
    assert {f"{name}.norm" for name in injections} < left and len(left) == len(injections) + 2
    pixels = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        for key in ("logits", "pred_boxes"):
            torch.testing.assert_close(official(pixels)[key], ours(pixels)[key], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("folded", [False, True])
def test_the_official_detectors_layers_have_the_activations_of_ours_and_leave_their_inputs(folded, monkeypatch):
    config = get_config("gold-yolo-n")
    torch.manual_seed(0)
    layers = [GoldYoloConv(config, 3, 4, kernel, stride=stride, activation=activation)
              for activation in ("silu", "relu") for kernel, stride in ((1, 1), (3, 2))]  # fmt: skip
    layers = [*layers, GoldYoloRepBlock(config, 3, 3), GoldYoloRepBlock(config, 3, 4, stride=2)]
    for norm in (m for layer in layers for m in layer.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.bias.data.uniform_(-1, 1)
        norm.running_var.uniform_(0.5, 2)
    network = nn.ModuleList(layers).eval()
    pixels = torch.randn(2, 3, 6, 6)
    with torch.no_grad():
        expected = [layer(pixels.clone()) for layer in network]
        assert [bool((maps < 0).any()) for maps in expected] == [True, True, False, False, False, False]
        monkeypatch.setattr("hf_effmodels.benchmarking.detectors.create_model", lambda preset, **overrides: network)
        official = peers.PEERS["official-like"].build("gold-yolo-n", folded, {})
        for layer, maps in zip(official, expected, strict=True):
            given = pixels.clone()
            torch.testing.assert_close(layer(given), maps, rtol=1e-5, atol=1e-6)
            assert torch.equal(given, pixels)


@pytest.mark.parametrize("peer, millions", [("rt-detr-r18", 20.17), ("d-fine-n", 3.77), ("ours", None)])
def test_detectors_go_from_an_image_to_boxes_in_its_pixels(peer, millions):
    model = build(peer, "gold-yolo-n", {})
    if millions:  # as published
        assert sum(parameter.numel() for parameter in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.01)
    row = {"preset": "gold-yolo-n", "peer": peer, "mode": "detect", "backend": "eager", "batch": 2, "channels": 3}
    seen = []
    model.register_forward_pre_hook(lambda m, args, given: seen.append(given["pixel_values"].shape), with_kwargs=True)
    found = make_call(model.eval(), {**row, "image_size": 448})()
    assert seen == [(2, 3, 448, 448)]
    assert len(found) == 2 and set(found[0]) == {"scores", "labels", "boxes"}


def test_every_tinyvit_has_its_name_in_timm():
    assert [peers.timm_name(f"tinyvit-{size}m") for size in (5, 11, 21)] == [
        "tiny_vit_5m_224", "tiny_vit_11m_224", "tiny_vit_21m_224"
    ]  # fmt: skip


def test_pruned_language_models_and_their_passes_are_what_their_names_say():
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    overrides = {**sizes, "vocab_size": 61, "num_key_value_heads": 4}
    whole, pruned, fresh = (build(peer, "pangu-pi-15m", overrides) for peer in ("ours", "pruned", "fresh"))
    shapes = [{name: value.shape for name, value in model.state_dict().items()} for model in (pruned, fresh)]
    assert shapes[0] == shapes[1] and pruned.num_parameters() < 0.6 * whole.num_parameters()
    ids = torch.arange(24).view(2, 12) % 61
    scores = build("importance", "pangu-pi-15m", overrides)(ids)
    assert len({axis.layer for axis in scores if axis.kind == "ffn"}) == 3
    loss = build("forward-pass", "pangu-pi-15m", overrides)(ids)
    assert loss == pytest.approx(whole(ids, labels=ids).loss.item(), rel=1e-5)
    step = build("sorted", "pangu-pi-15m", overrides)
    losses = [extract_submodel(whole, num_hidden_layers=depth)(ids, labels=ids).loss for depth in (1, 2, 3)]
    assert step(ids, labels=ids).loss.item() == pytest.approx(sum(losses).item() / 3, rel=1e-5)
    torch.testing.assert_close(step(ids).logits, whole(ids).logits)
    call = make_call(step, {"preset": "pangu-pi-15m", "mode": "train", "batch": 2, "length": 8})
    before = step.model.lm_head.weight.clone()
    call()
    assert not torch.equal(step.model.lm_head.weight, before)


def test_what_is_pruned_and_what_is_built_have_one_size_and_a_vit_the_whole_one():
    parts = [{"hidden_size": 16, "head_dim": 4, "num_heads": [4, 3], "intermediate_sizes": [10, 7]}]
    overrides = {"parts": parts, "image_size": 32}
    models = {name: build(name, "devit-s", overrides) for name in ("pruned-vit", "built-vit")}
    for model in models.values():
        assert model.config.parts[0] | {"num_heads": [2, 2], "intermediate_sizes": [6, 5]} == model.config.parts[0]
    assert models["pruned-vit"].num_parameters() == models["built-vit"].num_parameters()
    pixels = torch.randn(1, 3, 32, 32)
    assert not torch.equal(*(model(pixels).logits for model in models.values()))
    parts = [{"hidden_size": 16, "head_dim": 4, "num_heads": [4, 4], "intermediate_sizes": [32, 32]}]
    overrides = {"parts": parts, "image_size": 32}
    vit, ours = build("vit-like", "devit-s", overrides), build("ours", "devit-s", overrides)
    assert vit.num_parameters() == ours.num_parameters()
    parts = [{"hidden_size": 16, "head_dim": 4, "num_heads": [4] * 6, "intermediate_sizes": [256] * 6}]
    overrides = {"parts": parts, "image_size": 32}
    vit = build("vit-like", "devit-s", overrides)
    small, fresh = (build(f"{kind}-stock-vit", "devit-s", overrides) for kind in ("pruned", "fresh"))
    assert type(small) is type(fresh) is type(vit) and small.num_parameters() == fresh.num_parameters()
    assert small.num_parameters() == pytest.approx(0.6 * vit.num_parameters(), rel=0.1)
    assert not torch.equal(small(pixels).logits, fresh(pixels).logits)
    with pytest.raises(ValueError, match="vit-like is a whole ViT, which dedeit-4s is not"):
        build("vit-like", "dedeit-4s", {})


def test_clip_around_the_towers_of_a_lightclip_computes_what_it_computes():
    tiny = {
        "vision_config": {"model_type": "resnet", "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
        "text_config": {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2},
    }
    clip, ours = (build(peer, "light_clip-resnet-18", tiny) for peer in ("clip", "ours"))
    weights = {name.replace("vision_model.", "vision_model.tower."): w for name, w in ours.state_dict().items()}
    clip.load_state_dict(weights)
    given = {"input_ids": torch.tensor([[49406, 5, 6, 49407]] * 2), "pixel_values": torch.randn(2, 3, 32, 32)}
    with torch.no_grad():
        torch.testing.assert_close(clip(**given).logits_per_image, ours(**given).logits_per_image)
    assert type(clip).__name__ == "CLIPModel"
    row = {"preset": "light_clip-resnet-18", "peer": "ours", "batch": 2, "image_size": 32, "channels": 3, "length": 9}
    for peer, model in (("ours", ours), ("clip", clip)):
        for mode in ("infer", "train"):
            make_call(model, {**row, "peer": peer, "mode": mode})()


def test_timms_network_is_folded_by_timm_and_takes_no_settings_of_ours(monkeypatch):
    made = types.SimpleNamespace(eval=lambda: "made")
    timm, utils = types.ModuleType("timm"), types.ModuleType("timm.utils")
    timm.create_model, utils.reparameterize_model = {"tinynet_e": made}.get, lambda model: f"folded {model}"
    monkeypatch.setitem(sys.modules, "timm", timm)
    monkeypatch.setitem(sys.modules, "timm.utils", utils)
    build = peers.PEERS["timm"].build
    assert (build("tinynet-e", False, {}), build("tinynet-e", True, {})) == ("made", "folded made")
    with pytest.raises(
        ValueError, match="^--model-config: got {.num_labels.: 3}, but timm's models have other settin"
    ):
        build("tinynet-e", False, {"num_labels": 3})
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(
        ImportError, match=r"^--against: timm needs timm and torchvision \(.*timm.*\): pip install timm"
    ):
        build("tinynet-e", False, {})


def test_the_official_ghostnet_is_fused_where_ours_is_folded():
    counts = [
        sum(p.numel() for p in peers.PEERS["official-like"].build("ghostnetv3-0.5x", folded, {}).parameters())
        for folded in (False, True)
    ]
    assert [f"{number / 1e6:.3f}" for number in counts] == ["3.395", "2.853"]


def test_a_graph_that_is_not_max_relative_is_not_written_down_plainly():
    sizes = {"hidden_sizes": [16, 16], "depths": [1], "stage_strides": [1], "reduction_ratios": [1], "image_size": 32}
    pixels = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        plain, ours = (build(peer, "vig-ti", sizes).eval()(pixels).logits for peer in ("official-like", "ours"))
    torch.testing.assert_close(plain, ours)
    with pytest.raises(ValueError, match="^model: got EdgeConv, accepted is MaxRelativeConv.$"):
        build("official-like", "vig-ti", {**sizes, "graph_convolution": "edge"})


def test_the_ghostnets_beside_a_preset_have_its_multiply_adds(monkeypatch):
    asked = []
    monkeypatch.setattr(peers, "ghostnet_width", lambda macs: asked.append(macs) or 0.5)
    monkeypatch.setattr(counting, "count_preset", lambda preset, overrides: types.SimpleNamespace(macs=7))
    monkeypatch.setattr(peers, "ours", lambda *given: given)
    monkeypatch.setattr(peers, "_ghostnet", lambda *given: ("plain", *given))
    expected = ("ghostnet-1.0x", True, {"width_multiplier": 0.5, "num_channels": 3, "num_labels": 1000})
    assert peers.PEERS["ghostnet"].build("parameternet-300m", True, {}) == expected
    assert peers.PEERS["ghostnet-official-like"].build("parameternet-300m", True, {}) == ("plain", *expected)
    assert asked == [7, 7]


def test_a_peer_that_changes_a_network_begins_with_ours(monkeypatch):
    attention, made = [], nn.Linear(1, 1)
    made.set_attn_implementation = attention.append
    monkeypatch.setattr(peers, "create_model", lambda preset, **overrides: made)
    assert peers.PEERS["official-like"].build("tinyvit-5m", True, {}) is made and attention == ["eager"]
    given = {"encoder": {"hidden_size": 8, "num_blocks": 3, "growth": 4}}
    given["unet"] = {"hidden_size": 8, "condition_channels": 8, "num_conditions": 1}
    monkeypatch.undo()
    plain = build("official-like", "sam-diffsr-x4", given)
    assert isinstance(plain, OfficialDenoiser) and isinstance(build("ours", "sam-diffsr-x4", given), DenoisingStep)
    for name in ("use_attention", "upsampled_input"):
        config = types.SimpleNamespace(**{"use_attention": False, "upsampled_input": False, name: True})
        with pytest.raises(ValueError, match="^unet: use_attention and upsampled_input are off in the published"):
            OfficialDenoiser(types.SimpleNamespace(config=config))
    sizes = {"hidden_sizes": [8, 12], "strides": [2], "image_size": 32, "num_labels": 3}
    bare = peers.PEERS["bare-convolutions"].build("vanillanet-5", True, sizes)
    assert isinstance(bare, BareConvolutions) and bare.model.config.reparameterized


def test_the_official_detector_in_training_is_ours(monkeypatch):
    made = nn.Identity()
    monkeypatch.setattr("hf_effmodels.benchmarking.detectors.create_model", lambda preset, **overrides: made)
    assert peers.PEERS["official-like"].build("gold-yolo-n", False, {}) is made


@pytest.mark.parametrize("sizes", [{"padding": 1}, {"stride": 2, "padding": 1}, {"stride": 3}])
def test_adders_by_columns_and_by_distances_scale_and_shift_as_ours_do(sizes):
    torch.manual_seed(0)
    layer = AdderConv2d(2, 3, 3, **sizes, bias=True, scale=True)
    nn.init.uniform_(layer.scale, 0.5, 2)
    pixels = torch.randn(2, 2, 7, 5)
    expected = layer(pixels)
    for plainly in (broadcast_adders, cdist_adders):
        torch.testing.assert_close(plainly(nn.Sequential(layer))(pixels), expected)


def test_a_block_of_the_official_ghostnet_that_strides_without_growing_halves_its_shortcut_too():
    sizes = {"stages": [[[3, 32, 16, 0, 1]], [[3, 32, 16, 0.25, 2]]], "image_size": 32}
    peer, ours = (build(name, "ghostnet-1.0x", sizes).eval() for name in ("official-like", "ours"))
    still, halved = peer.blocks
    maps = torch.randn(1, 16, 8, 8)
    assert still(maps).shape == (1, 16, 8, 8) and halved(maps).shape == (1, 16, 4, 4)
    assert isinstance(still.shortcut, nn.Identity) and not isinstance(halved.shortcut, nn.Identity)
    assert sum(p.numel() for p in peer.parameters()) == sum(p.numel() for p in ours.parameters())


@pytest.mark.parametrize("preset", ["ghostnet-1.0x", "ghostnetv2-1.0x", "ghostnetv3-1.0x"])
@torch.no_grad()
def test_a_fused_block_of_the_official_ghostnet_has_the_maps_of_one_that_is_not(preset):
    sizes = {"stages": [[[3, 32, 16, 0, 1]], [[5, 32, 24, 0.25, 2]], [[3, 48, 24, 0, 1]]], "image_size": 32}
    plain, fused = (peers.PEERS["official-like"].build(preset, folded, sizes).eval() for folded in (False, True))
    maps = torch.randn(2, 16, 8, 8)
    assert [tuple(block(maps).shape) for block in (plain.blocks, fused.blocks)] == [(2, 24, 4, 4)] * 2
    assert fused(torch.randn(2, 3, 32, 32)).shape == (2, 1000)
    branches = [any(isinstance(m, Branches) for m in network.modules()) for network in (plain, fused)]
    assert branches == [preset.startswith("ghostnetv3"), False]


class Asked(Exception):
    """What a peer asked for first."""


#: Peers of networks with settings of their own alone.
OF_THEIR_OWN = {"timm"}


@pytest.mark.parametrize("peer", sorted({*peers.PEERS} - OF_THEIR_OWN))
@pytest.mark.parametrize("folded", [True, False])
def test_what_is_asked_for_reaches_every_peer(peer, folded, monkeypatch):
    """The preset and the changes of its configuration; and whether it is folded, of what can be."""

    def asked(preset, *given, **overrides):
        raise Asked(preset, overrides)

    def ours(preset, folded, overrides):
        raise Asked(preset, overrides, folded)

    of = peers.PEERS[peer].of
    names = [name for one in ARCHITECTURES.values() if of is None or one.model_type in of for name in one.presets]
    preset = (names or ["sam-diffsr-x4"])[-1]
    names = [f"hf_effmodels.benchmarking.{path.stem}" for path in Path(peers.__file__).parent.glob("*.py")]
    for module in (sys.modules.get(name) or importlib.import_module(name) for name in sorted(names)
                   if not name.endswith("__")):  # fmt: skip
        for name in ("create_model", "get_config"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, asked)
    if peer != "ours":
        monkeypatch.setattr(peers, "ours", ours)
    monkeypatch.setattr(counting, "count_preset", lambda preset, overrides: asked(preset, **overrides))
    with pytest.raises(Asked) as found:
        peers.PEERS[peer].build(preset, folded, {"num_labels": 7})
    name, overrides, *form = found.value.args
    assert (name, overrides) == (preset, {"num_labels": 7})
    assert form in ([], [folded]) or peer.startswith("layers-"), "layers by themselves are of the folded network"


@pytest.mark.parametrize("peer", ["rt-detr-r18", "d-fine-n"])
def test_a_detector_beside_a_preset_takes_and_tells_what_that_does(peer):
    model = build(peer, "gold-yolo-n", {"num_channels": 1, "num_labels": 5})
    with torch.no_grad():
        maps = model.model.backbone(torch.zeros(2, 1, 64, 64), torch.ones(2, 64, 64))
    assert len(maps[0][0]) == 2 and not model.training
    heads = {module.out_features for name, module in model.named_modules() if name.endswith("enc_score_head")}
    assert heads == {5} and model.config.num_labels == 5
