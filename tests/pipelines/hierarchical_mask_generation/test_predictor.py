"""The predictor: encode once, ask many times, in pixels of the image."""

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import SamProcessor

from hf_effmodels.pipelines import MaskPredictor
from hf_effmodels.pipelines.hierarchical_mask_generation.predictor import EncodedImage, _numbers

from .models import BUILDERS, build, picture


@pytest.fixture(scope="module")
def sam():
    model, processor = build("sam")
    return model, processor, MaskPredictor(model, processor).encode(picture())


@torch.no_grad()
def test_prompts_give_what_transformers_processor_and_model_give(sam):
    model, images, encoded = sam
    processor = SamProcessor(images)
    points, labels, box = [[30, 20], [70, 60]], [1, 0], [10.0, 5.0, 80.0, 66.0]
    inputs = processor(
        picture(), input_points=[[points]], input_labels=[[labels]], input_boxes=[[box]], return_tensors="pt"
    )
    sizes = inputs.pop("original_sizes"), inputs.pop("reshaped_input_sizes")
    expected = model(**{k: v.float() if v.is_floating_point() else v for k, v in inputs.items()})
    got = encoded.predict(points, labels, box)
    torch.testing.assert_close(got.logits, expected.pred_masks[0, 0])
    torch.testing.assert_close(got.scores, expected.iou_scores[0, 0])
    [masks] = processor.post_process_masks(expected.pred_masks, *sizes)
    assert (got.masks != masks[0]).float().mean() < 1e-3 and got.masks.shape == (3, 70, 90)
    assert torch.equal(got.best, got.masks[got.scores.argmax()])
    single = encoded.predict(points, labels, box, multimask=False)
    assert single.masks.shape == (1, 70, 90)
    assert not torch.equal(single.logits[0], got.logits[0])


def test_several_prompts_are_each_by_itself(sam):
    _, _, encoded = sam
    boxes = [[10, 5, 80, 66], [0, 0, 30, 70]]
    points = [[[30, 20]], [[5, 60]]]
    together = encoded.predict(points=points, boxes=boxes)
    assert together.masks.shape == (2, 3, 70, 90) and together.best.shape == (2, 70, 90)
    for number in range(2):
        alone = encoded.predict(points=points[number], boxes=boxes[number])
        torch.testing.assert_close(together.logits[number], alone.logits, atol=1e-4, rtol=1e-4)


def test_a_mask_of_before_and_a_threshold_change_the_answer(sam):
    _, _, encoded = sam
    first = encoded.predict(points=[[30, 20]])
    second = encoded.predict(points=[[30, 20]], mask=first.logits[0])
    assert not torch.allclose(first.logits, second.logits)
    assert encoded.predict(points=[[30, 20]], threshold=2.0).masks.sum() < first.masks.sum()


def test_prompts_may_lie_on_the_image_s_edge_and_have_no_size(sam):
    _, _, encoded = sam
    corners = encoded.predict(points=[[0, 0], [90, 70]], labels=[1, 0])
    assert corners.masks.shape == (3, 70, 90)
    assert torch.equal(corners.logits, encoded.predict(points=torch.tensor([[0, 0], [90, 70]]), labels=[1, 0]).logits)
    assert encoded.predict(boxes=[20, 30, 20, 30]).masks.shape == (3, 70, 90)
    # Without labels all points are in the object.
    assert torch.equal(encoded.predict([[3, 4]]).logits, encoded.predict([[3, 4]], [1]).logits)


@pytest.mark.parametrize("name", BUILDERS)
def test_every_promptable_model_is_taken(name):
    model, processor = build(name)
    encoded = MaskPredictor(model, processor).encode(picture())
    answer = encoded.predict(points=[[30, 20]], labels=[1])
    assert answer.masks.shape[1:] == (70, 90) == encoded.size and answer.masks.any()


