"""What a model of two towers is measured by: zero-shot classification, retrieval, the loss."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset

from ....metrics.retrieval import retrieval_recall
from .arguments import SLOT
from .data import Collator, ImageTextDataset, ImageTexts

#: Texts that are embedded at a time.
_TEXTS = 256


def unit_vectors(model, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and texts of a batch in the common space, each (batch, width)."""
    images = model.get_image_features(pixel_values=batch["pixel_values"]).pooler_output
    texts = model.get_text_features(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).pooler_output
    return F.normalize(images.float(), dim=-1), F.normalize(texts.float(), dim=-1)


@torch.no_grad()
def class_vectors(
    model, encode: Callable[[str], list[int]], pad_id: int, names: Sequence[str], templates: Sequence[str]
) -> torch.Tensor:
    """(classes, width): for each class the direction of the mean of the unit vectors of its templates."""
    texts = [template.replace(SLOT, name) for name in names for template in templates]
    collate, vectors = Collator(pad_id), []
    for start in range(0, len(texts), _TEXTS):
        batch = collate([{"input_ids": torch.tensor(encode(text))} for text in texts[start : start + _TEXTS]])
        batch = {name: value.to(model.device) for name, value in batch.items()}
        vectors.append(F.normalize(model.get_text_features(**batch).pooler_output.float(), dim=-1))
    return F.normalize(torch.cat(vectors).unflatten(0, (len(names), len(templates))).mean(1), dim=-1)


def zero_shot_accuracy(images: np.ndarray, classes: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """ "accuracy", and with more than five classes "top_5_accuracy", in [0, 1]; a tie counts against the right class.

    Args:
        images: (images, width) unit vectors.
        classes: (classes, width), of `class_vectors`.
        labels: (images,), number of the right class.
    """
    scores = images.astype(np.float64) @ classes.astype(np.float64).T
    right = scores[np.arange(len(labels)), labels][:, None]
    before = (scores >= right).sum(1) - 1
    measured = {"accuracy": float((before < 1).mean())}
    return measured | ({"top_5_accuracy": float((before < 5).mean())} if len(classes) > 5 else {})


def mean_loss(images: np.ndarray, texts: np.ndarray, scale: float, group: int) -> float:
    """CLIP's loss over pairs in groups of `group` in their order; a last one alone is left out."""
    total, counted = 0.0, 0
    for start in range(0, len(images), group):
        logits = scale * torch.from_numpy(images[start : start + group] @ texts[start : start + group].T).double()
        if len(logits) > 1:
            own = torch.arange(len(logits))
            total += float(F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2 * len(logits)
            counted += len(logits)
    return total / counted


def measure(
    images: np.ndarray,
    texts: np.ndarray,
    source: ImageTexts,
    scale: float,
    group: int,
    classes: np.ndarray | None = None,
) -> dict[str, float]:
    """Loss, and the accuracy over `classes` where there are some, or else recall at 1, 5 and 10 of captions."""
    measured = {"loss": mean_loss(images, texts, scale, group)}
    if source.labels is not None:
        labels = np.asarray([source.class_number(index) for index in range(len(source))])
        return measured | zero_shot_accuracy(images, classes, labels)
    said = [source.texts(index)[0] for index in range(len(source))]
    _, groups = np.unique(np.asarray(said, dtype=object), return_inverse=True)
    return measured | retrieval_recall(images, texts, groups)


@torch.no_grad()
def zero_shot_vectors(
    model, dataset: ImageTextDataset, collate: Collator, batch_size: int, part: tuple[int, int] = (0, 1), workers=0
) -> np.ndarray:
    """(images, width) unit vectors of the images of a data set, or of those with the numbers part[0], part[0] +
    part[1], ..."""
    numbers = range(part[0], len(dataset), part[1])
    loader = DataLoader(Subset(dataset, numbers), batch_size, collate_fn=collate, num_workers=workers)
    found = [
        F.normalize(
            model.get_image_features(pixel_values=batch["pixel_values"].to(model.device)).pooler_output, dim=-1
        )
        for batch in loader
    ]
    return torch.cat(found).float().cpu().numpy() if found else np.zeros((0, model.config.projection_dim), np.float32)
