"""`pipeline("hierarchical-mask-generation")`: with the hierarchy off transformers' masks, with it fewer questions."""

import base64
import copy
import inspect
import io
import subprocess
import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import label
from transformers import MaskGenerationPipeline, pipeline
from transformers.utils import logging

from hf_effmodels.pipelines import HierarchicalMaskGenerationPipeline
from hf_effmodels.pipelines.hierarchical_mask_generation.embedding import Embedded, embed
from hf_effmodels.pipelines.hierarchical_mask_generation.masks import decode_runs, suppress_overlapping
from hf_effmodels.pipelines.hierarchical_mask_generation.pipeline_hierarchical_mask_generation import (
    DEFAULTS,
    check_options,
)
from hf_effmodels.pipelines.hierarchical_mask_generation.rounds import Thresholds, segment_everything
from hf_effmodels.registry import ARCHITECTURES

from ...modeling.tiny import tiny_config
from .models import BUILDERS, SIDE, build, picture

OPTIONS = {"points_per_crop": 6, "points_per_batch": 10, "pred_iou_thresh": 0.65, "stability_score_thresh": 0.8}
# Random weights segment boxes as large as the image: all of them are looked at.
OPTIONS |= {"crops_nms_thresh": 1.0, "output_rle_mask": True, "output_bboxes_mask": True}


@pytest.fixture(scope="module", params=list(BUILDERS))
def parts(request):
    return build(request.param)


@pytest.fixture
def nms(monkeypatch):
    """transformers' pipeline takes its suppression from torchvision, which is not there."""
    boxes = types.ModuleType("torchvision.ops.boxes")
    boxes.batched_nms = lambda boxes, scores, idxs, iou_threshold: suppress_overlapping(boxes, scores, iou_threshold)
    for name in ("torchvision", "torchvision.ops"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "torchvision.ops.boxes", boxes)
    monkeypatch.setattr("transformers.utils.import_utils.is_torchvision_available", lambda: True)


def stock(model, processor) -> MaskGenerationPipeline:
    processor = copy.copy(processor)
    generator = MaskGenerationPipeline(model=model, image_processor=processor)
    # The decorator asks for an installed torchvision; what is below it takes the suppression alone.
    function = type(processor).post_process_for_mask_generation.__wrapped__
    processor.post_process_for_mask_generation = types.MethodType(function, processor)
    return generator


@pytest.mark.parametrize("name", ["sam", "sam_hq"])
@pytest.mark.parametrize("more", [{}, {"crops_n_layers": 1}, {"crops_nms_thresh": 0.7, "mask_threshold": 0.5}])
def test_without_the_hierarchy_the_masks_are_those_of_transformers_pipeline(name, more, nms):
    model, processor = build(name)
    expected = stock(model, processor)(picture(), **{**OPTIONS, **more})
    got = HierarchicalMaskGenerationPipeline(model=model, image_processor=processor)(
        picture(), hierarchical=False, masks_per_batch=7, **{**OPTIONS, **more}
    )
    assert len(expected["masks"]) > (2 if "crops_nms_thresh" not in more else 0), "a comparison of nothing"
    assert len(got["masks"]) == len(expected["masks"])
    assert all(np.array_equal(a, b) for a, b in zip(got["masks"], expected["masks"], strict=True))
    assert got["rle_mask"] == expected["rle_mask"]
    assert torch.equal(got["scores"], expected["scores"])
    assert torch.equal(got["bounding_boxes"], expected["bounding_boxes"])


