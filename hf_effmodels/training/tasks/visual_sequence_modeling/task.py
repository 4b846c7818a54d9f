"""The task visual-sequence-modeling: from pairs of images to a pipeline that does by example (DeLVM)."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers import EvalPrediction, default_data_collator, set_seed

from ....hub.card_text import check_license
from ....pipelines.delvm.image_tokenizer_delvm import DelvmImageTokenizer, to_pixels
from ...data.fingerprints import facts, fingerprint, weights_fingerprint
from ...data.image_pairs import ImagePairs, load_pairs, read_expansion
from ...data.seeded import data_seed
from ...data.token_pairs import DrawnSentences, TokenPairs, joined_sentences
from ...data.token_tables import encode_rows, is_table, read_settings, read_table
from ...data.visual_sentences import PackedSentences
from ...run.arguments import ArgumentReader, blaming_model_config
from ...run.contents import check_contents
from ...run.output_folder import open_run
from ...run.results import open_results
from ...run.run import Run
from .answers import answer
from .arguments import EvaluationArguments, VisualDataArguments, VisualModelArguments, VisualSequenceArguments
from .models import VQVAE, load_image_tokenizer, load_language_model, load_pipeline, train_image_tokenizer
from .reports import write_evaluation, write_results
from .trainer import VisualSequenceTrainer, summarize

TRAINING_ARGUMENTS = (VisualModelArguments, VisualDataArguments, VisualSequenceArguments)
EVALUATION_ARGUMENTS = (VisualModelArguments, VisualDataArguments, EvaluationArguments)

logger = logging.getLogger(__name__)


class PackedDataset(torch.utils.data.Dataset):
    """`PackedSentences` with `labels` beside `shift_labels`, which the Trainer counts by."""

    def __init__(self, packs: PackedSentences):
        self.packs = packs

    def __len__(self) -> int:
        return len(self.packs)

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        sample = self.packs[number]
        return {**sample, "labels": sample["shift_labels"].clone()}


def prepare_training(reader: ArgumentReader) -> Run:
    """Read and check everything; the run that is returned trains, evaluates and writes the results."""
    arguments = reader.read(*TRAINING_ARGUMENTS)
    model_args, data_args, args = arguments
    config, checkpoint = open_run(reader, arguments)
    check_license(args.license)
    trained = checkpoint / VQVAE if checkpoint is not None and (checkpoint / VQVAE).is_dir() else None
    pairs = None if is_table(data_args.dataset) else load_pairs(data_args.dataset)
    if pairs is not None:
        pairs = (_limited(pairs[0], data_args.task_samples), [t.evenly(data_args.max_eval_samples) for t in pairs[1]])
        read_expansion("--expand", data_args.expand, [task.task for task in pairs[0]])
        for task in (*pairs[0], *pairs[1]):
            for index in range(len(task)) if len(task) <= 16 else (0, len(task) - 1):
                task.read(index)
    tokenizer = _image_tokenizer(model_args, data_args, args, pairs, trained)
    teacher = load_pipeline("--teacher", model_args.teacher, model_args.token) if model_args.teacher else None
    if teacher is not None and not torch.equal(teacher.image_tokenizer.codebook, tokenizer.codebook):
        raise ValueError(f"--teacher: {model_args.teacher} has another codebook; distil with its --image_tokenizer.")
    of_pair = 2 * tokenizer.tokens_per_image
    longest = data_args.pairs_per_sentence * of_pair
    if data_args.packing == "packed":  # which cuts them
        longest = min(longest, max(data_args.packed_length, of_pair))
    set_seed(args.seed)
    with blaming_model_config(model_args.model_config):
        model = load_language_model(model_args, tokenizer, longest)
    train, evaluation = _tokens(tokenizer, data_args, data_seed(args), pairs)
    contents = {
        "training data": _facts(train),
        "evaluation data": _facts(evaluation),
        "image tokenizer": {"codes": fingerprint([tokenizer.codebook.detach().cpu().numpy().tobytes()])[:16]},
    }
    if model_args.model != "llama":
        contents["model"] = weights_fingerprint(model)
    check_contents(config, checkpoint, args.output_dir, contents)
    train_dataset = DrawnSentences(train, data_args.pairs_per_sentence, seed=data_seed(args))
    if data_args.packing == "packed":
        sentences = joined_sentences(train, data_args.pairs_per_sentence)
        context = min(data_args.packed_length, model.config.max_position_embeddings)
        train_dataset = PackedDataset(
            PackedSentences(sentences, [len(s) for s in sentences], data_args.packed_length, context)
        )
    fitting = min(data_args.pairs_per_sentence, model.config.max_position_embeddings // of_pair)
    trainer = VisualSequenceTrainer(
        model=model,
        args=args,
        vqvae=tokenizer.vqvae,
        image_size=tokenizer.image_size,
        keeps_tokenizer=model_args.trains_tokenizer,
        teacher=None if teacher is None else teacher.language_model,
        train_dataset=train_dataset,
        eval_dataset=DrawnSentences(evaluation, fitting, prompts=train),
        data_collator=default_data_collator,
    )

    def report(train_metrics: dict) -> dict:
        metrics, rows = trainer.evaluate(), []
        if args.answered_images and trainer.is_world_process_zero():
            answered, rows = answer(trainer.pipeline(), trainer.eval_dataset, args.answered_images)
            metrics |= {f"eval_{name}": value for name, value in answered.items()}
        return write_results(trainer, train_metrics, metrics, rows, config, data_args)

    return Run(trainer, checkpoint, config, report)


def _limited(tasks: list[ImagePairs], limits: dict) -> list[ImagePairs]:
    limits = read_expansion("--task_samples", limits, [task.task for task in tasks])
    return [task.evenly(limits[task.task] or None) for task in tasks]


def _image_tokenizer(model_args, data_args, args, pairs, trained: Path | None) -> DelvmImageTokenizer:
    if model_args.trains_tokenizer:
        if pairs is None:
            raise ValueError("--image_tokenizer: a table of tokens is of the tokenizer it was made with.")
        if trained is not None:
            return DelvmImageTokenizer.from_pretrained(trained, image_size=model_args.image_size)
        size = model_args.image_size or min(pairs[0][0].read(0)[0].size)
        pixels = torch.cat([to_pixels(task.read(n), size) for task in pairs[0] for n in range(len(task))])
        return DelvmImageTokenizer(train_image_tokenizer(pixels, model_args, args.seed), size)
    name, size = model_args.image_tokenizer, model_args.image_size
    if pairs is None:
        settings = read_settings(data_args.dataset)
        if size not in (None, settings["image_size"]):
            raise ValueError(f"--image_size: got {size}, but the table was made with {settings['image_size']}.")
        name, size = name or settings["image_tokenizer"], settings["image_size"]
    if name is None:
        if not (Path(model_args.model) / "model_index.json").is_file():
            raise ValueError("--image_tokenizer is missing: name one, or train:64 to train one of 64 codes.")
        name = model_args.model
    tokenizer = load_image_tokenizer(name, size, model_args.token)
    if pairs is None and fingerprint([tokenizer.codebook.detach().cpu().numpy().tobytes()]) != settings["codes"]:
        raise ValueError(f"--image_tokenizer: {name} has other codes than the table was made with.")
    return tokenizer


def _tokens(tokenizer, data_args: VisualDataArguments, seed: int, pairs) -> tuple[list[TokenPairs], list[TokenPairs]]:
    if pairs is None:
        if data_args.expand:
            raise ValueError("--expand: a table of tokens holds its copies already; say it to prepare.")
        train, evaluation = (read_table(data_args.dataset, split) for split in ("train", "test"))
        limits = read_expansion("--task_samples", data_args.task_samples, [task.task for task in train])
        train = [_rows(task, limits[task.task] or None) for task in train]
        return train, [_rows(task, data_args.max_eval_samples) for task in evaluation]
    copies = read_expansion("--expand", data_args.expand, [task.task for task in pairs[0]])
    train = [encode_rows(tokenizer, t, copies[t.task], seed, range(len(t) * (1 + copies[t.task]))) for t in pairs[0]]
    return train, [encode_rows(tokenizer, task, 0, seed, range(len(task))) for task in pairs[1]]


def _rows(task: TokenPairs, limit: int | None) -> TokenPairs:
    if limit is None or limit >= len(task):
        return task
    chosen = np.linspace(0, len(task) - 1, limit).round().astype(int)
    return TokenPairs(task.task, [task.names[n] for n in chosen], task.images[chosen], task.answers[chosen])


def _facts(tasks: list[TokenPairs]) -> dict:
    samples = [(task, number) for task in tasks for number in range(len(task))]
    return facts(len(samples), tokens=lambda n: samples[n][0].sentence([samples[n][1]]).tobytes())


def prepare_evaluation(reader: ArgumentReader) -> Callable[[], dict]:
    """Read and check everything; the function returned evaluates and writes the results."""
    arguments = reader.read(*EVALUATION_ARGUMENTS)
    model_args, data_args, args = arguments
    call = open_results(reader.task, arguments)
    for name in ("model_config", "image_tokenizer", "teacher", "factorized_embedding"):
        if getattr(model_args, name):
            raise ValueError(f"--{name} goes with training; a trained pipeline has what it needs.")
    pipe = load_pipeline("--model", model_args.model, model_args.token)
    pipe.set_progress_bar_config(disable=True)
    tokenizer = pipe.image_tokenizer
    if is_table(data_args.dataset):
        codes = fingerprint([tokenizer.codebook.detach().cpu().numpy().tobytes()])
        if codes != read_settings(data_args.dataset)["codes"]:
            raise ValueError(f"--dataset: {data_args.dataset} was made with another image tokenizer.")
        pairs = None
    else:
        pairs = load_pairs(data_args.dataset)
        pairs = (_limited(pairs[0], data_args.task_samples), [t.evenly(data_args.max_eval_samples) for t in pairs[1]])
    train, evaluation = _tokens(tokenizer, data_args, 0, pairs)
    sentences = DrawnSentences(evaluation, data_args.pairs_per_sentence, prompts=train)
    return partial(_evaluate, pipe, sentences, model_args.model, data_args.dataset, args, call)


@torch.no_grad()
def _evaluate(pipe, sentences: DrawnSentences, name: str, of: str, args: EvaluationArguments, call: dict) -> dict:
    pipe.to("cuda" if torch.cuda.is_available() else "cpu")
    found, counts = [], []
    for batch in DataLoader(sentences, args.per_device_eval_batch_size, collate_fn=default_data_collator):
        labels = batch["shift_labels"].to(pipe.device)
        logits = pipe.language_model(batch["input_ids"].to(pipe.device), use_cache=False).logits.float()
        losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
        right = ((logits.argmax(-1) == labels) & (labels >= 0)).sum(1).double()
        found.append(torch.stack([losses.double().sum(1), right], 1).cpu().numpy())
        counts.append((labels >= 0).sum(1).double().cpu().numpy())
    measured = summarize(EvalPrediction(np.concatenate(found), np.concatenate(counts)))
    if args.answered_images:
        measured |= answer(pipe, sentences, args.answered_images)[0]
    return write_evaluation(measured, {"model": name, "dataset": of, "samples": len(sentences)}, args.output, call)
