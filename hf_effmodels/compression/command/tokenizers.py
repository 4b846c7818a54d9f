"""`compress-tokenizer`: a smaller vocabulary, and the model's rows that go with it."""

import json
import logging
import os
import sys
from dataclasses import asdict
from pathlib import Path

from ..._kinds import check_head
from ..._option_types import count, finite
from ..._places import check_folder_or_id
from ..tokenizers.pieces import STRATEGIES, check_either_size
from .cards import COMPRESSED, card_of_smaller, card_of_tokenizer
from .corpus import add_corpus, check_named, find_texts
from .models import load_config, load_model
from .output import add_output, free_output
from .words import as_table

logger = logging.getLogger(__name__)


def add(command) -> None:
    sub = command("compress-tokenizer", _compress_tokenizer, as_table, "Drop the rare tokens of a tokenizer.")
    sub.add_argument("--tokenizer", required=True, help="a Hub id, a folder, or a SentencePiece BPE tokenizer.model")
    sub.add_argument("--vocab-size", type=count, help="number of tokens to keep")
    sub.add_argument("--coverage", type=finite, help="or: the share of the corpus's tokens that is to be kept")
    sub.add_argument("--strategy", default=STRATEGIES[0], choices=STRATEGIES, help="frequency is the published rule")
    sub.add_argument("--keep", nargs="*", default=[], metavar="TOKEN", help="more tokens to keep")
    sub.add_argument(
        "--counts",
        nargs="*",
        default=[],
        metavar="FILE",
        help="token_counts.json of earlier runs, instead of a corpus",
    )
    sub.add_argument("--num-proc", type=count, help="processes that count")
    sub.add_argument(
        "--state-file", help="where counting goes on after a kill (default: OUTPUT.counts.json, until it is done)"
    )
    sub.add_argument("--model", help="a causal language model whose embedding and head are compressed, too")
    add_corpus(sub)
    add_output(sub)


def _compress_tokenizer(arguments) -> dict:
    names = ["tokenizer.json", "tokenizer_config.json", "compression.json", "id_map.json", "token_counts.json"]
    names += ["README.md"]
    if arguments.model is not None:
        names += ["config.json", "model.safetensors"]
    output = free_output(arguments, *names)
    _check(arguments)
    from ..tokenizers.embedding_compression import check_vocabulary_size, compress_embeddings
    from ..tokenizers.report import compression_report
    from ..tokenizers.tokenizer_compression import Vocabulary, check_size, compress_tokenizer

    sentencepiece, tokenizer = _load_tokenizer(arguments.tokenizer)
    vocabulary = Vocabulary(tokenizer)
    check_size(vocabulary, arguments.vocab_size, arguments.coverage)
    vocabulary.always_kept(arguments.keep)
    model = config = None
    if arguments.model is not None:
        config = load_config(arguments.model)
        check_vocabulary_size(config, vocabulary.size)
        model = load_model(arguments.model)
    state = Path(arguments.state_file or output.with_name(output.name + ".counts.json"))
    counts, held_out = _count(arguments, tokenizer, state)
    compressed, id_map = compress_tokenizer(
        tokenizer, counts, arguments.vocab_size, arguments.coverage, arguments.strategy, arguments.keep
    )
    if type(compressed) is not type(tokenizer) and sentencepiece is None:
        logger.warning(
            "the tokenizer is now a %s, which transformers 4 does not read: as a %s it would be another one.",
            *(type(compressed).__name__, type(tokenizer).__name__),
        )
    report = compression_report(tokenizer, compressed, id_map, counts, held_out, config)
    from ..._written import rewritten

    with rewritten(output, "tiny-lm") as folder:
        if model is not None:
            compress_embeddings(model, id_map).save_pretrained(folder)
        compressed.save_pretrained(folder)
        if sentencepiece is not None:
            sentencepiece.save_compressed(arguments.tokenizer, id_map, folder / "tokenizer.model")
        id_map.save(folder / "id_map.json")
        facts = {**asdict(report), "unreachable": len(report.unreachable)}
        details = {**facts, "unreachable": report.unreachable, "strategy": arguments.strategy}
        (folder / "compression.json").write_text(json.dumps(details, indent=2) + "\n", encoding="utf-8")
        counts.save(folder / "token_counts.json")
        (folder / "README.md").write_text(_card(arguments, report, model, compressed), encoding="utf-8")
    if not arguments.state_file:
        state.unlink(missing_ok=True)
    return {**facts, "folder": str(output)}


