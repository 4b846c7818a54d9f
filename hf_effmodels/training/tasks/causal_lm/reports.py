"""What lies beside a trained language model, and what is written of an evaluated one."""

import logging
import math
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from ...._files import write_json, write_text
from ...run.reports import (
    has_matplotlib,
    plot_curves,
    save_figure,
    save_results,
    training_summary,
    write_card,
)
from ...run.results import write_results_file

logger = logging.getLogger(__name__)

#: What the card says about the training, as far as it was in use.
HYPER_PARAMETERS = (
    *("sorted_submodels", "submodels_per_step"),
    *("teacher", "teacher_license", "dataset_license", "divergence"),  # of a distillation
    *("num_train_epochs", "max_steps", "block_size", "document_attention", "tokenizer", "optim", "optim_args"),
    *("learning_rate", "lr_scheduler_type", "warmup_steps", "lr_scheduler_kwargs", "min_lr", "weight_decay"),
    *("adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "ema_decay", "bf16", "fp16", "seed"),
)


def text_metrics(metrics: dict[str, float], text_bytes: int, prefix: str = "eval_") -> dict[str, float]:
    """With bits per byte: the loss of all tokens, those that end documents included, in bits, by the text's length in
    bytes. It compares models whose tokenizers differ."""
    bits = metrics[f"{prefix}loss"] * metrics[f"{prefix}tokens"] / math.log(2)
    return {**metrics, f"{prefix}bits_per_byte": bits / text_bytes}


def write_results(trainer, train_metrics: dict, eval_metrics: dict, config: dict, model_args, text_args) -> dict:
    """`reports.save_results`, `training_curve.png`, `expert_load.json` (and `.png`) of a mixture, a sample of what the
    model writes, and `reports.write_card`.

    Returns:
        All metrics.
    """
    args, output = trainer.args, Path(trainer.args.output_dir)
    eval_metrics = text_metrics(eval_metrics, trainer.eval_dataset.counts.bytes)
    trainer.model.config.use_cache = True  # the Trainer turns it off; the saved model is there to generate
    results = save_results(trainer, train_metrics, eval_metrics)
    is_sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    trainer.accelerator.wait_for_everyone()  # what follows is one process's work
    if args.should_save:
        in_training = trainer.model
        if is_sharded:
            unset_hf_deepspeed_config()  # or it would be sharded while it is loaded
            trainer.model = AutoModelForCausalLM.from_pretrained(output)  # whole, as it has just been saved
        _write_reports(trainer, eval_metrics, config, model_args, text_args, output)
        trainer.model = in_training
    return results


def _write_reports(trainer, eval_metrics: dict, config: dict, model_args, text_args, output: Path) -> None:
    args = trainer.args
    counts = {"training": _training_counts(trainer), "evaluation": asdict(trainer.eval_dataset.counts)}
    write_json(output / "text.json", counts)
    plots = has_matplotlib()
    if plots:
        panels = {"cross entropy": {"loss": "training", "eval_loss": "evaluation"}}
        panels |= {"perplexity": {"eval_perplexity": "evaluation"}}
        plot_curves(trainer.state.log_history, output / "training_curve.png", panels, x="step")
    if trainer.mixture.last_load is not None:
        _write_expert_load(trainer.mixture.last_load, output, plots)
    write_card(
        trainer,
        {name: eval_metrics[f"eval_{name}"] for name in ("loss", "perplexity", "bits_per_byte")},
        split=trainer.eval_dataset.split,
        dataset=text_args.dataset,
        model=model_args.model,
        pipeline_tag="text-generation",
        training={
            "tokens_seen": trainer.tokens_seen(),
            **training_summary(config, HYPER_PARAMETERS, trainer.get_total_train_batch_size(args)),
            **trainer.card_facts,
        },
        unit=f"blocks of {text_args.block_size} tokens",
    )
    if args.sample_prompt is not None:
        network = trainer.accelerator.unwrap_model(trainer.model)
        sys.stdout.write(f"{write_sample(trainer.processing_class, network, args, output)}\n")
    logger.info("results: %s", output)


def _training_counts(trainer) -> dict[str, int]:
    """What became of the training text; of a stream what has been trained on, and what had been read of it when the
    last window of blocks began."""
    if trainer.stream is None:
        return asdict(trainer.train_dataset.counts)
    blocks = trainer.blocks_seen()
    place = trainer.stream.state(blocks)["window_start"]
    counts = {"blocks": blocks, "tokens": blocks * (trainer.stream.block.size - 1)}
    return counts | {key: place[key] for key in ("documents", "empty_documents", "epoch")}


def write_sample(tokenizer, model, args, output: Path) -> str:
    """Let the model continue `--sample_prompt`, into `sample.txt`."""
    device = next(model.parameters()).device
    inputs = tokenizer(args.sample_prompt, add_special_tokens=False, return_tensors="pt").to(device)
    begin = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    prompt = torch.cat((torch.full((1, 1), begin, device=device), inputs["input_ids"].long()), dim=1)
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(args.seed)
        tokens = model.eval().generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=args.sample_tokens,
            do_sample=True,
            temperature=0.8,
            top_k=50,
            pad_token_id=tokenizer.eos_token_id,
        )
    text = tokenizer.decode(tokens[0], skip_special_tokens=True)
    write_text(output / "sample.txt", text + "\n")
    return text


def _write_expert_load(load: torch.Tensor, output: Path, plots: bool) -> None:
    """The share of the tokens that each expert of each layer got, in the last logged steps."""
    table = {"layers": [[round(share, 6) for share in layer] for layer in load.tolist()]}
    write_json(output / "expert_load.json", table, indent=None)
    if not plots:
        return
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.5 + 0.5 * load.shape[1], 1.5 + 0.3 * load.shape[0]), layout="constrained")
    axes = figure.subplots()
    figure.colorbar(axes.imshow(load.numpy(), cmap="Blues", vmin=0, aspect="auto"), ax=axes, label="share of tokens")
    axes.set(xlabel="expert", ylabel="layer")
    save_figure(figure, output / "expert_load.png")


def write_evaluation(trainer, metrics: dict, output: str | None, call: dict) -> dict:
    """Print loss, perplexity, bits per byte and the number of tokens, write them into the JSON file that is named."""
    counts = trainer.eval_dataset.counts
    metrics = text_metrics(metrics, counts.bytes)
    results = {key: call[key] for key in ("model", "dataset", "block_size")}
    results |= {name: metrics[f"eval_{name}"] for name in ("loss", "perplexity", "bits_per_byte", "tokens")}
    results |= {"documents": counts.documents, "bytes": counts.bytes}
    if trainer.is_world_process_zero():
        results = write_results_file(output, results, call)
        sys.stdout.write(
            f"loss {results['loss']:.4f}  perplexity {results['perplexity']:.3f}  bits per byte "
            f"{results['bits_per_byte']:.4f}  tokens {results['tokens']}\n"
        )
    return results
