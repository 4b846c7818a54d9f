from functools import partial

import numpy as np
import pytest
from PIL import Image, ImageFilter
from sklearn.datasets import load_digits

from hf_effmodels.training.data import digits
from hf_effmodels.training.data.arguments import SplitArguments
from hf_effmodels.training.data.digits import load_image_splits


def test_the_digits_are_all_there_once_as_bytes_with_a_fifth_of_each_class_for_testing():
    splits = load_image_splits(SplitArguments(dataset="digits"), None)
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 1438, "test": 359}
    rows = [*splits["train"], *splits["test"]]
    expected = {np.round(image * 255 / 16).astype(np.uint8).tobytes() for image in load_digits().images}
    assert {np.asarray(row["image"]).tobytes() for row in rows} == expected
    labels = np.bincount([int(row["label"]) for row in splits["test"]])
    assert labels.tolist() == [round(0.2 * count) for count in np.bincount(load_digits().target)]


def test_what_is_nearly_the_name_of_the_digits_is_answered_by_theirs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for written, meant in (("digits!", "digits"), ("digits noisy", "digits-noisy")):
        with pytest.raises(OSError, match=f"{written}.*nearest: ([a-z-]+, )*{meant}"):
            load_image_splits(SplitArguments(dataset=written), None)


@pytest.fixture(scope="module")
def plain():
    splits = load_image_splits(SplitArguments(dataset="digits"), None)
    return {"train": splits["train"][:400], "test": splits["test"][:10]}


@pytest.fixture
def shifted(plain, monkeypatch):
    monkeypatch.setattr(digits, "read_digits", lambda: plain)
    return partial(seen_by_another_camera, plain)


def seen_by_another_camera(plain, kind):
    """Pictures as they are and as they become, each (pictures, height, width); labels and splits stay."""
    splits = load_image_splits(SplitArguments(dataset=f"digits-{kind}"), None)
    for name, rows in plain.items():
        assert [row["label"] for row in splits[name]] == [row["label"] for row in rows]
    return tuple(np.stack([row["image"] for row in rows["train"]]).astype(int) for rows in (plain, splits))


def test_other_cameras_see_less_contrast_or_the_negative(shifted):
    before, faint = shifted("faint")
    assert np.array_equal(faint, 90 + before // 4)
    before, inverted = shifted("inverted")
    assert np.array_equal(inverted, 255 - before)


def test_a_noisy_camera_adds_normal_noise_of_64_the_same_in_every_run(shifted):
    before, noisy = shifted("noisy")
    assert np.array_equal(noisy, shifted("noisy")[1]) and noisy.min() == 0 and noisy.max() == 255
    # Where neither end is nearer than a deviation, the quantiles are those of the normal distribution.
    added = (noisy - before)[(before > 70) & (before < 185)]
    assert np.quantile(added, [0.1587, 0.5, 0.8413]) == pytest.approx([-64, 0, 64], abs=5)
    assert not np.array_equal(noisy[0] - before[0], noisy[1] - before[1])
    # What is darker than black stays black, what is brighter than white white: half of the values, and no more.
    for end, inwards in ((0, 1), (255, -1)):
        away = inwards * (noisy[before == end] - end)
        assert (away == 0).mean() == pytest.approx(0.5, abs=0.05)
        assert np.quantile(away, [0.8413, 0.9772]) == pytest.approx([64, 128], abs=8) and away.max() < 6 * 64


def test_a_far_camera_sees_six_by_six_in_a_black_border_and_a_blurred_one_no_edges(shifted):
    before, small = shifted("small")
    assert small.shape == before.shape and not (small[:, [0, -1]].any() or small[:, :, [0, -1]].any())
    inside = small[:, 1:-1, 1:-1]
    assert inside.mean() == pytest.approx(before.mean(), rel=0.1)
    assert np.corrcoef(inside.reshape(len(small), -1).mean(1), before.reshape(len(small), -1).mean(1))[0, 1] > 0.95
    before, blurred = shifted("blurred")
    assert blurred.shape[1:] == (32, 32) and blurred.mean() == pytest.approx(before.mean(), rel=0.1)
    assert np.abs(np.diff(blurred, axis=2)).max() < 40 < np.abs(np.diff(before, axis=2)).mean()


def test_a_blurred_and_a_small_picture_are_what_pillow_makes_of_them(plain, shifted):
    _, blurred = shifted("blurred")
    _, small = shifted("small")
    for row, soft, little in list(zip(plain["train"], blurred, small, strict=True))[:20]:
        large = row["image"].resize((32, 32), Image.Resampling.BICUBIC)
        assert np.array_equal(soft, large.filter(ImageFilter.GaussianBlur(3.5)))
        inside = np.asarray(row["image"].resize((6, 6), Image.Resampling.BILINEAR))
        assert np.array_equal(little, np.pad(inside, 1))
