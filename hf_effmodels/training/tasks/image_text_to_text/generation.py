"""Answers, generated greedily in batches by as many processes as there are."""

from collections.abc import Callable
from contextlib import nullcontext

import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from ...data.errors import of_sample
from .encoding import Encoder, Pixels
from .samples import Samples


@torch.no_grad()
def generate_answers(
    model,
    samples: Samples,
    encoder: Encoder,
    pixels: Pixels,
    *,
    batch_size: int,
    max_new_tokens: int,
    bf16: bool = False,
    log: Callable[[str], None] | None = None,
) -> list[str]:
    """The text behind each sample's question, up to the end-of-sequence token; in the order of the samples.

    Every process takes every so-many-th batch, and all get all answers.

    Raises:
        ValueError, OSError: an image cannot be read; the message names its row.
    """
    state, device = PartialState(), model.device
    # Batches of like length have little padding.
    order = sorted(range(len(samples)), key=lambda index: -len(samples[index].question))
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    mine = batches[state.process_index :: state.num_processes]
    model.eval()
    found: list[tuple[int, str]] = []
    for number, indices in enumerate(mine):
        inputs = _batch([samples[i] for i in indices], encoder, pixels, max_new_tokens, indices, samples)
        inputs = {name: value.to(device) for name, value in inputs.items()}
        with torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext():
            tokens = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False, num_beams=1)
        texts = encoder.tokenizer.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        found += zip(indices, texts, strict=True)
        if log is not None and (number + 1) % 50 == 0:
            log(f"{min((number + 1) * state.num_processes * batch_size, len(samples))} of {len(samples)} answered")
    if state.num_processes > 1:
        found = gather_object(found)
    answers = dict(found)
    return [answers[index] for index in range(len(samples))]


def _batch(chosen, encoder: Encoder, pixels: Pixels, max_new_tokens: int, indices, samples: Samples) -> dict:
    rows, images = [], []
    for index, sample in zip(indices, chosen, strict=True):
        try:
            rows.append(encoder.question(sample, max_new_tokens))
            if sample.image is not None:
                images.append(pixels(sample.image))
        except (ValueError, OSError) as error:
            raise of_sample(error, samples.where(index, sample)) from error
    longest = max(map(len, rows))
    pad = encoder.tokenizer.pad_token_id
    inputs = {
        "input_ids": torch.tensor([[pad] * (longest - len(row)) + row for row in rows]),
        "attention_mask": torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows]),
    }
    if images:
        inputs["pixel_values"] = torch.stack(images)
        if not encoder.processor.use_cls_token:
            inputs["image_mask"] = torch.tensor([sample.image is not None for sample in chosen])
    return inputs
