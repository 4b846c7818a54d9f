r"""The measurements of docs/systems/cbq.md and docs/systems/bitnet158.md.

    hf-effmodels train --config bitnet158/tinyshakespeare --bitnet none --output_dir MODEL --dataset TEXT \
        --tokenizer train:512 --num_train_epochs 8 --learning_rate 3e-3 --min_lr 3e-4 --model_config '{"hidden_size":
        128, "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 32,
        "intermediate_size": 384, "max_position_embeddings": 512, "tie_word_embeddings": true}'
    python docs/evidence/quantization.py methods TEXT OUTPUT MODEL   # perplexity of each method, seeds, ablation
    python docs/evidence/quantization.py ternary TEXT OUTPUT         # 16 bits against 1.58 at one and two widths
    python docs/evidence/quantization.py vision  PICTURES OUTPUT     # the same of a vision transformer on CIFAR-10
    python docs/evidence/quantization.py decode  TEXT OUTPUT         # tokens per second and memory of packed layers
    python docs/evidence/quantization.py cost    TEXT OUTPUT         # time and memory against the number of blocks
    python docs/evidence/quantization.py cost    TEXT OUTPUT --width 768 --samples 64 512 --blocks 2 3
    python docs/evidence/quantization.py tables  TEXT OUTPUT         # what OUTPUT holds: means and deviations

TEXT is a plain text file (tinyshakespeare in the docs), MODEL a trained language model, PICTURES a folder with
CIFAR-10 as train.parquet and test.parquet, OUTPUT a folder. Each result is appended to OUTPUT/<name>.jsonl and printed
as soon as it is there; what is there already is not measured again. `--seeds 0 1 2` are those of the calibration
samples, or of the training; `--only W2A16 "no CFP"` measures these rows of `methods` alone.
"""

import argparse
import copy
import io
import json
import math
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import mean, median, stdev

import numpy as np
import torch
from PIL import Image
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    ViTConfig,
    ViTForImageClassification,
)

from hf_effmodels.quantization import BitNet158Config, CbqConfig, convert_to_bitlinear, quantize
from hf_effmodels.quantization.cbq.packed_linear import pack_linears

#: Of the calibration: samples and their tokens; of the evaluation.
SAMPLES, LENGTH, HELD_OUT = 128, 256, 48
#: The paper's samples, batch, epochs and rate of steps (1e-3 where they are about 0.03, so 0.03 of themselves), as far
#: as they are known. The rate that is told for the rounding, 1e-4, is in the ablation.
LEARNING = {"batch_size": 1, "epochs": 3, "rounding_lr": 0.01, "step_lr": 0.03}
CHANNEL = {"group_size": None}
SETTINGS = {
    "W2A16": {"bits": 2, **CHANNEL},
    "W4A4": {"bits": 4, **CHANNEL, "activation_bits": 4},
    "W3A16": {"bits": 3, **CHANNEL},
    "W4A16 g128": {"bits": 4, "group_size": 128},
}
#: Of W2A16.
ABLATION = {
    "no CFP": {"cfp": False},
    "window 1": {"window": 1, "overlap": 0},
    "free rounding": {"rank": None},
    "rounding at 1e-4": {"rounding_lr": 1e-4},
    "32 samples, 48 steps of four": {"batch_size": 4, "epochs": 6, "rounding_lr": 0.05, "step_lr": 0.005},
}


def runs(seed: int):
    """(setting, method, change), the ones that tell most first. Rounding to nearest knows no samples."""
    for setting in SETTINGS:
        for method in (("rtn",) if seed == 0 else ()) + ("gptq", "cbq"):
            yield setting, method, ""
    for change in ABLATION:
        yield "W2A16", "cbq", change
    for setting in [*SETTINGS][1:]:
        yield setting, "cbq", "free rounding"


