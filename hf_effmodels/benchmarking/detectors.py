"""What Gold-YOLO is set beside: its official deployed form, and transformers' detectors of its size."""

from types import MethodType

import torch
from torch import nn
from torch.nn import functional as F
from transformers import (
    DFineConfig,
    DFineForObjectDetection,
    HGNetV2Config,
    RTDetrConfig,
    RTDetrForObjectDetection,
    RTDetrResNetConfig,
)

from ..models import create_model, get_config

#: Of rtdetr_r18vd, as published.
_RT_DETR_R18 = {
    "encoder_in_channels": [128, 256, 512],
    "hidden_expansion": 0.5,
    "decoder_layers": 3,
}
_RT_DETR_R18_BACKBONE = {"hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2], "layer_type": "basic"}
#: Of dfine_n_coco, as published.
_D_FINE_N = {
    "num_feature_levels": 2,
    "feat_strides": [16, 32],
    "d_model": 128,
    "encoder_hidden_dim": 128,
    "encoder_ffn_dim": 512,
    "encode_proj_layers": [1],
    "encoder_in_channels": [512, 1024],
    "decoder_in_channels": [128, 128],
    "decoder_ffn_dim": 512,
    "decoder_n_points": [6, 6],
    "decoder_layers": 3,
    "depth_mult": 0.5,
    "hidden_expansion": 0.34,
}
_D_FINE_N_BACKBONE = {
    "hidden_sizes": [128, 256, 512, 1024],
    "stem_channels": [3, 16, 16],
    "stage_in_channels": [16, 64, 256, 512],
    "stage_mid_channels": [16, 32, 64, 128],
    "stage_out_channels": [64, 256, 512, 1024],
    "stage_num_blocks": [1, 1, 2, 1],
    "stage_downsample": [False, True, True, True],
    "stage_light_block": [False, False, True, True],
    "stage_kernel_size": [3, 3, 5, 5],
    "stage_numb_of_layers": [3, 3, 3, 3],
    "out_features": ["stage3", "stage4"],
    "use_learnable_affine_block": True,
}


def rt_detr_r18(preset: str, folded: bool, overrides: dict) -> nn.Module:
    """transformers' RT-DETR over a ResNet-18, of the preset's classes and channels."""
    config = get_config(preset, **overrides)
    stages = ["stage2", "stage3", "stage4"]
    backbone = RTDetrResNetConfig(**_RT_DETR_R18_BACKBONE, out_features=stages, num_channels=config.num_channels)
    sizes = {**_RT_DETR_R18, "num_labels": config.num_labels}
    return RTDetrForObjectDetection(RTDetrConfig(**sizes, backbone_config=backbone)).eval()


def d_fine_n(preset: str, folded: bool, overrides: dict) -> nn.Module:
    """transformers' D-FINE of the smallest size, of the preset's classes and channels."""
    config = get_config(preset, **overrides)
    channels = config.num_channels
    stem = [channels, *_D_FINE_N_BACKBONE["stem_channels"][1:]]
    backbone = HGNetV2Config(**{**_D_FINE_N_BACKBONE, "stem_channels": stem}, num_channels=channels)
    sizes = {**_D_FINE_N, "num_labels": config.num_labels}
    return DFineForObjectDetection(DFineConfig(**sizes, backbone_config=backbone)).eval()


def official_gold_yolo(preset: str, folded: bool, overrides: dict) -> nn.Module:
    """The official deployed form: RepVGG's blocks and YOLOv6's convolutions are folded; injections, the high-stage
    fusion and both ends of the low-stage one keep their batch norms; activations make a new
    tensor; the contiguous layout."""
    from ..modeling.gold_yolo.modeling_gold_yolo import (
        GoldYoloConv,
        GoldYoloLowFusion,
        GoldYoloPlainConv,
        GoldYoloRepBlock,
    )

    model = create_model(preset, **overrides)
    if not folded:
        return model
    kept = {module for module in model.modules() if isinstance(module, GoldYoloPlainConv)}
    kept |= {end for fusion in model.modules() if isinstance(fusion, GoldYoloLowFusion)
             for end in (fusion.enter, fusion.leave)}  # fmt: skip
    for module in list(model.modules()):
        if hasattr(module, "fold") and module not in kept:
            module.fold()
        if isinstance(module, GoldYoloConv):
            module.forward = MethodType(_convolution, module)
        elif isinstance(module, GoldYoloRepBlock):
            module.forward = MethodType(_block, module)
    return model


def _convolution(self, hidden_states: torch.Tensor) -> torch.Tensor:
    hidden_states = self.conv(hidden_states)
    hidden_states = hidden_states if self.norm is None else self.norm(hidden_states)
    return (F.silu if self.activation == "silu" else F.relu)(hidden_states)


def _block(self, hidden_states: torch.Tensor) -> torch.Tensor:
    return F.relu(self.conv(hidden_states))
