"""Configuration of LightCLIP-style models (https://arxiv.org/abs/2312.00674) and sizes to begin with."""

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, CLIPTextConfig
from transformers.configuration_utils import PreTrainedConfig, SubConfigSpec

from ...architecture import Preset

MATCHINGS = ("relaxed", "one_to_one")
TOKEN_PROJECTIONS = ("shared", "own")

_RESNET_18 = {
    "layer_type": "basic",
    "depths": [2, 2, 2, 2],
    "hidden_sizes": [64, 128, 256, 512],
    "image_size": 224,
}


@strict
class LightClipConfig(PreTrainedConfig):
    r"""
    Configuration of an image tower and a short CLIP text tower, and of what trains them. The paper's own settings were
    not at hand: the defaults are this project's.

    Args:
        vision_config: of the image tower, any vision model of transformers or of this package. A ResNet-18 by default.
        text_config: a `CLIPTextConfig` or its fields; 8 layers by default, CLIP has 12.
        projection_dim: width of the common space.
        logit_scale_init_value: logarithm of the factor of the cosines at the beginning, ln(1 / 0.07).
        vision_hidden_size: channels of the image tower's output; None finds out.
        reparameterized: the image tower's batch norms are folded for deployment (see `reparameterize()`).
        initializer_factor: of all standard deviations at initialisation, as of CLIP.

    Training only; `LightClipModel` has none of it:

    Args:
        token_loss_weight: of the loss over words and patches; with 0 it is not computed.
        token_top_k: patches of a word.
        token_matching: "relaxed", or "one_to_one", in which no patch has two words.
        token_projection: "shared": tokens go through the projections of the whole image and text; "own": through
            projections of their own.
        mlm_loss_weight: of masked language modelling; with 0 there are neither fusion nor head.
        mlm_causal: the pass over masked texts sees what comes before only, as CLIP's.
        fusion_layers: numbers of text layers after which a fusion with the image comes, 0 for before the first; the
            last has none after it. None for every second one, 2, 4, 6 of 8.
        fusion_num_attention_heads: None for as many as in the text tower.
        fusion_detach: the image tower learns nothing from masked texts.
        uniform_softening: the other pairs share what the own pair gives up evenly, not by their similarity.
    """

    model_type = "light_clip"
    sub_configs_defaults = {
        "vision_config": SubConfigSpec(config_class=AutoConfig, model_type="resnet", init_kwargs=_RESNET_18),
        "text_config": SubConfigSpec(config_class=CLIPTextConfig, init_kwargs={"num_hidden_layers": 8}),
    }

    vision_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    projection_dim: int = 512
    logit_scale_init_value: float | int = 2.6592
    vision_hidden_size: int | None = None
    reparameterized: bool = False
    initializer_factor: float | int = 1.0
    token_loss_weight: float | int = 1.0
    token_top_k: int = 1
    token_matching: str = "relaxed"
    token_projection: str = "shared"
    mlm_loss_weight: float | int = 1.0
    mlm_causal: bool = False
    fusion_layers: list[int] | tuple[int, ...] | None = None
    fusion_num_attention_heads: int | None = None
    fusion_detach: bool = True
    uniform_softening: bool = False

    def __post_init__(self, **kwargs):
        if isinstance(self.vision_config, dict) and "model_type" not in self.vision_config:
            self.vision_config = {**_RESNET_18, **self.vision_config}
        if isinstance(self.text_config, dict):
            self.text_config = {"num_hidden_layers": 8, **self.text_config}
        super().__post_init__(**kwargs)
        layers = getattr(self.text_config, "num_hidden_layers", 0)
        if self.fusion_layers is None:
            self.fusion_layers = list(range(2, layers, 2)) or [max(layers - 1, 0)]
        self.fusion_layers = list(self.fusion_layers)
        if self.fusion_num_attention_heads is None:
            self.fusion_num_attention_heads = getattr(self.text_config, "num_attention_heads", 1)
        folded = self.reparameterized or getattr(self.vision_config, "reparameterized", False)
        if folded and hasattr(self.vision_config, "reparameterized"):
            self.vision_config.reparameterized = True
        self.reparameterized = bool(folded)

    def validate_architecture(self):
        """Checks across fields; called by `__init__`."""
        text, vision = self.text_config, self.vision_config
        if text.model_type != "clip_text_model":
            raise ValueError(
                f"text_config: got model_type {text.model_type!r}, accepted is 'clip_text_model' (of a full CLIP "
                "configuration, its text_config)."
            )
        if hasattr(vision, "vision_config") or hasattr(vision, "text_config"):
            raise ValueError(
                f"vision_config: got model_type {vision.model_type!r}, which is more than an image tower; "
                "accepted are vision models (of a full CLIP configuration, its vision_config)."
            )
        for name in ("projection_dim", "token_top_k", "fusion_num_attention_heads", "vision_hidden_size"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, accepted are whole numbers from 1.")
        for name in ("token_loss_weight", "mlm_loss_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}: got {getattr(self, name)}, accepted are numbers from 0.")
        for name, accepted in (("token_matching", MATCHINGS), ("token_projection", TOKEN_PROJECTIONS)):
            if getattr(self, name) not in accepted:
                choices = " and ".join(map(repr, accepted))
                raise ValueError(f"{name}: got {getattr(self, name)!r}, accepted are {choices}.")
        if self.reparameterized and not hasattr(vision, "reparameterized"):
            raise ValueError(
                f"reparameterized: got True, but an image tower {vision.model_type!r} has nothing to fold."
            )
        if self.token_matching == "one_to_one" and self.token_top_k != 1:
            raise ValueError(f"token_top_k: got {self.token_top_k}, accepted is 1 with one_to_one.")
        layers = self.fusion_layers
        if sorted(set(layers)) != layers or not all(0 <= layer < text.num_hidden_layers for layer in layers):
            raise ValueError(
                f"fusion_layers: got {layers}, accepted are rising numbers from 0 to {text.num_hidden_layers - 1}: "
                f"the text tower has {text.num_hidden_layers} layers."
            )
        if text.hidden_size % self.fusion_num_attention_heads:
            raise ValueError(
                f"fusion_num_attention_heads: got {self.fusion_num_attention_heads}, which does not divide the text "
                f"tower's width {text.hidden_size}."
            )

    @property
    def image_size(self) -> int | list[int]:
        """Side of the images that the image tower is for."""
        return getattr(self.vision_config, "image_size", None) or 224

    @property
    def num_channels(self) -> int:
        return getattr(self.vision_config, "num_channels", 3)

    @property
    def mask_token_id(self) -> int:
        """What stands for a masked word in `mlm_input_ids`: one past the vocabulary, which stays as it is."""
        return self.text_config.vocab_size


_PROCESSOR = {
    "size": {"shortest_edge": 224},
    "crop_size": {"height": 224, "width": 224},
    "resample": 3,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}


def _preset(vision_config: dict, parameters: float, vision: tuple[float, float]) -> Preset:
    """Sizes of this project's choice: the paper's towers were not at hand, and no weights are published.

    Args:
        parameters: of both towers with their projections, in millions.
        vision: parameters and multiply-adds of the image tower in millions.
    """
    return Preset(
        model_type="light_clip",
        config={"vision_config": vision_config},
        image_processor=_PROCESSOR,
        parameters=parameters,
        part_parameters={"image tower": vision[0], "text tower": 50.556},
        part_macs={"image tower": vision[1], "text tower, 77 tokens": 1986.3},
    )


PRESETS: dict[str, Preset] = {
    "light_clip-resnet-18": _preset({"model_type": "resnet", **_RESNET_18}, 62.257, (11.177, 1813.6)),
    "light_clip-mobilenet-v2": _preset({"model_type": "mobilenet_v2", "image_size": 224}, 53.698, (2.224, 299.5)),
    "light_clip-tinyvit-5m": _preset({"model_type": "tinyvit"}, 56.054, (5.072, 1254.9)),
    "light_clip-ghostnetv3-1.0x": _preset({"model_type": "ghostnetv3"}, 56.928, (5.618, 401.6)),
}
