import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ConvNextImageProcessorPil

from hf_effmodels.training.tasks.image_classification import transforms
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


def pixels_of(tensor):
    """8-bit values of a normalised tensor, (height, width, channels)."""
    mean, std = (np.array(v[: len(tensor)], np.float64)[:, None, None] for v in (MEAN, STD))
    return np.round((tensor.numpy() * std + mean) * 255).transpose(1, 2, 0).astype(int)


def test_normalisation_is_value_over_255_less_mean_by_deviation():
    normalization = Normalization.of(transform().evaluation.processor, 3)
    values = normalization(Image.new("RGB", (2, 3), (51, 102, 255)))
    expected = [(v / 255 - m) / s for v, m, s in zip((51, 102, 255), MEAN, STD, strict=True)]
    assert values.shape == (3, 3, 2)
    torch.testing.assert_close(values[:, 0, 0], torch.tensor(expected, dtype=torch.float32))
    assert normalization.mean_color() == (124, 116, 104)
    plain = ConvNextImageProcessorPil(size={"shortest_edge": 32}, do_normalize=False)
    assert Normalization.of(plain, 3)(Image.new("RGB", (1, 1), (51, 102, 255)))[:, 0, 0].tolist() == pytest.approx(
        [0.2, 0.4, 1.0]
    )
    raw = ConvNextImageProcessorPil(size={"shortest_edge": 32}, do_normalize=False, do_rescale=False)
    assert Normalization.of(raw, 1)(Image.new("L", (1, 1), 51)).item() == 51