def test_threads_share_an_image_and_a_predictor(sam):
    model, processor, encoded = sam
    other = MaskPredictor(model, processor).encode(picture(50, 80))
    asked = [(encoded, [x, 20]) for x in range(0, 90, 12)] + [(other, [x, 60]) for x in range(0, 50, 8)]
    alone = [image.predict(points=[point]).logits for image, point in asked]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda a: a[0].predict(points=[a[1]]).logits, asked))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize(
    "prompt, words",
    [
        ({}, "points: got None, and boxes: got None"),
        ({"labels": [1], "boxes": [1, 2, 3, 4]}, "labels: given without points"),
        ({"points": [[91, 20]]}, "points: got .* accepted are x from 0 to 90 and y from 0 to 70"),
        ({"points": [[20, -1]]}, "points: got .* accepted are x from 0 to 90"),
        ({"points": [20, 10]}, r"points: got shape \(2,\)"),
        ({"points": [[20, 10]], "labels": [1, 0]}, r"labels: got shape \(2,\), expected \(1,\)"),
        ({"points": [[20, 10]], "labels": [2]}, "labels: got .* accepted are 1"),
        ({"points": [[float("nan"), 10]]}, "points: got .* accepted are finite numbers"),
        ({"points": "here"}, "points: got 'here', accepted are numbers"),
        ({"boxes": [30, 10, 20, 40]}, "boxes: got .* accepted are left, top, right, bottom"),
        ({"boxes": [1, 2, 3]}, r"boxes: got shape \(3,\)"),
        ({"points": [[[2, 3]], [[4, 5]]], "boxes": [[1, 2, 3, 4]]}, "boxes: got 1 prompts, points has 2"),
        ({"points": [[[2, 3]], [[4, 5]]], "boxes": [1, 2, 3, 4]}, r"boxes: got shape \(4,\); points has several"),
        ({"points": [[2, 3]], "boxes": [[1, 2, 3, 4]]}, r"boxes: got shape \(1, 4\); points has one"),
        ({"points": [[20, 70.5]]}, "points: got .* accepted are x from 0 to 90 and y from 0 to 70"),
        ({"points": [[-0.5, 20]]}, "points: got .* accepted are x from 0 to 90"),
        ({"points": np.zeros((0, 2))}, r"points: got shape \(0, 2\)"),
        ({"boxes": np.zeros((0, 4))}, r"boxes: got shape \(0, 4\), accepted are \(4,\) and \(prompts, 4\)"),
        ({"boxes": [30, 40, 40, 10]}, "boxes: got .* accepted are left, top, right, bottom"),
        ({"points": [[2, 3]], "mask": torch.zeros(2, 16, 16)}, r"mask: got shape \(2, 16, 16\)"),
        ({"points": [[2, 3]], "mask": torch.zeros(9, 9)}, r"mask: got shape \(9, 9\), expected \(16, 16\)"),
    ],
)
def test_prompts_that_cannot_be_meant_are_refused_in_words(sam, prompt, words):
    with pytest.raises(ValueError, match=words):
        sam[2].predict(**prompt)


def test_numbers_of_prompts_are_tensors_of_any_kind_arrays_and_lists():
    learned = torch.tensor([1.0, 2.0], requires_grad=True)
    for values in (learned, learned.detach().bfloat16(), np.array([1, 2], np.uint8), [1, 2], (np.float32(1), 2)):
        numbers = _numbers("points", values)
        assert numbers.tolist() == [1, 2] and numbers.dtype == torch.float64
    for values, said in (
        ([1, float("nan")], "accepted are finite numbers"),
        ([[1], [2, 3]], "as many for each prompt"),
    ):
        with pytest.raises(ValueError, match=f"^points: got .*{said}"):
            _numbers("points", values)


@pytest.mark.parametrize("dtype, kept", [("float32", "float32"), ("bfloat16", "float32"), ("float64", "float64")])
def test_places_keep_their_pixels_in_networks_of_half_precision(dtype, kept):
    class Asked(Exception):
        pass

    def decode(**given):
        raise Asked(given)

    model = SimpleNamespace(device=torch.device("cpu"), dtype=getattr(torch, dtype))
    embeddings = {"image_embeddings": torch.zeros(1, 1, 2, 2)}
    embedded = SimpleNamespace(model=model, size=(9, 9), to_model=lambda p: p, decode=decode, inputs=embeddings)
    with pytest.raises(Asked) as asked:
        EncodedImage(embedded).predict([[1, 2]], boxes=[0, 1, 2, 3], mask=torch.zeros(8, 8), multimask=False)
    (given,) = asked.value.args
    assert given["input_points"].dtype == given["input_boxes"].dtype == getattr(torch, kept)
    assert given["input_labels"].dtype == torch.int64 and given["input_masks"].dtype == model.dtype
    assert given["input_points"].tolist() == [[[[1, 2]]]] and given["input_boxes"].tolist() == [[[0, 1, 2, 3]]]
    assert given["input_labels"].tolist() == [[[1]]] and given["multimask_output"] is False


