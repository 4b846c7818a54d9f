"""The measurements of docs/systems/tiny_lm.md.

    python docs/evidence/tiny_lm.py tokenizer   TEXT OUTPUT
    python docs/evidence/tiny_lm.py inheritance TEXT OUTPUT
    python docs/evidence/tiny_lm.py rounds      TEXT OUTPUT

TEXT is a plain text file (tinyshakespeare in the docs), OUTPUT a folder. Results go to OUTPUT/<name>.json and, as a
table, to the standard output. Each takes about a minute on one CPU core.
"""

import argparse
import json
import statistics
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

SEEDS = (0, 1, 2)
BLOCK = 64
TEACHER = {
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 16,
}
STUDENT = {
    "hidden_size": 48,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 3,
    "num_key_value_heads": 3,
    "head_dim": 16,
}


def tokenizer(text: Path, output: Path) -> None:
    """Tokens for held-out text: the published rule, with closure, and a tokenizer retrained at the same size."""
    from hf_effmodels.compression import compress_tokenizer, compression_report, count_tokens, unreachable_ids
    from hf_effmodels.compression.tokenizers.report import measure_texts
    from hf_effmodels.training.data.text.tokenization import train_tokenizer

    lines = [line for line in text.read_text(encoding="utf-8").split("\n") if line]
    cut = int(0.9 * len(lines))
    seen, held_out = lines[:cut], lines[cut:]
    rows = []
    for kind, train in (("byte-level BPE", train_tokenizer), ("BPE with byte fallback", _byte_fallback)):
        for full, kept in ((1000, 600), (2000, 1200), (4000, 2000), (8000, 4000)):
            whole, retrained = train(seen, full, BLOCK), train(seen, kept, BLOCK)
            counts = count_tokens(whole, seen, progress=False)
            row = {"kind": kind, "full": full, "kept": kept, "tokens_full": measure_texts(whole, held_out)[0]}
            for strategy in ("frequency", "frequency+closure"):
                smaller, id_map = compress_tokenizer(whole, counts, kept, strategy=strategy)
                report = compression_report(whole, smaller, id_map, counts)
                row[strategy] = measure_texts(smaller, held_out)[0]
                row[f"coverage {strategy}"] = round(report.coverage, 4)
                row[f"unreachable {strategy}"] = len(unreachable_ids(smaller))
            rows.append({**row, "retrained": measure_texts(retrained, held_out)[0]})
    _save(output / "tokenizer.json", rows)


def _byte_fallback(texts: list[str], vocab_size: int, max_length: int):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=special, show_progress=False)
    backend.train_from_iterator(texts, trainer)
    content = json.loads(backend.to_str())
    content["added_tokens"] = content["added_tokens"][:3]  # the bytes are not to be found in a text
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(content)), unk_token="<unk>", eos_token="</s>"
    )


def inheritance(text: Path, output: Path) -> None:
    """Validation loss at equal steps of a small LLaMA: from random weights, and out of a larger one."""
    from hf_effmodels.compression import inherit

    data = _Data(text)
    torch.manual_seed(0)
    teacher, (last,) = _train(data, LlamaForCausalLM(data.config(TEACHER)), output / "teacher", 600, 600, 0)
    print(f"the larger model: {teacher.num_parameters():,} parameters, validation loss {last['eval_loss']:.4f}")
    batches = data.batches(16, 8)
    rows = []
    for seed in SEEDS:
        for method in ("random", "l1", "l2", "taylor", "learned"):
            torch.manual_seed(seed)
            if method == "random":
                model = LlamaForCausalLM(data.config(STUDENT))
            else:
                sizes = {name: STUDENT[name] for name in STUDENT if name != "head_dim"}
                model, _ = inherit(teacher, **sizes, method=method, calibration=batches, seed=seed)
            _, history = _train(data, model, output / f"{method}-{seed}", 150, 75, seed, at_start=True)
            rows += [{"start": method, "seed": seed, **point} for point in history]
    print(f"the smaller one: {model.num_parameters():,} parameters")
    _save(output / "inheritance.json", rows)
    _print_means(rows, "start")


