"""What is compared of a SAM: embeddings, the decoder's tokens, masks and scores, of one forward pass."""

from typing import NamedTuple

import torch
from torch import nn


class Outputs(NamedTuple):
    """Image embeddings (batch, channels, side, side), tokens (batch, prompts, tokens, width), logits (batch, prompts,
    masks, side, side), scores (batch, prompts, masks)."""

    embeddings: torch.Tensor
    tokens: torch.Tensor
    logits: torch.Tensor
    scores: torch.Tensor


def segment(
    model: nn.Module, points: torch.Tensor | None = None, boxes: torch.Tensor | None = None, network=None, **image
) -> Outputs:
    """One pass.

    Args:
        model: the SAM itself. network: what is called, where it is wrapped for several processes.
        points: (batch, prompts, 2), a prompt each, in pixels of the picture; boxes: (batch, prompts, 4).
        image: `pixel_values` or `image_embeddings`.
    """
    kept: dict = {}
    handles = [
        model.vision_encoder.register_forward_hook(lambda m, a, output: kept.update(embeddings=output[0])),
        model.mask_decoder.transformer.register_forward_hook(lambda m, a, output: kept.update(tokens=output[0])),
    ]
    prompts = {} if boxes is None else {"input_boxes": boxes.float()}
    if points is not None:
        labels = torch.ones(points.shape[:2], dtype=torch.int64, device=points.device)
        prompts |= {"input_points": points[:, :, None].float(), "input_labels": labels[:, :, None]}
    try:
        outputs = (network or model)(**image, **prompts)
    finally:
        for handle in handles:
            handle.remove()
    embeddings = kept.get("embeddings", image.get("image_embeddings"))
    return Outputs(embeddings, kept["tokens"], outputs.pred_masks, outputs.iou_scores)
