import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ConvNextImageProcessorPil

from hf_effmodels.training.data import randaugment
from hf_effmodels.training.data.randaugment import RandAugment
from hf_effmodels.training.tasks.image_classification.transforms import (
    AugmentationArguments,
    EvaluationTransform,
    Normalization,
    TrainingTransform,
    color_jitter,
    erase,
    random_resized_box,
    shift,
)

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
IMAGE = Image.fromarray(np.random.default_rng(0).integers(256, size=(40, 60, 3), dtype=np.uint8))
EVERYTHING = {
    "randaugment": "rand-m9-mstd0.5-inc1",
    "color_jitter": [0.4],
    "random_erasing": 0.5,
    "random_erasing_count": 2,
}


def transform(channels=3, **options):
    evaluation = EvaluationTransform(
        ConvNextImageProcessorPil(
            size={"shortest_edge": 32}, crop_pct=0.875, image_mean=MEAN[:channels], image_std=STD[:channels]
        )
    )
    return TrainingTransform(
        evaluation, Normalization.of(evaluation.processor, channels), AugmentationArguments(**options)
    )


def test_without_augmentation_training_sees_what_evaluation_sees():
    plain = transform(train_crop="none", horizontal_flip=0)
    rng = np.random.default_rng(0)
    torch.testing.assert_close(plain(IMAGE, rng), plain.evaluation(IMAGE), rtol=0, atol=1e-5)
    gray = transform(1, train_crop="none", horizontal_flip=0)
    assert gray(IMAGE.convert("L"), rng).shape == (1, 32, 32)
    torch.testing.assert_close(gray(IMAGE.convert("L"), rng), gray.evaluation(IMAGE.convert("L")), rtol=0, atol=1e-5)


@pytest.mark.parametrize("channels, mode", [(1, "L"), (3, "RGB")])
@pytest.mark.parametrize("crop", ["random_resized", "random_padded", "none"])
def test_the_generator_alone_decides_and_transforms_pickle(channels, mode, crop):
    first = transform(channels, train_crop=crop, **EVERYTHING)
    second = pickle.loads(pickle.dumps(first))
    image = IMAGE.convert(mode)
    for seed in range(20):
        np.random.seed(seed)
        torch.manual_seed(seed)
        before = np.random.get_state()[1].copy(), torch.get_rng_state()
        a = first(image, np.random.default_rng(seed))
        assert np.array_equal(before[0], np.random.get_state()[1]) and torch.equal(before[1], torch.get_rng_state())
        np.random.seed(99)
        torch.manual_seed(99)
        b = second(image, np.random.default_rng(seed))
        assert torch.equal(a, b) and a.shape == (channels, 32, 32) and a.dtype == torch.float32
    assert not torch.equal(a, first(image, np.random.default_rng(1000)))


def test_random_resized_boxes_have_the_shares_and_ratios_asked_for():
    rng = np.random.default_rng(0)
    boxes = np.array([random_resized_box(400, 300, (0.08, 1.0), (3 / 4, 4 / 3), rng) for _ in range(4000)])
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert boxes.min() >= 0 and boxes[:, 2].max() <= 400 and boxes[:, 3].max() <= 300
    share, ratio = width * height / 120000, width / height
    assert 0.078 < share.min() < 0.09 and share.max() > 0.9
    assert 0.74 < ratio.min() < 0.77 and 1.30 < ratio.max() < 1.35
    # Small parts always fit, so where only they are asked for the distributions are exactly the uniform ones.
    small = np.array([random_resized_box(400, 300, (0.1, 0.3), (3 / 4, 4 / 3), rng) for _ in range(4000)])
    width, height = small[:, 2] - small[:, 0], small[:, 3] - small[:, 1]
    assert abs(np.mean(width * height / 120000) - 0.2) < 0.003
    assert abs(np.mean(np.log(width / height))) < 0.01
    assert random_resized_box(100, 10, (0.9, 1.0), (0.9, 1.1), rng) == (44, 0, 55, 10)


def test_flips_shifts_and_jitter_do_what_their_names_say():
    rng = np.random.default_rng(0)
    mirrored = transform(train_crop="none", horizontal_flip=1)
    assert torch.equal(mirrored(IMAGE, rng), transform(train_crop="none", horizontal_flip=0)(IMAGE, rng).flip(2))
    moved = {np.asarray(shift(Image.new("L", (5, 5), 255), 1, rng)).tobytes() for _ in range(200)}
    assert len(moved) == 9
    flat = Image.new("RGB", (4, 4), (100, 100, 100))
    values = [np.asarray(color_jitter(flat, [0.4, 0, 0], rng)).mean() for _ in range(500)]
    assert 59 <= min(values) < 64 and 136 < max(values) <= 141 and abs(np.mean(values) - 100) < 4


