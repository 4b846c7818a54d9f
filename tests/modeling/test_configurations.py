"""Settings at the ends of what a configuration accepts: the last one that is taken, the first one that is refused."""

import dataclasses
import re

import pytest
from huggingface_hub.errors import StrictDataclassError

from hf_effmodels.registry import ARCHITECTURES

from .tiny import tiny_config, tiny_fields

#: Whole numbers from 1: a width or a number of parts.
FROM_1 = {
    "adabin": ("num_channels", "pool_size"),
    "addernet": ("num_channels",),
    "bimlp": ("num_channels",),
    "cdfkd_mfs": ("num_channels", "num_heads", "attention_size"),
    "devit": ("image_size", "num_channels", "patch_size", "tokenizer_kernel_size", "num_tokenizer_layers"),
    "dtop": ("keep_top_k",),
    "ghostnetv3": ("num_channels", "stem_size", "final_size", "head_size"),
    "gold_yolo": (
        *("num_channels", "neck_depth", "low_fusion_size", "low_fusion_depth", "num_attention_blocks"),
        *("num_attention_heads", "attention_key_size", "assigner_topk", "anchor_assigner_topk", "atss_topk"),
    ),
    "light_clip": ("projection_dim", "token_top_k", "fusion_num_attention_heads", "vision_hidden_size"),
    "ofa_mobilenetv3": ("num_channels", "final_size", "feature_size"),
    "pangu_pi": ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    "parameternet": ("num_channels", "num_experts", "stem_size", "final_size", "head_size"),
    "parameternet_moe": ("num_local_experts",),
    "shufflenetv2": ("num_channels", "final_size"),
    "tinynet": ("num_channels", "stem_size", "final_size"),
    "vanillanet": ("num_channels",),
    "vig": ("num_channels", "max_dilation", "num_groups", "mlp_ratio", "classifier_hidden_size"),
}
#: 1 is taken by itself, but not beside the other settings of the tiny network.
NOT_ALONE = {"devit.image_size", "gold_yolo.neck_depth", "pangu_pi.hidden_size", "pangu_pi.num_attention_heads"}
#: Above 0.
POSITIVE = {
    "adabin": ("surrogate_gain", "surrogate_sharpness"),
    "addernet": ("adder_eta",),
    "cmt": ("num_channels", "stem_channels", "head_channels", "mlp_ratio"),
    "ghostnetv3": ("width_multiplier",),
    "gold_yolo": ("csp_ratio", "attention_ratio", "mlp_ratio"),
    "ofa_mobilenetv3": ("width_multiplier",),
    "parameternet": ("width_multiplier",),
    "tinynet": ("resolution_multiplier", "depth_multiplier", "width_multiplier"),
    "tinysam": ("num_channels", "output_channels", "num_pos_feats", "mlp_ratio", "mbconv_expand_ratio", "scale"),
    "tinyvit": ("num_channels", "mlp_ratio", "mbconv_expand_ratio"),
}
#: From 0 to below 1.
SHARES = {
    "adabin": ("classifier_dropout",),
    "addernet": ("classifier_dropout",),
    "adem_vl": ("drop_ratio",),
    "bimlp": ("classifier_dropout", "drop_path_rate"),
    "cdfkd_mfs": ("classifier_dropout",),
    "cmt": ("classifier_dropout", "drop_path_rate"),
    "devit": ("attention_dropout", "drop_path_rate"),
    "gold_yolo": ("drop_path_rate",),
    "ofa_mobilenetv3": ("classifier_dropout",),
    "parameternet": ("drop_path_rate",),
    "shufflenetv2": ("classifier_dropout",),
    "tinynet": ("classifier_dropout", "drop_path_rate"),
    "tinysam": ("hidden_dropout_prob", "drop_path_rate"),
    "tinyvit": ("hidden_dropout_prob", "drop_path_rate"),
    "vig": ("drop_path_rate",),
}
VIT = {"model_type": "vit", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 7}
VIT |= {"num_attention_heads": 2, "image_size": 128, "patch_size": 16}
SWIN = {"model_type": "swin", "embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 1, 1], "image_size": 128}
RESNET = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1]}
#: Architectures that pre-train an encoder have no tiny network in the folder.
ENCODERS = {
    "fastmim": {"backbone_config": VIT, "image_size": 128},
    "localmim": {"backbone_config": VIT, "taps": [0, 2, 4, 6]},
    "simmim": {"backbone_config": VIT},
    "spark": {"backbone_config": RESNET},
}


