"""The one table of architectures: everything the package knows about them is read from here.

A line per architecture. From it come the registrations with transformers' Auto classes, `list_models`, the command
line, the tables of README and docs, and the common tests. Adding an architecture means adding a line.
"""

import importlib
import logging
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType

from ._imports import register_lazily, when_imported

logger = logging.getLogger(__name__)

#: transformers' image processor classes by backend, where ConvNeXT's resize-and-centre-crop rule is the model's own.
CONVNEXT_PROCESSOR = MappingProxyType({"pil": "ConvNextImageProcessorPil", "torchvision": "ConvNextImageProcessor"})


@dataclass(frozen=True)
class Architecture:
    """One architecture.

    Attributes:
        model_type: the configuration's `model_type`, the key of the table.
        title: the name as the paper writes it.
        package: the package with `configuration_<name>.py` (which holds `PRESETS`) and `modeling_<name>.py`.
        config: the configuration class.
        auto_classes: transformers Auto class -> our class.
        paper: title of the paper; `arxiv` its number.
        repository: the official code.
        image_processor: transformers' image processor class per backend (empty where there are no images).
        processor: our processor class in `processing_<name>.py`, of models that take images and text.
        tiny: configuration values of a network small enough for the common tests.
    """

    model_type: str
    title: str
    package: str
    config: str
    auto_classes: dict[str, str]
    paper: str
    arxiv: str
    repository: str
    image_processor: dict[str, str] = field(default_factory=dict)
    processor: str | None = None
    tiny: dict = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The last part of the package: its files are called `configuration_<name>.py` and so on."""
        return self.package.rpartition(".")[2]

    @property
    def configuration_module(self):
        return importlib.import_module(f"{self.package}.configuration_{self.name}")

    @property
    def modeling_module(self):
        return importlib.import_module(f"{self.package}.modeling_{self.name}")

    @property
    def conversion_module(self):
        return importlib.import_module(f"{self.package}.convert_{self.name}")

    @property
    def config_class(self):
        return getattr(self.configuration_module, self.config)

    @property
    def processor_class(self):
        return getattr(importlib.import_module(f"{self.package}.processing_{self.name}"), self.processor)

    @property
    def presets(self) -> dict[str, dict]:
        """The published variants of this architecture by name."""
        return {
            name: preset
            for name, preset in self.configuration_module.PRESETS.items()
            if preset["model_type"] == self.model_type
        }

    def model_class(self, auto_class: str):
        """Our class behind a transformers Auto class, such as `"AutoModel"`."""
        return getattr(self.modeling_module, self.auto_classes[auto_class])


def _vision_classes(prefix: str) -> dict[str, str]:
    return {
        "AutoModel": f"{prefix}Model",
        "AutoModelForImageClassification": f"{prefix}ForImageClassification",
        "AutoBackbone": f"{prefix}Backbone",
    }


def _decoder_classes(prefix: str) -> dict[str, str]:
    return {
        "AutoModel": f"{prefix}Model",
        "AutoModelForCausalLM": f"{prefix}ForCausalLM",
        "AutoModelForSequenceClassification": f"{prefix}ForSequenceClassification",
        "AutoModelForTokenClassification": f"{prefix}ForTokenClassification",
        "AutoModelForQuestionAnswering": f"{prefix}ForQuestionAnswering",
    }


_BACKBONES = "https://github.com/huawei-noah/Efficient-AI-Backbones/tree/master/"
# Five stages and two blocks with an attention gate: the smallest network that has every kind of layer.
_TINY_GHOSTNET = MappingProxyType(
    {
        "stem_size": 8,
        "stages": (
            ((3, 8, 8, 0, 1),),
            ((3, 24, 12, 0, 2),),
            ((5, 24, 16, 0.25, 2), (5, 32, 16, 0.25, 1)),
            ((3, 32, 20, 0, 2),),
            ((5, 40, 24, 0.25, 2), (5, 48, 24, 0, 1)),
        ),
        "final_size": 48,
        "head_size": 32,
        "image_size": 64,
    }
)

# Three experts, an odd number.
_TINY_PARAMETERNET = MappingProxyType({**_TINY_GHOSTNET, "width_multiplier": 1.0, "num_experts": 3})
# Grouped queries: the general case of the attention.
_TINY_DECODER = MappingProxyType(
    {
        "vocab_size": 96,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
    }
)
# Shallow: without trained batch norms the features of a deep one would overflow half precision.
_TINY_VIG = MappingProxyType(
    {
        "hidden_sizes": (16, 16, 16),
        "depths": (1, 2),
        "stem_stride": 8,
        "stage_strides": (1, 1),
        "reduction_ratios": (1, 1),
        "num_neighbors": (4, 9),
        "classifier_hidden_size": 32,
        "image_size": 64,
    }
)
_TINY_PYRAMID_VIG = MappingProxyType(
    {
        "hidden_sizes": (8, 8, 16),
        "depths": (1, 2),
        "stage_strides": (1, 2),
        "reduction_ratios": (2, 1),
        "classifier_hidden_size": 32,
        "image_size": 64,
    }
)

ARCHITECTURES: dict[str, Architecture] = {
    architecture.model_type: architecture
    for architecture in (
        Architecture(
            model_type="ghostnet",
            title="GhostNet",
            package="hf_effmodels.modeling.ghostnet",
            config="GhostNetConfig",
            auto_classes=_vision_classes("GhostNet"),
            paper="GhostNet: More Features from Cheap Operations",
            arxiv="1911.11907",
            repository=_BACKBONES + "ghostnet_pytorch",
            image_processor=CONVNEXT_PROCESSOR,
            tiny=_TINY_GHOSTNET,
        ),
        Architecture(
            model_type="ghostnetv2",
            title="GhostNetV2",
            package="hf_effmodels.modeling.ghostnet",
            config="GhostNetV2Config",
            auto_classes=_vision_classes("GhostNetV2"),
            paper="GhostNetV2: Enhance Cheap Operation with Long-Range Attention",
            arxiv="2211.12905",
            repository=_BACKBONES + "ghostnetv2_pytorch",
            image_processor=CONVNEXT_PROCESSOR,
            tiny=_TINY_GHOSTNET,
        ),
        Architecture(
            model_type="ghostnetv3",
            title="GhostNetV3",
            package="hf_effmodels.modeling.ghostnet",
            config="GhostNetV3Config",
            auto_classes=_vision_classes("GhostNetV3"),
            paper="GhostNetV3: Exploring the Training Strategies for Compact Models",
            arxiv="2404.11202",
            repository=_BACKBONES + "ghostnetv3_pytorch",
            image_processor=CONVNEXT_PROCESSOR,
            tiny=_TINY_GHOSTNET,
        ),
        Architecture(
            model_type="vanillanet",
            title="VanillaNet",
            package="hf_effmodels.modeling.vanillanet",
            config="VanillaNetConfig",
            auto_classes=_vision_classes("VanillaNet"),
            paper="VanillaNet: the Power of Minimalism in Deep Learning",
            arxiv="2305.12972",
            repository="https://github.com/huawei-noah/VanillaNet",
            image_processor=CONVNEXT_PROCESSOR,
            # Both kinds of pooling and a stage without.
            tiny={
                "hidden_sizes": [16, 16, 24, 32],
                "strides": [1, 2, 2],
                "act_num": 1,
                "adaptive_pool_sizes": [0, 0, 5],
                # The papers' 0.02 suits widths in the thousands.
                "initializer_range": 0.2,
                "image_size": 64,
            },
        ),
        Architecture(
            model_type="tinynet",
            title="TinyNet",
            package="hf_effmodels.modeling.tinynet",
            config="TinyNetConfig",
            auto_classes=_vision_classes("TinyNet"),
            paper="Model Rubik's Cube: Twisting Resolution, Depth and Width for TinyNets",
            arxiv="2010.14819",
            repository=_BACKBONES + "tinynet_pytorch",
            image_processor=CONVNEXT_PROCESSOR,
            # Both kinds of blocks, with and without a residual, and stochastic depth of rate 0.
            tiny={
                "stem_size": 8,
                "stages": [[1, 3, 1, 1, 8], [2, 3, 2, 6, 16], [2, 5, 2, 6, 24]],
                "final_size": 48,
                "image_size": 64,
            },
        ),
        Architecture(
            model_type="parameternet",
            title="ParameterNet",
            package="hf_effmodels.modeling.parameternet",
            config="ParameterNetConfig",
            auto_classes=_vision_classes("ParameterNet"),
            paper="ParameterNet: Parameters Are All You Need for Large-scale Visual Pretraining of Mobile Networks",
            arxiv="2306.14525",
            repository=_BACKBONES + "parameternet_pytorch",
            image_processor=CONVNEXT_PROCESSOR,
            tiny=_TINY_PARAMETERNET,
        ),
        Architecture(
            model_type="pangu_pi",
            title="PanGu-π",
            package="hf_effmodels.modeling.pangu_pi",
            config="PanguPiConfig",
            auto_classes=_decoder_classes("PanguPi"),
            paper="PanGu-π: Enhancing Language Model Architectures via Nonlinearity Compensation",
            arxiv="2312.17276",
            repository="https://arxiv.org/abs/2312.17276",  # no official code is public
            tiny=_TINY_DECODER | {"series_activations": ["silu", "tanh"], "augmented_shortcut_reduction": 8},
        ),
        Architecture(
            model_type="vig",
            title="ViG",
            package="hf_effmodels.modeling.vig",
            config="VigConfig",
            auto_classes=_vision_classes("Vig"),
            paper="Vision GNN: An Image is Worth Graph of Nodes",
            arxiv="2206.00272",
            repository=_BACKBONES + "vig_pytorch",
            image_processor=CONVNEXT_PROCESSOR,
            tiny=_TINY_VIG,
        ),
        Architecture(
            model_type="pyramidvig",
            title="Pyramid ViG",
            package="hf_effmodels.modeling.vig",
            config="PyramidVigConfig",
            auto_classes=_vision_classes("PyramidVig"),
            paper="Vision GNN: An Image is Worth Graph of Nodes",
            arxiv="2206.00272",
            repository=_BACKBONES + "vig_pytorch",
            image_processor=CONVNEXT_PROCESSOR,
            tiny=_TINY_PYRAMID_VIG,
        ),
        Architecture(
            model_type="parameternet_moe",
            title="ParameterNet-MoE",
            package="hf_effmodels.modeling.parameternet_moe",
            config="ParameterNetMoeConfig",
            auto_classes=_decoder_classes("ParameterNetMoe"),
            paper="ParameterNet: Parameters Are All You Need",
            arxiv="2306.14525",
            repository=_BACKBONES + "parameternet_pytorch",
            tiny=_TINY_DECODER | {"num_local_experts": 4},
        ),
        Architecture(
            model_type="adem_vl",
            title="ADEM-VL",
            package="hf_effmodels.modeling.adem_vl",
            config="AdemVLConfig",
            auto_classes={
                "AutoModel": "AdemVLModel",
                "AutoModelForImageTextToText": "AdemVLForConditionalGeneration",
                "AutoModelForMultimodalLM": "AdemVLForConditionalGeneration",
            },
            processor="AdemVLProcessor",
            image_processor=MappingProxyType({"pil": "CLIPImageProcessorPil", "torchvision": "CLIPImageProcessor"}),
            paper="ADEM-VL: Adaptive and Embedded Fusion for Efficient Vision-Language Tuning",
            arxiv="2410.17779",
            repository="https://github.com/Hao840/ADEM-VL",
            tiny={
                "text_config": {
                    "model_type": "llama",
                    "hidden_size": 32,
                    "intermediate_size": 48,
                    "num_hidden_layers": 2,
                    "num_attention_heads": 4,
                    "num_key_value_heads": 2,
                    "vocab_size": 99,
                },
                "vision_config": {
                    "model_type": "clip_vision_model",
                    "hidden_size": 24,
                    "intermediate_size": 48,
                    "num_hidden_layers": 3,
                    "num_attention_heads": 2,
                    "patch_size": 8,
                    "image_size": 32,
                },
                "pool_sizes": [4, 2],
                "projector_hidden_size": 8,
                "vision_adapter_dim": 4,
                "image_token_id": 98,
            },
        ),
    )
}


#: diffusers pipelines: name -> package with `configuration_<name>.py` (plain data), `create.py`, `convert_<name>.py`.
PIPELINES = {"sam_diffsr": "hf_effmodels.pipelines.sam_diffsr"}


def pipeline_configuration(preset: str):
    """The configuration module of the diffusers pipeline that has this preset, or None."""
    for name, package in PIPELINES.items():
        module = importlib.import_module(f"{package}.configuration_{name}")
        if preset in module.PRESETS:
            return module
    return None


def pipeline_presets() -> list[str]:
    """Presets of all diffusers pipelines."""
    modules = (importlib.import_module(f"{package}.configuration_{name}") for name, package in PIPELINES.items())
    return [preset for module in modules for preset in module.PRESETS]


def public_class_names() -> list[str]:
    """Names of all configuration and model classes, for `from hf_effmodels import ...`."""
    names = {name for a in ARCHITECTURES.values() for name in (a.config, a.processor, *a.auto_classes.values())}
    return sorted(names - {None})


def load_public_class(name: str, module: str):
    """The configuration or model class `name`; AttributeError as of `module` if there is none."""
    for architecture in ARCHITECTURES.values():
        if name == architecture.config:
            return architecture.config_class
        if name == architecture.processor:
            return architecture.processor_class
        if name in architecture.auto_classes.values():
            return getattr(architecture.modeling_module, name)
    raise AttributeError(f"module {module!r} has no attribute {name!r}")


def register_with_transformers() -> None:
    """Register every architecture with transformers' Auto classes, each part when its Auto module gets imported.

    PEFT methods are registered when peft gets imported.
    """
    auto = "transformers.models.auto"
    when_imported(f"{auto}.configuration_auto", _register_configurations)
    when_imported(f"{auto}.modeling_auto", _register_models)
    when_imported(f"{auto}.image_processing_auto", _register_image_processors)
    when_imported(f"{auto}.processing_auto", _register_processors)
    when_imported("peft", partial(importlib.import_module, "hf_effmodels.adapters"))


def _ours() -> list[Architecture]:
    """All but those whose `model_type` transformers itself has taken since: there ours steps back."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    return [a for a in ARCHITECTURES.values() if a.model_type not in CONFIG_MAPPING_NAMES]