def methods(text: Path, output: Path, seeds: list[int], model: Path, only: list[str] | None) -> None:
    """Perplexity on held-out text after each method; `only` of these settings, or changes of W2A16."""
    train, held_out = halves(text, AutoTokenizer.from_pretrained(model))
    evaluation = held_out[: HELD_OUT * LENGTH].view(HELD_OUT, LENGTH)
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        starts = torch.randint(len(train) - LENGTH, (SAMPLES,), generator=generator).tolist()
        samples = torch.stack([train[start : start + LENGTH] for start in starts])
        for setting, method, change in runs(seed):
            row = {"setting": setting, "method": method, "seed": seed, "change": change}
            if only and (change or setting) not in only or is_there(output / "methods.jsonl", row):
                continue
            options = {**SETTINGS[setting], **LEARNING, **ABLATION.get(change, {})}
            config = CbqConfig(method=method, seed=seed, **options)
            used = samples[:32] if change.startswith("32 samples") else samples
            network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
            began = time.process_time()
            report = quantize(network, [used], config, evaluation=[evaluation]).report
            row |= {key: report[key] for key in ("perplexity_before", "perplexity_after", "bits_per_weight")}
            row |= {"output_error": report["blocks"][-1].get("output")}
            write(output / "methods.jsonl", row | {"cpu_seconds": round(time.process_time() - began, 1)})


def ternary(text: Path, output: Path, seeds: list[int]) -> None:
    """The same network with weights in 16 bits' place (float32 here) and ternary, at one and two widths."""
    letters = sorted(set(text.read_text(encoding="utf-8")))
    tokens = torch.tensor([letters.index(letter) for letter in text.read_text(encoding="utf-8")])
    cut = int(0.9 * len(tokens))
    for seed in seeds:
        for width, scale in ((64, None), (64, "mean"), (64, "median"), (128, None), (128, "mean"), (128, "median")):
            row = {"seed": seed, "width": width, "scale": scale or "16 bits"}
            if is_there(output / "ternary.jsonl", row):
                continue
            torch.manual_seed(seed)
            sizes = {"hidden_size": width, "intermediate_size": 3 * width, "num_hidden_layers": 4}
            config = LlamaConfig(vocab_size=len(letters), num_attention_heads=4, max_position_embeddings=128, **sizes)
            model = LlamaForCausalLM(config)
            if scale is not None:
                convert_to_bitlinear(model, BitNet158Config(scale=scale))
            began = time.process_time()
            loss = train_letters(model, tokens[:cut], tokens[cut:], seed)
            layers = sum(p.numel() for p in model.model.layers.parameters())
            row |= {"loss": loss, "block_weights": layers}
            write(output / "ternary.jsonl", row | {"cpu_seconds": round(time.process_time() - began, 1)})


def train_letters(model, train, held_out, seed: int, steps: int = 300, batch: int = 16, length: int = 64) -> float:
    """Cross entropy on held-out text, nats per letter, after a short training with a cosine schedule."""
    generator = torch.Generator().manual_seed(seed)

    def loss():
        starts = torch.randint(len(train) - length, (batch,), generator=generator).tolist()
        ids = torch.stack([train[start : start + length] for start in starts])
        return model(ids, labels=ids).loss

    descend(model, loss, steps, 3e-3)
    with torch.no_grad():
        rows = held_out[: 256 * length].view(-1, length)
        return model(rows, labels=rows).loss.item()


def vision(pictures: Path, output: Path, seeds: list[int]) -> None:
    """A vision transformer on CIFAR-10 with weights in full precision and ternary, at one and two widths."""
    (train, labels), (held_out, right) = (read_pictures(pictures / f"{part}.parquet") for part in ("train", "test"))
    for seed in seeds:
        for width, scale in ((64, None), (64, "mean"), (64, "median"), (128, None), (128, "mean"), (128, "median")):
            row = {"seed": seed, "width": width, "scale": scale or "16 bits"}
            if is_there(output / "vision.jsonl", row):
                continue
            torch.manual_seed(seed)
            sizes = {"hidden_size": width, "intermediate_size": 3 * width, "num_hidden_layers": 4}
            sizes |= {"image_size": 32, "patch_size": 8, "num_attention_heads": 4}
            model = ViTForImageClassification(ViTConfig(**sizes, num_labels=10))
            if scale is not None:
                convert_to_bitlinear(model, BitNet158Config(scale=scale))
            began = time.process_time()
            accuracy = train_pictures(model, train, labels, held_out, right, seed)
            layers = sum(p.numel() for p in model.vit.layers.parameters())
            row |= {"accuracy": accuracy, "block_weights": layers}
            row |= {"cpu_seconds": round(time.process_time() - began, 1)}
            write(output / "vision.jsonl", row)


