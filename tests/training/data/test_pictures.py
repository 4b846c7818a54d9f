"""Pictures by number: by what each is called, and which of them are used."""

import datasets
import numpy as np
import pytest
from PIL import Image

from hf_effmodels.training.data import digits
from hf_effmodels.training.data.errors import SampleError
from hf_effmodels.training.data.images import check_processor
from hf_effmodels.training.data.pictures import (
    PictureArguments,
    Pictures,
    for_evaluation,
    for_training,
    hold_out,
    image_column_of,
    load_evaluation_pictures,
    load_picture_split,
    load_pictures,
    picture_ids,
    same_images,
)


def pictures(*files, rows=None, ids=None) -> Pictures:
    return Pictures(list(files), "mine/train", np.arange(len(files)) if rows is None else np.array(rows), ids=ids)


def test_a_picture_is_known_by_its_id_or_its_file_or_its_row():
    named = pictures("x/a.png", "x/b.png", {"bytes": b"1", "path": "x/c.png"}, rows=[2, 0])
    assert picture_ids(named) == ["c.png", "a.png"]
    assert picture_ids(pictures("x/a.png", "y/a.png")) == ["x/a.png", "y/a.png"]
    assert picture_ids(pictures("x/a.png", "y/a.png", rows=[1])) == ["a.png"]
    assert picture_ids(pictures("x/a.png", {"bytes": b"1", "path": None}, "b.png", rows=[1, 2])) == ["1", "2"]
    assert picture_ids(pictures("x/a.png", "x/b.png", rows=[1, 0], ids=[7, "eight"])) == ["eight", "7"]


def test_pictures_of_a_table_are_known_by_their_files_without_reading_them(tmp_path):
    values = [{"bytes": b"no picture", "path": f"photos/{name}.png"} for name in "abc"]
    table = datasets.Dataset.from_dict({"image": values}, datasets.Features({"image": datasets.Image()}))
    images, column = image_column_of(table, PictureArguments("mine"), "mine/train")
    assert column == "image"
    assert picture_ids(Pictures(images, "mine/train", np.array([2, 0]))) == ["c.png", "a.png"]


def test_at_most_so_many_are_spread_from_the_first_to_the_last():
    many = pictures(*[f"{n}.png" for n in range(11)])
    assert many.evenly(3).rows.tolist() == [0, 5, 10]
    for all_of_them in (None, 11, 12):
        assert many.evenly(all_of_them) is many
    assert many.select([3, 1]).evenly(1).rows.tolist() == [3]


def test_a_picture_that_cannot_be_read_is_named_and_what_is_wrong_stays_of_its_kind(tmp_path):
    """A file that is not there is an OSError as elsewhere, what is in one that is there is a wrong sample."""
    lost, page = str(tmp_path / "lost.png"), np.zeros((2, 2, 7), dtype=np.uint8)
    with pytest.raises(FileNotFoundError, match="^row 1 of mine/train .*lost.png"):
        pictures("a.png", lost, rows=[1]).read(0, 3)
    with pytest.raises(SampleError, match="^row 0 of mine/train"):
        pictures(page).read(0, 3)


def test_what_is_held_out_is_drawn_and_called_so():
    train, evaluation = hold_out(pictures(*[f"{n}.png" for n in range(20)]), PictureArguments("mine", eval_holdout=4))
    assert sorted([*train.rows, *evaluation.rows]) == list(range(20)) and len(evaluation) == 4
    assert sorted(evaluation.rows) == sorted(np.random.default_rng(0).permutation(20)[:4])
    assert (train.split, evaluation.split) == ("mine/train", "mine/train (held out)")


@pytest.fixture
def few_digits(monkeypatch):
    rows = [{"image": Image.new("L", (8, 8), n), "label": str(n % 2)} for n in range(12)]
    monkeypatch.setattr(digits, "read_digits", lambda: {"train": rows[:8], "test": rows[8:]})


