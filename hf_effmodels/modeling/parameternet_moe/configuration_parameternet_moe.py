"""Configuration of ParameterNet's language model (https://arxiv.org/abs/2306.14525) and its published sizes."""

from huggingface_hub.dataclasses import strict

from ...architecture import Preset
from ..decoders.configuration_decoder import DecoderConfig


@strict
class ParameterNetMoeConfig(DecoderConfig):
    r"""Configuration of a LLaMA whose down projections are mixtures of experts, one of which each token uses.

    Args:
        num_local_experts: experts of each layer's down projection.
        expert_bias: whether the experts have biases, the only ones of the published model.
        router_aux_loss_coef: factor of the balance loss in the training loss.
        output_router_logits: return every layer's router logits and the balance loss also outside of training, where
            the balance loss is added to the loss, too.
        mask_padding_in_balance: leave padding out of the balance loss; the official code counts it.

    Everything else is `DecoderConfig`'s, as LLaMA has it.
    """

    model_type = "parameternet_moe"
    keys_to_ignore_at_inference = ["past_key_values", "cache", "router_logits", "aux_loss"]
    # The router reads the whole hidden activation of the feed-forward, so only the attention is split.
    base_model_tp_plan = {
        name: style for name, style in DecoderConfig.base_model_tp_plan.items() if ".self_attn." in name
    }

    num_local_experts: int = 8
    expert_bias: bool = True
    router_aux_loss_coef: float | int = 0.01
    output_router_logits: bool = False
    mask_padding_in_balance: bool = False

    def validate_architecture(self):
        super().validate_architecture()
        if self.num_local_experts < 1:
            raise ValueError(f"num_local_experts: got {self.num_local_experts}, accepted are whole numbers from 1.")
        if self.router_aux_loss_coef < 0:
            raise ValueError(f"router_aux_loss_coef: got {self.router_aux_loss_coef}, accepted are numbers from 0.")


#: Published sizes. Parameters in millions (of which 937 are used for a token); MACs in millions: linear layers for one
#: token. `llama_1b`, the dense model of the paper's comparison, is a plain LLaMA of the same width and depth.
PRESETS: dict[str, Preset] = {
    "parameternet-moe-1b": Preset(
        model_type="parameternet_moe",
        config={
            "vocab_size": 32000,
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": 12,
            "num_attention_heads": 16,
            "num_local_experts": 8,
            "pad_token_id": 0,
        },
        parameters=2346.699,
        macs=871.6,
    ),
}