def test_every_promptable_model_segments_everything_in_two_rounds(parts):
    model, processor = parts
    pipe = HierarchicalMaskGenerationPipeline(model=model, image_processor=processor)
    options = {**OPTIONS, "points_per_crop": 16, "high_score_thresh": 5.0}
    result = pipe(picture(), **options)
    assert len(result["masks"]) and result["masks"][0].shape == (70, 90)
    assert result["scores"].tolist() == sorted(result["scores"].tolist(), reverse=True)
    assert result["scores"].min() > 0.65 and result["stability_scores"].min() >= 0.8
    # The masks are what the model says of their points.
    embedded = embed(model, processor, picture())
    for mask, point, score in zip(result["masks"], result["points"], result["scores"], strict=True):
        logits, scores = embedded.ask_points(embedded.to_model(point[None]))
        number = (scores[0] - score).abs().argmin()
        assert abs(scores[0, number] - score) < 1e-4
        large = embedded.enlarge(logits[0])
        assert ((large[number] > 0).numpy() != mask).mean() < 1e-3
    assert all(np.array_equal(decode_runs(r), m) for r, m in zip(result["rle_mask"], result["masks"], strict=True))
    everywhere = pipe(picture(), **{**options, "high_score_thresh": 1e9})
    assert result["prompts"] < everywhere["prompts"] == 16 * 16
    nowhere = pipe(picture(), **{**options, "high_score_thresh": -1e9})
    assert nowhere["prompts"] == 16 and nowhere["decoder_calls"] == 2


def test_points_are_in_pixels_of_the_image_for_both_ways_of_resizing():
    points = torch.tensor([[90.0, 70.0], [45.0, 7.0]])
    kept = Embedded(None, None, {}, (70, 90), (50, SIDE)).to_model(points)
    assert torch.allclose(kept, torch.tensor([[64.0, 50.0], [32.0, 5.0]]))
    stretched = Embedded(None, None, {}, (70, 90), (SIDE, SIDE)).to_model(points)
    assert torch.allclose(stretched, torch.tensor([[64.0, 64.0], [32.0, 6.4]]))


def test_only_masks_with_a_score_are_enlarged(monkeypatch):
    model, processor = build("sam")
    enlarged = []
    plain = Embedded.enlarge
    monkeypatch.setattr(Embedded, "enlarge", lambda self, logits: enlarged.append(len(logits)) or plain(self, logits))
    pipe = HierarchicalMaskGenerationPipeline(model=model, image_processor=processor)
    scores = []
    decode = Embedded.decode

    def spy(self, **prompts):
        result = decode(self, **prompts)
        scores.append(result[1])
        return result

    monkeypatch.setattr(Embedded, "decode", spy)
    pipe(picture(), masks_per_batch=4, **OPTIONS)
    kept = int((torch.cat(scores) > OPTIONS["pred_iou_thresh"]).sum())
    assert sum(enlarged) == kept < torch.cat(scores).numel() and max(enlarged) <= 4


@pytest.mark.parametrize("size", [(1, 1), (3, 40), (31, 17)])
@pytest.mark.parametrize("points", [1, 6, 32])
def test_tiny_images_and_any_grid_are_taken(size, points):
    model, processor = build("sam")
    pipe = HierarchicalMaskGenerationPipeline(model=model, image_processor=processor)
    result = pipe(picture(*size), points_per_crop=points, pred_iou_thresh=0.0, stability_score_thresh=0.0)
    assert all(mask.shape == (size[1], size[0]) for mask in result["masks"])


def test_an_image_without_a_mask_gives_none():
    model, processor = build("sam")
    pipe = HierarchicalMaskGenerationPipeline(model=model, image_processor=processor)
    for hierarchical in (True, False):
        result = pipe(picture(), points_per_crop=5, pred_iou_thresh=1.0, hierarchical=hierarchical)
        assert result["masks"] == [] and result["scores"].shape == (0,) and result["points"].shape == (0, 2)


