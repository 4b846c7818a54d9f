"""A binary vision transformer in minutes: BiViT's layers in a small ViT of transformers, on scikit-learn's digits.

    python docs/evidence/bivit_digits.py OUT [--seed N] [--epochs N]

The real network learns first, then the binary one from its weights; then it is packed, saved to OUT, loaded and asked
by the pipeline. Nothing is downloaded.
"""

import argparse
from pathlib import Path

import torch
from digits import accuracy, ask, prepared
from transformers import AutoModelForImageClassification, ViTConfig, ViTForImageClassification

from hf_effmodels import create_image_processor
from hf_effmodels.modeling.layers.bivit import binarize_transformer
from hf_effmodels.quantization import pack_binary
from hf_effmodels.training.data.digits import read_digits

CONFIG = ViTConfig(
    image_size=16, patch_size=4, hidden_size=64, intermediate_size=128, num_hidden_layers=4, num_attention_heads=4,
    num_labels=10, id2label={number: str(number) for number in range(10)},
)  # fmt: skip
BATCH = 64


def train(model, pixels: torch.Tensor, labels: torch.Tensor, epochs: int, rate: float = 2e-3):
    steps = len(labels) // BATCH
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=epochs * steps, pct_start=0.1)
    for _ in range(epochs):
        for chosen in torch.randperm(len(labels)).split(BATCH)[:steps]:
            shift = torch.randint(-1, 2, (2,)).tolist()  # a pixel to and fro
            model.train()(pixels[chosen].roll(shift, (2, 3)), labels=labels[chosen]).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=40, help="of each of the two trainings")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    processor, digits = create_image_processor("vanillanet-5", image_size=16), read_digits()
    train_set, test_set = (prepared(processor, digits[split]) for split in ("train", "test"))

    model = train(ViTForImageClassification(CONFIG), *train_set, args.epochs)
    real = 4 * model.num_parameters()
    print(f"real: {accuracy(model, *test_set)} of {len(test_set[1])} digits")
    binarize_transformer(model)
    print(f"binary, its weights as they were: {accuracy(model, *test_set)}")
    train(model, *train_set, args.epochs)
    print(f"binary, trained: {accuracy(model, *test_set)}")

    pack_binary(model).save_pretrained(args.out)
    processor.save_pretrained(args.out)
    again = AutoModelForImageClassification.from_pretrained(args.out)
    size = (args.out / "model.safetensors").stat().st_size
    print(f"packed and loaded: {accuracy(again, *test_set)}, {size / 1e3:.0f} kB (real: {real / 1e3:.0f} kB)")
    ask(again, processor, digits["test"][:3])


if __name__ == "__main__":
    main()
