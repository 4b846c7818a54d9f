"""Folders of what has been computed once for a data set: `data/*.parquet` and a JSON file with the settings it was
computed by. They are written file by file, hidden until all is done, so that a kill costs one file."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from ..._files import whole_file, write_json

#: In the output folder until all is done; hidden, so that `datasets` does not take it for the table.
UNFINISHED = ".unfinished"


def check_output(output: Path, settings: Mapping, settings_file: str) -> None:
    """ValueError unless `--output` is free, or holds the unfinished table of these very settings."""
    if output.exists() and not output.is_dir():
        raise ValueError(f"--output: {output} is a file.")
    if not output.exists() or not any(output.iterdir()):
        return
    try:
        begun = json.loads((output / UNFINISHED / settings_file).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ValueError(f"--output: {output} is not empty and holds no unfinished table; name another.") from None
    changed = [key for key in settings if begun.get(key) != json.loads(json.dumps(settings[key]))]
    if changed:
        raise ValueError(f"--output: {output} holds a table begun with another {', '.join(changed)}.")


class TableWriter:
    """The files of one table.

    Args:
        output: the folder.
        rows: of the whole table.
        shard_size: rows of a file.
        settings: written to `settings_file`; a table that was begun with others is not gone on with.
    """

    def __init__(self, output: Path, rows: int, shard_size: int, settings: Mapping, settings_file: str):
        self.output, self.settings, self.settings_file = output, dict(settings), settings_file
        self.unfinished = output / UNFINISHED
        self.unfinished.mkdir(parents=True, exist_ok=True)
        write_json(self.unfinished / settings_file, self.settings)
        count = -(-rows // shard_size)
        self._shards = {
            f"train-{number:05d}-of-{count:05d}.parquet": range(
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

    def write(self, name: str, columns: Mapping) -> None:
        """One file of `missing()`, of arrow arrays by their names."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        with whole_file(self.unfinished / name) as part:
            pq.write_table(pa.table(dict(columns)), part)

    def finish(self) -> Path:
        """Show the table; its folder."""
        (self.output / "data").mkdir(exist_ok=True)
        for name in self._shards:
            if (self.unfinished / name).exists():
                os.replace(self.unfinished / name, self.output / "data" / name)
        write_json(self.output / self.settings_file, self.settings)
        shutil.rmtree(self.unfinished)
        return self.output


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
    if Path(name).is_dir():
        return Path(name)
    if name.count("/") != 1 or Path(name).parent.exists():
        raise OSError(f"{argument}: there is no folder {name!r}; hf-effmodels prepare {made_by} makes one.")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, repo_type="dataset", cache_dir=cache_dir, token=token))
    except (HfHubHTTPError, LocalEntryNotFoundError, ValueError) as error:
        raise OSError(f"{argument}: {name!r} cannot be found or reached. {error}") from error