def train_pictures(model, train, labels, held_out, right, seed: int, steps: int = 300, batch: int = 64) -> float:
    """Top-1 accuracy in per cent on held-out pictures, after a short training with mirrored and moved pictures."""
    generator = torch.Generator().manual_seed(seed)

    def loss():
        chosen = torch.randint(len(train), (batch,), generator=generator)
        moves = torch.randint(-3, 4, (2,), generator=generator).tolist()
        mirrored = torch.rand(batch, 1, 1, 1, generator=generator) < 0.5
        pixels = train[chosen].roll(moves, (2, 3))
        return model(torch.where(mirrored, pixels.flip(3), pixels), labels=labels[chosen]).loss

    descend(model, loss, steps, 1e-3)
    with torch.no_grad():
        found = torch.cat([model(part).logits.argmax(1) for part in held_out.split(250)])
    return 100 * (found == right).float().mean().item()


def read_pictures(file: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """(pictures, 3, 32, 32), about of deviation 1, and the numbers of their classes."""
    from pyarrow import parquet

    table = parquet.read_table(file).to_pydict()
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(each["bytes"])).convert("RGB")) for each in table["img"]])
    names = sorted(set(table["label"]))
    labels = torch.tensor([names.index(label) for label in table["label"]])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 64 - 2, labels


def descend(model, loss, steps: int, rate: float) -> None:
    """Steps of AdamW along what `loss()` gives, with a warm-up and a cosine; the model is left in evaluation mode."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / 50) * (0.1 + 0.45 * (1 + math.cos(math.pi * step / steps)))
    )
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.eval()


def cost(text: Path, output: Path, seeds: list[int], blocks: list[int], width: int, samples: list[int]) -> None:
    """Processor time and memory of CBQ as it is by default, on random weights: each number of blocks in a process."""
    sizes = ["--width", str(width), "--samples", *map(str, samples)]
    for count in blocks:
        command = [sys.executable, __file__, "cost-of", str(text), str(output), "--blocks", str(count), *sizes]
        subprocess.run(command, check=True)


def cost_of(text: Path, output: Path, seeds: list[int], blocks: list[int], width: int, samples: list[int]) -> None:
    [count] = blocks
    row = {"blocks": count, "width": width, "samples": samples}
    if is_there(output / "cost.jsonl", row):
        return
    heads = width // 64
    sizes = {"hidden_size": width, "intermediate_size": 8 * width // 3, "num_attention_heads": heads}
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=16384, num_hidden_layers=count, num_key_value_heads=heads, **sizes)
    )
    batch = torch.randint(16384, samples)
    started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    began = time.process_time()
    quantize(model, [batch], CbqConfig())
    row |= {"parameters": model.num_parameters(), "threads": torch.get_num_threads()}
    row |= {"cpu_seconds": round(time.process_time() - began, 1), "megabytes_before": round(started)}
    row |= {"peak_megabytes": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)}
    write(output / "cost.jsonl", row)


def decode(text: Path, output: Path, seeds: list[int]) -> None:
    """One token at a time through a network of random weights, after eight: float32, bfloat16 and 4 bits, in turns."""
    sizes = {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 8, "num_attention_heads": 16}
    config = LlamaConfig(vocab_size=32000, num_key_value_heads=16, tie_word_embeddings=True, **sizes)
    torch.manual_seed(0)
    models = {"float32": LlamaForCausalLM(config).eval()}
    for name in ("bfloat16", "int4"):
        models[name] = copy.deepcopy(models["float32"]).bfloat16()
    layers = models["int4"].model.layers
    pack_linears(layers, [name for name, module in layers.named_modules() if type(module) is torch.nn.Linear], 4, 128)
    ids = torch.randint(32000, (1, 8))
    clocks = (time.perf_counter, time.process_time)
    seconds = {name: [] for name in models}  # of each token, by either clock
    for _ in range(6):
        for name, model in models.items():
            with torch.inference_mode():
                cache = model(ids, use_cache=True).past_key_values
                for _ in range(6):
                    began = [clock() for clock in clocks]
                    model(ids[:, -1:], past_key_values=cache).logits.argmax()
                    seconds[name].append([clock() - at for clock, at in zip(clocks, began, strict=True)])
    for name, model in models.items():
        tensors = {t.data_ptr(): t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers())}
        row = {"weights": name, "threads": torch.get_num_threads(), "parameters": models["float32"].num_parameters()}
        row |= {"megabytes": sum(tensors.values()) / 1e6}
        for number, clock in enumerate(("wall", "cpu")):
            own, others = ([each[number] for each in seconds[which]] for which in (name, "bfloat16"))
            row |= {f"{clock}_tokens_per_second": 1 / median(own), f"{clock}_best": 1 / min(own)}
            row |= {f"{clock}_of_bfloat16": median(others) / median(own)}
        write(output / "decode.jsonl", row)


def halves(text: Path, tokenizer) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens of the first nine tenths of a text, and of the rest."""
    content = text.read_text(encoding="utf-8")
    cut = content.find("\n", int(0.9 * len(content))) + 1
    parts = content[:cut], content[cut:]
    return tuple(torch.tensor(tokenizer(part, verbose=False)["input_ids"]) for part in parts)


