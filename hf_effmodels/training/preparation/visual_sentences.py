"""Tables of tokens: pairs of images and answers, tokenised and expanded, for visual-sequence-modeling.

Several processes share the files (`accelerate launch -m hf_effmodels prepare visual-sentences ...`), and a run
that was ended goes on with those that are missing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import PartialState

from ..._files import whole_file, write_json
from ..data.fingerprints import facts, fingerprint, picture, weights_fingerprint
from ..data.image_pairs import load_pairs, read_expansion
from ..data.stored_tables import UNFINISHED, check_output, finish_table
from ..data.token_tables import (
    ANSWER_IDS,
    IMAGE_IDS,
    NAME,
    SETTINGS_FILE,
    TASK,
    encode_rows,
)
from ..run.arguments import ArgumentReader, read_mapping
from ..run.values import check_fields
from ..task import load_task

_TASK = "visual-sequence-modeling"


@dataclass
class VisualSentenceArguments:
    """What to tokenise, by what, and where to write it."""

    dataset: str | None = field(
        default=None,
        metadata={
            "missing": "name a folder of tasks, or digits.",
            "help": "A folder of tasks (<task>/images and <task>/answers with files of the same names; or train and "
            "test of these), or digits.",
        },
    )
    image_tokenizer: str | None = field(
        default=None,
        metadata={
            "missing": "name a VQModel or a DeLVM pipeline, in a folder or on the Hub.",
            "help": "A VQModel of diffusers, or a pipeline that has one, in a folder or on the Hub.",
        },
    )
    output: str | None = field(
        default=None,
        metadata={"missing": "name a folder for the table.", "help": "Folder of the table; --dataset takes it."},
    )
    image_size: int | None = field(
        default=None, metadata={"accepts": "[1, 65536]", "help": "Side of the images; by default the tokenizer's."}
    )
    expand: dict | str | None = field(
        default=None, metadata={"help": "Augmented copies of each training pair, by task, such as {segment: 10}."}
    )
    seed: int = field(default=0, metadata={"accepts": "[0, 4294967295]", "help": "Of the augmentation."})
    shard_size: int = field(
        default=4096, metadata={"accepts": "[1, inf)", "help": "Pairs in a file; a kill loses at most so many."}
    )

    def __post_init__(self):
        check_fields(self)
        self.expand = read_mapping("expand", self.expand)


#: Argument -> None: a folder that it names holds a pipeline of diffusers.
HEADS = {"image_tokenizer": None}
#: What the command line is read into.
ARGUMENTS = (VisualSentenceArguments,)


def main(argv: Sequence[str]) -> Path:
    """Write the table as the arguments say.

    Returns:
        The folder of the table.

    Raises:
        ValueError, OSError, ImportError: wrong input, before anything is written.
    """
    argv = list(argv)
    (args,) = ArgumentReader(argv if "--task" in argv else ["--task", _TASK, *argv]).read(*ARGUMENTS)
    output = Path(args.output)
    splits = dict(zip(("train", "test"), load_pairs(args.dataset), strict=True))
    copies = read_expansion("--expand", args.expand, [task.task for task in splits["train"]])
    tokenizer = load_task(_TASK).load_image_tokenizer(args.image_tokenizer, args.image_size)
    jobs = [
        (split, task, range(first, min(first + args.shard_size, total)))
        for split, tasks in splits.items()
        for task in tasks
        for total in [len(task) * (1 + (copies[task.task] if split == "train" else 0))]
        for first in range(0, total, args.shard_size)
    ]
    settings = {
        "image_tokenizer": args.image_tokenizer,
        "image_size": tokenizer.image_size,
        **weights_fingerprint(tokenizer.vqvae),
        "codes": fingerprint([tokenizer.codebook.detach().cpu().numpy().tobytes()]),
        "tasks": [task.task for task in splits["train"]],
        "expand": copies,
        "seed": args.seed,
        "shard_size": args.shard_size,
        "shards": {split: sum(job[0] == split for job in jobs) for split in splits},
        "pictures": {f"{split}/{t.task}": _facts(t) for split, tasks in splits.items() for t in tasks},
    }
    check_output(output, settings, SETTINGS_FILE)
    return _write(output, jobs, settings, tokenizer, copies, args.seed)


def _facts(task) -> dict:
    return facts(len(task), images=lambda n: picture(task.pairs[n][0]), answers=lambda n: picture(task.pairs[n][1]))


def _write(output: Path, jobs: list, settings: dict, tokenizer, copies: dict, seed: int) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    state, unfinished = PartialState(cpu=not torch.accelerator.is_available()), output / UNFINISHED
    # None looks at the folder again before all have.
    state.wait_for_everyone()
    if state.is_main_process:
        unfinished.mkdir(parents=True, exist_ok=True)
        write_json(unfinished / SETTINGS_FILE, settings)
    state.wait_for_everyone()
    tokenizer.vqvae.to(state.device)
    counts = dict.fromkeys(settings["shards"], 0)
    for place, (split, task, numbers) in enumerate(jobs):
        file = unfinished / f"{split}-{counts[split]:05d}-of-{settings['shards'][split]:05d}.parquet"
        counts[split] += 1
        if place % state.num_processes != state.process_index or file.exists():
            continue
        rows = encode_rows(tokenizer, task, copies[task.task] if split == "train" else 0, seed, numbers)
        columns = {TASK: pa.array([task.task] * len(rows)), NAME: pa.array(rows.names)}
        for name, ids in ((IMAGE_IDS, rows.images), (ANSWER_IDS, rows.answers)):
            columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(ids.reshape(-1)), ids.shape[1])
        with whole_file(file) as part:
            pq.write_table(pa.table(columns), part)
    state.wait_for_everyone()
    if state.is_main_process:
        finish_table(output, settings, SETTINGS_FILE)
    state.wait_for_everyone()
    return output
