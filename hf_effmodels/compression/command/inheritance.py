"""`inherit`: a smaller model out of a trained one."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..._option_types import count, from_zero
from ..pruning.choices import LANGUAGE_MODELS, METHODS, check_choice
from .corpus import add_corpus, check_named, find_texts
from .models import check_kind, load_config, load_model
from .output import add_output, free_output
from .words import OPTIONS, as_table


def add(command) -> None:
    sub = command("inherit", _inherit, as_table, "A smaller model out of a trained one.")
    sub.add_argument(
        "--model", required=True, help="a Hub id or a folder: LLaMA, Mistral, Qwen2, Qwen3, Gemma, Phi, PanGu-π"
    )
    sub.add_argument("--like", help="folder of a configuration that gives the sizes (suggest-config writes one)")
    for name in ("layers", "hidden-size", "intermediate-size", "heads", "key-value-heads"):
        sub.add_argument(f"--{name}", type=count, help="size of the smaller model (default: the larger one's)")
    sub.add_argument("--select-layers", default="ends", help="ends, importance, influence, or such as 0,1,5,11")
    sub.add_argument("--method", default="l2", help=", ".join(METHODS))
    sub.add_argument("--rescale-norms", action="store_true", help="let norms keep their scale over fewer channels")
    sub.add_argument("--mask-steps", type=count, default=200, help="steps of --method learned")
    sub.add_argument("--calibration-batches", type=count, default=16, help="batches that are looked at")
    sub.add_argument("--batch-size", type=count, default=8, help="sequences of a calibration batch")
    sub.add_argument("--block-size", type=count, default=256, help="tokens of a calibration sequence")
    sub.add_argument("--seed", type=from_zero, default=0, help="of what --method learned draws")
    add_corpus(sub, "document")
    add_output(sub)


def _inherit(arguments) -> dict:
    output = free_output(arguments, "config.json", "model.safetensors", "inheritance.json")
    check_choice("method", arguments.method, METHODS)
    layers = layer_numbers(arguments.select_layers)
    check_kind(arguments.model, LANGUAGE_MODELS)
    if arguments.like is not None:
        check_kind(arguments.like, LANGUAGE_MODELS, "--like")
    if arguments.dataset is not None:
        check_named(arguments)
    from ..pruning.inheritance import SIZES, WITH_TEXT, check_inheritance, inherit
    from ..pruning.structures import check_architecture

    config = load_config(arguments.model)
    check_architecture(config, "--model")
    names = ("layers", "hidden_size", "intermediate_size", "heads", "key_value_heads")
    sizes = dict(zip(SIZES, (getattr(arguments, name) for name in names), strict=True))
    if arguments.like is not None:
        like = load_config(arguments.like, "--like")
        check_architecture(like, "--like")
        sizes = {name: value or getattr(like, name) for name, value in sizes.items()}
        if like.vocab_size != config.vocab_size:
            raise ValueError(
                f"--like: it has {like.vocab_size} tokens, {arguments.model} has {config.vocab_size}; compress its "
                "tokenizer and embeddings first."
            )
    with _blaming(arguments):
        check_inheritance(
            config, layers=layers, method=arguments.method, rescale_norms=arguments.rescale_norms, **sizes
        )
    needs_text = arguments.method in WITH_TEXT or arguments.select_layers in WITH_TEXT or arguments.rescale_norms
    tokenizer = tokenizer_of(arguments.model, config, needs_text)
    batches = calibration_batches(arguments, tokenizer) if needs_text else None
    model = load_model(arguments.model)
    smaller, made_of = inherit(
        model,
        **sizes,
        layers=layers,
        method=arguments.method,
        calibration=batches,
        rescale_norms=arguments.rescale_norms,
        mask_steps=arguments.mask_steps,
        seed=arguments.seed,
        progress=sys.stderr.isatty(),
    )
    from ..._written import rewritten

    with rewritten(output, "tiny-lm") as folder:
        smaller.save_pretrained(folder)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
        (folder / "inheritance.json").write_text(json.dumps(made_of.to_dict()) + "\n", encoding="utf-8")
    return {
        "parameters": smaller.num_parameters(),
        "of": model.num_parameters(),
        "embedding_share": round(_embeddings(smaller) / smaller.num_parameters(), 4),
        "layers": made_of.layers,
        "folder": str(output),
    }


def _embeddings(model) -> int:
    """Parameters of the embedding and of a head that is not the same."""
    weights = {id(m.weight): m.weight for m in (model.get_input_embeddings(), model.get_output_embeddings())}
    return sum(weight.numel() for weight in weights.values())


@contextmanager
def _blaming(arguments) -> Iterator[None]:
    """Within it a size that does not go is said to be --like's where it has come from there."""
    try:
        yield
    except ValueError as error:
        named = str(error).partition(":")[0].split(", ")
        options = [OPTIONS.get(name, name) for name in named]
        if arguments.like is not None and all(getattr(arguments, name, 0) is None for name in options):
            raise ValueError(f"--like: {error}") from error
        raise


def layer_numbers(text: str) -> str | list[int]:
    if text in ("ends", "importance", "influence"):
        return text
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise ValueError(
            f"--select-layers: got {text!r}, accepted are ends, importance, influence, or such as 0,1,5."
        ) from None


def tokenizer_of(model: str, config, is_needed: bool, argument: str = "--model"):
    """The tokenizer beside a model; None where there is none and nothing needs it. A damaged one is an error."""
    from transformers import AutoTokenizer

    from ...hub.ids import reading
    from ..tokenizers.embedding_compression import check_vocabulary_size
    from ..tokenizers.tokenizer_compression import Vocabulary

    try:
        with reading(argument, model):
            tokenizer = AutoTokenizer.from_pretrained(model)
    except OSError as error:
        if is_needed or any(Path(model).glob("tokenizer*")):
            raise OSError(f"{argument}: {model!r} has no tokenizer that can be read. {error}") from error
        return None
    check_vocabulary_size(config, Vocabulary(tokenizer).size)
    return tokenizer


def calibration_batches(arguments, tokenizer) -> list:
    """Batches of blocks from the beginning of the corpus, packed as the causal-lm task packs them."""
    from itertools import islice

    import datasets
    import torch

    from ...training.data.text.packing import Block, Encoder, PackedBlocks, Separators

    if arguments.block_size < 2:
        raise ValueError(f"--block-size: got {arguments.block_size}, accepted are 2 and more: a token is predicted.")
    separators = Separators.of(tokenizer)
    wanted = arguments.calibration_batches * arguments.batch_size
    train, _ = find_texts(arguments)
    # Enough documents for the blocks, and no more: the corpus may be large.
    texts, left = [], 8 * (wanted + 1) * arguments.block_size
    for row in islice(train, arguments.max_documents):
        texts.append((row["text"] or "")[:left])
        left -= len(texts[-1])
        if left <= 0:
            break
    blocks = PackedBlocks(
        datasets.Dataset.from_dict({"text": texts}),
        Encoder(tokenizer, separators),
        Block(arguments.block_size, separators, False),
        name="the calibration text",
    )
    samples = [blocks[number] for number in range(min(wanted, len(blocks)))]
    return [
        {name: torch.stack([sample[name] for sample in part]) for name in part[0]}
        for start in range(0, len(samples), arguments.batch_size)
        if (part := samples[start : start + arguments.batch_size])
    ]
