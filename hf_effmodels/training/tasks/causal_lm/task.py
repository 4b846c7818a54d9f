"""The task causal-lm: training and evaluating language models that predict the next token.

`arguments` are read, `text` finds the documents, `tokenization` and `models` the tokenizer and the network, `packing`
or `streaming` make blocks of tokens, `trainer` trains, `reports` writes the results.
"""

import json
import tempfile
from collections.abc import Callable
from functools import partial

import torch
from accelerate import PartialState
from transformers import set_seed

from ....hub.card_text import check_license
from ...data.fingerprints import facts, fingerprint, weights_fingerprint
from ...data.seeded import data_seed
from ...data.splits import held_out_unasked
from ...data.text.arguments import TextArguments
from ...data.text.documents import evaluated_split, load_evaluation_texts, load_texts, read
from ...data.text.packing import Block, Encoder, PackedBlocks, Separators
from ...data.text.streaming import PackedStream, read_state
from ...elastic.sorted_runs import making_sorted
from ...run.arguments import ArgumentReader, blaming_model_config
from ...run.contents import check_contents
from ...run.output_folder import open_run
from ...run.results import open_results
from ...run.run import Run
from ...run.ternary import add_warm_start, make_ternary
from .arguments import CausalLMArguments, EvaluationArguments, LanguageModelArguments
from .models import find_tokenizer, is_pretrained, load_language_model
from .reports import write_evaluation, write_results
from .trainer import CausalLMTrainer, SortedCausalLMTrainer

#: The dataclasses that read a training recipe.
TRAINING_ARGUMENTS = (LanguageModelArguments, TextArguments, CausalLMArguments)
#: Those that read the arguments of an evaluation.
EVALUATION_ARGUMENTS = (LanguageModelArguments, TextArguments, EvaluationArguments)
#: Documents that a tokenizer is trained on at most.
_TOKENIZER_DOCUMENTS = 100_000
#: Of a stream, for its fingerprint.
_LOOKED_AT = 64


def prepare_training(reader: ArgumentReader, make_trainer: Callable[..., CausalLMTrainer] = CausalLMTrainer) -> Run:
    """Read and check everything; the run that is returned trains, evaluates and writes the results.

    `make_trainer` takes what `CausalLMTrainer` takes; a task that trains with a teacher brings its own.
    """
    arguments = reader.read(*TRAINING_ARGUMENTS)
    model_args, text_args, args = arguments
    if args.sorted_submodels and make_trainer is not CausalLMTrainer:
        raise ValueError(f"--sorted_submodels: --task {reader.task} trains one network; accepted is --task causal-lm.")
    if args.sorted_submodels:
        make_trainer = making_sorted(SortedCausalLMTrainer, args)
    if text_args.streaming:
        _check_stream_arguments(args)
    config, checkpoint = open_run(reader, arguments)
    if text_args.streaming and checkpoint is not None:
        read_state(checkpoint)

    train_texts, eval_texts = load_texts(text_args, model_args.token)
    tokenizer = find_tokenizer(
        model_args, lambda: read(train_texts, _TOKENIZER_DOCUMENTS), text_args.block_size, checkpoint
    )
    set_seed(args.seed)
    with blaming_model_config(model_args.model_config):
        model = load_language_model(model_args, tokenizer, text_args.block_size)
    make_ternary(model, args)
    _check_report(model, tokenizer, args)
    contents = {"training text": _facts(train_texts), "evaluation text": _facts(eval_texts)}
    contents["tokenizer"] = {"tokens": fingerprint([json.dumps(sorted(tokenizer.get_vocab().items()))])[:16]}
    if is_pretrained(model_args):
        contents["model"] = weights_fingerprint(model)
    check_contents(config, checkpoint, args.output_dir, contents)
    trainer = make_trainer(
        model=model,
        args=args,
        train_dataset=_training_blocks(train_texts, tokenizer, text_args, args),
        eval_dataset=evaluation_blocks(eval_texts, tokenizer, text_args),
        processing_class=tokenizer,
    )
    add_warm_start(trainer, args)
    # What fails for the first block fails before anything is written.
    with blaming_model_config(model_args.model_config):
        _try_forward(model, trainer.eval_dataset, args)

    def report(train_metrics: dict) -> dict:
        metrics = trainer.evaluate()
        results = write_results(trainer, train_metrics, metrics, config, model_args, text_args)
        if args.sorted_submodels:
            trainer.save_submodels()
        return results

    # Of a stream the command has the number of documents.
    later = {} if text_args.streaming else held_out_unasked(text_args, evaluated_split(text_args, eval_texts))
    return Run(trainer, checkpoint, config, report, example=lambda _: ["Once upon a time"], evaluation=later)


