"""Features of each model, kept in a folder, their scores as a table, and a picture of them."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from ..._command_line import show
from ..._files import whole_file
from ..._written import check_rewritable, rewritten
from ..data.fingerprints import weights_fingerprint
from ..run.arguments import ArgumentReader
from ..run.reports import has_matplotlib, save_figure
from ..run.values import check_fields
from ..tasks.image_classification.data import DataArguments, check_classes, load_data
from .features import Pooling, features_of, load_encoder
from .scores import linear_probe, nearest_neighbours, principal_plane

RESULTS, PICTURE, FEATURES, KEY = "probe.json", "features.png", "features.safetensors", "key"

#: Who writes a model's folder.
WRITER = "probe"


@dataclass
class ProbeArguments:
    """Which models, and how they are looked at."""

    models: list[str] = field(
        default_factory=list,
        metadata={"help": "Vision models on the Hub or in folders: of transformers, timm, this package."},
    )
    output: str | None = field(
        default=None,
        metadata={
            "missing": "name a folder for the features, the table and the pictures.",
            "help": "Folder for features, table and pictures; what is there already is not computed again.",
        },
    )
    pooling: Literal["mean", "class", "model"] | None = field(
        default=None,
        metadata={
            "help": "A picture's features: the mean over places, the class token, or what the model makes itself. By "
            "default the mean; of timm's models their own."
        },
    )
    neighbours: int = field(default=20, metadata={"accepts": "[1, inf)", "help": "Neighbours that vote."})
    temperature: float = field(default=0.07, metadata={"accepts": "(0, inf)", "help": "Of their votes."})
    linear_strength: float = field(
        default=1.0, metadata={"accepts": "(0, inf)", "help": "Inverse of the linear classifier's L2 penalty."}
    )
    picture: Literal["pca", "tsne", "none"] = field(
        default="pca", metadata={"help": "How the evaluation pictures are laid out in features.png."}
    )
    batch_size: int = field(default=64, metadata={"accepts": "[1, inf)", "help": "Pictures at a time."})
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of a model on the Hub."})
    token: str | None = field(default=None, metadata={"help": "Token for gated or private repositories on the Hub."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run model code that lies on the Hub."})
    seed: int = field(
        default=0, metadata={"accepts": "[0, 4294967295]", "help": "Of the linear classifier and of t-SNE."}
    )
    json: bool = field(default=False, metadata={"help": "Print the table as JSON."})

    def __post_init__(self):
        check_fields(self)
        if not self.models:
            raise ValueError("MODEL is missing: name vision models, folders or ids of the Hub.")


#: Argument -> the Auto classes, one of which has a class for the model in a folder that it names.
HEADS = {"models": ("AutoModel", "AutoModelForPreTraining")}
#: `--dataset` is no single file: its format would have to be named.
TAKES_FILES = False
#: What the command line is read into.
ARGUMENTS = (ProbeArguments, DataArguments)


def probe(reader: ArgumentReader) -> list[dict]:
    """Probe models, print and return a row for each.

    Raises:
        ValueError, OSError, ImportError: wrong input, before anything is written.
    """
    args, data_args = reader.read(*ARGUMENTS)
    if args.revision is not None and len(args.models) > 1:
        raise ValueError("--revision goes with one model.")
    output = Path(args.output)
    _check_results(output / RESULTS)
    train, evaluation = load_data(data_args, args.token)
    check_classes(train, makes_them=False)
    if len(np.unique(train.labels)) < 2:
        raise ValueError(
            f"--max_train_samples, --classes: {train.split} has samples of one class, accepted are two and more."
        )
    folders = _folders(output, args.models)
    for folder in folders.values():
        check_rewritable(folder, WRITER)
    rows = [_probe(name, folder, args, train, evaluation) for name, folder in folders.items()]
    for row in rows:
        row["dataset"] = data_args.dataset
    with whole_file(output / RESULTS) as part:
        part.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    show(f"{json.dumps(rows, indent=2) if args.json else as_table(rows)}\n")
    return rows


def _check_results(file: Path) -> None:
    """FileExistsError if a file is there that this command has not written."""
    if not file.exists():
        return
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
        ours = all("knn_accuracy" in row for row in rows)
    except (OSError, ValueError, TypeError, RecursionError):
        ours = False
    if not ours:
        raise FileExistsError(f"--output: {file} is there, and no table of probes: name another folder.")


def _folders(output: Path, models: Sequence[str]) -> dict[str, Path]:
    """Model -> its folder, named after the end of its name."""
    folders: dict[str, Path] = {}
    for name in models:
        parts = (
            [part for part in Path(name).resolve().parts if part != "/"] if os.path.exists(name) else name.split("/")
        )
        names = ("_".join(parts[-length:]) for length in range(1, len(parts) + 1))
        free = [output / short for short in names if output / short not in folders.values()]
        if name in folders or not free:
            raise ValueError(f"--models: {name} stands twice.")
        folders[name] = free[0]
    return folders


def _probe(name: str, folder: Path, args: ProbeArguments, train, evaluation) -> dict:
    model, processor = load_encoder(name, args.pooling, args.revision, args.token, args.trust_remote_code)
    pooling: Pooling = args.pooling or ("model" if model.config.model_type == "timm_wrapper" else "mean")
    key = json.dumps([weights_fingerprint(model), processor.to_dict(), train.facts(), evaluation.facts(), pooling],
                     sort_keys=True, default=str)  # fmt: skip
    features = _known(folder / FEATURES, key)
    if features is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        features = {
            part: features_of(model, processor, pictures, args.batch_size, pooling, device)
            for part, pictures in (("train", train), ("evaluation", evaluation))
        }
        for part, values in features.items():
            if not np.isfinite(values).all():
                raise ValueError(f"--models: the {part} features of {name} are not finite.")
    voted = nearest_neighbours(
        features["train"], train.labels, features["evaluation"], args.neighbours, args.temperature
    )
    drawn = linear_probe(features["train"], train.labels, features["evaluation"], args.linear_strength, args.seed)
    row = {
        "model": name,
        "features": int(features["train"].shape[1]),
        "knn_accuracy": float((voted == evaluation.labels).mean()),
        "linear_accuracy": float((drawn == evaluation.labels).mean()),
        "pooling": pooling,
        "neighbours": args.neighbours,
        "train_samples": len(train),
        "evaluation_samples": len(evaluation),
    }
    with rewritten(folder, WRITER) as new:
        save_file(features, new / FEATURES, metadata={KEY: key})
        if args.picture != "none" and has_matplotlib():
            _draw(features["evaluation"], evaluation, row, args, new / PICTURE)
    return row


def _known(file: Path, key: str) -> dict[str, np.ndarray] | None:
    """The features that an earlier call has left of the same model, pictures and pooling."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "np") as opened:
            same = (opened.metadata() or {}).get(KEY) == key
        return load_file(file) if same else None
    except (OSError, SafetensorError):
        return None


