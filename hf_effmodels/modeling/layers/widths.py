"""Numbers of channels."""


def round_width(width: float, multiple: int) -> int:
    """The nearest multiple of `multiple` that keeps at least 90 % of `width` channels (halves go up)."""
    rounded = max(multiple, int(width + multiple / 2) // multiple * multiple)
    return rounded + multiple if rounded < 0.9 * width else rounded
