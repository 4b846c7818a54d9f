"""The tables of docs/systems/minitron.md and sortednet.md: small language models out of a trained one, of English.

    python docs/evidence/pruning.py nested OUTPUT
    python docs/evidence/pruning.py ways TEACHER OUTPUT

`nested`: the sub-models of a smaller network than that of `sortednet/pydoc`, for twice as many epochs, by its recipe
in one checkpoint and each by itself. `ways`: TEACHER, a causal language model (OUTPUT/alone-6-0 of the other), loses a
part of its parameters in width or in depth; what is left learns on from the text, or from the teacher alone, and a
fresh model of the narrower sizes from the text. Speeds are those of prompts and of words after one, in processor time.
"""

import argparse
import json
import random
import statistics
import time
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, set_seed

from hf_effmodels.cli import main as command
from hf_effmodels.training import main

TEXT = ("--dataset", "pydoc_topics", "--eval_fraction", "0.1", "--block_size", "128")
TRAINING = (
    *("--per_device_train_batch_size", "8", "--per_device_eval_batch_size", "16", "--lr_scheduler_type", "cosine"),
    *("--warmup_steps", "0.05", "--adam_beta2", "0.95", "--weight_decay", "0.1", "--eval_strategy", "no"),
    *("--save_strategy", "no", "--disable_tqdm", "true"),
)


def prune(teacher: Path, output: Path, way: str, share: float) -> Path:
    """The teacher with a share of its parameters, pruned one way."""
    if not (output / "config.json").is_file():
        arguments = ["prune", str(teacher), str(output), "--target-parameters", str(share), "--way", way]
        arguments += ["--tolerance", "0.08", "--dataset", "pydoc_topics", "--block-size", "128"]
        if command(arguments):
            raise SystemExit(1)
    return output


def fresh(like: Path, output: Path, seed: int) -> Path:
    """A model with random weights of the same sizes, and the same tokenizer."""
    set_seed(seed)
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(like)).save_pretrained(output)
    AutoTokenizer.from_pretrained(like).save_pretrained(output)
    return output


def learn(model: Path, output: Path, seed: int, steps: int, rate: float, *options: str) -> float:
    """Perplexity after a training that goes on from a model."""
    arguments = ["--model", str(model), "--output_dir", str(output), "--seed", str(seed), "--max_steps", str(steps)]
    arguments += ["--learning_rate", str(rate), *TEXT, *TRAINING, *options]
    return main(arguments)["eval_perplexity"]


def ways(arguments) -> dict[str, list[float]]:
    output, rows, networks = arguments.output, {}, {"the whole": arguments.teacher}

    def add(name: str, value: float) -> None:
        rows.setdefault(name, []).append(value)

    for way in ("width", "depth"):
        small = prune(arguments.teacher, output / way, way, arguments.share)
        networks[way] = small
        parameters = AutoModelForCausalLM.from_pretrained(small).num_parameters()
        for seed in arguments.seeds:
            for name, options in (
                ("text", ("--task", "causal-lm")),
                ("teacher", ("--task", "language-distillation", "--teacher", str(arguments.teacher))),
            ):
                place = output / f"{way}-{name}-{seed}"
                label = f"{way} ({parameters / 1e6:.3f} M), from the {name}"
                add(label, learn(small, place, seed, arguments.steps, arguments.rate, *options))
            if way == "width":
                start, place = fresh(small, output / f"fresh-{seed}", seed), output / f"fresh-text-{seed}"
                label = f"fresh ({parameters / 1e6:.3f} M), from the text"
                add(label, learn(start, place, seed, arguments.steps, 2e-3, "--task", "causal-lm"))
    for kind, tokens_per_second in speeds(networks).items():
        for name, values in tokens_per_second.items():
            rows[f"{name}: tokens of {kind} in a second of processor time"] = values
    return rows


