"""The tables of docs/systems/delvm.md: small visual sequence models on scikit-learn's digits.

    python docs/evidence/visual_sequences.py rare    PIPELINE OUTPUT
    python docs/evidence/visual_sequences.py student PIPELINE OUTPUT
    python docs/evidence/visual_sequences.py speed   PIPELINE OUTPUT

PIPELINE is what `scripts/train.py --config quickstart/visual-sequence-modeling` leaves. `rare`: a new transformer over
its image tokens learns to segment from few pairs beside many of the other task, with and without augmented copies of
them. `student`: a smaller transformer learns alone, or from PIPELINE's as well. `speed`: processor time of one answer
by the pipeline, and by a plain loop of `LlamaForCausalLM.generate` and the decoder with the same weights.
"""

import argparse
import json
import random
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from hf_effmodels.pipelines import DelvmPipeline
from hf_effmodels.training import main
from hf_effmodels.training.data.image_pairs import load_pairs

SMALL = {"hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 3, "num_attention_heads": 2}
SMALLER = {"hidden_size": 48, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}


def learn(arguments: argparse.Namespace, place: str, seed: int, sizes: dict, *options: str) -> dict[str, float]:
    """What is measured of a transformer over PIPELINE's tokens, after a short training."""
    return main(
        [
            *("--config", "quickstart/visual-sequence-modeling", "--image_tokenizer", str(arguments.pipeline)),
            *("--model_config", json.dumps(sizes), "--pairs_per_sentence", "2", "--seed", str(seed)),
            *("--max_steps", str(arguments.steps), "--disable_tqdm", "true", "--shown_images", "0"),
            *("--output_dir", str(arguments.output / f"{place}-{seed}"), *options),
        ]
    )


def rare(arguments: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    few = ("--task_samples", json.dumps({"segment": arguments.pairs}))
    variants = {
        f"{arguments.pairs} pairs": few,
        f"{arguments.pairs} pairs and {arguments.copies} augmented copies of each": (
            *few,
            *("--expand", json.dumps({"segment": arguments.copies})),
        ),
    }
    return _table(arguments, variants, SMALL, ("segment_answer_accuracy", "segment_iou", "invert_answer_accuracy"))


def student(arguments: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    variants = {"alone": (), "from the larger one, too": ("--teacher", str(arguments.pipeline))}
    return _table(arguments, variants, SMALLER, ("perplexity", "segment_answer_accuracy", "invert_answer_accuracy"))


def _table(arguments, variants: dict[str, tuple], sizes: dict, measures: tuple[str, ...]):
    found: dict[str, dict[str, list[float]]] = {name: {measure: [] for measure in measures} for name in variants}
    for seed in arguments.seeds:
        for number, (name, options) in enumerate(variants.items()):
            results = learn(arguments, f"{arguments.make.__name__}{number}", seed, sizes, *options)
            for measure in measures:
                share = 1 if measure == "perplexity" else 100
                found[name][measure].append(share * results[f"eval_{measure}"])
        _write(arguments, found)
    return found


def _plainly(pipe: DelvmPipeline, pairs: list, query) -> torch.Tensor:
    """Ids of one answer as a loop of one's own has it, decoded."""
    tokenizer, count = pipe.image_tokenizer, pipe.image_tokenizer.tokens_per_image
    ids = tokenizer.encode([*(part for pair in pairs for part in pair), query]).reshape(1, -1)
    options = {"max_new_tokens": count, "min_new_tokens": count, "do_sample": False}
    ids = pipe.language_model.generate(ids, attention_mask=torch.ones_like(ids), **options)[:, -count:]
    tokenizer.decode(ids)
    return ids


def _by_the_pipeline(pipe: DelvmPipeline, pairs: list, query) -> torch.Tensor:
    return pipe(pairs, query).token_ids


@torch.no_grad()
def speed(arguments: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    pipe = DelvmPipeline.from_pretrained(arguments.pipeline)
    pipe.set_progress_bar_config(disable=True)
    train, held_out = load_pairs("digits")
    found: dict[str, dict[str, list[float]]] = {}
    draw = random.Random(0)
    for number in range(arguments.answers + 1):
        for shown, asked in zip(train, held_out, strict=True):
            pairs, query = draw.sample(list(shown.pairs), arguments.shown), draw.choice(list(asked.pairs))[0]
            times, ids = {}, {}
            for call in draw.sample([_plainly, _by_the_pipeline], 2):
                began = time.process_time()
                ids[call] = call(pipe, pairs, query)
                times[call] = 1e3 * (time.process_time() - began)
            if number:  # the first warms up
                row = found.setdefault(shown.task, {})
                same = 100 * (ids[_plainly] == ids[_by_the_pipeline]).float().mean().item()
                for name, value in (
                    ("plain ms", times[_plainly]),
                    ("pipeline ms", times[_by_the_pipeline]),
                    ("times faster", times[_plainly] / times[_by_the_pipeline]),
                    ("same ids %", same),
                ):
                    row.setdefault(name, []).append(value)
    return found


def _write(arguments: argparse.Namespace, found: dict[str, dict[str, list[float]]]) -> None:
    lines = []
    for name, measures in found.items():
        for measure, values in measures.items():
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            each = f" {np.round(values, 2).tolist()}" if len(values) < 6 else ""
            lines.append(f"{name}: {measure} {statistics.mean(values):.2f} ± {spread:.2f}{each}")
    (arguments.output / f"{arguments.make.__name__}.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("rare", "student", "speed"))
    parser.add_argument("pipeline", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--pairs", type=int, default=40, help="of the rare task")
    parser.add_argument("--copies", type=int, default=20, help="augmented ones of each")
    parser.add_argument("--answers", type=int, default=20, help="of speed, by each task")
    parser.add_argument("--shown", type=int, default=3, help="pairs in a prompt of speed")
    given = parser.parse_args()
    given.make = {"rare": rare, "student": student, "speed": speed}[given.what]
    given.output.mkdir(parents=True, exist_ok=True)
    _write(given, given.make(given))
