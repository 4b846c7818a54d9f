"""Metrics as modules of the `evaluate` library, shipped here so that nothing has to be downloaded."""

from pathlib import Path


def load(name: str):
    """The `evaluate` metric of that name, such as `"accuracy"`; keeps its data in memory, so any number of processes
    may use it at once.

    Raises:
        ValueError: there is no such metric here.
    """
    import evaluate

    folder = Path(__file__).parent
    known = sorted(path.parent.name for path in folder.glob("*/*.py"))
    if name not in known:
        raise ValueError(f"name: got {name!r}, accepted are {', '.join(map(repr, known))}.")
    return evaluate.load(str(folder / name), keep_in_memory=True)
