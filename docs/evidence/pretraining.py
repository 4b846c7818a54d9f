"""The table of docs/how-to/pretrain.md: is masked image modelling worth its time, on CIFAR-10, three seeds.

    python docs/evidence/pretraining.py TRAIN.parquet TEST.parquet OUTPUT [--encoders vit swin cnn]

Each encoder is small and sees CIFAR-10 at 96 pixels. It is pre-trained on pictures without their labels, and
fine-tuned with a part of the labels; beside it the same random weights, fine-tuned for as many epochs (`alone`), and
for as many seconds as pre-training and fine-tuning took together (`alone, longer`). Seconds are of the processor, not
of the clock.
"""

import argparse
import gc
import json
import statistics
import time
from pathlib import Path

import torch
from transformers import AutoModel, SwinConfig, ViTConfig, ViTImageProcessorPil

from hf_effmodels.models import get_config
from hf_effmodels.training import main
from hf_effmodels.training.probing import command as probing

SIDE = 96


def encoder_config(kind: str):
    if kind == "cnn":
        return get_config("tinynet-e", image_size=SIDE)
    size = {"image_size": SIDE, "layer_norm_eps": 1e-6}
    if kind == "vit":
        return ViTConfig(hidden_size=96, intermediate_size=192, num_hidden_layers=7, num_attention_heads=3, **size)
    return SwinConfig(embed_dim=24, depths=[1, 1, 1, 1], num_heads=[1, 2, 4, 8], window_size=3, **size)


METHODS = {
    "fastmim": '{"block_size": 32, "decoder_hidden_size": 64, "decoder_num_hidden_layers": 1}',
    "localmim": '{"decoder_hidden_size": 64, "decoder_num_attention_heads": 4}',
    "simmim": "{}",
}


def methods_of(kind: str) -> list[str]:
    """LocalMIM and SimMIM are for transformers."""
    return ["fastmim"] if kind == "cnn" else list(METHODS)


def start(folder: Path, kind: str, seed: int) -> Path:
    """A network with random weights, so that all methods of a seed begin with the same."""
    torch.manual_seed(seed)
    AutoModel.from_config(encoder_config(kind)).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return folder


def timed(*words: str) -> tuple[dict, float]:
    """What a training returns, and the processor's seconds."""
    gc.collect()
    begin = time.process_time()
    results = main([*words, "--disable_tqdm", "true", "--eval_strategy", "no", "--save_strategy", "no"])
    return results, time.process_time() - begin


def pretrain(output: Path, model: Path, method: str, seed: int, arguments) -> tuple[Path, float]:
    _, seconds = timed(
        *("--task", "masked-image-modeling", "--model", str(model), "--method", method, "--seed", str(seed)),
        *("--method_config", METHODS[method], "--output_dir", str(output), "--dataset", "parquet"),
        *("--data_files", json.dumps({"train": arguments.train}), "--crop_scale", "0.5", "1.0"),
        *("--max_train_samples", str(arguments.images), "--num_train_epochs", str(arguments.pretraining_epochs)),
        *("--per_device_train_batch_size", "64", "--learning_rate", "1.5e-3", "--weight_decay", "0.05"),
        *("--adam_beta2", "0.95", "--lr_scheduler_type", "cosine", "--warmup_steps", "0.1", "--max_grad_norm", "0"),
    )
    return output / "encoder", seconds


def finetune(output: Path, model: Path, epochs: int, seed: int, arguments) -> tuple[float, float]:
    results, seconds = timed(
        *("--task", "image-classification", "--model", str(model), "--ignore_mismatched_sizes", "true"),
        *("--seed", str(seed), "--output_dir", str(output), "--dataset", "parquet"),
        *("--data_files", json.dumps({"train": arguments.train, "test": arguments.test})),
        *("--max_train_samples", str(arguments.labels), "--num_train_epochs", str(epochs)),
        *("--per_device_train_batch_size", "50", "--per_device_eval_batch_size", "250", "--learning_rate", "1e-3"),
        *("--weight_decay", "0.05", "--lr_scheduler_type", "cosine", "--warmup_steps", "0.1"),
        *("--label_smoothing_factor", "0.1", "--load_best_model_at_end", "false", "--max_eval_samples", "1000"),
    )
    return 100 * results["eval_accuracy"], seconds


def probe(output: Path, model: Path, arguments) -> tuple[float, float]:
    files = json.dumps({"train": arguments.train, "test": arguments.test})
    (row,) = probing.main(
        [
            *(str(model), "--output", str(output), "--dataset", "parquet", "--data_files", files, "--picture", "none"),
            *("--max_train_samples", str(arguments.labels), "--max_eval_samples", "1000", "--pooling", "mean"),
        ]
    )
    return 100 * row["knn_accuracy"], 100 * row["linear_accuracy"]


def table(found: dict[str, list[list[float]]], output: Path) -> None:
    """Written after each run: mean ± standard deviation over seeds."""
    lines = ["| | k-NN | linear probe | fine-tuned | seconds per epoch of pre-training | seconds in all |"]
    for name, rows in found.items():
        cells = (
            f"{statistics.mean(column):.1f} ± {statistics.pstdev(column):.1f}" for column in zip(*rows, strict=True)
        )
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {len(rows)} seeds")
    (output / "table.txt").write_text("\n".join(lines) + "\n")
    (output / "found.json").write_text(json.dumps(found, indent=1))


def run(arguments) -> None:
    output = Path(arguments.output)
    output.mkdir(parents=True)
    found: dict[str, list[list[float]]] = {}
    for seed in range(3):
        for kind in arguments.encoders:
            place = output / f"{kind}{seed}"
            begin = start(place / "start", kind, seed)
            knn, linear = probe(place / "probe_start", begin, arguments)
            alone, once = finetune(place / "alone", begin, arguments.epochs, seed, arguments)
            found.setdefault(f"{kind}, alone", []).append([knn, linear, alone, 0.0, once])
            longest = 0.0
            for method in methods_of(kind):
                pretrained, seconds = pretrain(place / method, begin, method, seed, arguments)
                scores = probe(place / f"probe_{method}", pretrained, arguments)
                tuned, after = finetune(place / f"{method}_tuned", pretrained, arguments.epochs, seed, arguments)
                row = [*scores, tuned, seconds / arguments.pretraining_epochs, seconds + after]
                found.setdefault(f"{kind}, {method}", []).append(row)
                longest = max(longest, seconds + after)
                table(found, output)
            epochs = round(arguments.epochs * longest / once)
            longer, seconds = finetune(place / "longer", begin, epochs, seed, arguments)
            found.setdefault(f"{kind}, alone, longer", []).append([knn, linear, longer, 0.0, seconds])
            table(found, output)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("train", "test", "output"):
        parser.add_argument(name)
    parser.add_argument("--encoders", nargs="+", default=["vit", "swin", "cnn"], choices=["vit", "swin", "cnn"])
    parser.add_argument("--images", type=int, default=2000, help="without labels")
    parser.add_argument("--labels", type=int, default=500)
    parser.add_argument("--pretraining_epochs", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=10, help="of fine-tuning")
    return parser.parse_args()


if __name__ == "__main__":
    run(read_arguments())
