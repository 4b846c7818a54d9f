"""The tables of docs/systems/cdfkd_mfs.md and docs/how-to/adapt.md: scikit-learn's digits, three seeds each.

    python docs/evidence/without_data.py distil TEACHER TEACHER TEACHER --output OUTPUT
    python docs/evidence/without_data.py adapt MODEL MODEL MODEL --output OUTPUT

The networks are those of `scripts/train.py --config cdfkd_mfs/digits_teacher --seed 1` (2, 3). `distil`: the student
of quickstart/data-free-distillation without data, the same with data from the labels and from the teachers. `adapt`:
each network to digits of three kinds by SFDA-DE, without its estimate, without its filter, and by new batch-norm
statistics alone.
"""

import argparse
import json
import statistics
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForImageClassification

from hf_effmodels.training import main, prepare

SHIFTS = ("digits-faint", "digits-noisy", "digits-blurred")
QUIET = ["--save_strategy", "no", "--eval_strategy", "no", "--disable_tqdm", "true"]
STUDENT = ["--model", "mhwrn4x161", "--image_size", "16", "--num_channels", "1"]
STUDENT += ["--model_config", "{hidden_sizes: [8, 8, 16, 64], depths: [1, 1, 1], num_heads: 3}"]
#: As the teachers'.
WITH_DATA = [
    *("--dataset", "digits", "--train_crop", "random_padded", "--crop_padding", "1", "--horizontal_flip", "0"),
    *("--num_train_epochs", "8", "--per_device_train_batch_size", "64", "--optim", "sgd", "--learning_rate", "0.1"),
    *("--weight_decay", "0.0005", "--max_grad_norm", "0", "--load_best_model_at_end", "false"),
]
ADAPTED = [
    *("--task", "source-free-adaptation", "--train_crop", "random_padded", "--crop_padding", "1"),
    *("--horizontal_flip", "0", "--num_train_epochs", "4", "--steps_per_round", "20", "--samples_per_class", "6"),
    *("--per_device_train_batch_size", "60", "--per_device_eval_batch_size", "256", "--learning_rate", "0.01"),
    *("--lr_scheduler_type", "inverse_decay"),
]


def note(found: dict[str, list[float]], output: Path) -> None:
    """Written after each run."""
    lines = [f"{name}: {statistics.mean(v):.1f} ± {statistics.pstdev(v):.1f} {v}" for name, v in found.items()]
    (output / "table.txt").write_text("\n".join(lines) + "\n")


def add(found: dict[str, list[float]], name: str, accuracy: float, output: Path) -> None:
    found.setdefault(name, []).append(round(100 * accuracy, 2))
    note(found, output)


def distil(arguments) -> None:
    output, found = Path(arguments.output), {}
    for seed in range(arguments.seeds):
        common = [*QUIET, "--seed", str(seed), "--output_dir"]
        free = ["--config", "quickstart/data-free-distillation", "--teachers", *arguments.models]
        results = main([*free, *common, str(output / f"free-{seed}")])
        add(found, "without data", results["eval_accuracy"], output)
        if not seed:
            for number in range(1, len(arguments.models) + 1):
                add(found, f"teacher {number}", results[f"eval_teacher_{number}_accuracy"], output)
        results = main([*STUDENT, *WITH_DATA, *common, str(output / f"labels-{seed}")])
        add(found, "with data, from labels", results["eval_accuracy"], output)
        teacher = ["--task", "distillation", "--teacher", json.dumps(dict.fromkeys(arguments.models, 1))]
        results = main([*teacher, *STUDENT, *WITH_DATA, *common, str(output / f"taught-{seed}")])
        add(found, "with data, from labels and teachers", results["eval_accuracy"], output)


@torch.no_grad()
def with_new_statistics(folder: str, trainer) -> float:
    """Accuracy of a network whose batch norms have measured the target's training pictures, and nothing else."""
    model = AutoModelForImageClassification.from_pretrained(folder)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
    targets, transform = trainer.train_dataset, trainer.eval_dataset.transform
    pictures = [transform(targets.source.read(n, targets.num_channels)) for n in range(len(targets.source))]
    model.train()
    for batch in torch.randperm(len(pictures), generator=torch.Generator().manual_seed(0)).split(60):
        model(torch.stack([pictures[number] for number in batch]))
    return accuracy(model.eval(), trainer.eval_dataset)


@torch.no_grad()
def accuracy(model, dataset) -> float:
    samples = [dataset[number] for number in range(len(dataset))]
    logits = model(torch.stack([sample["pixel_values"] for sample in samples])).logits
    return float((logits.argmax(1) == torch.tensor([sample["labels"] for sample in samples])).float().mean())


def adapt(arguments) -> None:
    output, found = Path(arguments.output), {}
    for shift in arguments.shifts:
        for seed, model in enumerate(arguments.models):
            for name, options in (
                ("SFDA-DE", ["--distance_threshold", "0.2"]),
                ("without the estimate", ["--distance_threshold", "0.2", "--estimate_source", "false"]),
                ("without the filter", ["--distance_threshold", "1"]),
            ):
                words = [*ADAPTED, *QUIET, "--model", model, "--dataset", shift, "--seed", str(seed), *options]
                words += ["--output_dir", str(output / f"{shift}-{seed}-{name.replace(' ', '-')}")]
                run = prepare("prepare_training", words)
                if name == "SFDA-DE":
                    before = accuracy(AutoModelForImageClassification.from_pretrained(model), run.trainer.eval_dataset)
                    add(found, f"{shift}, before", before, output)
                    add(found, f"{shift}, new statistics alone", with_new_statistics(model, run.trainer), output)
                try:
                    result = run()["eval_accuracy"]
                except ValueError as error:  # too few near pictures: it is said, and nothing was adapted
                    print(error)
                    result = before
                add(found, f"{shift}, {name}", result, output)


def run() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=("distil", "adapt"))
    parser.add_argument("models", nargs="+")
    parser.add_argument("--output", required=True)
    parser.add_argument("--seeds", type=int, default=3, help="of distil; adapt has one for each model")
    parser.add_argument("--shifts", nargs="+", default=SHIFTS)
    arguments = parser.parse_args()
    Path(arguments.output).mkdir(parents=True)
    {"distil": distil, "adapt": adapt}[arguments.table](arguments)


if __name__ == "__main__":
    run()
