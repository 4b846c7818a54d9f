"""What lies beside a trained model of any task: the model itself, numbers, training curves, the model card."""

import logging
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import date
from pathlib import Path
from typing import Literal, get_args, get_origin

import torch
from transformers import TrainingArguments

from ..._files import move_into, whole_file, write_text
from ...hub.contents import FIGURES
from ...hub.origin import origin
from ...registry import is_in_halves
from ..task import load_task
from .header import multiply_adds
from .output_folder import FREE_KEYS
from .publishing import HUB_FOLDER, is_own
from .recipe_arguments import defaults_of
from .values import acts

logger = logging.getLogger(__name__)

#: Of transformers' arguments those that say how a model learns, of whatever task.
_OF_LEARNING = frozenset(
    "adam_beta1 adam_beta2 adam_epsilon bf16 data_seed fp16 label_smoothing_factor max_grad_norm optim seed "
    "warmup_steps weight_decay".split()
)
#: Beginnings of names that say how a model is read, watched or measured.
_NOT_OF_LEARNING = (
    *("answered_", "eval_", "grid_", "max_eval_", "sample_", "shown_"),
    *("peak_tflops", "trust_remote_code"),
)


def save_results(trainer, train_metrics: dict, eval_metrics: dict) -> dict:
    """Write the model with its processor, `train_results.json`, `eval_results.json`, `all_results.json` and
    `trainer_state.json` into the output folder.

    Returns:
        All metrics.
    """
    if trainer.state.global_step == trainer._initial_global_step:
        train_metrics = {}  # a run that goes on from its last step has trained nothing; what it had told stays
    elif train_metrics.get("train_runtime"):
        trainer.log_metrics("train", train_metrics)
        trainer.save_metrics("train", train_metrics)
    if eval_metrics:
        trainer.log_metrics("eval", eval_metrics)
        trainer.save_metrics("eval", eval_metrics)
    trainer.save_state()
    save_model(trainer, Path(trainer.args.output_dir))
    if trainer.args.ema_decay is not None:
        logger.info("the saved model holds the moving average of the weights (ema_decay %g)", trainer.args.ema_decay)
    return {**train_metrics, **eval_metrics}


def save_model(trainer, output: Path) -> None:
    """First into a folder of its own, so that a kill leaves no half-written model under its final name."""
    with tempfile.TemporaryDirectory(dir=output if trainer.args.should_save else None, prefix=".saving-") as folder:
        trainer.save_model(folder, _internal_call=True)
        if trainer.args.should_save:
            # A pickle; training_config.yaml says the same.
            Path(folder, "training_args.bin").unlink(missing_ok=True)
            move_into(folder, output)


def write_card(
    trainer,
    metrics: Mapping[str, float],
    *,
    split: str,
    dataset: str | None,
    model: str,
    pipeline_tag: str,
    training: Mapping[str, object],
    measured_on: str | None = None,
    unit: str | None = None,
    sample: torch.Tensor | None = None,
    **export_options,
) -> None:
    """Write the model card `README.md` and, of a model of this package, the folder `hub` for `hf-effmodels publish`.

    Args:
        trainer: after training. Its `processing_class` goes into the folder with the model.
        metrics: name and value of what was measured on `split` of `dataset`; accuracies are fractions of 1.
        split: the evaluated split.
        dataset: the training data: a Hub id or a name; None where there are none.
        model: what `--model` was: the Hub id of its weights, where they have one, is the base model of the card.
        pipeline_tag: the Hub's task, for models of other libraries (our own know theirs).
        training: the hyper-parameters, see `training_summary`.
        measured_on: the data set that `split` is one of; by default the training data.
        unit: what a sample is, where that is not plain, in the plural.
        sample: an image as the model takes it, whose multiply-adds the card tells.
        export_options: further arguments of `hub.export`, for the folder `hub`.
    """
    from ...hub import build_card, export
    from ...hub.stock_card import stock_card

    network, output = trainer.network, Path(trainer.args.output_dir)
    figures = [name for name in FIGURES if (output / name).is_file()]
    facts = {
        "license": trainer.args.license,
        "dataset": trainer.args.dataset_name or dataset,
        "samples": None if dataset is None else _samples(trainer, split, unit),
        "results": card_results(trainer, metrics, split, measured_on),
        "training": {**what_was_saved(trainer), **training},
        "base_model": None if getattr(trainer.args, "random_weights", False) else origin(model),
        "multiply_adds": _counted(trainer, sample),
    }
    if is_own(network):
        # The output folder has checkpoints with pickles in them; what goes to the Hub is a folder of its own.
        folder, options = output / HUB_FOLDER, {**facts, "figures": [output / name for name in figures]}
        export(network, trainer.processing_class, folder, overwrite=True, **export_options, **options)
        # The code lies there, and not here.
        about_code = {"figures": figures, "with_code": False, "processor": trainer.processing_class}
        known = {name: value for name, value in export_options.items() if name in ("preset", "adapter_only")}
        card = str(build_card(network, **about_code, **known, **facts))
    else:
        composed, shown = is_in_halves(network.config.model_type), tuple(figures)
        about = {"processor": trainer.processing_class, "figures": shown, "needs_package": composed}
        card = str(stock_card(network, pipeline_tag, **about, **facts))
    write_text(output / "README.md", card)


