"""Prune a language model to a budget, as Minitron does (https://arxiv.org/abs/2407.14679): shapes that fit, structures
chosen by what they say, candidates compared after a short distillation."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from ...training.losses.language_distillation import language_distillation_losses
from .calibration import Batch, as_taken, evaluating, in_single_precision, mean_loss, read_batches
from .candidates import Candidate, list_candidates
from .inheritance import Inheritance, check_inheritance, inherit
from .structures import Sizes

#: Every n-th calibration batch, from the last on, is kept for comparing.
_HELD_OUT = 4


@dataclass
class Pruning:
    """What was pruned.

    Attributes:
        parameters, of: of the smaller and of the larger model.
        sizes: of the smaller model.
        loss, loss_of: of both on the calibration batches that were kept for comparing.
        candidates: the shapes that were compared, each with its parameters and its loss.
        made_of: layers and structures of the larger model.
    """

    parameters: int
    of: int
    sizes: dict[str, int]
    loss: float
    loss_of: float
    candidates: list[dict]
    made_of: Inheritance = field(repr=False)

    def to_dict(self) -> dict:
        """For a JSON file."""
        return {**vars(self), "made_of": self.made_of.to_dict()}


def prune(
    model: PreTrainedModel,
    calibration: Iterable[Batch],
    *,
    target_parameters: float | None = None,
    way: str = "width",
    tolerance: float = 0.05,
    candidates: int = 1,
    retraining_steps: int = 0,
    learning_rate: float = 1e-4,
    method: str = "activation",
    layers: str | Sequence[int] = "influence",
    rescale_norms: bool = False,
    progress: bool = False,
    **sizes: int | None,
) -> tuple[PreTrainedModel, Pruning]:
    """A smaller model of the same class, within a budget.

    Args:
        model: the larger model; it is not changed.
        calibration: batches of token ids of one length, or of what the model's forward takes. Of several, every fourth
            is kept for comparing candidates.
        target_parameters: from 1 their number, below 1 their share of the model's. None: the sizes say all.
        way, tolerance: see `list_candidates`.
        candidates: how many shapes within the budget are compared; the one with the lowest loss is returned.
        retraining_steps: each candidate learns from the larger model by the divergence of their predictions for so
            many steps before it is compared; ranks right after pruning mislead (section 4 of the paper). The returned
            model keeps what it has learned.
        learning_rate: of those steps, with AdamW.
        method, layers, rescale_norms, sizes: see `inherit`.

    Raises:
        ValueError: see `inherit` and `list_candidates`; before any model is made.
    """
    for name, value, least in (("candidates", candidates, 1), ("retraining_steps", retraining_steps, 0)):
        if value < least:
            raise ValueError(f"{name}: got {value}, accepted are whole numbers from {least}.")
    if not 0 < learning_rate < math.inf:
        raise ValueError(f"learning_rate: got {learning_rate}, accepted are positive numbers.")
    shapes = choose_shapes(
        model, target_parameters, way, tolerance, candidates, layers=layers, method=method,
        rescale_norms=rescale_norms, **sizes,
    )  # fmt: skip
    batches = read_batches(calibration, "pruning")
    held_out = batches[_HELD_OUT - 1 :: _HELD_OUT] or batches[-1:]
    seen = [batch for number, batch in enumerate(batches) if number % _HELD_OUT != _HELD_OUT - 1] or batches
    best, rows = None, []
    for shape in tqdm(shapes, desc="candidates", disable=not progress):
        smaller, made_of = inherit(
            model, **shape, layers=layers, method=method, calibration=seen, rescale_norms=rescale_norms
        )
        if retraining_steps:
            retrain_shortly(smaller, model, seen, retraining_steps, learning_rate)
        loss = mean_loss(smaller, held_out)
        rows.append({**shape, "parameters": smaller.num_parameters(), "loss": loss})
        if best is None or loss < best[0]:
            best = (loss, smaller, made_of)
    loss, smaller, made_of = best
    found = asdict(Sizes.of(smaller.config))
    report = Pruning(
        parameters=smaller.num_parameters(),
        of=model.num_parameters(),
        sizes={name: value for name, value in found.items() if value},
        loss=loss,
        loss_of=mean_loss(model, held_out),
        candidates=rows,
        made_of=made_of,
    )
    return smaller, report


def choose_shapes(
    model: PreTrainedModel,
    target_parameters: float | None,
    way: str = "width",
    tolerance: float = 0.05,
    candidates: int = 1,
    *,
    layers: str | Sequence[int] = "influence",
    method: str = "activation",
    rescale_norms: bool = False,
    **sizes: int | None,
) -> list[dict[str, int]]:
    """Sizes for `inherit` of the shapes that `prune` compares; the weights are not looked at. See `prune`."""
    given = {name: value for name, value in sizes.items() if value is not None}
    check_inheritance(model.config, layers=layers, method=method, rescale_norms=rescale_norms, **given)
    if not isinstance(layers, str):
        given.setdefault("num_hidden_layers", len(layers))
    if target_parameters is None:
        if not given:
            raise ValueError("target_parameters: got None and no sizes, accepted are a share, a number, or sizes.")
        return [given]
    shapes = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
    found: list[Candidate] = list_candidates(
        model.config, shapes, target_parameters, way=way, tolerance=tolerance, **given
    )
    return [candidate.fields() for candidate in found[:candidates]]


def retrain_shortly(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    batches: Sequence[Mapping[str, torch.Tensor]],
    steps: int,
    learning_rate: float,
) -> None:
    """Train `student`, in place, by KL(teacher ‖ student) over the tokens that are predicted, a batch a step. What is
    in half precision learns in float32 and is rounded at the end."""
    rounded, student = student, in_single_precision(student)
    optimizer = torch.optim.AdamW(student.parameters(), lr=learning_rate, weight_decay=0.0)
    was_training = student.training
    student.train()
    try:
        with evaluating(teacher), torch.enable_grad():
            for step in range(steps):
                batch = as_taken(student, batches[step % len(batches)])
                labels = batch.pop("labels")
                with torch.no_grad():
                    expected = teacher(**as_taken(teacher, batch), use_cache=False).logits.to(student.device)
                logits = student(**batch, use_cache=False).logits
                mask = labels[:, 1:] != -100
                losses = language_distillation_losses(logits[:, :-1], expected[:, :-1], mask)
                optimizer.zero_grad()
                losses["total"].backward()
                torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
                optimizer.step()
    finally:
        student.train(was_training)
    if rounded is not student:
        with torch.no_grad():
            for weight, learned in zip(rounded.parameters(), student.parameters(), strict=True):
                weight.copy_(learned)
