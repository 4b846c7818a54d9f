"""The task language-distillation: a language model learns what another one predicts (Minitron,
https://arxiv.org/abs/2407.14679, section 3)."""

import logging
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, default_data_collator

from ....hub.ids import check_place, reading
from ....hub.whole import load_whole
from ...data.fingerprints import weights_fingerprint
from ...losses.token_losses import token_losses
from ...run.arguments import ArgumentReader, FilledReader
from ...run.contents import check_contents
from ...run.run import Run
from ...task import load_task
from .arguments import LanguageDistillationArguments
from .trainer import LanguageDistillationTrainer

logger = logging.getLogger(__name__)

#: The student's task, asked by its name: its text, model and reports are what they are without a teacher.
_STUDENT = load_task("causal-lm")

TRAINING_ARGUMENTS = (LanguageDistillationArguments, *_STUDENT.TRAINING_ARGUMENTS)
EVALUATION_ARGUMENTS = _STUDENT.EVALUATION_ARGUMENTS


def prepare_training(reader: ArgumentReader) -> Run:
    """Read and check everything; the run that is returned distils, evaluates and writes the results."""
    distillation, *arguments = reader.read(*TRAINING_ARGUMENTS)
    check_place("--teacher", distillation.teacher, revision=("--teacher_revision", distillation.teacher_revision))
    make_trainer = partial(_make_trainer, distillation=distillation, model_args=arguments[0])
    run = _STUDENT.prepare_training(FilledReader(reader.task, (distillation,), arguments), make_trainer)
    contents = {f"teacher {distillation.teacher}": weights_fingerprint(run.trainer.teacher)}
    check_contents(run.config, run.checkpoint, run.trainer.args.output_dir, contents)
    return replace(run, report=partial(_report, run))


def _make_trainer(*, distillation, model_args, model, processing_class, **kwargs) -> LanguageDistillationTrainer:
    source = {
        "revision": distillation.teacher_revision,
        "token": model_args.token,
        "trust_remote_code": model_args.trust_remote_code,
    }
    with reading("--teacher", distillation.teacher, revision=("--teacher_revision", distillation.teacher_revision)):
        config = AutoConfig.from_pretrained(distillation.teacher, **source)
    _check_fit(distillation, config.get_text_config(), model.config.get_text_config())
    _check_tokenizer(distillation, source, processing_class)
    source["revision"] = ("--teacher_revision", distillation.teacher_revision)
    teacher = load_whole(
        AutoModelForCausalLM, "--teacher", distillation.teacher, dtype=distillation.teacher_dtype, **source
    )
    return LanguageDistillationTrainer(
        teacher=teacher, distillation=distillation, model=model, processing_class=processing_class, **kwargs
    )


def _check_fit(distillation: LanguageDistillationArguments, teacher, student) -> None:
    if getattr(teacher, "vocab_size", None) is None:
        raise ValueError(f"--teacher: {distillation.teacher} is a {teacher.model_type}, no language model.")
    if teacher.vocab_size != student.vocab_size:
        raise ValueError(
            f"--teacher: {distillation.teacher} has {teacher.vocab_size} tokens, the student {student.vocab_size}; "
            "predictions are compared token by token, accepted is the same vocabulary."
        )


def _check_tokenizer(distillation: LanguageDistillationArguments, source: dict, student) -> None:
    try:
        tokenizer = AutoTokenizer.from_pretrained(distillation.teacher, **source)
    except (OSError, ValueError):
        logger.warning(
            "--teacher: %s has no tokenizer; that it reads the student's is not known.", distillation.teacher
        )
        return
    if tokenizer.get_vocab() != student.get_vocab():
        raise ValueError(
            f"--teacher: the tokens of {distillation.teacher} are not those of the student's tokenizer; predictions "
            "are compared token by token."
        )


def _report(run: Run, train_metrics: dict) -> dict:
    run.trainer.drop_projections()
    loss = teacher_loss(run.trainer)
    teacher = math.exp(loss) if loss < 700 else math.inf
    run.trainer.card_facts = {"teacher_perplexity": f"{teacher:.6g}"}
    results = dict(run.report(train_metrics))
    logger.info("perplexity: the student %.3f, the teacher %.3f", results["eval_perplexity"], teacher)
    results["eval_teacher_perplexity"] = teacher
    if run.trainer.args.should_save:
        run.trainer.save_metrics("eval", {k: v for k, v in results.items() if k.startswith("eval_")})
    return results


@torch.no_grad()
def teacher_loss(trainer: LanguageDistillationTrainer) -> float:
    """The teacher's mean loss of a token of the evaluation text; every process counts all of it."""
    total, tokens, dataset, size = 0.0, 0.0, trainer.eval_dataset, trainer.args.per_device_eval_batch_size
    for start in range(0, len(dataset), size):
        samples = [dataset[number] for number in range(start, min(start + size, len(dataset)))]
        batch = {k: v.to(trainer.args.device) for k, v in default_data_collator(samples).items()}
        labels = batch.pop("labels")
        with trainer.accelerator.autocast():
            logits = trainer.teacher(**batch, use_cache=False).logits
        sums, counts = token_losses(logits, labels)
        total, tokens = total + float(sums.sum()), tokens + float(counts.sum())
    return total / tokens


def prepare_evaluation(reader: ArgumentReader) -> Callable[[], dict[str, float]]:
    """The student is evaluated as any model of its task."""
    return _STUDENT.prepare_evaluation(reader)
