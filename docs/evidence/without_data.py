"""The tables of docs/systems/cdfkd_mfs.md and docs/how-to/adapt.md: three seeds each, on a CPU.

    python docs/evidence/without_data.py teachers OUTPUT
    python docs/evidence/without_data.py distil OUTPUT
    python docs/evidence/without_data.py adapt OUTPUT
    python docs/evidence/without_data.py filter OUTPUT --shifts digits-noisy
    python docs/evidence/without_data.py teachers OUTPUT --cifar10 TRAIN.parquet TEST.parquet
    python docs/evidence/without_data.py distil OUTPUT --cifar10 TRAIN.parquet TEST.parquet

`teachers`: three networks with three seeds; those of digits are cdfkd_mfs/digits_teacher. `distil`: a student without
data, and the same for as many steps of as many pictures with them, from the labels and from labels and teachers.
`adapt`: each of the three networks to digits of other kinds by SFDA-DE, without its estimate, without its filter, and
by new batch-norm statistics alone. `filter`: the same by SFDA-DE, with filters that keep fewer pictures. `--seeds 0`
does one of the seeds; what several runs find adds up in OUTPUT.
"""

import argparse
import json
from pathlib import Path

import torch
from by_seed import add
from torch import nn
from transformers import AutoModelForImageClassification

from hf_effmodels.training import main, prepare

SHIFTS = ("digits-inverted", "digits-noisy", "digits-blurred", "digits-small")
QUIET = ["--save_strategy", "no", "--eval_strategy", "no", "--disable_tqdm", "true"]
STUDENT = ["--model", "mhwrn4x161", "--image_size", "16", "--model_config"]
STUDENT += ["{hidden_sizes: [8, 8, 16, 64], depths: [1, 1, 1], num_heads: 3}"]
#: Of teachers and of students with data; the recipe of the digits' teachers has the same.
WITH_DATA = [
    *("--train_crop", "random_padded", "--crop_padding", "1", "--per_device_train_batch_size", "64"),
    *("--per_device_eval_batch_size", "128", "--optim", "sgd", "--learning_rate", "0.1", "--weight_decay", "0.0005"),
    *("--max_grad_norm", "0", "--lr_scheduler_type", "cosine", "--load_best_model_at_end", "false"),
]
#: CIFAR-10 is made as small as the digits are.
CIFAR10_TEACHER = ["--model", "wrn4x161", "--image_size", "16", "--num_train_epochs", "8", "--model_config"]
CIFAR10_TEACHER += ["{hidden_sizes: [16, 16, 32, 64], depths: [1, 1, 1]}"]
STEPS = 800
ADAPTED = [
    *("--task", "source-free-adaptation", "--train_crop", "random_padded", "--crop_padding", "1"),
    *("--horizontal_flip", "0", "--num_train_epochs", "4", "--steps_per_round", "20", "--samples_per_class", "6"),
    *("--per_device_train_batch_size", "60", "--per_device_eval_batch_size", "256", "--learning_rate", "0.01"),
    *("--lr_scheduler_type", "inverse_decay"),
]
#: What is published for VisDA-2017, and what keeps about half of the noisy digits in the first round.
THRESHOLDS = ("0.078", "0.03")


def data_of(arguments) -> list[str]:
    if arguments.cifar10 is None:
        return ["--dataset", "digits"]
    train, test = arguments.cifar10
    return ["--dataset", "parquet", "--data_files", json.dumps({"train": train, "test": test})]


def of_kind(arguments) -> list[str]:
    """Digits are gray, and not mirrored."""
    return ["--num_channels", "1", "--horizontal_flip", "0"] if arguments.cifar10 is None else []


def seeded(seed: int, folder: Path | str) -> list[str]:
    return ["--seed", str(seed), "--output_dir", str(folder)]


def teachers_of(arguments) -> list[str]:
    return [str(arguments.output / f"teacher-{number}") for number in range(3)]


