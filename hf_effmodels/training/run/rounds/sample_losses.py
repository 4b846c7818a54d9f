"""The loss of each training sample under a trained model, measured by several processes, continued after a kill."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import reduce
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from ...._files import whole_file
from ....compression.pruning.calibration import evaluating
from ...data.fingerprints import fingerprint
from ...losses.token_losses import token_losses


def compute_losses(
    model: PreTrainedModel,
    dataset,
    *,
    batch_size: int = 8,
    state_file: str | Path | None = None,
    batches_per_save: int = 50,
    progress: bool = False,
) -> np.ndarray:
    """Mean loss of a token, in nats, for each sample of a map-style data set.

    Every process of a distributed run calls this; batch b is the samples from b · batch_size on and is measured by one
    process, so that the losses do not depend on their number.

    Args:
        model: a causal language model; its mode and weights stay as they are.
        dataset: with samples 0 to n - 1, mappings of `input_ids` (and `labels`, `position_ids`, ...) of equal lengths.
        batch_size: samples at a time.
        state_file: `.npz` file with what is measured; a later call for the same model goes on from it.
        batches_per_save: how often each process writes its part, beside `state_file`.

    Returns:
        (n,) float64, in every process.

    Raises:
        ValueError: no samples, samples of different lengths or without a label, or the state of another model.
    """
    size = len(dataset)
    if not size:
        raise ValueError("dataset: it has no samples: it is empty.")
    if batch_size < 1:
        raise ValueError(f"batch_size: got {batch_size}, accepted are whole numbers from 1.")
    process, known_by = PartialState(), _known_by(model, dataset, batch_size)
    file = None if state_file is None else Path(state_file)
    losses = np.full(size, np.nan)
    for part in _parts(file):
        known = _read(part, known_by)
        losses = np.where(np.isnan(losses), known, losses)
    process.wait_for_everyone()  # all have read the parts before one is written
    missing = [start for start in range(0, size, batch_size) if np.isnan(losses[start : start + batch_size]).any()]
    own = missing[process.process_index :: process.num_processes]
    part = file and file.with_name(f"{file.name}.part-{process.process_index}-of-{process.num_processes}")
    measured = losses.copy()
    with evaluating(model), torch.no_grad():
        bar = tqdm(own, desc="losses", unit=" batches", disable=not (progress and process.is_main_process))
        for number, start in enumerate(bar, start=1):
            samples = [dataset[index] for index in range(start, min(start + batch_size, size))]
            measured[start : start + len(samples)] = _sample_losses(model, samples, start)
            if part is not None and number % batches_per_save == 0:
                _write(part, measured, known_by)
    if process.num_processes > 1:
        measured = _gathered(losses, measured, process)
    if file is not None:
        if process.is_main_process:
            _write(file, measured, known_by)
        process.wait_for_everyone()
        if process.is_main_process:
            for old in _parts(file):
                if old != file:
                    old.unlink()
    return measured


def _gathered(before: np.ndarray, measured: np.ndarray, process: PartialState) -> np.ndarray:
    own = np.where(np.isnan(before), np.nan_to_num(measured), 0.0)
    dtype = torch.float64 if process.device.type != "mps" else torch.float32
    total = reduce(torch.tensor(own, dtype=dtype, device=process.device), "sum")
    return np.where(np.isnan(before), total.cpu().double().numpy(), before)


def _sample_losses(model: PreTrainedModel, samples: list[Mapping], start: int) -> np.ndarray:
    batch = {}
    for name in samples[0]:
        values = [torch.as_tensor(sample[name]) for sample in samples]
        if len({value.shape for value in values}) > 1:
            lengths = sorted({len(value) for value in values})
            raise ValueError(f"dataset: {name} of samples {start} ... has the lengths {lengths}, accepted is one.")
        batch[name] = torch.stack(values).to(model.device)
    labels = batch.pop("labels", batch["input_ids"])
    sums, counts = token_losses(model(**batch, use_cache=False).logits, labels)
    if not counts.all():
        raise ValueError(f"dataset: sample {start + int(counts.argmin())} has no label to predict.")
    return (sums / counts).cpu().numpy()


# The state file


def _known_by(model: PreTrainedModel, dataset, batch_size: int) -> str:
    """What the losses depend on: the samples, the weights, bit by bit, and what the configuration says of them."""
    config = {name: value for name, value in model.config.to_dict().items() if name not in _NOT_OF_THE_MODEL}
    digest = hashlib.sha256(f"{fingerprint(dataset)} {batch_size} {json.dumps(config, default=str)}".encode())
    for name, weight in model.state_dict().items():
        values = weight.detach().cpu().contiguous()
        digest.update(f"{name} {tuple(values.shape)} {values.dtype}".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


#: Where it was loaded from, and by what.
_NOT_OF_THE_MODEL = ("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype", "use_cache")


def _parts(file: Path | None) -> list[Path]:
    if file is None:
        return []
    return sorted(file.parent.glob(f"{file.name}.part-*")) + ([file] if file.exists() else [])


def _read(file: Path, known_by: str) -> np.ndarray:
    try:
        with np.load(file, allow_pickle=False) as content:
            losses, of_model = content["losses"], str(content["fingerprint"])
    except Exception:  # numpy, zip and zlib raise all kinds
        # Without numpy's own words, which advise to load pickles.
        raise ValueError(f"state_file: {file} holds no losses that an earlier call has measured.") from None
    if of_model != known_by:
        raise ValueError(f"state_file: {file} is of another model, data set or batch_size; choose another file.")
    return losses


def _write(file: Path, losses: np.ndarray, known_by: str) -> None:
    with whole_file(file) as part, open(part, "wb") as opened:
        np.savez(opened, losses=losses, fingerprint=np.array(known_by))
