"""What goes into one tensor of pictures of several shapes, and which image processors make them alike."""

import pytest
import torch
from PIL import Image
from transformers import (
    CLIPImageProcessorPil,
    ConvNextImageProcessorPil,
    DetrImageProcessorPil,
    SegformerImageProcessorPil,
)

from hf_effmodels._shapes import in_runs, processed, size_of_all

KEEPING = CLIPImageProcessorPil(size={"shortest_edge": 16}, do_center_crop=False)


def test_neighbours_of_one_shape_are_a_batch_in_order():
    pictures = [torch.full((1, 2, width), float(number)) for number, width in enumerate((2, 2, 3, 2, 2, 2))]
    runs = list(in_runs(iter(pictures)))
    assert [tuple(run.shape) for run in runs] == [(2, 1, 2, 2), (1, 1, 2, 3), (3, 1, 2, 2)]
    assert [value for run in runs for value in run[:, 0, 0, 0].tolist()] == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    "processor, channels, size",
    [
        (KEEPING, 3, None),
        (CLIPImageProcessorPil(size={"shortest_edge": 20}, crop_size={"height": 16, "width": 12}), 3, (16, 12)),
        (CLIPImageProcessorPil(size={"height": 16, "width": 24}, do_center_crop=False), 3, (16, 24)),
        (SegformerImageProcessorPil(size={"height": 16, "width": 24}), 2, (16, 24)),
        (ConvNextImageProcessorPil(size={"shortest_edge": 32}), 3, (32, 32)),  # it crops by a share of its own
        (DetrImageProcessorPil(size={"shortest_edge": 16, "longest_edge": 24}), 3, None),
        (DetrImageProcessorPil(size={"height": 16, "width": 16}), 3, (16, 16)),
    ],
    ids=["kept", "cropped", "resized", "channels", "share", "filled", "square"],
)  # fmt: skip
def test_a_processor_makes_pictures_of_one_size_where_those_of_two_shapes_are_alike(processor, channels, size):
    assert size_of_all(processor, channels) == size


def test_what_is_filled_up_is_of_one_size_unless_the_model_is_told_of_it():
    sides = {"shortest_edge": 16, "longest_edge": 16}
    filling = DetrImageProcessorPil(size=sides, pad_size={"height": 16, "width": 16})
    assert size_of_all(filling, 3) == (16, 16) and size_of_all(filling, 3, takes_mask=True) is None


def test_images_come_in_one_batch_or_one_by_one_where_their_shapes_are_kept():
    wide, tall = Image.new("RGB", (40, 20)), Image.new("RGB", (20, 40))
    found = processed(KEEPING, [wide, tall, wide])
    assert [(batch, tuple(made.pixel_values.shape)) for batch, made in found] == [
        ([wide], (1, 3, 16, 32)), ([tall], (1, 3, 32, 16)), ([wide], (1, 3, 16, 32))
    ]  # fmt: skip
    [(batch, made)] = processed(SegformerImageProcessorPil(size={"height": 8, "width": 8}), [wide, tall])
    assert batch == [wide, tall] and made.pixel_values.shape == (2, 3, 8, 8)
    [(batch, made)] = processed(DetrImageProcessorPil(size={"shortest_edge": 16, "longest_edge": 32}), [wide, tall])
    assert made.pixel_values.shape == (2, 3, 32, 32), "what fills pictures up has them in one batch"
    with pytest.raises(ValueError):
        processed(KEEPING, ["no picture"])
