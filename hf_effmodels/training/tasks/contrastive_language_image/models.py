"""The two towers that a recipe asks for, with their processor."""

import logging

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForZeroShotImageClassification,
    AutoProcessor,
    AutoTokenizer,
    CLIPProcessor,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

import hf_effmodels

from ....hub.ids import reading
from ....hub.whole import load_whole
from ....modeling.light_clip.configuration_light_clip import LightClipConfig
from ....modeling.light_clip.modeling_light_clip import LightClipForPreTraining
from ....models import find_preset
from ...data.images import check_processor
from ...run.arguments import check_fields_of
from ...run.presets import names_preset
from .arguments import CLIP_TOKENIZER, TwoTowerArguments
from .tokenizer import train_tokenizer

logger = logging.getLogger(__name__)

TASK = "zero-shot-image-classification"
#: Beginnings of the names of weights that a LightCLIP is trained by, and that it does without afterwards.
_LEARNT_WITH = ("fusions.", "mlm_head.", "patch_projection.", "word_projection.", "mask_embedding")


def load_two_towers(args: TwoTowerArguments, captions=()) -> tuple[PreTrainedModel, CLIPProcessor]:
    """A model that images and texts can be compared with, as it is trained, and its processor.

    Args:
        captions: texts to train a tokenizer on, where one is asked for.

    Raises:
        ValueError: unknown preset or setting, a model of another kind, a tokenizer that does not fit.
        OSError: what cannot be found or reached.
    """
    if names_preset(args.model, args.revision, hf_effmodels.list_models(task=TASK)):
        tokenizer = _tokenizer(args, args.tokenizer or CLIP_TOKENIZER, captions)
        model = _from_preset(args, tokenizer)
        images = hf_effmodels.create_image_processor(args.model, image_size=args.image_size)
        processor = CLIPProcessor(images, tokenizer)
    else:
        model, processor = _from_pretrained(args)
        if args.tokenizer is not None:
            processor.tokenizer = _tokenizer(args, args.tokenizer, captions)
    check_processor("--model", processor.image_processor)
    _check_tokenizer(args, model, processor.tokenizer)
    return model, processor


def load_trained(argument: str, name: str, source: dict) -> tuple[PreTrainedModel, CLIPProcessor]:
    """A trained model without what trains it, and its processor.

    Args:
        argument: names it in messages.
        source: `token`, and of the model itself `revision` and `trust_remote_code`.
    """
    said = ("--revision", source["revision"]) if "revision" in source else None
    with reading(argument, name, revision=said):
        processor = AutoProcessor.from_pretrained(name, **source)
    model = load_whole(AutoModelForZeroShotImageClassification, argument, name, **{**source, "revision": said})
    _check_kind(argument, name, model, processor)
    return model, processor


def source_of(args: TwoTowerArguments) -> dict:
    """Where on the Hub the model is read, and how."""
    return {"revision": args.revision, "token": args.token, "trust_remote_code": args.trust_remote_code}


def _check_kind(argument: str, name: str, model, processor) -> None:
    parts = ("get_image_features", "get_text_features", "logit_scale")
    if not all(hasattr(model, part) for part in parts) or hasattr(model, "logit_bias"):
        raise ValueError(
            f"{argument}: {name} is a {type(model).__name__}, accepted are models with CLIP's two towers and its "
            "softmax over a batch."
        )
    if not hasattr(processor, "tokenizer") or not hasattr(processor, "image_processor"):
        raise ValueError(f"{argument}: {name} lacks an image processor or a tokenizer.")


def _tokenizer(args: TwoTowerArguments, name: str, captions) -> PreTrainedTokenizerBase:
    if args.trained_tokens is not None:
        tokenizer = train_tokenizer(captions, args.trained_tokens)
        logger.info("trained a tokenizer of %d tokens on the captions", len(tokenizer))
        return tokenizer
    with reading("--tokenizer", name):
        return AutoTokenizer.from_pretrained(name, token=args.token)


def _from_preset(args: TwoTowerArguments, tokenizer) -> PreTrainedModel:
    preset = find_preset(args.model)[1].config
    fields = {**args.model_config}
    for part in ("vision_config", "text_config"):
        given, own = fields.pop(part, None) or {}, preset.get(part, {})
        if not isinstance(given, dict):
            raise ValueError(f"--model_config: {part}: got {given!r}, accepted is a mapping.")
        kept = own if given.get("model_type", own.get("model_type")) == own.get("model_type") else {}
        fields[part] = {**kept, **given}
    tower = None
    if args.image_tower is not None:
        if "vision_config" in args.model_config:
            raise ValueError("--image_tower: --model_config has a vision_config, which says another.")
        # A classifier's checkpoint may have no pooling layer: that one is learnt here, as the projection after it is.
        tower = load_whole(AutoModel, "--image_tower", args.image_tower, spared=("pooler.",), token=args.token)
        fields["vision_config"] = tower.config
    elif args.image_size is not None:
        fields["vision_config"]["image_size"] = args.image_size
    fields["text_config"] |= {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = hf_effmodels.get_config(args.model, **fields)
    model = LightClipForPreTraining(config)
    if tower is not None:
        model.vision_model.load_state_dict(tower.state_dict())
    logger.info("%s: random weights, %.3f million parameters", args.model, model.num_parameters() / 1e6)
    return model


def _from_pretrained(args: TwoTowerArguments) -> tuple[PreTrainedModel, CLIPProcessor]:
    if args.image_tower is not None:
        raise ValueError(f"--image_tower goes with a preset; {args.model} has an image tower.")
    if args.image_size is not None:
        raise ValueError(f"--image_size: that of {args.model} is set; it goes with a preset.")
    source = source_of(args)
    with reading("--model", args.model, revision=("--revision", args.revision)):
        config = AutoConfig.from_pretrained(args.model, **source)
        processor = AutoProcessor.from_pretrained(args.model, **source)
    check_fields_of(config, args.model_config)
    loader = AutoModelForZeroShotImageClassification
    if isinstance(config, LightClipConfig):
        loader, source["spared"] = LightClipForPreTraining, _LEARNT_WITH  # of one that was saved without
    source |= {**args.model_config, "revision": ("--revision", args.revision)}
    model = load_whole(loader, "--model", args.model, **source)
    _check_kind("--model", args.model, model, processor)
    return model, processor


def _check_tokenizer(args: TwoTowerArguments, model, tokenizer) -> None:
    """The tokenizer's ids have to be the model's: nothing would tell of others but poor results."""
    text, argument = model.config.text_config, "--tokenizer" if args.tokenizer else "--model"
    if tokenizer.pad_token_id is None:
        raise ValueError(f"{argument}: the tokenizer has no padding token; accepted are tokenizers of CLIP's kind.")
    if len(tokenizer) > text.vocab_size:
        raise ValueError(f"{argument}: the tokenizer has {len(tokenizer)} tokens, the model {text.vocab_size}.")
    ends = tokenizer("a")["input_ids"][-1:]
    if ends != [tokenizer.eos_token_id] or text.eos_token_id not in (2, tokenizer.eos_token_id):
        raise ValueError(
            f"{argument}: the model looks for the mark of the end {text.eos_token_id}, but the tokenizer's texts end "
            f"with {ends} (eos_token_id {tokenizer.eos_token_id})."
        )
