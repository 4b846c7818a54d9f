"""The segmenter that a recipe asks for, and the image processor that goes with it."""

import inspect
from collections.abc import Sequence

import torch
from transformers import (
    AutoBackbone,
    AutoConfig,
    AutoModel,
    AutoModelForSemanticSegmentation,
    BeitConfig,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils import is_torchvision_available

import hf_effmodels

from ....hub.whole import load_whole
from ....modeling.layers.positions import resize_positions
from ...run.dense_models import build_anew, has_trained_backbone, label_fields, load_backbone, load_pretrained
from .arguments import SegmenterArguments
from .data import IGNORED

#: Fields of configurations that say which label is no class.
_IGNORED_LABEL = ("semantic_loss_ignore_index", "loss_ignore_index")
#: Side of the inputs of segmenters that are built anew and do not say.
_SIDE = 512
#: What a BEiT has of a ViT.
_OF_VIT = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act", "patch_size"),
    *("hidden_dropout_prob", "attention_probs_dropout_prob", "layer_norm_eps", "initializer_range", "num_channels"),
)


def load_segmenter(args: SegmenterArguments, names: Sequence[str] | None) -> tuple[PreTrainedModel, object]:
    """A preset or a stock segmenter with random weights, or a pretrained one, with a head for the classes.

    Args:
        args: which.
        names: of the classes; None keeps the model's own.

    Raises:
        ValueError: unknown preset, model type or setting, or a pretrained head for other classes.
        OSError: a model that cannot be found or reached.
    """
    labels = label_fields(args, names, "segmenters")
    if (args.model is None) == (args.segmenter is None):
        raise ValueError("--model, --segmenter: one of them is needed, and only one.")
    if args.segmenter is not None:
        model, processor = _from_type(args, labels)
    else:
        if args.backbone is not None or args.backbone_config:
            raise ValueError("--backbone goes with --segmenter: --model has one already.")
        if args.model in hf_effmodels.list_models():
            model, processor = _from_preset(args, labels)
        else:
            model, processor = load_pretrained(args, AutoModelForSemanticSegmentation, labels)
    for name in _IGNORED_LABEL:
        if hasattr(model.config, name):
            setattr(model.config, name, IGNORED)
    return model, processor


def _from_preset(args: SegmenterArguments, labels: dict):
    known = hf_effmodels.list_models(task="image-segmentation")
    if args.model not in known:
        raise ValueError(f"--model: {args.model} is no segmenter, presets that are: {', '.join(known)}.")
    fields = dict(args.model_config)
    if args.image_size is not None:
        preset = hf_effmodels.get_config(args.model).backbone_config.to_dict()
        fields["backbone_config"] = {**preset, **fields.get("backbone_config", {}), "image_size": args.image_size}
    model = hf_effmodels.create_model(args.model, **fields, **labels)
    return model, hf_effmodels.create_image_processor(args.model, image_size=args.image_size)


def _from_type(args: SegmenterArguments, labels: dict):
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES as KNOWN

    def adjust(fields: dict) -> None:
        if args.segmenter != "upernet" or args.backbone is None:
            return
        if fields["backbone_config"].model_type == "vit":
            fields["backbone_config"] = _pyramid_over(fields["backbone_config"], args)
        backbone = fields["backbone_config"]
        if not {"out_features", "out_indices"} & args.backbone_config.keys() and backbone.model_type != "beit":
            backbone.out_features = backbone.stage_names[-4:]
        if "auxiliary_in_channels" not in fields:
            # The auxiliary head is on the third of the maps; its width has a default that fits one backbone.
            fields["auxiliary_in_channels"] = AutoBackbone.from_config(backbone).channels[2]

    model = build_anew(args, "segmenter", KNOWN, AutoModelForSemanticSegmentation, labels, adjust)
    if has_trained_backbone(args):
        if args.segmenter == "dtop":
            model.vit.load_state_dict(_vit_weights(args, model.config.backbone_config))
        elif AutoConfig.from_pretrained(args.backbone, token=args.token).model_type == "vit":
            _load_under_pyramid(model, args)
        else:
            load_backbone(model, args.backbone, args.token)
    side = args.image_size or getattr(model.config, "image_size", None) or _SIDE
    return model, _new_processor(side if isinstance(side, int) else min(side))


def _pyramid_over(vit: PreTrainedConfig, args: SegmenterArguments) -> BeitConfig:
    """A plain ViT as transformers' BEiT, the class that makes a pyramid of its equal maps by deconvolutions
    (Li et al., Benchmarking Detection Transfer Learning with Vision Transformers, https://arxiv.org/abs/2111.11429)."""
    fields = {name: getattr(vit, name) for name in _OF_VIT} | {"image_size": args.image_size or vit.image_size}
    fields |= {"use_absolute_position_embeddings": True, "layer_scale_init_value": 0.0, "drop_path_rate": 0.0}
    if not {"out_features", "out_indices"} & args.backbone_config.keys():
        depth = vit.num_hidden_layers
        if depth < 4:
            raise ValueError(
                f"--backbone: {args.backbone} has {depth} layers, accepted are ViTs of 4 and more: the head takes "
                "four maps. --backbone_config '{out_features: [...]}' names others."
            )
        fields["out_features"] = [f"stage{depth * quarter // 4}" for quarter in (1, 2, 3, 4)]
    return BeitConfig(**{**fields, **args.backbone_config}, add_fpn=True)


def _load_under_pyramid(model: PreTrainedModel, args: SegmenterArguments) -> None:
    """The weights of a ViT into BEiT's class. Biases of keys go: they change no attention."""
    weights = _vit_weights(args, model.config.backbone_config)
    kept = {name: value for name, value in weights.items() if not name.endswith("k_proj.bias")}
    beit = model.backbone.beit
    absent = {
        name: torch.zeros_like(value) for name, value in beit.state_dict().items() if name.endswith("_proj.bias")
    }
    beit.load_state_dict({**absent, **kept})


def _vit_weights(args: SegmenterArguments, config: PreTrainedConfig) -> dict[str, torch.Tensor]:
    """Those of transformers' ViT but for the last norm, positions resized to the grid of `config`."""
    vit = load_whole(AutoModel, "--backbone", args.backbone, add_pooling_layer=False, token=args.token)
    weights = {name: value for name, value in vit.state_dict().items() if not name.startswith("layernorm.")}
    name, side = "embeddings.position_embeddings", config.image_size // config.patch_size
    weights[name] = resize_positions(weights[name], side, side, extra_tokens=1)
    return weights


def _new_processor(side: int):
    """Squares of this side, ImageNet's mean and deviation, and SegFormer's way from scores to maps."""
    from transformers import SegformerImageProcessor, SegformerImageProcessorPil

    made = SegformerImageProcessor if is_torchvision_available() else SegformerImageProcessorPil
    return made(size={"height": side, "width": side}, do_reduce_labels=False)


def side_of(processor) -> int:
    """The side of the network's inputs in pixels."""
    size = dict(processor.size)
    return int(size.get("height") or size.get("shortest_edge") or _SIDE)


def takes_labels(model) -> bool:
    return "labels" in inspect.signature(model.forward).parameters
