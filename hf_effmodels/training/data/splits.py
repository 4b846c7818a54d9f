"""Data sets as `datasets` reads them, for every task: their splits, their columns, and what is wrong in one line."""

from collections.abc import Sequence


def load_splits(args, token: str | None, *, name: str | None = None, data_files=None, **options) -> dict:
    """Split -> table of a data set on the Hub, in a folder or in files.

    Args:
        args: with the fields `dataset`, `dataset_config`, `dataset_revision`, `data_files`, `data_dir`, `cache_dir`.
        token: for gated or private data sets.
        name, data_files: what to load in the place of `args.dataset` and `args.data_files`.
        options: further arguments of `datasets.load_dataset`, such as `streaming=True`.

    Raises:
        OSError: it cannot be found, reached or read. ValueError: there is no such configuration, or nothing in it.
    """
    import datasets
    from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError

    try:
        loaded = datasets.load_dataset(
            name or args.dataset,
            args.dataset_config,
            data_dir=args.data_dir,
            data_files=data_files or args.data_files,
            cache_dir=args.cache_dir,
            revision=args.dataset_revision,
            token=token,
            **options,
        )
    except (DatasetNotFoundError, FileNotFoundError, ConnectionError) as error:
        raise OSError(
            f"--dataset: {args.dataset!r} cannot be found or reached ({error}). Without network only local files and "
            "data sets that are in the cache can be read."
        ) from error
    except ValueError as error:  # no such configuration, nothing in a split
        raise ValueError(f"--dataset: {args.dataset!r}: {error}") from error
    except DatasetGenerationError as error:
        raise OSError(f"--dataset: {args.dataset!r} cannot be read ({error.__cause__ or error}).") from error
    return dict(loaded)


def pick_split(splits: dict, argument: str, name: str):
    """The split called `name`; a ValueError that names `argument` if there is none."""
    if name not in splits:
        raise ValueError(f"{argument}: there is no {name!r}, the splits are {', '.join(splits)}.")
    return splits[name]


class Column:
    """One column of a table, by row number."""

    def __init__(self, rows, name: str):
        self.rows = rows
        self.name = name

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int):
        return self.rows[row][self.name]


def find_column(argument: str, asked_for: str | None, typed: list[str], usual: Sequence[str], features) -> str:
    """The column asked for, or the only one of the right type, or the only one of a usual name; else a ValueError."""
    if asked_for is not None:
        if asked_for not in features:
            raise ValueError(f"--{argument}: there is no {asked_for!r}, the columns are {', '.join(features)}.")
        return asked_for
    candidates = typed or [name for name in usual if name in features]
    if len(candidates) != 1:
        found = f"could be any of {', '.join(candidates)}" if candidates else "is not clear"
        raise ValueError(f"--{argument}: it {found}; say which of the columns it is: {', '.join(features)}.")
    return candidates[0]
