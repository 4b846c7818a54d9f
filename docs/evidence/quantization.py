"""The measurements of docs/systems/cbq.md and docs/systems/bitnet158.md.

    hf-effmodels train --config bitnet158/tinyshakespeare --bitnet none --output_dir MODEL --dataset TEXT
    python docs/evidence/quantization.py methods TEXT OUTPUT MODEL   # perplexity of each method, seeds, ablation
    python docs/evidence/quantization.py ternary TEXT OUTPUT         # 16 bits against 1.58 at one and two widths
    python docs/evidence/quantization.py decode  TEXT OUTPUT         # tokens per second and memory of packed layers

TEXT is a plain text file (tinyshakespeare in the docs), MODEL a trained language model, OUTPUT a folder. Each result
is appended to OUTPUT/<name>.jsonl and printed as soon as it is there.
"""

import argparse
import json
import math
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from hf_effmodels.quantization import BitNet158Config, CbqConfig, convert_to_bitlinear, quantize
from hf_effmodels.quantization.cbq.packed_linear import pack_linears

#: Of the calibration: samples and their tokens; of the evaluation.
SAMPLES, LENGTH, HELD_OUT = 32, 256, 48
LEARNING = {"batch_size": 4, "epochs": 6, "rounding_lr": 0.05, "step_lr": 0.005}
CHANNEL = {"group_size": None}
SETTINGS = {
    "W2A16": {"bits": 2, **CHANNEL},
    "W2A16 g64": {"bits": 2, "group_size": 64},
    "W3A16": {"bits": 3, **CHANNEL},
    "W4A4": {"bits": 4, **CHANNEL, "activation_bits": 4},
    "W4A16 g128": {"bits": 4, "group_size": 128},
}
ABLATION = {
    "no CFP": {"cfp": False},
    "window 1": {"window": 1, "overlap": 0},
    "free rounding": {"rank": None},
    "soft rounding": {"rounding": "soft", "rounding_weight": 1.0},
    "homologous only": {"target": "homologous"},
    "fixed steps": {"learn_steps": False},
}


def runs():
    """(setting, method, seed, changes), the ones that tell most first."""
    for setting in SETTINGS:
        yield setting, "rtn", 0, {}
        for method in ("gptq", "cbq"):
            yield setting, method, 0, {}
    for name in ABLATION:
        yield "W2A16", "cbq", 0, {name: ABLATION[name]}
    for seed in (1, 2):
        for setting in ("W2A16", "W4A4"):
            for method in ("gptq", "cbq"):
                yield setting, method, seed, {}


def methods(text: Path, output: Path, model: Path) -> None:
    """Perplexity on held-out text after each method."""
    train, held_out = halves(text, AutoTokenizer.from_pretrained(model))
    evaluation = held_out[: HELD_OUT * LENGTH].view(HELD_OUT, LENGTH)
    for setting, method, seed, changes in runs():
        generator = torch.Generator().manual_seed(seed)
        starts = torch.randint(len(train) - LENGTH, (SAMPLES,), generator=generator).tolist()
        samples = torch.stack([train[start : start + LENGTH] for start in starts])
        options = {**SETTINGS[setting], **LEARNING, **{k: v for change in changes.values() for k, v in change.items()}}
        config = CbqConfig(method=method, seed=seed, **options)
        network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        report = quantize(network, [samples], config, evaluation=[evaluation]).report
        row = {"setting": setting, "method": method, "seed": seed, "change": next(iter(changes), "")}
        row |= {key: report[key] for key in ("perplexity_before", "perplexity_after", "seconds", "bits_per_weight")}
        write(output / "methods.jsonl", row | {"output_error": report["blocks"][-1]["output"]})


