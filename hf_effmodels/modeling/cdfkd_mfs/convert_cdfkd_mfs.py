"""Official checkpoints of CDFKD-MFS -> ours: students (`shared_...`), those of CDFKD (`layer4_1`, ...), teachers."""

import re

from .configuration_cdfkd_mfs import CdfkdMfsConfig

IGNORED = re.compile(r"(^|\.)total_(ops|params)$")
RESHAPED = re.compile(r"(?!)")


def _stage(pattern: str, end: str) -> tuple:
    """A rule whose first group is the number of a stage, from 1; `end` goes on with the others."""
    return pattern, lambda m: f"stages.{int(m[1]) - 1}.blocks." + m.expand(end)


#: Applied one after the other; names of modules as well as of their weights. The last block of a student's stage is
#: called `top` until `adapt`, which knows how many there are.
RULES = (
    # Wide ResNets: pre-activation, so that a block's second batch norm follows its first convolution.
    (r"^((?:shared_layer|block)\d+\.layer\.\d+)\.bn1\b", r"\1.norm.norm"),
    (r"^((?:shared_layer|block)\d+\.layer\.\d+)\.conv1\b", r"\1.conv1.conv"),
    (r"^((?:shared_layer|block)\d+\.layer\.\d+)\.bn2\b", r"\1.conv1.norm"),
    (r"\.convShortcut\b", ".shortcut"),
    _stage(r"^(?:shared_layer|block)(\d+)\.layer\.", ""),
    (r"^(?:shared_layer|block)(\d+)$", lambda m: f"stages.{int(m[1]) - 1}"),
    # ResNets.
    (r"^layer4_2\.(\d+)\.", r"branches.\1."),
    (r"^((?:shared_)?layer\w+(?:\.\d+)?|branches\.\d+)\.conv([12])\b", r"\1.conv\2.conv"),
    (r"^((?:shared_)?layer\w+(?:\.\d+)?|branches\.\d+)\.bn([12])\b", r"\1.conv\2.norm"),
    (r"\.(?:shortcut|downsample)\.0\b", ".shortcut.conv"),
    (r"\.(?:shortcut|downsample)\.1\b", ".shortcut.norm"),
    _stage(r"^shared_layer(\d+)_t\b", "top"),
    _stage(r"^(?:shared_layer(?=\d+_b)|layer)(\d+)(?:_b|_1)?\.", ""),
    # Stems, heads.
    (r"^shared_conv\.0\b", "stem.convolution.conv"),
    (r"^shared_conv\.1\b", "stem.convolution.norm"),
    (r"^shared_conv\.weight$", "stem.convolution.weight"),
    (r"^shared_conv$", "stem"),
    (r"^conv1\b", "stem.convolution.conv"),
    (r"^bn1\b", "stem.convolution.norm"),
    (r"^encoder(\d+)\b", lambda m: f"encoders.{int(m[1]) - 1}"),
    (r"\.op\.0\b", ".reduce_depthwise"),
    (r"\.op\.1\b", ".reduce.conv"),
    (r"\.op\.2\b", ".reduce.norm"),
    (r"\.op\.4\b", ".project_depthwise"),
    (r"\.op\.5\b", ".project.conv"),
    (r"\.op\.6\b", ".project.norm"),
    (r"^(?:linear|fc)\.(?=weight|bias)", "classifier.0."),
    (r"^linear\b", "classifier"),
)


def adapt(state_dict: dict, config: CdfkdMfsConfig) -> CdfkdMfsConfig:
    """Rename what depends on the number of blocks and on the kind of trunk; the configuration stays."""
    for name in list(state_dict):
        ours = name
        if (block := re.match(r"stages\.(\d+)\.blocks\.top\.", name)) and int(block[1]) < len(config.depths):
            ours = name.replace(".top.", f".{config.depths[int(block[1])] - 1}.", 1)
        elif config.trunk == "wide_resnet":
            ours = re.sub(r"^stem\.convolution\.norm\.", "norm.norm.", name)
            ours = re.sub(r"^stem\.convolution\.conv\.", "stem.convolution.", ours)
        if ours != name:
            state_dict[ours] = state_dict.pop(name)
    return config
