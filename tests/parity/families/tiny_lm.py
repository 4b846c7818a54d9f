"""The tiny-LM workshop: tokenizer compression, neuron selection, resampling by loss, parameter counts."""

from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig

from hf_effmodels.compression.pruning.scores import structure_scores, top
from hf_effmodels.compression.sizes import count_parameters, feed_forward_size
from hf_effmodels.compression.tokenizers.pieces import is_special_piece, kept_share
from hf_effmodels.compression.tokenizers.sentencepiece_bpe import SentencePieceBPE
from hf_effmodels.compression.tokenizers.token_counts import TokenCounts
from hf_effmodels.compression.tokenizers.tokenizer_compression import compress_tokenizer, unreachable_ids
from hf_effmodels.training.run.rounds.resampling import draw_by_loss, loss_probabilities

from ..golden import inputs

SYSTEMS = ("tiny_lm",)


def run(case: dict, dtype: torch.dtype) -> dict:
    if "pieces" in case["config"]:
        return compression(case)
    if "columns" in case["config"]:
        return parameter_counts(case)
    values = inputs(case, dtype)
    return resampling(case, values) if "losses" in values else neuron_selection(case, values)


def compression(case: dict) -> dict:
    config = case["config"]
    parts = [config[name] for name in ("pieces", "scores", "types", "byte_fallback")]
    model = SentencePieceBPE(*parts)
    counts = TokenCounts(np.asarray(config["counts"]), config["first_seen_order"])
    strategy = config.get("strategy", "frequency")
    tokenizer, id_map = compress_tokenizer(model.to_fast(), counts, config["vocab_num"], strategy=strategy)
    smaller = model.compressed(id_map)
    assert tokenizer.convert_ids_to_tokens(range(len(tokenizer))) == smaller.pieces
    outputs = {
        "kept_old_ids": id_map.kept,
        "coverage": [kept_share(counts.counts, id_map.kept)],
        "encoded_before": model.encode(config["test_text"]),
        "encoded_after": smaller.encode(config["test_text"]),
        "num_special": [sum(map(is_special_piece, config["pieces"]))],
        "unreachable_old_ids": unreachable_ids(model.to_fast(), id_map) or [-1],
    }
    if "num_tokens_before_after" in case["outputs"]:
        lines = tinyshakespeare(case)[slice(*config["count_char_range"])].split("\n")
        encoders = (model.encode, smaller.encode)
        outputs["num_tokens_before_after"] = [sum(len(encode(line)) for line in lines if line) for encode in encoders]
    return outputs


def tinyshakespeare(case: dict) -> str:
    """The counted text is data beside the cases, not part of the package."""
    places = [Path(__file__).resolve().parents[4] / "shared", *Path(case["path"]).resolve().parents]
    found = [place / "data" / "tinyshakespeare.txt" for place in places]
    for file in found:
        if file.is_file():
            return file.read_text(encoding="utf-8")
    raise FileNotFoundError(f"num_tokens_before_after: the counted text is in none of {[*map(str, found)]}")


def resampling(case: dict, values: dict) -> dict:
    losses, config = values["losses"].numpy(), case["config"]
    drawn = draw_by_loss(losses, config["sampling_rate"], seed=config["gumbel_seed"])
    return {"probabilities": loss_probabilities(losses)} | {
        name: drawn for name in case["outputs"] if name.startswith("gumbel")
    }


def neuron_selection(case: dict, values: dict) -> dict:
    weights = [values["gate"], values["up"], values["down"].T]
    gradients = [values["grad_gate"], values["grad_up"], values["grad_down"].T]
    scores = {method: structure_scores(method, weights, gradients) for method in ("l1", "l2", "taylor")}
    return scores | {f"{method}_kept": top(s, case["config"]["keep"]) for method, s in scores.items()}


def parameter_counts(case: dict) -> dict:
    """The stored table samples every entry where it has at most 64; a row gives the sizes it is computed from."""
    expected = case["outputs"]["table"]
    rows, columns = expected["shape"]
    given = np.full(rows * columns, np.nan)
    given[expected["index"]] = expected["values"]
    table = []
    for row in given.reshape(rows, columns):
        fields = dict(zip(case["config"]["columns"], row, strict=True))
        hidden = int(fields["hidden_size"])
        config = LlamaConfig(
            vocab_size=int(fields["vocab_size"]),
            hidden_size=hidden,
            num_hidden_layers=int(fields["num_layers"]),
            intermediate_size=feed_forward_size(hidden),
            num_attention_heads=hidden // 128,
            tie_word_embeddings=False,
        )
        counted = count_parameters(config)
        sizes = [config.vocab_size, hidden, config.num_hidden_layers, config.intermediate_size]
        table.append([*sizes, counted.total, counted.embedding_share])
    return {"table": np.asarray(table)}
