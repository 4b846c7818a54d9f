"""The folder that a step writes."""

import argparse
import shutil
import tempfile
from pathlib import Path


def add_output(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--output", required=True, help="folder to write; it must not exist yet")
    sub.add_argument("--overwrite", action="store_true", help="replace the folder")


def free_output(arguments) -> Path:
    output = Path(arguments.output)
    if output.exists() and not arguments.overwrite:
        raise ValueError(f"--output: {output} exists; choose another folder, or replace it with --overwrite.")
    if output.exists() and not (output / "config.json").exists() and not (output / "tokenizer.json").exists():
        raise ValueError(f"--output: {output} holds neither a model nor a tokenizer; it is not replaced.")
    return output


class writing:
    """A temporary folder that becomes `output` when all is written."""

    def __init__(self, output: Path, overwrite: bool):
        self.output, self.overwrite = output, overwrite

    def __enter__(self) -> Path:
        self.output.parent.mkdir(parents=True, exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(dir=self.output.parent, prefix=f".{self.output.name}-"))
        self.folder.chmod(0o755)
        return self.folder

    def __exit__(self, kind, *_) -> None:
        if kind is not None:
            shutil.rmtree(self.folder)
            return
        if self.overwrite and self.output.exists():
            shutil.rmtree(self.output)
        self.folder.replace(self.output)