def ternary(text: Path, output: Path) -> None:
    """The same network with weights in 16 bits' place (float32 here) and ternary, at one and two widths."""
    letters = sorted(set(text.read_text(encoding="utf-8")))
    tokens = torch.tensor([letters.index(letter) for letter in text.read_text(encoding="utf-8")])
    cut = int(0.9 * len(tokens))
    for seed in (0, 1, 2):
        for width, scale in ((64, None), (64, "mean"), (64, "median"), (128, None), (128, "mean"), (128, "median")):
            torch.manual_seed(seed)
            sizes = {"hidden_size": width, "intermediate_size": 3 * width, "num_hidden_layers": 4}
            config = LlamaConfig(vocab_size=len(letters), num_attention_heads=4, max_position_embeddings=128, **sizes)
            model = LlamaForCausalLM(config)
            if scale is not None:
                convert_to_bitlinear(model, BitNet158Config(scale=scale))
            began = time.monotonic()
            loss = train_letters(model, tokens[:cut], tokens[cut:], seed)
            layers = sum(p.numel() for p in model.model.layers.parameters())
            row = {"seed": seed, "width": width, "scale": scale or "16 bits", "loss": loss, "block_weights": layers}
            write(output / "ternary.jsonl", row | {"seconds": round(time.monotonic() - began, 1)})


def train_letters(model, train, held_out, seed: int, steps: int = 600, batch: int = 16, length: int = 64) -> float:
    """Cross entropy on held-out text, nats per letter, after a short training with a cosine schedule."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.1)
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / 50) * (0.1 + 0.45 * (1 + math.cos(math.pi * step / steps)))
    )
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        starts = torch.randint(len(train) - length, (batch,), generator=generator).tolist()
        ids = torch.stack([train[start : start + length] for start in starts])
        optimizer.zero_grad()
        model(ids, labels=ids).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rate.step()
    model.eval()
    with torch.no_grad():
        rows = held_out[: 256 * length].view(-1, length)
        return model(rows, labels=rows).loss.item()


def decode(text: Path, output: Path) -> None:
    """One row at a time through a network of random weights: float32, bfloat16 and 4 bits, in turns."""
    sizes = {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 8, "num_attention_heads": 16}
    config = LlamaConfig(vocab_size=32000, num_key_value_heads=16, tie_word_embeddings=True, **sizes)
    torch.manual_seed(0)
    models = {"float32": LlamaForCausalLM(config).eval()}
    for name, dtype in (("bfloat16", torch.bfloat16), ("int4", torch.bfloat16)):
        models[name] = LlamaForCausalLM(config).to(dtype).eval()
    layers = models["int4"].model.layers
    pack_linears(layers, [name for name, module in layers.named_modules() if type(module) is torch.nn.Linear], 4, 128)
    ids = torch.randint(32000, (1, 8))
    options = {"do_sample": False, "min_new_tokens": 16, "max_new_tokens": 16, "pad_token_id": 0}
    best = dict.fromkeys(models, math.inf)
    for _ in range(4):
        for name, model in models.items():
            began = time.perf_counter()
            model.generate(ids, **options)
            best[name] = min(best[name], time.perf_counter() - began)
    for name, model in models.items():
        tensors = {t.data_ptr(): t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers())}
        row = {"weights": name, "tokens_per_second": 16 / best[name], "megabytes": sum(tensors.values()) / 1e6}
        row |= {"parameters": models["float32"].num_parameters()}
        write(output / "decode.jsonl", row | {"of_bfloat16": best["bfloat16"] / best[name]})


def halves(text: Path, tokenizer) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens of the first nine tenths of a text, and of the rest."""
    content = text.read_text(encoding="utf-8")
    cut = content.find("\n", int(0.9 * len(content))) + 1
    parts = content[:cut], content[cut:]
    return tuple(torch.tensor(tokenizer(part, verbose=False)["input_ids"]) for part in parts)


def write(file: Path, row: dict) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as opened:
        opened.write(json.dumps(row) + "\n")
    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("methods", "ternary", "decode"))
    parser.add_argument("text", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("model", type=Path, nargs="?")
    arguments = parser.parse_args()
    if arguments.what == "methods":
        methods(arguments.text, arguments.output, arguments.model)
    else:
        {"ternary": ternary, "decode": decode}[arguments.what](arguments.text, arguments.output)
