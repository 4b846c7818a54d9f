"""The table of docs/systems/pyramiddrop.md: cost of a prefill against the share of image tokens that stays.

    python docs/evidence/pyramid_drop.py OUTPUT

A LLaVA with random weights, 576 image tokens and 64 words, four equal stages; at each of three places the share stays.
Processor time of prefills in turns, in random order; memory of the tensors of a call, and of its cache; both beside
what the formula says. Checked on the way: at a share of 1 logits and cache are those without, to the bit; otherwise
every block's cache is as long as the formula says.
"""

import argparse
import json
import random
import statistics
import time
from pathlib import Path

import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from hf_effmodels.benchmarking.worker import peak_allocation
from hf_effmodels.compression.tokens.pyramid_drop import apply_pyramid_drop, pyramid_costs, remove_pyramid_drop
from hf_effmodels.compression.tokens.pyramid_drop.settings import PyramidDropSettings

SHARES = (None, 1.0, 0.75, 0.5, 0.25)
LAYERS, IMAGE, WORDS = 16, 576, 64


def network() -> LlavaForConditionalGeneration:
    torch.manual_seed(0)
    text = {"hidden_size": 512, "intermediate_size": 1376, "num_attention_heads": 8, "num_hidden_layers": LAYERS}
    tower = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2, "num_hidden_layers": 2}
    config = LlavaConfig(
        text_config=LlamaConfig(**text, vocab_size=32001),
        vision_config=CLIPVisionConfig(**tower, image_size=336, patch_size=14),
        image_token_index=32000,
    )
    return LlavaForConditionalGeneration(config).eval()


def settings(share: float) -> PyramidDropSettings:
    ratios = [share**stage for stage in (1, 2, 3)]
    return PyramidDropSettings(layers=[LAYERS // 4, LAYERS // 2, 3 * LAYERS // 4], ratios=ratios)


@torch.no_grad()
def measure(rounds: int) -> list[dict]:
    model = network()
    words = torch.randint(31000, (1, WORDS))
    ids = torch.cat([words[:, :1], torch.full((1, IMAGE), 32000), words[:, 1:]], 1)
    inputs = {"input_ids": ids, "pixel_values": torch.randn(1, 3, 336, 336)}
    plain = model(**inputs, use_cache=True)

    def use(share: float | None):
        remove_pyramid_drop(model)
        if share is not None:
            chosen = settings(share)
            apply_pyramid_drop(model, layers=list(chosen.layers), ratios=list(chosen.ratios))

    def call():
        return model(**inputs, use_cache=True, logits_to_keep=1)

    rows = {}
    for share in SHARES:
        use(share)
        row = {"share": share, "call_mb": peak_allocation(call) / 1e6}
        outputs = model(**inputs, use_cache=True)
        caches = [layer.keys.shape[2] for layer in outputs.past_key_values.layers]
        row["cache_mb"] = sum(2 * layer.keys.nbytes for layer in outputs.past_key_values.layers) / 1e6
        if share is not None:
            costs = pyramid_costs(model.config, settings(share), IMAGE, WORDS)
            row["formula_times"] = costs.full_macs / costs.macs
            row["cache_is_formula"] = caches == list(costs.lengths)
        if share == 1:
            row["identical"] = torch.equal(outputs.logits, plain.logits) and all(
                torch.equal(one.keys, two.keys) and torch.equal(one.values, two.values)
                for one, two in zip(outputs.past_key_values.layers, plain.past_key_values.layers, strict=True)
            )
        rows[share] = row
    times = {share: [] for share in SHARES}
    for number in range(rounds):
        for share in random.Random(number).sample(SHARES, len(SHARES)):
            use(share)
            call()
            began = time.process_time()
            call()
            times[share].append(time.process_time() - began)
    for share, row in rows.items():
        row["cpu_ms"] = 1000 * statistics.median(times[share])
        row["times"] = statistics.median(a / b for a, b in zip(times[None], times[share], strict=True))
    return list(rows.values())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    found = measure(arguments.rounds)
    (arguments.output / "pyramid_drop.json").write_text(json.dumps(found, indent=1) + "\n")
    for each in found:
        print(each)
