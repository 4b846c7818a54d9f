"""Replayed augmentation and mixed pairs beyond the published settings, which the parity cases hold."""

import numpy as np
import pytest
import torch
from PIL import Image

from hf_effmodels.training.data import replay
from hf_effmodels.training.data.paired_order import paired_order
from hf_effmodels.training.data.randaugment import OPERATIONS
from hf_effmodels.training.data.replay import Draws, ReplayableAugmentation, mix_pairs
from hf_effmodels.training.data.soft_label_records import decode_records, encode_records
from hf_effmodels.training.losses.stored_soft_labels import dense_targets, stored_soft_label_loss

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8))
PLAIN = {"randaugment": None, "random_erasing": 0.0, "horizontal_flip": 0.0, "mean": (0.0,) * 3, "std": (1.0,) * 3}


def values(image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image, dtype=np.float32).transpose(2, 0, 1) / 255)


@pytest.mark.parametrize(
    "width, height, expected", [(40, 10, (0, 13, 10, 13)), (10, 40, (13, 0, 13, 10)), (20, 20, (0, 0, 20, 20))]
)
def test_a_part_that_never_fits_gives_the_centre(width, height, expected):
    augment = ReplayableAugmentation(size=(8, 8), scale=(9.0, 9.0))
    assert augment.crop(width, height, Draws(0)) == expected


def test_whole_pictures_of_their_own_size_stay_as_they_are():
    square = PICTURE.crop((0, 0, 30, 30))
    augment = ReplayableAugmentation(size=(30, 30), scale=(1.0, 1.0), ratio=(1.0, 1.0), **PLAIN)
    assert torch.equal(augment(square, 3), values(square))
    flipped = ReplayableAugmentation(
        size=(30, 30), scale=(1.0, 1.0), ratio=(1.0, 1.0), **PLAIN | {"horizontal_flip": 1.0}
    )
    assert torch.equal(flipped(square, 3), values(square).flip(-1))
    normalised = ReplayableAugmentation(
        size=(30, 30), scale=(1.0, 1.0), ratio=(1.0, 1.0), **PLAIN | {"mean": (0.5, 0.0, 0.25), "std": (2.0, 1.0, 0.5)}
    )
    expected = (values(square) - torch.tensor([0.5, 0.0, 0.25])[:, None, None]) / torch.tensor([2.0, 1.0, 0.5])[
        :, None, None
    ]
    torch.testing.assert_close(normalised(square, 3), expected)


def test_the_same_seed_erases_the_same_part_at_every_size():
    erased = {}
    for size in ((56, 56), (112, 112), (112, 56)):
        augment = ReplayableAugmentation(size=size, **PLAIN | {"random_erasing": 1.0, "erasing_area": (0.1, 0.1)})
        kept = ReplayableAugmentation(size=size, **PLAIN)
        erased[size] = (augment(PICTURE, 5) != kept(PICTURE, 5)).any(0)
        assert erased[size].float().mean() == pytest.approx(0.1, abs=0.02)
    assert (erased[56, 56] == erased[112, 112][::2, ::2]).float().mean() > 0.95
    assert (erased[56, 56] == erased[112, 56][::2]).float().mean() > 0.95


def test_a_filter_of_ones_choice_is_used():
    nearest = ReplayableAugmentation(size=(9, 9), resample=Image.Resampling.NEAREST, **PLAIN)
    top, left, height, width = nearest.crop(*PICTURE.size, Draws(7))
    part = PICTURE.crop((left, top, left + width, top + height)).resize((9, 9), Image.Resampling.NEAREST)
    assert torch.equal(nearest(PICTURE, 7), values(part))