def make(model_type: str, **fields):
    """A configuration with these fields; those of an image encoder (`tinysam`) go where they belong."""
    architecture = ARCHITECTURES[model_type]
    if model_type in ENCODERS:
        return architecture.config_class(**{**ENCODERS[model_type], **fields})
    if model_type == "tinysam" and fields.keys() <= set(POSITIVE["tinysam"] + SHARES["tinysam"] + LISTS["tinysam"]):
        own = architecture.config_class.sub_configs["vision_config"]
        return own(**{**tiny_fields(architecture)["vision_config"], **fields})
    return tiny_config(architecture, **fields)


#: What lists must be like, and what only they can be wrong in.
LISTS = {"tinysam": ("embed_dims", "depths", "num_heads", "window_sizes", "downsample_strides", "local_conv_size")}
LISTS["tinysam"] += ("image_size",)

#: What is dropped in training where nothing is said, by architecture and preset, in the official code; all others drop
#: nothing, GhostNetV3 neither, whose official forward has no dropout.
DROPPED = {
    "adem_vl": {"drop_ratio": 0.1, "vision_adapter_dropout": 0.1},
    "cmt": {"classifier_dropout": 0.1},
    "dtop": {"drop_path_rate": 0.1, "head_dropout": 0.1},
    **{f"dtop-large-{data}": {"drop_path_rate": 0.3} for data in ("ade20k", "pascal-context", "coco-stuff-10k")},
    "ghostnet": {"classifier_dropout": 0.2},
    "ghostnetv2": {"classifier_dropout": 0.2},
    "gold_yolo": {"drop_path_rate": 0.1},
    "ofa_mobilenetv3": {"classifier_dropout": 0.1},
    **dict.fromkeys(["pangu_pi", "parameternet_moe"], {"classifier_dropout": 0.1}),  # of heads on a decoder
    "parameternet": {"classifier_dropout": 0.2},
    "tinyvit-11m": {"drop_path_rate": 0.1},
    "tinyvit-21m": {"drop_path_rate": 0.2},
    **{f"tinyvit-21m-{kind}": {"drop_path_rate": 0.1} for kind in ("22k", "22kto1k", "384", "512")},
}


def test_training_drops_what_the_official_code_does_where_nothing_is_said():
    found = {}
    for model_type, architecture in ARCHITECTURES.items():
        found[model_type] = {field.name: field.default for field in dataclasses.fields(architecture.config_class)}
        found |= {name: preset.config for name, preset in architecture.presets.items()}
    found = {
        name: {setting: value for setting, value in settings.items() if "drop" in setting and value}
        for name, settings in found.items()
    }
    assert {name: settings for name, settings in found.items() if settings} == DROPPED


@pytest.mark.parametrize("model_type", FROM_1)
def test_sizes_and_numbers_begin_with_one(model_type):
    for name in FROM_1[model_type]:
        with pytest.raises(StrictDataclassError, match=f"{name}: got 0, accepted are whole numbers from 1"):
            make(model_type, **{name: 0})
        if f"{model_type}.{name}" not in NOT_ALONE:
            assert getattr(make(model_type, **{name: 1}), name) == 1


@pytest.mark.parametrize("model_type", POSITIVE)
def test_factors_are_above_zero(model_type):
    for name in POSITIVE[model_type]:
        with pytest.raises(StrictDataclassError, match=f"{name}: got 0, accepted are positive numbers"):
            make(model_type, **{name: 0})
        assert getattr(make(model_type, **{name: 1}), name) == 1


