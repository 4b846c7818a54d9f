"""What the steps share: numbers as people write them, and results as text."""


def number(text: str) -> int:
    """A whole number such as 48000, 48k, 15M or 1.5B."""
    factors = {"k": 1e3, "m": 1e6, "b": 1e9}
    factor = factors.get(text[-1:].lower(), 1)
    return int(round(float(text[:-1] if factor > 1 else text) * factor))


def as_table(result: dict) -> str:
    width = max(map(len, result), default=0)
    shown = {name: f"{value:.4f}" if isinstance(value, float) else value for name, value in result.items()}
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in shown.items() if value is not None)


def as_yaml(result: dict) -> str:
    return "\n".join(
        f"{name}: {value:.6g}" if isinstance(value, float) else f"{name}: {value}" for name, value in result.items()
    )


def first_line(error: Exception) -> str:
    """What an error says first: transformers' messages go on for a page."""
    return next(iter(str(error).splitlines()), "")