def test_pairs_are_mixed_as_often_and_in_the_way_that_is_asked_for():
    torch.manual_seed(0)
    pixels, seeds = torch.randn(200, 1, 6, 6, dtype=torch.float64), torch.randint(2**31, (200,)).tolist()
    mixed, shares = mix_pairs(pixels, seeds, probability=0.3, cutmix=0.0)
    changed = shares != 1
    assert 0.1 < changed.float().mean() < 0.5
    assert torch.equal(mixed[~changed], pixels[~changed])
    other = pixels.view(100, 2, 1, 6, 6).flip(1).reshape(pixels.shape)
    shares = shares[:, None, None, None]
    torch.testing.assert_close(mixed, shares * pixels + (1 - shares) * other)

    cut, shares = mix_pairs(pixels, seeds, mixup=0.0)
    assert ((cut == pixels) | (cut == other)).all() and (cut == other).any() and (cut == pixels).any()
    rarely, _ = mix_pairs(pixels, seeds, switch_probability=0.1)
    often, _ = mix_pairs(pixels, seeds, switch_probability=0.9)

    def cuts(result):
        return ((result == pixels) | (result == other)).flatten(1).all(1).float().mean()

    assert cuts(rarely) < 0.3 < 0.7 < cuts(often)
    with pytest.raises(ValueError, match="got 3 pictures and 3 seeds"):
        mix_pairs(pixels[:3], seeds[:3])


def test_a_rectangle_that_never_fits_is_not_erased():
    huge = {"random_erasing": 1.0, "erasing_area": (2.0, 2.0)}
    whole = ReplayableAugmentation(size=(16, 16), **PLAIN)
    assert torch.equal(ReplayableAugmentation(size=(16, 16), **PLAIN | huge)(PICTURE, 3), whole(PICTURE, 3))


def test_what_comes_in_from_outside_has_the_colour_that_normalises_to_zero(monkeypatch):
    """A picture of that colour is the same however it is turned, and any other is not."""
    monkeypatch.setattr(replay, "OPERATIONS", OPERATIONS[3:4])  # rotations
    turned = {"randaugment": "rand-m9-n1-p1", "mean": (0.2, 0.4, 1.0)}
    augmentation = ReplayableAugmentation(size=(16, 16), **PLAIN | turned)
    assert augmentation(Image.new("RGB", (20, 20), (51, 102, 255)), 3).abs().max() < 1e-6
    of_black = augmentation(Image.new("RGB", (20, 20)), 3)
    corners = of_black[:, ::15, ::15].flatten(1)
    assert corners.abs().max() < 1e-6
    torch.testing.assert_close(of_black[:, 8, 8], torch.tensor([-0.2, -0.4, -1.0]))


def test_draws_reach_both_ends_and_nothing_beyond():
    draws = Draws(0)
    assert {draws.integer(2, 5) for _ in range(200)} == {2, 3, 4, 5}
    uniform = [draws.uniform(2.0, 5.0) for _ in range(2000)]
    assert 2 <= min(uniform) < 2.01 and 4.99 < max(uniform) < 5
    assert {*draws.choice(3, 100).tolist()} == {0, 1, 2}


def test_an_order_that_does_not_divide_is_filled_up_from_its_beginning():
    order = paired_order(7, epoch=0)
    assert sorted(order[:7]) == list(range(7)) and order[7:] == order[:1]
    dealt = [paired_order(7, epoch=0, replicas=3, rank=rank) for rank in range(3)]
    assert [len(own) for own in dealt] == [4, 4, 4]
    singly = [paired_order(7, epoch=0, replicas=3, rank=rank, pair=False) for rank in range(3)]
    assert [number for turn in zip(*singly, strict=True) for number in turn] == [*order[:7], *order[:2]]
    assert paired_order(1, epoch=0, replicas=4, rank=3) == [0, 0]


def test_an_order_is_another_in_each_epoch_and_for_each_seed():
    first = paired_order(12, epoch=0)
    assert sorted(first) == list(range(12)) and first != paired_order(12, epoch=1)
    assert paired_order(12, epoch=1, seed=2) == paired_order(12, epoch=3)
    dealt = [paired_order(12, epoch=0, replicas=3, rank=rank) for rank in range(3)]
    assert [pair for n in range(2) for order in dealt for pair in order[2 * n : 2 * n + 2]] == first


