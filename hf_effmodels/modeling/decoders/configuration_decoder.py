"""Configuration of a decoder in LLaMA's layout; each architecture adds its own fields.

Not a subclass of `LlamaConfig`: importing that imports transformers' Auto classes, with which ours are registered.
"""

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig


@strict
class DecoderConfig(PreTrainedConfig):
    r"""A decoder in LLaMA's layout: pre-normalisation, gated feed-forward, rotary embedding.

    Args:
        vocab_size: number of tokens.
        hidden_size: width of the residual stream.
        intermediate_size: width of the feed-forward.
        num_hidden_layers: number of blocks.
        num_attention_heads: number of query heads; `num_key_value_heads` of keys and values, None for as many.
        head_dim: width of a head, None for `hidden_size // num_attention_heads`.
        hidden_act: activation of the gate.
        max_position_embeddings: longest sequence it is trained on.
        rope_parameters: rotary embedding, such as `{"rope_type": "default", "rope_theta": 10000.0}`.
        rms_norm_eps: added to the mean square.
        initializer_range: standard deviation of the initial weights.
        tie_word_embeddings: whether the head is the embedding.
        attention_bias, mlp_bias: whether the linear layers of the attention and the feed-forward have biases.
        attention_dropout: dropout of the attention weights.
        classifier_dropout: dropout before the token classifier.
        use_cache: whether keys and values are returned for generation.
        pad_token_id, bos_token_id, eos_token_id: special tokens.
    """

    keys_to_ignore_at_inference = ["past_key_values", "cache"]  # its name up to transformers 5.23, and since
    base_model_tp_plan = {
        "layers.*.self_attn.q_proj": "colwise",
        "layers.*.self_attn.k_proj": "colwise",
        "layers.*.self_attn.v_proj": "colwise",
        "layers.*.self_attn.o_proj": "rowwise",
        "layers.*.mlp.gate_proj": "colwise",
        "layers.*.mlp.up_proj": "colwise",
        "layers.*.mlp.down_proj": "rowwise",
    }

    vocab_size: int = 32000
    hidden_size: int = 2048
    intermediate_size: int = 5632
    num_hidden_layers: int = 12
    num_attention_heads: int = 16
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    hidden_act: str = "silu"
    max_position_embeddings: int = 2048
    rope_parameters: dict | None = None
    rms_norm_eps: float = 1e-6
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    attention_dropout: float | int | None = 0.0
    classifier_dropout: float | int = 0.1
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2

    def __post_init__(self, **kwargs):
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if self.head_dim is None and self.num_attention_heads > 0:
            self.head_dim = self.hidden_size // self.num_attention_heads
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        for name in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, accepted are whole numbers from 1.")
        if self.head_dim < 2 or self.head_dim % 2:
            raise ValueError(
                f"head_dim: got {self.head_dim} (hidden_size {self.hidden_size}, num_attention_heads "
                f"{self.num_attention_heads}), accepted are even numbers: the rotary embedding turns pairs."
            )
        if self.num_key_value_heads < 1 or self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_key_value_heads: got {self.num_key_value_heads}, accepted are divisors of num_attention_heads, "
                f"{self.num_attention_heads}."
            )
