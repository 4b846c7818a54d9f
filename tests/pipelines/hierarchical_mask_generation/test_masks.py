"""Masks, points and rounds against their definitions, at values the published cases do not have."""

import numpy as np
import pytest
import torch

from hf_effmodels.pipelines.hierarchical_mask_generation import masks as amg
from hf_effmodels.pipelines.hierarchical_mask_generation.masks import suppress_overlapping
from hf_effmodels.pipelines.hierarchical_mask_generation.points import first_points, grid, second_points
from hf_effmodels.pipelines.hierarchical_mask_generation.rounds import (
    Found,
    Thresholds,
    ask,
    join,
    segment_everything,
    without_small_regions,
)


def test_suppression_keeps_the_best_of_boxes_that_overlap():
    boxes = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 10, 5], [20, 20, 30, 30], [0, 0, 0, 0]]).float()
    scores = torch.tensor([0.5, 0.9, 0.7, 0.1, 0.2])
    assert suppress_overlapping(boxes, scores, 0.7).tolist() == [1, 2, 4, 3]
    assert suppress_overlapping(boxes, scores, 0.6).tolist() == [1, 4, 3]
    assert suppress_overlapping(boxes[:0], scores[:0], 0.7).tolist() == []


def test_boxes_of_one_score_are_kept_in_the_order_they_came_in():
    """Many at once: a sort that is not told to be stable keeps the order of a few."""
    corner = 10.0 * torch.arange(600)[:, None]
    boxes = torch.cat([corner, torch.zeros_like(corner), corner + 5, torch.ones_like(corner)], dim=1)
    scores = torch.full((600,), 0.5)
    scores[1::2] = 0.75
    assert suppress_overlapping(boxes, scores, 0.5).tolist() == [*range(1, 600, 2), *range(0, 600, 2)]


def test_regions_are_those_of_scipy():
    from scipy.ndimage import label

    random = np.random.default_rng(0)
    for share in (0.2, 0.4, 0.6, 0.8):
        mask = random.random((23, 31)) < share
        for area in (2, 6, 40):
            regions, count = label(~mask, np.ones((3, 3)))
            small = [n for n in range(1, count + 1) if (regions == n).sum() < area]
            cleaned, changed = amg.remove_small_regions(mask, area, "holes")
            assert np.array_equal(cleaned, mask | np.isin(regions, small)) and changed == bool(small)
            regions, count = label(mask, np.ones((3, 3)))
            sizes = [(regions == n).sum() for n in range(1, count + 1)]
            kept = [n + 1 for n, size in enumerate(sizes) if size >= area] or [int(np.argmax(sizes)) + 1]
            cleaned, changed = amg.remove_small_regions(mask, area, "islands")
            assert np.array_equal(cleaned, np.isin(regions, kept)) and changed == (min(sizes) < area)
    with pytest.raises(ValueError, match="mode: got 'gaps', accepted are 'holes' and 'islands'"):
        amg.remove_small_regions(mask, 2, "gaps")
    # Runs two rows apart do not touch over an empty place between them.
    apart = np.array([[0, 0, 1, 1, 1], [1, 0, 0, 0, 0], [0, 0, 0, 1, 1]], dtype=bool)
    cleaned, changed = amg.remove_small_regions(apart, 2, "islands")
    assert changed and np.array_equal(cleaned, apart & [[True], [False], [True]])
    assert amg.remove_small_regions(apart, 3, "islands")[0].sum() == 3  # three regions: of 3, 1 and 2 pixels


