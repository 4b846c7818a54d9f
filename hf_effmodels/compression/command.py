"""The sub-commands of `hf-effmodels tiny-lm`: one for each step of the workshop."""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ..training import _set_up_logging as set_up_logging
from ..training.optim.batch_scaling import optimizer_settings, scale_learning_rate

STRATEGIES = ("frequency+closure", "frequency")


def main(argv: Sequence[str]) -> None:
    """Run one sub-command.

    Raises:
        ValueError, OSError: for wrong input, before any long work; nothing has been written then.
    """
    parser = _parser()
    arguments, rest = parser.parse_known_args(list(argv))
    if rest and not arguments.takes_recipe:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    set_up_logging()
    result = arguments.run(arguments, rest) if arguments.takes_recipe else arguments.run(arguments)
    text = json.dumps(result, indent=2) if arguments.json else arguments.show(result)
    if text and _is_main_process():
        sys.stdout.write(text + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hf-effmodels tiny-lm",
        description="Small language models out of large ones (https://arxiv.org/abs/2402.02791).",
    )
    commands = parser.add_subparsers(title="steps", required=True, metavar="STEP")

    def command(name: str, run, show, text: str, takes_recipe: bool = False) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        sub.add_argument("--json", action="store_true", help="print the result as JSON")
        sub.set_defaults(run=run, show=show, takes_recipe=takes_recipe)
        return sub

    sub = command("compress-tokenizer", _compress_tokenizer, _facts, "Drop the rare tokens of a tokenizer.")
    sub.add_argument("--tokenizer", required=True, help="a Hub id, a folder, or a SentencePiece BPE tokenizer.model")
    sub.add_argument("--vocab-size", type=int, help="number of tokens to keep")
    sub.add_argument("--coverage", type=float, help="or: the share of the corpus's tokens that is to be kept")
    sub.add_argument("--strategy", default=STRATEGIES[0], choices=STRATEGIES, help="frequency is the published rule")
    sub.add_argument("--keep", nargs="*", default=[], metavar="TOKEN", help="more tokens to keep")
    sub.add_argument(
        "--counts",
        nargs="*",
        default=[],
        metavar="FILE",
        help="token_counts.json of earlier runs, instead of a corpus",
    )
    sub.add_argument("--num-proc", type=int, help="processes that count")
    sub.add_argument(
        "--state-file", help="where counting goes on after a kill (default: OUTPUT.counts.json, until it is done)"
    )
    sub.add_argument("--model", help="a model whose embedding and head are compressed, too")
    _add_corpus(sub)
    _add_output(sub)

    sub = command(
        "suggest-config", _suggest_config, str, "Shapes for a number of parameters, the recommended one first."
    )
    sub.add_argument("--params", required=True, type=_number, help="such as 1e9, 15M or 1.5B, embeddings included")
    sub.add_argument("--vocab", required=True, type=_number, help="number of tokens, such as 48000 or 48k")
    sub.add_argument("--model-type", default="llama", help="llama or pangu_pi")
    sub.add_argument("--width-first", action="store_true", help="recommend LLaMA's proportions instead of depth")
    sub.add_argument("--tie", action="store_true", help="the head is the embedding")
    sub.add_argument("--max-layers", type=int, help="deepest recommended network")
    sub.add_argument("--head-dim", type=int, help="width of a head (default: 128, of small networks 64 or 32)")
    sub.add_argument("--kv-groups", type=int, default=1, help="query heads for each key and value head")
    sub.add_argument("--output", help="folder for the recommended config.json")

    sub = command("inherit", _inherit, _facts, "A smaller model out of a trained one.")
    sub.add_argument("--model", required=True, help="a Hub id or a folder: LLaMA layout or PanGu-π")
    sub.add_argument("--like", help="folder of a configuration that gives the sizes (suggest-config writes one)")
    for name in ("layers", "hidden-size", "intermediate-size", "heads", "key-value-heads"):
        sub.add_argument(f"--{name}", type=int, help="size of the smaller model (default: the larger one's)")
    sub.add_argument("--select-layers", default="ends", help="ends, importance, or numbers such as 0,1,5,11")
    sub.add_argument("--method", default="l2", help="l1, l2, taylor or learned")
    sub.add_argument("--rescale-norms", action="store_true", help="let norms keep their scale over fewer channels")
    sub.add_argument("--mask-steps", type=int, default=200, help="steps of --method learned")
    sub.add_argument("--calibration-batches", type=int, default=16)
    sub.add_argument("--batch-size", type=int, default=8, help="sequences of a calibration batch")
    sub.add_argument("--block-size", type=int, default=256, help="tokens of a calibration sequence")
    sub.add_argument("--seed", type=int, default=0)
    _add_corpus(sub)
    _add_output(sub)

    text = "Losses of a recipe's training samples under a model, and which of them to train on again."
    sub = command("select-rounds", _select_rounds, _facts, text, takes_recipe=True)
    sub.add_argument("--model", required=True, help="folder of the model after the round before")
    sub.add_argument("--output", required=True, help="JSON file for the numbers of the drawn samples")
    _add_draw(sub)

    text = "Train a causal-lm recipe in rounds, each after the first on the samples with high losses."
    sub = command("train-rounds", _train_rounds, _rounds_table, text, takes_recipe=True)
    sub.add_argument("--output_dir", "--output-dir", required=True, help="gets a folder for each round")
    sub.add_argument("--rounds", type=int, default=2)
    sub.add_argument("--next-config", help="recipe of the rounds after the first (default: --config's)")
    _add_draw(sub)

    sub = command("scale-lr", _scale_lr, _yaml, "The learning rate for another batch size, and the paper's optimizer.")
    sub.add_argument("--new-batch-tokens", required=True, type=_number, help="tokens of the new batch, such as 128k")
    sub.add_argument(
        "--learning-rate", type=float, help="that is right for --batch-tokens (default: the paper's 2e-4)"
    )
    sub.add_argument("--batch-tokens", type=_number, help="(default: the paper's 2 million)")
    sub.add_argument("--exponent", type=float, default=0.5)
    return parser


