"""PSNR and SSIM of images: averages, borders, channels, known pairs. Parity cases have the official numbers."""

import numpy as np
import pytest
from PIL import Image

from hf_effmodels import metrics

from ..pipelines.sam_diffsr.tiny import photo


@pytest.mark.parametrize("name", ["psnr", "ssim"])
def test_metrics_average_over_images_and_cut_borders(name):
    metric = metrics.load(name)
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
    psnr, ssim = metrics.load("psnr"), metrics.load("ssim")
    black, grey = np.zeros((16, 16, 3), np.uint8), np.full((16, 16, 3), 51, np.uint8)
    assert psnr.compute(predictions=[grey], references=[black])["psnr"] == pytest.approx(20 * np.log10(5))
    luma = psnr.compute(predictions=[grey], references=[black], channel="y")["psnr"]
    assert luma == pytest.approx(20 * np.log10(5 * 255 / 219))
    assert psnr.compute(predictions=[grey], references=[grey])["psnr"] == np.inf
    assert psnr.compute(predictions=[grey], references=[grey], epsilon=1e-8)["psnr"] == pytest.approx(80)
    for channel, low in (("rgb", 0.0), ("y", 16.0)):
        c1, high = (0.01 * 255) ** 2, low + (51 if channel == "rgb" else 44)  # 51·219/255, rounded
        expected = (2 * low * high + c1) / (low**2 + high**2 + c1)
        got = ssim.compute(predictions=[grey], references=[black], channel=channel)["ssim"]
        assert got == pytest.approx(expected)


@pytest.mark.parametrize("name", ["psnr", "ssim"])
def test_bad_metric_input_is_refused_by_name(name):
    metric = metrics.load(name)
    for other, options, message in (
        (photo(16, 16), {"channel": "x"}, "channel: got 'x', accepted are 'rgb', 'y'"),
        (photo(16, 12), {}, r"predictions: an image is \(16, 16\), its reference \(12, 16\)"),
        (photo(16, 16), {"crop_border": 8}, "crop_border: got 8"),
        (photo(16, 16).convert("RGBA"), {}, "references: got an image of mode RGBA"),
    ):
        with pytest.raises(ValueError, match=message):
            metric.compute(predictions=[photo(16, 16)], references=[other], **options)