@pytest.mark.parametrize("threshold", [-1.5, 0.0, 2.0])
@pytest.mark.parametrize("prompts", [1, 2])
def test_a_mask_is_where_its_logits_are_above_the_threshold_and_the_best_has_the_best_score(threshold, prompts):
    levels = torch.tensor([[-2.0, -1.5, -1.0, 0.0], [0.5, 2.0, 2.5, 9.0]])
    logits = torch.stack([levels + shift for shift in (0, 1, 2)])[None].repeat(prompts, 1, 1, 1)
    scores = torch.tensor([[0.1, 0.7, 0.2], [0.9, 0.3, 0.2]])[:prompts]
    embedded = SimpleNamespace(
        model=SimpleNamespace(device="cpu", dtype=torch.float32),
        size=(9, 9),
        to_model=lambda points: points,
        decode=lambda **given: (logits, scores),
        enlarge=lambda of_prompt: of_prompt,
    )
    points = [[1, 2]] if prompts == 1 else [[[1, 2]], [[3, 4]]]
    found = EncodedImage(embedded).predict(points, threshold=threshold)
    above = logits.numpy() > threshold
    np.testing.assert_array_equal(found.masks.numpy(), above[0] if prompts == 1 else above)
    np.testing.assert_array_equal(found.best.numpy(), above[0, 1] if prompts == 1 else [above[0, 1], above[1, 0]])


@pytest.mark.parametrize("box", [[-1, 2, 9, 9], [1, -2, 9, 9], [1, 2, 90.5, 9], [1, 2, 9, 70.5]])
@pytest.mark.parametrize("several", [False, True])
def test_a_box_beyond_the_image_is_refused_on_every_side(sam, box, several):
    boxes = [[0, 0, 90, 70], box] if several else box
    with pytest.raises(ValueError, match="^boxes: got .*, accepted are x from 0 to 90 and y from 0 to 70"):
        sam[2].predict(boxes=boxes)
    assert sam[2].predict(boxes=[[0, 0, 90, 70], [90, 70, 90, 70]][: 2 if several else 1]).masks.shape[1:] == (
        3,
        70,
        90,
    )


def test_each_prompt_has_its_own_labels_and_boxes_alone_are_as_many_prompts(sam):
    encoded = sam[2]
    points, labels = [[[30, 20], [70, 60]], [[30, 20], [70, 60]]], [[1, 0], [0, 1]]
    together = encoded.predict(points, labels)
    for number in range(2):
        alone = encoded.predict(points[number], labels[number])
        torch.testing.assert_close(together.logits[number], alone.logits, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(together.logits[0], together.logits[1], atol=1e-2)
    boxes = [[10, 5, 80, 66], [0, 0, 30, 70], [5, 5, 20, 20]]
    by_boxes = encoded.predict(boxes=boxes)
    assert by_boxes.masks.shape == (3, 3, 70, 90) and by_boxes.scores.shape == (3, 3)
    for number, box in enumerate(boxes):
        alone = encoded.predict(boxes=box)
        torch.testing.assert_close(by_boxes.logits[number], alone.logits, atol=1e-4, rtol=1e-4)
    again = encoded.predict(boxes=boxes[:2], mask=together.logits[0, 0])
    for number in range(2):
        alone = encoded.predict(boxes=boxes[number], mask=together.logits[0, 0])
        torch.testing.assert_close(again.logits[number], alone.logits, atol=1e-4, rtol=1e-4)


def test_a_mask_of_before_is_as_large_as_the_decoder_makes_it_also_where_it_sees_several_maps():
    model, processor = build("sam2")
    encoded = MaskPredictor(model, processor).encode(picture())
    first = encoded.predict(points=[[30, 20]])
    again = encoded.predict(points=[[30, 20]], mask=first.logits[0])
    assert again.logits.shape == first.logits.shape and not torch.equal(again.logits, first.logits)
