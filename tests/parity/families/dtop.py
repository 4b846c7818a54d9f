"""DToP: heads, canvas and the tokens that leave, in evaluation and in training with its losses."""

import torch

from hf_effmodels.hub.convert import convert_state_dict
from hf_effmodels.modeling.dtop.configuration_dtop import DtopConfig
from hf_effmodels.modeling.dtop.modeling_dtop import class_scores, segmentation_losses
from hf_effmodels.registry import ARCHITECTURES

from .. import golden

SYSTEMS = ("dtop",)


def _configuration(c: dict) -> DtopConfig:
    return DtopConfig(
        backbone_config={
            "model_type": "vit",
            "image_size": c["image_size"],
            "patch_size": c["patch_size"],
            "hidden_size": c["hidden_size"],
            "intermediate_size": 4 * c["hidden_size"],
            "num_hidden_layers": c["num_layers"],
            "num_attention_heads": c["num_heads"],
            "layer_norm_eps": 1e-6,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
        },
        num_labels=c["num_classes"],
        out_indices=c["out_indices"],
        thresholds=c["thresholds"],
        head_hidden_size=c["head_channels"],
        head_num_layers=c["head_layers"],
        head_num_attention_heads=c["head_heads"],
        # The cases have all dropout off.
        head_dropout=0.0,
        drop_path_rate=0.0,
    )


def run(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    config, values = _configuration(case["config"]), golden.inputs(case, dtype)
    model, _ = convert_state_dict(ARCHITECTURES["dtop"], config, golden.state_dict(case, dtype))
    seen = []
    for head in model.heads:
        head.register_forward_pre_hook(lambda module, args: seen.append(args))
    labels = None
    if "labels" in values:
        model.train()
        cell = case["config"]["image_size"] // case["config"]["label_grid"]
        labels = values["labels"].repeat_interleave(cell, 1).repeat_interleave(cell, 2)
        labels[:, :cell, :cell] = 255
    outputs = model(values["pixel_values"], labels=labels)
    side = case["config"]["image_size"] // case["config"]["patch_size"]
    before, results = torch.zeros_like(outputs.finished_tokens[0]), {"segmentation": outputs.logits}
    *auxiliary, last = range(len(model.heads))
    losses = {}
    for number in (*auxiliary, last):
        name = "main" if number == last else f"aux{number}"
        tokens, valid = seen[number]
        whole = tokens.new_zeros(*before.shape, tokens.shape[-1])
        whole[~before] = tokens[torch.ones(tokens.shape[:2], dtype=torch.bool) if valid is None else valid]
        classes, masks = outputs.class_logits[number], outputs.mask_logits[number]
        after = outputs.finished_tokens[number]
        results |= {
            f"{name}_tokens": whole,
            f"{name}_finished_before": before,
            f"{name}_finished_after": after,
            f"{name}_attn_canvas": masks,
            f"{name}_pred_logits": classes,
            f"{name}_pred": class_scores(classes, masks),
        }
        before = after
        if labels is not None:
            of_head = segmentation_losses(classes, masks, labels, (side, side), config)
            losses |= {f"loss_{name}_loss_{'ce' if k == 'class' else k}": v.reshape(1) for k, v in of_head.items()}
    results["tokens_finished"] = torch.stack([finished.sum(1) for finished in outputs.finished_tokens])
    if labels is not None:
        outputs.loss.backward()
        results |= losses | {
            "loss_total": outputs.loss.reshape(1),
            "grad_patch_embed": model.vit.embeddings.patch_embeddings.projection.weight.grad,
            "grad_query_main": model.heads[last].queries.weight.grad,
            **{f"grad_query_aux{number}": model.heads[number].queries.weight.grad for number in auxiliary},
        }
    return results
