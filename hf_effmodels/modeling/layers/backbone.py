"""The forward pass of a backbone that is a stem and stages, one after the other."""

import torch
from transformers.backbone_utils import BackboneMixin, filter_output_hidden_states
from transformers.modeling_outputs import BackboneOutput
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple


class StagesBackboneMixin(BackboneMixin):
    """For a PreTrainedModel with `stem`, `stages` and `prepare_pixels`: feature maps are what each of them gives."""

    has_attentions = False

    @can_return_tuple
    @filter_output_hidden_states
    def forward(self, pixel_values: torch.Tensor, **kwargs: Unpack[TransformersKwargs]) -> BackboneOutput:
        """
        Args:
            pixel_values: normalised images, (batch, num_channels, height, width).
        """
        hidden_states = [self.stem(self.prepare_pixels(pixel_values))]
        for stage in self.stages:
            hidden_states.append(stage(hidden_states[-1]))
        feature_maps = tuple(hidden_states[self.stage_names.index(name)] for name in self.out_features)
        return BackboneOutput(feature_maps=feature_maps, hidden_states=tuple(hidden_states))
