"""One classifier as several small ones, and these as one: what `decompose`, `assemble` and `assign` do."""

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from .._command_line import in_words_of_the_command, show
from .._files import write_json
from .._written import rewritten
from ..compression.pruning.vision_widths import part_macs
from ..hub.ids import reading
from ..hub.whole import load_whole
from ..training.data.classes import model_classes, shown
from ..training.data.images import check_processor
from ..training.run.arguments import ArgumentReader
from ..training.run.next_steps import argument_words
from ..training.run.recipe_arguments import defaults_of
from ..training.run.recipes import find_recipe, read_recipe
from ..training.run.values import check_fields
from ..training.tasks.image_classification.data import DataArguments, ImageClassificationDataset, load_data
from ..training.tasks.image_classification.transforms import EvaluationTransform
from .assignment import Need
from .decomposition import assemble, check_class_groups, from_transformers, keep_classes, split_classes
from .parts_command import REPORT, check_places, folders_of
from .shrinking import shrink


@dataclass
class DecomposeArguments:
    """What becomes of which classifier."""

    model: str | None = field(
        default=None,
        metadata={
            "missing": "name a ViT, a DeiT or a DeViT of one part, trained on all classes.",
            "help": "A trained ViT or DeiT (with teacher) of transformers, or a DeViT of one part.",
        },
    )
    output: str | None = field(
        default=None,
        metadata={"missing": "name a folder for the parts.", "help": "Folder for part0, part1, ... and parts.json."},
    )
    parts: int = field(default=4, metadata={"accepts": "[1, inf)", "help": "Parts, each for some of the classes."})
    class_seed: int = field(default=42, metadata={"help": "Of how the classes are shuffled before they are divided."})
    macs: float = field(
        default=0.6, metadata={"accepts": "(0, 1]", "help": "Share of the multiply-adds that each part keeps."}
    )
    score_images: int = field(
        default=256, metadata={"accepts": "[2, inf)", "help": "Training pictures by which heads and neurons score."}
    )
    search_images: int = field(
        default=512, metadata={"accepts": "[1, inf)", "help": "Others, by which choices of widths are compared."}
    )
    importance: Literal["hsic", "kl"] = field(
        default="hsic",
        metadata={
            "help": "hsic: relevance and redundancy (DeViT). kl: what the classes' probabilities lose without each "
            "head and neuron (ED-ViT); the network runs once for each of them."
        },
    )
    samples: int = field(default=100, metadata={"accepts": "[1, inf)", "help": "Choices of widths to compare."})
    bound: float = field(
        default=0.5, metadata={"accepts": "(0, 1)", "help": "Largest share of a block's heads or neurons that goes."}
    )
    tolerance: float = field(
        default=0.02, metadata={"accepts": "[0, 1)", "help": "How near to the budget a choice has to be."}
    )
    seed: int = field(
        default=0, metadata={"accepts": "[0, 4294967295]", "help": "Of the choices, and of which pictures are taken."}
    )
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the model on the Hub."})
    token: str | None = field(default=None, metadata={"help": "Token for gated or private repositories on the Hub."})
    json: bool = field(default=False, metadata={"help": "Print the report as JSON."})
    overwrite: bool = field(
        default=False, metadata={"help": "Replace the parts that an earlier call wrote into the folder."}
    )

    def __post_init__(self):
        check_fields(self)


ARGUMENTS = (DecomposeArguments, DataArguments)


def decompose(reader: ArgumentReader) -> dict:
    """Write a smaller network for each group of classes; print and return what became of each."""
    args, data_args = reader.read(*ARGUMENTS)
    try:
        report, columns = _decompose(args, data_args)
    except (ValueError, OSError) as error:
        options = {f.name: f"--{f.name}" for f in fields(args)} | {"target": "--macs", "folder": "--output"}
        raise type(error)(in_words_of_the_command(str(error), options)) from error
    show(json.dumps(report, indent=2) + "\n" if args.json else _as_table(report, args, data_args, columns))
    return report


