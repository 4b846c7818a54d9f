"""An image as a promptable model of transformers has it: encoded once, with its sizes, and asked many times.

SAM, SAM-HQ, SAM 2, EdgeTAM, SAM 3's tracker, TinySAM: they differ in what an image becomes and in how it is resized.
"""

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image


@dataclass(frozen=True)
class Embedded:
    """An encoded image.

    Attributes:
        model, image_processor: what encoded it.
        inputs: arguments of the model that stand for the image.
        size: height and width of the image in pixels.
        resized: height and width it has in front of the model, without padding.
    """

    model: Any
    image_processor: Any
    inputs: dict[str, Any]
    size: tuple[int, int]
    resized: tuple[int, int]

    def to_model(self, points: torch.Tensor) -> torch.Tensor:
        """Points (..., 2), x and y in pixels of the image, as the model wants them: in pixels of what it sees."""
        return self._scaled(points, self.size, self.resized)

    def to_image(self, points: torch.Tensor) -> torch.Tensor:
        """Points (..., 2) in pixels of what the model sees, in those of the image."""
        return self._scaled(points, self.resized, self.size)

    @staticmethod
    def _scaled(points: torch.Tensor, old: tuple[int, int], new: tuple[int, int]) -> torch.Tensor:
        scale = [after / before for before, after in zip(old, new, strict=True)]
        return points * torch.tensor([scale[1], scale[0]], dtype=points.dtype, device=points.device)

    @torch.no_grad()
    def decode(self, **prompts) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (prompts, masks, height, width), at the decoder's size, and scores (prompts, masks).

        Args:
            prompts: arguments of the model, for one image and in its pixels: `input_points` (1, prompts, points, 2),
                `input_labels`, `input_boxes` (1, prompts, 4), ...
        """
        outputs = self.model(**self.inputs, **prompts)
        return outputs.pred_masks[0], outputs.iou_scores[0]

    def ask_points(self, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`decode` for points (n, 2) in pixels of what the model sees, each a prompt of its own."""
        device = self.model.device
        if device.type == "mps":  # has no float64
            points = points.float()
        labels = torch.ones(1, len(points), 1, dtype=torch.int64, device=device)
        return self.decode(input_points=points[None, :, None].to(device), input_labels=labels)

    def enlarge(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits (masks, height, width) of the decoder at the size of the image."""
        sizes = {"reshaped_input_sizes": [list(self.resized)]}
        accepted = inspect.signature(self.image_processor.post_process_masks).parameters
        [masks] = self.image_processor.post_process_masks(
            [logits[None]],
            [list(self.size)],
            binarize=False,
            **{name: value for name, value in sizes.items() if name in accepted},
        )
        return masks[0]


@torch.no_grad()
def embed(model, image_processor, image: Image.Image | Any) -> Embedded:
    """Encode an RGB image (or an array, channels first) with a promptable model of transformers."""
    inputs = image_processor(images=image, return_tensors="pt")
    pixels = inputs["pixel_values"].to(model.device, model.dtype)
    size = tuple(int(side) for side in inputs["original_sizes"][0])
    resized = inputs.get("reshaped_input_sizes")
    # Without padding the image is stretched to the model's square.
    resized = tuple(int(side) for side in (resized[0] if resized is not None else pixels.shape[-2:]))
    embeddings = model.get_image_embeddings(pixels)
    arguments = {"image_embeddings": embeddings}
    if isinstance(embeddings, tuple):  # SAM-HQ
        arguments = {"image_embeddings": embeddings[0], "intermediate_embeddings": embeddings[1]}
    return Embedded(model, image_processor, arguments, size, resized)
