"""Codes of few bytes, and what these cost in accuracy: what the command `train-codec` does."""

import json
from dataclasses import dataclass, field, fields
from pathlib import Path

from ..._command_line import in_words_of_the_command, show
from ..._files import write_bytes, write_json
from ...hub.ids import reading
from ...training.data.images import check_processor
from ...training.data.normalization import Normalization
from ...training.run.arguments import ArgumentReader
from ...training.run.values import check_fields
from ...training.tasks.image_classification.data import DataArguments, ImageClassificationDataset, load_data
from ...training.tasks.image_classification.transforms import (
    AugmentationArguments,
    EvaluationTransform,
    TrainingTransform,
)
from ..splitting.halves import split
from ..splitting.points import Trace
from .training import BottleneckTraining, measure_bottleneck, measure_image_codec, train_bottleneck
from .wire import EntropicCodec

REPORT, PICTURE = "rate_accuracy.json", "rate_accuracy.png"


@dataclass
class CodecArguments:
    """What learns, and how long."""

    model: str | None = field(
        default=None, metadata={"missing": "name a trained classifier.", "help": "A folder or an id of the Hub."}
    )
    output: str | None = field(
        default=None,
        metadata={"missing": "name a folder.", "help": "Folder for the halves, the table and the picture."},
    )
    at: str | None = field(
        default=None,
        metadata={
            "missing": "name a module of a quarter of the image's side (hf-effmodels split --list).",
            "help": "Module whose output the bottleneck imitates; it is in the place of this and all before.",
        },
    )
    features: list[str] | None = field(
        default=None, metadata={"help": "Modules behind it that are imitated, too (published: the further stages)."}
    )
    betas: list[float] = field(
        default_factory=lambda: [0.16],
        metadata={"help": "Weights of the bits, a bottleneck for each (published: 0.01 to 5.12)."},
    )
    channels: int = field(default=24, metadata={"help": "Of the code."})
    first_epochs: int = field(default=10, metadata={"help": "In which features are imitated."})
    second_epochs: int = field(default=10, metadata={"help": "In which the rest of the network learns."})
    first_batch: int = field(default=64, metadata={"help": "Pictures of a step of the first stage."})
    second_batch: int = field(default=128, metadata={"help": "Pictures of a step of the second stage."})
    first_learning_rate: float = field(default=1e-3, metadata={"help": "Of Adam, in the first stage."})
    second_learning_rate: float = field(default=1e-3, metadata={"help": "Of SGD, in the second stage."})
    qualities: list[int] = field(
        default_factory=lambda: [10, 30, 60, 90],
        metadata={"help": "Of JPEG and WebP pictures, which the network is shown for comparison."},
    )
    seed: int = field(default=0, metadata={"help": "Of weights, order, noise and augmentation."})
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the model on the Hub."})
    token: str | None = field(default=None, metadata={"help": "Token for gated or private repositories on the Hub."})
    json: bool = field(default=False, metadata={"help": "Print the table as JSON."})

    def __post_init__(self):
        check_fields(self)
        if not self.betas or len(set(self.betas)) < len(self.betas):
            raise ValueError(f"--betas: got {self.betas}, accepted are different numbers, one at least.")
        for quality in self.qualities:
            if not 1 <= quality <= 100:
                raise ValueError(f"--qualities: got {quality}, accepted are 1 to 100.")

    def training(self, beta: float) -> BottleneckTraining:
        own = {f.name for f in fields(BottleneckTraining)} & {f.name for f in fields(self)}
        return BottleneckTraining(beta=beta, **{name: getattr(self, name) for name in own})


ARGUMENTS = (CodecArguments, DataArguments, AugmentationArguments)


def train_codec(reader: ArgumentReader) -> dict:
    """Train a bottleneck for each β; print and return what each costs."""
    args, data_args, augmentation = reader.read(*ARGUMENTS)
    try:
        report = _train(args, data_args, augmentation)
    except ValueError as error:
        options = {f.name: f"--{f.name}" for f in fields(args)} | {"beta": "--beta"}
        raise ValueError(in_words_of_the_command(str(error), options)) from error
    show(json.dumps(report, indent=2) + "\n" if args.json else _as_table(report))
    return report


def _train(args: CodecArguments, data_args: DataArguments, augmentation: AugmentationArguments) -> dict:
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    from ...training.data.classes import model_classes
    from ..splitting.halves import check_half_folder

    trainings = [args.training(beta) for beta in args.betas]
    folders = [Path(args.output) / f"beta-{beta:g}" for beta in args.betas]
    for folder in folders:
        for half in ("head", "tail"):
            check_half_folder(folder / half)
    with reading("--model", args.model, revision=("--revision", args.revision)):
        source = {"revision": args.revision, "token": args.token}
        model = AutoModelForImageClassification.from_pretrained(args.model, **source).eval()
        processor = AutoImageProcessor.from_pretrained(args.model, **source)
    check_processor("--model", processor)
    Trace(model).cut(args.at)
    channels = getattr(model.config, "num_channels", 3)
    own = [model.config.id2label[number] for number in range(model.config.num_labels)]
    numbered = []
    for pictures in load_data(data_args, args.token):
        names = pictures.names or [str(n) for n in range(int(pictures.numbers.max()) + 1)]
        numbered.append(pictures.renumbered(model_classes(names, own), own))
    evaluation, normalization = EvaluationTransform(processor), Normalization.of(processor, channels)
    train = ImageClassificationDataset(
        numbered[0], TrainingTransform(evaluation, normalization, augmentation), channels, args.seed
    )
    test = ImageClassificationDataset(numbered[1], evaluation, channels)
    whole = sum(int(model(s["pixel_values"][None]).logits.argmax() == s["labels"]) for s in test) / len(test)
    report = {"model": args.model, "at": args.at, "accuracy": whole, "bottlenecks": [], "pictures": []}
    halves = []
    for training in trainings:
        told = lambda stage, epoch, loss, beta=training.beta: (  # noqa: E731
            None if args.json else show(f"beta {beta:g}  {stage:<8} epoch {epoch:>3}  loss {loss:.4f}\n")
        )
        student, bottleneck = train_bottleneck(
            model, args.at, train, training, features=args.features or (), told=told
        )
        row = {"beta": training.beta, **measure_bottleneck(student, args.at, bottleneck, test)}
        report["bottlenecks"].append(row)
        halves.append(split(student, args.at, codec=EntropicCodec.of(bottleneck), processor=processor))
    for kind in ("JPEG", "WEBP"):
        for quality in args.qualities:
            row = measure_image_codec(model, normalization, test, kind, quality)
            report["pictures"].append({"kind": kind, "quality": quality, **row})
    for folder, pair in zip(folders, halves, strict=True):
        for half in pair:
            half.save_pretrained(folder / half.half)
    write_json(Path(args.output) / REPORT, report)
    _draw(Path(args.output) / PICTURE, report)
    return report


def _as_table(report: dict) -> str:
    lines = [f"{'bytes':>9}{'estimated':>11}{'right':>9}"]
    lines.append(f"{'':>20}{100 * report['accuracy']:>8.2f}%  the whole network")
    for row in report["bottlenecks"]:
        lines.append(
            f"{row['bytes']:>9.1f}{row['estimated_bytes']:>11.1f}{100 * row['accuracy']:>8.2f}%  beta {row['beta']:g}"
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