def test_boxes_stability_and_edges_of_crops_are_what_their_names_say():
    mask = np.zeros((2, 6, 8), dtype=bool)
    mask[0, 2:5, 1:7] = True
    assert amg.mask_boxes(torch.from_numpy(mask)).tolist() == [[1, 2, 6, 4], [0, 0, 0, 0]]
    logits = torch.tensor([[[-0.5, 0.5, 1.5, 2.5]]])
    assert amg.stability_scores(logits).item() == pytest.approx(2 / 4)  # above 1 of those above -1
    # The image of 100 × 80, cut at 50 on the right: only an edge there is none of the image.
    boxes = torch.tensor([[0, 0, 10, 10], [0, 0, 29, 10], [0, 0, 30, 10], [0, 0, 50, 80]])
    assert amg.near_crop_edge(boxes, (0, 0, 50, 80), (0, 0, 100, 80)).tolist() == [False, False, True, True]
    assert amg.near_crop_edge(boxes, (0, 0, 50, 80), (0, 0, 100, 80), 19).tolist() == [False, False, False, True]
    assert amg.near_crop_edge(boxes[:1], (40, 0, 90, 80), (0, 0, 100, 80)).tolist() == [True]
    # Half of the shorter side twice, less a third of it: 80 · 512 / 1500 = 27 pixels of overlap.
    assert amg.crop_boxes(80, 100, 0) == [[0, 0, 100, 80]]
    assert amg.crop_boxes(80, 100, 1)[1:] == [[0, 0, 64, 54], [0, 27, 64, 80], [37, 0, 100, 54], [37, 27, 100, 80]]
    # 30,000 · 512 / 1500 = 10,240: to the pixel.
    assert amg.crop_boxes(30_000, 40_000, 1)[1] == [0, 0, (40_000 + 10_240) // 2, (30_000 + 10_240) // 2]
    layers = amg.crop_boxes(80, 100, 2, overlap_ratio=0.0)
    assert len(layers) == 1 + 4 + 16 and layers[1] == [0, 0, 50, 40] and layers[-1] == [75, 60, 100, 80]


def test_grids_begin_with_one_point():
    assert grid(1).tolist() == [[0.5, 0.5]] and first_points(1, 10, 20).tolist() == [[10.0, 5.0]]
    assert grid(2).tolist() == [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]
    assert first_points(5, 10, 20).tolist() == [[5.0, 2.5], [15.0, 2.5], [5.0, 7.5], [15.0, 7.5]]
    for wrong in (0, -5, 1.0):
        for make in (grid, lambda side: first_points(side, 10, 20)):
            with pytest.raises(ValueError, match=f"points_per_side: got {wrong}, accepted are whole numbers from 1"):
                make(wrong)


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 0)])
def test_a_mask_without_pixels_has_run_lengths_too(shape):
    runs = amg.encode_runs(np.zeros(shape, dtype=bool))
    assert runs["size"] == list(shape) and amg.runs_area(runs) == 0 and amg.decode_runs(runs).shape == shape


def test_run_lengths_go_column_by_column():
    mask = np.array([[0, 1, 1], [0, 0, 1]], dtype=bool)
    assert amg.encode_runs(mask) == {"size": [2, 3], "counts": [2, 1, 1, 2]}
    assert amg.encode_runs(~mask)["counts"] == [0, 2, 1, 1, 2]
    # Of numbers all but 0 are the mask's, whatever they are.
    for numbers in (np.array([[0, 255, 3]], dtype=np.uint8), torch.tensor([[0.0, -0.5, 0.25]])):
        assert amg.encode_runs(numbers) == {"size": [1, 3], "counts": [1, 2]}
    for one in (mask, ~mask, np.zeros((2, 3), bool), np.ones((2, 3), bool)):
        assert np.array_equal(amg.decode_runs(amg.encode_runs(one)), one)
        assert amg.runs_area(amg.encode_runs(one)) == one.sum()


def test_stability_counts_around_another_threshold():
    logits = torch.tensor([[[-3.0, 0.2, 0.9], [1.6, 2.6, 4.0]]])
    assert amg.stability_scores(logits, 1.0, 0.5).item() == pytest.approx(3 / 4)
    assert torch.isnan(amg.stability_scores(torch.full((1, 2, 2), -9.0)))[0]