def teachers(arguments) -> None:
    words = ["--config", "cdfkd_mfs/digits_teacher", "--load_best_model_at_end", "false"]
    if arguments.cifar10 is not None:
        words = [*CIFAR10_TEACHER, *WITH_DATA, *data_of(arguments)]
    for seed in arguments.seeds:
        results = main([*words, *QUIET, *seeded(seed, teachers_of(arguments)[seed])])
        add(arguments.output, "teacher", seed, results["eval_accuracy"])


def distil(arguments) -> None:
    output, models, data = arguments.output, teachers_of(arguments), [*data_of(arguments), *QUIET]
    free = ["--config", "quickstart/data-free-distillation", "--teachers", *models, *data]
    with_data = [*STUDENT, *of_kind(arguments), *WITH_DATA, *data, "--max_steps", str(STEPS)]
    taught = ["--task", "distillation", "--teacher", json.dumps(dict.fromkeys(models, 1))]
    for seed in arguments.seeds:
        results = main([*free, *seeded(seed, output / f"free-{seed}")])
        add(output, "without data", seed, results["eval_accuracy"])
        results = main([*with_data, *seeded(seed, output / f"labels-{seed}")])
        add(output, "with data, from labels", seed, results["eval_accuracy"])
        results = main([*taught, *with_data, *seeded(seed, output / f"taught-{seed}")])
        add(output, "with data, from labels and teachers", seed, results["eval_accuracy"])


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


def adaptation(arguments, shift: str, seed: int, name: str, options: list[str]):
    words = [*ADAPTED, *QUIET, "--model", teachers_of(arguments)[seed], "--dataset", shift, *options]
    folder = arguments.output / f"{shift}-{seed}-{name.replace(' ', '-')}"
    return prepare("prepare_training", [*words, *seeded(seed, folder)])


def adapt(arguments) -> None:
    output, models = arguments.output, teachers_of(arguments)
    for seed in arguments.seeds:
        for shift in arguments.shifts:
            for name, options in (
                ("SFDA-DE", ["--distance_threshold", "0.2"]),
                ("without the estimate", ["--distance_threshold", "0.2", "--estimate_source", "false"]),
                ("without the filter", ["--distance_threshold", "1"]),
            ):
                run = adaptation(arguments, shift, seed, name, options)
                if name == "SFDA-DE":
                    model = AutoModelForImageClassification.from_pretrained(models[seed])
                    add(output, f"{shift}, before", seed, accuracy(model.eval(), run.trainer.eval_dataset))
                    new = with_new_statistics(models[seed], run.trainer)
                    add(output, f"{shift}, new statistics alone", seed, new)
                add(output, f"{shift}, {name}", seed, run()["eval_accuracy"])


def filtered(arguments) -> None:
    """Where too few pictures are near, the run ends and says so; then nothing is written down."""
    for seed in arguments.seeds:
        for shift in arguments.shifts:
            for threshold in THRESHOLDS:
                name = f"within {threshold}"
                run = adaptation(arguments, shift, seed, name, ["--distance_threshold", threshold])
                try:
                    result = run()["eval_accuracy"]
                except ValueError as error:
                    print(error)
                    continue
                add(arguments.output, f"{shift}, {name}", seed, result)
                rounds = json.loads((Path(run.trainer.args.output_dir) / "adaptation.json").read_text())["rounds"]
                add(arguments.output, f"{shift}, {name}, kept in the first round", seed, rounds[0]["kept"])
                add(arguments.output, f"{shift}, {name}, kept in the last round", seed, rounds[-1]["kept"])


def run() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=("teachers", "distil", "adapt", "filter"))
    parser.add_argument("output", type=Path)
    parser.add_argument("--cifar10", nargs=2, metavar=("TRAIN", "TEST"), help="instead of digits; not of adapt")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], choices=range(3))
    parser.add_argument("--shifts", nargs="+", default=SHIFTS)
    arguments = parser.parse_args()
    tables = {"teachers": teachers, "distil": distil, "adapt": adapt, "filter": filtered}
    tables[arguments.table](arguments)


if __name__ == "__main__":
    run()