def _add_corpus(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--dataset", help="a text file, a folder, a Hub id, or pydoc_topics, as the causal-lm recipes take it"
    )
    sub.add_argument("--dataset-config", help="configuration of the data set on the Hub")
    sub.add_argument("--split", default="train", help="split of the data set")
    sub.add_argument("--text-column", help="column of the texts")
    sub.add_argument("--text-unit", default="line", choices=("document", "paragraph", "line"), help="of text files")
    sub.add_argument("--streaming", action="store_true", help="read the data set while it is used")
    sub.add_argument("--max-documents", type=int, help="use only the first documents")


def _add_output(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--output", required=True, help="folder to write; it must not exist yet")
    sub.add_argument("--overwrite", action="store_true", help="replace the folder")


def _add_draw(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--rate", type=float, default=0.5, help="share of the samples to draw")
    sub.add_argument("--temperature", type=float, default=1.0)
    sub.add_argument("--group-size", type=int, default=1, help="successive samples drawn together, by their mean loss")
    sub.add_argument("--loss-batch-size", type=int, default=8)
    sub.add_argument("--draw-seed", type=int, default=0)


def _number(text: str) -> int:
    factors = {"k": 1e3, "m": 1e6, "b": 1e9}
    factor = factors.get(text[-1:].lower(), 1)
    return int(round(float(text[:-1] if factor > 1 else text) * factor))


# The steps


def _compress_tokenizer(arguments) -> dict:
    from transformers import AutoModelForCausalLM

    from .tokenizers.embedding_compression import check_vocabulary_size, compress_embeddings
    from .tokenizers.report import compression_report
    from .tokenizers.tokenizer_compression import Vocabulary, check_size, compress_tokenizer

    output = _free_output(arguments)
    sentencepiece, tokenizer = _load_tokenizer(arguments.tokenizer)
    vocabulary = Vocabulary(tokenizer)
    check_size(vocabulary, arguments.vocab_size, arguments.coverage)
    vocabulary.always_kept(arguments.keep)
    config = None
    if arguments.model is not None:
        config = _load_config(arguments.model)
        check_vocabulary_size(config, vocabulary.size)
    state = Path(arguments.state_file or output.with_name(output.name + ".counts.json"))
    counts, held_out = _count(arguments, tokenizer, state)
    compressed, id_map = compress_tokenizer(
        tokenizer, counts, arguments.vocab_size, arguments.coverage, arguments.strategy, arguments.keep
    )
    report = compression_report(tokenizer, compressed, id_map, counts, held_out, config)
    with _writing(output, arguments.overwrite) as folder:
        if arguments.model is not None:
            model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype="auto")
            compress_embeddings(model, id_map).save_pretrained(folder)
        compressed.save_pretrained(folder)
        if sentencepiece is not None:
            sentencepiece.save_compressed(arguments.tokenizer, id_map, folder / "tokenizer.model")
        id_map.save(folder / "id_map.json")
        facts = {**asdict(report), "unreachable": len(report.unreachable)}
        details = {**facts, "unreachable": report.unreachable, "strategy": arguments.strategy}
        (folder / "compression.json").write_text(json.dumps(details, indent=2) + "\n", encoding="utf-8")
        counts.save(folder / "token_counts.json")
    if not arguments.state_file:
        state.unlink(missing_ok=True)
    return {**facts, "folder": str(output)}


def _load_tokenizer(name: str):
    """(SentencePiece model or None, fast tokenizer)"""
    from transformers import AutoTokenizer

    from .tokenizers.sentencepiece_bpe import SentencePieceBPE

    if name.endswith(".model") and Path(name).is_file():
        model = SentencePieceBPE.load(name)
        return model, model.to_fast()
    try:
        return None, AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise OSError(f"--tokenizer: {name!r} cannot be found or read. {_first_line(error)}") from error


def _load_config(name: str):
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise OSError(f"--model: {name!r} cannot be found or read. {_first_line(error)}") from error


def _count(arguments, tokenizer, state: Path):
    """Counts of the corpus, and texts to measure on: those held out, or a sample of the counted ones."""
    from .tokenizers.token_counts import TokenCounts, count_tokens

    if arguments.counts:
        if arguments.dataset is not None:
            raise ValueError("--counts and --dataset exclude each other.")
        counts = TokenCounts.load(arguments.counts[0])
        for file in arguments.counts[1:]:
            more = TokenCounts.load(file)
            if more.counts.size != counts.counts.size:
                raise ValueError(f"--counts: {file} is of {more.counts.size} tokens, not of {counts.counts.size}.")
            counts.add(more)
        return counts, []
    train, held_out = _texts(arguments)
    counts = count_tokens(
        tokenizer,
        train,
        num_proc=arguments.num_proc,
        state_file=state,
        max_samples=arguments.max_documents,
        progress=sys.stderr.isatty(),
    )
    return counts, [row["text"] or "" for row in held_out]


def _texts(arguments):
    """Training and held-out documents, as the causal-lm recipes find them."""
    from ..training.data.text.documents import load_texts
    from ..training.tasks.causal_lm.arguments import TextArguments

    if arguments.dataset is None:
        raise ValueError("--dataset is missing: name a text file, a folder, a Hub id, or pydoc_topics.")
    streaming = {"streaming": True, "eval_documents": 1000} if arguments.streaming else {}
    return load_texts(
        TextArguments(
            dataset=arguments.dataset,
            dataset_config=arguments.dataset_config,
            train_split=arguments.split,
            text_column=arguments.text_column,
            text_unit=arguments.text_unit,
            **streaming,
        )
    )


def _suggest_config(arguments):
    from .sizes import list_shapes, table

    options = {"tie_word_embeddings": True} if arguments.tie else {}
    shapes = list_shapes(
        arguments.params,
        arguments.vocab,
        not arguments.width_first,
        model_type=arguments.model_type,
        max_layers=arguments.max_layers,
        head_dim=arguments.head_dim,
        kv_groups=arguments.kv_groups,
        **options,
    )
    if arguments.output is not None:
        shapes[0].config.save_pretrained(arguments.output)
    return [shape.row() for shape in shapes] if arguments.json else table(shapes)


def _inherit(arguments) -> dict:
    from transformers import AutoModelForCausalLM

    from .pruning.inheritance import SIZES, check_inheritance, inherit
    from .sizes import count_parameters

    output = _free_output(arguments)
    config = _load_config(arguments.model)
    names = ("layers", "hidden_size", "intermediate_size", "heads", "key_value_heads")
    sizes = dict(zip(SIZES, (getattr(arguments, name) for name in names), strict=True))
    if arguments.like is not None:
        like = _load_config(arguments.like)
        sizes = {name: value or getattr(like, name) for name, value in sizes.items()}
        if like.vocab_size != config.vocab_size:
            raise ValueError(
                f"--like: it has {like.vocab_size} tokens, {arguments.model} has {config.vocab_size}; compress its "
                "tokenizer and embeddings first."
            )
    layers = _layer_numbers(arguments.select_layers)
    check_inheritance(config, layers=layers, method=arguments.method, **sizes)
    needs_text = arguments.method in ("taylor", "learned") or layers == "importance" or arguments.rescale_norms
    tokenizer = _tokenizer_of(arguments.model, config, needs_text)
    batches = _calibration(arguments, tokenizer) if needs_text else None
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype="auto")
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
    with _writing(output, arguments.overwrite) as folder:
        smaller.save_pretrained(folder)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
        (folder / "inheritance.json").write_text(json.dumps(made_of.to_dict()) + "\n", encoding="utf-8")
    count = count_parameters(smaller.config)
    return {
        "parameters": count.total,
        "of": count_parameters(config).total,
        "embedding_share": round(count.embedding_share, 4),
        "layers": made_of.layers,
        "folder": str(output),
    }


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")


