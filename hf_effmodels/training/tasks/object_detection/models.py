"""The detector that a recipe asks for, and the image processor that goes with it."""

import inspect
from collections.abc import Sequence
from pathlib import Path

from transformers import AutoBackbone, AutoConfig, AutoImageProcessor, AutoModelForObjectDetection, PreTrainedModel

import hf_effmodels

from .arguments import DetectorArguments

#: Image processor of a detector that is built anew: that of this model type.
_PROCESSORS = {"d_fine": "rt_detr", "rt_detr_v2": "rt_detr"}


def load_detector(args: DetectorArguments, names: Sequence[str] | None) -> tuple[PreTrainedModel, object]:
    """A preset or a stock detector with random weights, or a pretrained one, with a head for the classes.

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
        raise ValueError(f"--num_channels: got {args.num_channels}, detectors here take 3 (RGB).")
    if (args.model is None) == (args.detector is None):
        raise ValueError("--model, --detector: one of them is needed, and only one.")
    if args.detector is not None:
        return _from_type(args, labels)
    if args.backbone is not None or args.backbone_config:
        raise ValueError("--backbone goes with --detector: --model has one already.")
    if args.model in hf_effmodels.list_models():
        return _from_preset(args, labels)
    if "/" not in args.model and not Path(args.model).exists():
        hf_effmodels.get_config(args.model)  # says which presets come near
    return _from_pretrained(args, labels)


def _from_preset(args: DetectorArguments, labels: dict):
    if args.model not in hf_effmodels.list_models(task="object-detection"):
        near = ", ".join(hf_effmodels.list_models(task="object-detection"))
        raise ValueError(f"--model: {args.model} is no detector, presets that are: {near}.")
    size = {} if args.image_size is None else {"image_size": args.image_size}
    model = hf_effmodels.create_model(args.model, **args.model_config, **labels, **size)
    return model, hf_effmodels.create_image_processor(args.model, image_size=args.image_size)


def _from_type(args: DetectorArguments, labels: dict):
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES as KNOWN

    if args.detector not in KNOWN or args.detector not in CONFIG_MAPPING:
        raise ValueError(f"--detector: got {args.detector!r}, accepted are {', '.join(sorted(KNOWN))}.")
    config_class = CONFIG_MAPPING[args.detector]
    fields = dict(args.model_config)
    if args.backbone is not None:
        fields["backbone_config"] = _backbone_config(args)
    config = config_class(**fields, **labels)
    for name in fields:
        if not hasattr(config, name):
            raise ValueError(f"--model_config: {config_class.__name__} has no field {name!r}.")
    model = AutoModelForObjectDetection.from_config(config)
    if args.backbone is not None and Path(args.backbone).is_dir():
        _load_backbone(model, args.backbone, config.backbone_config)
    return model, _sized(_processor_of(args.detector), args.image_size)


def _backbone_config(args: DetectorArguments):
    if args.backbone in hf_effmodels.list_models():
        return hf_effmodels.get_config(args.backbone, **args.backbone_config)
    return AutoConfig.from_pretrained(args.backbone, token=args.token, **args.backbone_config)


def _load_backbone(model, folder: str, config) -> None:
    """Trained weights of a backbone into the detector."""
    kind = type(AutoBackbone.from_config(config))
    trained = kind.from_pretrained(folder, config=config).state_dict()
    owner = next(module for module in model.modules() if isinstance(module, kind))
    owner.load_state_dict(trained)


def _processor_of(model_type: str):
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING
    from transformers.utils import is_torchvision_available

    classes = IMAGE_PROCESSOR_MAPPING[CONFIG_MAPPING[_PROCESSORS.get(model_type, model_type)]]
    backend = "torchvision" if is_torchvision_available() and "torchvision" in classes else "pil"
    return classes[backend]()


def _sized(processor, side: int | None):
    """The processor for square inputs of this side."""
    if side is None:
        return processor
    return type(processor)(**{**processor.to_dict(), "size": {"height": side, "width": side}})


def _from_pretrained(args: DetectorArguments, labels: dict):
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
    model = AutoModelForObjectDetection.from_pretrained(
        args.model,
        ignore_mismatched_sizes=args.ignore_mismatched_sizes,
        **args.model_config,
        **labels,
        **source,
    )
    return model, _sized(processor, args.image_size)


def input_names(model) -> list[str]:
    """Names of what the model's forward takes."""
    return list(inspect.signature(model.forward).parameters)


def side_of(processor) -> int:
    """The side of training images in pixels: that of the network's input."""
    size = dict(processor.size)
    return int(size.get("height") or size.get("shortest_edge") or 640)