@torch.no_grad()
def speeds(networks: dict[str, Path], rounds: int = 15) -> dict[str, dict[str, list[float]]]:
    """Tokens per second of processor time: of prompts of 128 tokens, four at a time, and of 16 words after one of
    them. The networks take turns, in random order."""
    models = {name: AutoModelForCausalLM.from_pretrained(place).eval() for name, place in networks.items()}
    ids = torch.randint(3, next(iter(models.values())).config.vocab_size, (4, 128))
    options = {"do_sample": False, "min_new_tokens": 16, "max_new_tokens": 16, "pad_token_id": 0}
    calls = {
        "prompts": (ids.numel(), lambda model: model(ids, use_cache=True, logits_to_keep=1)),
        "answers": (16, lambda model: model.generate(ids[:1], attention_mask=torch.ones_like(ids[:1]), **options)),
    }
    found = {kind: {name: [] for name in models} for kind in calls}
    for turn in range(rounds + 1):
        for kind, (tokens, call) in calls.items():
            for name in random.Random(turn).sample(list(models), len(models)):
                began = time.process_time()
                call(models[name])
                if turn:  # the first warms up
                    found[kind][name].append(tokens / (time.process_time() - began))
    return found


def nested(arguments) -> dict[str, list[float]]:
    """Perplexities of three nested networks that were trained together, and of each trained by itself."""
    rows = {}
    config = {"hidden_size": 64, "intermediate_size": 176, "num_attention_heads": 4, "num_key_value_heads": 4}
    config["max_position_embeddings"] = 512
    depths = {"two": 2, "four": 4, "six": 6}
    within = {name: {"num_hidden_layers": layers} for name, layers in depths.items() if name != "six"}
    for seed in arguments.seeds:
        for name, layers in {"sorted": 6, **depths}.items():
            submodels = within if name == "sorted" else {}
            place = arguments.output / f"{'alone-' + str(layers) if name in depths else name}-{seed}"
            results = main(
                [
                    *("--config", "sortednet/pydoc", "--tokenizer", "train:512", "--seed", str(seed)),
                    *("--model_config", json.dumps({**config, "num_hidden_layers": layers})),
                    *("--sorted_submodels", json.dumps(submodels), "--num_train_epochs", str(arguments.epochs)),
                    *("--per_device_train_batch_size", "16", "--output_dir", str(place), "--save_strategy", "no"),
                    *("--eval_strategy", "no", "--disable_tqdm", "true"),
                ]
            )
            if name in depths:
                rows.setdefault(f"{name} layers, by itself", []).append(results["eval_perplexity"])
                continue
            for inner in depths:
                key = "eval_perplexity" if inner == "six" else f"eval_{inner}_perplexity"
                rows.setdefault(f"{inner} layers, sorted", []).append(results[key])
        write(arguments.output, rows)
    return rows


def write(output: Path, rows: dict[str, list[float]]) -> None:
    lines = ["| | mean ± deviation | each |", "|---|---|---|"]
    for name, values in rows.items():
        spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
        each = ", ".join(f"{value:.1f}" for value in values) if len(values) < 6 else f"{len(values)} of them"
        lines.append(f"| {name} | {statistics.mean(values):.1f}{spread} | {each} |")
    (output / "table.md").write_text("\n".join(lines) + "\n")


def run() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tables = parser.add_subparsers(required=True)
    table = tables.add_parser("ways")
    table.add_argument("teacher", type=Path)
    table.add_argument("--share", type=float, default=0.6)
    table.add_argument("--steps", type=int, default=150)
    table.add_argument("--rate", type=float, default=1e-3)
    table.set_defaults(make=ways)
    table = tables.add_parser("nested")
    table.add_argument("--epochs", type=float, default=4)
    table.set_defaults(make=nested)
    for table in tables.choices.values():
        table.add_argument("output", type=Path)
        table.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    write(arguments.output, arguments.make(arguments))
    print((arguments.output / "table.md").read_text())  # noqa: T201


if __name__ == "__main__":
    run()
