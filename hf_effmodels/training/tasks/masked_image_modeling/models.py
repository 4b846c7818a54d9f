"""The masked image model that a recipe asks for, and its image processor."""

import logging

from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForPreTraining, PreTrainedModel
from transformers.image_processing_base import ImageProcessingMixin
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import hf_effmodels

from ....hub.ids import reading
from ....hub.whole import load_whole
from ....models import sized_processor
from ....registry import ARCHITECTURES
from ...data.normalization import with_channels
from ...run.arguments import check_fields_of
from ...run.presets import names_preset
from .arguments import MaskedModelArguments

logger = logging.getLogger(__name__)

#: Beginnings of names of weights that a network without its head may have, and that are not trained here.
_UNUSED = ("pooler.",)

TASK = "masked-image-modeling"
#: What a preset that becomes an encoder is for.
ENCODERS = "image-feature-extraction"
#: What a new encoder's images are normalised with: ImageNet's mean and deviation, as in all papers here.
_PROCESSOR_OF = "fastmim-vit-base"


def load_masked_model(args: MaskedModelArguments) -> tuple[PreTrainedModel, ImageProcessingMixin]:
    """A masked image model, or one that is built around an encoder.

    Raises:
        ValueError: unknown preset, type or setting; an encoder that the method does not take; no masked image model.
        OSError: a model that cannot be found or reached.
    """
    sizes = {name: getattr(args, name) for name in ("image_size", "num_channels") if getattr(args, name) is not None}
    if args.ignore_mismatched_sizes:
        raise ValueError("--ignore_mismatched_sizes: there is no head here that could be another.")
    model, processor = _around_encoder(args, sizes) if args.method else _whole(args, sizes)
    return model, with_channels(processor, model.config.num_channels)


def _whole(args: MaskedModelArguments, sizes: dict):
    presets = hf_effmodels.list_models(task=TASK)
    fields = {**args.model_config}
    if sizes and "backbone_config" in fields:
        raise ValueError(f"--{next(iter(sizes))}: --model_config has a backbone_config, which says it.")
    if names_preset(args.model, args.revision, presets):
        config = hf_effmodels.get_config(args.model)
        model = hf_effmodels.create_model(args.model, **fields, **_of_both(config, sizes))
        return model, hf_effmodels.create_image_processor(args.model, image_size=args.image_size)
    source = {"revision": args.revision, "token": args.token, "trust_remote_code": args.trust_remote_code}
    with reading("--model", args.model, revision=("--revision", args.revision)):
        config = AutoConfig.from_pretrained(args.model, **source)
    kinds = {hf_effmodels.get_config(preset).model_type for preset in presets}
    if config.model_type not in kinds:
        raise ValueError(
            f"--model: {args.model} is a {config.model_type}, no masked image model ({', '.join(sorted(kinds))}). "
            "With --method fastmim it becomes the encoder of one."
        )
    check_fields_of(config, fields)
    with reading("--model", args.model, revision=("--revision", args.revision)):
        processor = AutoImageProcessor.from_pretrained(args.model, **source)
    source |= {**fields, "revision": ("--revision", args.revision)}
    model = load_whole(AutoModelForPreTraining, "--model", args.model, **source)
    if sizes:
        raise ValueError(f"--{next(iter(sizes))}: that of {args.model} is set; --progressive_sizes trains at others.")
    return model, processor


def _of_both(config, sizes: dict) -> dict:
    """Sizes as fields of a masked image model of this kind: what is its own, and what is its encoder's."""
    fields = {name: value for name, value in sizes.items() if name in type(config).__dataclass_fields__}
    if sizes:
        fields["backbone_config"] = {**config.backbone_config.to_dict(), **sizes}
    return fields


