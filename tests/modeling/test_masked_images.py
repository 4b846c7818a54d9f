"""What all pre-trainings by masked images have in common beside their encoders."""

import pytest
import torch

from .test_initialization import MASKED

#: How wide the blocks are that an image is masked by, and the image that each is for (some take any).
BLOCKS = {"simmim": (32, 64), "fastmim": (16, 64), "localmim": (16, 64), "spark": (32, 64)}
ANY_SIZE = ("fastmim", "spark")


@pytest.fixture(params=MASKED)
def kind(request):
    return request.param


def build(kind):
    torch.manual_seed(0)
    return MASKED[kind]().eval()


def pictures(count, height=64, width=64):
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(5))


def noise_for(model, count):
    shape = (count, model.count_blocks(64, 64))
    return torch.rand(shape, generator=torch.Generator().manual_seed(6))


@torch.no_grad()
def test_the_loss_of_an_image_by_itself_is_what_it_is_alone(kind):
    model = build(kind)
    pixels, noise = pictures(3), noise_for(model, 3)
    together = model.image_losses(pixels, model(pixels, noise=noise))
    scales = 4 if kind == "localmim" else 1
    assert together.shape == (3, scales) and len(together[:, 0].unique()) == 3
    for row in range(3):
        outputs = model(pixels[row : row + 1], noise=noise[row : row + 1])
        alone = outputs.losses if kind == "localmim" else [outputs.loss]
        torch.testing.assert_close(together[row], torch.stack(list(alone)), rtol=1e-4, atol=1e-5)


def test_blocks_are_counted_both_ways(kind):
    model, (block, _) = build(kind), BLOCKS[kind]
    assert model.count_blocks(64, 64) == (64 // block) ** 2
    if kind in ANY_SIZE:
        assert model.count_blocks(64, 96) == model.count_blocks(96, 64) == 64 * 96 // block**2
    wrong = [(64, 64 + block // 2), (64 + block // 2, 64)]
    if kind == "localmim":
        wrong = [(64, 32), (32, 64)]
    for height, width in wrong:
        with pytest.raises(ValueError, match=f"pixel_values: got {height}×{width}"):
            model.count_blocks(height, width)
    if kind == "spark":  # of one block nothing could be visible
        with pytest.raises(ValueError, match="pixel_values: got 32×32 pixels, accepted are two or more blocks of 32"):
            model.count_blocks(32, 32)
        assert model.count_blocks(32, 64) == 2


@torch.no_grad()
def test_noise_is_drawn_anew_and_by_the_seed(kind):
    model, pixels = build(kind), pictures(2)
    torch.manual_seed(3)
    first, second = model(pixels), model(pixels)
    torch.manual_seed(3)
    again = model(pixels)
    assert torch.equal(first.loss, again.loss) and not torch.equal(first.loss, second.loss)
    names = [name for name in ("mask", "pixel_mask") if name in first]
    assert names and all(torch.equal(first[name], again[name]) for name in names)


def test_images_and_noise_of_another_form_are_named(kind):
    model = build(kind)
    with pytest.raises(ValueError, match=r"pixel_values: got shape \(2, 1, 64, 64\), expected \(batch, 3"):
        model(pictures(2)[:, :1])
    count = model.count_blocks(64, 64)
    for shape in ((2, count + 1), (1, count)):
        with pytest.raises(ValueError, match=rf"noise: got the shape \({shape[0]}, {shape[1]}\), expected"):
            model(pictures(2), noise=torch.rand(shape))
