"""The model that the arguments ask for, its processor, and which of its weights are trained."""

import difflib
from collections.abc import Iterator
from functools import partial

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModelForCausalLM, AutoProcessor, AutoTokenizer, BitsAndBytesConfig
from transformers.utils import is_bitsandbytes_available

import hf_effmodels

from ....hub.ids import check_place, reading
from ....hub.whole import load_whole
from ....modeling.adem_vl.configuration_adem_vl import PRESETS, AdemVLConfig
from ....modeling.adem_vl.modeling_adem_vl import AdemVLForConditionalGeneration, load_vision_tower
from ....modeling.adem_vl.processing_adem_vl import IMAGE_PREFIX, NO_IMAGE_TEXT, AdemVLProcessor
from ...data.text.tokenization import train_tokenizer
from ...run.presets import names_preset
from .arguments import TRAINED_TOKENIZER, VisionLanguageModelArguments
from .samples import Samples

#: How many training texts a tokenizer is made from.
_TOKENIZER_TEXTS = 100_000
#: Of such a tokenizer, as LLaMA names them: their ids are 0, 1 and 2.
SPECIAL_TOKENS = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}


def load_model(
    args: VisionLanguageModelArguments, samples: Samples | None = None
) -> tuple[AdemVLForConditionalGeneration, AdemVLProcessor]:
    """A preset with fresh adapters, around models of the Hub or random weights; or an ADEM-VL model as it was saved.

    Args:
        args: which model.
        samples: of the training, for a tokenizer that is made from them.

    Raises:
        ValueError: unknown preset or setting, parts that do not go together, a precision that is not installed.
        OSError: a model that cannot be found or reached.
    """
    precision = _precision(args)
    if not names_preset(args.model, args.revision, PRESETS):
        check_place("--model", args.model, revision=("--revision", args.revision))
        return _pretrained(args, precision)
    if args.text_model is None:
        return _random(args, samples)
    return _around_base_models(args, precision)


def has_base_elsewhere(args: VisionLanguageModelArguments) -> bool:
    """Whether the frozen parts are models of their own, and not part of a folder with all weights."""
    if args.model in PRESETS:
        return args.text_model is not None
    return AutoConfig.from_pretrained(args.model, revision=args.revision, token=args.token).adapter_only


def set_trained_weights(model: AdemVLForConditionalGeneration, train: str, base_precision: str) -> None:
    """Which weights get gradients: the adapters; the vision tower, too (`"adapters+vision"`); or all (`"all"`).

    Raises:
        ValueError: frozen weights of low precision are asked to be trained.
    """
    if train != "adapters" and base_precision != "float32":
        raise ValueError(
            f"--base_precision: got {base_precision} with --train {train}; what is trained is kept in float32 "
            "(--bf16 true computes in bfloat16)."
        )
    model.freeze_base()
    trained = {"adapters": [], "adapters+vision": [model.model.vision_tower], "all": [model]}[train]
    for module in trained:
        module.requires_grad_(True)
    # What is trained is no longer what lies there.
    if train != "adapters":
        model.config.vision_model_name_or_path = None
    if train == "all":
        model.config.text_model_name_or_path = None


def _precision(args: VisionLanguageModelArguments) -> dict:
    """Keywords of `from_pretrained` for the frozen parts."""
    if args.base_precision != "4bit":
        return {"dtype": getattr(torch, args.base_precision)}
    if not is_bitsandbytes_available():
        raise ValueError(
            "--base_precision: 4bit needs bitsandbytes, which is not installed (pip install bitsandbytes); bfloat16 "
            "does without."
        )
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    return {"dtype": torch.bfloat16, "quantization_config": quantization}


def _pretrained(args: VisionLanguageModelArguments, precision: dict):
    for name in ("text_model", "tokenizer", "model_config"):
        if getattr(args, name):
            raise ValueError(f"--{name} goes with a preset; {args.model} has its own.")
    source = {"revision": args.revision, "token": args.token}
    with reading("--model", args.model, revision=("--revision", args.revision)):
        config = AutoConfig.from_pretrained(args.model, **source)
    if not isinstance(config, AdemVLConfig):
        raise ValueError(
            f"--model: {args.model} is a {config.model_type!r}, accepted are ADEM-VL models. To adapt a language "
            "model give a preset as model and the language model as text_model."
        )
    if "quantization_config" in precision and not config.adapter_only:
        raise ValueError(f"--base_precision: 4bit needs a model of adapters only; {args.model} holds whole weights.")
    with reading("--model", args.model, revision=("--revision", args.revision)):
        processor = AutoProcessor.from_pretrained(args.model, **source)
    source |= {**precision, "revision": ("--revision", args.revision)}
    model = load_whole(AdemVLForConditionalGeneration, "--model", args.model, **source)
    return model, processor