@pytest.mark.parametrize("side, height, width", [(8, 64, 96), (30, 120, 90), (6, 3, 200), (1, 5, 5)])
def test_both_rounds_ask_every_cell_of_the_grid_where_nothing_is_sure(side, height, width):
    first = first_points(side, height, width)
    second = second_points(first, torch.zeros(height, width, dtype=torch.bool), side)
    asked = {tuple(point) for point in torch.cat([first, second]).tolist()}
    assert len(asked) == len(first) + len(second), "no point is asked twice"
    assert all(0 <= x < width and 0 <= y < height for x, y in asked)
    if side % 4 == 0:
        # As published: a last column or row that would begin on the image's edge is left out.
        assert len(asked) == (side - (width % side == 0)) * (side - (height % side == 0))
    # No gap: the nearest point is at most a stride and a half away, in both directions.
    xs, ys = ({point[axis] for point in asked} for axis in (0, 1))
    for values, size in ((xs, width), (ys, height)):
        stride = max(size / side, 1)
        ordered = sorted(values)
        assert max(np.diff([-stride / 2, *ordered, size + stride / 2]), default=0) <= 2.51 * stride


def test_a_point_is_left_out_where_the_map_says_so_in_rows_and_columns():
    confident = torch.zeros(16, 32, dtype=torch.bool)
    first = torch.tensor([[6.0, 3.0]], dtype=torch.float64)
    everything = second_points(first, confident, 4).tolist()
    confident[3, 14] = True  # x 14, y 3: one stride of 8 to the right
    assert [p for p in everything if p not in second_points(first, confident, 4).tolist()] == [[14.0, 3.0]]


def _squares(calls):
    """A predictor of two squares; everything else belongs to nothing."""
    logits = torch.full((2, 32, 32), -10.0)
    logits[0, 2:14, 2:14] = 10.0
    logits[1, 18:30, 18:30] = 10.0
    logits[1, 20:23, 20:23] = -10.0  # a hole of 9 pixels

    def decode(points):
        calls.append(len(points))
        which = [0 if x < 16 and y < 16 else 1 for x, y in points.tolist()]
        scores = torch.tensor([[0.95 if 2 <= x < 30 and 2 <= y < 30 else 0.1] for x, y in points.tolist()])
        return logits[which][:, None], scores

    return decode


def test_batches_holes_and_the_edge_between_kept_and_dropped():
    calls = []
    result = segment_everything(_squares(calls), lambda x: x, 32, 32, points_per_side=8, points_per_batch=3)
    assert result.decoder_calls == len(calls) and max(calls) <= 3 and sum(calls) == sum(map(len, result.rounds))
    assert sorted(amg.runs_area(runs) for runs in result.found.runs) == [135, 144]
    again = segment_everything(_squares([]), lambda x: x, 32, 32, points_per_side=8, min_region_area=10)
    assert sorted(amg.runs_area(runs) for runs in again.found.runs) == [144, 144]
    # A score equal to the limit is dropped, a stability equal to it is kept unless strict.
    for options, expected in (
        ({"predicted_iou": 0.95}, 2 * (np.float32(0.95) > 0.95)),
        ({"stability": 1.0}, 2),
        ({"stability": 1.0, "strict": True}, 0),
    ):
        found = segment_everything(
            _squares([]), lambda x: x, 32, 32, points_per_side=8, thresholds=Thresholds(**options)
        ).found
        assert len(found) == expected, options


def test_where_kept_masks_of_the_first_round_are_sure_nothing_is_asked_again():
    logits = torch.full((32, 32), 8.5)
    logits[:, 16:] = 8.6  # the left half is not above the limit

    def decode(points):
        return logits.expand(len(points), 1, 32, 32), torch.full((len(points), 1), 0.95)

    result = segment_everything(decode, lambda x: x, 32, 32, points_per_side=8)
    assert torch.equal(result.confident, logits > 8.5)
    assert len(result.rounds[1]) and (result.rounds[1][:, 0] < 16).all()
    everywhere = segment_everything(
        decode, lambda x: x, 32, 32, points_per_side=8, thresholds=Thresholds(predicted_iou=0.96)
    )
    assert not everywhere.confident.any() and (everywhere.rounds[1][:, 0] >= 16).any(), "what is dropped is not sure"


