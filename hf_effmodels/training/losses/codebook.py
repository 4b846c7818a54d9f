"""How an image tokenizer learns its codebook (VQ-VAE, https://arxiv.org/abs/1711.00937), weighed as in VQGAN."""

import torch

from .checks import exact


def codebook_loss(latents: torch.Tensor, quantized: torch.Tensor, commitment_cost: float = 0.25) -> torch.Tensor:
    """mean((sg(q) - z)²) + `commitment_cost` · mean((q - sg(z))²): the weights sit the other way round than in VQ-VAE.

    Args:
        latents: z, of any shape.
        quantized: q, the codes nearest to them, of the same shape.
    """
    if latents.shape != quantized.shape:
        shapes = f"{tuple(latents.shape)} and {tuple(quantized.shape)}"
        raise ValueError(f"latents, quantized: got the shapes {shapes}, expected the same.")
    latents, quantized = exact(latents), exact(quantized)
    to_codes = (quantized.detach() - latents).square().mean()
    return to_codes + commitment_cost * (quantized - latents.detach()).square().mean()


def straight_through(latents: torch.Tensor, quantized: torch.Tensor) -> torch.Tensor:
    """The values of `quantized`, the gradient of `latents`."""
    return latents + (quantized - latents).detach()
