"""What is not said is what the paper says: the defaults of settings that users give by hand."""

import inspect
from dataclasses import fields

import pytest

from hf_effmodels import get_config, list_models, model_info
from hf_effmodels.adapters import AdemConfig
from hf_effmodels.collaboration.codecs.mahppo.configuration_mahppo import ChannelCodedConfig
from hf_effmodels.compression.pruning.vision_widths import search_widths
from hf_effmodels.modeling.gold_yolo.assignment_gold_yolo import atss_assignment, task_aligned_assignment
from hf_effmodels.modeling.gold_yolo.loss_gold_yolo import varifocal_loss
from hf_effmodels.modeling.layers.hog import histograms_of_gradients
from hf_effmodels.modeling.layers.nms import select_detections
from hf_effmodels.modeling.layers.training_branches import with_training_branches
from hf_effmodels.modeling.light_clip.softened_contrastive import softened_contrastive_loss
from hf_effmodels.modeling.light_clip.token_matching import token_scores
from hf_effmodels.modeling.pangu_pi.diagnostics import effective_dimension, layer_diagnostics
from hf_effmodels.pipelines import DelvmPipeline, RRDBModel, SamDiffSRPipeline, SamDiffSRUNet2DModel
from hf_effmodels.pipelines.delvm.convert_delvm import language_model_of
from hf_effmodels.pipelines.delvm.factorized_embedding import FactorizedEmbedding
from hf_effmodels.quantization import quantize_adder, quantize_promptable
from hf_effmodels.quantization.adder.algorithm import activation_range, quantize_weights
from hf_effmodels.quantization.adder.configuration_adder import AdderQuantConfig
from hf_effmodels.quantization.bitnet158.configuration_bitnet158 import BitNet158Config
from hf_effmodels.quantization.bivit.configuration_bivit import BiVitConfig
from hf_effmodels.quantization.cbq.configuration_cbq import CbqConfig
from hf_effmodels.quantization.twin_uniform.configuration_twin_uniform import TwinUniformConfig
from hf_effmodels.quantization.twin_uniform.search import candidates
from hf_effmodels.registry import ARCHITECTURES


@pytest.mark.parametrize(
    "settings, published",
    [
        # 256 visual tokens and 64 of the smaller scale, a tenth of which is dropped.
        (AdemConfig, {"alpha": 0.1, "drop_ratio": 0.1, "num_vision_tokens": 256 + 64, "init_std": 0.02}),
        # Windows of two blocks that share one, LoRA-Rounding of rank 5, and how far outliers lie from the quartiles.
        (CbqConfig, {"window": 2, "overlap": 1, "rank": 5, "epochs": 3, "lambda1": 1.5, "lambda2": 1.0}),
        (CbqConfig, {"bits": 4, "group_size": 128, "symmetric": True, "activation_bits": None, "method": "cbq"}),
        (CbqConfig, {"target": "both", "kld_weight": 1.0, "rounding": "hard", "rounding_init": "fraction"}),
        (CbqConfig, {"learn_steps": True, "cfp": True, "cfp_rounds": 1, "damping": 0.01}),
        # Four groups of filters, and a quantile for the range of activations.
        (AdderQuantConfig, {"bits": 8, "n_groups": 4, "keep_ratio": 0.9997}),
        (ChannelCodedConfig, {"bits": 8}),
        # Means of absolute weights, eight bits of activations.
        (BitNet158Config, {"scale": "mean", "activation_bits": 8, "norm_before": False}),
        # Weights of one bit with learnt scales and the softmax-aware attention; inputs stay real.
        (BiVitConfig, {"scale": "learned", "binary_inputs": False, "attention": True}),
        # W8A8, and probabilities that are not shifted as those of the published file.
        (TwinUniformConfig, {"weight_bits": 8, "activation_bits": 8, "shifted": False}),
    ],
)
def test_defaults_are_those_of_the_paper(settings, published):
    assert {f.name: f.default for f in fields(settings) if f.name in published} == published


