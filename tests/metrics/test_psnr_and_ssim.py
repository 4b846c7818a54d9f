"""PSNR and SSIM of images: averages, borders, channels, known pairs. Parity cases have the official numbers."""

import numpy as np
import pytest
from PIL import Image

from ..pipelines.sam_diffsr.tiny import photo
from .modules import metric as module


@pytest.mark.parametrize("name", ["psnr", "ssim"])
def test_metrics_average_over_images_and_cut_borders(name):
    metric = module(name)
    images, references = [photo(20, 16), photo(18, 24, seed=1)], [photo(20, 16, seed=2), photo(18, 24, seed=3)]

    def compute(predictions, references, **options):
        return metric.compute(predictions=predictions, references=references, **options)[name]

    for channel in ("rgb", "y"):
        each = [compute([a], [b], channel=channel) for a, b in zip(images, references, strict=True)]
        assert compute(images, references, channel=channel) == pytest.approx(np.mean(each))
        assert compute(list(map(np.asarray, images)), references, channel=channel) == pytest.approx(np.mean(each))
        cut = [image.crop((2, 2, image.width - 2, image.height - 2)) for image in (images[0], references[0])]
        got = compute([images[0]], [references[0]], channel=channel, crop_border=2)
        assert got == pytest.approx(compute([cut[0]], [cut[1]], channel=channel))
        assert got != pytest.approx(each[0])
    grey = [image.convert("L") for image in (images[0], references[0])]
    coloured = [Image.merge("RGB", [image] * 3) for image in grey]
    assert compute([grey[0]], [grey[1]]) == pytest.approx(compute([coloured[0]], [coloured[1]]))


def test_psnr_and_ssim_of_known_pairs():
    psnr, ssim = module("psnr"), module("ssim")
    black, grey = np.zeros((16, 16, 3), np.uint8), np.full((16, 16, 3), 51, np.uint8)
    assert psnr.compute(predictions=[grey], references=[black])["psnr"] == pytest.approx(20 * np.log10(5))
    luma = psnr.compute(predictions=[grey], references=[black], channel="y")["psnr"]
    assert luma == pytest.approx(20 * np.log10(5 * 255 / 219))
    with np.errstate(divide="raise"):  # told without a warning
        assert psnr.compute(predictions=[grey], references=[grey])["psnr"] == np.inf
    assert psnr.compute(predictions=[grey], references=[grey], epsilon=1e-8)["psnr"] == pytest.approx(80)
    for channel, low in (("rgb", 0.0), ("y", 16.0)):
        c1, high = (0.01 * 255) ** 2, low + (51 if channel == "rgb" else 44)  # 51·219/255, rounded
        expected = (2 * low * high + c1) / (low**2 + high**2 + c1)
        got = ssim.compute(predictions=[grey], references=[black], channel=channel)["ssim"]
        assert got == pytest.approx(expected)


@pytest.mark.parametrize("name", ["psnr", "ssim"])
def test_bad_metric_input_is_refused_by_name(name):
    metric = module(name)
    for other, options, message in (
        (photo(16, 16), {"channel": "x"}, "channel: got 'x', accepted are 'rgb', 'y'"),
        (photo(16, 12), {}, r"predictions: an image is \(16, 16\), its reference \(12, 16\)"),
        (photo(16, 16), {"crop_border": 8}, "crop_border: got 8"),
        (photo(16, 16), {"crop_border": -1}, "crop_border: got -1, which leaves nothing of an image of 16×16"),
        (photo(16, 16).convert("RGBA"), {}, "references: got an image of mode RGBA"),
    ):
        with pytest.raises(ValueError, match=message):
            metric.compute(predictions=[photo(16, 16)], references=[other], **options)


def test_a_border_may_leave_a_single_pixel():
    images = photo(15, 17), photo(15, 17, seed=1)
    got = module("psnr").compute(predictions=[images[0]], references=[images[1]], crop_border=7)["psnr"]
    a, b = (np.asarray(image, dtype=float)[7:10, 7:8] for image in images)  # 17 rows of 15 pixels
    assert got == pytest.approx(-10 * np.log10(np.mean(((a - b) / 255) ** 2)))


def naive_luma(image):
    """BT.601 luma by the matrix of the standard, pixel by pixel."""
    rows = np.asarray(image, dtype=np.float64)
    return np.array([[16 + (65.481 * r + 128.553 * g + 24.966 * b) / 255 for r, g, b in row] for row in rows])


def test_natural_images_have_the_values_of_other_libraries():
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    image, reference = photo(23, 19), photo(23, 19, seed=1)
    a, b = np.asarray(image), np.asarray(reference)
    psnr, ssim = module("psnr"), module("ssim")
    pair = {"predictions": [image], "references": [reference]}
    assert psnr.compute(**pair)["psnr"] == pytest.approx(peak_signal_noise_ratio(b, a))
    luma = [naive_luma(i) for i in (image, reference)]
    expected = 10 * np.log10(255**2 / np.mean((luma[0] - luma[1]) ** 2))
    assert psnr.compute(**pair, channel="y")["psnr"] == pytest.approx(expected)
    assert psnr.compute(**pair, epsilon=0.01)["psnr"] == pytest.approx(
        -10 * np.log10(np.mean((a / 255.0 - b / 255.0) ** 2) + 0.01)
    )
    for border in (0, 3):
        inner = (slice(border, 19 - border), slice(border, 23 - border))
        # scikit-image pads; of its map only the windows that lie within the image are compared.
        _, full = structural_similarity(b[inner], a[inner], channel_axis=2, full=True, data_range=255)
        got = ssim.compute(**pair, crop_border=border)["ssim"]
        assert got == pytest.approx(full[3:-3, 3:-3].mean())


def test_ssim_of_luma_is_the_mean_over_gaussian_windows():
    image, reference = photo(17, 14), photo(17, 14, seed=1)
    image.paste((255, 255, 255), (0, 0, 8, 14))  # a flat part: structure that is not there
    x, y = (np.round(naive_luma(i)) for i in (image, reference))
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    c1, c2, values, negative = 6.5025, 58.5225, [], 0
    for top in range(14 - 10):
        for left in range(17 - 10):
            p, q = (v[top : top + 11, left : left + 11] for v in (x, y))
            mean_p, mean_q = (window * p).sum(), (window * q).sum()
            var_p, var_q = (window * (p - mean_p) ** 2).sum(), (window * (q - mean_q) ** 2).sum()
            covariance = (window * (p - mean_p) * (q - mean_q)).sum()
            structure = (2 * covariance + c2) / (var_p + var_q + c2)
            negative += structure < 0
            luminance = (2 * mean_p * mean_q + c1) / (mean_p**2 + mean_q**2 + c1)
            values.append(luminance * max(structure, 0))
    assert negative, "the pair has no window of negative structure"
    got = module("ssim").compute(predictions=[image], references=[reference], channel="y")["ssim"]
    assert got == pytest.approx(np.mean(values))


def test_images_smaller_than_a_window_have_no_ssim():
    for size, channel, window in ((6, "rgb", 7), (10, "y", 11)):
        with pytest.raises(ValueError, match=f"less than a window of {window}×{window}"):
            module("ssim").compute(predictions=[photo(20, size)], references=[photo(20, size)], channel=channel)
        with pytest.raises(ValueError, match=f"an image is 20×{size} without its border, less than a window"):
            module("ssim").compute(predictions=[photo(size, 20)], references=[photo(size, 20)], channel=channel)
    assert module("ssim").compute(predictions=[photo(7, 7)], references=[photo(7, 7)])["ssim"] == 1
