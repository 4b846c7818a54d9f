"""What every vision model does with the images it is given."""

import torch


def check_pixels(pixel_values: torch.Tensor | None, num_channels: int) -> None:
    """Raise ValueError unless these are images: floating point, (batch, num_channels, height, width)."""
    if not hasattr(pixel_values, "is_floating_point"):
        got = "None" if pixel_values is None else f"a {type(pixel_values).__name__}"
        raise ValueError(f"pixel_values: got {got}, expected a tensor (batch, channels, height, width).")
    if pixel_values.ndim != 4 or pixel_values.shape[1] != num_channels:
        raise ValueError(
            f"pixel_values: got shape {tuple(pixel_values.shape)}, expected (batch, {num_channels}, height, width) "
            f"as config.num_channels is {num_channels}."
        )
    if not pixel_values.is_floating_point():
        raise ValueError(
            f"pixel_values: got {pixel_values.dtype}, expected floating point: images as the image processor "
            "normalises them."
        )


class PixelsMixin:
    """Gives a PreTrainedModel of images the method `prepare_pixels`."""

    #: Unfolded models, too, run fastest with channels last, on a CPU in evaluation.
    channels_last_on_cpu = False

    def prepare_pixels(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Check images of shape (batch, channels, height, width) and lay them out as the model computes fastest.

        Raises:
            ValueError: see `check_pixels`; `config.num_channels` channels are expected.
        """
        check_pixels(pixel_values, self.config.num_channels)
        # Exported programs leave the layout to the runtime that compiles them.
        folded = self.config.reparameterized and not torch.compiler.is_exporting()
        unfolded = self.channels_last_on_cpu and not self.training and pixel_values.device.type == "cpu"
        if folded or unfolded:
            return pixel_values.contiguous(memory_format=torch.channels_last)
        return pixel_values
