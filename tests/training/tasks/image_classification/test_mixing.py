from dataclasses import fields

import numpy as np
import pytest
import torch

from hf_effmodels.training.data.augment import cut_box
from hf_effmodels.training.run.values import check_goes_with
from hf_effmodels.training.tasks.image_classification.mixing import (
    OWN_SHARE,
    SAMPLE_SEED,
    UNMIXED,
    Collator,
    smooth_one_hot,
)
from hf_effmodels.training.tasks.image_classification.task import ImageClassificationArguments


def samples(count=4, seeded=True):
    # Each image holds its own number, so that a pixel says which image it comes from.
    batch = [{"pixel_values": torch.full((3, 8, 8), float(i)), "labels": i} for i in range(count)]
    return [{**sample, SAMPLE_SEED: i} for i, sample in enumerate(batch)] if seeded else batch


def test_smoothed_labels_are_timms():
    expected = torch.full((2, 5), 0.1 / 5)
    expected[0, 3] = expected[1, 0] = 0.9 + 0.1 / 5
    torch.testing.assert_close(smooth_one_hot(torch.tensor([3, 0]), 5, 0.1), expected)


def test_pictures_of_several_shapes_are_no_batch():
    batch = samples(2, seeded=False)
    batch[1]["pixel_values"] = torch.zeros(3, 8, 9)
    with pytest.raises(ValueError, match="^--model: its image processor keeps the shapes of pictures, and a"):
        Collator(2)(batch)
    assert Collator(2)(batch[1:])["pixel_values"].shape == (1, 3, 8, 9)


def test_mixup_weighs_images_and_labels_alike():
    batch = Collator(4, mixup=0.8, smoothing=0.1)(samples())
    weight = batch["pixel_values"][0, 0, 0, 0].item() / -3 + 1  # image 0 holds 0, its partner 3
    assert 0 < weight < 1
    clean = smooth_one_hot(torch.arange(4), 4, 0.1)
    torch.testing.assert_close(batch["labels"], weight * clean + (1 - weight) * clean.flip(0))
    torch.testing.assert_close(batch["labels"].sum(1), torch.ones(4))


def test_cutmix_labels_follow_the_area_that_was_really_cut():
    for seed in range(20):
        batch = samples()
        batch[0][SAMPLE_SEED] = seed
        batch = Collator(4, cutmix=1.0)(batch)
        share = (batch["pixel_values"][0, 0] == 0).float().mean()
        assert set(batch["pixel_values"][0].unique().tolist()) <= {0.0, 3.0}
        torch.testing.assert_close(batch["labels"][0, 0], share)
        torch.testing.assert_close(batch["labels"][0, 3], 1 - share)


def test_cut_boxes_have_the_area_of_the_paper_and_stay_inside():
    rng = np.random.default_rng(0)
    boxes = np.array([cut_box(100, 200, 0.75, rng.integers(100), rng.integers(200)) for _ in range(2000)])
    top, bottom, left, right = boxes.T
    assert top.min() >= 0 and bottom.max() <= 100 and left.min() >= 0 and right.max() <= 200
    areas = (bottom - top) * (right - left)
    assert areas.max() == 50 * 100  # a quarter of the picture, where the border does not cut it off


def test_both_methods_alternate_and_only_training_batches_are_mixed():
    collator = Collator(4, mixup=0.8, cutmix=1.0, probability=0.8, switch_probability=0.5)
    kinds = []
    for seed in range(300):
        batch = samples()
        batch[0][SAMPLE_SEED] = seed
        values = collator(batch)["pixel_values"][0].unique()
        kinds.append("cutmix" if set(values.tolist()) == {0.0, 3.0} else "none" if values.tolist() == [0] else "mixup")
    # A fifth is left alone; some of CutMix's boxes are empty.
    assert 0.15 < kinds.count("none") / 300 < 0.32 and 0.3 < kinds.count("mixup") / 300 < 0.5
    evaluated = collator(samples(seeded=False))
    assert torch.equal(evaluated["labels"], torch.arange(4)) and evaluated["labels"].dtype == torch.int64
    again = [collator(samples())["pixel_values"] for _ in range(2)]
    assert torch.equal(*again)