def test_cleaned_masks_give_way_to_those_that_were_clean():
    clean = np.zeros((20, 20), bool)
    clean[2:18, 2:18] = True
    holed = clean.copy()
    holed[5, 5] = False
    boxes = torch.tensor([[2, 2, 17, 17]] * 2)
    found = Found(
        [amg.encode_runs(holed), amg.encode_runs(clean)],
        torch.tensor([0.9, 0.8]),
        torch.ones(2),
        boxes,
        torch.tensor([[1.0, 1.0], [2.0, 2.0]]),
    )
    kept = without_small_regions(found, 4, 0.7)
    assert kept.points.tolist() == [[2.0, 2.0]], "the better score lost: its mask had to be cleaned"
    assert without_small_regions(found, 0, 0.7) is found
    assert len(without_small_regions(Found(), 4, 0.7)) == 0


@pytest.mark.parametrize("change", ["hole", "island"])
def test_a_mask_is_without_its_hole_or_its_island_and_its_box_goes_around_what_is_left(change):
    whole = np.zeros((20, 20), bool)
    whole[2:8, 2:9] = True
    mask = whole.copy()
    mask[(4, 4) if change == "hole" else (18, 18)] ^= True
    box = torch.tensor([[2, 2, 8, 7]]) if change == "hole" else torch.tensor([[2, 2, 18, 18]])
    found = Found([amg.encode_runs(mask)], torch.tensor([0.9]), torch.ones(1), box, torch.tensor([[1.0, 1.0]]))
    kept = without_small_regions(found, 4, 0.7)
    assert (amg.decode_runs(kept.runs[0]) == whole).all() and kept.boxes.tolist() == [[2, 2, 8, 7]]
    kept = without_small_regions(found, 1, 0.7)
    assert (amg.decode_runs(kept.runs[0]) == mask).all(), "one pixel is not below an area of one"


def test_points_of_the_second_round_are_asked_near_ones_first_and_none_outside():
    """Around a point in the midst all fifteen, in order; in a corner those that are in the image."""
    nothing = torch.zeros(40, 40, dtype=torch.bool)
    near = [(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)]
    far = [(2, -1), (2, 0), (2, 1), (-1, 2), (0, 2), (1, 2), (2, 2)]
    found = second_points(torch.tensor([[20.0, 15.0]]), nothing, 8)  # strides of five pixels
    assert found.tolist() == [[20 + 5 * a, 15 + 5 * b] for a, b in near + far]
    found = second_points(torch.tensor([[32.0, 31.0]]), nothing, 8)
    assert found.tolist() == [[32 + 5 * a, 31 + 5 * b] for a, b in near]
    # One that is two strides from an edge has the last row of points as long as that is inside.
    found = second_points(torch.tensor([[29.0, 30.0]]), nothing, 8)
    assert found.tolist() == [[29 + 5 * a, 30 + 5 * b] for a, b in [*near, *far[:3]]]


def test_a_logit_at_the_threshold_itself_is_not_above_it():
    logits = torch.tensor([[[-1.0, -0.5, 0.5, 1.0, 1.5]]])
    assert amg.stability_scores(logits).item() == pytest.approx(1 / 4)
    logits = logits.expand(1, 1, 5, 5)
    found = segment_everything(
        lambda points: (logits.expand(len(points), 1, 5, 5), torch.full((len(points), 1), 0.9)),
        lambda part: part, 5, 5, points_per_side=1, thresholds=Thresholds(stability=0.25, mask=0.0),
    ).found  # fmt: skip
    assert amg.decode_runs(found.runs[0])[0].tolist() == [False, False, True, True, True]
    strict = segment_everything(
        lambda points: (logits.expand(len(points), 1, 5, 5), torch.full((len(points), 1), 0.9)),
        lambda part: part, 5, 5, points_per_side=1, thresholds=Thresholds(stability=0.25, strict=True),
    ).found  # fmt: skip
    assert not len(strict)