def _decompose(args: DecomposeArguments, data_args: DataArguments) -> tuple[dict, Mapping[str, str]]:
    """The report, and the columns that the pictures were read from."""
    check_places(args)
    model, processor = _one_part("--model", args.model, args.revision, args.token)
    if processor is None:
        raise ValueError(f"--model: {args.model} has no image processor, which says how pictures are prepared.")
    check_processor("--model", processor)
    names = [model.config.id2label[number] for number in range(model.config.num_labels)]
    groups = split_classes(len(names), args.parts, args.class_seed)
    if min(map(len, groups)) < 2:
        raise ValueError(f"--parts: got {args.parts} for {len(names)} classes, accepted are parts of 2 and more each.")
    pictures, _ = load_data(data_args, args.token)
    given = pictures.names or [str(number) for number in range(int(pictures.numbers.max()) + 1)]
    if unknown := [name for name in given if name not in names]:
        raise ValueError(
            f"--dataset: {pictures.split} has the classes {shown(unknown)}, which the model has not by these names; "
            f"it has {shown(names)}. --label_mapping gives them others."
        )
    pictures = pictures.renumbered(model_classes(given, names), names)
    lacking = sorted({*range(len(names))} - {*pictures.numbers.tolist()})
    if lacking:
        raise ValueError(f"--dataset: {pictures.split} has no picture of {', '.join(names[n] for n in lacking[:10])}.")
    report = {"model": args.model, "seed": args.seed, "dekd": _relations(args, model.config), "parts": []}
    shrunken = []
    for group in groups:
        pixels, labels = _pictures_of(group, pictures, model, processor, args)
        options = {
            name: getattr(args, name) for name in ("macs", "importance", "bound", "tolerance", "samples", "seed")
        }
        few = min(args.score_images, math.ceil(len(pixels) / 2))
        found = shrink(keep_classes(model, group), pixels, labels, score_images=few, **options)
        shrunken.append(found.model)
        sizes = found.model.config.parts[0]
        report["parts"].append(
            {
                "classes": [names[number] for number in group],
                "parameters": found.model.num_parameters(),
                "macs": found.macs[1],
                "macs_before": found.macs[0],
                "accuracy": found.accuracy[1],
                "accuracy_before": found.accuracy[0],
                "pictures": {"scores": few, "search": len(pixels) - few},
                "num_heads": sizes["num_heads"],
                "intermediate_sizes": sizes["intermediate_sizes"],
            }
        )
    for folder, part in zip(folders_of(args), shrunken, strict=True):
        with rewritten(folder, "decompose") as new:
            part.save_pretrained(new)
            processor.save_pretrained(new)
    write_json(Path(args.output) / REPORT, report)
    return report, pictures.columns