def test_pictures_of_every_kind_are_read_and_lists_taken(tmp_path):
    model, processor = build("sam")
    pipe = HierarchicalMaskGenerationPipeline(model=model, image_processor=processor)
    options = {"points_per_crop": 4, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0}
    deep = Image.fromarray((np.arange(90 * 70, dtype=np.uint16) * 10).reshape(70, 90))
    picture().convert("CMYK").save(tmp_path / "cmyk.jpg")
    rotated = picture()
    exif = rotated.getexif()
    exif[0x0112] = 6
    rotated.save(tmp_path / "rotated.jpg", exif=exif)
    images = [picture().convert("L"), deep, str(tmp_path / "cmyk.jpg"), str(tmp_path / "rotated.jpg")]
    results = pipe(images, **options)
    shapes = [result["masks"][0].shape for result in results]
    assert shapes == [(70, 90), (70, 90), (70, 90), (90, 70)]
    assert np.array_equal(results[0]["masks"][0], pipe(images[0], **options)["masks"][0])


SHARES = ("pred_iou_thresh", "stability_score_thresh", "crops_nms_thresh")
FROM_1 = ("points_per_crop", "points_per_batch", "masks_per_batch", "crop_n_points_downscale_factor")
FROM_0 = ("crops_n_layers", "min_mask_region_area")
SWITCHES = ("hierarchical", "output_rle_mask", "output_bboxes_mask", "show_progress")


def test_the_defaults_are_segment_anythings_and_tinysams():
    """Those of segment-anything's generator, which transformers has, and of TinySAM's rounds."""
    assert DEFAULTS == {
        **{"points_per_crop": 32, "points_per_batch": 64, "pred_iou_thresh": 0.88, "stability_score_thresh": 0.95},
        **{"stability_score_offset": 1.0, "mask_threshold": 0.0, "crops_nms_thresh": 0.7, "crops_n_layers": 0},
        **{"crop_overlap_ratio": 512 / 1500, "crop_n_points_downscale_factor": 1, "min_mask_region_area": 0},
        **{"hierarchical": True, "high_score_thresh": 8.5, "masks_per_batch": 16},
        **{"output_rle_mask": False, "output_bboxes_mask": False, "show_progress": False, "timeout": None},
    }
    limits = Thresholds()
    assert (limits.predicted_iou, limits.stability, limits.stability_offset) == (0.88, 0.95, 1.0)
    assert (limits.mask, limits.confident, limits.strict) == (0.0, 8.5, False)
    known = inspect.signature(segment_everything).parameters
    assert [known[name].default for name in ("points_per_side", "points_per_batch", "nms_threshold")] == [32, 64, 0.7]
    assert [known[name].default for name in ("masks_per_batch", "min_region_area")] == [16, 0]


def test_the_ends_of_what_options_can_be_are_taken():
    check_options(
        {
            **dict.fromkeys(SHARES, 0),
            **dict.fromkeys(FROM_1, 1),
            **dict.fromkeys(FROM_0, 0),
            **dict.fromkeys(SWITCHES, False),
            **{"stability_score_offset": 0, "crop_overlap_ratio": 0, "mask_threshold": -3, "timeout": 2.5},
        }
    )
    check_options({**dict.fromkeys(SHARES, 1), "crop_overlap_ratio": 0.99, "hierarchical": False, "crops_n_layers": 2})


@pytest.fixture
def bars():
    """Bars are shown, also where a training in this process has turned them off."""
    shown = logging.is_progress_bar_enabled()
    logging.enable_progress_bar()
    yield
    if not shown:
        logging.disable_progress_bar()


def test_one_round_costs_its_points_of_all_crops():
    model, processor = build("sam")
    pipe = HierarchicalMaskGenerationPipeline(model=model, image_processor=processor)
    options = {"points_per_crop": 2, "points_per_batch": 3, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0}
    told = pipe(picture(), hierarchical=False, crops_n_layers=1, **options)
    crops = 1 + 2 * 2
    assert (told["prompts"], told["decoder_calls"]) == (crops * 2 * 2, crops * 2)