@pytest.mark.parametrize("probability", [0.0, 0.25, 1.0])
def test_images_are_mirrored_as_often_as_asked(probability):
    chosen, rng = transform(train_crop="none", horizontal_flip=probability), np.random.default_rng(0)
    plain, mirrored = chosen.evaluation(IMAGE), chosen.evaluation(IMAGE.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    kinds = [
        torch.dist(chosen(IMAGE, rng), mirrored) < torch.dist(chosen.evaluation(IMAGE), mirrored) / 2
        for _ in range(300)
    ]
    assert abs(np.mean(kinds) - probability) < 0.07 and not torch.equal(plain, mirrored)


def test_a_crop_of_the_whole_is_resized_by_one_of_the_filters_asked_for():
    whole = {"train_crop": "random_resized", "crop_scale": [1, 1], "crop_ratio": [1.5, 1.5], "horizontal_flip": 0}
    resized = {
        name: np.asarray(IMAGE.resize((32, 32), Image.Resampling[name.upper()])).tobytes()
        for name in ("nearest", "bilinear", "bicubic", "lanczos")
    }
    rng = np.random.default_rng(0)
    for names in (["nearest"], ["lanczos", "bilinear"], ["bilinear", "bicubic", "nearest"]):
        chosen = transform(interpolation=names, **whole)
        found = [pixels_of(chosen(IMAGE, rng)).astype(np.uint8).tobytes() for _ in range(60)]
        counts = [found.count(resized[name]) for name in names]
        assert sum(counts) == 60 and min(counts) >= 60 / len(names) / 2


def test_crops_have_the_scale_and_ratio_asked_for():
    # Red is the column, green the row: the resized part tells where it was cut.
    columns, rows = np.meshgrid(np.arange(200), np.arange(100))
    image = Image.fromarray(np.stack([columns, rows, 0 * rows], axis=-1).astype(np.uint8))
    chosen = transform(crop_scale=[0.2, 0.2], crop_ratio=[2.5, 2.5], interpolation=["nearest"], horizontal_flip=0)
    rng, lefts = np.random.default_rng(0), []
    for _ in range(40):
        seen = pixels_of(chosen(image, rng))
        width, height = np.ptp(seen[..., 0]) * 32 / 31, np.ptp(seen[..., 1]) * 32 / 31
        assert abs(width - 100) < 5 and abs(height - 40) < 3  # 100·40 is a fifth of 200·100
        lefts.append(seen[0, 0, 0])
    assert min(lefts) < 15 and max(lefts) > 85


@pytest.mark.parametrize("distance", [0, 1, 3])
def test_shifts_go_as_far_as_asked_and_black_comes_in(distance):
    rng = np.random.default_rng(0)
    values = np.arange(1, 65, dtype=np.uint8).reshape(8, 8)
    found, padded = {}, np.pad(values, distance)
    for _ in range(800):
        moved = np.asarray(shift(Image.fromarray(values), distance, rng)).tobytes()
        found[moved] = found.get(moved, 0) + 1
    expected = {
        padded[top : top + 8, left : left + 8].tobytes()
        for top in range(2 * distance + 1)
        for left in range(2 * distance + 1)
    }
    assert found.keys() == expected and min(found.values()) > 800 / len(expected) / 4
    image = Image.new("RGB", (32, 32), "white")
    chosen = transform(train_crop="random_padded", crop_padding=distance, horizontal_flip=0)
    blacks = [(pixels_of(chosen(image, rng)) == 0).all(axis=(1, 2)).sum() for _ in range(100)]
    assert max(blacks) == distance and len(set(blacks)) == distance + 1


def test_colour_jitter_changes_each_property_by_its_own_strength():
    flat, rng = Image.new("RGB", (4, 4), (100, 100, 100)), np.random.default_rng(0)
    values = [np.asarray(color_jitter(flat, [0.4, 0, 0], rng)).mean() for _ in range(500)]
    assert 59 <= min(values) < 64 and 136 < max(values) <= 141 and abs(np.mean(values) - 100) < 4
    assert abs(np.std(values) - 80 / np.sqrt(12)) < 2
    # Contrast: the distance of two halves from their mean. It leaves a flat image as it is.
    halves = Image.fromarray(np.repeat([[50, 150]], 4, axis=0).repeat(3).reshape(4, 2, 3).astype(np.uint8))
    spread = [np.ptp(np.asarray(color_jitter(halves, [0, 0.3, 0], rng))) for _ in range(300)]
    assert 69 <= min(spread) < 73 and 127 < max(spread) <= 131
    assert np.asarray(color_jitter(flat, [0, 0.9, 0.9], rng)).tolist() == np.asarray(flat).tolist()
    # Saturation: the distance of the colours; grey images have none.
    red = Image.new("RGB", (4, 4), (150, 50, 50))
    colours = [np.ptp(np.asarray(color_jitter(red, [0, 0, 0.5], rng))) for _ in range(300)]
    assert 49 <= min(colours) < 55 and 145 < max(colours) <= 151
    # One strength is for all three, and no factor is below 0.
    assert max(np.ptp(np.asarray(color_jitter(red, [0.5], rng))) for _ in range(300)) > 151
    assert min(np.asarray(color_jitter(flat, [3, 0, 0], rng)).mean() for _ in range(300)) <= 3
    turned = (np.asarray(color_jitter(halves, [0, 3, 0], rng)).astype(int) for _ in range(60))
    assert all(pixels[0, 0, 0] <= pixels[0, 1, 0] for pixels in turned)  # what is dark stays the darker


def test_colour_jitter_has_no_fixed_order():
    class Order:
        def __init__(self, order):
            self.order = order

        def permutation(self, count):
            return self.order[:count]

        def uniform(self, low, high):
            return high

    halves = Image.fromarray(np.repeat([[50, 150]], 4, axis=0).repeat(3).reshape(4, 2, 3).astype(np.uint8))
    results = {
        np.asarray(color_jitter(halves, [0.9, 0.9, 0], Order(order))).tobytes() for order in ([0, 1, 2], [1, 0, 2])
    }
    assert len(results) == 2
    rng = np.random.default_rng(0)
    constant = {
        np.asarray(color_jitter(halves, [0.9, 0.9, 0], Order(rng.permutation(3)))).tobytes() for _ in range(60)
    }
    assert constant == results


@pytest.mark.parametrize("mode", ["pixel", "const"])
def test_erasing_happens_as_often_and_as_asked(mode):
    options = {"train_crop": "none", "horizontal_flip": 0, "random_erasing": 0.3, "random_erasing_mode": mode}
    chosen, rng = transform(random_erasing_count=3, **options), np.random.default_rng(0)
    plain, erased = chosen.evaluation(IMAGE), []
    for _ in range(300):
        changed = (chosen(IMAGE, rng) - plain).abs().amax(dim=0) > 1e-4
        erased.append(bool(changed.any()))
    assert abs(np.mean(erased) - 0.3) < 0.07
    rng, seen = np.random.default_rng(0), 0
    for _ in range(60):
        result = chosen(IMAGE, rng)
        changed = (result - plain).abs().amax(dim=0) > 1e-4
        seen += mode == "const" and bool(changed.any()) and bool((result[:, changed] == 0).all())
    assert (seen > 8) == (mode == "const")
    # Of one rectangle at most there is never a second; of three together a third of the picture goes.
    for count, whole in ((1, 40), (3, 0)):
        chosen, alone = transform(random_erasing_count=count, **{**options, "random_erasing": 1.0}), 0
        for _ in range(40):
            changed = (chosen(IMAGE, rng) - plain).abs().amax(dim=0) > 1e-4
            box = changed.any(0).sum() * changed.any(1).sum()
            alone += bool(changed.sum() > 0.97 * box)  # noise may be what was there
            assert changed.float().mean() < 0.36
        assert alone == whole if whole else alone < 30


def test_randaugment_fills_with_the_mean_colour():
    chosen = transform(train_crop="none", horizontal_flip=0, randaugment="rand-m10-n4-p1")
    rng, white = np.random.default_rng(0), Image.new("RGB", (40, 40), "white")
    assert chosen.randaugment.fill == (124, 116, 104) and chosen.randaugment.num_ops == 4
    corners = [tuple(pixels_of(chosen(white, rng))[0, 0]) for _ in range(60)]
    assert (124, 116, 104) in corners


@pytest.mark.parametrize(
    "options, message",
    [
        ({"crop_scale": [0.5, 1.2]}, "--crop_scale: got .*1.2"),
        ({"crop_scale": [0.0, 1.0]}, "--crop_scale"),
        ({"crop_ratio": [2, 1]}, "--crop_ratio: got .* in order"),
        ({"crop_ratio": [1]}, "--crop_ratio"),
        ({"horizontal_flip": 1.1}, "--horizontal_flip: got 1.1"),
        ({"random_erasing": -0.1}, "--random_erasing: got -0.1"),
        ({"color_jitter": [0.1, 0.2]}, "--color_jitter: .* one or three numbers"),
        ({"color_jitter": [-0.1]}, "--color_jitter"),
        ({"crop_padding": -1}, "--crop_padding: got -1"),
        ({"random_erasing_count": 0}, "--random_erasing_count: got 0"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        AugmentationArguments(**options)


def test_two_channel_models_refuse_colour_operations():
    processor = ConvNextImageProcessorPil(size={"shortest_edge": 32}, image_mean=[0.5] * 2, image_std=[0.5] * 2)
    evaluation = EvaluationTransform(processor)
    with pytest.raises(ValueError, match="1 or 3 channels, the model has 2"):
        TrainingTransform(evaluation, Normalization.of(processor, 2), AugmentationArguments(color_jitter=[0.1]))


def test_autoaugment_is_a_part_of_training_and_excludes_randaugment():
    processor = ConvNextImageProcessorPil(size={"shortest_edge": 16}, crop_pct=1.0)
    evaluation, image = EvaluationTransform(processor), Image.fromarray(np.full((16, 16, 3), 90, dtype=np.uint8))
    made = {}
    for name, policy in (("plain", None), ("policy", "original-mstd0.5")):
        options = AugmentationArguments(train_crop="none", horizontal_flip=0, autoaugment=policy)
        transform = TrainingTransform(evaluation, Normalization.of(processor, 3), options)
        made[name] = [transform(image, np.random.default_rng(seed)) for seed in range(12)]
    assert any(not torch.equal(a, b) for a, b in zip(made["plain"], made["policy"], strict=True))
    # What comes in from outside is of the mean colour.
    assert transform.autoaugment.fill == Normalization.of(processor, 3).mean_color() != (0, 0, 0)
    options = AugmentationArguments(randaugment="rand-m9")
    drawn = TrainingTransform(evaluation, Normalization.of(processor, 3), options)
    assert drawn.randaugment.fill == transform.autoaugment.fill
    with pytest.raises(ValueError, match="--autoaugment and --randaugment exclude each other"):
        AugmentationArguments(autoaugment="original", randaugment="rand-m9")


@pytest.mark.parametrize("policy", ["randaugment", "autoaugment"])
@pytest.mark.parametrize("crop", ["random_resized", "random_padded", "none"])
def test_pictures_are_varied_in_the_order_that_is_documented(crop, policy, monkeypatch):
    """Crop, mirror, a policy, colours, normalisation, lighting and erasing: each sees what those before have made."""
    order = []

    def step(name, answer=None):
        return lambda *given, **options: order.append(name) or answer

    class Picture:
        size, width, height = (16, 16), 16, 16

        def transpose(self, how):
            order.append("mirror")
            return self

        def resize(self, size, resample, box):
            order.append("resized part")
            return self

    picture = Picture()
    processor = ConvNextImageProcessorPil(size={"shortest_edge": 16}, crop_pct=1.0)
    chosen = {"randaugment": "rand-m9", "autoaugment": "original"}
    options = AugmentationArguments(
        train_crop=crop,
        horizontal_flip=1,
        color_jitter=[0.1],
        lighting=0.1,
        random_erasing=1,
        **{policy: chosen[policy]},
    )
    made = TrainingTransform(EvaluationTransform(processor), Normalization.of(processor, 3), options)
    for name in ("shift", "color_jitter"):
        monkeypatch.setattr(transforms, name, step(name, picture))
    for name in ("light", "erase"):
        monkeypatch.setattr(transforms, name, step(name))
    setattr(made, policy, step("policy", picture))
    made.evaluation = SimpleNamespace(resize_and_crop=step("as in evaluation", picture))
    made.normalization = type("Normalized", (), {"scale": (1, 1, 1), "__call__": step("normalised", "pixels")})()
    assert made(picture, np.random.default_rng(0)) == "pixels"
    crops = {"random_resized": ["resized part"], "random_padded": ["as in evaluation", "shift"]}
    crops["none"] = ["as in evaluation"]
    assert order == [*crops[crop], "mirror", "policy", "color_jitter", "normalised", "light", "erase"]


def test_lighting_adds_a_colour_of_imagenets_principal_components():
    """Published (AlexNet): of RGB from 0 to 1, with the deviations 0.2175, 0.0188 and 0.0045."""
    plain = transform(train_crop="none", horizontal_flip=0)
    lit = transform(train_crop="none", horizontal_flip=0, lighting=0.5)
    shifts = []
    for seed in range(300):
        difference = lit(IMAGE, np.random.default_rng(seed)) - plain(IMAGE, np.random.default_rng(seed))
        shift = difference.mean((1, 2))
        torch.testing.assert_close(difference, shift[:, None, None].expand_as(difference), rtol=0, atol=1e-5)
        shifts.append((shift * torch.tensor(STD)).double().numpy())
    deviations, components = np.linalg.eigh(np.cov(np.array(shifts).T))
    np.testing.assert_allclose(np.sqrt(deviations[::-1]) / 0.5, [0.2175, 0.0188, 0.0045], rtol=0.1)
    assert abs(components[:, -1] @ [-0.5675, -0.5808, -0.5836]) > 0.999
    assert abs(components[:, 0] @ [0.4009, -0.8140, 0.4203]) > 0.99
    with pytest.raises(ValueError, match="--lighting takes images of 3 channels, the model has 1"):
        transform(1, lighting=0.1)
