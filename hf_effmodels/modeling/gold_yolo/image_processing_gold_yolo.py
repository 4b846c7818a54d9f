"""Image processor of Gold-YOLO: letterboxing, and boxes back to the image."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn import functional as F
from transformers.image_processing_backends import PilBackend, TorchvisionBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import PILImageResampling
from transformers.processing_utils import ImagesKwargs, Unpack

from ..layers.nms import select_detections
from .boxes_gold_yolo import to_centres, to_corners

#: Tells apart a missing field of an annotation.
_FIELDS = ("bbox", "category_id")


@dataclass(frozen=True)
class Letterbox:
    """An image scaled, its sides' ratio kept, and padded.

    Attributes:
        height, width: of the scaled image in pixels.
        top, left: padding before it.
        out_height, out_width: of the padded image.
        scale_x, scale_y: pixels of the scaled image per pixel of the original one, exactly.
        ratio: the wanted scale, which rounding to whole pixels missed a little.
    """

    height: int
    width: int
    top: int
    left: int
    out_height: int
    out_width: int
    scale_x: float
    scale_y: float
    ratio: float

    def forward(self, boxes: torch.Tensor) -> torch.Tensor:
        """Corners in the original image's pixels -> in the network input's."""
        return boxes * boxes.new_tensor([self.scale_x, self.scale_y] * 2) + boxes.new_tensor([self.left, self.top] * 2)

    def inverse(self, boxes: torch.Tensor) -> torch.Tensor:
        """Corners in the network input's pixels -> in the original image's."""
        boxes = boxes - boxes.new_tensor([self.left, self.top] * 2)
        return boxes / boxes.new_tensor([self.scale_x, self.scale_y] * 2)


def letterbox(
    height: int,
    width: int,
    size: tuple[int, int],
    *,
    auto: bool = False,
    divisor: int = 32,
    scale_up: bool = True,
    longest_edge: int | None = None,
) -> Letterbox:
    """How an image of height × width is scaled and padded to `size`.

    Args:
        size: (height, width) of the network's input.
        auto: pad to the next multiples of `divisor` only (the minimum rectangle).
        scale_up: make small images larger, too.
        longest_edge: scale the image's longer side to this, whatever `size` is (the other one rounded down), as the
            published evaluation does; then pad only.

    Raises:
        ValueError: the image, scaled to `longest_edge`, is larger than `size`.
    """
    if longest_edge is not None:
        ratio = longest_edge / max(height, width)
        if not scale_up:
            ratio = min(ratio, 1.0)
        new_height, new_width = max(int(height * ratio), 1), max(int(width * ratio), 1)
        if new_height > size[0] or new_width > size[1]:
            raise ValueError(
                f"longest_edge: got {longest_edge}, which makes an image of {height}×{width} one of "
                f"{new_height}×{new_width}, larger than size {size[0]}×{size[1]}."
            )
    else:
        ratio = min(size[0] / height, size[1] / width)
        if not scale_up:
            ratio = min(ratio, 1.0)
        new_height, new_width = max(round(height * ratio), 1), max(round(width * ratio), 1)
    pad_y, pad_x = size[0] - new_height, size[1] - new_width
    if auto:
        pad_y, pad_x = pad_y % divisor, pad_x % divisor
    if longest_edge is not None:
        top, left = pad_y // 2, pad_x // 2
    else:
        top, left = round(pad_y / 2 - 0.1), round(pad_x / 2 - 0.1)
    return Letterbox(
        new_height,
        new_width,
        top,
        left,
        new_height + pad_y,
        new_width + pad_x,
        new_width / width,
        new_height / height,
        ratio,
    )


def resize_image(image: torch.Tensor, height: int, width: int, by_area: bool = False) -> torch.Tensor:
    """Bilinear interpolation without antialiasing; `by_area`, where an image shrinks, averages of the covered area.

    Images (channels, height, width) of bytes stay such; others become float32.
    """
    if tuple(image.shape[-2:]) == (height, width):
        return image
    values = image.float()
    if by_area and height <= image.shape[-2] and width <= image.shape[-1]:
        values = _coverage(image.shape[-2], height) @ values @ _coverage(image.shape[-1], width).T
    else:
        values = F.interpolate(values[None], size=(height, width), mode="bilinear", align_corners=False)[0]
    return values.round().clamp(0, 255).to(torch.uint8) if image.dtype == torch.uint8 else values


def _coverage(length: int, size: int) -> torch.Tensor:
    """The matrix (size, length) that averages `length` values over `size` equal intervals."""
    edges = torch.arange(size + 1, dtype=torch.float64) * (length / size)
    cells = torch.arange(length, dtype=torch.float64)
    low, high = edges[:-1, None].maximum(cells), edges[1:, None].minimum(cells + 1)
    return ((high - low).clamp(min=0) * (size / length)).float()


def check_annotation(annotation: dict, index: int) -> None:
    """ValueError, which names the image and the row, unless this is a COCO annotation of an image."""
    if not isinstance(annotation, dict) or not isinstance(annotation.get("annotations"), (list, tuple)):
        raise ValueError(
            f"annotations: that of image {index} is {annotation!r:.100}, accepted is a dictionary of image_id and "
            "annotations, a list of dictionaries with bbox and category_id."
        )
    for row, item in enumerate(annotation["annotations"]):
        where = f"annotations: image {annotation.get('image_id', index)}, row {row}"
        missing = [name for name in _FIELDS if not isinstance(item, dict) or name not in item]
        if missing:
            raise ValueError(f"{where}: {missing[0]} is missing in {item!r:.100}.")
        box = item["bbox"]
        if len(box) != 4 or not all(isinstance(v, (int, float, np.number)) and np.isfinite(v) for v in box):
            raise ValueError(f"{where}: bbox is {box!r:.100}, accepted are four finite numbers x, y, width, height.")
        if int(item["category_id"]) != item["category_id"] or item["category_id"] < 0:
            raise ValueError(f"{where}: category_id is {item['category_id']!r}, accepted are whole numbers from 0.")


class GoldYoloImageProcessorKwargs(ImagesKwargs, total=False):
    r"""
    size_divisor (`int`):
        The minimum rectangle's sides are multiples of it.
    letterbox_auto (`bool`):
        Pad to the minimum rectangle instead of `size`, where a single image is given.
    scale_up (`bool`):
        Make small images larger, too.
    longest_edge (`int`, *optional*):
        Scale the longer side to this, whatever `size` is, and pad: the published evaluation.
    shrink_by_area (`bool`):
        Shrink by averages of the covered area instead of bilinear interpolation: the published evaluation.
    pad_value (`int`):
        Grey level of the padding, of 255.
    do_convert_annotations (`bool`):
        Make boxes centres relative to the network's input; corners in its pixels otherwise.
    """

    size_divisor: int
    letterbox_auto: bool
    scale_up: bool
    longest_edge: int | None
    shrink_by_area: bool
    pad_value: int
    do_convert_annotations: bool


class LetterboxMixin:
    """What both back ends share: images are resized and padded by PyTorch, so that they come out the same."""

    resample = PILImageResampling.BILINEAR
    size = {"height": 640, "width": 640}
    default_to_square = True
    do_resize = True
    do_rescale = True
    rescale_factor = 1 / 255
    do_normalize = False
    do_pad = True
    do_convert_rgb = True
    size_divisor = 32
    letterbox_auto = False
    scale_up = True
    longest_edge = None
    shrink_by_area = False
    pad_value = 114
    do_convert_annotations = True
    model_input_names = ["pixel_values"]
    valid_kwargs = GoldYoloImageProcessorKwargs

    def preprocess(self, images, annotations=None, **kwargs: Unpack[GoldYoloImageProcessorKwargs]) -> BatchFeature:
        """
        Args:
            images: one image or several, PIL images, arrays or tensors.
            annotations: for each image a dictionary of `image_id` and `annotations`, a list of COCO annotations:
                `bbox` (x, y, width, height in pixels), `category_id` (from 0), and where known `area` and `iscrowd`.

        Returns:
            `pixel_values`, and with annotations `labels`: for each image `class_labels`, `boxes`, `area`, `iscrowd`,
            `image_id`, `orig_size` and `size` (height, width). Crowds are left out, boxes clipped to the image, and
            empty ones left out.
        """
        return super().preprocess(images, annotations, **kwargs)

    def _letterbox(self, height: int, width: int, size, *, auto: bool, **options) -> Letterbox:
        fields = {name: options.get(name, getattr(self, name)) for name in ("scale_up", "longest_edge")}
        divisor = options.get("size_divisor", self.size_divisor)
        return letterbox(height, width, (size.height, size.width), auto=auto, divisor=divisor, **fields)

    def _preprocess(
        self,
        images,
        annotations=None,
        *,
        do_resize: bool,
        size,
        do_rescale: bool,
        rescale_factor: float,
        do_pad: bool,
        letterbox_auto: bool,
        shrink_by_area: bool,
        pad_value: int,
        do_convert_annotations: bool,
        return_tensors=None,
        do_normalize: bool = False,
        image_mean=None,
        image_std=None,
        **options,
    ) -> BatchFeature:
        if size.height is None or size.width is None:
            raise ValueError(f"size: got {dict(size)}, accepted are height and width in pixels.")
        if isinstance(annotations, dict):
            annotations = [annotations]
        if annotations is not None and len(annotations) != len(images):
            raise ValueError(
                f"annotations: got {len(annotations)} for {len(images)} images, accepted is one for each image."
            )
        pixels, labels = [], []
        for index, image in enumerate(images):
            image = torch.as_tensor(np.ascontiguousarray(image) if isinstance(image, np.ndarray) else image)
            height, width = image.shape[-2:]
            geometry = self._geometry(
                height, width, size, do_resize, do_pad, letterbox_auto and len(images) == 1, options
            )
            image = resize_image(image, geometry.height, geometry.width, shrink_by_area)
            fill = pad_value if image.dtype == torch.uint8 or do_rescale else pad_value / 255
            image = image.float()
            if do_pad:
                right = geometry.out_width - geometry.width - geometry.left
                bottom = geometry.out_height - geometry.height - geometry.top
                image = F.pad(image, (geometry.left, right, geometry.top, bottom), value=float(fill))
            if do_rescale:
                image = image * rescale_factor
            if do_normalize:
                shape = (-1, 1, 1)
                image = (image - image.new_tensor(image_mean).view(shape)) / image.new_tensor(image_std).view(shape)
            pixels.append(image)
            if annotations is not None:
                check_annotation(annotations[index], index)
                labels.append(_labels(annotations[index], (height, width), geometry, do_convert_annotations))
        data = {"pixel_values": [image if return_tensors == "pt" else image.numpy() for image in pixels]}
        features = BatchFeature(data, tensor_type=return_tensors)
        if annotations is not None:
            features["labels"] = [BatchFeature(label, tensor_type=return_tensors) for label in labels]
        return features

    def _geometry(
        self, height: int, width: int, size, do_resize: bool, do_pad: bool, auto: bool, options: dict
    ) -> Letterbox:
        if not do_resize:
            if height > size.height or width > size.width:
                raise ValueError(
                    f"do_resize: got False, but an image of {height}×{width} is larger than size "
                    f"{size.height}×{size.width}."
                )
            # Padded only: as if its own size were the one to scale to.
            options = {**options, "longest_edge": max(height, width), "scale_up": True}
        found = self._letterbox(height, width, size, auto=auto, **options)
        if do_pad:
            return found
        return replace(found, top=0, left=0, out_height=found.height, out_width=found.width)

    def geometry(self, height: int, width: int, input_size: tuple[int, int] | None = None) -> Letterbox:
        """How this processor fits an image of height × width; `input_size`: (height, width) of the network's input,
        where it differs from `size` (the minimum rectangle)."""
        square = self.size.height, self.size.width
        auto = self.letterbox_auto and input_size is not None and tuple(input_size) != square
        return self._geometry(height, width, self.size, self.do_resize, self.do_pad, auto, {})

    def post_process_object_detection(
        self,
        outputs,
        threshold: float = 0.5,
        target_sizes=None,
        nms_threshold: float = 0.45,
        multi_label: bool = False,
        max_detections: int = 300,
        class_agnostic: bool = False,
        classes: list[int] | None = None,
        max_candidates: int = 30000,
    ) -> list[dict[str, torch.Tensor]]:
        """The detections of each image, best first: `scores` (n,), `labels` (n,), `boxes` (n, 4; corners).

        Args:
            outputs: of the model: `logits` and `pred_boxes`.
            threshold: scores must be above it. 0.4 is the published setting for pictures, 0.03 that for AP.
            target_sizes: (height, width) of each original image: boxes are in its pixels, the letterbox undone, and
                clipped to it. Without it boxes are relative to the network's input, as `labels` are.
            nms_threshold, multi_label, max_detections, class_agnostic, classes, max_candidates: see
                `select_detections`. The published AP is that of 0.65 and multi_label.
        """
        logits, boxes = outputs["logits"].float(), outputs["pred_boxes"].float()
        if target_sizes is not None and len(target_sizes) != len(logits):
            raise ValueError(
                f"target_sizes: got {len(target_sizes)} for {len(logits)} images, accepted is one for each image."
            )
        results = []
        for index, (logit, relative) in enumerate(zip(logits, boxes, strict=True)):
            if target_sizes is None:
                geometry, height, width = None, self.size.height, self.size.width
            else:
                target = [int(length) for length in target_sizes[index]]
                geometry = self.geometry(*target, self._input_size(outputs, *target))
                height, width = geometry.out_height, geometry.out_width
            scale = relative.new_tensor([width, height, width, height])
            corners, scores, labels = select_detections(
                to_corners(relative) * scale,
                logit.sigmoid(),
                threshold,
                nms_threshold,
                multi_label=multi_label,
                class_agnostic=class_agnostic,
                classes=classes,
                max_detections=max_detections,
                max_candidates=max_candidates,
            )
            if geometry is None:
                corners = corners / scale
            else:
                corners = geometry.inverse(corners)
                corners = corners.minimum(corners.new_tensor([target[1], target[0]] * 2)).clamp(min=0)
            results.append({"scores": scores, "labels": labels, "boxes": corners})
        return results

    def _input_size(self, outputs, height: int, width: int) -> tuple[int, int] | None:
        """(height, width) of the network's input, told by the number of points that were predicted."""
        if not self.letterbox_auto:
            return None
        rectangle = self._geometry(height, width, self.size, self.do_resize, self.do_pad, True, {})
        square = self.size.height, self.size.width
        points = {size: sum(size[0] * size[1] // s**2 for s in (8, 16, 32)) for size in
                  (square, (rectangle.out_height, rectangle.out_width))}  # fmt: skip
        number = outputs["logits"].shape[1]
        return next((size for size, count in points.items() if count == number), None)


def _labels(annotation: dict, size: tuple[int, int], geometry: Letterbox, relative: bool) -> dict[str, np.ndarray]:
    height, width = size
    items = [item for item in annotation["annotations"] if not item.get("iscrowd", 0)]
    boxes = torch.tensor([list(map(float, item["bbox"])) for item in items], dtype=torch.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    boxes = boxes.minimum(boxes.new_tensor([width, height] * 2)).clamp(min=0)
    keep = (boxes[:, 2:] > boxes[:, :2]).all(1)
    area = torch.tensor([float(item.get("area", item["bbox"][2] * item["bbox"][3])) for item in items])
    boxes = geometry.forward(boxes)
    if relative:
        boxes = to_centres(boxes) / boxes.new_tensor([geometry.out_width, geometry.out_height] * 2)
    classes = torch.tensor([int(item["category_id"]) for item in items], dtype=torch.int64)
    return {
        "image_id": np.asarray([annotation.get("image_id", 0)], dtype=np.int64),
        "class_labels": classes[keep].numpy(),
        "boxes": boxes[keep].float().numpy(),
        "area": (area[keep] * geometry.scale_x * geometry.scale_y).float().numpy(),
        "iscrowd": np.zeros(int(keep.sum()), dtype=np.int64),
        "orig_size": np.asarray(size, dtype=np.int64),
        "size": np.asarray([geometry.out_height, geometry.out_width], dtype=np.int64),
    }


class GoldYoloImageProcessorPil(LetterboxMixin, PilBackend):
    """Image processor of Gold-YOLO where torchvision is not installed."""


class GoldYoloImageProcessor(LetterboxMixin, TorchvisionBackend):
    """Image processor of Gold-YOLO."""


def unletterbox_evenly(
    boxes: torch.Tensor, size: tuple[int, int], input_size: tuple[int, int], ratio: float
) -> torch.Tensor:
    """Corners back to the image of `size` as the official inference does it: the padding is taken to be even on both
    sides, the ratio to be exact, and the result is clipped (and then rounded to whole pixels: left to the caller).

    Off by up to a pixel from `Letterbox.inverse`, which undoes what was done.
    """
    pad_x, pad_y = (input_size[1] - size[1] * ratio) / 2, (input_size[0] - size[0] * ratio) / 2
    boxes = (boxes - boxes.new_tensor([pad_x, pad_y] * 2)) / ratio
    return boxes.minimum(boxes.new_tensor([size[1], size[0]] * 2)).clamp(min=0)


__all__ = ["GoldYoloImageProcessor", "GoldYoloImageProcessorPil"]