def rounds(text: Path, output: Path) -> None:
    """Validation loss after one epoch, and after half an epoch more on samples drawn by loss, or by chance."""
    from hf_effmodels.compression import train_rounds

    data, rows = _Data(text, characters=250_000, held_out=0.1), []
    for seed in SEEDS:
        # At a very high temperature all samples are as likely: the same schedule and steps, without the losses.
        for name, temperature in (("by loss", 1.0), ("by chance", 1e9)):

            def make_trainer(number, start, folder, seed=seed):
                torch.manual_seed(seed)
                model = LlamaForCausalLM(data.config(STUDENT)) if start is None else None
                model = model or LlamaForCausalLM.from_pretrained(start)
                return _trainer(data, model, folder, seed, num_train_epochs=1)

            folder = output / f"rounds-{name.replace(' ', '-')}-{seed}"
            train_rounds(make_trainer, folder, rounds=2, rate=0.5, temperature=temperature, seed=seed)
            for number in (1, 2):
                trained = LlamaForCausalLM.from_pretrained(folder / f"round-{number}")
                loss = _trainer(data, trained, output / "evaluation", seed).evaluate()["eval_loss"]
                rows.append({"second round": name, "seed": seed, "step": number, "eval_loss": loss})
    _save(output / "rounds.json", rows)
    _print_means(rows, "second round")


class _Data:
    """A tokenizer of 512 tokens trained on a text, and the text in blocks; its end is for the validation."""

    def __init__(self, text: Path, characters: int | None = None, held_out: float = 0.02):
        import datasets

        from hf_effmodels.training.data.text.packing import (
            Block,
            Encoder,
            PackedBlocks,
            Separators,
        )
        from hf_effmodels.training.data.text.tokenization import train_tokenizer

        content = text.read_text(encoding="utf-8")[:characters]
        cut = content.index("\n", int((1 - held_out) * len(content))) + 1
        self.tokenizer = train_tokenizer([content[:cut]], 512, BLOCK)
        separators = Separators.of(self.tokenizer)
        self.train, self.validation = (
            PackedBlocks(
                datasets.Dataset.from_dict({"text": [part]}),
                Encoder(self.tokenizer, separators),
                Block(BLOCK, separators, False),
            )
            for part in (content[:cut], content[cut:])
        )

    def config(self, sizes: dict) -> LlamaConfig:
        special = {"bos_token_id": self.tokenizer.bos_token_id, "eos_token_id": self.tokenizer.eos_token_id}
        return LlamaConfig(vocab_size=len(self.tokenizer), max_position_embeddings=BLOCK, **special, **sizes)

    def batches(self, count: int, size: int) -> list[torch.Tensor]:
        blocks = [self.train[number]["input_ids"] for number in range(count * size)]
        return [torch.stack(blocks[i * size : (i + 1) * size]) for i in range(count)]


def _trainer(data: _Data, model, folder: Path, seed: int, **settings):
    from hf_effmodels.training.tasks.causal_lm.task import CausalLMArguments, CausalLMTrainer

    settings = {"eval_strategy": "no", "save_strategy": "no", **settings}
    args = CausalLMArguments(
        output_dir=str(folder),
        per_device_train_batch_size=8,
        per_device_eval_batch_size=32,
        learning_rate=3e-3,
        lr_scheduler_type="cosine",
        warmup_steps=0.05,
        adam_beta2=0.95,
        weight_decay=0.1,
        logging_steps=1000,
        disable_tqdm=True,
        seed=seed,
        **settings,
    )
    return CausalLMTrainer(
        model=model,
        args=args,
        train_dataset=data.train,
        eval_dataset=data.validation,
        processing_class=data.tokenizer,
    )


def _train(data: _Data, model, folder: Path, steps: int, eval_steps: int, seed: int, at_start: bool = False):
    """The trained model and its validation losses."""
    evaluation = {"eval_strategy": "steps", "eval_steps": eval_steps, "eval_on_start": at_start}
    trainer = _trainer(data, model, folder, seed, max_steps=steps, **evaluation)
    trainer.train()
    history = {e["step"]: e["eval_loss"] for e in trainer.state.log_history if "eval_loss" in e}
    return model, [{"step": step, "eval_loss": loss} for step, loss in sorted(history.items())]


def _print_means(rows: list[dict], name: str) -> None:
    """Mean and standard deviation over the seeds at each step."""
    for value in dict.fromkeys(row[name] for row in rows):
        cells = []
        for step in sorted({row["step"] for row in rows}):
            losses = [row["eval_loss"] for row in rows if (row[name], row["step"]) == (value, step)]
            cells.append(f"{step}: {statistics.mean(losses):.4f} ± {statistics.stdev(losses):.4f}")
        print(f"{value:10}", "   ".join(cells))


def _save(file: Path, rows: list[dict]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    for row in rows:
        print("  ".join(f"{name} {value}" for name, value in row.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("tokenizer", "inheritance", "rounds"))
    parser.add_argument("text", type=Path)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    globals()[arguments.what](arguments.text, arguments.output)


if __name__ == "__main__":
    main()
