"""What a run says before it begins: model, data, device, steps, and what is likely to go wrong."""

import copy
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

#: Below so many pictures a class is called small.
_FEW = 5
#: More of the first value than this share in the running statistics at the end is said.
_LAG = 0.05
_SHOWN = 5


def header(trainer, config: Mapping, facts: Sequence[str] = ()) -> list[str]:
    """The lines.

    Args:
        trainer: a `RecipeTrainer` before its training.
        config: the resolved arguments.
        facts: what the task knows of its data and model, a line each.
    """
    args, model = trainer.args, trainer.accelerator.unwrap_model(trainer.model)
    parameters = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    share = "" if trained == parameters else f", {_millions(trained)} of them trained"
    named = config.get("model") or config.get("detector") or ""
    kind = " ".join(filter(None, [type(model).__name__, str(named)]))
    lines = [f"{config['task']}: {kind}, {_millions(parameters)} parameters{share}"]
    lines += facts or [f"training on {_count(trainer.train_dataset)}, evaluating on {_count(trainer.eval_dataset)}"]
    steps = total_steps(trainer)
    batch = trainer.get_total_train_batch_size(args)
    processes = f", {args.world_size} processes" if args.world_size > 1 else ""
    length = f"{steps} steps" if steps else "steps as the data lasts"
    where = f"{args.device.type}{processes}, {_precision(args, model)}"
    return [*lines, f"{where}, {batch} samples a step, {length}; into {args.output_dir}"]


def _precision(args, model: nn.Module) -> str:
    """What it computes in: as the options say, or else as its weights are; those that are frozen may be in another."""
    if args.bf16 or args.fp16:
        return "bfloat16" if args.bf16 else "float16"
    own = {str(weight.dtype).removeprefix("torch.") for weight in model.parameters() if weight.is_floating_point()}
    return " and ".join(sorted(own)) or "float32"


def warnings_of(trainer, steps: int | None = None) -> list[str]:
    """What the model will suffer from, with what to do."""
    steps = total_steps(trainer) if steps is None else steps
    model = trainer.accelerator.unwrap_model(trainer.model)
    training = model.training
    model.train()  # as the trainer will: those that stay in evaluation then keep what they have
    momenta = [
        module.momentum
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.training and module.momentum and module.track_running_stats
    ]
    model.train(training)
    if not momenta or not steps:
        return []
    kept = (1 - min(momenta)) ** steps
    if kept <= _LAG:
        return []
    enough = math.ceil(math.log(_LAG) / math.log(1 - min(momenta)))
    return [
        f"batch norms: after {steps} steps their statistics are still {100 * kept:.0f} % of what they began with, and "
        f"evaluation will lag behind training. More epochs or smaller batches ({enough} steps are enough) help, or a "
        "pretrained model."
    ]


def total_steps(trainer) -> int | None:
    """Steps of the whole run; None where the data do not say how many there are."""
    args = trainer.args
    if args.max_steps > 0:
        return args.max_steps
    if not hasattr(trainer.train_dataset, "__len__"):
        return None
    batches = len(trainer.train_dataset) / trainer.get_total_train_batch_size(args)
    whole = math.floor(batches) if args.dataloader_drop_last else math.ceil(batches)
    return math.ceil(args.num_train_epochs * max(whole, 1))


def class_facts(what: str, labels: np.ndarray, names: Sequence[str]) -> str:
    """How many samples there are of how many classes."""
    counts = np.bincount(labels, minlength=len(names))
    return f"{what}: {len(labels)} samples, {len(names)} classes ({counts.min()} to {counts.max()} each)"


def class_warnings(labels: np.ndarray, evaluated: np.ndarray, names: Sequence[str]) -> list[str]:
    """Classes that cannot be learnt, or not be measured."""
    counts, measured = (np.bincount(values, minlength=len(names)) for values in (labels, evaluated))
    lines = []
    if len(empty := np.flatnonzero(counts == 0)):
        lines.append(f"{len(empty)} classes have no training sample ({_names(empty, names)}): they cannot be learnt.")
    if len(few := np.flatnonzero((counts > 0) & (counts < _FEW))):
        lines.append(
            f"{len(few)} classes have fewer than {_FEW} training samples ({_names(few, names)}): expect little of "
            "them; more pictures help, or --repeated_augmentation."
        )
    if len(unmeasured := np.flatnonzero((measured == 0) & (counts > 0))):
        lines.append(f"{len(unmeasured)} classes are not evaluated: there is no sample ({_names(unmeasured, names)}).")
    return lines


def multiply_adds(model: nn.Module, pixel_values: torch.Tensor) -> str:
    """A fact about an image model: multiply-adds of one image, counted without computing; nothing where they cannot
    be counted so."""
    from ...benchmarking.counting import count

    try:
        twin = copy.deepcopy(model).to("meta").requires_grad_(False).eval()
        macs = count(twin, pixel_values[None].to("meta")).macs
    except (RuntimeError, NotImplementedError, TypeError, ValueError):
        return ""
    return f"{macs / 1e6:.1f} M multiply-adds for an image of {' x '.join(map(str, pixel_values.shape[-2:]))}"


def _names(numbers: np.ndarray, names: Sequence[str]) -> str:
    told = ", ".join(str(names[number]) for number in numbers[:_SHOWN])
    return told + (", ..." if len(numbers) > _SHOWN else "")


def _millions(count: int) -> str:
    return f"{count / 1e6:.3f} M" if count < 1e8 else f"{count / 1e6:.0f} M"


def _count(dataset) -> str:
    if dataset is None:
        return "nothing"
    return f"{len(dataset)} samples" if hasattr(dataset, "__len__") else "a stream of samples"
