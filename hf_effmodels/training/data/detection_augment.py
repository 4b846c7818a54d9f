"""Augmentation of images with boxes: mosaic, affine maps, mixup, colour, flips (YOLOv6's, as Gold-YOLO is trained).

Images are arrays of bytes (height, width, 3), RGB; boxes are rows (class, x1, y1, x2, y2) in pixels. All functions are
pure: what is random is drawn by the caller.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional as F

#: Grey level of what no image covers.
GREY = 114


def shrink_to(image: np.ndarray, rows: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Scale an image so that its longer side is `side` pixels (bilinear; the shorter one is rounded down)."""
    height, width = image.shape[:2]
    ratio = side / max(height, width)
    new_height, new_width = max(int(height * ratio), 1), max(int(width * ratio), 1)
    if (new_height, new_width) == (height, width):
        return image, rows
    values = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
    values = F.interpolate(values, size=(new_height, new_width), mode="bilinear", align_corners=False)
    scaled = values[0].permute(1, 2, 0).round().clamp(0, 255).to(torch.uint8).numpy()
    scale = np.array([1, new_width / width, new_height / height, new_width / width, new_height / height])
    return scaled, rows * scale


def mosaic(
    images: Sequence[np.ndarray], rows: Sequence[np.ndarray], side: int, centre: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Four images around a point of a canvas of twice the side; what does not fit is cut off.

    Args:
        images: top left, top right, bottom left, bottom right, none larger than `side`.
        rows: the boxes of each.
        side: of the training's images in pixels.
        centre: (y, x) of the point on the canvas.
    """
    canvas = np.full((2 * side, 2 * side, 3), GREY, dtype=np.uint8)
    cy, cx = centre
    moved = []
    for index, (image, own) in enumerate(zip(images, rows, strict=True)):
        height, width = image.shape[:2]
        y = cy - height if index < 2 else cy
        x = cx - width if index % 2 == 0 else cx
        top, left, bottom, right = max(y, 0), max(x, 0), min(y + height, 2 * side), min(x + width, 2 * side)
        canvas[top:bottom, left:right] = image[top - y : bottom - y, left - x : right - x]
        moved.append(own + np.array([0, x, y, x, y]))
    joined = np.concatenate(moved) if moved else np.zeros((0, 5))
    joined[:, 1:] = joined[:, 1:].clip(0, 2 * side)
    return canvas, joined


def affine_matrix(
    source: tuple[int, int],
    target: tuple[int, int],
    *,
    angle: float = 0.0,
    scale: float = 1.0,
    shear: tuple[float, float] = (0.0, 0.0),
    translation: tuple[float, float] = (0.5, 0.5),
) -> np.ndarray:
    """The matrix (3, 3) that takes points of an image of `source` (height, width) to one of `target`.

    The source's centre goes to the origin, is rotated by `angle` degrees and scaled, sheared by degrees (x, y), and
    moved to `translation` (x, y) times the target's sides.
    """
    centre = np.eye(3)
    centre[:2, 2] = -source[1] / 2, -source[0] / 2
    radians = np.deg2rad(angle)
    rotation = np.eye(3)
    rotation[:2, :2] = scale * np.array([[np.cos(radians), np.sin(radians)], [-np.sin(radians), np.cos(radians)]])
    sheared = np.eye(3)
    sheared[0, 1], sheared[1, 0] = np.tan(np.deg2rad(shear))
    moved = np.eye(3)
    moved[:2, 2] = translation[0] * target[1], translation[1] * target[0]
    return moved @ sheared @ rotation @ centre


def warp(image: np.ndarray, matrix: np.ndarray, target: tuple[int, int]) -> np.ndarray:
    """The image under an affine map of pixels' indices, (height, width) = `target`, bilinear, grey around."""
    height, width = image.shape[:2]
    inverse = np.linalg.inv(matrix)
    y, x = torch.meshgrid(torch.arange(target[0]), torch.arange(target[1]), indexing="ij")
    source_x = inverse[0, 0] * x + inverse[0, 1] * y + inverse[0, 2]
    source_y = inverse[1, 0] * x + inverse[1, 1] * y + inverse[1, 2]
    grid = torch.stack([2 * source_x / max(width - 1, 1) - 1, 2 * source_y / max(height - 1, 1) - 1], dim=-1)
    values = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() - GREY
    values = F.grid_sample(values, grid[None].float(), mode="bilinear", padding_mode="zeros", align_corners=True)
    return (values[0] + GREY).permute(1, 2, 0).round().clamp(0, 255).to(torch.uint8).numpy()


def warp_boxes(rows: np.ndarray, matrix: np.ndarray, target: tuple[int, int], scale: float) -> np.ndarray:
    """Boxes around the mapped corners, clipped to `target` (height, width); too small rests are left out.

    A rest is too small if a side is not above 2 pixels, its area not above a tenth of the box's (scaled), or its sides
    differ by a factor of 20 or more.
    """
    corners = rows[:, [1, 2, 3, 4, 1, 4, 3, 2]].reshape(-1, 2)
    corners = np.concatenate([corners, np.ones((len(corners), 1))], axis=1) @ matrix.T
    x, y = corners[:, 0].reshape(-1, 4), corners[:, 1].reshape(-1, 4)
    new = np.stack([x.min(1), y.min(1), x.max(1), y.max(1)], axis=1)
    new[:, 0::2] = new[:, 0::2].clip(0, target[1])
    new[:, 1::2] = new[:, 1::2].clip(0, target[0])
    before = (rows[:, 3:5] - rows[:, 1:3]) * scale
    width, height = (new[:, 2:] - new[:, :2]).T
    aspect = np.maximum(width / (height + 1e-16), height / (width + 1e-16))
    keep = (width > 2) & (height > 2) & (width * height / (before.prod(1) + 1e-16) > 0.1) & (aspect < 20)
    return np.concatenate([rows[keep, :1], new[keep]], axis=1)


def mixup(first: np.ndarray, second: np.ndarray, share: float) -> np.ndarray:
    """`share` of the first image and the rest of the second one."""
    return (first * share + second * (1 - share)).astype(np.uint8)


def change_colours(image: np.ndarray, factors: Sequence[float]) -> np.ndarray:
    """Hue, saturation and value times `factors`; hues are angles and go round."""
    hue, saturation, value = _to_hsv(image)
    levels = np.arange(256)
    hue = ((levels * factors[0]) % 180).astype(np.uint8)[hue]
    saturation = (levels * factors[1]).clip(0, 255).astype(np.uint8)[saturation]
    value = (levels * factors[2]).clip(0, 255).astype(np.uint8)[value]
    return _to_rgb(hue, saturation, value)


def _to_hsv(image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hue (0 to 179, two degrees each), saturation and value, as bytes."""
    red, green, blue = np.moveaxis(image.astype(np.float32), -1, 0)
    value = image.max(-1).astype(np.float32)
    spread = value - image.min(-1)
    safe = np.where(spread == 0, 1, spread)
    hue = np.where(
        value == red,
        (green - blue) / safe,
        np.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    hue = np.where(spread == 0, 0, hue * 30)
    saturation = np.where(value == 0, 0, spread * 255 / np.where(value == 0, 1, value))
    hue = np.rint(hue + (hue < 0) * 180).astype(np.int64) % 180
    return hue, np.rint(saturation).astype(np.int64), value.astype(np.int64)


def _to_rgb(hue: np.ndarray, saturation: np.ndarray, value: np.ndarray) -> np.ndarray:
    sector = hue.astype(np.float32) / 30
    part = sector - np.floor(sector)
    share = saturation.astype(np.float32) / 255
    value = value.astype(np.float32)
    low, falling, rising = value * (1 - share), value * (1 - share * part), value * (1 - share * (1 - part))
    sector = np.floor(sector).astype(np.int64) % 6
    red = np.choose(sector, [value, falling, low, low, rising, value])
    green = np.choose(sector, [rising, value, value, falling, low, low])
    blue = np.choose(sector, [low, low, rising, value, value, falling])
    return np.rint(np.stack([red, green, blue], axis=-1)).clip(0, 255).astype(np.uint8)


def flip_left_right(image: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    width = image.shape[1]
    flipped = rows.copy()
    flipped[:, 1], flipped[:, 3] = width - rows[:, 3], width - rows[:, 1]
    return np.ascontiguousarray(image[:, ::-1]), flipped


def flip_up_down(image: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    height = image.shape[0]
    flipped = rows.copy()
    flipped[:, 2], flipped[:, 4] = height - rows[:, 4], height - rows[:, 2]
    return np.ascontiguousarray(image[::-1]), flipped
