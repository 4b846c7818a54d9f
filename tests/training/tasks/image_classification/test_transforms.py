import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ConvNextImageProcessorPil

from hf_effmodels.training.tasks.image_classification.transforms import (
    AugmentationArguments,
    EvaluationTransform,
    Normalization,
    TrainingTransform,
    color_jitter,
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


def test_flips_shifts_and_jitter_do_what_their_names_say():
    rng = np.random.default_rng(0)
    mirrored = transform(train_crop="none", horizontal_flip=1)
    assert torch.equal(mirrored(IMAGE, rng), transform(train_crop="none", horizontal_flip=0)(IMAGE, rng).flip(2))
    moved = {np.asarray(shift(Image.new("L", (5, 5), 255), 1, rng)).tobytes() for _ in range(200)}
    assert len(moved) == 9
    flat = Image.new("RGB", (4, 4), (100, 100, 100))
    values = [np.asarray(color_jitter(flat, [0.4, 0, 0], rng)).mean() for _ in range(500)]
    assert 59 <= min(values) < 64 and 136 < max(values) <= 141 and abs(np.mean(values) - 100) < 4


def test_two_channel_models_refuse_colour_operations():
    processor = ConvNextImageProcessorPil(size={"shortest_edge": 32}, image_mean=[0.5] * 2, image_std=[0.5] * 2)
    evaluation = EvaluationTransform(processor)
    with pytest.raises(ValueError, match="1 or 3 channels, the model has 2"):
        TrainingTransform(evaluation, Normalization.of(processor, 2), AugmentationArguments(color_jitter=[0.1]))