def _around_encoder(args: MaskedModelArguments, sizes: dict):
    encoder, processor = None, None
    config_class = CONFIG_MAPPING[args.method]
    check_fields_of(config_class(), args.method_config, "--method_config")
    if names_preset(args.model, args.revision, hf_effmodels.list_models(task=ENCODERS), CONFIG_MAPPING):
        if args.model in CONFIG_MAPPING:
            check_fields_of(CONFIG_MAPPING[args.model](), args.model_config)
            config = AutoConfig.for_model(args.model, **{**args.model_config, **sizes})
        else:
            config = hf_effmodels.get_config(args.model, **{**args.model_config, **sizes})
    else:
        source = {"revision": args.revision, "token": args.token, "trust_remote_code": args.trust_remote_code}
        with reading("--model", args.model, revision=("--revision", args.revision)):
            processor = AutoImageProcessor.from_pretrained(args.model, **source)
            saved = AutoConfig.from_pretrained(args.model, **source)
        check_fields_of(saved, args.model_config)
        if args.image_size is not None:
            processor = sized_processor(processor, args.image_size)
        taken = {name: value for name, value in sizes.items() if name != "image_size" or hasattr(saved, name)}
        source |= {**args.model_config, **taken, "revision": ("--revision", args.revision)}
        encoder = load_whole(AutoModel, "--model", args.model, spared=_UNUSED, **source)
        config = encoder.config
    fields = {name: value for name, value in sizes.items() if name in config_class.__dataclass_fields__}
    side = args.image_size or getattr(config, "image_size", None)
    if args.method in ("fastmim", "spark"):
        if isinstance(side, int):
            fields["image_size"] = side
        fields["num_channels"] = getattr(config, "num_channels", 3)
        if args.method == "fastmim" and "block_size" not in args.method_config:
            # As published: a token of a ViT, and 32 pixels of everything with stages.
            smallest = {**fields, **args.method_config, "block_size": 1, "target": "pixels"}
            fields["block_size"] = config_class(backbone_config=config, **smallest).encoder_stride
    method = config_class(backbone_config=config, **{**fields, **args.method_config})
    try:
        model = AutoModelForPreTraining.from_config(method)
    except ValueError as error:
        raise ValueError(f"--method: {args.method} over {args.model}: {error}") from error
    if encoder is not None:
        _load_encoder(model, encoder, args.model)
    if processor is None:
        own = _normalization(args.model) if args.model not in CONFIG_MAPPING else {}
        processor = hf_effmodels.create_image_processor(_PROCESSOR_OF, image_size=model.config.image_size, **own)
    return model, processor


def encoder_processor(model: PreTrainedModel, processor: ImageProcessingMixin) -> ImageProcessingMixin:
    """What the encoder's folder has: `processor`, the training's own, or of a detector's backbone the detector's."""
    architecture = ARCHITECTURES.get(model.encoder.config.model_type)
    if architecture is None or not architecture.own_image_processor:
        return processor
    return hf_effmodels.create_image_processor(next(iter(architecture.presets)))


def _normalization(preset: str) -> dict:
    """How an encoder's own processor normalises, where it does otherwise than by ImageNet's mean and deviation."""
    own = hf_effmodels.create_image_processor(preset).to_dict()
    return {name: own[name] for name in ("do_normalize", "image_mean", "image_std") if own.get(name) is not None}


def _load_encoder(model: PreTrainedModel, encoder: PreTrainedModel, name: str) -> None:
    """The encoder's weights into the model; what a masked model has beyond them begins anew, and is said."""
    state = encoder.state_dict()
    if model.config.model_type == "spark":  # of a detector its backbone
        state = {name: state[name] for name in model.encoder.state_dict() if name in state}
    found = model.encoder.load_state_dict(state, strict=False)
    missing = [key for key in found.missing_keys if not key.endswith("mask_token")]
    if missing:
        raise ValueError(f"--model: {name} lacks weights of the encoder: {', '.join(missing[:5])}.")
    if found.unexpected_keys:
        logger.info("not of use for the encoder: %s", ", ".join(found.unexpected_keys[:5]))