def _register_configurations() -> None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    ours = _ours()
    for architecture in ours:
        register_lazily(CONFIG_MAPPING, architecture.model_type, partial(getattr, architecture, "config_class"))
    for architecture in ARCHITECTURES.values():
        if architecture not in ours:
            logger.warning(
                "transformers has a model of its own called %r: it is used by the Auto classes; hf_effmodels' stays "
                "available as hf_effmodels.%s.",
                architecture.model_type,
                architecture.auto_classes["AutoModel"],
            )


def _register_models() -> None:
    from transformers.models.auto import modeling_auto

    for architecture in _ours():
        for auto_class in architecture.auto_classes:
            mapping = getattr(modeling_auto, auto_class)._model_mapping
            register_lazily(mapping, architecture.config_class, partial(architecture.model_class, auto_class))
        if name := architecture.auto_classes.get("AutoModelForImageTextToText"):
            # pipeline("image-text-to-text") looks the names up here, and complains about those it does not find.
            modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.setdefault(architecture.model_type, name)


def _register_image_processors() -> None:
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING

    for architecture in _ours():
        if architecture.image_processor:
            classes = partial(_image_processor_classes, architecture)
            register_lazily(IMAGE_PROCESSOR_MAPPING, architecture.config_class, classes)


def _register_processors() -> None:
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    for architecture in _ours():
        if architecture.processor:
            load = partial(getattr, architecture, "processor_class")
            register_lazily(PROCESSOR_MAPPING, architecture.config_class, load)


def _image_processor_classes(architecture: Architecture) -> dict[str, type]:
    import transformers

    return {backend: getattr(transformers, name) for backend, name in available_processors(architecture).items()}


def available_processors(architecture: Architecture) -> dict[str, str]:
    """The architecture's image processor classes whose backend is installed."""
    from transformers.utils import is_torchvision_available

    return {
        backend: name
        for backend, name in architecture.image_processor.items()
        if backend != "torchvision" or is_torchvision_available()
    }
