"""Images -> segmentation masks: the `mask-generation` models of transformers, or scikit-image's SLIC."""

import importlib.util
from collections.abc import Callable
from types import MethodType

import numpy as np
import torch
from PIL import Image

from ....hub.ids import reading
from ....pipelines.hierarchical_mask_generation.masks import suppress_overlapping
from ...data.fingerprints import weights_fingerprint

#: An 8-bit RGB image -> its masks, booleans (height, width), in the order of the segmentation model.
Segmenter = Callable[[Image.Image], list[np.ndarray]]


def mask_generation(
    model: str,
    *,
    revision: str | None = None,
    token: str | None = None,
    trust_remote_code: bool = False,
    device: str | None = None,
    **options,
) -> Segmenter:
    """Masks by `pipeline("mask-generation")`: SAM, SAM 2, SlimSAM, and what else transformers registers for that task.

    Args:
        model: on the Hub or in a local folder. revision, token, trust_remote_code: as transformers takes them.
        device: such as "cuda"; the first accelerator there is by default.
        options: of the pipeline's call: points_per_crop, points_per_batch, pred_iou_thresh, stability_score_thresh,
            crops_nms_thresh, crops_n_layers; None stands for the pipeline's default.

    Raises:
        OSError: a model that cannot be found or reached. ValueError: one that generates no masks.
    """
    from transformers import pipeline

    with reading("--model", model, revision=("--revision", revision)):
        generator = pipeline(
            "mask-generation",
            model=model,
            revision=revision,
            token=token,
            trust_remote_code=trust_remote_code,
            device=device,
        )
    if importlib.util.find_spec("torchvision") is None:
        # The processor's own takes nothing from torchvision but the non-maximum suppression.
        generator.image_processor.post_process_for_mask_generation = MethodType(
            _without_torchvision, generator.image_processor
        )
    options = {name: value for name, value in options.items() if value is not None}

    def segment(image: Image.Image) -> list[np.ndarray]:
        masks = generator(image, **options)["masks"]
        return [np.asarray(mask.cpu() if isinstance(mask, torch.Tensor) else mask, dtype=bool) for mask in masks]

    segment.weights = weights_fingerprint(generator.model)
    return segment


def _without_torchvision(self, all_masks, all_scores, all_boxes, crops_nms_thresh):
    from transformers.models.sam.image_processing_pil_sam import _rle_to_mask

    kept = suppress_overlapping(all_boxes.float(), all_scores, crops_nms_thresh).tolist()
    runs = [all_masks[index] for index in kept]
    return [_rle_to_mask(run) for run in runs], all_scores[kept], runs, all_boxes[kept]


def slic(num_segments: int = 20, compactness: float = 10.0) -> Segmenter:
    """Superpixels (SLIC) instead of objects: for trying things where no weights of SAM are at hand.

    Args:
        num_segments: regions of an image, about.
        compactness: weight of nearness against likeness of colour; larger makes them squarer.

    Raises:
        ImportError: scikit-image is not installed.
    """
    if importlib.util.find_spec("skimage") is None:
        raise ImportError("--segmenter slic needs the library scikit-image: pip install scikit-image")
    from skimage.segmentation import slic as superpixels

    def segment(image: Image.Image) -> list[np.ndarray]:
        labels = superpixels(np.asarray(image), n_segments=num_segments, compactness=compactness, start_label=1)
        return [labels == label for label in np.unique(labels)]

    return segment
