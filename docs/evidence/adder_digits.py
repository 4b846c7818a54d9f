"""An AdderNet that has learnt digits (`--config addernet/digits`), quantised after its training.

    python docs/evidence/adder_digits.py MODEL OUT [--bits 4]

Ranges and batch norms are those of 256 training pictures; accuracy is that on the others, of what is saved and loaded
again.
"""

import argparse
from pathlib import Path

import torch
from digits import accuracy, ask, prepared
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
    processor, digits = AutoImageProcessor.from_pretrained(args.model), read_digits()
    (pixels, labels), held_out = (prepared(processor, digits[split]) for split in ("train", "test"))
    model = AutoModelForImageClassification.from_pretrained(args.model).eval()
    print(f"real: {accuracy(model, *held_out)} of {len(held_out[1])} digits")
    batches = pixels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))[:256]].split(64)
    quantize_adder(model, batches, bits=args.bits).save_pretrained(args.out)
    processor.save_pretrained(args.out)
    again = AutoModelForImageClassification.from_pretrained(args.out)
    print(f"{args.bits} bits, saved and loaded: {accuracy(again, *held_out)}")
    ask(again, processor, digits["test"][:3])


if __name__ == "__main__":
    main()
