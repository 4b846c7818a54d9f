"""Samples -> token numbers, labels and pixels, and batches of them."""

from dataclasses import dataclass

import numpy as np
import torch

from ...data.errors import of_sample
from ...data.images import read_image
from ...data.seeded import SeededDataset
from ...losses.token_losses import IGNORED
from .samples import Sample, Samples


class Encoder:
    """A sample as the model reads it: `[bos] + prefix + enc(prompt + answer) + [eos]`, cut at `max_length`.

    The prefix says whether there is an image, and holds its place (see `AdemVLProcessor`); it is encoded by itself.
    Prompt and answer are encoded together, as in the official code. Learned are the answers, and the end.
    """

    def __init__(self, processor, max_length: int):
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.max_length = max_length
        unknown = self.tokenizer.unk_token_id
        # Label 0, LLaMA's unknown token, is ignored there; others use that token as the end.
        self.never_learned = None if unknown in (self.tokenizer.eos_token_id, self.tokenizer.bos_token_id) else unknown

    def __call__(self, sample: Sample) -> tuple[list[int], list[int]]:
        """Token numbers, and labels (-100 where nothing is learned) of the same length."""
        text, spans = "", []
        for prompt, answer in sample.turns:
            start = len(self._encode(text + prompt))
            text += prompt + answer
            spans.append((start, len(self._encode(text))))
        ids = self._encode(text)
        self._check(sample, text)
        labels = [IGNORED] * len(ids)
        for start, end in spans:
            labels[start:end] = ids[start:end]
        prefix = self.processor.prefix_ids(sample.image is not None)
        end = [] if self.tokenizer.eos_token_id is None else [self.tokenizer.eos_token_id]
        labels = [IGNORED] * len(prefix) + [IGNORED if t == self.never_learned else t for t in labels] + end
        return (prefix + ids + end)[: self.max_length], labels[: self.max_length]

    def question(self, sample: Sample, max_new_tokens: int) -> list[int]:
        """What is put before a generated answer, cut at its tail so that the answer fits in."""
        self._check(sample, sample.question)
        ids = self.processor.prefix_ids(sample.image is not None) + self._encode(sample.question)
        return ids[: max(1, self.max_length - max_new_tokens)]

    def check_room(self, max_new_tokens: int) -> None:
        """ValueError unless something of a question, behind the place of its image, goes before the answer."""
        most = self.max_length - len(self.processor.prefix_ids(True)) - 1
        if max_new_tokens > most:
            raise ValueError(
                f"--max_new_tokens: got {max_new_tokens}, but with --max_length {self.max_length} accepted are "
                f"at most {most}: image and question come before the answer."
            )

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _check(self, sample: Sample, text: str) -> None:
        if count := text.count(self.processor.image_token):
            raise ValueError(
                f"its text has {count} {self.processor.image_token} in it; leave it out: the place of the image is in "
                "front of the text, and it is there where the row has an image."
            )


class Pixels:
    """Image -> (3, height, width) as the model sees it; with a random generator augmented first."""

    def __init__(self, image_processor, augment=None):
        self.image_processor = image_processor
        self.augment = augment

    def __call__(self, image, rng: np.random.Generator | None = None) -> torch.Tensor:
        image = read_image(image, 3)
        if self.augment is not None and rng is not None:
            image = self.augment(image, rng)
        return self.image_processor(image, return_tensors="pt")["pixel_values"][0]


class ImageTextToTextDataset(SeededDataset):
    """`{"input_ids": list, "labels": list}`, with `pixel_values` (3, height, width) where there is an image.

    With a seed it is a training set, whose images are augmented.
    """

    def __init__(self, samples: Samples, encoder: Encoder, pixels: Pixels, seed: int | None = None):
        super().__init__(seed)
        self.samples = samples
        self.encoder = encoder
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.samples)

    def sample(self, index: int, rng: np.random.Generator | None) -> dict:
        sample = self.samples[index]
        try:
            ids, labels = self.encoder(sample)
            item = {"input_ids": ids, "labels": labels}
            if sample.image is not None:
                item["pixel_values"] = self.pixels(sample.image, rng)
        except (ValueError, OSError) as error:
            raise of_sample(error, self.samples.where(index, sample)) from error
        return item


@dataclass
class Collator:
    """Rows with and without images in one batch: texts padded on the right, the images of the rows that have one.

    Attributes:
        pad_token_id: where there is no text; the attention mask is 0 there.
        with_mask: say which rows have an image, for models whose texts have no place for it (no class token).
    """

    pad_token_id: int
    with_mask: bool = False

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        lengths = torch.tensor([len(row["input_ids"]) for row in rows])
        batch = {
            "input_ids": self._padded([row["input_ids"] for row in rows], self.pad_token_id),
            "attention_mask": (torch.arange(int(lengths.max())) < lengths[:, None]).long(),
            "labels": self._padded([row["labels"] for row in rows], IGNORED),
        }
        has_image = ["pixel_values" in row for row in rows]
        if any(has_image):
            batch["pixel_values"] = torch.stack([row["pixel_values"] for row in rows if "pixel_values" in row])
            if self.with_mask:
                batch["image_mask"] = torch.tensor(has_image)
        return batch

    @staticmethod
    def _padded(rows: list[list[int]], value: int) -> torch.Tensor:
        longest = max(map(len, rows))
        return torch.tensor([row + [value] * (longest - len(row)) for row in rows])
