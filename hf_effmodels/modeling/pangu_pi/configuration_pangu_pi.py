"""Configuration of PanGu-π (https://arxiv.org/abs/2312.17276) and its sizes."""

from huggingface_hub.dataclasses import strict
from transformers.activations import ACT2CLS

from ...architecture import Preset
from ..decoders.configuration_decoder import DecoderConfig


@strict
class PanguPiConfig(DecoderConfig):
    r"""Configuration of a PanGu-π decoder: LLaMA's, and the two modules that compensate for its weak nonlinearity.

    Args:
        series_activations: functions σ_i of the series informed activation Σ σ_i(a_i x + b_i) that replaces the gate's
            activation (equations 7 and 9), by transformers' names. None, the default, is `hidden_act` twice (n = 2, as
            published); an empty list is the plain activation without learned scale and bias.
        num_augmented_shortcuts: number T of bottlenecks beside each attention (equation 4), 0 for none.
        augmented_shortcut_reduction: r; a bottleneck is `max(1, hidden_size // r)` wide.
        augmented_shortcut_act: the activation inside the bottleneck.
        augmented_shortcut_input: what the bottleneck sees: "normalized", the tensor that feeds queries, keys and
            values, or "residual", the hidden state before the normalisation.

    Everything else is `DecoderConfig`'s, as LLaMA has it. With an empty `series_activations` and no augmented shortcut
    the network is `LlamaForCausalLM`.
    """

    model_type = "pangu_pi"
    # The series' scales and biases are split as the columns of the gate are; `local_params` on their module lets its
    # forward see this process's part.
    base_model_tp_plan = {
        **DecoderConfig.base_model_tp_plan,
        "layers.*.mlp.act_fn": "local_params",
        "layers.*.mlp.act_fn.scale": "embedding_colwise",
        "layers.*.mlp.act_fn.bias": "embedding_colwise",
        "layers.*.augmented_shortcuts.*.down_proj": "colwise",
        "layers.*.augmented_shortcuts.*.up_proj": "rowwise",
    }

    series_activations: list[str] | tuple[str, ...] | None = None
    num_augmented_shortcuts: int = 1
    augmented_shortcut_reduction: int = 32
    augmented_shortcut_act: str = "gelu"
    augmented_shortcut_input: str = "normalized"

    def __post_init__(self, **kwargs):
        if self.series_activations is None:
            self.series_activations = [self.hidden_act, self.hidden_act]
        self.series_activations = list(self.series_activations)
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        super().validate_architecture()
        for name in (*self.series_activations, self.augmented_shortcut_act, self.hidden_act):
            if name not in ACT2CLS:
                raise ValueError(
                    f"activation: got {name!r} in series_activations, augmented_shortcut_act or hidden_act, accepted "
                    f"are {', '.join(sorted(ACT2CLS))}."
                )
        if self.num_augmented_shortcuts < 0:
            raise ValueError(
                f"num_augmented_shortcuts: got {self.num_augmented_shortcuts}, accepted are whole numbers from 0."
            )
        if self.augmented_shortcut_reduction < 1:
            raise ValueError(
                f"augmented_shortcut_reduction: got {self.augmented_shortcut_reduction}, accepted are whole numbers "
                "from 1."
            )
        if self.augmented_shortcut_input not in ("normalized", "residual"):
            raise ValueError(
                f"augmented_shortcut_input: got {self.augmented_shortcut_input!r}, accepted are 'normalized' and "
                "'residual'."
            )

    @property
    def augmented_shortcut_size(self) -> int:
        """Width of a bottleneck."""
        return max(1, self.hidden_size // self.augmented_shortcut_reduction)


def _preset(
    parameters: float, macs: float, vocab: int, hidden: int, intermediate: int, layers: int, heads: int, **more
) -> Preset:
    config = {"vocab_size": vocab, "hidden_size": hidden, "intermediate_size": intermediate}
    config |= {"num_hidden_layers": layers, "num_attention_heads": heads, **more}
    return Preset(model_type="pangu_pi", config=config, parameters=parameters, macs=macs)


#: Sizes. Parameters in millions, the embedding and the head (two matrices) included; MACs in millions: linear layers
#: for one token. 1B and 7B: hidden size, heads, layers and vocabulary as published, the feed-forward width derived
#: from the published parameters. The Pro models (https://arxiv.org/abs/2402.02791) are published without saying
#: whether they keep the two modules; here they do (0.5 % of their parameters), and the feed-forward width of 1.5B Pro,
#: which is not published either, follows the rule of the others (8/3 of the hidden size, up to a multiple of 256), so
#: that it has fewer parameters than its name. 15m, 60m and 160m are ours, for experiments.
PRESETS: dict[str, Preset] = {
    # parameters, MACs, vocabulary, hidden size, feed-forward width, layers, heads
    "pangu-pi-15m": _preset(14.992, 13.89, 4096, 256, 768, 15, 4),
    "pangu-pi-60m": _preset(59.860, 55.56, 8192, 512, 1536, 15, 8),
    "pangu-pi-160m": _preset(160.532, 147.8, 16384, 768, 2048, 19, 12),
    "pangu-pi-1b": _preset(1033.247, 826.3, 100883, 2048, 5632, 12, 16),
    "pangu-pi-7b": _preset(6727.241, 6312.5, 100883, 4096, 11008, 29, 32),
    "pangu-pi-1b-pro": _preset(995.605, 909.1, 48000, 1792, 4864, 21, 14, rms_norm_eps=1e-5),
    "pangu-pi-1.5b-pro": _preset(1333.328, 1234.4, 48000, 2048, 5632, 22, 16, rms_norm_eps=1e-5),
}
