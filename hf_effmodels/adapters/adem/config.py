"""Configuration of the ADEM method."""

from dataclasses import dataclass, field

from peft.config import PeftConfig
from peft.utils import PeftType


@dataclass
class AdemConfig(PeftConfig):
    """
    Configuration of `AdemModel` (ADEM-VL, https://arxiv.org/abs/2410.17779, section 3).

    Every targeted feed-forward network becomes `mlp(n) + alpha · fuse(n)`. The trained parameters are the key and the
    value offsets, (1, num_vision_tokens, hidden size) each, shared by all layers.
    """

    target_modules: list[str] | str | None = field(
        default=None,
        metadata={
            "help": "Names (or a regular expression) of the feed-forward networks. By default those of the decoder's "
            "layers, for decoders of the LLaMA layout."
        },
    )
    exclude_modules: list[str] | str | None = field(
        default=None, metadata={"help": "Names (or a regular expression) of modules that are left as they are."}
    )
    alpha: float = field(default=0.1, metadata={"help": "Factor of the fusion before it is added (section 3.1)."})
    drop_ratio: float = field(
        default=0.1,
        metadata={"help": "Fraction of the visual tokens, those of the lowest score, that each token ignores."},
    )
    num_vision_tokens: int = field(
        default=320, metadata={"help": "Visual tokens per row: 256 + 64 of two scales in the paper."}
    )
    init_std: float = field(
        default=0.02,
        metadata={"help": "Standard deviation of the key offsets at the start; value offsets start at 0."},
    )
    layers_to_transform: list[int] | int | None = field(
        default=None, metadata={"help": "Indices of the layers to adapt; all by default."}
    )
    layers_pattern: list[str] | str | None = field(
        default=None, metadata={"help": "Name of the list of layers, where `layers_to_transform` needs it."}
    )
    modules_to_save: list[str] | None = field(
        default=None, metadata={"help": "Further modules to train and to save with the adapter, such as `lm_head`."}
    )

    def __post_init__(self):
        super().__post_init__()
        self.peft_type = PeftType.ADEM
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)
        if isinstance(self.exclude_modules, list):
            self.exclude_modules = set(self.exclude_modules)
        if isinstance(self.target_modules, str) and self.layers_to_transform is not None:
            raise ValueError(
                "layers_to_transform: cannot be used with a regular expression in target_modules, "
                f"got {self.target_modules!r}; write the layers into the expression."
            )
        if isinstance(self.target_modules, str) and self.target_modules.lower() == "all-linear":
            raise ValueError(
                f"target_modules: got {self.target_modules!r}, accepted are whole feed-forward networks, such as "
                '["mlp"]: what they read and give has the width of the decoder, a linear layer in them has another.'
            )
        if self.layers_pattern and self.layers_to_transform in (None, []):
            raise ValueError(
                f"layers_to_transform: got {self.layers_to_transform} with layers_pattern {self.layers_pattern!r}, "
                "accepted are the indices of layers in the lists of that name."
            )
        if not 0 <= self.drop_ratio < 1:
            raise ValueError(f"drop_ratio: got {self.drop_ratio}, accepted are values from 0 to below 1.")
        if not (isinstance(self.num_vision_tokens, int) and self.num_vision_tokens > 0):
            raise ValueError(f"num_vision_tokens: got {self.num_vision_tokens!r}, accepted are positive integers.")
        if self.init_std < 0:
            raise ValueError(f"init_std: got {self.init_std}, accepted are values from 0.")
