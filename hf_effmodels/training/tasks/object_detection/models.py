"""The detector that a recipe asks for, and the image processor that goes with it."""

import inspect
from collections.abc import Sequence

from transformers import AutoModelForObjectDetection, PreTrainedModel

import hf_effmodels

from ...run.dense_models import (
    build_anew,
    has_trained_backbone,
    label_fields,
    load_backbone,
    load_pretrained,
    sized,
)
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
    labels = label_fields(args, names, "detectors")
    if (args.model is None) == (args.detector is None):
        raise ValueError("--model, --detector: one of them is needed, and only one.")
    if args.detector is not None:
        return _from_type(args, labels)
    if args.backbone is not None or args.backbone_config:
        raise ValueError("--backbone goes with --detector: --model has one already.")
    if args.model in hf_effmodels.list_models():
        return _from_preset(args, labels)
    return load_pretrained(args, AutoModelForObjectDetection, labels)


def _from_preset(args: DetectorArguments, labels: dict):
    if args.model not in hf_effmodels.list_models(task="object-detection"):
        near = ", ".join(hf_effmodels.list_models(task="object-detection"))
        raise ValueError(f"--model: {args.model} is no detector, presets that are: {near}.")
    size = {} if args.image_size is None else {"image_size": args.image_size}
    model = hf_effmodels.create_model(args.model, **args.model_config, **labels, **size)
    return model, hf_effmodels.create_image_processor(args.model, image_size=args.image_size)


def _from_type(args: DetectorArguments, labels: dict):
    from transformers.models.auto.modeling_auto import MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES as KNOWN

    model = build_anew(args, "detector", KNOWN, AutoModelForObjectDetection, labels)
    if has_trained_backbone(args):
        load_backbone(model, args.backbone, args.token)
    return model, sized(_processor_of(args.detector), args.image_size)


def _processor_of(model_type: str):
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING
    from transformers.utils import is_torchvision_available

    classes = IMAGE_PROCESSOR_MAPPING[CONFIG_MAPPING[_PROCESSORS.get(model_type, model_type)]]
    backend = "torchvision" if is_torchvision_available() and "torchvision" in classes else "pil"
    return classes[backend]()


def input_names(model) -> list[str]:
    """Names of what the model's forward takes."""
    return list(inspect.signature(model.forward).parameters)


def side_of(processor) -> int:
    """The side of training images in pixels: that of the network's input."""
    size = dict(processor.size)
    return int(size.get("height") or size.get("shortest_edge") or 640)
