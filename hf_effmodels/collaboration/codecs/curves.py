"""Codes of few bytes, and what these cost in accuracy: what the command `train-codec` does. The training itself is the
task distillation's, twice for each β (recipes `entropic_student/*`)."""

import contextlib
import json
import sys
from dataclasses import fields
from pathlib import Path

from ..._command_line import in_words_of_the_command, show
from ..._files import write_bytes, write_json
from ...hub.whole import load_whole
from ...registry import is_in_halves
from ...training.run.arguments import ArgumentReader, FilledReader, ModelArguments
from ...training.task import load_task
from ...training.tasks.image_classification.data import DataArguments
from ...training.tasks.image_classification.transforms import AugmentationArguments
from ..splitting.halves import check_half_folder
from ..splitting.points import Trace
from .arguments import PICTURE, REPORT, CodecArguments, folder_of
from .entropic_student.modeling_entropic_student import CodedForImageClassification
from .measured import measure_coded, measure_image_codec

#: Folders of a β: the runs of the two stages, in order.
STAGES = ("features", "logits")

ARGUMENTS = (CodecArguments, DataArguments, AugmentationArguments)
#: What the runs' arguments are called here, where it is something else.
_WORDS = {"beta": "--betas", "widths": "--channels", "folder": "--output"}


def train_codec(reader: ArgumentReader) -> dict:
    """Train a bottleneck for each β; print and return what each costs. A call with the same arguments goes on where a
    killed one stopped."""
    args, data_args, augmentation = reader.read(*ARGUMENTS)
    try:
        report = _train(args, data_args, augmentation)
    except (ValueError, OSError) as error:
        words = {f.name: f"--{f.name}" for f in fields(args)} | _WORDS
        said = str(error).removeprefix("--codec: ")  # what the run's option is made of are arguments here
        raise type(error)(in_words_of_the_command(said, words)) from error
    show(json.dumps(report, indent=2) + "\n" if args.json else _as_table(report))
    return report


def _train(args: CodecArguments, data_args: DataArguments, augmentation: AugmentationArguments) -> dict:
    from transformers import AutoModelForImageClassification, PrinterCallback

    args.check_places()
    folders = {beta: Path(args.output) / folder_of(beta) for beta in args.betas}
    for folder in folders.values():
        for half in ("head", "tail"):
            check_half_folder(folder / half)
    source = {"revision": ("--revision", args.revision), "token": args.token}
    model = load_whole(AutoModelForImageClassification, "--model", args.model, **source).eval()
    if is_in_halves(model.config.model_type):
        raise ValueError(f"--model: {args.model} has a code already; accepted are classifiers without.")
    names = _full_names(model, args)
    report = {"model": args.model, "at": names[0], "bottlenecks": [], "pictures": []}

    def prepare(beta: float, stage: str):
        arguments = _arguments(args, data_args, augmentation, folders[beta], names, beta, stage)
        return load_task("distillation").prepare_training(FilledReader("distillation", (), arguments))

    run = None
    for beta, folder in folders.items():
        for stage in STAGES:
            if not args.json:
                show(f"beta {beta:g}, {stage}\n")
            run = prepare(beta, stage)
            run.trainer.remove_callback(PrinterCallback)  # its lines are shown in fewer words
            run.trainer.add_callback(_told(args, beta, stage))
            with contextlib.redirect_stdout(sys.stderr):  # the table alone is the command's answer
                run()
        student = CodedForImageClassification.from_pretrained(folder / STAGES[-1]).eval()
        for width in student.config.widths:
            row = {"beta": beta, "width": width, **measure_coded(student, run.trainer.eval_dataset, width=width)}
            report["bottlenecks"].append(row)
        for half in student.halves(run.trainer.processing_class):
            half.save_pretrained(folder / half.half)
    test, normalization = run.trainer.eval_dataset, run.trainer.train_dataset.transform.normalization
    report["accuracy"] = _accuracy(model, test)
    for kind in ("JPEG", "WEBP"):
        for quality in args.qualities:
            row = measure_image_codec(model, normalization, test, kind, quality)
            report["pictures"].append({"kind": kind, "quality": quality, **row})
    write_json(Path(args.output) / REPORT, report)
    _draw(Path(args.output) / PICTURE, report)
    return report


def _full_names(model, args: CodecArguments) -> list[str]:
    """Of the modules that are imitated, the one at the cut first."""
    names, modules = [Trace(model).cut(args.at).point.name], dict(model.named_modules())
    for given in args.features or ():
        ends = [name for name in modules if name == given or name.endswith(f".{given}")]
        exact = [given] if given in modules else ends
        if len(exact) != 1:
            said = f"may be {', '.join(ends[:4])}" if ends else "is none"
            raise ValueError(f"--features: {given!r} {said}; accepted are names of modules.")
        names.append(exact[0])
    return names


