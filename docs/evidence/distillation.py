"""The tables of docs/how-to/distil.md: small students of teachers on CIFAR-10, three seeds each.

    python docs/evidence/distillation.py teacher TRAIN.parquet TEST.parquet OUTPUT
    python docs/evidence/distillation.py methods TRAIN.parquet TEST.parquet OUTPUT
    python docs/evidence/distillation.py noise TRAIN.parquet TEST.parquet OUTPUT
    python docs/evidence/distillation.py stored OUTPUT

`teacher`: a small TinyViT, a transformer. `methods`: a ResNet (0.31 M parameters) alone; with KD and with OFA from
that teacher; with GhostNetV3's other ingredients, branches and averaged weights, one by one; and with all three.
`noise`: 40 % of the labels are wrong; a small ResNet learns from them, and teaches one of four times its parameters,
which is compared with the same alone. `stored`: the quickstart's student, on digits, by its teacher and by what the
teacher said beforehand; the losses of each epoch. `--seeds 0` does one of the seeds; what several runs find adds up.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from by_seed import add
from transformers import ConvNextImageProcessorPil, ResNetConfig, ResNetForImageClassification

from hf_effmodels.training import main, prepare
from hf_effmodels.training.preparation import soft_labels

SMALL, LARGE = [16, 32, 64, 128], [32, 64, 128, 256]
TEACHER_EPOCHS = 10
BRANCHES, AVERAGE = ["--training_branches", "3"], ["--ema_decay", "0.99"]
#: Name -> (losses, None for a run without a teacher; further options).
METHODS = {
    "alone": (None, []),
    "kd": ("{kd: {}}", []),
    "ofa": ("{ofa: {}}", []),
    "branches": (None, BRANCHES),
    "average": (None, AVERAGE),
    "compact": ("{soft_targets: {}}", [*BRANCHES, *AVERAGE]),
}
NOISE_METHODS = {
    "alone": (None, []),
    "kd": ("{kd: {}}", []),
    "augconf": ("{augconf: {}}", []),
    "adaptconf": ("{adaptconf: {warmup: 0.25}}", []),
}


def student(folder: Path, widths: list[int], names: list[str], seed: int) -> Path:
    """A network with random weights, so that all methods of a seed begin with the same."""
    torch.manual_seed(seed)
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    config = ResNetConfig(embedding_size=widths[0], hidden_sizes=widths, depths=[1] * 4, layer_type="basic", **labels)
    ResNetForImageClassification(config).save_pretrained(folder)
    ConvNextImageProcessorPil(size={"shortest_edge": 32}, crop_pct=1.0).save_pretrained(folder)
    return folder


def train(output: Path, model: Path, files: dict, arguments, *options: str) -> float:
    """Top-1 accuracy of a run, as a share."""
    results = main(
        [
            *("--model", str(model), "--output_dir", str(output), "--dataset", "parquet"),
            *("--data_files", json.dumps(files), "--train_crop", "random_padded", "--optim", "sgd"),
            *("--max_train_samples", str(arguments.images), "--num_train_epochs", str(arguments.epochs)),
            *("--learning_rate", "0.05", "--lr_scheduler_type", "cosine", "--warmup_steps", "0.1"),
            *("--per_device_train_batch_size", "64", "--per_device_eval_batch_size", "256", "--disable_tqdm", "true"),
            *("--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false", *options),
        ]
    )
    return results["eval_accuracy"]


def noisy(train_file: str, folder: Path, share: float = 0.4) -> Path:
    """The training set with a share of the labels drawn from the other classes."""
    import datasets

    rows, rng = datasets.load_dataset("parquet", data_files=train_file, split="train"), np.random.default_rng(0)
    labels, features = np.array(rows["label"]), rows.features
    wrong = rng.random(len(labels)) < share
    labels = np.where(wrong, (labels + rng.integers(1, 10, len(labels))) % 10, labels)
    rows = rows.remove_columns("label").add_column("label", labels.tolist()).cast_column("label", features["label"])
    folder.mkdir(parents=True, exist_ok=True)
    rows.to_parquet(str(folder / "noisy.parquet"))
    return folder / "noisy.parquet"


def class_names(arguments) -> list[str]:
    import datasets

    return datasets.load_dataset("parquet", data_files=arguments.test, split="train").features["label"].names


def teacher(arguments) -> None:
    files = json.dumps({"train": arguments.train, "test": arguments.test})
    results = main(
        [
            *("--config", "tinyvit/cifar10", "--dataset", "parquet", "--data_files", files),
            *("--num_train_epochs", str(TEACHER_EPOCHS), "--output_dir", str(arguments.output / "teacher")),
            *("--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false"),
            *("--disable_tqdm", "true"),
        ]
    )
    add(arguments.output, "teacher", 0, results["eval_accuracy"])


def methods(arguments) -> None:
    files, options = {"train": arguments.train, "test": arguments.test}, ["--label_smoothing_factor", "0.1"]
    compare(arguments, files, SMALL, "teacher", METHODS, [*options, "--weight_decay", "2e-3"])


def noise(arguments) -> None:
    output, options = arguments.output / "noise", ["--weight_decay", "5e-4"]
    files = {"train": str(noisy(arguments.train, output)), "test": arguments.test}
    for seed in arguments.seeds:
        start = student(output / f"start_weak{seed}", SMALL, class_names(arguments), seed)
        weak = train(output / f"weak{seed}", start, files, arguments, "--seed", str(seed), *options)
        add(output, "weak teacher", seed, weak)
    compare(arguments, files, LARGE, "noise/weak{seed}", NOISE_METHODS, options)


def compare(arguments, files: dict, widths: list[int], teacher: str, methods: dict, common: list[str]) -> None:
    output = arguments.output / arguments.which
    for seed in arguments.seeds:
        start = student(output / f"start{seed}", widths, class_names(arguments), seed)
        for name, (losses, more) in methods.items():
            task = ["--task", "image-classification"]
            if losses:
                folder = str(arguments.output / teacher.format(seed=seed))
                task = ["--task", "distillation", "--teacher", folder, "--losses", losses]
            found = train(
                output / f"{name}{seed}", start, files, arguments, *task, "--seed", str(seed), *common, *more
            )
            add(output, name, seed, found)


def stored(arguments) -> None:
    """The mean loss of each epoch of the same training: with the teacher, with one whose logits differ by rounding,
    and with stored labels of several kinds."""
    output = arguments.output
    short = ["--num_train_epochs", str(arguments.epochs), "--disable_tqdm", "true", "--save_strategy", "no"]
    short += ["--eval_strategy", "no", "--load_best_model_at_end", "false"]
    main(["--config", "quickstart/image-classification", *short, "--output_dir", str(output / "teacher")])
    recipe = ["--config", "quickstart/distillation", *short]
    kinds = {
        "teacher": None,
        "teacher, logits times 1 + 2e-7": None,
        "10 classes, float32": (10, "float32"),
        "9 classes, float32": (9, "float32"),
        "10 classes, float16": (10, "float16"),
        "5 classes, float16": (5, "float16"),
        "1 class, float16": (1, "float16"),
    }
    lines = []
    for name, kind in kinds.items():
        folder = output / name.replace(" ", "_")
        source = ["--teacher", str(output / "teacher")]
        if kind is not None:
            stored_in = ["--output", f"{folder}_labels", "--top_k", str(kind[0]), "--label_precision", kind[1]]
            soft_labels.main([*recipe, *source, *stored_in, "--output_dir", str(folder)])
            source = ["--teacher", "", "--stored_labels", f"{folder}_labels"]
        run = prepare("prepare_training", [*recipe, *source, "--output_dir", f"{folder}_student"])
        if "times" in name:
            head = run.trainer.teachers.first.model.classifier
            head.register_forward_hook(lambda module, args, logits: logits * (1 + 2e-7))
        results = run()
        log = json.loads(Path(f"{folder}_student", "trainer_state.json").read_text())["log_history"]
        losses = "  ".join(f"{entry['kd']:.6f}" for entry in log if "kd" in entry)
        lines.append(f"{name}: kd {losses}; top-1 {100 * results['eval_accuracy']:.2f} %")
        (output / "table.txt").write_text("\n".join(lines) + "\n")


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="which", required=True)
    for kind in ("teacher", "methods", "noise", "stored"):
        words = kinds.add_parser(kind)
        if kind != "stored":
            words.add_argument("train")
            words.add_argument("test")
        words.add_argument("output", type=Path)
        words.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
        words.add_argument("--images", type=int, default=3000)
        words.add_argument("--epochs", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    chosen = read_arguments()
    {"teacher": teacher, "methods": methods, "noise": noise, "stored": stored}[chosen.which](chosen)
