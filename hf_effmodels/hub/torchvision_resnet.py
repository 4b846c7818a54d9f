"""torchvision's ResNets, and what research code built on them, as transformers' own `ResNetForImageClassification`."""

import re
from collections.abc import Mapping

import torch
from transformers import ResNetConfig, ResNetForImageClassification

RULES = (
    (r"^conv1\b", "resnet.embedder.embedder.convolution"),
    (r"^bn1\b", "resnet.embedder.embedder.normalization"),
    (r"^layer(\d)\.", lambda m: f"resnet.encoder.stages.{int(m[1]) - 1}.layers."),
    (r"\.conv(\d)\b", lambda m: f".layer.{int(m[1]) - 1}.convolution"),
    (r"\.bn(\d)\b", lambda m: f".layer.{int(m[1]) - 1}.normalization"),
    (r"\.downsample\.0\b", ".shortcut.convolution"),
    (r"\.downsample\.1\b", ".shortcut.normalization"),
    (r"^(fc|FC)\b", "classifier.1"),
)


def resnet_from_torchvision(state_dict: Mapping[str, torch.Tensor]) -> ResNetForImageClassification:
    """The model of a `state_dict` in torchvision's layout (ResNet-18 to -152; the classifier may be called `FC`).

    Depths, widths, kind of block and number of classes are read off the weights. In evaluation mode, in their dtype.

    Raises:
        ValueError: it is not of this layout, or entries are missing or left over.
    """
    weights = {}
    for name, value in state_dict.items():
        ours = name
        for pattern, replacement in RULES:
            ours = re.sub(pattern, replacement, ours)
        weights[ours] = value
    blocks = [re.match(r"resnet\.encoder\.stages\.(\d)\.layers\.(\d+)\.layer\.(\d)\.convolution", n) for n in weights]
    places = {(int(m[1]), int(m[2]), int(m[3])) for m in blocks if m}
    stem, head = weights.get("resnet.embedder.embedder.convolution.weight"), weights.get("classifier.1.weight")
    if not places or stem is None or head is None:
        raise ValueError(
            "state_dict: it has not the layout of torchvision's ResNets (conv1, layer1.0.conv1, ..., fc)."
        )
    stages, last = range(max(place[0] for place in places) + 1), max(place[2] for place in places)
    final = [
        weights.get(f"resnet.encoder.stages.{stage}.layers.0.layer.{last}.convolution.weight") for stage in stages
    ]
    if any(value is None for value in final):
        raise ValueError("state_dict: a stage of its ResNet has no first block, or another kind of block.")
    config = ResNetConfig(
        num_channels=stem.shape[1],
        embedding_size=stem.shape[0],
        hidden_sizes=[value.shape[0] for value in final],
        depths=[1 + max(block for stage, block, _ in places if stage == number) for number in stages],
        layer_type="bottleneck" if last == 2 else "basic",
        num_labels=head.shape[0],
    )
    with torch.device("meta"):
        model = ResNetForImageClassification(config)
    try:
        model.load_state_dict(weights, assign=True)  # counters of batch norms that are not there begin with 0
    except RuntimeError as error:
        raise ValueError(f"state_dict: {' '.join(str(error).split())}") from None
    return model.eval()
