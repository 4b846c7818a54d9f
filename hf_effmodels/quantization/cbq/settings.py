"""What can be said of a quantisation, checked; imports neither torch nor transformers."""

from dataclasses import dataclass, field

METHODS = ("cbq", "gptq", "rtn")
TARGETS = ("homologous", "accumulated", "both")
BITS = (2, 3, 4, 8)
FORMATS = ("compressed-tensors", "cbq", "gptq")


@dataclass
class CbqSettings:
    """Cross-block quantisation, or one of the methods it is compared with.

    Args:
        bits: of the weights: 2, 3, 4 or 8.
        group_size: inputs that share a step; None or -1: a row has one.
        symmetric: the grid has no zero points.
        activation_bits: of the inputs of the quantised layers, a grid for each token as it comes; None: as they are.
        method: "cbq", "gptq" or "rtn" (round to nearest).
        modules_to_not_convert: names, or ends of names, of layers of the blocks that stay as they are.
        blocks: name of the list of decoder blocks, where it is not found.
        window: blocks that are learned together.
        overlap: blocks that a window shares with the next one.
        target: outputs to come near to: of the full-precision window on the same input ("homologous"), of the
            full-precision model ("accumulated"), or both in equal parts.
        kld_weight: weight of the divergence beside the squared distance.
        rank: of LoRA-Rounding; None learns a number for each weight.
        rounding: "hard" computes with rounded weights while it learns, straight through; "soft" with weights in
            between, which the rounding term drives to a side, as AdaRound does.
        rounding_init: "fraction" begins at the weights, "zero" half-way between two integers.
        learn_steps: learn the steps of the grid, too.
        cfp: coarse-to-fine pre-processing: cut the outliers of weights and, where activations are quantised, scale
            those of activations into the layers before.
        lambda1, lambda2: of its coarse and its fine step.
        cfp_rounds: how often it looks for outliers.
        epochs: passes over the samples for each window.
        batch_size: samples of a step.
        rounding_lr: learning rate of A1 and A2.
        step_lr: learning rate of the steps, relative to themselves.
        rounding_weight: weight of the term that drives the rounding to 0 or 1, where 1 weighs as much as the loss of
            the window before any step.
        damping: of GPTQ's Hessian, as a share of its mean diagonal.
        seed: of the initial A1 and the order of the samples.
    """

    bits: int = 4
    group_size: int | None = 128
    symmetric: bool = True
    activation_bits: int | None = None
    method: str = "cbq"
    modules_to_not_convert: list[str] | None = None
    blocks: str | None = None
    window: int = 2
    overlap: int = 1
    target: str = "both"
    kld_weight: float = 1.0
    rank: int | None = 5
    rounding: str = "hard"
    rounding_init: str = "fraction"
    learn_steps: bool = True
    cfp: bool = True
    lambda1: float = 1.5
    lambda2: float = 1.0
    cfp_rounds: int = 1
    epochs: int = 3
    batch_size: int = 4
    rounding_lr: float = 1e-2
    step_lr: float = 1e-3
    rounding_weight: float = 0.1
    damping: float = 0.01
    seed: int = 0
    #: The two that transformers looks for in a checkpoint.
    quant_method: str = field(default="cbq")
    format: str = "pack-quantized"

    def __post_init__(self):
        if self.group_size == -1:
            self.group_size = None
        for name, accepted in _ACCEPTED.items():
            value = getattr(self, name)
            if value not in accepted or isinstance(value, bool) != isinstance(accepted[0], bool):
                shown = ", ".join("none" if each is None else str(each) for each in accepted)
                raise ValueError(f"{name}: got {value}, accepted are {shown}.")
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if value is None and name in ("rank", "group_size"):
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
                raise ValueError(f"{name}: got {value}, accepted are {low:g} to {high:g}.")
        if self.overlap >= self.window:
            raise ValueError(f"overlap: got {self.overlap}, accepted are 0 to window - 1 = {self.window - 1}.")
        if self.rounding_init == "zero" and self.method == "cbq" and self.epochs == 0:
            raise ValueError("epochs: got 0, but with rounding_init zero all of the rounding is learned.")


_ACCEPTED = {
    "bits": BITS,
    "symmetric": (True, False),
    "activation_bits": (None, 4, 6, 8),
    "method": METHODS,
    "target": TARGETS,
    "rounding": ("hard", "soft"),
    "rounding_init": ("fraction", "zero"),
    "learn_steps": (True, False),
    "cfp": (True, False),
    "quant_method": ("cbq",),
    "format": ("pack-quantized",),
}
RANGES = {
    "group_size": (8, 2**16),
    "window": (1, 10**4),
    "overlap": (0, 10**4),
    "kld_weight": (0, 1e6),
    "rank": (1, 2**16),
    "lambda1": (0, 1e6),
    "lambda2": (0, 1e6),
    "cfp_rounds": (1, 100),
    "epochs": (0, 10**6),
    "batch_size": (1, 10**6),
    "rounding_lr": (0, 10),
    "step_lr": (0, 1),
    "rounding_weight": (0, 1e6),
    "damping": (1e-8, 10),
    "seed": (0, 2**32 - 1),
}


def check_format(format: str, settings: CbqSettings) -> None:
    """ValueError where a format cannot hold what the settings make of any model."""
    if format not in FORMATS:
        raise ValueError(f"format: got {format!r}, accepted are {', '.join(FORMATS)}.")
    if format == "compressed-tensors" and settings.bits == 3:
        raise ValueError(
            "format: compressed-tensors packs 3 bits differently from release to release; accepted is cbq."
        )
    if format == "gptq" and (settings.bits == 3 or not settings.symmetric or settings.activation_bits):
        raise ValueError(
            "format: gptq is written for symmetric weights of 2, 4 or 8 bits and activations as they are; accepted "
            "for others are compressed-tensors and cbq."
        )
