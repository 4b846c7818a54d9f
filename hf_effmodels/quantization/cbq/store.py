"""What lies in the working folder: blocks that are not in use, and how far the work has come."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from ..._files import whole_file, write_json

Tensors = dict[str, torch.Tensor]


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """What ends a write, such as a full disk, is told of the folder."""
    try:
        yield
    except (SafetensorError, OSError) as error:
        raise OSError(
            f"work: {folder} cannot be written ({error}). What is finished stays there: the same call goes on."
        ) from error


class BlockStore:
    """Gives blocks their weights while they are in use, and takes them to a folder for the rest of the time.

    Args:
        blocks: the decoder blocks.
        folder: where the weights go; None leaves them in memory.
    """

    def __init__(self, blocks: nn.ModuleList, folder: Path | None):
        self.blocks, self.folder = blocks, folder
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(len(blocks)):
                self.put_away(i)

    def _file(self, i: int) -> Path:
        return self.folder / f"block-{i:05d}.safetensors"

    def fetch(self, i: int) -> nn.Module:
        """Block `i` with its weights in memory."""
        block = self.blocks[i]
        if self.folder is not None and any(weight.is_meta for weight in block.parameters()):
            block.load_state_dict(load_file(self._file(i)), assign=True)
            block.requires_grad_(False)
        return block

    def put_away(self, i: int) -> None:
        """Write block `i` and free its memory."""
        if self.folder is None:
            return
        block = self.blocks[i]
        with _writing(self.folder), whole_file(self._file(i)) as part:
            save_file({name: value.contiguous() for name, value in block.state_dict().items()}, part)
        self.drop(i)

    def drop(self, i: int) -> None:
        """Free the memory of block `i`, which has not changed since it was fetched."""
        if self.folder is not None:
            block = self.blocks[i]
            state = {name: torch.empty_like(value, device="meta") for name, value in block.state_dict().items()}
            block.load_state_dict(state, assign=True)

    @contextmanager
    def streaming(self) -> Iterator[None]:
        """Inside, the whole model computes: each block has its weights while it is called."""
        handles = []
        if self.folder is not None:
            for i, block in enumerate(self.blocks):
                handles.append(block.register_forward_pre_hook(lambda module, args, i=i: self.fetch(i) and None))
                handles.append(block.register_forward_hook(lambda module, args, output, i=i: self.drop(i)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


class Progress:
    """Files of a working folder that are written whole: `state.json` names the step that has been finished last.

    Args:
        folder: None keeps nothing.
        call: what the work depends on; a folder of other work is refused.
    """

    def __init__(self, folder: Path | None, call: dict):
        self.folder, self.call = folder, call
        self.step, self.rows, self.names = -1, [], set()
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "state.json"
        if file.is_file():
            with self._reading(file):
                state = json.loads(file.read_text(encoding="utf-8"))
                before, self.step, self.rows = state["call"], state["step"], state["rows"]
                self.names = {*state["files"]}
            if before != json.loads(json.dumps(call)):
                different = sorted(k for k in {*before, *call} if before.get(k) != call.get(k))
                raise ValueError(
                    f"work: {folder} holds the progress of another call; different are {', '.join(different)}. "
                    "Name another folder, or delete it."
                )
            for name in self.names:  # whole files have the length that their headers say
                with self._reading(self._file(name)), safe_open(self._file(name), "pt"):
                    pass
        elif any(each.suffix != ".part" for each in folder.iterdir()):  # those are of a killed call
            raise ValueError(f"work: {folder} holds other files; name a new folder.")
        else:
            self.finish(-1, [])

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"

    @contextmanager
    def _reading(self, file: Path) -> Iterator[None]:
        try:
            yield
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"work: {file} is damaged or missing ({type(error).__name__}: {error}); the work cannot go on from "
                f"there. Delete {self.folder} to begin again."
            ) from error

    def save(self, name: str, tensors: Tensors) -> None:
        if self.folder is not None:
            with _writing(self.folder), whole_file(self._file(name)) as part:
                save_file({key: value.contiguous() for key, value in tensors.items()}, part)
            self.names.add(name)

    def load(self, name: str) -> Tensors:
        with self._reading(self._file(name)):
            return load_file(self._file(name))

    def finish(self, step: int, rows: list[dict]) -> None:
        """From now on a new process begins after `step`, which adds `rows` to the report; what only the steps before
        needed goes."""
        self.step = step
        self.rows = [*self.rows, *rows]
        if self.folder is None:
            return
        own = f"window-{step:05d}"
        self.names = {name for name in self.names if name == own or not name.startswith("window-")}
        state = {"step": step, "call": self.call, "rows": self.rows, "files": sorted(self.names)}
        with _writing(self.folder):
            write_json(self.folder / "state.json", state)
        for file in self.folder.glob("window-*.safetensors"):
            if file.stem != own:
                file.unlink()