@pytest.mark.parametrize("beside", [True, False])
@pytest.mark.parametrize("method", ["mixup", "cutmix"])
@pytest.mark.parametrize("alpha", [0.2, 2.0])
def test_the_weight_is_of_the_beta_distribution_asked_for(method, alpha, beside):
    """For this method, whatever is asked for the other beside it."""
    given = {"mixup": 0.4 / alpha, "cutmix": 0.4 / alpha} if beside else {}
    collator = Collator(2, **{**given, method: alpha}, switch_probability=float(method == "cutmix"))
    rng, weights = np.random.default_rng(0), []
    for _ in range(1500):
        labels = collator.mix(torch.zeros(2, 1, 64, 64), torch.tensor([0, 1]), rng)
        weights.append(float(labels[0, 0]))
    # Beta(a, a) has mean 1/2 and variance 1 / (8a + 4). A part of CutMix's boxes is cut off at the border.
    if method == "mixup":
        assert abs(np.mean(weights) - 0.5) < 0.03
        assert abs(np.var(weights) - 1 / (8 * alpha + 4)) < 0.01
    else:
        assert np.mean(weights) > 0.55 and (np.mean(np.array(weights) > 0.99) > 0.15) == (alpha < 1)


@pytest.mark.parametrize("share", [0.1, 0.9])
def test_methods_are_chosen_and_batches_mixed_as_often_as_asked(share):
    collator, rng = Collator(2, mixup=1.0, cutmix=1.0, switch_probability=share), np.random.default_rng(0)
    cut = 0
    for _ in range(400):
        pixels = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1).repeat(1, 1, 32, 32)
        collator.mix(pixels, torch.tensor([0, 1]), rng)
        cut += set(pixels.unique().tolist()) <= {0.0, 1.0}
    assert abs(cut / 400 - share) < 0.06
    collator, mixed = Collator(2, mixup=1.0, probability=share), 0
    for _ in range(400):
        mixed += bool((collator.mix(torch.zeros(2, 1, 2, 2), torch.tensor([0, 1]), rng) % 1 != 0).any())
    assert abs(mixed / 400 - share) < 0.06


def test_a_batch_that_is_not_mixed_has_smooth_labels():
    pixels = torch.rand(2, 1, 4, 4)
    before = pixels.clone()
    labels = Collator(4, mixup=1.0, probability=0.0, smoothing=0.2).mix(
        pixels, torch.tensor([3, 0]), np.random.default_rng(0)
    )
    torch.testing.assert_close(labels, torch.tensor([[0.05, 0.05, 0.05, 0.85], [0.85, 0.05, 0.05, 0.05]]))
    assert torch.equal(pixels, before)
    plain = Collator(4, smoothing=0.2)(samples())
    assert plain["labels"].tolist() == [0, 1, 2, 3] and plain["pixel_values"].shape == (4, 3, 8, 8)


def test_the_first_image_of_a_mixed_batch_is_its_weight_of_itself_and_the_rest_of_the_last():
    rng = np.random.default_rng(3)
    draws = np.random.default_rng(3)
    draws.random()  # whether the batch is mixed
    weight = draws.beta(0.7, 0.7)
    pixels = torch.tensor([10.0, 20.0, 40.0]).reshape(3, 1, 1, 1).repeat(1, 1, 2, 2)
    labels = Collator(3, mixup=0.7).mix(pixels, torch.tensor([0, 1, 2]), rng)
    expected = [10 * weight + 40 * (1 - weight), 20.0, 40 * weight + 10 * (1 - weight)]
    assert pixels[:, 0, 0, 0].tolist() == pytest.approx(expected, rel=1e-5)
    assert labels[0].tolist() == pytest.approx([weight, 0, 1 - weight], abs=1e-6)


