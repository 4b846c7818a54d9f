"""The ablation in docs/systems/light_clip.md: what each loss of a LightCLIP adds, on scikit-learn's digits.

    python docs/evidence/two_towers.py OUTPUT

The towers of quickstart/contrastive-language-image for a third of its steps, from plain CLIP on with one part more
each time; zero-shot accuracy under templates that were not trained with. `OUTPUT/table.txt` is written after each run.
"""

import argparse
import statistics
from pathlib import Path

import yaml

from hf_effmodels.training import main
from hf_effmodels.training.run.recipes import find_recipe

RECIPE = "quickstart/contrastive-language-image"
#: What is switched off, by the name of the row.
VARIANTS = {
    "plain CLIP": ({"token_loss_weight": 0, "mlm_loss_weight": 0}, "0"),
    "+ softened targets": ({"token_loss_weight": 0, "mlm_loss_weight": 0}, "0.2"),
    "+ words and places": ({"mlm_loss_weight": 0}, "0.2"),
    "+ masked words": ({}, "0.2"),
}


def run(arguments: argparse.Namespace) -> None:
    output, found = Path(arguments.output), {}
    config = yaml.safe_load(find_recipe(RECIPE).read_text())["model_config"]
    for seed in range(arguments.seeds):
        for name, (fields, softening) in VARIANTS.items():
            folder = output / f"{list(VARIANTS).index(name)}-{seed}"
            words = [
                "--config",
                RECIPE,
                "--model_config",
                yaml.safe_dump({**config, **fields}, default_flow_style=True),
            ]
            words += ["--softening", softening, "--num_train_epochs", str(arguments.epochs), "--seed", str(seed)]
            words += ["--eval_strategy", "no", "--disable_tqdm", "true", "--output_dir", str(folder)]
            results = main(words)
            found.setdefault(name, []).append(round(100 * results["eval_accuracy"], 2))
            lines = [f"{row}: {statistics.mean(v):.1f} ± {statistics.pstdev(v):.1f} {v}" for row, v in found.items()]
            (output / "table.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("output", metavar="OUTPUT")
    parser.add_argument("--epochs", type=float, default=4)
    parser.add_argument("--seeds", type=int, default=3)
    run(parser.parse_args())