def test_addresses_are_read_bars_shown_and_small_regions_cleaned(bars, capsys):
    model, processor = build("sam")
    pipe = HierarchicalMaskGenerationPipeline(model=model, image_processor=processor)
    options = {"points_per_crop": 8, "points_per_batch": 3, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0}
    options |= {"crops_nms_thresh": 1.0, "high_score_thresh": -1e9}
    expected = pipe(picture(), batch_size=1, **options)
    assert "points" not in capsys.readouterr().err
    stream = io.BytesIO()
    picture().save(stream, "PNG")
    address = "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
    found = pipe(address, show_progress=True, timeout=5.0, **options)
    assert all(np.array_equal(a, b) for a, b in zip(found["masks"], expected["masks"], strict=True))
    # A quarter of the points per side, 2 × 2, three at a time: of the second round nothing is left.
    assert "points: 100%" in (shown := capsys.readouterr().err) and "2/2" in shown
    pipe(picture(), show_progress=True, **{**options, "hierarchical": False})
    assert "22/22" in capsys.readouterr().err  # ⌈64 / 3⌉
    options["points_per_crop"] = 4
    for hierarchical in (True, False):
        cleaned = pipe(picture(), min_mask_region_area=10**6, hierarchical=hierarchical, **options)["masks"]
        assert cleaned and all(label(mask, np.ones((3, 3)))[1] == 1 for mask in cleaned if mask.any())
        assert all(label(~mask, np.ones((3, 3)))[1] == 0 for mask in cleaned)
        raw = pipe(picture(), hierarchical=hierarchical, **options)["masks"]
        assert any(label(mask, np.ones((3, 3)))[1] > 1 or not mask.all() for mask in raw)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"pred_iou_thresh": 1.5}, "pred_iou_thresh: got 1.5, accepted are numbers from 0 to 1"),
        ({"stability_score_thresh": float("nan")}, "stability_score_thresh: got nan, accepted are finite"),
        ({"crops_nms_thresh": -0.1}, "crops_nms_thresh: got -0.1"),
        ({"points_per_crop": 0}, "points_per_crop: got 0, accepted are whole numbers from 1"),
        ({"points_per_batch": 2.5}, "points_per_batch: got 2.5"),
        ({"hierarchical": "yes"}, "hierarchical: got 'yes', accepted are True and False"),
        ({"crops_n_layers": 1}, "crops_n_layers: got 1, but two rounds look at the whole image"),
        ({"points_per_side": 8}, "points_per_side: no option of this pipeline"),
        ({"batch_size": 2}, "batch_size: got 2, accepted is 1: what batches are the points of an image"),
        *(({name: -0.01}, f"{name}: got -0.01, accepted are numbers from 0 to 1") for name in SHARES),
        *(({name: 1.01}, f"{name}: got 1.01, accepted are numbers from 0 to 1") for name in SHARES),
        *(({name: 0}, f"{name}: got 0, accepted are whole numbers from 1") for name in FROM_1),
        *(({name: -1}, f"{name}: got -1, accepted are whole numbers from 0") for name in FROM_0),
        *(({name: 1}, f"{name}: got 1, accepted are True and False") for name in SWITCHES),
        ({"points_per_batch": True}, "points_per_batch: got True, accepted are whole numbers from 1"),
        ({"mask_threshold": True}, "mask_threshold: got True, accepted are finite numbers"),
        ({"high_score_thresh": "high"}, "high_score_thresh: got 'high', accepted are finite numbers"),
        ({"stability_score_offset": -0.1}, "stability_score_offset: got -0.1, accepted are numbers from 0"),
        ({"crop_overlap_ratio": 1.0}, "crop_overlap_ratio: got 1.0, accepted are numbers from 0 to below 1"),
        ({"crop_overlap_ratio": -0.1}, "crop_overlap_ratio: got -0.1, accepted are numbers from 0 to below 1"),
    ],
)
def test_options_that_mean_nothing_are_refused_before_anything_is_computed(options, words, monkeypatch):
    model, processor = build("sam")
    pipe = HierarchicalMaskGenerationPipeline(model=model, image_processor=processor)
    monkeypatch.setattr(model, "get_image_embeddings", lambda *a, **k: pytest.fail("computed"))
    with pytest.raises(ValueError, match=words):
        pipe(picture(), **options)