@pytest.mark.parametrize(
    "preset, rate",
    [
        *(("ghostnet-1.0x", 0.2), ("parameternet-600m", 0.2), ("cmt-small", 0.1)),
        # None in ResNets, and what the official GhostNetV3 is given it does not use.
        *(("adabin-resnet18", 0.0), ("addernet-resnet50", 0.0), ("ghostnetv3-1.0x", 0.0)),
    ],
)
def test_classifiers_learn_with_the_dropout_of_their_official_code(preset, rate):
    assert get_config(preset).classifier_dropout == rate


@pytest.mark.parametrize(
    "function, published",
    [
        # PTQ4ViT's search with TinySAM's constants: W8A8, a hundred factors from 0.01 to 1.2, three turns.
        (quantize_promptable, {"weight_bits": 8, "activation_bits": 8, "rounds": 3}),
        (candidates, {"low": 0.01, "high": 1.2, "count": 100}),
        (
            quantize_adder,
            {"bits": 8, "activation_bits": None, "n_groups": 4, "keep_ratio": 0.9997, "reestimate": True},
        ),
        (quantize_weights, {"bits": 8, "n_groups": 4}),
        (activation_range, {"keep_ratio": 0.9997}),
        # ATSS: nine points of each level, anchors of five strides; TOOD's alignment.
        (atss_assignment, {"topk": 9, "side": 5.0}),
        (task_aligned_assignment, {"topk": 13, "alpha": 1.0, "beta": 6.0}),
        (varifocal_loss, {"alpha": 0.75, "gamma": 2.0}),
        (select_detections, {"multi_label": False, "class_agnostic": False, "max_detections": 300}),
        # MaskFeat's histograms: nine orientations in cells of eight pixels.
        (histograms_of_gradients, {"bins": 9, "cell": 8, "pooling": "sum", "window": 0, "normalize": True}),
        # PanGu-π's share of the variance that its dimensions explain.
        (effective_dimension, {"threshold": 0.8}),
        (layer_diagnostics, {"threshold": 0.8}),
        # The branches of RepVGG's successor: three, and a 1×1 one.
        (with_training_branches, {"num_branches": 3, "scale": True, "keeps_function": True}),
        # CLIP's loss, and words by their nearest patch.
        (softened_contrastive_loss, {"softening": 0.0, "uniform": False}),
        (token_scores, {"top_k": 1, "matching": "relaxed"}),
        # SAM-DiffSR's networks, and its residuals at twice their size.
        (RRDBModel.__init__, {"hidden_size": 64, "num_blocks": 17, "growth": 32, "scale": 4}),
        (
            SamDiffSRUNet2DModel.__init__,
            {"hidden_size": 64, "dim_mults": (1, 2, 3, 4), "num_conditions": 6, "scale": 4},
        ),
        (SamDiffSRUNet2DModel.__init__, {"condition_channels": 64, "use_attention": False, "upsampled_input": False}),
        (SamDiffSRPipeline.__init__, {"residual_scale": 2.0, "legacy_256": True}),
        (SamDiffSRPipeline.__call__, {"tile_overlap": 16, "tile_size": None, "return_dict": True}),
        (DelvmPipeline.__call__, {"num_images_per_prompt": 1, "num_answer_images": 1, "return_dict": True}),
        (FactorizedEmbedding.__init__, {"std": 0.0052}),
        (language_model_of, {"rope_theta": 10_000.0, "max_position_embeddings": 2048, "factorized": False}),
    ],
    ids=lambda value: getattr(value, "__qualname__", ""),
)
def test_functions_do_by_default_what_is_published(function, published):
    parameters = inspect.signature(function).parameters
    assert {name: parameters[name].default for name in published} == published


def test_the_search_of_widths_is_by_default_as_wide_as_the_papers():
    """A hundred draws of shares up to a half, whose costs are within two hundredths of the target."""
    parameters = inspect.signature(search_widths).parameters
    assert [parameters[name].default for name in ("samples", "bound", "tolerance")] == [100, 0.5, 0.02]


def test_what_cbqs_paper_leaves_open_stays_as_it_was_chosen():
    """Learning rates (relative for steps), the batch and the rounding term: another one is another result."""
    chosen = {"batch_size": 4, "rounding_lr": 1e-2, "step_lr": 1e-3, "rounding_weight": 0.1, "seed": 0}
    assert {f.name: f.default for f in fields(CbqConfig) if f.name in chosen} == chosen


