"""DeViT: scores by HSIC, what widths cost, pruned sub-models, ensembles, and the losses of DEKD."""

import re

import torch
from torch.nn import functional as F

from hf_effmodels.compression.pruning.hsic import (
    centre,
    gaussian_kernel,
    kept_of,
    redundancy,
    relevance,
    score_part,
)
from hf_effmodels.compression.pruning.vision_widths import complexity, prune_part
from hf_effmodels.hub.convert import convert_state_dict, official_name
from hf_effmodels.modeling.devit.configuration_devit import DeViTConfig, part_sizes
from hf_effmodels.registry import ARCHITECTURES
from hf_effmodels.training.losses.dekd import feature_relation_loss, fused_token_loss
from hf_effmodels.training.losses.token_distillation import token_distillation_loss

from .. import golden

SYSTEMS = ("devit",)


def _convert(case: dict, dtype: torch.dtype, **config):
    config = DeViTConfig(**config)
    return convert_state_dict(ARCHITECTURES["devit"], config, golden.state_dict(case, dtype))[0]


def _base_loss(name: str, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The case names its cross entropy; both kinds smooth the labels by a share."""
    share = re.search(r"label_smoothing_([\d.]+)|\+([\d.]+)/C", name)
    return F.cross_entropy(logits, labels, label_smoothing=float(share[1] or share[2]))


def _distillation(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    config, values = case["config"], golden.inputs(case, dtype)
    logits = values["logits"].requires_grad_()
    distilled = values.get("dist_logits", logits)
    term = token_distillation_loss(distilled, values["teacher"], kind=config["type"], temperature=config["tau"])
    base = _base_loss(config["base"], logits, values["labels"])
    loss = (1 - config["alpha"]) * base + config["alpha"] * term
    loss.backward()
    return {"loss": loss, "grad.logits": logits.grad}


def _hsic(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    values = golden.inputs(case, dtype)
    kernel = gaussian_kernel(values["feature"], 4.0)
    return {
        "relevance": relevance(values["feature"], values["logits"].softmax(-1)),
        "redundancy": redundancy(values["feature"], values["other"]),
        "gauss_kernel_sigma4": kernel,
        "centered": centre(kernel),
    }


def _relation(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    values = golden.inputs(case, dtype)
    student = values["student"].requires_grad_()
    loss = feature_relation_loss(student, values["teacher"])
    loss.backward()
    return {"loss": loss, "grad.student": student.grad}


def _complexity(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    config = case["config"]
    heads = config["head"]
    found = complexity(
        config["neuron"],
        _head_ratios(case) if any(config["neuron"]) else None,
        hidden_size=config["emb"],
        heads=heads,
        mlp_ratio=config["mlp_ratio"],
        tokens=config["seq_length"],
        num_labels=config["num_class"],
    )
    return {
        name: torch.tensor(value, dtype=torch.float64)
        for name, value in (("params_m", found.parameters), ("flops_g", found.flops), ("macs_g", found.macs))
    }


def _head_ratios(case: dict) -> list[float]:
    """The shares of heads that a case of pruned widths prunes, which it does not state: the number of heads stands
    under the name of the ratios. Both formulas are linear in the heads that are left, whose sum is all that counts.
    It follows from the parameters, must be whole, and is checked by the operations, which are compared in full.
    """
    config = case["config"]
    sizes = {"hidden_size": config["emb"], "mlp_ratio": config["mlp_ratio"], "tokens": config["seq_length"]}
    sizes |= {"heads": config["head"], "num_labels": config["num_class"]}
    expected = case["outputs"]["params_m"]["values"][0]
    a_head = 4 * config["emb"] * (config["emb"] // config["head"]) / 1e6
    pruned = (complexity(config["neuron"], **sizes).parameters - expected) / a_head
    assert abs(pruned - round(pruned)) < 1e-6, f"{pruned} pruned heads"
    ratios = []
    for block in range(len(config["neuron"])):
        share = round(pruned) * (block + 1) // len(config["neuron"]) - round(pruned) * block // len(config["neuron"])
        ratios.append(1 - (config["head"] - share + 0.5) / config["head"])
    return ratios


def _shrink(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    config, pixels = case["config"], golden.inputs(case, dtype)["pixel_values"]
    model = _convert(
        case,
        dtype,
        part_type="deit" if config["distilled"] else "vit",
        parts=[part_sizes(config["embed"], config["depth"], config["heads"])],
        image_size=config["img"],
        patch_size=config["patch"],
        layer_norm_eps=config["layer_norm_eps"],
        num_labels=config["classes"],
    )
    heads, neurons = score_part(model, pixels)
    kept_heads = [kept_of(s, ratio) for s, ratio in zip(heads, config["head_ratio"], strict=True)]
    kept_neurons = [kept_of(s, ratio) for s, ratio in zip(neurons, config["neuron_ratio"], strict=True)]
    with torch.no_grad():
        full, shrunk = model(pixels), prune_part(model, kept_heads, kept_neurons)(pixels)
    tokens = shrunk.part_tokens[0].transpose(0, 1)
    return {
        "neuron_score": torch.stack(neurons),
        "head_score": torch.stack(heads),
        "neuron_mask": _masks(kept_neurons, neurons),
        "head_mask": _masks(kept_heads, heads),
        "logits_full": full.logits,
        "logits_shrunk": shrunk.logits,
        "tokens_shrunk": tokens if config["distilled"] else tokens[0],
    }


def _masks(kept: list[list[int]], scores: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack(
        [torch.zeros_like(s).index_fill(0, torch.tensor(k), 1.0) for k, s in zip(kept, scores, strict=True)]
    )


def _ensemble(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    config, values = case["config"], golden.inputs(case, dtype)
    model = _convert(
        case,
        dtype,
        part_type="deit" if config["distilled"] else "vit",
        parts=[part_sizes(config["embed"], config["depth"], config["heads"])] * len(config["sub_classes"]),
        fusion_hidden_size=config["teacher_size"],
        image_size=config["img"],
        patch_size=config["patch"],
        layer_norm_eps=config["layer_norm_eps"],
        num_labels=config["num_classes"],
    )
    outputs = model(values["pixel_values"])
    tokens = torch.stack(outputs.part_tokens)  # parts, batch, tokens, width
    results = {"logits": outputs.logits, "sub_cls": tokens[:, :, 0]}
    if config["distilled"]:
        results["sub_dist"] = tokens[:, :, 1]
    if config["teacher_size"] is None:
        return results
    base = F.cross_entropy(outputs.logits, values["labels"], label_smoothing=config["smoothing"])
    options = {"kind": config["distillation"], "temperature": config.get("tau", 1.0)}
    term = token_distillation_loss(outputs.logits, values["teacher_logits"], **options)
    results["cls_loss"] = (1 - config["alpha"]) * base + config["alpha"] * term
    results["token_loss"] = fused_token_loss(outputs.fused_tokens, values["teacher_token"].transpose(0, 1))
    (results["cls_loss"] + results["token_loss"]).backward()
    fused = outputs.fused_tokens.transpose(0, 1)
    results["fused"] = fused if config["distilled"] else fused[0]
    for name in case["outputs"]:
        if name.startswith("grad."):
            results[name] = _parameter(model, name.removeprefix("grad.")).grad
    return results


def _parameter(model, official: str) -> torch.nn.Parameter:
    ours = official_name(ARCHITECTURES["devit"], official)
    ours = re.sub(r"(\.layers\.\d+\.)norm1\b", r"\1norm_before", ours)
    return model.get_parameter(ours if ours.startswith("fusion.") else f"devit.{ours}")


def _decct(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    config = case["config"]
    depth = 1 + max(int(n) for n in re.findall(r"\.blocks\.(\d+)\.", " ".join(case["state_dict"])))
    hidden = case["state_dict"]["model.models.0.encoders.blocks.0.linear1.weight"][0]
    model = _convert(
        case,
        dtype,
        part_type="cct",
        parts=[part_sizes(config["sub_size"], depth, 4, hidden // config["sub_size"])] * config["num_sub_models"],
        fusion_hidden_size=config["teacher_size"],
        image_size=config["img_size"],
        tokenizer_kernel_size=config["kernel_size"],
        num_tokenizer_layers=config["n_conv_layers"],
        qkv_bias=False,
        layer_norm_eps=1e-5,
        num_labels=config["num_classes"],
    )
    with torch.no_grad():
        outputs = model(golden.inputs(case, dtype)["pixel_values"])
    return {"logits": outputs.logits, "sub_features": torch.stack(outputs.part_tokens)[:, :, 0]}


_KINDS = {
    "distill_loss": _distillation,
    "hsic": _hsic,
    "feature_relation_loss": _relation,
    "complexity": _complexity,
    "shrink": _shrink,
    "devit ensemble": _ensemble,
    "dedeit ensemble": _ensemble,
    "decct_7 ensemble": _decct,
}


def run(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return _KINDS[case["variant"]](case, dtype)
