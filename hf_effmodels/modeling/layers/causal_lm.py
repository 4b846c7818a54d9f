"""What the decoders share with LLaMA, in a form that keeps the precision of the model.

transformers' LLaMA computes norms, rotary tables and the loss in float32 whatever the model's dtype. Here a float64
model is float64 throughout, so that it can be compared with a reference to the last digit; in every other dtype the
numbers are LLaMA's own (on CPU to the last bit).
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers.loss.loss_utils import ForCausalLMLoss, fixed_cross_entropy
from transformers.models.llama.modeling_llama import LlamaRMSNorm, LlamaRotaryEmbedding


class RMSNorm(LlamaRMSNorm):
    """Root mean square normalisation, x / √(mean(x²) + ε) · weight, over the last dimension.

    One kernel instead of LLaMA's six: less to launch for each generated token.
    """

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if hidden_states.dtype in (torch.bfloat16, torch.float16):
            # LLaMA rounds before it multiplies, the kernel with a weight afterwards.
            return self.weight * F.rms_norm(hidden_states, self.weight.shape, eps=self.variance_epsilon)
        return F.rms_norm(hidden_states, self.weight.shape, self.weight, self.variance_epsilon)


class RotaryEmbedding(LlamaRotaryEmbedding):
    """Rotary position tables; for a float64 model with unscaled frequencies in float64."""

    @torch.no_grad()
    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if x.dtype != torch.float64 or self.rope_type != "default":
            return super().forward(x, position_ids)
        size = 2 * self.inv_freq.shape[0]
        exponents = torch.arange(0, size, 2, dtype=torch.float64, device=x.device) / size
        angles = position_ids[..., None].double() * self.config.rope_parameters["rope_theta"] ** -exponents
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos(), angles.sin()


def causal_lm_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    vocab_size: int,
    num_items_in_batch: torch.Tensor | int | None = None,
    ignore_index: int = -100,
    shift_labels: torch.Tensor | None = None,
    **kwargs,
) -> torch.Tensor:
    """Cross entropy of the next token: transformers' own, but of float64 logits in float64.

    Args:
        logits: (batch, length, vocabulary).
        labels: (batch, length); position t is predicted at t - 1, `ignore_index` is left out.
        vocab_size: size of the last dimension of `logits`.
        num_items_in_batch: divide the sum by this instead of by the number of labels.
        shift_labels: labels that are shifted already.
    """
    if logits.dtype != torch.float64:
        return ForCausalLMLoss(logits, labels, vocab_size, num_items_in_batch, ignore_index, shift_labels, **kwargs)
    if shift_labels is None:
        shift_labels = nn.functional.pad(labels, (0, 1), value=ignore_index)[..., 1:]
    targets = shift_labels.reshape(-1).to(logits.device)
    return fixed_cross_entropy(logits.reshape(-1, vocab_size), targets, num_items_in_batch, ignore_index, **kwargs)