def _counted(trainer, sample: torch.Tensor | None) -> str | None:
    """The multiply-adds of a sample, where the model is here as a whole to count them."""
    if sample is None or trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        return None
    return multiply_adds(trainer.network, sample).replace(" multiply-adds", "") or None


def _samples(trainer, split: str, unit: str | None = None) -> dict[str, int | str]:
    """How many samples were trained and evaluated on, where that is known."""
    sets = {"training": trainer.train_dataset, split: trainer.eval_dataset}
    counted = {name: len(data) for name, data in sets.items() if hasattr(data, "__len__")}
    return counted if unit is None else {name: f"{count} {unit}" for name, count in counted.items()}


def card_results(trainer, metrics: Mapping[str, float], split: str, measured_on: str | None = None) -> list[dict]:
    """`metrics`, measured on `split` (of `measured_on`, or else of the training data) after this training, as a card's
    results."""
    source = f"hf-effmodels train, {date.today().isoformat()}, {trainer.args.device.type}"
    where = {"split": split, "source": source} | ({} if measured_on is None else {"dataset": measured_on})
    return [{"metric": name, "value": value, **where} for name, value in metrics.items()]


def what_was_saved(trainer) -> dict[str, str]:
    """How long the training was, and where in it the saved weights are from if not its end, for the card."""
    args, state = trainer.args, trainer.state
    has_epochs = hasattr(trainer.train_dataset, "__len__")  # of a stream the share of its steps is called so
    told = {"trained": f"{state.global_step} steps" + (f", {_rounded(state.epoch)} epochs" if has_epochs else "")}
    if args.load_best_model_at_end and state.best_model_checkpoint is not None:
        epochs = [entry.get("epoch") for entry in state.log_history if entry.get("step") == state.best_global_step]
        epoch = f" (epoch {_rounded(epochs[0])})" if has_epochs and epochs else ""
        metric = args.metric_for_best_model.removeprefix("eval_")
        told["weights"] = f"of step {state.best_global_step}{epoch}, the best {metric} on the split that is reported"
    return told


def _rounded(epochs: float | None) -> str:
    return f"{round(epochs or 0, 2):g}"


def training_summary(config: dict, names: Sequence[str], total_batch_size: int) -> dict:
    """The hyper-parameters of a run, for the card.

    Of `names` those that acted, with the other settings as they were; and of all numbers, switches and choices of the
    task those that are not at their defaults, also one that was switched off. Other texts and mappings stand there
    only where `names` has them.

    Args:
        config: all arguments, as `open_run` records them, and the task.
        names: what a card of this task states first, in this order.
        total_batch_size: of all processes and accumulated batches together.
    """
    kinds = load_task(config["task"]).TRAINING_ARGUMENTS
    idle = {field.name for kind in kinds for field in fields(kind) if not acts(field, config)}
    if (config.get("max_steps") or -1) > 0:
        idle.add("num_train_epochs")
    stated = (key for key in names if key not in idle and config.get(key) not in (None, False, 0, [], {}, -1))
    summary = {"total_train_batch_size": total_batch_size, **{key: config[key] for key in stated}}
    defaults = defaults_of(*kinds)
    stock = {field.name for field in fields(TrainingArguments)} - _OF_LEARNING
    for field in (field for kind in kinds for field in fields(kind)):
        name = field.name
        left_out = name in summary or name in idle or name in stock or name in FREE_KEYS
        if left_out or name.startswith(_NOT_OF_LEARNING) or config.get(name) in (None, defaults.get(name)):
            continue
        if _is_plain(config[name], field.type):
            summary[name] = config[name]
    return summary


def _is_plain(value, kind) -> bool:
    """A number, some, or one of the words that an argument of this type may be."""
    parts = value if isinstance(value, list) else [value]
    words = [word for part in (kind, *get_args(kind)) if get_origin(part) is Literal for word in get_args(part)]
    return all(isinstance(part, int | float) or part in words or _is_small(part) for part in parts)


def _is_small(value) -> bool:
    """Whether it is a number such as 1e-05, which YAML takes for a text where it is recorded."""
    return isinstance(value, str) and re.fullmatch(r"-?\d+(\.\d+)?e-?\d+", value) is not None


def has_matplotlib() -> bool:
    """Whether figures can be drawn; says so in the log where not."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        logger.info("matplotlib is not installed: no figures are drawn")
        return False
    return True


def plot_curves(
    history: Sequence[dict], file: Path, panels: Mapping[str, Mapping[str, str]], x: str = "epoch"
) -> None:
    """Logged values over the training, as a PNG file.

    Args:
        history: the Trainer's `state.log_history`.
        file: where to write.
        panels: label of the y-axis -> {key of the history: label of the line}; a panel each, side by side.
        x: key of the x-axis, `"epoch"` or `"step"`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(panels), 4), layout="constrained")
    for axes, (ylabel, lines) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for key, label in lines.items():
            points = [(entry[x], entry[key]) for entry in history if key in entry and x in entry]
            if points:
                axes.plot(*zip(*points, strict=True), label=label, marker="." if len(points) < 50 else None)
        axes.set(xlabel=x, ylabel=ylabel)
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    save_figure(figure, file)


def save_figure(figure, file: Path) -> None:
    """Write a PNG file whole or not at all."""
    with whole_file(file) as part:
        figure.savefig(part, format="png", dpi=120)
