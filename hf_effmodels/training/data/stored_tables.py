"""Folders of what has been computed once for a data set: `data/*.parquet` and a JSON file with the settings it was
computed by. They are written file by file, hidden until all is done, so that a kill costs one file."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from ..._files import whole_file, write_json
from ...hub.ids import check_place

#: In the output folder until all is done; hidden, so that `datasets` does not take it for the table.
UNFINISHED = ".unfinished"


def check_output(output: Path, settings: Mapping, settings_file: str, *, all_known: bool = True) -> None:
    """ValueError unless `--output` is free, or holds the unfinished table of these very settings.

    Args:
        all_known: False while further settings are not known yet, which take longer to find out.
    """
    if output.exists() and not output.is_dir():
        raise ValueError(f"--output: {output} is a file.")
    if not output.exists() or not any(output.iterdir()):
        return
    try:
        begun = json.loads((output / UNFINISHED / settings_file).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ValueError(f"--output: {output} is not empty and holds no unfinished table; name another.") from None
    if changed := changes(begun if all_known else {key: begun.get(key) for key in settings}, settings):
        raise ValueError(f"--output: {output} holds a table begun with another {', '.join(changed)}.")


def changes(begun: Mapping, settings: Mapping) -> list[str]:
    """In what the settings differ from those that something was begun with, as JSON has kept them; one that is in only
    one of the two is None in the other."""
    now = json.loads(json.dumps(dict(settings)))
    keys = [*now, *(key for key in begun if key not in now)]
    return [_change(key, begun.get(key), now.get(key)) for key in keys if begun.get(key) != now.get(key)]


def _change(key: str, begun, now) -> str:
    """What differs, with its values where they can be read at a glance."""
    plain = all(value is None or isinstance(value, (bool, int, float, str)) for value in (begun, now))
    return f"{key} ({begun}, now {now})" if plain and len(f"{begun}{now}") < 50 else key


def finish_table(output: Path, settings: Mapping, settings_file: str) -> Path:
    """Show the files of an unfinished table; its folder. After a kill in the midst of it once more."""
    unfinished = output / UNFINISHED
    (output / "data").mkdir(exist_ok=True)
    for file in sorted(unfinished.glob("*.parquet")):
        os.replace(file, output / "data" / file.name)
    write_json(output / settings_file, settings)
    shutil.rmtree(unfinished)
    return output


class TableWriter:
    """The files of one table.

    Args:
        output: the folder.
        rows: of the whole table, or what its rows are made of.
        shard_size: of these in a file.
        settings: written to `settings_file`; a table that was begun with others is not gone on with.
    """

    def __init__(
        self, output: Path, rows: int, shard_size: int, settings: Mapping, settings_file: str, split: str = "train"
    ):
        self.output, self.settings, self.settings_file = output, dict(settings), settings_file
        self.unfinished = output / UNFINISHED
        self.unfinished.mkdir(parents=True, exist_ok=True)
        write_json(self.unfinished / settings_file, self.settings)
        count = -(-rows // shard_size)
        self._shards = {
            f"{split}-{number:05d}-of-{count:05d}.parquet": range(
                number * shard_size, min((number + 1) * shard_size, rows)
            )
            for number in range(count)
        }

    def missing(self) -> dict[str, range]:
        """Name of each file that is not there yet -> its rows."""
        places = (self.unfinished, self.output / "data")
        return {
            name: rows for name, rows in self._shards.items() if not any((place / name).exists() for place in places)
        }

    def write(self, name: str, columns) -> None:
        """One file of `missing()`, of arrow arrays by their names, or of an arrow table."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        with whole_file(self.unfinished / name) as part:
            pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(dict(columns)), part)

    def finish(self) -> Path:
        """Show the table; its folder."""
        return finish_table(self.output, self.settings, self.settings_file)


def read_table(folder: str | Path, settings_file: str, *, argument: str, made_by: str, cache_dir: str | None = None):
    """Settings and rows (a `datasets.Dataset`) of a finished table.

    Args:
        argument: what names the folder, for messages.
        made_by: the preparation that makes such tables.

    Raises:
        ValueError: there is no finished table. OSError: it cannot be read.
    """
    import datasets

    folder = Path(folder)
    try:
        settings = json.loads((folder / settings_file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{argument}: {folder} holds no finished table of hf-effmodels prepare {made_by} ({error})."
        ) from None
    files = sorted(str(file) for file in (folder / "data").glob("*.parquet"))
    if not files:
        raise ValueError(f"{argument}: {folder} has no data/*.parquet.")
    return settings, datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=cache_dir)


def table_folder(
    name: str, *, argument: str, made_by: str, cache_dir: str | None = None, token: str | None = None
) -> Path:
    """The folder of a table: a local one, or that of a data set on the Hub, downloaded.

    Raises:
        OSError: it is neither, or cannot be reached.
    """
    if os.path.isdir(name):
        return Path(name)
    if name.count("/") != 1 or Path(name).parent.exists():
        raise OSError(f"{argument}: there is no folder {name!r}; hf-effmodels prepare {made_by} makes one.")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    check_place(argument, name)
    try:
        return Path(snapshot_download(name, repo_type="dataset", cache_dir=cache_dir, token=token))
    except (HfHubHTTPError, LocalEntryNotFoundError, ValueError) as error:
        raise OSError(f"{argument}: {name!r} cannot be found or reached. {error}") from error