def test_pipeline_finds_it_by_its_task_and_stock_pipelines_take_our_model_in_silence(tmp_path, caplog, nms):
    torch.manual_seed(0)
    architecture = ARCHITECTURES["tinysam"]
    model = architecture.model_class("AutoModel")(tiny_config(architecture)).eval()
    processor = build("sam")[1]
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    with caplog.at_level("WARNING"):
        ours = pipeline("hierarchical-mask-generation", model=str(tmp_path))
        theirs = pipeline("mask-generation", model=str(tmp_path))
        options = {"points_per_crop": 4, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0}
        found = ours(picture(), **options)
        expected = stock(theirs.model, theirs.image_processor)(picture(), **options)
    assert type(ours) is HierarchicalMaskGenerationPipeline and found["masks"]
    got = ours(picture(), hierarchical=False, **options)
    assert all(np.array_equal(a, b) for a, b in zip(got["masks"], expected["masks"], strict=True))
    assert not [record.getMessage() for record in caplog.records]


def test_the_pipeline_can_be_the_first_thing_that_is_imported():
    """Its module imports transformers' pipelines, whose import registers it."""
    code = (
        "from hf_effmodels.pipelines.hierarchical_mask_generation.pipeline_hierarchical_mask_generation import "
        "HierarchicalMaskGenerationPipeline as P; from transformers.pipelines import PIPELINE_REGISTRY as R; "
        "assert R.supported_tasks['hierarchical-mask-generation']['impl'] is P"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).returncode == 0


def test_options_of_a_pipeline_and_of_a_call_are_looked_at_together(monkeypatch):
    model, processor = build("sam")
    crops = {"hierarchical": False, "crops_n_layers": 1}
    pipe = HierarchicalMaskGenerationPipeline(model=model, image_processor=processor, **crops)
    monkeypatch.setattr(model, "get_image_embeddings", lambda *a, **k: pytest.fail("computed"))
    with pytest.raises(ValueError, match="^crops_n_layers: got 1, but two rounds look at the whole image"):
        pipe(picture(), hierarchical=True)


@pytest.mark.parametrize("crops, parts", [(0, 1), (1, 1 + 4), (None, 0)])
def test_each_point_is_told_in_pixels_of_the_image_in_the_midst_of_its_mask(crops, parts, monkeypatch):
    """Also one that was asked in a part of the image, which the model sees in a size of its own."""

    def a_square_around_each(self, points):
        far = torch.stack(torch.meshgrid(*[torch.arange(SIDE) + 0.5] * 2, indexing="xy"), -1) - points[:, None, None]
        return torch.where(far.abs().amax(-1) < 3, 9.0, -9.0)[:, None].float(), torch.full((len(points), 1), 0.9)

    monkeypatch.setattr(Embedded, "ask_points", a_square_around_each)
    model, processor = build("sam")
    pipe = HierarchicalMaskGenerationPipeline(model=model, image_processor=processor)
    how = {"hierarchical": True} if crops is None else {"hierarchical": False, "crops_n_layers": crops}
    side = 8 if crops is None else 3
    options = {"stability_score_thresh": 0.1, "crops_nms_thresh": 1.0, "high_score_thresh": 1e9}
    found = pipe(picture(400, 300), points_per_crop=side, **how, **options, output_bboxes_mask=True)
    assert len(found["masks"]) == len(found["points"]) == (9 * parts or found["prompts"])
    for mask, point, box in zip(found["masks"], found["points"], found["bounding_boxes"].tolist(), strict=True):
        rows, columns = np.nonzero(mask)
        assert mask[int(point[1]), int(point[0])]
        if parts:  # those of two rounds come as far as the edges
            np.testing.assert_allclose(point.numpy(), [columns.mean() + 0.5, rows.mean() + 0.5], atol=4)
        assert box == [columns.min(), rows.min(), columns.max(), rows.max()]
    assert len({tuple(point) for point in found["points"].tolist()}) == len(found["points"])


