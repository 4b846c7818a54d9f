"""Documents packed while they are read: for text that is too long, or too far away, to be prepared first."""

import json
import logging
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from .packing import Block, Encoder

logger = logging.getLogger(__name__)

#: In a checkpoint: where in the text the stream was.
STREAM_FILE = "text_stream.json"
#: Documents that are tokenized at a time.
_GROUP = 64


class PackedStream(IterableDataset):
    """Endless blocks in the form of `packing`: after the last document comes the first again, nothing is dropped.

    Blocks are shuffled within windows of `window` successive ones, by the seed and the window's number alone. The
    next window is read and tokenized in a thread while the present one is trained on. `state(n)` says in a few
    kilobytes where the text was when block n was handed out, and a stream that is given it (`resume`) goes on with
    the very same blocks without reading the text before it.

    Args:
        texts: a `datasets.IterableDataset` with a column `text`.
        encode: texts to tokens.
        block: the form of the samples.
        window: blocks that are shuffled at a time, 1 for the text's own order.
        seed: of that order.
    """

    def __init__(self, texts, encode: Encoder, block: Block, *, window: int, seed: int):
        self.texts = texts
        self.encode = encode
        self.block = block
        self.window = window
        self.seed = seed
        self._states: deque[dict] = deque()
        self._start, self._skip = _BEGINNING, 0

    def check(self) -> None:
        """ValueError if no document of the whole text has text. Reads on until there is one."""
        reader = _Reader(self.texts, self.encode, self._start)
        while not reader.documents:
            reader.read_on()

    def forget(self, blocks: int) -> None:
        """Let go of what only `state` of fewer than `blocks` would need."""
        while len(self._states) > 1 and self._states[1]["blocks"] <= blocks:
            self._states.popleft()

    def resume(self, state: dict) -> None:
        """Go on after block `state["blocks"]`: what `state` has returned."""
        self._start = state["window_start"]
        self._skip = state["blocks"] - self._start["blocks"]

    def state(self, blocks: int) -> dict:
        """Where the text was when `blocks` blocks had been handed out.

        Raises:
            ValueError: that is too long ago, or in the future.
        """
        for start in reversed(self._states):
            if start["blocks"] <= blocks <= start["blocks"] + self.window:
                return {"blocks": blocks, "window_start": start}
        raise ValueError(f"the stream has no record of block {blocks}.")

    def __iter__(self) -> Iterator[dict]:
        if get_worker_info() is not None:
            raise ValueError(
                "--dataloader_num_workers: a stream is read by a thread of the training process; accepted is 0."
            )
        skip, at = self._skip, self._start
        with ThreadPoolExecutor(1) as thread:
            reader = _Reader(self.texts, self.encode, at)
            future = thread.submit(reader.window, self.window, self.block.size)
            while True:
                tokens, start = future.result()
                future = thread.submit(reader.window, self.window, self.block.size)
                self._states.append(start)
                for number in _order(self.window, self.seed, start["blocks"])[skip:]:
                    first = number * (self.block.size - 1)
                    yield self.block.sample(tokens[first : first + self.block.size])
                skip = 0


#: A place in the text: blocks handed out before it, how often the text has been read, documents with and without text
#: so far, `datasets`' own state, and the tokens that were read and not yet handed out.
_BEGINNING = {"blocks": 0, "epoch": 0, "documents": 0, "empty_documents": 0, "source": None, "tokens": []}


def _order(window: int, seed: int, blocks: int) -> list[int]:
    if window == 1:
        return [0]
    return np.random.default_rng((seed, blocks)).permutation(window).tolist()


class _Reader:
    """Reads the text from a known place on. Its place (`state`) is that after the last whole window."""

    def __init__(self, texts, encode: Encoder, at: dict):
        self.texts, self.encode = texts, encode
        self.blocks, self.epoch = at["blocks"], at["epoch"]
        self.documents, self.empty_documents = at["documents"], at["empty_documents"]
        self.tokens = [int(token) for token in at["tokens"]]
        self.source = at["source"]
        self.rows = None

    def window(self, count: int, size: int) -> tuple[np.ndarray, dict]:
        """Tokens of the next `count` blocks, and the place where they begin."""
        start = {
            "blocks": self.blocks,
            "epoch": self.epoch,
            "documents": self.documents,
            "empty_documents": self.empty_documents,
            "source": self.source,
            "tokens": np.asarray(self.tokens, dtype=np.int32),
        }
        needed = count * (size - 1) + 1
        while len(self.tokens) < needed:
            self.read_on()
        window = np.asarray(self.tokens[:needed], dtype=np.int64)
        del self.tokens[: needed - 1]  # the last token begins the next block
        self.blocks += count
        return window, start

    def read_on(self) -> None:
        """The next few documents."""
        if self.rows is None:
            self.texts.set_epoch(self.epoch)
            if self.source is not None:
                self.texts.load_state_dict(self.source)
            self.rows = iter(self.texts)
        texts = [row["text"] or "" for row in islice(self.rows, _GROUP)]
        for tokens in self.encode(texts) if texts else []:
            self.tokens += tokens
            self.documents += bool(tokens)
            self.empty_documents += not tokens
        self.source = self.texts.state_dict()
        if len(texts) < _GROUP:
            if not self.documents:
                raise ValueError(
                    "--dataset: the text is empty: no document has text, or all of them are held out "
                    "(--eval_documents, --eval_holdout)."
                )
            logger.info("the text has been read %d times (%d documents so far)", self.epoch + 1, self.documents)
            # `datasets` takes a state for the epoch that it is of: the next one starts at its beginning.
            self.epoch, self.source, self.rows = self.epoch + 1, None, None


def write_state(stream: PackedStream, blocks: int, folder: Path) -> None:
    """Write where the stream is into a checkpoint."""
    text = json.dumps(stream.state(blocks), default=np.ndarray.tolist)
    (folder / STREAM_FILE).write_text(text, encoding="utf-8")


def read_state(folder: Path) -> dict:
    """What `write_state` has written.

    Raises:
        ValueError: the checkpoint has no such file.
    """
    try:
        return json.loads((folder / STREAM_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"--resume_from_checkpoint: {folder} does not say where in the text it was ({error}); it was not written "
            "by a run with --streaming true."
        ) from None