def _draw(features: np.ndarray, pictures, row: dict, args: ProbeArguments, file: Path) -> None:
    from matplotlib.figure import Figure

    if args.picture == "tsne" and len(features) > 3:
        from sklearn.manifold import TSNE

        perplexity = min(30.0, (len(features) - 1) / 3)
        plane = TSNE(perplexity=perplexity, init="pca", random_state=args.seed).fit_transform(features)
    else:
        plane = principal_plane(features)
    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.subplots()
    names = pictures.names or [str(number) for number in range(int(pictures.labels.max()) + 1)]
    for number, name in enumerate(names[:20]):
        chosen = plane[pictures.labels == number]
        axes.plot(chosen[:, 0], chosen[:, -1], ".", label=name, color=f"C{number % 10}", alpha=0.7)
    axes.set_title(f"k-NN {100 * row['knn_accuracy']:.1f} %, linear {100 * row['linear_accuracy']:.1f} %", fontsize=10)
    axes.set_axis_off()
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    save_figure(figure, file)


def as_table(rows: Sequence[dict]) -> str:
    """A line for each model: features, accuracy of the neighbours' vote and of the linear classifier in per cent."""
    width = max(len("model"), *(len(row["model"]) for row in rows))
    lines = [f"{'model'.ljust(width)}  features  k-NN %  linear %"]
    for row in rows:
        knn, linear = (f"{100 * row[f'{kind}_accuracy']:.2f}" for kind in ("knn", "linear"))
        lines.append(f"{row['model'].ljust(width)}  {row['features']:>8}  {knn:>6}  {linear:>8}")
    return "\n".join(lines)