def test_probabilities_for_labels_are_smoothed_and_mixed_as_classes_are_and_left_alone_at_the_end():
    targets = torch.tensor([[0.7, 0.3, 0.0], [0.1, 0.2, 0.7], [0.0, 1.0, 0.0], [0.2, 0.5, 0.3]])
    batch = [{**sample, "labels": target} for sample, target in zip(samples(), targets, strict=True)]
    smoothed = 0.9 * targets + 0.1 / 3
    for settings in ({"mixup": 0.8}, {"cutmix": 1.0}):
        collator = Collator(3, smoothing=0.1, **settings)
        last = collator([{**sample, UNMIXED: True} for sample in batch])
        torch.testing.assert_close(last["labels"], smoothed)
        assert last["pixel_values"].mean((1, 2, 3)).tolist() == [0, 1, 2, 3]
        found = collator(batch)
        share = 1 - found["pixel_values"][0].mean() / 3  # image 0 holds 0, its partner 3
        assert 0 < share < 1
        torch.testing.assert_close(found["labels"], share * smoothed + (1 - share) * smoothed.flip(0))


def test_boxes_lie_anywhere_in_a_wide_picture_and_count_by_their_area():
    collator, rng, cut = Collator(2, cutmix=1.0), np.random.default_rng(0), np.zeros((3, 17), dtype=bool)
    for _ in range(200):
        pixels = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1).repeat(1, 1, 3, 17)
        labels = collator.mix(pixels, torch.tensor([0, 1]), rng)
        assert float(labels[0, 1]) == pytest.approx(float(pixels[0].mean()))  # what is of the other picture
        cut |= pixels[0, 0].numpy() > 0
    assert cut.all()


@pytest.mark.parametrize("probability", [0.0, 1.0])
@pytest.mark.parametrize("method", ["mixup", "cutmix"])
def test_how_much_of_each_sample_is_its_own_picture_is_said_where_it_is_asked_for(method, probability):
    collator = Collator(4, **{method: 1.0}, probability=probability, keep=(OWN_SHARE,))
    found = collator(samples())
    share = 1 - float(found["pixel_values"][0].mean()) / 3  # image 0 holds 0, its partner 3
    assert (share == 1) == (probability == 0)
    assert found[OWN_SHARE].tolist() == pytest.approx([share] * 4)
    assert collator(samples(seeded=False))[OWN_SHARE].tolist() == [1] * 4  # of an evaluation


@pytest.mark.parametrize(
    "name, taken, refused",
    [
        ("mixup", 0.0, -0.1), ("cutmix", 0.0, -0.1), ("mix_probability", 1.0, 1.1), ("mix_probability", 0.0, -0.1),
        ("mix_switch_probability", 1.0, 1.1), ("mix_switch_probability", 0.0, -0.1), ("mix_off_epochs", 0, -1),
        ("repeated_augmentation", 1, 0), ("repeated_augmentation", 1000, 1001), ("training_branches", 1, 0),
        ("training_branches", 100, 101), ("label_map_weight", 1.0, 1.1), ("label_map_weight", 0.0, -0.1),
        ("label_map_temperature", 0.01, 0.0),
    ],
)  # fmt: skip
def test_numbers_of_a_training_lie_within_their_bounds(name, taken, refused, tmp_path):
    assert getattr(ImageClassificationArguments(str(tmp_path), **{name: taken}), name) == taken
    with pytest.raises(ValueError, match=f"^--{name}: got {refused}, accepted"):
        ImageClassificationArguments(str(tmp_path), **{name: refused})


@pytest.mark.parametrize("name", ["mix_probability", "mix_off_epochs"])
@pytest.mark.parametrize("method", ["mixup", "cutmix"])
def test_what_says_which_batches_are_mixed_goes_with_either_way_of_mixing(name, method):
    [field] = [field for field in fields(ImageClassificationArguments) if field.name == name]
    nothing = {"mixup": 0.0, "cutmix": 0.0, name: 0.5}
    assert check_goes_with(field, {**nothing, method: 0.2}) is None
    with pytest.raises(ValueError, match=f"^--{name}: got 0.5, which goes with --mixup or --cutmix"):
        check_goes_with(field, nothing)