def _around_base_models(args: VisionLanguageModelArguments, precision: dict):
    settings = _settings(args)
    for name in ("text_config", "vision_config"):
        if name in args.model_config:
            raise ValueError(f"--model_config: {name} is that of the models given as text_model and vision_model.")
        settings.pop(name, None)
    with reading("--tokenizer" if args.tokenizer else "--text_model", args.tokenizer or args.text_model):
        tokenizer = AutoTokenizer.from_pretrained(args.tokenizer or args.text_model, token=args.token)
    text_model = load_whole(AutoModelForCausalLM, "--text_model", args.text_model, token=args.token, **precision)
    with reading("--vision_model", args.vision_model):
        vision_model = load_vision_tower(args.vision_model, token=args.token, dtype=precision["dtype"])
    image_size = vision_model.config.image_size
    processor = _processor(args, tokenizer, image_size, settings)
    names = {"text_model_name_or_path": args.text_model, "vision_model_name_or_path": args.vision_model}
    settings |= {"image_token_id": processor.image_token_id, **names}
    model = _built(lambda: AdemVLForConditionalGeneration.from_base_models(text_model, vision_model, **settings))
    _set_special_tokens(model, tokenizer)
    return model, processor


def _random(args: VisionLanguageModelArguments, samples: Samples | None):
    if args.base_precision != "float32":
        raise ValueError(f"--base_precision: got {args.base_precision}, but random weights are trained: float32.")
    if args.tokenizer is None:
        raise ValueError(
            "--text_model and --vision_model are missing: the frozen models to adapt. For a network that starts from "
            f"random weights give --tokenizer, a Hub id, a folder or {TRAINED_TOKENIZER}."
        )
    settings = _settings(args)
    if args.tokenizer != TRAINED_TOKENIZER:
        with reading("--tokenizer", args.tokenizer):
            tokenizer = AutoTokenizer.from_pretrained(args.tokenizer, token=args.token)
    elif samples is None:
        raise ValueError(f"--tokenizer: {TRAINED_TOKENIZER} is made from training texts, and there is no training.")
    else:
        tokenizer = train_tokenizer(
            partial(_texts, samples), args.tokenizer_vocab_size, special_tokens=SPECIAL_TOKENS, at_most=True
        )
    settings["text_config"] = {
        "model_type": "llama",
        **settings.get("text_config", {}),
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    # The image token comes behind the vocabulary.
    config = _built(lambda: AdemVLConfig(**{**settings, "image_token_id": len(tokenizer)}))
    processor = _processor(args, tokenizer, config.vision_config.image_size, settings)
    config.image_token_id = processor.image_token_id
    model = _built(lambda: AdemVLForConditionalGeneration(config))
    _set_special_tokens(model, processor.tokenizer)
    return model, processor


def _settings(args: VisionLanguageModelArguments) -> dict:
    """Fields of the configuration: the preset's, and those of `--model_config`."""
    accepted = {name for name in AdemVLConfig.__dataclass_fields__ if not name.startswith("_")}
    for key in args.model_config:
        if key not in accepted:
            near = difflib.get_close_matches(key, accepted, n=3)
            raise ValueError(
                f"--model_config: AdemVLConfig has no field {key!r}; nearest: {', '.join(near) or 'none'}."
            )
    return {**PRESETS[args.model].config, **args.model_config}


def _built(build):
    try:
        return build()
    except StrictDataclassError as error:
        raise ValueError(f"--model_config: {error.__cause__ or error}") from error


def _processor(args: VisionLanguageModelArguments, tokenizer, image_size: int, settings: dict) -> AdemVLProcessor:
    image_processor = hf_effmodels.create_image_processor(args.model, size={"height": image_size, "width": image_size})
    return AdemVLProcessor(image_processor, tokenizer, use_cls_token=settings.get("use_cls_token", True))


def _set_special_tokens(model: AdemVLForConditionalGeneration, tokenizer) -> None:
    """Generation ends where the answers that are learned end."""
    if tokenizer.eos_token_id is None:
        raise ValueError("--tokenizer: it has no end-of-sequence token, which ends the answers.")
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.bos_token_id = tokenizer.bos_token_id


def _texts(samples: Samples) -> Iterator[str]:
    """The texts that the tokenizer will see, as many times as they come."""
    yield from (IMAGE_PREFIX, NO_IMAGE_TEXT)
    few = samples.evenly(_TOKENIZER_TEXTS)
    for index in range(len(few)):
        sample = few[index]
        yield "".join(prompt + answer for prompt, answer in sample.turns)
        yield sample.question
