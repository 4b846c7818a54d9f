"""LightCLIP-style losses: softened targets along the training, and words matched with patches."""

import torch
from torch.nn import functional as F

from hf_effmodels.modeling.light_clip.softened_contrastive import (
    progressive_softening,
    softened_contrastive_loss,
    softened_targets,
)
from hf_effmodels.modeling.light_clip.token_matching import match_words, token_matching_loss, token_scores

from .. import golden

SYSTEMS = ("light_clip",)


def _instances(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    values, config = golden.inputs(case, dtype), case["config"]
    progress, uniform = config["epoch"] / config["epochs"], config.get("uniform", False)
    alpha = progressive_softening(progress, config["max_softening"], config.get("schedule", "linear"))
    texts = (values["image_embeds"] + 1.5 * values["noise"]).requires_grad_()
    images = values["image_embeds"].requires_grad_()
    logits = config["logit_scale"] * F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).T
    loss = softened_contrastive_loss(images, texts, config["logit_scale"], alpha, uniform)
    loss.backward()
    return {
        "alpha": torch.tensor([alpha], dtype=torch.float64),
        "logits_per_image": logits,
        "targets_image_to_text": softened_targets(logits, alpha, uniform),
        "targets_text_to_image": softened_targets(logits.T, alpha, uniform),
        "loss": loss.reshape(1),
        "grad:image_embeds": images.grad,
        "grad:text_embeds": texts.grad,
    }


def _tokens(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    values, config = golden.inputs(case, dtype), case["config"]
    patches, words = values["patch_tokens"], values["word_tokens"].clone()
    shared = min(patches.shape[1], words.shape[1])
    words[:, :shared] += 0.8 * patches[:, :shared]
    patches, words = patches.requires_grad_(), words.requires_grad_()
    mask = torch.arange(words.shape[1]) < torch.tensor(config["word_lengths"])[:, None]
    options = {"top_k": config["top_k"], "matching": config["matching"]}
    own = F.normalize(words, dim=-1) @ F.normalize(patches, dim=-1).transpose(1, 2)
    loss = token_matching_loss(patches, words, mask, config["logit_scale"], **options)
    loss.backward()
    return {
        "matched_patches_own_pair": match_words(own, mask, **options).double(),
        "token_scores": token_scores(patches, words, mask, **options),
        "loss": loss.reshape(1),
        "grad:patch_tokens": patches.grad,
        "grad:word_tokens": words.grad,
    }


def run(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return _tokens(case, dtype) if "word_lengths" in case["config"] else _instances(case, dtype)