@pytest.mark.parametrize("model_type", SHARES)
def test_shares_are_from_zero_to_below_one(model_type):
    for name in SHARES[model_type]:
        for wrong in (1.0, -0.01):
            with pytest.raises(StrictDataclassError, match=f"{name}: got {wrong}, accepted are"):
                make(model_type, **{name: wrong})
        for right in (0.0, 0.99):
            assert getattr(make(model_type, **{name: right}), name) == right


@pytest.mark.parametrize("model_type", ENCODERS)
def test_some_blocks_are_masked_and_some_are_not(model_type):
    for wrong in (0.0, 1.0):
        with pytest.raises(StrictDataclassError, match=f"mask_ratio: got {wrong}, accepted are values between 0 and"):
            make(model_type, mask_ratio=wrong)
    for right in (0.01, 0.99):
        assert make(model_type, mask_ratio=right).mask_ratio == right


BAD = {
    "adabin": [
        ({"hidden_sizes": [8, 0, 16], "depths": [1, 1]}, "hidden_sizes: got [8, 0, 16], accepted are whole"),
        ({"depths": []}, "depths: got [], accepted are whole numbers from 1"),
        ({"hidden_sizes": [16, 16, 14], "depths": [1, 1], "shortcut": "pad"}, "16 to 14 channels cannot be padded"),
        ({"hidden_sizes": [16, 15, 16], "depths": [1, 1], "shortcut": "pad"}, "16 to 15 channels cannot be padded"),
    ],
    "addernet": [
        ({"hidden_sizes": [8, 0, 16], "depths": [1, 1]}, "hidden_sizes: got [8, 0, 16], accepted are whole"),
        ({"depths": []}, "depths: got [], accepted are whole numbers from 1"),
    ],
    "adem_vl": [
        (
            {"vision_feature_layer": 4},
            "vision_feature_layer: got 4 for a tower of 3 layers, accepted are 1 to 3, or -3",
        ),
        ({"vision_feature_layer": 0}, "vision_feature_layer: got 0"),
        ({"vision_feature_layer": -4}, "vision_feature_layer: got -4"),
        ({"pool_sizes": [0]}, "pool_sizes: got [0], accepted are sides from 1 to that of the grid of patches, 4"),
        ({"pool_sizes": []}, "pool_sizes: got []"),
        ({"image_token_id": None}, "image_token_id: got None, but with use_cls_token the class token needs a place"),
        (
            {"text_config": {"model_type": "granite", "logits_scaling": 2.0}},
            "text_config: decoders with logits_scaling (granite) are not supported",
        ),
        (
            {"text_config": {"model_type": "granite", "residual_multiplier": 0.5}},
            "text_config: decoders with residual_multiplier (granite) are not supported",
        ),
    ],
    "bimlp": [
        ({"hidden_sizes": [0, 0, 4], "depths": [1, 1]}, "hidden_sizes: got [0, 0, 4], accepted are multiples of 4"),
        ({"hidden_sizes": [8, 8], "depths": [1, 1]}, "hidden_sizes: got [8, 8], accepted are 3 numbers"),
        ({"depths": []}, "depths: got []"),
        ({"mlp_ratio": 5}, "mlp_ratio: got 5"),
    ],
    "cdfkd_mfs": [
        ({"hidden_sizes": [8, 16, 0, 32]}, "hidden_sizes: got [8, 16, 0, 32], accepted are whole numbers from 1"),
        ({"hidden_sizes": []}, "hidden_sizes: got []"),
        ({"depths": [1, 0, 1]}, "depths: got [1, 0, 1], accepted are whole numbers from 1"),
        ({"backbone_config": RESNET}, "backbone_config: it belongs to trunk='backbone'"),
        ({"sharing": "last_block", "trunk": "wide_resnet", "depths": [1, 1, 2]}, "got trunk='wide_resnet'"),
        ({"sharing": "last_block", "depths": [2, 2, 1]}, "got trunk='resnet' and depths=[2, 2, 1]"),
        ({"sharing": "none"}, "num_heads: got 2, accepted with sharing='none' is 1"),
        ({"aggregation": "sum"}, "aggregation: got 'sum', accepted are mean, attention"),
        ({"stem": "mnist"}, "stem: got 'mnist', accepted are cifar, imagenet"),
        ({"sharing": "all"}, "sharing: got 'all'"),
    ],
    "cmt": [
        ({"embed_dims": [8]}, "embed_dims: got [8], accepted are"),
        ({"num_heads": [1]}, "num_heads: got [1], accepted are"),
        ({"sr_ratios": [1]}, "sr_ratios: got [1], accepted are"),
        ({"embed_dims": [8, 0], "depths": [1, 1], "num_heads": [1, 1], "sr_ratios": [1, 1]}, "embed_dims: got [8, 0]"),
        ({"embed_dims": [8, 8], "depths": [1, 0], "num_heads": [1, 1], "sr_ratios": [1, 1]}, "depths: got [1, 0]"),
        ({"embed_dims": [8, 8], "depths": [1, 1], "num_heads": [0, 1], "sr_ratios": [1, 1]}, "num_heads: got [0, 1]"),
        ({"embed_dims": [8, 8], "depths": [1, 1], "num_heads": [1, 1], "sr_ratios": [1, 0]}, "sr_ratios: got [1, 0]"),
        (
            {"embed_dims": [8, 8], "depths": [1, 1], "num_heads": [1, 3], "sr_ratios": [1, 1]},
            "num_heads: got 3, which does not divide the width 8 of its stage",
        ),
    ],
    "devit": [
        ({"fusion_hidden_size": 0}, "fusion_hidden_size: got 0, accepted are numbers from 1 and none"),
        ({"image_size": 15}, "patch_size: got 16, more than the image's 15 pixels"),
        ({"parts": [{"hidden_size": 0, "head_dim": 1, "num_heads": [1], "intermediate_sizes": [1]}]}, "a size 0"),
        ({"parts": [{"hidden_size": 1, "head_dim": 1, "num_heads": [1], "intermediate_sizes": [0]}]}, "a size 0"),
        ({"parts": [{"hidden_size": 1, "head_dim": 1, "num_heads": [], "intermediate_sizes": []}]}, "of 0 blocks"),
    ],
    "dtop": [
        ({"out_indices": []}, "out_indices: got []"),
        ({"out_indices": [-1, 2], "thresholds": [0.5]}, "out_indices: got [-1, 2]"),
        ({"out_indices": [0, 0, 2]}, "out_indices: got [0, 0, 2]"),
        ({"out_indices": [1, 3], "thresholds": [0.5]}, "out_indices: got [1, 3]"),
    ],
    "fastmim": [
        ({"block_size": 0}, "block_size: got 0, accepted are multiples and divisors of the encoder's stride, 16"),
        ({"hog_cell": 8, "block_size": 4}, "hog_cell: got 8, which does not divide the encoder's stride 16 and block"),
        ({"image_size": [128, 120]}, "image_size: got 120, accepted are multiples of 16"),
        ({"image_size": 144, "block_size": 32}, "image_size: got 144, accepted are multiples of 32"),
        ({"image_size": 144, "encoder_stride": 32}, "image_size: got 144, accepted are multiples of 32"),
        ({"hog_cell": 32, "block_size": 32}, "hog_cell: got 32, which does not divide the encoder's stride 16 and"),
        (
            {"decoder_hidden_size": 30, "decoder_num_attention_heads": 4},
            "which does not divide decoder_hidden_size 30",
        ),
    ],
    "ghostnet": [
        ({"stages": [[[4, 8, 8, 0, 1]]]}, "stages: got the row [4, 8, 8, 0, 1], accepted are rows of (odd kernel"),
        ({"stages": [[[3, 8, 8, 0, 3]]]}, "stages: got the row [3, 8, 8, 0, 3]"),
        ({"stages": [[[3, 8, 8, 1]]]}, "stages: got the row [3, 8, 8, 1]"),
    ],
    "gold_yolo": [
        *(({name: [8]}, f"{name}: got [8], accepted are") for name in ("hidden_sizes", "depths", "injection_sizes")),
        ({"neck_hidden_sizes": [8, 4, 8, 0]}, "neck_hidden_sizes: got [8, 4, 8, 0], accepted are 4 whole numbers"),
        ({"reg_max": -1, "head_type": "plain"}, "reg_max: got -1, accepted are whole numbers from 0"),
        ({"depths": [2, 1, 2, 2]}, "depths: got [2, 1, 2, 2] and neck_depth 2, with stage_type 'csp' whole"),
        ({"neck_depth": 1}, "and neck_depth 1, with stage_type 'csp' whole numbers from 2 are accepted"),
        ({"anchors": [[[1, 2]], [[1, 2]]]}, "accepted are 3 rows of equally many pairs"),
        ({"anchors": [[[1, 2]], [[1, 2]], [[1, 2], [3, 4]]]}, "accepted are 3 rows of equally many pairs"),
        ({"block_type": "conv"}, "block_type: got 'conv', accepted are 'repvgg', 'conv_silu'"),
        ({"stage_type": "conv"}, "stage_type: got 'conv', accepted are 'rep', 'csp'"),
        ({"pyramid_pooling_type": "spp"}, "pyramid_pooling_type: got 'spp', accepted are 'csp_sppf', 'sppf'"),
        ({"n5_source": "n5"}, "n5_source: got 'n5', accepted are 'n4', 'p4'"),
        ({"iou_type": "iou"}, "iou_type: got 'iou', accepted are 'giou', 'siou', 'ciou', 'diou'"),
    ],
    "light_clip": [
        ({"token_loss_weight": -0.5}, "token_loss_weight: got -0.5, accepted are numbers from 0"),
        # One has an image tower and no text, the other a text and no image tower.
        ({"vision_config": {"model_type": "sam"}}, "got model_type 'sam', which is more than an image tower"),
        ({"vision_config": {"model_type": "clap"}}, "got model_type 'clap', which is more than an image tower"),
        ({"fusion_layers": [-1, 0]}, "fusion_layers: got [-1, 0]"),
        ({"fusion_layers": [1, 1]}, "fusion_layers: got [1, 1]"),
        ({"fusion_layers": [3]}, "fusion_layers: got [3], accepted are rising numbers from 0 to 2"),
        ({"fusion_layers": [8, 0], "text_config": {"num_hidden_layers": 9}}, "fusion_layers: got [8, 0], accepted"),
    ],
    "localmim": [
        ({"taps": [-1, 0, 1, 2]}, "taps: got [-1, 0, 1, 2]"),
        ({"backbone_config": VIT | {"patch_size": 32}}, "got patch_size 32; the cells of the target fit 16 only"),
        ({"backbone_config": SWIN | {"depths": [1, 1, 1]}, "taps": None}, "a Swin needs four stages"),
        ({"backbone_config": SWIN, "taps": None, "target": "rgb"}, "target: got 'rgb', accepted is hog or pixels."),
        (
            {"decoder_hidden_size": 6, "decoder_num_attention_heads": 1},
            "whose narrowest decoder 6 is no multiple of 4",
        ),
        ({"decoder_hidden_size": 8, "decoder_num_attention_heads": 3}, "is no multiple of 4 and of its 3 heads"),
        # A Swin's first decoder is half as wide.
        *(
            (
                {
                    "backbone_config": SWIN,
                    "taps": None,
                    "decoder_hidden_size": w,
                    "decoder_num_attention_heads": heads,
                },
                f"got {w}, whose narrowest decoder {w // 2} is no",
            )
            for w, heads in ((20, 2), (24, 8))
        ),
    ],
    "ofa_mobilenetv3": [
        ({"base_widths": [8, 8]}, "base_widths: got [8, 8], accepted are 3 to"),
        ({"base_widths": [8] * 20}, "accepted are 3 to"),
        ({"base_widths": [8, 0, 8]}, "base_widths: got [8, 0, 8]"),
        *(
            ({"kernel_sizes": v}, f"kernel_sizes: got {v}, accepted are different odd")
            for v in ([], [4], [-1], [3, 3])
        ),
        *(({"expand_ratios": v}, f"expand_ratios: got {v}, accepted are different numbers") for v in ([0.5], [2, 2])),
        *(({"depths": v}, f"depths: got {v}, accepted are different whole numbers from 1") for v in ([0], [2, 2], [])),
        ({"submodel": {"depths": [1]}}, "accepted is {kernel_sizes: …, expand_ratios: …, depths: …}"),
        (
            {"submodel": {"kernel_sizes": [5] * 4, "expand_ratios": [2] * 3, "depths": [1, 2]}},
            "submodel: got expand_ratios [2, 2, 2], accepted are 4 numbers out of 2, 3",
        ),
    ],
    "pangu_pi": [
        ({"head_dim": 0}, "head_dim: got 0"),
        ({"head_dim": 3}, "head_dim: got 3"),
        ({"num_key_value_heads": 0}, "num_key_value_heads: got 0, accepted are divisors of num_attention_heads, 4"),
        ({"augmented_shortcut_act": "sulu"}, "activation: got 'sulu'"),
    ],
    "shufflenetv2": [
        ({"hidden_sizes": [0, 8, 16], "depths": [1, 1]}, "hidden_sizes: got [0, 8, 16]"),
        ({"hidden_sizes": [8, 0, 16], "depths": [1, 1]}, "hidden_sizes: got [8, 0, 16]"),
    ],
    "simmim": [
        ({"mask_block_size": 0}, "mask_block_size: got 0, accepted are multiples of 16"),
        ({"mask_block_size": 24}, "mask_block_size: got 24, accepted are multiples of 16"),
        (
            {"backbone_config": VIT | {"model_type": "beit", "use_mask_token": False}},
            "backbone_config: got use_mask_token False, accepted is True",
        ),
    ],
    "spark": [
        ({"block_size": 1}, "block_size: got 1, accepted are powers of two from 2"),
        ({"scales": 0}, "scales: got 0, accepted are 1 to 5 with block_size 32"),
        ({"decoder_hidden_size": 0}, "decoder_hidden_size: got 0, accepted are multiples of 32"),
        ({"image_size": [64, 80]}, "image_size: got 80, accepted are multiples of block_size, 32"),
        ({"block_size": 6}, "block_size: got 6, accepted are powers of two from 2"),
        ({"encoder_widths": [8, 8, 8]}, "encoder_widths: got [8, 8, 8], accepted is one for each of 4"),
        ({"encoder_widths": [8] * 5}, "encoder_widths: got [8, 8, 8, 8, 8], accepted is one for each of 4"),
        (
            {"backbone_config": {"model_type": "ghostnet", "reparameterized": True}},
            "backbone_config: it is folded, and there is nothing to train in it",
        ),
    ],
    "tinynet": [
        ({"stages": [[1, 3, 1, 1, 0]]}, "stages: got the row [1, 3, 1, 1, 0]"),
        ({"stages": [[1, 3, 1, 8]]}, "stages: got the row [1, 3, 1, 8]"),
        ({"stages": [[1, 2, 1, 1, 8]]}, "stages: got the row [1, 2, 1, 1, 8]"),
        ({"stages": [[1, 3, 3, 1, 8]]}, "stages: got the row [1, 3, 3, 1, 8]"),
        ({"stages": [[1, 3, 1, 0, 8]]}, "stages: got the row [1, 3, 1, 0, 8]"),
        ({"stages": [[1, 3, 0, 1, 8]]}, "stages: got the row [1, 3, 0, 1, 8]"),
    ],
    "tinysam": [
        ({"depths": [1, 1, 0, 1]}, "depths: got [1, 1, 0, 1], accepted are whole numbers from 1"),
        ({"embed_dims": [8, 16, 24]}, "embed_dims: got [8, 16, 24], accepted are 4 numbers"),
        ({"window_sizes": [3, 4]}, "window_sizes: got [3, 4], accepted are 3 numbers"),
        ({"downsample_strides": [2, 2, 3]}, "downsample_strides: got [2, 2, 3], accepted are 1 and 2"),
        ({"embed_dims": [7, 16, 24, 32]}, "embed_dims: got [7, 16, 24, 32], the first must be even"),
        ({"num_heads": [3, 3, 4]}, "num_heads: got 3, which does not divide the width 16 of its stage"),
        ({"local_conv_size": 4}, "local_conv_size: got 4, accepted are odd numbers"),
        ({"local_conv_size": -1}, "local_conv_size: got -1, accepted are odd numbers"),
        ({"image_size": 0}, "image_size: got 0, accepted are multiples of the stride 16"),
        (
            {"depths": [1], "embed_dims": [8], "num_heads": [], "window_sizes": [], "downsample_strides": []},
            "num_heads: got [], accepted are whole numbers from 1",
        ),
    ],
    "tinyvit": [
        ({"local_conv_size": -1}, "local_conv_size: got -1, accepted are odd numbers"),
        ({"depths": [1, 1, 0, 1]}, "depths: got [1, 1, 0, 1], accepted are whole numbers from 1"),
        ({"embed_dims": [8, 16]}, "embed_dims: got [8, 16], accepted are 4 numbers"),
        ({"downsample_strides": [2, 2]}, "downsample_strides: got [2, 2], accepted are 3 numbers"),
        ({"window_sizes": [2, 2]}, "window_sizes: got [2, 2], accepted are 3 numbers"),
        (
            {"depths": [1], "embed_dims": [8], "num_heads": [], "window_sizes": [], "downsample_strides": []},
            "num_heads: got [], accepted are whole numbers from 1",
        ),
    ],
    "parameternet": [
        ({"stages": [[[4, 8, 8, 0, 1]]]}, "stages: got the row [4, 8, 8, 0, 1], accepted are rows of (odd kernel"),
        ({"stages": [[[3, 8, 8, 0, 3]]]}, "stages: got the row [3, 8, 8, 0, 3]"),
        ({"stages": [[[3, 8, 8, 1]]]}, "stages: got the row [3, 8, 8, 1]"),
    ],
    "parameternet_moe": [({"router_aux_loss_coef": -0.01}, "router_aux_loss_coef: got -0.01, accepted are numbers")],
    "vanillanet": [({"hidden_sizes": [8, 12, 0], "strides": [2, 1]}, "hidden_sizes: got [8, 12, 0] with strides")],
    "vig": [
        ({"random_dilation_rate": -0.1}, "random_dilation_rate: got -0.1, accepted are numbers 0 to 1"),
        ({"hidden_sizes": (0, 0, 0)}, "hidden_sizes: got [0, 0, 0], accepted are multiples of num_groups"),
        ({"hidden_sizes": (6, 6, 6), "num_groups": 2}, "hidden_sizes: got [6, 6, 6]"),
        ({"hidden_sizes": (12, 12, 12), "num_groups": 8}, "hidden_sizes: got [12, 12, 12], accepted are multiples of"),
        ({"stage_strides": (1, 0)}, "stage_strides: got [1, 0]"),
        ({"stage_strides": (1, 3)}, "stage_strides: got [1, 3]"),
        ({"hidden_sizes": (16, 16, 32)}, "stage_strides: got [1, 1], accepted are 2, and 1 for a stage of the same"),
        ({"reduction_ratios": (1,)}, "reduction_ratios: got [1], accepted are 2 numbers"),
    ],
}