@pytest.mark.parametrize("hierarchical", [True, False])
def test_a_mask_that_is_as_stable_as_asked_stays_in_two_rounds_and_goes_in_one(hierarchical):
    """The second as transformers' pipeline has it."""
    model, processor = build("sam")
    pipe = HierarchicalMaskGenerationPipeline(model=model, image_processor=processor)
    options = {"points_per_crop": 4, "pred_iou_thresh": 0.0, "crops_nms_thresh": 1.0, "high_score_thresh": 1e9}

    def stable(limit):
        found = pipe(picture(), stability_score_thresh=limit, hierarchical=hierarchical, **options)
        return sorted(found["stability_scores"].tolist())

    every = stable(0.01)
    limit = every[len(every) // 2]
    expected = [score for score in every if (score >= limit if hierarchical else score > limit)]
    assert stable(limit) == expected and 0 < len(expected) < len(every)


def test_crops_are_made_as_the_options_of_the_call_say(monkeypatch):
    model, processor = build("sam")
    pipe, asked = HierarchicalMaskGenerationPipeline(model=model, image_processor=processor), []

    def crops(image, *given):
        asked.append(given)
        raise ValueError("it is enough")

    pipe.image_processor = types.SimpleNamespace(size={"longest_edge": SIDE}, generate_crop_boxes=crops)
    options = {"crops_n_layers": 2, "crop_overlap_ratio": 0.25, "crop_n_points_downscale_factor": 3}
    with pytest.raises(ValueError, match="it is enough"):
        pipe(picture(), hierarchical=False, points_per_crop=6, **options)
    assert asked == [(SIDE, 2, 0.25, 6, 3)]


@pytest.mark.parametrize("hierarchical", [True, False])
def test_what_a_mask_must_reach_is_what_the_call_says(hierarchical, monkeypatch):
    model, processor = build("sam")
    pipe, asked = HierarchicalMaskGenerationPipeline(model=model, image_processor=processor), []

    def search(image, thresholds, options):
        asked.append(thresholds)
        raise ValueError("it is enough")

    monkeypatch.setattr(pipe, "_in_two_rounds" if hierarchical else "_in_one_round", search)
    options = {"pred_iou_thresh": 0.25, "stability_score_thresh": 0.5, "stability_score_offset": 3.0}
    options |= {"mask_threshold": 0.75, "high_score_thresh": 7.5}
    with pytest.raises(ValueError, match="it is enough"):
        pipe(picture(), hierarchical=hierarchical, **options)
    assert asked == [Thresholds(0.25, 0.5, 3.0, 0.75, 7.5, strict=not hierarchical)]


@pytest.mark.parametrize("hierarchical", [True, False])
@pytest.mark.parametrize("limit, all_stay", [(1.0, True), (0.5, False)])
def test_masks_that_were_cleaned_overlap_as_much_as_the_call_allows(hierarchical, limit, all_stay, monkeypatch):
    """Each point is told the same square with a hole in it."""
    logits = torch.full((SIDE, SIDE), -9.0)
    logits[4:24, 4:24] = 9.0
    logits[12:14, 12:14] = -9.0

    def ask(self, points):
        return logits.expand(len(points), 1, SIDE, SIDE), torch.full((len(points), 1), 0.95)

    monkeypatch.setattr(Embedded, "ask_points", ask)
    model, processor = build("sam")
    pipe = HierarchicalMaskGenerationPipeline(model=model, image_processor=processor)
    found = pipe(
        picture(),
        points_per_crop=4,
        hierarchical=hierarchical,
        stability_score_thresh=0.1,
        high_score_thresh=1e9,
        min_mask_region_area=1000,
        crops_nms_thresh=limit,
    )
    assert len(found["masks"]) == (found["prompts"] if all_stay else 1) and found["prompts"] > 1
    assert all(label(~mask)[1] == 1 for mask in found["masks"]), "the hole is filled"
