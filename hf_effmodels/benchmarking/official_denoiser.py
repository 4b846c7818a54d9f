"""SRDiff's denoiser as its authors write it down: what SAM-DiffSR's is timed against.

Mish by its formula, padding as a layer of its own, and the condition projected at every step. Weights and outputs are
those of the network given.
"""

import torch
from torch import nn
from torch.nn import functional as F

from ..pipelines.sam_diffsr.modeling_sam_diffsr import ResnetBlock, SamDiffSRUNet2DModel, timestep_embedding


def mish(x: torch.Tensor) -> torch.Tensor:
    return x * torch.tanh(F.softplus(x))


def conv3x3(conv: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), conv.weight, conv.bias, conv.stride)


def residual_block(block: ResnetBlock, x: torch.Tensor, time_embedding: torch.Tensor) -> torch.Tensor:
    h = mish(conv3x3(block.conv1, x))
    h = h + block.time_emb_proj(mish(time_embedding))[:, :, None, None]
    h = mish(conv3x3(block.conv2, h))
    return h + (x if block.conv_shortcut is None else block.conv_shortcut(x))


class OfficialDenoiser(nn.Module):
    """One step: (batch, 3, H, W) noisy residuals, (batch,) timesteps, condition maps (batch, c, h, w) -> the noise.

    Args:
        unet: the network whose weights are used; without attention and without the bicubic image as an input, as
            published.
    """

    def __init__(self, unet: SamDiffSRUNet2DModel):
        super().__init__()
        if unet.config.use_attention or unet.config.upsampled_input:
            raise ValueError("unet: use_attention and upsampled_input are off in the published network.")
        self.unet = unet

    def forward(self, sample: torch.Tensor, timesteps: torch.Tensor, condition: list[torch.Tensor]) -> torch.Tensor:
        unet = self.unet
        condition = unet.condition_proj(torch.cat(list(condition), dim=1))
        embedding = timestep_embedding(timesteps, unet.config.hidden_size, sample.dtype).to(sample.dtype)
        embedding = unet.time_embedding.linear_2(mish(unet.time_embedding.linear_1(embedding)))
        x, skips = sample, []
        for level, block in enumerate(unet.down_blocks):
            for resnet in block.resnets:
                x = residual_block(resnet, x, embedding)
            if level == 0:
                x = x + condition
            skips.append(x)
            if block.downsample is not None:
                x = conv3x3(block.downsample, x)
        for resnet in unet.mid_block.resnets:
            x = residual_block(resnet, x, embedding)
        for block in unet.up_blocks:
            x = torch.cat([x, skips.pop()], dim=1)
            for resnet in block.resnets:
                x = residual_block(resnet, x, embedding)
            x = block.upsample(x)
        return unet.conv_out(mish(conv3x3(unet.conv_features, x)))


class DenoisingStep(nn.Module):
    """A step of our pipeline after its first: the projected condition is kept, as it is the same at every step."""

    def __init__(self, unet: SamDiffSRUNet2DModel):
        super().__init__()
        self.unet = unet
        self.condition = None

    def forward(self, sample: torch.Tensor, timesteps: torch.Tensor, condition: list[torch.Tensor]) -> torch.Tensor:
        given = condition if self.condition is None or torch.is_grad_enabled() else self.condition
        output = self.unet(sample, timesteps, given)
        self.condition = output.condition
        return output.sample