def _facts(texts) -> dict:
    """What is known again of documents; of a stream only its beginning can be looked at."""
    if hasattr(texts, "__len__"):
        return facts(len(texts), documents=lambda number: texts[number]["text"])
    return {"first documents": fingerprint(list(read(texts, _LOOKED_AT)))[:16]}


def _check_report(model, tokenizer, args: CausalLMArguments) -> None:
    """What would be refused when the trained model is written is refused before it is trained."""
    check_license(args.license)
    if type(model).__module__.startswith("hf_effmodels.") and not type(tokenizer).__module__.startswith(
        "transformers."
    ):
        raise ValueError(
            f"--tokenizer: got a {type(tokenizer).__name__}, whose code lies on the Hub; models of this package are "
            "published with tokenizers of transformers."
        )


def _check_stream_arguments(args: CausalLMArguments) -> None:
    if args.max_steps < 1:
        raise ValueError("--max_steps is missing: a stream has no end; say how many steps to train.")
    for name in ("eval_strategy", "save_strategy"):
        if str(getattr(getattr(args, name), "value", getattr(args, name))) == "epoch":
            raise ValueError(f"--{name}: got 'epoch', but a stream has no epochs; accepted are steps and no.")
    if args.dataloader_num_workers:
        raise ValueError(
            f"--dataloader_num_workers: got {args.dataloader_num_workers}; a stream is read by a thread of the "
            "training process, accepted is 0."
        )


def _block(tokenizer, text_args: TextArguments) -> Block:
    return Block(text_args.block_size, Separators.of(tokenizer), text_args.document_attention == "separate")


def _training_blocks(texts, tokenizer, text_args: TextArguments, args: CausalLMArguments):
    block = _block(tokenizer, text_args)
    encode = Encoder(tokenizer, block.separators)
    if text_args.streaming:
        stream = PackedStream(texts, encode, block, window=text_args.shuffle_blocks, seed=data_seed(args))
        stream.check()
        return stream
    with PartialState().local_main_process_first():  # the others then find the tokens in the cache
        blocks = PackedBlocks(
            texts, encode, block, num_workers=text_args.preprocessing_num_workers, name="the training text"
        )
    blocks.counts.log("training")
    return blocks


def evaluation_blocks(texts, tokenizer, text_args: TextArguments) -> PackedBlocks:
    """All of the text, its incomplete last block as well."""
    import datasets

    split = evaluated_split(text_args, texts)

    if isinstance(texts, datasets.IterableDataset):
        texts = datasets.Dataset.from_dict({"text": list(read(texts))})
    block = _block(tokenizer, text_args)
    with PartialState().local_main_process_first():
        blocks = PackedBlocks(
            texts,
            Encoder(tokenizer, block.separators),
            block,
            keep_tail=True,
            num_workers=text_args.preprocessing_num_workers,
            name="the evaluation text",
            split=split,
        )
    blocks.counts.log("evaluation")
    return blocks


def _try_forward(model, blocks: PackedBlocks, args) -> None:
    if any(parameter.is_meta or not parameter.numel() for parameter in model.parameters()):
        return  # weights that another process will send, or that are sharded already
    sample = {name: tensor[None].to(model.device) for name, tensor in blocks[0].items()}
    with torch.no_grad():
        model.eval()(**sample)


def prepare_evaluation(reader: ArgumentReader) -> Callable[[], dict[str, float]]:
    """Read and check everything; the function returned evaluates and writes the results."""
    arguments = reader.read(*EVALUATION_ARGUMENTS)
    model_args, text_args, args = arguments
    call = open_results(reader.task, arguments)
    texts = load_evaluation_texts(text_args, model_args.token)
    tokenizer = find_tokenizer(model_args, lambda: read(texts), text_args.block_size)
    with blaming_model_config(model_args.model_config):
        model = load_language_model(model_args, tokenizer, text_args.block_size, to_be_trained=False)
    blocks = evaluation_blocks(texts, tokenizer, text_args)
    return partial(_evaluate, model, tokenizer, blocks, args, call)


def _evaluate(model, tokenizer, blocks: PackedBlocks, args: EvaluationArguments, call: dict):
    with tempfile.TemporaryDirectory() as folder:
        trainer = CausalLMTrainer(
            model=model,
            args=CausalLMArguments(
                output_dir=folder, per_device_eval_batch_size=args.per_device_eval_batch_size, bf16=args.bf16
            ),
            eval_dataset=blocks,
            processing_class=tokenizer,
        )
        metrics = trainer.evaluate()
    results = write_evaluation(trainer, metrics, args.output, call)
    trainer.accelerator.end_training()
    return results
