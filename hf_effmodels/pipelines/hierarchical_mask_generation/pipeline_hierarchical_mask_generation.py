"""`pipeline("hierarchical-mask-generation")`: segment everything with any promptable model, in two rounds."""

import math
from collections.abc import Callable

from transformers.pipelines.base import Pipeline
from transformers.utils import logging

from ...images import read_image
from ...registry import register_task_pipelines
from .embedding import embed
from .masks import decode_runs
from .rounds import Found, Thresholds, ask, join, segment_everything, without_overlaps, without_small_regions

logger = logging.get_logger(__name__)

#: Options of a call with their defaults; most have the names of transformers' `pipeline("mask-generation")`.
DEFAULTS = {
    "hierarchical": True,
    "points_per_crop": 32,
    "points_per_batch": 64,
    "pred_iou_thresh": 0.88,
    "stability_score_thresh": 0.95,
    "stability_score_offset": 1.0,
    "mask_threshold": 0.0,
    "high_score_thresh": 8.5,
    "crops_nms_thresh": 0.7,
    "crops_n_layers": 0,
    "crop_overlap_ratio": 512 / 1500,
    "crop_n_points_downscale_factor": 1,
    "min_mask_region_area": 0,
    "masks_per_batch": 16,
    "output_rle_mask": False,
    "output_bboxes_mask": False,
    "show_progress": False,
    "timeout": None,
}
_SHARES = ("pred_iou_thresh", "stability_score_thresh", "crops_nms_thresh")
_COUNTS = {"points_per_crop": 1, "points_per_batch": 1, "crops_n_layers": 0, "min_mask_region_area": 0}
_COUNTS |= {"masks_per_batch": 1, "crop_n_points_downscale_factor": 1}


def check_options(options: dict) -> None:
    """ValueError unless every option is one of `DEFAULTS`, with a value it can have."""
    for name, value in options.items():
        if name not in DEFAULTS:
            raise ValueError(f"{name}: no option of this pipeline; accepted are {', '.join(DEFAULTS)}.")
        if name in _COUNTS:
            if type(value) is not int or value < _COUNTS[name]:
                raise ValueError(f"{name}: got {value!r}, accepted are whole numbers from {_COUNTS[name]}.")
        elif isinstance(DEFAULTS[name], bool):
            if not isinstance(value, bool):
                raise ValueError(f"{name}: got {value!r}, accepted are True and False.")
        elif name != "timeout":
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"{name}: got {value!r}, accepted are finite numbers.")
            if name in _SHARES and not 0 <= value <= 1:
                raise ValueError(f"{name}: got {value!r}, accepted are numbers from 0 to 1.")
            if name == "stability_score_offset" and value < 0:
                raise ValueError(f"{name}: got {value!r}, accepted are numbers from 0.")
            if name == "crop_overlap_ratio" and not 0 <= value < 1:
                raise ValueError(f"{name}: got {value!r}, accepted are numbers from 0 to below 1.")
    if options.get("hierarchical", True) and options.get("crops_n_layers", 0):
        raise ValueError(
            f"crops_n_layers: got {options['crops_n_layers']}, but two rounds look at the whole image: give "
            "hierarchical=False for crops."
        )