def _arguments(args: CodecArguments, data_args, augmentation, folder: Path, names, beta: float, stage: str) -> tuple:
    """Of the run of one stage: what the recipes `entropic_student/*` say."""
    task = load_task("distillation")
    distillation, *_, training = task.TRAINING_ARGUMENTS
    first = stage == STAGES[0]
    common = {"token": args.token}
    steps = {
        "output_dir": str(folder / stage),
        "resume_from_checkpoint": "auto",
        "lr_scheduler_type": "step",
        "max_grad_norm": 0,
        "load_best_model_at_end": False,
        "save_total_limit": 1,
        "logging_strategy": "epoch",
        "eval_strategy": "no",
        "disable_tqdm": True,
        "per_device_eval_batch_size": args.first_batch,
    }
    if first:
        steps |= {
            "num_train_epochs": args.first_epochs,
            "per_device_train_batch_size": args.first_batch,
            "optim": "adamw_torch",
            "weight_decay": 0.0,
            "learning_rate": args.first_learning_rate,
            "lr_scheduler_kwargs": _decays(args.first_epochs, 0.5, 0.8),
            "seed": args.seed,
        }
        own = distillation(
            teacher=args.model,
            teacher_revision=args.revision,
            codec={"at": names[0], "widths": args.channels, "prior": args.prior},
            losses={"coded_features": {"features": names, "beta": beta}},
            labels_weight=0.0,
        )
        network = ModelArguments(model=args.model, revision=args.revision, **common)
        return own, network, data_args, augmentation, training(**steps)
    steps |= {
        "num_train_epochs": args.second_epochs,
        "per_device_train_batch_size": args.second_batch,
        "optim": "sgd",
        "optim_args": {"momentum": 0.9, "nesterov": False},
        "weight_decay": 5e-4,
        "weight_decay_on": "all",
        "learning_rate": args.second_learning_rate,
        "lr_scheduler_kwargs": _decays(args.second_epochs, 0.5),
        "seed": args.seed + 1,
    }
    own = distillation(
        teacher=args.model,
        teacher_revision=args.revision,
        losses={"kd": {"temperature": 1.0, "weight": 0.5}},
        labels_weight=0.5,
    )
    return own, ModelArguments(model=str(folder / STAGES[0]), **common), data_args, augmentation, training(**steps)


def _decays(epochs: int, *shares: float) -> dict:
    """The rate falls to a tenth after these shares of the epochs."""
    ends = sorted({max(1, round(share * epochs)) for share in shares})
    return {"decay_epochs": [float(end) for end in ends], "decay_rate": 0.1, "warmup_epochs": 0.0}


def _told(args: CodecArguments, beta: float, stage: str):
    from transformers import TrainerCallback

    class Told(TrainerCallback):
        def on_log(self, arguments, state, control, logs=None, **kwargs):
            if "loss" in (logs or {}) and not args.json and state.is_world_process_zero:
                show(f"beta {beta:g}  {stage:<8} epoch {round(state.epoch):>3}  loss {logs['loss']:.4f}\n")

    return Told()


def _accuracy(model, dataset) -> float:
    """Of the whole network."""
    import torch

    device = next(model.parameters()).device
    with torch.no_grad():
        return sum(
            int(model(pixel_values=s["pixel_values"][None].to(device)).logits.argmax() == int(s["labels"]))
            for s in (dataset[number] for number in range(len(dataset)))
        ) / len(dataset)


def _as_table(report: dict) -> str:
    lines = [f"{'bytes':>9}{'estimated':>11}{'right':>9}"]
    lines.append(f"{'':>20}{100 * report['accuracy']:>8.2f}%  the whole network")
    for row in report["bottlenecks"]:
        lines.append(
            f"{row['bytes']:>9.1f}{row['estimated_bytes']:>11.1f}{100 * row['accuracy']:>8.2f}%  beta {row['beta']:g}"
            f", {row['width']} channels"
        )
    for row in report["pictures"]:
        lines.append(f"{row['bytes']:>9.1f}{'':>11}{100 * row['accuracy']:>8.2f}%  {row['kind']} {row['quality']}")
    return "\n".join([*lines, "bytes of an image, without the container around them", ""])


def _draw(file: Path, report: dict) -> None:
    """Accuracy over bytes; nothing where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    import io

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    curves = {"bottleneck": report["bottlenecks"]}
    for row in report["pictures"]:
        curves.setdefault(row["kind"], []).append(row)
    for name, rows in curves.items():
        rows = sorted(rows, key=lambda row: row["bytes"])
        axes.semilogx([row["bytes"] for row in rows], [100 * row["accuracy"] for row in rows], "o-", label=name)
    axes.axhline(100 * report["accuracy"], color="gray", linestyle=":", label="whole network")
    axes.set_xlabel("bytes of an image")
    axes.set_ylabel("right, %")
    axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    write_bytes(file, buffer.getvalue())
