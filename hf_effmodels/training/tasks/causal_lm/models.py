"""The language model that a recipe asks for, and the tokenizer that goes with it."""

import logging
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

import hf_effmodels

from ...._kinds import check_generates
from ....hub.ids import check_place, first_line, reading
from ....hub.whole import check_complete
from ....texts import longest_text
from ...data.text.tokenization import has_tokenizer, load_tokenizer, train_tokenizer
from ...run.arguments import check_fields_of
from ...run.presets import names_preset
from .arguments import TRAIN_TOKENIZER, LanguageModelArguments

logger = logging.getLogger(__name__)


def is_pretrained(args: LanguageModelArguments) -> bool:
    """Whether `--model` names weights, and not a preset or a type of model. Raises as `names_preset`."""
    presets = hf_effmodels.list_models(task="text-generation")
    return not names_preset(args.model, args.revision, presets, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def find_tokenizer(
    args: LanguageModelArguments, texts: Callable[[], Iterable[str]], max_length: int, folder: Path | None = None
) -> PreTrainedTokenizerBase:
    """The tokenizer of a run: `--tokenizer`, or the pretrained model's.

    Args:
        args: which.
        texts: gives the training text, for `train:<size>`.
        max_length: longest sequence, for the record of a trained one.
        folder: a checkpoint this run goes on from, which has the trained tokenizer.

    Raises:
        ValueError: none is named, or see `load_tokenizer` and `train_tokenizer`.
    """
    source = {"revision": args.revision, "token": args.token, "trust_remote_code": args.trust_remote_code}
    pretrained = is_pretrained(args)
    if pretrained:
        check_place("--model", args.model, revision=("--revision", args.revision))
    if not args.tokenizer and not pretrained:
        raise ValueError(
            f"--tokenizer is missing: {args.model} starts from random weights and has none. Name one on the Hub or in "
            "a folder, or train:<number of tokens> to train one on the text."
        )
    if not args.tokenizer:
        return load_tokenizer(args.model, args.eos_token, argument="--model", **source)
    if not args.tokenizer.startswith(TRAIN_TOKENIZER):
        # --revision is the model's.
        return load_tokenizer(args.tokenizer, args.eos_token, **{**source, "revision": None})
    if pretrained:
        raise ValueError(
            f"--tokenizer: {args.tokenizer} makes a new vocabulary, but the weights of {args.model} know only their "
            "own."
        )
    if folder is not None and has_tokenizer(folder):
        return load_tokenizer(str(folder))
    vocab_size = int(args.tokenizer[len(TRAIN_TOKENIZER) :])
    tokenizer = train_tokenizer(texts, vocab_size, max_length)
    logger.info("trained a byte-level BPE of %d tokens", vocab_size)
    return tokenizer


def load_language_model(
    args: LanguageModelArguments, tokenizer: PreTrainedTokenizerBase, block_size: int, to_be_trained: bool = True
) -> PreTrainedModel:
    """A model with a language-model head whose vocabulary is the tokenizer's.

    Presets and types of transformers get random weights and as many tokens as the tokenizer has; pretrained models
    keep their vocabulary, which must have room for the tokenizer's.

    Args:
        args: which model.
        to_be_trained: a pretrained one without a head gets a new one.

    Raises:
        ValueError: an unknown field of the configuration, a vocabulary that is too small, blocks longer than the
            model's positions, weights that are lacking.
        OSError: a model that cannot be found or reached.
    """
    try:
        if is_pretrained(args):
            model = _pretrained(args, to_be_trained)
        else:
            model = _with_random_weights(args, tokenizer, block_size)
    except (ValueError, ImportError) as error:
        if args.attn_implementation is None or str(error).startswith("--"):
            raise
        raise type(error)(f"--attn_implementation: got {args.attn_implementation!r}: {first_line(error)}") from error
    config = model.config.get_text_config()
    if len(tokenizer) > config.vocab_size:
        raise ValueError(
            f"--tokenizer: it has {len(tokenizer)} tokens, the model only {config.vocab_size}; nothing could be "
            "learned of the others."
        )
    positions = longest_text(model, None)  # what a tokenizer is meant for says nothing of the network
    if positions is not None and block_size > positions:
        raise ValueError(
            f"--block_size: got {block_size}, but the model takes {positions} tokens (max_position_embeddings is a "
            "field for --model_config)."
        )
    return model


def _with_random_weights(args: LanguageModelArguments, tokenizer, block_size: int) -> PreTrainedModel:
    tokens = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    tokens |= {"bos_token_id": tokenizer.bos_token_id, "pad_token_id": None}
    given = {**tokens, **args.model_config}
    attention = {} if args.attn_implementation is None else {"attn_implementation": args.attn_implementation}
    if args.model in hf_effmodels.list_models():
        try:
            config = hf_effmodels.get_config(args.model, **given)
        except ValueError as error:
            raise ValueError(f"--model_config: {error}") from error
    else:
        config = _config_of_type(args.model, given)
    # Models of this package are known to AutoModel, too. Weights are float32; training casts as --bf16 says.
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, **attention)
    logger.info("%s: random weights, %.3f million parameters", args.model, model.num_parameters() / 1e6)
    return model


def _config_of_type(model_type: str, given: dict):
    config_class = CONFIG_MAPPING[model_type]
    check_fields_of(config_class(), given)
    try:
        return config_class(**given)
    except StrictDataclassError as error:
        raise ValueError(f"--model_config: {error.__cause__ or error}") from error


def _pretrained(args: LanguageModelArguments, to_be_trained: bool) -> PreTrainedModel:
    source = {"revision": args.revision, "token": args.token, "trust_remote_code": args.trust_remote_code}
    with reading("--model", args.model, revision=("--revision", args.revision)):
        config = AutoConfig.from_pretrained(args.model, **source)
    check_generates("--model", args.model, config.to_dict())
    check_fields_of(config, args.model_config)
    attention = {} if args.attn_implementation is None else {"attn_implementation": args.attn_implementation}
    model, found = AutoModelForCausalLM.from_pretrained(
        args.model, dtype=torch.float32, output_loading_info=True, **args.model_config, **attention, **source
    )
    check_complete("--model", args.model, model, found, to_be_trained=to_be_trained)
    return model