class HierarchicalMaskGenerationPipeline(Pipeline):
    """Masks of everything in an image, as `pipeline("mask-generation")`, with about half of the questions or fewer.

    A first round asks a coarse grid of points; the second asks the rest of the grid only where no mask of the first is
    sure (TinySAM, https://arxiv.org/abs/2312.13789). With `hierarchical=False` it asks the whole grid and gives what
    transformers' pipeline gives. Either way masks are filtered by their scores before they are enlarged, and kept as
    run lengths, so that large images need little memory. Works with every model of the task mask-generation.

    Options of a call (see `DEFAULTS`): those of transformers' pipeline, and

        hierarchical: two rounds.
        high_score_thresh: logits from which on a mask of the first round is sure.
        points_per_crop: points per side of the whole grid.
        min_mask_region_area: holes and islands smaller than this are removed, in pixels.
        masks_per_batch: masks that are enlarged at a time.
        show_progress: a bar for each round.

    Returns a dictionary: `masks` (booleans, (height, width)), best first; `scores`, `stability_scores` (masks,);
    `points` (masks, 2), in pixels; `decoder_calls`, `prompts`: its cost; if asked for, `rle_mask`, `bounding_boxes`.
    """

    _load_processor = False
    _load_image_processor = True
    _load_feature_extractor = False
    _load_tokenizer = False

    def _sanitize_parameters(self, **options):
        check_options(options)
        options = {name: value for name, value in options.items() if value is not None}
        outputs = {name: options.pop(name) for name in ("output_rle_mask", "output_bboxes_mask") if name in options}
        inputs = {name: options.pop(name) for name in ("timeout",) if name in options}
        return inputs, options, outputs

    def __call__(self, inputs, **options):
        """
        Args:
            inputs: an image, or a list of images: paths, addresses, PIL images, arrays.
            options: see the class.
        """
        if (batch_size := options.get("batch_size")) not in (None, 1):
            raise ValueError(f"batch_size: got {batch_size}, accepted is 1: what batches are the points of an image.")
        return super().__call__(inputs, **options)

    def preprocess(self, image, timeout: float | None = None):
        if isinstance(image, str) and image.startswith(("http://", "https://", "data:")):
            from transformers.image_utils import load_image

            image = load_image(image, timeout=timeout)
        return {"image": read_image(image)}

    def _forward(self, inputs, **options):
        options = {**DEFAULTS, **options}
        check_options(options)
        thresholds = Thresholds(
            predicted_iou=options["pred_iou_thresh"],
            stability=options["stability_score_thresh"],
            stability_offset=options["stability_score_offset"],
            mask=options["mask_threshold"],
            confident=options["high_score_thresh"],
            strict=not options["hierarchical"],
        )
        search = self._in_two_rounds if options["hierarchical"] else self._in_one_round
        found, prompts, calls = search(inputs["image"], thresholds, options)
        return {"found": found, "prompts": prompts, "decoder_calls": calls}

    def _in_two_rounds(self, image, thresholds: Thresholds, options: dict) -> tuple[Found, int, int]:
        embedded = embed(self.model, self.image_processor, image)
        result = segment_everything(
            lambda points: embedded.ask_points(embedded.to_model(points)),
            embedded.enlarge,
            *embedded.size,
            points_per_side=options["points_per_crop"],
            points_per_batch=options["points_per_batch"],
            masks_per_batch=options["masks_per_batch"],
            thresholds=thresholds,
            nms_threshold=options["crops_nms_thresh"],
            min_region_area=options["min_mask_region_area"],
            progress=_progress(options["show_progress"]),
        )
        return result.found, sum(map(len, result.rounds)), result.decoder_calls

    def _in_one_round(self, image, thresholds: Thresholds, options: dict) -> tuple[Found, int, int]:
        size = self.image_processor.size
        side = size.get("longest_edge") or size.get("height")
        boxes, points, images, _ = self.image_processor.generate_crop_boxes(
            image,
            side,
            options["crops_n_layers"],
            options["crop_overlap_ratio"],
            options["points_per_crop"],
            options["crop_n_points_downscale_factor"],
        )
        whole = (image.height, image.width)
        parts, prompts, calls = [], 0, 0
        for number, (box, crop) in enumerate(zip(boxes.tolist(), images, strict=True)):
            embedded = embed(self.model, self.image_processor, crop)
            # The points are in pixels of what the model sees already, and are told in those of the image.
            batches = ask(
                points[0, :, number],
                embedded.ask_points,
                embedded.enlarge,
                thresholds,
                crop=box,
                image_size=whole,
                points_per_batch=options["points_per_batch"],
                masks_per_batch=options["masks_per_batch"],
            )
            needed = -(-points.shape[1] // options["points_per_batch"])
            part = join(_progress(options["show_progress"])(batches, needed))
            corner = part.points.new_tensor(box[:2])
            part.points = embedded.to_image(part.points - corner) + corner
            parts.append(part)
            prompts, calls = prompts + points.shape[1], calls + needed
        found = without_overlaps(join(parts), options["crops_nms_thresh"])
        found = without_small_regions(found, options["min_mask_region_area"], options["crops_nms_thresh"])
        return found, prompts, calls

    def postprocess(self, outputs, output_rle_mask: bool = False, output_bboxes_mask: bool = False):
        found = outputs["found"]
        results = {
            "masks": [decode_runs(runs) for runs in found.runs],
            "scores": found.scores,
            "stability_scores": found.stability,
            "points": found.points,
            "prompts": outputs["prompts"],
            "decoder_calls": outputs["decoder_calls"],
        }
        if output_rle_mask:
            results["rle_mask"] = found.runs
        if output_bboxes_mask:
            results["bounding_boxes"] = found.boxes
        return results


def _progress(shown: bool) -> Callable:
    if not shown:
        return lambda batches, total: batches
    return lambda batches, total: logging.tqdm(batches, total=total, desc="points")


register_task_pipelines()
