"""An AdderNet that has learnt digits (`--config addernet/digits`), quantised after its training.

    python docs/evidence/adder_digits.py MODEL OUT [--bits 4]
    hf-effmodels evaluate --model OUT --dataset digits

Ranges and batch norms are those of 200 batches of 64 training pictures.
"""

import argparse
from pathlib import Path

import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification

import hf_effmodels  # noqa: F401  registers the architecture
from hf_effmodels.quantization import quantize_adder
from hf_effmodels.training.data.digits import read_digits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--bits", type=int, default=4)
    args = parser.parse_args()
    processor, rows = AutoImageProcessor.from_pretrained(args.model), read_digits()["train"]
    pixels = processor([row["image"].convert("RGB") for row in rows], return_tensors="pt")["pixel_values"]
    model = AutoModelForImageClassification.from_pretrained(args.model).eval()
    drawn = torch.randint(len(rows), (200, 64), generator=torch.Generator().manual_seed(0))
    batches = [pixels[rows_of_batch] for rows_of_batch in drawn]
    quantize_adder(model, batches, bits=args.bits).save_pretrained(args.out)
    processor.save_pretrained(args.out)


if __name__ == "__main__":
    main()
