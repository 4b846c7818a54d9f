"""What a run does about images that cannot be read, and says about those that are read differently elsewhere."""

import io
import logging
from dataclasses import dataclass, replace

import numpy as np
import pytest
from PIL import Image

from hf_effmodels.training.data import images
from hf_effmodels.training.data.images import ImageSplitArguments, read_for_stock_processor, usable, where


@dataclass
class Numbers:
    """A source whose samples are numbers; those in `bad` cannot be used."""

    numbers: list
    bad: frozenset = frozenset()
    split: str = "mine/train"

    def __len__(self):
        return len(self.numbers)

    def select(self, chosen):
        return replace(self, numbers=[self.numbers[c] for c in chosen])

    def use(self, index):
        if self.numbers[index] in self.bad:
            kind = OSError if self.numbers[index] % 3 else ValueError  # the file, or what is in it
            raise kind(f"row {self.numbers[index]} of mine/train: it is broken")


def arguments(**options):
    return ImageSplitArguments(dataset="mine", **options)


def test_images_are_looked_at_only_when_asked():
    source = Numbers([1, 2], frozenset([2]))
    assert usable(source, lambda index: pytest.fail("it is looked at"), arguments()) is source


def test_all_bad_images_are_named_before_anything_starts():
    source = Numbers(list(range(20, 40)), frozenset([21, 33]))
    with pytest.raises(ValueError) as error:
        usable(source, source.use, arguments(check_images=True))
    assert str(error.value) == (
        "--check_images: 2 of the 20 samples of mine/train cannot be used: row 21 of mine/train: it is broken; "
        "row 33 of mine/train: it is broken. --skip_bad_images true leaves them out."
    )
    many = Numbers(list(range(9)), frozenset(range(8)))
    with pytest.raises(ValueError, match="8 of the 9 .*row 4 of mine/train: it is broken; ..."):
        usable(many, many.use, arguments(check_images=True))


@pytest.mark.parametrize("at_a_time", [3, 4096])
def test_bad_images_are_left_out_and_counted(caplog, monkeypatch, at_a_time):
    monkeypatch.setattr(images, "_AT_A_TIME", at_a_time)
    source = Numbers(list(range(20, 40)), frozenset([21, 33]))
    with caplog.at_level(logging.INFO, "hf_effmodels"):
        kept = usable(source, source.use, arguments(skip_bad_images=True))
    assert kept.numbers == [n for n in range(20, 40) if n not in (21, 33)]
    assert "2 of the 20 samples of mine/train cannot be used" in caplog.text and "left out" in caplog.text
    with pytest.raises(ValueError, match="--skip_bad_images: 1 of the 1 samples"):
        usable(Numbers([2], frozenset([2])), Numbers([2], frozenset([2])).use, arguments(skip_bad_images=True))
    with caplog.at_level(logging.INFO, "hf_effmodels"):
        assert usable(kept, kept.use, arguments(skip_bad_images=True)) is kept
    assert "all 18 images of mine/train can be read" in caplog.text


def test_processes_share_the_look_and_know_the_whole(monkeypatch):
    source = Numbers(list(range(10)), frozenset([3, 4, 8]))
    looked = {}

    class Process:
        num_processes = 2

        def __init__(self):
            self.process_index = Process.index

    monkeypatch.setattr(images, "PartialState", Process)
    for Process.index in (0, 1):
        monkeypatch.setattr(images, "gather_object", lambda found: looked.setdefault(Process.index, found))
        usable(source, source.use, arguments(skip_bad_images=True))
    assert [[number for number, _ in looked[index]] for index in (0, 1)] == [[4, 8], [3]]
    monkeypatch.setattr(images, "gather_object", lambda found: [*looked[1], *looked[0]])
    assert usable(source, source.use, arguments(skip_bad_images=True)).numbers == [0, 1, 2, 5, 6, 7, 9]


def test_the_place_of_an_image_names_its_file():
    assert where(3, "mine/train", {"bytes": b"", "path": "dogs/7.png"}) == "row 3 of mine/train (dogs/7.png)"
    assert where(3, "mine/train", {"bytes": b"", "path": None}) == where(3, "mine/train") == "row 3 of mine/train"


def test_what_a_stock_processor_clips_is_said_once(caplog):
    images._warn_of_deep_images.cache_clear()
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 4), 32896, np.uint16)).save(buffer, "PNG")
    with caplog.at_level(logging.WARNING, "hf_effmodels"):
        read_for_stock_processor(Image.new("RGB", (4, 4)), 3)
        assert not caplog.records
        for _ in range(3):
            assert np.asarray(read_for_stock_processor(buffer.getvalue(), 3)).max() == 128
    assert len(caplog.records) == 1 and "16-bit" in caplog.text and "hf_effmodels.images.read_image" in caplog.text