def _card(arguments, report, model, tokenizer) -> str:
    rows = [("Tokens", f"{report.tokens_after}, before {report.tokens_before}")]
    rows += [("Share of the corpus's tokens that are kept ones", f"{100 * report.coverage:.2f} %")]
    if report.tokens_per_word_after is not None:
        before, after = report.tokens_per_word_before, report.tokens_per_word_after
        rows += [("Tokens per word", f"{after:.3f}, before {before:.3f}")]
    rows += [("Unknown tokens", f"{100 * report.unknown_after:.2f} %, before {100 * report.unknown_before:.2f} %")]
    if model is None:
        return card_of_tokenizer(arguments.tokenizer, rows)
    rows += [("Parameters before", f"{report.parameters_before / 1e6:.3f} M")]
    return card_of_smaller(model, tokenizer, arguments.model, COMPRESSED, rows, "text-generation")


def _check(arguments) -> None:
    """What names tell before torch is there."""
    if not (arguments.tokenizer.endswith(".model") and os.path.isfile(arguments.tokenizer)):
        check_folder_or_id("--tokenizer", arguments.tokenizer)
    check_either_size(arguments.vocab_size, arguments.coverage)
    if arguments.model is not None:
        check_head("--model", arguments.model, "AutoModelForCausalLM")
    if not arguments.counts:
        check_named(arguments)
    elif arguments.dataset is not None:
        raise ValueError("--counts and --dataset exclude each other.")
    if arguments.state_file is not None and os.path.isdir(arguments.state_file):
        raise ValueError(f"--state-file: {arguments.state_file} is a folder, accepted is a file.")
    for file in arguments.counts:
        if not os.path.isfile(file):
            raise OSError(f"--counts: there is no file {file!r}.")


def _load_tokenizer(name: str):
    """(SentencePiece model or None, fast tokenizer)"""
    from transformers import AutoTokenizer

    from ...hub.ids import reading
    from ..tokenizers.sentencepiece_bpe import SentencePieceBPE

    if name.endswith(".model") and os.path.isfile(name):
        model = SentencePieceBPE.load(name)
        return model, model.to_fast()
    with reading("--tokenizer", name):
        return None, AutoTokenizer.from_pretrained(name)


def _count(arguments, tokenizer, state: Path):
    """Counts of the corpus, and texts to measure on: those held out, or a sample of the counted ones."""
    from ..tokenizers.token_counts import TokenCounts, count_tokens, tokenizer_fingerprint

    if arguments.counts:
        counts = TokenCounts.load(arguments.counts[0])
        for file in arguments.counts[1:]:
            more = TokenCounts.load(file)
            if more.counts.size != counts.counts.size:
                raise ValueError(f"--counts: {file} is of {more.counts.size} tokens, not of {counts.counts.size}.")
            counts.add(more)
        if counts.tokenizer not in (None, tokenizer_fingerprint(tokenizer)):
            raise ValueError(f"--counts: {arguments.counts[0]} is of another tokenizer than {arguments.tokenizer}.")
        return counts, []
    train, held_out = find_texts(arguments)
    counts = count_tokens(
        tokenizer,
        train,
        num_proc=arguments.num_proc,
        state_file=state,
        max_samples=arguments.max_documents,
        progress=sys.stderr.isatty(),
    )
    return counts, [row["text"] or "" for row in held_out]
