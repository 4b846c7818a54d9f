"""Prompts by hand, as users of segment-anything know them: an image is encoded once and asked many times."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ...images import read_image
from .embedding import Embedded, embed


@dataclass(frozen=True)
class Masks:
    """What a prompt gives, or each of several prompts.

    Attributes:
        masks: booleans at the size of the image, (masks, height, width), with (prompts, ...) in front for several.
        scores: the model's guess of the quality of each, (masks,).
        logits: at the decoder's size, (masks, height, width); one of them may be given to `predict` as `mask`.
    """

    masks: torch.Tensor
    scores: torch.Tensor
    logits: torch.Tensor

    @property
    def best(self) -> torch.Tensor:
        """The mask with the best score, (height, width), with (prompts,) in front for several."""
        index = self.scores.argmax(-1)[..., None, None, None]
        return self.masks.take_along_dim(index, dim=-3).squeeze(-3)


class MaskPredictor:
    """Encodes images for prompts. It keeps nothing of an image: what `encode` returns does.

    ```python
    predictor = MaskPredictor(model, image_processor)
    image = predictor.encode("photo.jpg")
    mask = image.predict(points=[[320, 240]], labels=[1]).best
    boxes = image.predict(boxes=[[10, 20, 200, 300], [50, 50, 90, 90]])  # two prompts
    ```

    Args:
        model: any promptable model of transformers (SAM, SAM-HQ, SAM 2, EdgeTAM, TinySAM, ...), in evaluation mode.
        processor: its image processor, or the processor around it.
    """

    def __init__(self, model, processor):
        self.model = model
        self.image_processor = getattr(processor, "image_processor", processor)

    def encode(self, image) -> "EncodedImage":
        """Run the image encoder.

        Args:
            image: what `hf_effmodels.images.read_image` takes: a PIL image, a file, an array; gray, 16-bit, CMYK and
                rotated ones, too.
        """
        return EncodedImage(embed(self.model, self.image_processor, read_image(image)))


@dataclass(frozen=True)
class EncodedImage:
    """An image that can be asked for masks, as often as wanted and from several threads."""

    embedded: Embedded

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.embedded.size

    def predict(
        self,
        points: Sequence | np.ndarray | torch.Tensor | None = None,
        labels: Sequence | np.ndarray | torch.Tensor | None = None,
        boxes: Sequence | np.ndarray | torch.Tensor | None = None,
        mask: np.ndarray | torch.Tensor | None = None,
        *,
        multimask: bool = True,
        threshold: float = 0.0,
    ) -> Masks:
        """Masks for a prompt, or for each of several.

        Args:
            points: (points, 2), x and y in pixels of the image; (prompts, points, 2) for several prompts.
            labels: (points,), or (prompts, points): 1 in the object, 0 outside. All 1 if left out.
            boxes: (4,), left, top, right, bottom in pixels of the image; (prompts, 4) for several prompts.
            mask: logits of a mask of before, (height, width) of the decoder (see `Masks.logits`).
            multimask: several masks for ambiguous prompts; one otherwise, where the model has it.
            threshold: logits above it are in the mask.

        Raises:
            ValueError: no prompt, one outside of the image, or sizes that do not fit each other.
        """
        if points is None and boxes is None:
            raise ValueError("points: got None, and boxes: got None; one of the two is needed.")
        if points is None and labels is not None:
            raise ValueError("labels: given without points.")
        prompts, several = {}, False
        if points is not None:
            points = _numbers("points", points)
            several = points.ndim == 3
            if points.ndim not in (2, 3) or points.shape[-1] != 2 or not points.numel():
                raise ValueError(
                    f"points: got shape {tuple(points.shape)}, accepted are (points, 2) and (prompts, points, 2)."
                )
            self._check_inside("points", points)
            labels = torch.ones(points.shape[:-1]) if labels is None else _numbers("labels", labels)
            if labels.shape != points.shape[:-1]:
                raise ValueError(
                    f"labels: got shape {tuple(labels.shape)}, expected {tuple(points.shape[:-1])}: one of each point."
                )
            if not ((labels == 0) | (labels == 1)).all():
                raise ValueError(f"labels: got {labels.tolist()}, accepted are 1 (in the object) and 0 (outside).")
            if not several:
                points, labels = points[None], labels[None]
            prompts = {"input_points": self.embedded.to_model(points), "input_labels": labels.long()}
        if boxes is not None:
            boxes = _numbers("boxes", boxes)
            if boxes.ndim not in (1, 2) or boxes.shape[-1] != 4 or not boxes.numel():
                raise ValueError(f"boxes: got shape {tuple(boxes.shape)}, accepted are (4,) and (prompts, 4).")
            self._check_inside("boxes", boxes.reshape(-1, 2))
            if (boxes[..., :2] > boxes[..., 2:]).any():
                raise ValueError(f"boxes: got {boxes.tolist()}, accepted are left, top, right, bottom.")
            if points is not None and (boxes.ndim == 2) != several:
                raise ValueError(
                    f"boxes: got shape {tuple(boxes.shape)}; points has {'several' if several else 'one'}."
                )
            several = boxes.ndim == 2
            boxes = boxes if several else boxes[None]
            if points is not None and len(boxes) != len(points):
                raise ValueError(f"boxes: got {len(boxes)} prompts, points has {len(points)}.")
            prompts["input_boxes"] = self.embedded.to_model(boxes.reshape(-1, 2, 2)).reshape(-1, 4)
        device, dtype = self.embedded.model.device, self.embedded.model.dtype
        prompts = {name: value[None].to(device) for name, value in prompts.items()}
        for name in ("input_points", "input_boxes"):
            if name in prompts:
                prompts[name] = prompts[name].to(torch.float32 if dtype != torch.float64 else dtype)
        if mask is not None:
            mask = _numbers("mask", mask)
            sides = self._decoder_sides()
            if tuple(mask.shape[-2:]) != sides or mask.numel() != sides[0] * sides[1]:
                raise ValueError(f"mask: got shape {tuple(mask.shape)}, expected {sides}, the decoder's size.")
            prompts["input_masks"] = mask.reshape(1, 1, *sides).to(device, dtype)
        logits, scores = self.embedded.decode(**prompts, multimask_output=multimask)
        large = torch.stack([self.embedded.enlarge(of_prompt) for of_prompt in logits])
        masks = large > threshold
        return Masks(masks, scores, logits) if several else Masks(masks[0], scores[0], logits[0])

    def _decoder_sides(self) -> tuple[int, int]:
        embeddings = self.embedded.inputs["image_embeddings"]
        last = embeddings[-1] if isinstance(embeddings, list | tuple) else embeddings
        return tuple(4 * side for side in last.shape[-2:])

    def _check_inside(self, name: str, points: torch.Tensor) -> None:
        height, width = self.size
        inside = (points >= 0).all() and (points[..., 0] <= width).all() and (points[..., 1] <= height).all()
        if not inside:
            raise ValueError(
                f"{name}: got {points.tolist()}, accepted are x from 0 to {width} and y from 0 to {height}."
            )


def _numbers(name: str, values) -> torch.Tensor:
    try:
        tensor = torch.as_tensor(values if isinstance(values, torch.Tensor) else np.asarray(values))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: got {values!r}, accepted are numbers, as many for each prompt ({error}).") from None
    tensor = tensor.double()
    if not torch.isfinite(tensor).all():
        raise ValueError(f"{name}: got {values!r}, accepted are finite numbers.")
    return tensor