def _relations(args: DecomposeArguments, config) -> dict:
    """Where in the network that was named, and in its parts, `dekd` finds queries, keys and values: of the middle
    blocks. The parts have as many blocks as wide heads as the DeViT of one part, `config`, that it is or became."""
    from transformers import AutoConfig

    whole = config.parts[0]
    blocks = len(whole["num_heads"])
    middle = max(blocks // 2 - 1, 0)
    ours = f"devit.parts.0.layers.{middle}.attention"
    theirs, layers = ours, ["qkv"]
    named = AutoConfig.from_pretrained(args.model, revision=args.revision, token=args.token)
    if (stock := named.model_type) != config.model_type:
        theirs, layers = f"{stock}.layers.{middle}.attention", ["q_proj", "k_proj", "v_proj"]
    widths = dict.fromkeys(("student_head_width", "teacher_head_width"), whole["head_dim"])
    return {"student_block": ours, "teacher_block": theirs, "teacher_layers": layers, **widths, "blocks": blocks}


def _one_part(argument: str, name: str, revision: str | None = None, token: str | None = None):
    """A DeViT of one part, and its image processor, None where there is none."""
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    source = {"revision": revision, "token": token}
    said = {"revision": ("--revision", revision), "token": token}
    model = load_whole(AutoModelForImageClassification, argument, name, **said).eval()
    try:
        processor = AutoImageProcessor.from_pretrained(name, **source)
    except (OSError, ValueError):
        processor = None
    if model.config.model_type != "devit":
        try:
            model = from_transformers(model)
        except ValueError as error:
            raise ValueError(f"{argument}: {name}: {error}") from None
    if len(model.config.parts) != 1:
        raise ValueError(f"{argument}: {name} has {len(model.config.parts)} parts, accepted is a DeViT of one.")
    return model, processor


def _pictures_of(group: Sequence[int], pictures, model, processor, args) -> tuple[torch.Tensor, torch.Tensor]:
    """Training pictures of some classes in random order, as the network takes them, and their places in the group."""
    order = np.random.default_rng(args.seed).permutation(np.flatnonzero(np.isin(pictures.labels, group)))
    chosen = pictures.select(order[: args.score_images + args.search_images])
    if len(chosen) < 3:
        raise ValueError(f"--dataset: {len(chosen)} pictures of a part's classes, accepted are 3 and more.")
    dataset = ImageClassificationDataset(chosen, EvaluationTransform(processor), model.config.num_channels)
    samples = [dataset[number] for number in range(len(dataset))]
    labels = torch.tensor([list(group).index(sample["labels"]) for sample in samples])
    return torch.stack([sample["pixel_values"] for sample in samples]), labels


def _as_table(report: dict, args: DecomposeArguments, data_args: DataArguments, columns: Mapping[str, str]) -> str:
    """The report for a reader, and for each part the command that trains it on the same pictures."""
    lines = [f"{'part':>5}{'params (M)':>12}{'MACs (M)':>10}{'of':>9}{'right':>9}{'before':>8}  classes"]
    for number, part in enumerate(report["parts"]):
        lines.append(
            f"{number:>5}{part['parameters'] / 1e6:>12.3f}{part['macs'] / 1e6:>10.1f}{part['macs_before'] / 1e6:>9.1f}"
            f"{100 * part['accuracy']:>8.1f}%{100 * part['accuracy_before']:>7.1f}%  {', '.join(part['classes'])}"
        )
    lines += ["right: of training pictures that gave no scores, not trained since", "next, for each part:"]
    recipe = "devit/digits_part0" if data_args.dataset.startswith("digits") else "devit/cifar100_part"
    stated = read_recipe(find_recipe(recipe))
    data = vars(data_args) | {name: value for name, value in columns.items() if name in stated}
    defaults = defaults_of(DataArguments) | stated | {"dataset": None, "classes": None}  # these two are always named
    losses = json.dumps({"dekd": {"weight": 2, **report["dekd"]}})
    for folder, part in zip(folders_of(args), report["parts"], strict=True):
        words = ["hf-effmodels", "train", "--config", recipe, "--model", str(folder), "--teacher", args.model]
        words += ["--teacher_revision", args.revision] if args.revision is not None else []
        words += argument_words({**data, "classes": part["classes"]}, defaults)
        words += ["--losses", losses, "--output_dir", f"{folder}-trained"]
        lines.append(f"  {shlex.join(words)}")
    return "\n".join([*lines, ""])


def assemble_parts(arguments):
    """One model of the parts that the command names, with a new fusion, written to its folder."""
    from transformers import AutoConfig

    width = arguments.fusion_hidden_size
    loaded = [_one_part("PART", name) for name in arguments.parts]
    models, processors = zip(*loaded, strict=True)
    classes = [[model.config.id2label[n] for n in range(model.config.num_labels)] for model in models]
    names = [name for group in classes for name in group]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(
            f"PART: several have the classes {shown(twice)}; accepted are parts with classes of their own."
        )
    if arguments.teacher is not None:
        with reading("--teacher", arguments.teacher):
            teacher = AutoConfig.from_pretrained(arguments.teacher)
        own = [teacher.id2label[number] for number in range(teacher.num_labels)]
        if sorted(own) != sorted(names):
            missing, more = sorted({*own} - {*names})[:10], sorted({*names} - {*own})[:10]
            raise ValueError(
                "teacher: its classes are not those of the parts together; the parts lack "
                f"{', '.join(missing) or 'none'}, the teacher lacks {', '.join(more) or 'none'}."
            )
        names, width = own, width or getattr(teacher, "hidden_size", None)
        if width is None:
            raise ValueError(
                f"teacher: the configuration of {arguments.teacher} does not tell how wide its tokens are; "
                "--fusion-hidden-size does."
            )
    groups = [[names.index(name) for name in group] for group in classes]
    check_class_groups(groups, len(names))
    whole = assemble(models, len(names), class_groups=groups, fusion_hidden_size=width)
    whole.config.id2label = dict(enumerate(names))
    whole.config.label2id = {name: number for number, name in enumerate(names)}
    with rewritten(Path(arguments.output), "assemble") as new:
        whole.save_pretrained(new)
        if processors[0] is not None:
            processors[0].save_pretrained(new)
    return whole


def needs_of(parts: Sequence[str], bytes_of_weight: int) -> dict[str, Need]:
    """What each part asks of its device."""
    needs = {}
    for name in parts:
        model, _ = _one_part("PART", name)
        needs[name] = Need(bytes_of_weight * model.num_parameters(), part_macs(model.config))
    return needs