@pytest.mark.parametrize("mode", ["pixel", "const"])
def test_random_erasing_fills_a_rectangle_of_the_size_asked_for(mode):
    rng = np.random.default_rng(0)
    shares, values = [], []
    for _ in range(500):
        pixels = torch.full((3, 40, 50), 7.0)
        erase(pixels, 1, mode, rng)
        changed = (pixels != 7.0).all(dim=0)
        rows, columns = changed.any(dim=1).sum(), changed.any(dim=0).sum()
        assert changed.sum() == rows * columns
        shares.append(changed.float().mean())
        values.append(pixels[:, changed].flatten())
    assert 0.015 < min(shares) < 0.04 and 0.3 < max(shares) < 0.35
    values = torch.cat(values)
    if mode == "const":
        assert (values == 0).all()
    else:
        assert abs(values.mean()) < 0.01 and abs(values.std() - 1) < 0.01


def levels(name, level, increasing=False):
    """What an operation does at a level, measured on an image made for it."""
    operations = randaugment.INCREASING_OPERATIONS if increasing else randaugment.OPERATIONS
    operation = next(op for op in operations if getattr(op, "__name__", "") == name)
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    return np.asarray(operation(ramp, level, np.random.default_rng(0), Image.Resampling.BILINEAR, 0)).ravel()


def test_randaugment_levels_are_timms():
    ramp = np.arange(256)
    assert np.array_equal(levels("posterize", 10), ramp & 0b11110000)
    assert np.array_equal(levels("posterize_increasing", 5, True), ramp & 0b11000000)
    assert np.array_equal(levels("posterize_increasing", 10, True), ramp & 0)
    assert np.array_equal(levels("solarize", 5), np.where(ramp < 128, ramp, 255 - ramp))
    assert np.array_equal(levels("solarize_increasing", 9, True), np.where(ramp < 26, ramp, 255 - ramp))
    assert np.array_equal(levels("solarize_add", 9), np.where(ramp < 128, np.minimum(ramp + 99, 255), ramp))
    assert np.array_equal(levels("invert", 1), 255 - ramp)
    moved = levels("translate_x", 10).reshape(16, 16)  # by 7.2 pixels: 7 or 8 columns of black come in
    assert 7 <= (moved == 0).all(axis=0).sum() <= 8
    assert len(randaugment.OPERATIONS) == len(randaugment.INCREASING_OPERATIONS) == 15


def test_randaugment_notation():
    parsed = RandAugment.from_string("rand-m9-mstd0.5-inc1", (1, 2, 3))
    assert parsed == RandAugment(9, 2, 0.5, 10, True, 0.5, (1, 2, 3))
    assert RandAugment.from_string("rand-m5-n3-p0.8-mmax7", (0,)) == RandAugment(5, 3, 0, 7, False, 0.8, (0,))
    for wrong in ("rand-m11", "augmix-m3", "rand-m9-x1", "rand-m9-n0", "rand--m9"):
        with pytest.raises(ValueError, match="--randaugment"):
            RandAugment.from_string(wrong, (0,))


def test_randaugment_applies_each_operation_half_of_the_time(monkeypatch):
    calls = []

    def record(image, level, *rest):
        calls.append(level)
        return image

    monkeypatch.setattr(randaugment, "INCREASING_OPERATIONS", (record,) * 15)
    augment = RandAugment.from_string("rand-m9-mstd0.5-inc1", (0, 0, 0))
    rng = np.random.default_rng(0)
    for _ in range(4000):
        augment(IMAGE, rng)
    assert abs(len(calls) / 4000 - 1.0) < 0.05  # two operations, each with probability a half
    calls = np.array(calls)
    # Normal around 9 with deviation 0.5; only two deviations fit below the limit of 10.
    assert calls.max() == 10 and abs(np.median(calls) - 9) < 0.03 and abs(np.quantile(calls, 0.1587) - 8.5) < 0.05


def test_two_channel_models_refuse_colour_operations():
    processor = ConvNextImageProcessorPil(size={"shortest_edge": 32}, image_mean=[0.5] * 2, image_std=[0.5] * 2)
    evaluation = EvaluationTransform(processor)
    with pytest.raises(ValueError, match="1 or 3 channels, the model has 2"):
        TrainingTransform(evaluation, Normalization.of(processor, 2), AugmentationArguments(color_jitter=[0.1]))