def test_stored_labels_are_a_distribution_and_their_loss_its_cross_entropy():
    ids, probabilities = torch.tensor([[4, 0], [2, 1]]), torch.tensor([[0.5, 0.25], [0.7, 0.1]])
    dense = dense_targets(ids, probabilities, 6)
    expected = torch.tensor([[0.25, 0.0625, 0.0625, 0.0625, 0.5, 0.0625], [0.05, 0.1, 0.7, 0.05, 0.05, 0.05]])
    torch.testing.assert_close(dense, expected)
    logits = torch.randn(2, 6)
    loss = stored_soft_label_loss(logits, ids, probabilities)
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(logits, expected))
    for wrong in (
        (ids[:1], probabilities[:1]),
        (ids + 2, probabilities),
        (torch.arange(6)[None].expand(2, 6), torch.ones(2, 6) / 6),
    ):
        with pytest.raises(ValueError, match="stored labels: "):
            stored_soft_label_loss(logits, *wrong)


def test_records_refuse_what_has_no_room():
    ids, probabilities = np.array([[7, 3]]), np.array([[0.75, 0.125]])
    [record] = encode_records([9], ids, probabilities)
    assert record == b"\x09\0\0\0" + b"\x07\0\x03\0" + b"\x00\x3a" + b"\x00\x30"
    assert [part.tolist() for part in decode_records(record, 2)] == [[9], [[7, 3]], [[0.75, 0.125]]]
    with pytest.raises(ValueError, match="ids: got 32768"):
        encode_records([9], ids + 32761, probabilities)
    with pytest.raises(ValueError, match="seeds"):
        encode_records([2**31], ids, probabilities)
    with pytest.raises(ValueError, match="11 bytes are no whole records of 12"):
        decode_records(record[:-1], 2)


def test_settings_that_cannot_be_are_named_and_nothing_is_mixed_by_neither():
    for wrong in (
        *({"scale": value} for value in ((1.0, 0.1), (0.0, 1.0))),
        *({"horizontal_flip": 7.0}, {"random_erasing": -0.1}, {"random_erasing": 1.1}),
        *({"std": (1.0, 0.0, 1.0)}, {"ratio": (0.0, 1.0)}, {"erasing_area": (0.5, 0.1)}),
    ):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))}: got"):
            ReplayableAugmentation(size=(8, 8), **wrong)
    # The ends belong to what is accepted.
    ReplayableAugmentation(size=(8, 8), scale=(1.0, 1.0), horizontal_flip=1.0, random_erasing=0.0)
    pixels = torch.randn(2, 3, 4, 4)
    assert torch.equal(mix_pairs(pixels, [3, 9], mixup=0, cutmix=0)[0], pixels)
    gray = PICTURE.convert("L")
    augment = ReplayableAugmentation(size=(8, 8))
    assert torch.equal(augment(gray, 1), augment(gray.convert("RGB"), 1))
    tiny = ReplayableAugmentation(size=(8, 8), scale=(0.001, 0.01), **PLAIN)
    assert all(min(tiny.crop(5, 5, Draws(seed))[2:]) > 0 for seed in range(30))


def test_records_and_labels_of_other_shapes_are_named():
    ids, probabilities = np.array([[7, 3]]), np.array([[0.75, 0.125]])
    unknown = probabilities * [np.nan, 1]
    for wrong in (([1, 2], ids, probabilities), ([1], ids + 0.5, probabilities), ([1], ids, unknown)):
        with pytest.raises(ValueError, match="ids: "):
            encode_records(*wrong)
    with pytest.raises(ValueError, match="class -1 is none of the student's 7"):
        stored_soft_label_loss(torch.randn(1, 7), torch.tensor([[-1, 6]]), torch.tensor([[0.5, 0.25]]))
