"""The segmenter that a recipe asks for, and the image processor that goes with it."""

import inspect
from collections.abc import Sequence

from transformers import AutoBackbone, AutoModel, AutoModelForSemanticSegmentation, PreTrainedModel
from transformers.utils import is_torchvision_available

import hf_effmodels

from ....modeling.layers.positions import resize_positions
from ...run.dense_models import build_anew, has_trained_backbone, label_fields, load_backbone, load_pretrained
from .arguments import SegmenterArguments
from .data import IGNORED

#: Fields of configurations that say which label is no class.
_IGNORED_LABEL = ("semantic_loss_ignore_index", "loss_ignore_index")
#: Side of the inputs of segmenters that are built anew and do not say.
_SIDE = 512


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
        backbone = fields["backbone_config"]
        if not {"out_features", "out_indices"} & args.backbone_config.keys():
            backbone.out_features = backbone.stage_names[-4:]
        if "auxiliary_in_channels" not in fields:
            # The auxiliary head is on the third of the maps; its width has a default that fits one backbone.
            fields["auxiliary_in_channels"] = AutoBackbone.from_config(backbone).channels[2]

    model = build_anew(args, "segmenter", KNOWN, AutoModelForSemanticSegmentation, labels, adjust)
    if has_trained_backbone(args):
        load = _load_vit if args.segmenter == "dtop" else load_backbone
        load(model, args.backbone, args.token)
    side = args.image_size or getattr(model.config, "image_size", None) or _SIDE
    return model, _new_processor(side if isinstance(side, int) else min(side))


def _load_vit(model, source: str, token: str | None) -> None:
    """The weights of transformers' ViT into DToP's, positions resized to its grid."""
    vit = AutoModel.from_pretrained(source, add_pooling_layer=False, token=token)
    weights = {name: value for name, value in vit.state_dict().items() if not name.startswith("layernorm.")}
    config, name = model.config.backbone_config, "embeddings.position_embeddings"
    side = config.image_size // config.patch_size
    weights[name] = resize_positions(weights[name], side, side, extra_tokens=1)
    model.vit.load_state_dict(weights)


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