def _layer_numbers(text: str) -> str | list[int]:
    if text in ("ends", "importance"):
        return text
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise ValueError(f"--select-layers: got {text!r}, accepted are ends, importance, or such as 0,1,5.") from None


def _tokenizer_of(model: str, config, is_needed: bool):
    """The tokenizer beside a model; None where there is none and nothing needs it."""
    from transformers import AutoTokenizer

    from .tokenizers.embedding_compression import check_vocabulary_size
    from .tokenizers.tokenizer_compression import Vocabulary

    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError) as error:
        if is_needed:
            raise OSError(f"--model: {model!r} has no tokenizer that can be read. {_first_line(error)}") from error
        return None
    check_vocabulary_size(config, Vocabulary(tokenizer).size)
    return tokenizer


def _calibration(arguments, tokenizer) -> list:
    """Batches of blocks from the beginning of the corpus, packed as the causal-lm task packs them."""
    from itertools import islice

    import datasets
    import torch

    from ..training.data.text.packing import Block, Encoder, PackedBlocks, Separators

    for name in ("calibration_batches", "batch_size"):
        if getattr(arguments, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')}: got {getattr(arguments, name)}, accepted are 1 and more.")
    separators = Separators.of(tokenizer)
    wanted = arguments.calibration_batches * arguments.batch_size
    train, _ = _texts(arguments)
    # Enough documents for the blocks, and no more: the corpus may be large.
    texts, size = [], 0
    for row in islice(train, arguments.max_documents):
        texts.append(row["text"] or "")
        size += len(texts[-1])
        if size > 8 * (wanted + 1) * arguments.block_size:
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


def _select_rounds(arguments, recipe: list[str]) -> dict:
    from ..training.run.rounds.rounds import check_rounds, write_drawn
    from ..training.run.rounds.sample_losses import compute_losses

    check_rounds(1, arguments.rate, arguments.temperature, arguments.group_size)
    file = Path(arguments.output)
    with tempfile.TemporaryDirectory() as folder:
        trainer, _ = _prepared([*recipe, "--model", arguments.model], Path(folder) / "run")
    losses = compute_losses(
        trainer.model,
        trainer.train_dataset,
        batch_size=arguments.loss_batch_size,
        state_file=file.with_name(file.name + ".losses.npz"),
        progress=sys.stderr.isatty(),
    )
    if not trainer.args.should_save:
        return {}
    drawn = write_drawn(
        file,
        losses,
        rate=arguments.rate,
        temperature=arguments.temperature,
        group_size=arguments.group_size,
        seed=arguments.draw_seed,
    )
    return {**drawn, "indices": len(drawn["indices"]), "file": str(file)}


def _train_rounds(arguments, recipe: list[str]) -> list[dict]:
    from ..training.run.launch import start_missing_processes
    from ..training.run.rounds.rounds import check_rounds, train_rounds

    check_rounds(arguments.rounds, arguments.rate, arguments.temperature, arguments.group_size)
    start_missing_processes()

    def make_trainer(number: int, start: Path | None, folder: Path):
        argv = recipe
        if start is not None:
            argv = [*_with_config(recipe, arguments.next_config), "--model", str(start), "--tokenizer", str(start)]
        trainer, work = _prepared(argv, folder)
        trainer.accelerator.end_training = lambda: None  # the processes go on together to the losses
        return trainer, work

    return train_rounds(
        make_trainer,
        arguments.output_dir,
        rounds=arguments.rounds,
        rate=arguments.rate,
        temperature=arguments.temperature,
        group_size=arguments.group_size,
        seed=arguments.draw_seed,
        loss_batch_size=arguments.loss_batch_size,
        progress=sys.stderr.isatty(),
    )


def _with_config(recipe: list[str], config: str | None) -> list[str]:
    if config is None:
        return recipe
    if "--config" not in recipe:
        return ["--config", config, *recipe]
    at = recipe.index("--config")
    return [*recipe[:at], "--config", config, *recipe[at + 2 :]]


def _prepared(recipe: list[str], folder: Path):
    """A causal-lm trainer with all that a recipe says, and the function that trains it."""
    from ..training import prepare

    settings = ["--task", "causal-lm", "--output_dir", str(folder), "--resume_from_checkpoint", "auto"]
    work = prepare("prepare_training", [*recipe, *settings])
    trainer = work.args[0]
    if not hasattr(trainer.train_dataset, "__getitem__"):
        raise ValueError("--streaming: a stream cannot be drawn from; accepted is false.")
    return trainer, work


def _scale_lr(arguments) -> dict:
    settings = optimizer_settings(arguments.new_batch_tokens, arguments.exponent)
    if (arguments.learning_rate is None) != (arguments.batch_tokens is None):
        raise ValueError("--learning-rate, --batch-tokens: one without the other; accepted are both or neither.")
    if arguments.learning_rate is not None:
        rate = scale_learning_rate(
            arguments.learning_rate, arguments.batch_tokens, arguments.new_batch_tokens, arguments.exponent
        )
        settings |= {"learning_rate": rate, "min_lr": rate / 10}
    return settings


# Output


def _free_output(arguments) -> Path:
    output = Path(arguments.output)
    if output.exists() and not arguments.overwrite:
        raise ValueError(f"--output: {output} exists; choose another folder, or replace it with --overwrite.")
    if output.exists() and not (output / "config.json").exists() and not (output / "tokenizer.json").exists():
        raise ValueError(f"--output: {output} holds neither a model nor a tokenizer; it is not replaced.")
    return output


class _writing:
    """A temporary folder that becomes `output` when all is written."""

    def __init__(self, output: Path, overwrite: bool):
        self.output, self.overwrite = output, overwrite

    def __enter__(self) -> Path:
        self.output.parent.mkdir(parents=True, exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(dir=self.output.parent, prefix=f".{self.output.name}-"))
        self.folder.chmod(0o755)
        return self.folder

    def __exit__(self, kind, *_) -> None:
        if kind is not None:
            shutil.rmtree(self.folder)
            return
        if self.overwrite and self.output.exists():
            shutil.rmtree(self.output)
        self.folder.replace(self.output)


def _is_main_process() -> bool:
    import os

    return os.environ.get("RANK", "0") == "0"


def _facts(result: dict) -> str:
    width = max(map(len, result), default=0)
    shown = {name: f"{value:.4f}" if isinstance(value, float) else value for name, value in result.items()}
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in shown.items() if value is not None)


def _yaml(result: dict) -> str:
    return "\n".join(
        f"{name}: {value:.6g}" if isinstance(value, float) else f"{name}: {value}" for name, value in result.items()
    )


def _rounds_table(results: list[dict]) -> str:
    lines = []
    for result in results:
        losses = {name: value for name, value in result["metrics"].items() if name.endswith("loss")}
        after = {name: result[name] for name in ("mean_loss", "mean_drawn_loss") if name in result}
        shown = ", ".join(f"{name} {value:.4f}" for name, value in {**losses, **after}.items())
        lines.append(f"round {result['round']}: {result['samples']} samples, {shown}  {result['folder']}")
    return "\n".join(lines)
