"""Which of some names an image goes with, by a model of CLIP's kind."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch.nn import functional as F

from ..._shapes import processed
from ...texts import one_length
from ..predictor import Options, Predictor, Source, load_network, load_part

#: Where a name goes in a template.
SLOT = "{}"


def load(task: str, source: Source, options: Options, device: str) -> Predictor:
    labels = list(options.labels)
    if not labels:
        raise ValueError("labels: of this model name what it is to choose from, such as --labels cat dog.")
    if not all(label.strip() for label in labels) or len(set(labels)) < len(labels):
        raise ValueError(f"labels: got {', '.join(map(repr, labels))}, accepted are different names.")
    if options.template.count(SLOT) != 1:
        raise ValueError(f"template: got {options.template!r}, accepted are texts with one {SLOT} for the name.")
    from ...edge_two_towers import FACTS, load_two_towers

    if (Path(source.name) / FACTS).is_file():
        model = load_two_towers(source.name)
    else:
        model = load_network(source, "AutoModelForZeroShotImageClassification", device)
    processor = load_part(source, "AutoProcessor")
    said = [options.template.replace(SLOT, label) for label in labels]
    texts = processor.tokenizer(said, **one_length(model, processor.tokenizer)).to(model.device)
    compare = _comparing(model, texts)

    @torch.no_grad()
    def answer(items: Sequence) -> list[dict]:
        # SigLIP 2 is told the shape of each picture, too.
        batches = processed(processor.image_processor, items)
        logits = torch.cat([compare(seen.to(model.device, model.dtype)) for _, seen in batches])
        # SigLIP answers yes or no to each name of its own.
        scores = logits.softmax(-1) if getattr(model, "logit_bias", None) is None else logits.sigmoid()
        best = scores.topk(min(options.top_k, len(labels)))
        return [
            {"classes": [{"label": labels[n], "score": s} for s, n in zip(row, numbers, strict=True)]}
            for row, numbers in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]

    def line(said: dict) -> str:
        return "  ".join(f"{c['label']} {100 * c['score']:.1f} %" for c in said["classes"])

    def rows(said: dict) -> list[dict]:
        return [{"rank": rank, **found} for rank, found in enumerate(said["classes"], 1)]

    return Predictor(task, "image", answer, line, rows)


@torch.no_grad()
def _comparing(model, texts) -> Callable[[dict], torch.Tensor]:
    """Pictures -> logits (pictures, texts) in float32 on the CPU; the texts are encoded once."""
    scale, bias = getattr(model, "logit_scale", None), getattr(model, "logit_bias", None)
    if scale is None:  # ALIGN and others have a formula of their own
        return lambda seen: model(**texts, **seen).logits_per_image.float().cpu()
    scale = float(scale) if isinstance(scale, float) else scale.detach().exp().item()
    bias = 0.0 if bias is None else bias.item()
    vectors = F.normalize(model.get_text_features(**texts).pooler_output.float(), dim=-1).cpu()

    def compare(seen: dict) -> torch.Tensor:
        found = F.normalize(model.get_image_features(**seen).pooler_output.float(), dim=-1).cpu()
        return scale * found @ vectors.T + bias

    return compare
