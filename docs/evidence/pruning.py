"""The tables of docs/systems/minitron.md and sortednet.md: small language models out of a trained one, of English.

    python docs/evidence/pruning.py ways TEACHER OUTPUT
    python docs/evidence/pruning.py alone OUTPUT

`ways`: TEACHER, a causal language model (`scripts/train.py --config sortednet/pydoc`, its whole), loses a part of its
parameters in width or in depth; what is left learns on from the text, or from the teacher alone, and a fresh model of
the narrower sizes from the text. `alone`: the sub-models of `sortednet/pydoc` trained by themselves, by its recipe.
"""

import argparse
import json
import statistics
from pathlib import Path

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
    output, rows = arguments.output, {}

    def add(name: str, value: float) -> None:
        rows.setdefault(name, []).append(value)

    for way in ("width", "depth"):
        small = prune(arguments.teacher, output / way, way, arguments.share)
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
    return rows


def alone(arguments) -> dict[str, list[float]]:
    rows = {}
    for layers in arguments.layers:
        for seed in arguments.seeds:
            config = {"hidden_size": 96, "intermediate_size": 256, "num_attention_heads": 4, "num_key_value_heads": 4}
            config |= {"max_position_embeddings": 512, "num_hidden_layers": layers}
            results = main(
                [
                    *("--config", "sortednet/pydoc", "--sorted_submodels", "{}", "--seed", str(seed)),
                    *(
                        "--model_config",
                        json.dumps(config),
                        "--output_dir",
                        str(arguments.output / f"{layers}-{seed}"),
                    ),
                    *("--save_strategy", "no", "--eval_strategy", "no", "--disable_tqdm", "true"),
                ]
            )
            rows.setdefault(f"{layers} layers alone", []).append(results["eval_perplexity"])
    return rows


def run() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tables = parser.add_subparsers(required=True)
    table = tables.add_parser("ways")
    table.add_argument("teacher", type=Path)
    table.add_argument("--share", type=float, default=0.6)
    table.add_argument("--steps", type=int, default=150)
    table.add_argument("--rate", type=float, default=1e-3)
    table.set_defaults(make=ways)
    table = tables.add_parser("alone")
    table.add_argument("--layers", type=int, nargs="+", default=[2, 4])
    table.set_defaults(make=alone)
    for table in tables.choices.values():
        table.add_argument("output", type=Path)
        table.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    rows = arguments.make(arguments)
    lines = ["| | perplexity | seeds |", "|---|---|---|"]
    for name, values in rows.items():
        spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
        lines.append(f"| {name} | {statistics.mean(values):.1f}{spread} | {len(values)} |")
    (arguments.output / "table.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))  # noqa: T201


if __name__ == "__main__":
    run()
