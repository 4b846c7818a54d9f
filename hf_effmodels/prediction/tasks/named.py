"""Which of some names an image goes with, by a model of CLIP's kind."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch.nn import functional as F

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
    scale = model.logit_scale
    scale = float(scale) if isinstance(scale, float) else scale.detach().exp().item()
    said = [options.template.replace(SLOT, label) for label in labels]
    longest = model.config.text_config.max_position_embeddings
    with torch.no_grad():
        ids = processor.tokenizer(said, padding=True, truncation=True, max_length=longest, return_tensors="pt")
        texts = F.normalize(model.get_text_features(**ids.to(model.device)).pooler_output.float(), dim=-1).cpu()

    @torch.no_grad()
    def answer(items: Sequence) -> list[dict]:
        pixels = processor.image_processor(list(items), return_tensors="pt")["pixel_values"]
        found = model.get_image_features(pixel_values=pixels.to(model.device, model.dtype)).pooler_output
        scores = (scale * F.normalize(found.float(), dim=-1).cpu() @ texts.T).softmax(-1)
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
