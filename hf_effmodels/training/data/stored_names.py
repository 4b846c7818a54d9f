"""Names of classes that files of a table store with it: `datasets` gives all rows those of the first file."""

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

#: A file of a data set on the Hub, as `datasets` calls it.
_ON_THE_HUB = re.compile(r"hf://datasets/(?P<repo_id>[^@]+)@(?P<revision>[^/]+)/(?P<filename>.+)")


def stores_names(rows) -> bool:
    """Whether the names of a split's classes, if it has some, are those of its first file; other formats have none of
    their own, or gather them from all files."""
    return rows.info.builder_name in ("parquet", "arrow") and any(_names_of(rows.info.features))


def check_stored_names(files: Iterable[str]) -> None:
    """Refuse files of one table some of which call the same number of a column by another class.

    Args:
        files: of all splits, as `datasets` calls them.

    Raises:
        ValueError: the files' own names differ; names a column and two files.
    """
    known: dict[str, tuple[str, list[str]]] = {}
    for name in files:
        file = _place(name)
        if file is None:
            continue
        for column, names in _names_of(_features(file)):
            first, before = known.setdefault(column, (name, names))
            if names != before:
                raise ValueError(
                    f"the classes of column {column!r} are {_shown(before)} in {first}, but {_shown(names)} in "
                    f"{name}: the same numbers would be other classes. Write both with the same names in one order "
                    "(datasets.Dataset.align_labels_with_mapping)."
                )


def _place(name: str) -> Path | None:
    """Where a file lies here; None where it is no longer in the cache, which holds its rows."""
    if found := _ON_THE_HUB.fullmatch(name):
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(**found.groupdict(), repo_type="dataset")
        return Path(cached) if isinstance(cached, str) else None
    return Path(name) if os.path.isfile(name) else None


def _features(file: Path):
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pa.memory_map(str(file)) as source:
        if source.read(4) == b"PAR1":
            schema = pq.read_schema(source)
        else:
            source.seek(0)
            try:
                schema = pa.ipc.open_stream(source).schema
            except pa.ArrowInvalid:
                schema = pa.ipc.open_file(source).schema
    return datasets.Features.from_arrow_schema(schema)


def _names_of(feature, column: str = "") -> Iterator[tuple[str, list[str]]]:
    """Column, of those inside of others with dots, and its classes."""
    import datasets

    if isinstance(feature, datasets.ClassLabel):
        yield column, list(feature.names)
    elif isinstance(feature, dict):
        for name, inner in feature.items():
            yield from _names_of(inner, f"{column}.{name}" if column else name)
    elif (inner := getattr(feature, "feature", None)) is not None:  # of a list
        yield from _names_of(inner, column)


def _shown(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