def test_where_nothing_is_found_there_is_nothing_of_the_same_kinds():
    none = segment_everything(
        lambda points: (torch.full((len(points), 1, 8, 8), -9.0), torch.zeros(len(points), 1)),
        lambda part: part, 8, 8, points_per_side=4,
    ).found  # fmt: skip
    some = segment_everything(
        lambda points: (torch.full((len(points), 1, 8, 8), 9.0), torch.ones(len(points), 1)),
        lambda part: part, 8, 8, points_per_side=4,
    ).found  # fmt: skip
    assert (len(none), len(some)) == (0, 1)
    for name in ("scores", "stability", "boxes", "points"):
        empty, found = getattr(none, name), getattr(some, name)
        assert (empty.dtype, empty.shape[1:]) == (found.dtype, found.shape[1:]) and len(empty) == 0, name


def test_progress_is_told_the_batches_of_each_round_and_equal_masks_are_the_second_rounds():
    """A point is asked in the first round and the eight around it in the second, by three at a time."""
    told = []

    def progress(batches, total):
        told.append(total)
        return batches

    result = segment_everything(
        lambda points: (torch.full((len(points), 1, 16, 16), 3.0), torch.ones(len(points), 1)),
        lambda part: part, 16, 16, points_per_side=4, points_per_batch=3, progress=progress,
    )  # fmt: skip
    assert told == [1, 3] and result.decoder_calls == 4
    assert [len(points) for points in result.rounds] == [1, 8] == [len(found) for found in result.kept]
    assert len(result.found) == 1 and result.found.points.tolist() == result.rounds[1][:1].tolist()


@pytest.mark.parametrize("least", [0.0, 0.5], ids=["all of them", "the surer"])
@pytest.mark.parametrize("masks_per_batch", [1, 4, 99])
def test_each_of_several_masks_of_a_point_is_told_with_that_point(least, masks_per_batch):
    """The three masks of a point are squares of three sizes around it; the middle one is the least sure."""
    places = torch.tensor([[6.0, 9.0], [20.0, 7.0], [11.0, 24.0], [25.0, 25.0], [8.0, 16.0]])

    def decode(points):
        far = (torch.stack(torch.meshgrid(*[torch.arange(32.0)] * 2, indexing="xy"), -1) - points[:, None, None]).abs()
        sizes = torch.tensor([1.5, 2.5, 3.5])[None, :, None, None]
        scores = torch.tensor([0.9, 0.2, 0.8]).expand(len(points), 3)
        return torch.where(far.amax(-1)[:, None] < sizes, 9.0, -9.0), scores

    limits = Thresholds(predicted_iou=least, stability=0.5)
    parts = list(ask(places, decode, lambda x: x, limits, points_per_batch=2, masks_per_batch=masks_per_batch))
    sizes = (1, 2, 3) if least == 0 else (1, 3)
    assert [len(part) for part in parts] == [2 * len(sizes), 2 * len(sizes), len(sizes)], "a part for each batch"
    found = join(parts)
    expected = [[x, y, x - n, y - n, x + n, y + n, (2 * n + 1) ** 2] for x, y in places.tolist() for n in sizes]
    told = zip(found.points.tolist(), found.boxes.tolist(), found.runs, strict=True)
    assert [[*point, *box, amg.runs_area(runs)] for point, box, runs in told] == expected
    assert found.scores.tolist() == pytest.approx([{1: 0.9, 2: 0.2, 3: 0.8}[n] for _ in places for n in sizes])
