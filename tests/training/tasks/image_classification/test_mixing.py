import numpy as np
import torch

from hf_effmodels.training.tasks.image_classification.mixing import SAMPLE_SEED, Collator, cut_box, smooth_one_hot


def samples(count=4, seeded=True):
    # Each image holds its own number, so that a pixel says which image it comes from.
    batch = [{"pixel_values": torch.full((3, 8, 8), float(i)), "labels": i} for i in range(count)]
    return [{**sample, SAMPLE_SEED: i} for i, sample in enumerate(batch)] if seeded else batch


def test_smoothed_labels_are_timms():
    expected = torch.full((2, 5), 0.1 / 5)
    expected[0, 3] = expected[1, 0] = 0.9 + 0.1 / 5
    torch.testing.assert_close(smooth_one_hot(torch.tensor([3, 0]), 5, 0.1), expected)


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
    boxes = np.array([cut_box(100, 200, 0.75, rng) for _ in range(2000)])
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