@pytest.mark.parametrize("model_type", BAD)
def test_a_setting_that_cannot_be_is_named_with_what_is_accepted(model_type):
    for fields, message in BAD[model_type]:
        with pytest.raises(StrictDataclassError, match=re.escape(message)):
            make(model_type, **fields)


GOOD = {
    "adabin": [{"hidden_sizes": [1, 1, 3], "depths": [1, 1], "shortcut": "pad"}],
    "addernet": [{"hidden_sizes": [1, 4, 8], "depths": [1, 1], "block": "bottleneck"}],
    "adem_vl": [
        *({"vision_feature_layer": layer} for layer in (1, 3, -1, -3)),
        {"pool_sizes": [1]},
        {"image_token_id": None, "use_cls_token": False},
        {"text_config": {"model_type": "granite", "logits_scaling": 1.0, "residual_multiplier": 1}},
    ],
    "bimlp": [{"hidden_sizes": [4, 4, 8], "depths": [1, 1]}],
    "cdfkd_mfs": [
        {"sharing": "none", "num_heads": 1, "aggregation": "mean"},
        {"sharing": "last_block", "depths": [1, 1, 2]},
        {"hidden_sizes": [1, 1], "depths": [1]},
    ],
    "devit": [{"image_size": 16}, {"part_type": "cct", "image_size": 15}, {"fusion_hidden_size": 1}],
    "dtop": [{"out_indices": [2], "thresholds": []}, {"thresholds": [0, 0]}],
    "fastmim": [{"block_size": 8}, {"block_size": 64}, {"target": "pixels", "hog_cell": 7}],
    "gold_yolo": [
        {"reg_max": 0, "head_type": "plain"},
        {"depths": [1, 1, 1, 1], "neck_depth": 1, "stage_type": "rep"},
        {"anchors": [[[1, 2]], [[1, 2]], [[3, 4]]]},
    ],
    "ghostnetv3": [{"num_conv_branches": 0}],
    "light_clip": [
        {"token_loss_weight": 0, "mlm_loss_weight": 0},
        {"fusion_layers": [0, 2]},
        {"fusion_layers": []},
        {"token_matching": "one_to_one", "token_top_k": 1},
    ],
    "localmim": [{"taps": [6, 0, 1, 2]}, {"backbone_config": SWIN, "taps": None, "target": "pixels"}],
    "ofa_mobilenetv3": [
        {"base_widths": [1, 1, 1], "kernel_sizes": [1], "expand_ratios": [1], "depths": [1]},
        {"submodel": {"kernel_sizes": [5] * 4, "expand_ratios": [2, 3] * 2, "depths": [1, 2]}},
    ],
    "pangu_pi": [
        {"head_dim": 2, "num_key_value_heads": 1},
        {"num_key_value_heads": 4},
        {"num_augmented_shortcuts": 0, "augmented_shortcut_reduction": 1},
    ],
    "parameternet_moe": [{"router_aux_loss_coef": 0}],
    "shufflenetv2": [{"hidden_sizes": [1, 2, 4], "depths": [1, 1]}],
    "simmim": [{"mask_block_size": 16}],
    "spark": [{"block_size": 2, "scales": 1, "decoder_hidden_size": 2}, {"scales": 5}, {"scales": 1}],
    "tinynet": [{"stages": [[1, 1, 2, 1, 1]], "squeeze_ratio": 0}],
    "tinysam": [{"image_size": 16}, {"downsample_strides": [1, 1, 1], "local_conv_size": 1}],
    "tinyvit": [{"downsample_strides": [1, 1, 1], "local_conv_size": 1}],
    "vanillanet": [
        {"act_num": 0, "act_learn": 0, "deep_training_epochs": 0},
        {"act_learn": 1, "reparameterized": True},
        {"hidden_sizes": [1, 1, 1], "strides": [2, 2], "adaptive_pool_sizes": [0, 3]},
    ],
    "vig": [{"random_dilation_rate": 1, "num_neighbors": 1}, {"num_neighbors": (1, 1)}],
    "pyramidvig": [{"hidden_sizes": (4, 4, 4), "num_groups": 1, "stem_stride": 2, "stage_strides": (2, 1)}],
}


@pytest.mark.parametrize("model_type", GOOD)
def test_the_last_settings_that_can_be_are_taken(model_type):
    for fields in GOOD[model_type]:
        config = make(model_type, **fields)
        for name in fields.keys() - {"text_config", "backbone_config"}:
            taken, given = (list(v) if isinstance(v, tuple) else v for v in (getattr(config, name), fields[name]))
            assert taken == given, name