def default(architecture, name):
    return {f.name: f.default for f in fields(architecture.config_class)}.get(name)


#: YOLO's own, and VanillaNet's official code; nothing else departs from torch's defaults.
OTHER_NORMS = {"gold_yolo": (1e-3, 0.03), "vanillanet": (1e-6, 0.1)}


def test_norms_and_first_weights_are_those_of_the_official_code():
    """Nothing in a network's size tells them."""
    seen = set()
    for model_type, architecture in ARCHITECTURES.items():
        if (eps := default(architecture, "batch_norm_eps")) is not None:
            expected = OTHER_NORMS.get(model_type, (1e-5, 0.1))
            assert (eps, default(architecture, "batch_norm_momentum")) == expected, model_type
            seen.add(model_type)
        if ".modeling." in architecture.package and default(architecture, "initializer_range") is not None:
            assert default(architecture, "initializer_range") == 0.02, model_type
    assert len(seen) >= 15
    vision = get_config("tinysam").vision_config
    assert (vision.batch_norm_eps, vision.batch_norm_momentum, vision.initializer_range) == (1e-5, 0.1, 0.02)


@pytest.mark.parametrize(
    "model_type, published",
    [
        # Factors of image features and of the fusion, and the adapters of CLIP's layers but the last.
        (
            "adem_vl",
            {"alpha": 0.1, "beta": 0.01, "drop_ratio": 0.1, "vision_feature_layer": -2, "use_cls_token": True},
        ),
        ("adem_vl", {"vision_adapter_scale": 0.1, "vision_adapter_dropout": 0.1, "image_token_id": 32000}),
        # A sharpness of 0.1 has the gain max(1 / 0.1, 1).
        ("adabin", {"surrogate_gain": 10.0, "surrogate_sharpness": 0.1, "binary_weights": True, "progressive": False}),
        ("addernet", {"adder_eta": 0.2}),
        ("bimlp", {"stage_norm": "batch", "activation_binarizer": "ternary", "drop_path_rate": 0.0}),
        ("cdfkd_mfs", {"aggregation": "mean", "sharing": "multi_level"}),
        ("cmt", {"layer_norm_eps": 1e-6, "embedding_norm_eps": 1e-5, "drop_path_rate": 0.0, "final_norm": False}),
        ("devit", {"layer_norm_eps": 1e-6, "attention_dropout": 0.0, "drop_path_rate": 0.0, "qkv_bias": True}),
        ("dtop", {"drop_path_rate": 0.1, "head_dropout": 0.1, "keep_top_k": 5, "semantic_loss_ignore_index": 255}),
        # Mask2Former's loss with one class per query.
        ("dtop", {"class_loss_weight": 1.0, "mask_loss_weight": 20.0, "dice_loss_weight": 1.0}),
        ("dtop", {"absent_class_weight": 0.1, "auxiliary_loss_weight": 1.0}),
        ("fastmim", {"mask_ratio": 0.75, "block_size": 16, "hog_bins": 9, "hog_cell": 8, "hog_window": 0}),
        ("fastmim", {"normalize_target": True, "decoder_layer_norm_eps": 1e-6, "fixed_positions": True}),
        # Task-aligned assignment with TOOD's exponents, and the weights of YOLOv6's losses.
        ("gold_yolo", {"assigner_topk": 13, "assigner_alpha": 1.0, "assigner_beta": 6.0, "atss_topk": 9}),
        ("gold_yolo", {"class_loss_weight": 1.0, "box_loss_weight": 2.5, "distribution_loss_weight": 0.5}),
        ("gold_yolo", {"anchor_assigner_topk": 26, "drop_path_rate": 0.1, "reg_max": 16, "iou_type": "giou"}),
        ("gold_yolo", {"injection_batch_norm_eps": 1e-5, "injection_batch_norm_momentum": 0.1}),
        # CLIP's first temperature of 0.07, rounded as there.
        ("light_clip", {"logit_scale_init_value": 2.6592, "initializer_factor": 1.0, "token_matching": "relaxed"}),
        ("light_clip", {"token_loss_weight": 1.0, "mlm_loss_weight": 1.0, "token_top_k": 1, "mlm_causal": False}),
        ("light_clip", {"fusion_detach": True, "uniform_softening": False, "token_projection": "shared"}),
        ("localmim", {"mask_ratio": 0.75, "hog_bins": 9, "hog_bias": False, "scale_weights": (1.0, 1.0, 1.0, 1.0)}),
        ("localmim", {"normalize_target": True, "true_coordinates": False}),
        ("ofa_mobilenetv3", {"classifier_dropout": 0.1}),
        ("pangu_pi", {"rms_norm_eps": 1e-6, "attention_dropout": 0.0, "classifier_dropout": 0.1, "use_cache": True}),
        ("pangu_pi", {"bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False, "attention_bias": False}),
        ("pangu_pi", {"mlp_bias": False, "max_position_embeddings": 2048, "augmented_shortcut_act": "gelu"}),
        ("parameternet", {"drop_path_rate": 0.0, "num_experts": 4}),
        ("parameternet_moe", {"num_local_experts": 8, "router_aux_loss_coef": 0.01, "expert_bias": True}),
        ("parameternet_moe", {"output_router_logits": False, "mask_padding_in_balance": False}),
        ("shufflenetv2", {"classifier_dropout": 0.0}),
        ("simmim", {"mask_ratio": 0.6, "mask_block_size": 32}),
        ("spark", {"mask_ratio": 0.6, "block_size": 32, "scales": 4, "normalize_target": True}),
        ("tinynet", {"classifier_dropout": 0.0, "drop_path_rate": 0.0, "resolution_multiplier": 1.0}),
        ("tinyvit", {"layer_norm_eps": 1e-5, "hidden_dropout_prob": 0.0, "drop_path_rate": 0.0}),
        ("tinysam", {"always_multimask": True}),
        # Nothing is annealed unless asked for: λ is the identity's, as in the published weights.
        ("vanillanet", {"act_learn": 1.0, "deep_training_epochs": 0, "classifier_dropout": 0.0}),
        # Nearest neighbours grow from 9 to 18, those of a pyramid stay.
        ("vig", {"num_neighbors": (9, 18), "relative_position": False, "random_dilation_rate": 0.0, "mlp_ratio": 4}),
        ("pyramidvig", {"num_neighbors": 9, "relative_position": True, "reduction_ratios": (4, 2, 1, 1)}),
    ],
)
def test_settings_of_models_that_their_size_does_not_tell_are_those_of_the_paper(model_type, published):
    architecture = ARCHITECTURES[model_type]
    assert {name: default(architecture, name) for name in published} == published


def test_the_parts_of_a_tinysam_have_the_official_numbers():
    config = get_config("tinysam")
    vision, prompts, decoder = config.vision_config, config.prompt_encoder_config, config.mask_decoder_config
    assert (vision.image_size, vision.output_channels, vision.num_pos_feats, vision.scale) == (1024, 256, 128, 1.0)
    assert (vision.layer_norm_eps, vision.neck_layer_norm_eps, decoder.layer_norm_eps) == (1e-5, 1e-6, 1e-5)
    assert (vision.hidden_dropout_prob, vision.drop_path_rate, vision.local_conv_size) == (0.0, 0.0, 3)
    assert (prompts.image_size, prompts.patch_size, prompts.hidden_size, decoder.hidden_size) == (1024, 16, 256, 256)
    assert get_config("mobilesam").always_multimask is False


#: Architecture -> the published network that a configuration without arguments is, and where it is not quite.
WITHOUT_ARGUMENTS = {
    "adabin": ("adabin-resnet18", {}),
    "addernet": ("addernet-resnet50", {}),
    "bimlp": ("bimlp-s", {}),
    "cdfkd_mfs": ("mhresnet8x18", {}),
    "cmt": ("cmt-small", {}),
    "devit": ("devit-s", {}),
    "dtop": ("dtop-base-ade20k", {"thresholds": [1.0, 1.0]}),
    "fastmim": ("fastmim-vit-base", {}),
    "ghostnet": ("ghostnet-1.0x", {}),
    "ghostnetv2": ("ghostnetv2-1.0x", {}),
    "ghostnetv3": ("ghostnetv3-1.0x", {}),
    "gold_yolo": ("gold-yolo-n", {"head_type": "plain", "iou_type": "giou"}),
    "light_clip": ("light_clip-resnet-18", {}),
    "localmim": ("localmim-vit-base", {}),
    "ofa_mobilenetv3": ("ofa-mobilenetv3-1.0x", {}),
    "pangu_pi": ("pangu-pi-1b", {"vocab_size": 32000}),
    "parameternet": ("parameternet-600m", {}),
    "parameternet_moe": ("parameternet-moe-1b", {"intermediate_size": 5632, "pad_token_id": None}),
    "shufflenetv2": ("shufflenetv2-1.0x", {}),
    "simmim": ("simmim-vit-base", {}),
    "spark": ("spark-resnet-50", {}),
    "tinysam": ("tinysam", {}),
    "tinyvit": ("tinyvit-5m", {}),
    "vanillanet": ("vanillanet-5", {}),
    "vig": ("vig-ti", {}),
    "pyramidvig": ("pyramidvig-ti", {}),
}


@pytest.mark.parametrize("model_type", WITHOUT_ARGUMENTS)
def test_a_configuration_without_arguments_is_that_of_a_published_network(model_type):
    preset, other = WITHOUT_ARGUMENTS[model_type]
    own, published = ARCHITECTURES[model_type].config_class().to_dict(), get_config(preset).to_dict()
    of_labels = ("id2label", "label2id", "num_labels")
    differing = {n: value for n, value in own.items() if n not in of_labels and value != published.get(n)}
    assert differing == other


@pytest.mark.parametrize(
    "pattern, number, classes",
    [
        *((name, 10, "cifar-10") for name in ("adabin-*-cifar10", "addernet-*-cifar10")),
        *((name, 100, "cifar-100") for name in ("*resnet8x*", "*wrn4x*")),
        # A hundred of ImageNet's classes, of which no list is published.
        *((name, 100, None) for name in ("mhresnet18", "mhresnet34", "resnet18-224", "resnet34-224")),
        # Official sub-models of a quarter of the classes, and four of them together.
        *((name, 25, None) for name in ("devit-s", "decct-7-3x1")),
        *((name, 100, None) for name in ("devit-4s", "decct-4x7-3x1")),
        ("dedeit-s", 250, None),
        ("dedeit-4s", 1000, "imagenet-1k"),
        ("dtop-*-ade20k", 150, "ade20k"),
        ("dtop-large-pascal-context", 60, "pascal-context-60"),
        ("dtop-large-coco-stuff-10k", 171, "coco-stuff"),
        ("gold-yolo-*", 80, None),
        ("tinyvit-*m-22k", 21841, None),
        *((name, 1000, "imagenet-1k") for name in ("tinyvit-*m", "tinyvit-*-22kto1k", "tinyvit-21m-[35]*")),
        *((name, 1000, "imagenet-1k") for name in ("adabin-resnet[13]?", "addernet-resnet[15]?", "bimlp-*", "cmt-*")),
        *((name, 1000, "imagenet-1k") for name in ("ghostnet*", "ofa-*", "parameternet-?00m", "shufflenetv2-*")),
        *((name, 1000, "imagenet-1k") for name in ("tinynet-*", "vanillanet-*", "vig-*", "pyramidvig-*")),
    ],
)
def test_presets_know_the_classes_they_were_trained_with(pattern, number, classes):
    found = [model_info(name) for name in list_models(pattern)]
    assert found
    for info in found:
        preset = next(e.presets[info.name] for e in ARCHITECTURES.values() if info.name in e.presets)
        assert (preset.num_labels, preset.classes) == (number, classes), info.name


NOAH, BACKBONES = "https://github.com/huawei-noah/", "https://github.com/huawei-noah/Efficient-AI-Backbones/"
SHUFFLENETS = {"0.5x": "x0.5-f707e7126e", "1.0x": "x1-5666bf0f80", "1.5x": "x1_5-3c479a10", "2.0x": "x2_0-8be3c8ee"}
TINYVITS = {"5m": "5m_1k", "11m": "11m_1k", "21m": "21m_1k", "21m-384": "21m_22kto1k_384_distill"}
TINYVITS |= {f"{size}m-22k": f"{size}m_22k_distill" for size in (5, 11, 21)}
TINYVITS |= {f"{size}m-22kto1k": f"{size}m_22kto1k_distill" for size in (5, 11, 21)}
TINYVITS |= {"21m-512": "21m_22kto1k_512_distill"}
VANILLANETS = {"13-1.5x": "13_x1_5", "13-1.5x-ada-pool": "13_x1_5_ada_pool", **{str(n): n for n in range(5, 14)}}
#: Preset -> address of its file (or of the page that links it), and the licence that is stated there.
WEIGHTS = {
    **{
        f"tinynet-{x}": (f"{NOAH}CV-Backbones/releases/download/v1.2.0/tinynet_{x}.pth", "apache-2.0") for x in "abcde"
    },
    **{
        f"ghostnetv2-1.{n}x": (f"{BACKBONES}releases/download/GhostNetV2/ck_ghostnetv2_1{n}.pth.tar", "apache-2.0")
        for n in (0, 3, 6)
    },
    **{f"vig-{size}": (f"{BACKBONES}releases/tag/vig", "apache-2.0") for size in ("ti", "s", "b")},
    **{f"pyramidvig-{s}": (f"{BACKBONES}releases/tag/pyramid-vig", "apache-2.0") for s in ("ti", "s", "m", "b")},
    **{
        f"shufflenetv2-{size}": (f"https://download.pytorch.org/models/shufflenetv2_{file}.pth", "bsd-3-clause")
        for size, file in SHUFFLENETS.items()
    },
    **{
        f"tinyvit-{size}": (
            f"https://github.com/wkcn/TinyViT-model-zoo/releases/download/checkpoints/tiny_vit_{file}.pth",
            "mit",
        )
        for size, file in TINYVITS.items()
    },
    **{
        f"vanillanet-{size}": (f"{NOAH}VanillaNet/releases/download/ckpt/vanillanet_{file}.pth", "mit")
        for size, file in VANILLANETS.items()
    },
    **{
        f"gold-yolo-{size}": (
            f"{NOAH}Efficient-Computing/tree/master/Detection/Gold-YOLO#gold_{size}_{file}",
            "gpl-3.0",
        )
        for size, file in zip("nsml", ("dist.pt", "pre_dist.pt", "pre_dist.pt", "pre_dist.pt"), strict=True)
    },
    "adabin-resnet20-cifar10": (f"{NOAH}Efficient-Computing/tree/master/BinaryNetworks/AdaBin/cifar10", "mit"),
    "tinysam": ("https://github.com/xinghaochen/TinySAM/releases/download/3.0/tinysam_42.3.pth", "apache-2.0"),
    "mobilesam": ("https://github.com/ChaoningZhang/MobileSAM/raw/master/weights/mobile_sam.pt", "apache-2.0"),
}


def test_weights_lie_where_their_authors_put_them():
    found = {name: model_info(name) for name in WEIGHTS}
    assert {name: (info.weights, info.weights_license) for name, info in found.items()} == WEIGHTS
    for pattern, address, licence in (
        ("spark-*", "https://github.com/keyu-tian/SparK", "mit"),
        ("simmim-*", "https://github.com/microsoft/SimMIM", "mit"),
        ("localmim-*", "https://github.com/Haoqing-Wang/LocalMIM", None),
        ("fastmim-*", "https://github.com/ggjy/FastMIM.pytorch", None),
        ("adem_vl-7b-*", "https://github.com/Hao840/ADEM-VL/releases", None),
    ):
        for name in list_models(pattern):
            info = model_info(name)
            assert (info.weights, info.weights_license) == (address, licence), name


def test_the_same_weights_have_a_name_of_timms():
    tags = {"22kto1k": "dist_in22k_ft_in1k", "22k": "dist_in22k", "": "in1k"}
    for size in (5, 11, 21):
        for way, tag in tags.items():
            preset = ARCHITECTURES["tinyvit"].presets["-".join(filter(None, ("tinyvit", f"{size}m", way)))]
            assert preset.timm == f"tiny_vit_{size}m_224.{tag}"
    for side in (384, 512):
        assert ARCHITECTURES["tinyvit"].presets[f"tinyvit-21m-{side}"].timm == f"tiny_vit_21m_{side}.{tags['22kto1k']}"
