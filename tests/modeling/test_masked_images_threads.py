"""Masked pre-training models answer several threads at once, each with its own images and masks."""

from functools import partial

import pytest
import torch

from ..threads import run_together
from . import test_fastmim as fastmim
from . import test_localmim as localmim
from . import test_simmim as simmim

MODELS = {
    "fastmim, vit": lambda: fastmim.build("vit"),
    "fastmim, cnn": lambda: fastmim.build("ghostnetv3"),
    "localmim, vit": lambda: localmim.build("vit"),
    "localmim, swin": lambda: localmim.build("swin"),
    "simmim, vit": lambda: simmim.build("vit"),
    "simmim, swin": lambda: simmim.build("swin"),
}


@pytest.mark.parametrize("name", MODELS)
def test_threads_do_not_see_each_others_images_and_masks(name):
    model = MODELS[name]().float()
    side = model.config.image_size
    draw = torch.Generator().manual_seed(1)
    inputs = [(torch.randn(1, 3, side, side, generator=draw), seed) for seed in range(5)]
    blocks = _places(model, inputs[0][0])

    def ask(given):
        pixels, seed = given
        noise = torch.rand(blocks, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():  # a thread has a mode of its own
            return model(pixels, noise=noise).loss

    alone = torch.stack([ask(given) for given in inputs])
    assert len(alone.unique()) == len(inputs)
    together = run_together(model, [partial(ask, given) for given in inputs])
    torch.testing.assert_close(torch.stack(together), alone)


def _places(model, pixels) -> tuple[int, ...]:
    """The shape of noise that the model expects, as it says itself."""
    with pytest.raises(ValueError, match="noise: got the shape") as error:
        model(pixels, noise=torch.rand(1, 1, 1))
    return tuple(
        int(size) for size in str(error.value).partition("expected (")[2].partition(")")[0].split(",") if size
    )
