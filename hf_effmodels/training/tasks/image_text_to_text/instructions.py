"""Instruction tuning: LLaVA's conversations, and the list that LaVIN made of them and of Alpaca's texts."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from .arguments import VisionLanguageDataArguments
from .files import annotation_files, check_images, lazily, read_json
from .prompts import instruction
from .samples import Sample, Samples

_SLOT = "<image>"
_ASKS, _ANSWERS = ("human", "user"), ("gpt", "assistant")


def splits(args: VisionLanguageDataArguments) -> dict:
    """A list of entries is the training split; `all_data.json` names its splits itself."""
    entries = {}
    for split, file in annotation_files(args).items():
        content = read_json(file, "--data_files")
        named = content if isinstance(content, dict) else {split or args.train_split: content}
        if not all(isinstance(rows, list) and all(isinstance(row, dict) for row in rows) for rows in named.values()):
            raise ValueError(f"--data_files: {file} holds no list of entries (nor splits with lists).")
        entries |= named

    def read(name: str, rows: list) -> Samples:
        split = f"{args.dataset}/{name}"
        if args.image_folder is None and any(row.get("image") for row in rows):
            raise ValueError(f"--image_folder is missing: {split} names images.")
        folder = Path(args.image_folder or ".")
        samples = Samples.of(rows, partial(_sample, folder=folder), split)
        # The texts of all entries; their images are opened one by one.
        images = [samples[index].image for index in range(len(samples))]
        check_images((image for image in images if image is not None), split)
        # LLaVA asks about an image in several entries.
        groups = [f"row {number}" if image is None else str(image) for number, image in enumerate(images)]
        return replace(samples, groups=np.asarray(groups))

    return lazily(entries, read)


def _sample(row: Mapping, folder: Path) -> Sample:
    image = folder / _file(row) if row.get("image") else None
    if "conversations" in row:
        return Sample(_turns(row["conversations"], image is not None), image)
    prompt = row["instruction"]
    if not prompt.rstrip().endswith("Response:"):
        # Alpaca's entries may have a second text.
        prompt = instruction("\n".join(text for text in (prompt, row.get("input")) if text))
    return Sample(((prompt, row["answer"] if "answer" in row else row["output"]),), image)


def _turns(conversation: list[Mapping], has_image: bool) -> tuple[tuple[str, str], ...]:
    texts = [turn["value"] for turn in conversation]
    roles = [turn["from"] for turn in conversation]
    if (
        len(roles) < 2
        or len(roles) % 2
        or any(role not in (_ASKS, _ANSWERS)[number % 2] for number, role in enumerate(roles))
    ):
        raise ValueError(f"the turns are from {', '.join(roles)}; accepted are human and gpt by turns, gpt the last.")
    slots = sum(text.count(_SLOT) for text in texts)
    if slots != has_image:
        raise ValueError(
            f"its text has {slots} {_SLOT}, it names {int(has_image)} image; accepted is one of both or neither. "
            f'Remove the surplus {_SLOT}, or add the missing one or "image".'
        )
    texts = [text.replace(_SLOT, "").strip() for text in texts]
    # Turns are parted as by the chat template.
    return tuple(
        ("\n" * (number > 0) + instruction(asked), answer)
        for number, (asked, answer) in enumerate(zip(texts[::2], texts[1::2], strict=True))
    )


def _file(row: Mapping) -> Path:
    if row.get("image_source") == "sqa":  # in all_data.json
        return Path("images", "train", str(row["qid"]), "image.png")
    if "image_source" in row:
        return Path("cocoimages", "train", f"COCO_train2014_{row['image']}")
    return Path(row["image"])
