"""What the scripts that train on scikit-learn's digits share."""

import torch
from transformers import pipeline


def prepared(processor, rows: list[dict]) -> tuple[torch.Tensor, torch.Tensor]:
    """(pictures, 3, side, side) and the digits that they show."""
    images = [row["image"].convert("RGB") for row in rows]
    return processor(images, return_tensors="pt")["pixel_values"], torch.tensor([int(row["label"]) for row in rows])


@torch.no_grad()
def accuracy(model, pixels: torch.Tensor, labels: torch.Tensor) -> str:
    return f"{100 * (model(pixels).logits.argmax(1) == labels).float().mean().item():.2f} %"


def ask(model, processor, rows: list[dict]) -> None:
    """What the pipeline calls some digits."""
    classify = pipeline("image-classification", model=model, image_processor=processor)
    for row in rows:
        best = classify(row["image"])[0]
        print(f"a {row['label']} is called {best['label']} ({100 * best['score']:.0f} %)")