#: File -> what its rows are of, and what was measured.
COLUMNS = {
    "methods": (("setting", "change", "method"), ("perplexity_after", "output_error", "cpu_seconds")),
    "ternary": (("width", "scale", "block_weights"), ("loss", "cpu_seconds")),
    "vision": (("width", "scale", "block_weights"), ("accuracy", "cpu_seconds")),
    "cost": (("width", "samples", "blocks", "parameters"), ("cpu_seconds", "megabytes_before", "peak_megabytes")),
}


def show_tables(text: Path, output: Path, seeds: list[int]) -> None:
    """Each result as a table in Markdown: the mean of the seeds, the deviation of a sample, how many there are."""
    for name, (of, measured) in COLUMNS.items():
        rows, file = {}, output / f"{name}.jsonl"
        for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
            row = json.loads(line)
            rows.setdefault(tuple(str(row[key]) for key in of), []).append([row[key] for key in measured])
        if rows:
            print(
                "", "|".join(["", *of, *measured, "seeds", ""]), "|---" * (len(of) + len(measured) + 1) + "|", sep="\n"
            )
        for key, values in sorted(rows.items()):
            columns = [
                "" if None in each else f"{mean(each):.4g}" + (f" ± {stdev(each):.2g}" if len(each) > 1 else "")
                for each in zip(*values, strict=True)
            ]
            print("|".join(["", *key, *columns, str(len(values)), ""]))


def is_there(file: Path, row: dict) -> bool:
    """Whether a result with these values has been written."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return any(row.items() <= json.loads(line).items() for line in lines)


def write(file: Path, row: dict) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as opened:
        opened.write(json.dumps(row) + "\n")
    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    tables = {
        "methods": methods,
        "ternary": ternary,
        "vision": vision,
        "decode": decode,
        "cost": cost,
        "cost-of": cost_of,
        "tables": show_tables,
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=tables)
    parser.add_argument("text", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", help="settings or changes of methods")
    parser.add_argument("--blocks", type=int, nargs="+", default=[3, 6, 12, 24], help="of cost")
    parser.add_argument("--width", type=int, default=384, help="of cost; 768 with twelve blocks is a model of 110 M")
    parser.add_argument("--samples", type=int, nargs=2, default=[16, 128], help="of cost: how many, and their tokens")
    arguments = parser.parse_args()
    of_cost = [arguments.blocks, arguments.width, arguments.samples]
    further = {"methods": [arguments.model, arguments.only], "cost": of_cost, "cost-of": of_cost}
    tables[arguments.what](arguments.text, arguments.output, arguments.seeds, *further.get(arguments.what, []))
