"""The image classifier that a recipe asks for, and the image processor that goes with it."""

import logging
from collections.abc import Sequence

import torch
from transformers import AutoConfig, AutoModelForImageClassification, PreTrainedModel
from transformers.image_processing_base import ImageProcessingMixin
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

import hf_effmodels

from ....classes import in_words
from ....hub.ids import reading
from ....hub.whole import check_complete
from ...data.classes import is_generic, shown
from ...data.images import MODES
from ...data.normalization import with_channels
from ...data.processors import load_image_processor
from ...run.arguments import ModelArguments, check_fields_of
from ...run.presets import names_preset

logger = logging.getLogger(__name__)

#: What the pictures of a type of transformers are normalised with: ImageNet's mean and deviation.
_PROCESSOR_OF = "vanillanet-5"


def load_classifier(
    args: ModelArguments,
    names: Sequence[str] | None,
    named: bool = True,
    from_scratch: bool = False,
    new_head: bool = True,
) -> tuple[PreTrainedModel, ImageProcessingMixin]:
    """A preset or a type of transformers with random weights, or a pretrained model, with a head for the classes.

    Args:
        args: which model.
        names: of the classes; None keeps the model's own.
        from_scratch: of a pretrained model take the configuration alone.
        named: the names are the data set's own. Otherwise they are just the numbers, and a pretrained model that has
            at least as many classes keeps its own names.
        new_head: a pretrained network without a head gets a new one.

    Raises:
        ValueError: unknown preset or setting, a pretrained head for another number of classes, or weights that are
            lacking.
        OSError: a model that cannot be found or reached.
    """
    labels = {}
    if names is not None:
        labels = {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}
    overrides = {**args.model_config}
    for name in ("id2label", "label2id", "num_labels"):
        if names is not None and name in overrides:
            raise ValueError(
                f"--model_config: {name} comes from the data set; --label_mapping gives its classes names."
            )
    for name in ("num_channels", "image_size"):
        if getattr(args, name) is not None:
            overrides[name] = getattr(args, name)
    if overrides.get("num_channels", 3) not in MODES:
        got = f"num_channels: got {overrides['num_channels']!r}"  # by itself the option is looked at as it is read
        raise ValueError(f"--model_config: {got}, images can be read as {[*MODES]}.")
    presets = hf_effmodels.list_models(task="image-classification")
    if names_preset(args.model, args.revision, presets, MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES):
        build = _from_preset if args.model in presets else _of_type
        return build(args, overrides, labels)
    return _from_pretrained(args, overrides, labels, named, from_scratch, new_head)


def _from_preset(args: ModelArguments, overrides: dict, labels: dict):
    try:
        model = hf_effmodels.create_model(args.model, task="image-classification", **overrides, **labels)
    except ValueError as error:
        own = [name for name in ("num_channels", "image_size") if getattr(args, name) is not None]
        argument = "--" if str(error).partition(":")[0] in own else "--model_config: "
        raise ValueError(f"{argument}{error}") from error
    processor = hf_effmodels.create_image_processor(args.model, image_size=args.image_size)
    return model, with_channels(processor, model.config.num_channels)


def _of_type(args: ModelArguments, overrides: dict, labels: dict):
    """A type of model of transformers, such as vit, with its standard configuration and random weights."""
    if "image_size" in overrides and not hasattr(CONFIG_MAPPING[args.model](), "image_size"):
        overrides = {key: value for key, value in overrides.items() if key != "image_size"}  # it takes any
    check_fields_of(CONFIG_MAPPING[args.model](), overrides)
    # Of several classes, as DeiT has them, the first is the plain one.
    classes = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES[args.model]
    architectures = [classes if isinstance(classes, str) else classes[0]]
    config = AutoConfig.for_model(args.model, **overrides, **labels, architectures=architectures)
    side = args.image_size or getattr(config, "image_size", None)
    processor = hf_effmodels.create_image_processor(_PROCESSOR_OF, image_size=side if isinstance(side, int) else None)
    model = AutoModelForImageClassification.from_config(config)
    return model, with_channels(processor, getattr(config, "num_channels", 3))


def _from_pretrained(
    args: ModelArguments, overrides: dict, labels: dict, named: bool, from_scratch: bool, new_head: bool
):
    source = {"revision": args.revision, "token": args.token, "trust_remote_code": args.trust_remote_code}
    with reading("--model", args.model, revision=("--revision", args.revision)):
        config = AutoConfig.from_pretrained(args.model, **source)
        processor = load_image_processor(args.model, config, **source)
    if not hasattr(config, "image_size"):
        overrides = {key: value for key, value in overrides.items() if key != "image_size"}  # it takes any
    check_fields_of(config, overrides)
    names, own = list(labels.get("id2label", config.id2label).values()), class_names(config)
    count = len(names)
    if named and count == len(own) and set(in_words(names)) == set(in_words(own)):
        labels = {}  # the data set's classes are going to be numbered as the head's, whose weights go on
    elif named and labels and count == len(own) and not is_generic(own) and not from_scratch:
        logger.warning(
            "--model: the head of %s is for other classes (%s), as many as the data set has (%s): its weights are "
            "where theirs begin.",
            *(args.model, shown(own), shown(names)),
        )
    if from_scratch:
        labels = labels or {"id2label": config.id2label, "label2id": config.label2id}
    elif not named and count <= config.num_labels:
        labels = {}
    elif count != config.num_labels and not args.ignore_mismatched_sizes:
        raise ValueError(
            f"--model: {args.model} has a head for {config.num_labels} classes, the data set has {count}. With "
            "--ignore_mismatched_sizes true a new head is trained."
        )
    if from_scratch:
        model = _with_random_weights(config, {**overrides, **labels}, args.trust_remote_code)
    else:
        source |= {"ignore_mismatched_sizes": args.ignore_mismatched_sizes, "output_loading_info": True}
        source["dtype"] = torch.float32  # as in `load_whole`
        model, found = AutoModelForImageClassification.from_pretrained(args.model, **overrides, **labels, **source)
        check_complete("--model", args.model, model, found, to_be_trained=new_head)
    if args.image_size is not None:
        processor.size = _resized(processor.size, args.image_size)
        if getattr(processor, "crop_size", None):
            processor.crop_size = _resized(processor.crop_size, args.image_size)
    return model, with_channels(processor, getattr(model.config, "num_channels", 3))


def _with_random_weights(config, fields: dict, trust_remote_code: bool) -> PreTrainedModel:
    for key, value in fields.items():
        setattr(config, key, value)
    # Whatever the weights beside the configuration are in.
    return AutoModelForImageClassification.from_config(
        config, dtype=torch.float32, trust_remote_code=trust_remote_code
    )


def class_names(config) -> list[str]:
    """Names of a model's classes, by number."""
    return [config.id2label[number] for number in range(config.num_labels)]


def _resized(size: dict, side: int) -> dict:
    return {key: side for key in dict(size) if dict(size)[key] is not None}
