"""An AdderNet that has learnt digits (`--config addernet/digits`), quantised after its training.

    python docs/evidence/adder_digits.py MODEL OUT [--bits 4]

Ranges and batch norms are those of the training pictures; accuracy is that on the others, of what is saved and loaded
again.
"""

import argparse
from pathlib import Path

import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

import hf_effmodels  # noqa: F401  registers the architecture
from hf_effmodels.quantization import quantize_adder
from hf_effmodels.training.data.digits import read_digits


@torch.no_grad()
def accuracy(model, pixels: torch.Tensor, labels: torch.Tensor) -> str:
    return f"{100 * (model(pixels).logits.argmax(1) == labels).float().mean().item():.2f} %"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--bits", type=int, default=4)
    args = parser.parse_args()
    processor, digits = AutoImageProcessor.from_pretrained(args.model), read_digits()
    pixels, labels = {}, {}
    for split, rows in digits.items():
        images = [row["image"].convert("RGB") for row in rows]
        pixels[split] = processor(images, return_tensors="pt")["pixel_values"]
        labels[split] = torch.tensor([int(row["label"]) for row in rows])
    model = AutoModelForImageClassification.from_pretrained(args.model).eval()
    print(f"real: {accuracy(model, pixels['test'], labels['test'])} of {len(labels['test'])} digits")
    batches = pixels["train"][torch.randperm(len(labels["train"]), generator=torch.Generator().manual_seed(0))].split(
        64
    )
    quantize_adder(model, batches, bits=args.bits).save_pretrained(args.out)
    processor.save_pretrained(args.out)
    again = AutoModelForImageClassification.from_pretrained(args.out)
    print(f"{args.bits} bits, saved and loaded: {accuracy(again, pixels['test'], labels['test'])}")
    classify = pipeline("image-classification", model=again, image_processor=processor)
    for row in digits["test"][:3]:
        best = classify(row["image"])[0]
        print(f"a {row['label']} is called {best['label']} ({100 * best['score']:.0f} %)")


if __name__ == "__main__":
    main()