def test_digits_have_one_column_and_no_more_than_their_name(few_digits):
    args = PictureArguments("digits", max_train_samples=5, max_eval_samples=3)
    train, evaluation = load_pictures(args)
    assert (len(train), len(evaluation), train.split, evaluation.split) == (5, 3, "digits/train", "digits/test")
    assert len(load_evaluation_pictures(args)) == 3
    assert len(load_picture_split(args, "test")) == 4, "all of it"
    with pytest.raises(ValueError, match="--split: name one of the splits, which are train, test"):
        load_picture_split(args, None)
    with pytest.raises(ValueError, match="--split: there is no 'val', the splits are train, test"):
        load_picture_split(args, "val")
    with pytest.raises(ValueError, match="--train_split: there is no 'val'"):
        load_pictures(PictureArguments("digits", train_split="val"))
    with pytest.raises(ValueError, match="--image_column: there is no 'picture' in digits/train, it is 'image'"):
        load_pictures(PictureArguments("digits", image_column="picture"))
    assert len(load_pictures(PictureArguments("digits", image_column="image", max_eval_samples=2))[1]) == 2
    for option in ("dataset_config", "dataset_revision", "data_files", "data_dir"):
        with pytest.raises(
            ValueError, match=f"--{option}: goes with what the library datasets reads; --dataset digits"
        ):
            load_pictures(PictureArguments("digits", **{option: "x"}))


def test_a_split_that_a_task_reads_no_pictures_of_is_named(few_digits):
    def read(rows, args, split):
        return pictures(*[row["image"] for row in rows if not split.endswith(args.image_column)])

    for column, call in (("train", for_training), ("test", for_training), ("test", for_evaluation)):
        with pytest.raises(ValueError, match="^mine/train is empty.$"):
            call(PictureArguments("digits", image_column=column), None, read, hold_out)


class Processor:
    def __init__(self, **options):
        vars(self).update(options)


@pytest.mark.parametrize(
    "option, message",
    [
        ("do_flip_channel_order", "swaps red and blue .do_flip_channel_order.; not supported"),
        ("rescale_offset", "rescales in a way of its own .rescale_offset, include_top.; not supported"),
        ("include_top", "rescales in a way of its own"),
    ],
)
def test_processors_that_do_what_training_does_not_repeat_are_refused(option, message):
    with pytest.raises(ValueError, match=f"^--model: its image processor {message}"):
        check_processor("--model", Processor(**{option: True}))
    check_processor("--model", Processor(**{option: False}))
    check_processor("--model", Processor())


@pytest.mark.parametrize("source", ["its own split", "held out", "another data set"])
def test_no_more_are_trained_and_evaluated_on_than_asked_wherever_they_come_from(source, monkeypatch):
    rows = [{"image": Image.new("L", (8, 8), n), "label": "0"} for n in range(20)]
    splits = {"train": rows[:12], "test": rows[12:]} if source == "its own split" else {"train": rows}
    monkeypatch.setattr(digits, "read_digits", lambda: splits)
    given = {"held out": {"eval_holdout": 8}, "another data set": {"eval_dataset": "digits", "eval_split": "train"}}
    args = PictureArguments("digits", max_train_samples=5, max_eval_samples=3, **given.get(source, {}))
    train, evaluation = load_pictures(args)
    assert (len(train), len(evaluation)) == (5, 3)
    # Spread over all that there are.
    args.max_train_samples = args.max_eval_samples = None
    whole = load_pictures(args)
    assert [len(each) for each in whole] == ([12, 8] if source != "another data set" else [20, 20])
    for few, many in zip((train, evaluation), whole, strict=True):
        assert few.rows.tolist() == [many.rows[round(n)] for n in np.linspace(0, len(many) - 1, len(few))]


def test_images_are_the_same_by_their_file_or_what_is_in_it_and_others_are_each_by_itself():
    images = [
        "a.png",
        {"bytes": None, "path": "a.png"},
        {"bytes": b"x", "path": "b.png"},
        b"x",
        b"y",
        None,
        "",
        object(),
    ]
    found = same_images(images).tolist()
    assert found[0] == found[1] and found[2] == found[3] and len({*found}) == 6
    assert found[5:] == ["row 5", "row 6", "row 7"]
