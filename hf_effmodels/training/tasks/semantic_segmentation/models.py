"""The segmenter that a recipe asks for, and the image processor that goes with it."""

import inspect
from collections.abc import Sequence
from pathlib import Path

from transformers import (
    AutoBackbone,
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForSemanticSegmentation,
    PreTrainedModel,
)
from transformers.utils import is_torchvision_available

import hf_effmodels

from ....modeling.layers.positions import resize_positions
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
    labels = {}
    if names is not None:
        labels = {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}
        for name in ("id2label", "label2id", "num_labels"):
            if name in args.model_config:
                raise ValueError(f"--model_config: {name} comes from the data set.")
    if args.num_channels not in (None, 3):
        raise ValueError(f"--num_channels: got {args.num_channels}, segmenters here take 3 (RGB).")
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
            if "/" not in args.model and not Path(args.model).exists():
                hf_effmodels.get_config(args.model)  # says which presets come near
            model, processor = _from_pretrained(args, labels)
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
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES as KNOWN

    if args.segmenter not in KNOWN or args.segmenter not in CONFIG_MAPPING:
        raise ValueError(f"--segmenter: got {args.segmenter!r}, accepted are {', '.join(sorted(KNOWN))}.")
    config_class, fields, trained = CONFIG_MAPPING[args.segmenter], dict(args.model_config), None
    if args.backbone is not None:
        backbone = _backbone_config(args)
        if Path(args.backbone).exists() or args.backbone not in hf_effmodels.list_models():
            trained = args.backbone
        fields["backbone_config"] = backbone
        if args.segmenter == "upernet" and "auxiliary_in_channels" not in fields:
            # The auxiliary head is on the third of the maps; its width has a default that fits one backbone.
            fields["auxiliary_in_channels"] = AutoBackbone.from_config(backbone).channels[2]
    known = config_class()  # one with fields of one's own would have them, whatever they are
    for name in fields:
        if not hasattr(known, name):
            raise ValueError(f"--model_config: {config_class.__name__} has no field {name!r}.")
    config = config_class(**fields, **labels)
    model = AutoModelForSemanticSegmentation.from_config(config)
    if trained is not None:
        _load_backbone(model, trained, config.backbone_config, args.token)
    side = args.image_size or getattr(config, "image_size", None) or _SIDE
    return model, _new_processor(side if isinstance(side, int) else min(side))


def _backbone_config(args: SegmenterArguments):
    if args.backbone in hf_effmodels.list_models():
        config = hf_effmodels.get_config(args.backbone, **args.backbone_config)
    else:
        config = AutoConfig.from_pretrained(args.backbone, token=args.token, **args.backbone_config)
    if args.segmenter == "upernet" and not {"out_features", "out_indices"} & args.backbone_config.keys():
        config.out_features = config.stage_names[-4:]
    return config


def _load_backbone(model, source: str, config, token: str | None) -> None:
    """Trained weights of a backbone into the segmenter; of a ViT into DToP's, positions resized to its grid."""
    if model.config.model_type == "dtop":
        vit = AutoModel.from_pretrained(source, add_pooling_layer=False, token=token)
        weights = {name: value for name, value in vit.state_dict().items() if not name.startswith("layernorm.")}
        side = config.image_size // config.patch_size
        name = "embeddings.position_embeddings"
        weights[name] = resize_positions(weights[name], side, side, extra_tokens=1)
        model.vit.load_state_dict(weights)
        return
    kind = type(AutoBackbone.from_config(config))
    trained = kind.from_pretrained(source, config=config, token=token).state_dict()
    next(module for module in model.modules() if isinstance(module, kind)).load_state_dict(trained)


def _new_processor(side: int):
    """Squares of this side, ImageNet's mean and deviation, and SegFormer's way from scores to maps."""
    from transformers import SegformerImageProcessor, SegformerImageProcessorPil

    made = SegformerImageProcessor if is_torchvision_available() else SegformerImageProcessorPil
    return made(size={"height": side, "width": side}, do_reduce_labels=False)


def _from_pretrained(args: SegmenterArguments, labels: dict):
    source = {"revision": args.revision, "token": args.token, "trust_remote_code": args.trust_remote_code}
    try:
        config = AutoConfig.from_pretrained(args.model, **source)
        processor = AutoImageProcessor.from_pretrained(args.model, **source)
    except OSError as error:
        raise OSError(f"--model: {args.model!r} cannot be found or reached. {error}") from error
    for name in args.model_config:
        if not hasattr(config, name):
            raise ValueError(f"--model_config: {type(config).__name__} has no field {name!r}.")
    if labels:
        count = len(labels["id2label"])
        if count != config.num_labels and not args.ignore_mismatched_sizes:
            raise ValueError(
                f"--model: {args.model} has a head for {config.num_labels} classes, the data set has {count}. With "
                "--ignore_mismatched_sizes true a new head is trained."
            )
    model = AutoModelForSemanticSegmentation.from_pretrained(
        args.model, ignore_mismatched_sizes=args.ignore_mismatched_sizes, **args.model_config, **labels, **source
    )
    if args.image_size is not None:
        size = {"size": {"height": args.image_size, "width": args.image_size}}
        processor = type(processor)(**{**processor.to_dict(), **size})
    return model, processor


def side_of(processor) -> int:
    """The side of the network's inputs in pixels."""
    size = dict(processor.size)
    return int(size.get("height") or size.get("shortest_edge") or _SIDE)


def takes_labels(model) -> bool:
    return "labels" in inspect.signature(model.forward).parameters
