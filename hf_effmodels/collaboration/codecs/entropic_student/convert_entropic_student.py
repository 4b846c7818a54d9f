"""Official checkpoints of Entropic Student (SC2 Benchmark, and the earlier supervised-compression) -> ours."""

import re

import torch

from ....hub.fit import foreign
from ....hub.torchvision_resnet import RULES as TORCHVISION
from ..hyperprior import scale_table
from ..prior import COMPRESSAI, COMPRESSAI_CONSTANTS
from .configuration_entropic_student import CodedConfig

IGNORED = re.compile(COMPRESSAI_CONSTANTS)
RESHAPED = re.compile(r"(?!)")
#: Tables, of a code that learns still.
MAY_BE_EMPTY = re.compile(r"\.(_quantized_cdf|_offset|_cdf_length|scale_table)$")

#: timm's RegNets -> transformers'.
_TIMM = (
    (r"^s(\d)\.b(\d+)\.", lambda m: f"regnet.encoder.stages.{int(m[1]) - 1}.layers.{int(m[2]) - 1}."),
    (r"\.conv1\.conv\b", ".layer.0.convolution"),
    (r"\.conv1\.bn\b", ".layer.0.normalization"),
    (r"\.conv2\.conv\b", ".layer.1.convolution"),
    (r"\.conv2\.bn\b", ".layer.1.normalization"),
    (r"\.se\.fc1\b", ".layer.2.attention.0"),
    (r"\.se\.fc2\b", ".layer.2.attention.2"),
    (r"\.conv3\.conv\b", ".layer.3.convolution"),
    (r"\.conv3\.bn\b", ".layer.3.normalization"),
    (r"\.downsample\.conv\b", ".shortcut.convolution"),
    (r"\.downsample\.bn\b", ".shortcut.normalization"),
    (r"^head\.fc\b", "classifier.1"),
)

#: Applied one after the other. `WIDTH` and `SIDE.` are the places that depend on the width of the code and on whether
#: its prior has a side code, which `adapt` knows.
RULES = (
    (r"^backbone\.", ""),  # of 2022
    (r"^bottleneck_layer\.(?:encoder|g_a)\.([024])\.", lambda m: f"bottleneck.convolutions.{int(m[1]) // 2}."),
    (r"^bottleneck_layer\.(?:encoder|g_a)\.([13])\.", lambda m: f"bottleneck.norms.WIDTH.{int(m[1]) // 2}."),
    (r"^bottleneck_layer\.(?:decoder|g_s)\.", "bottleneck.decoder."),
    (r"^bottleneck_layer\.h_a\.", "bottleneck.priors.WIDTH.analysis."),
    (r"^bottleneck_layer\.h_s\.", "bottleneck.priors.WIDTH.synthesis."),
    (r"^bottleneck_layer\.entropy_bottleneck\.", "bottleneck.priors.WIDTH.SIDE."),
    (r"^bottleneck_layer\.gaussian_conditional\.", "bottleneck.priors.WIDTH."),
    *COMPRESSAI,
    *_TIMM,
    *TORCHVISION,
    (r"^(resnet|regnet|classifier)\.", r"network.\1."),
)


def adapt(state_dict: dict, config: CodedConfig) -> CodedConfig:
    """Rename what depends on the configuration, and set the tables that the file has; without any the code learns.

    Raises:
        ConversionError: a file without a bottleneck. ValueError: tables of other deviations than CompressAI's.
    """
    if not any(name.startswith("bottleneck.") for name in state_dict):
        raise foreign("It has no bottleneck_layer.")
    width = config.widths[0]
    side = "side." if any(".analysis." in name for name in state_dict) else ""
    for name in list(state_dict):
        ours = name.replace(".WIDTH.", f".{width}.").replace(".SIDE.", f".{side}")
        if ours != name:
            state_dict[ours] = state_dict.pop(name)
    scales = state_dict.pop(f"bottleneck.priors.{width}.scale_table", None)
    if scales is not None and scales.numel():
        expected = scale_table().to(scales.dtype)
        if scales.shape != expected.shape or not torch.allclose(scales, expected, rtol=1e-4):
            raise ValueError("gaussian_conditional.scale_table: its deviations are not CompressAI's.")
    tables = state_dict.get(f"bottleneck.priors.{width}.{side}quantized_cdf")
    config.table_lengths = [tables.shape[1]] if tables is not None and tables.ndim == 2 else None
    return config
