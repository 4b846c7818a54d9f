"""Pairs of pictures by task: folders, what is held out, and that both of a pair get the same draw."""

import numpy as np
import pytest
from PIL import Image

from hf_effmodels.training.data import image_pairs
from hf_effmodels.training.data.image_pairs import ImagePairs, augment_pair, expanded, load_pairs, read_expansion


def noise(seed: int, size=(20, 12)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))


def write(folder, task: str, number: int) -> None:
    for part, shift in (("images", 0), ("answers", 100)):
        (folder / task / part).mkdir(parents=True)
        for index in range(number):
            noise(index + shift).save(folder / task / part / f"{index}.png")


def test_a_folder_of_tasks_holds_out_a_tenth_the_same_pictures_of_each_task(tmp_path):
    for task in ("pose", "segment"):
        write(tmp_path, task, 20)
    train, test = load_pairs(str(tmp_path))
    assert [task.task for task in train] == [task.task for task in test] == ["pose", "segment"]
    assert [len(task) for task in (*train, *test)] == [18, 18, 2, 2] and test[0].names == test[1].names
    assert set(train[0].names) | set(test[0].names) == {str(index) for index in range(20)}
    index = test[1].names[0]
    image, answer = test[1].read(0)
    assert np.array_equal(image, noise(int(index))) and np.array_equal(answer, noise(int(index) + 100))


@pytest.mark.parametrize(
    "shared",
    [(range(20), range(30)), (range(50), range(20)), (range(11), range(60), range(30)), (range(12), range(12, 40))],
)
def test_a_picture_that_is_evaluated_on_is_trained_on_by_no_other_task(shared, tmp_path):
    """Whatever other pictures tasks have: a tenth of all is held out, by name, and one at least of each task."""
    tasks = [ImagePairs(f"task{n}", [str(i) for i in each], [(i, -i) for i in each]) for n, each in enumerate(shared)]
    train, test = image_pairs._hold_out(tasks)
    held, trained = ({name for task in split for name in task.names} for split in (test, train))
    every = {name for task in tasks for name in task.names}
    assert not held & trained and held | trained == every
    assert len(every) // 10 <= len(held) <= round(len(every) / 10) + len(tasks) - 1
    for task, rest, out in zip(tasks, train, test, strict=True):
        assert out.task == rest.task == task.task and len(out) >= 1 <= len(rest)
        assert set(out.names) == held & set(task.names) and set(rest.names) == trained & set(task.names)
        for part in (rest, out):
            assert part.pairs == [(int(name), -int(name)) for name in part.names]
            assert part.names == [name for name in task.names if name in part.names]  # in their order
    again = image_pairs._hold_out(tasks[::-1])
    assert [task.names for task in again[1]] == [task.names for task in test][::-1]


def test_one_of_two_pictures_stays_where_both_are_held_out_for_other_tasks():
    """Of three tasks that share their two pictures by turns, one has to train on what another is measured on."""
    tasks = [ImagePairs(name, [*name], [(each, each) for each in name]) for name in ("ab", "bc", "ca")]
    train, test = image_pairs._hold_out(tasks)
    assert [len(task) for task in (*train, *test)] == [1] * 6
    assert len({name for task in test for name in task.names} & {name for task in train for name in task.names}) == 1


@pytest.mark.parametrize("part", ["images", "answers"])
def test_two_pictures_of_one_name_are_refused_and_none_is_left_out(part, tmp_path):
    write(tmp_path, "pose", 3)
    folder = tmp_path / "pose" / part
    (folder / "1.txt").write_text("of the picture")  # no picture
    assert len(load_pairs(str(tmp_path))[0][0]) == 2
    noise(1, (20, 12)).save(folder / "1.BMP")
    with pytest.raises(ValueError, match=f"^--dataset: {folder} has 1.BMP and 1.png; pairs are known by"):
        load_pairs(str(tmp_path))


def test_splits_are_folders_and_wrong_ones_are_named(tmp_path):
    write(tmp_path / "train", "pose", 3)
    with pytest.raises(ValueError, match="has only the split train"):
        load_pairs(str(tmp_path))
    write(tmp_path / "validation", "pose", 2)
    train, test = load_pairs(str(tmp_path))
    assert (len(train[0]), len(test[0])) == (3, 2)
    noise(1, (4, 4)).save(tmp_path / "train" / "pose" / "answers" / "1.png")
    with pytest.raises(ValueError, match="1 of task pose is an image of 20×12 pixels and an answer of 4×4"):
        load_pairs(str(tmp_path))[0][0].read(1)
    # As everywhere: 16 bits are scaled, and not clipped to white.
    deep = (np.arange(240, dtype=np.uint16) * 257).reshape(12, 20)
    for part in ("images", "answers"):
        Image.fromarray(deep).save(tmp_path / "train" / "pose" / part / "1.png")
    for part in load_pairs(str(tmp_path))[0][0].read(1):
        assert np.array_equal(np.asarray(part)[..., 1], deep // 257)
    (tmp_path / "train" / "pose" / "answers" / "2.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="2.png of task pose cannot be read"):
        load_pairs(str(tmp_path))[0][0].read(2)
    (tmp_path / "train" / "pose" / "images" / "0.png").unlink()
    with pytest.raises(ValueError, match="0 is in one of images and answers only"):
        load_pairs(str(tmp_path))
    with pytest.raises(ValueError, match="--dataset: got 'nowhere', accepted are digits and a folder"):
        load_pairs("nowhere")


def test_folders_without_pairs_or_with_other_tasks_are_named(tmp_path):
    with pytest.raises(ValueError, match="has no task: a folder with images and answers in it"):
        load_pairs(str(tmp_path))
    write(tmp_path, "pose", 0)
    with pytest.raises(ValueError, match="--dataset: .*pose has no pairs"):
        load_pairs(str(tmp_path))
    for part in ("images", "answers"):
        noise(0).save(tmp_path / "pose" / part / "one.PNG")
        (tmp_path / "pose" / part / "notes.txt").write_text("no picture")
    with pytest.raises(ValueError, match="--dataset: task pose has one pair, accepted are two or more"):
        load_pairs(str(tmp_path))
    for part in ("images", "answers"):
        noise(1).save(tmp_path / "pose" / part / "two.jpg")
    train, test = load_pairs(str(tmp_path))
    assert (len(train[0]), len(test[0])) == (1, 1)
    write(tmp_path / "split" / "train", "pose", 2)
    write(tmp_path / "split" / "val", "segment", 2)
    with pytest.raises(ValueError, match="split has other tasks in train than in test"):
        load_pairs(str(tmp_path / "split"))


def test_few_of_many_pairs_are_spread_evenly():
    pairs = ImagePairs("pose", [*"abcdefg"], [(name, name) for name in "abcdefg"])
    assert pairs.evenly(3).names == ["a", "d", "g"] and pairs.evenly(3).pairs[1] == ("d", "d")
    for all_of_them in (None, 7, 8):
        assert pairs.evenly(all_of_them) is pairs


def test_digits_have_two_tasks_whose_answers_are_what_they_are_called():
    train, test = load_pairs("digits")
    assert [len(task) for task in (*train, *test)] == [1438, 1438, 359, 359]
    (image, negative), (same, ink) = (task.read(7) for task in train)
    assert np.array_equal(image, same) and np.array_equal(255 - np.asarray(image), negative)
    expected = np.where(np.asarray(image)[..., 0] > 95, 255, 0)
    assert np.array_equal(np.asarray(ink)[..., 0], expected) and not np.asarray(ink)[..., 1:].any()


def test_both_of_a_pair_get_the_same_part_and_the_same_flips():
    image = noise(1)
    seen = set()
    for number in range(12):
        rng = np.random.default_rng(number)
        parts = augment_pair(image, image.copy(), rng, scale=(1.0, 1.0))
        assert np.array_equal(*parts) and parts[0].size == (12, 12)
        whole = augment_pair(image, image, np.random.default_rng(number), scale=(1.0, 1.0), flips=False)[0]
        turned = [np.asarray(whole)[::up, ::left] for up in (1, -1) for left in (1, -1)]
        [which] = [index for index, part in enumerate(turned) if np.array_equal(part, parts[0])]
        seen.add(which)
    assert seen == {0, 1, 2, 3}
    small = augment_pair(image, image, np.random.default_rng(0), scale=(0.1, 0.1), flips=False)[0]
    assert np.abs(np.diff(np.asarray(small, dtype=float), axis=1)).mean() < 40  # a few pixels, enlarged


def test_copies_are_augmented_and_the_first_is_the_pair_itself():
    pairs = load_pairs("digits")[0][1]
    assert np.array_equal(expanded(pairs, 2, 0, 3, 0)[0], pairs.read(3)[0])
    first, second = (np.asarray(expanded(pairs, 2, 0, 3, copy)[0]) for copy in (1, 2))
    assert not np.array_equal(first, second)
    assert np.array_equal(first, expanded(pairs, 2, 0, 3, 1)[0])
    assert not np.array_equal(first, expanded(pairs, 2, 1, 3, 1)[0])
    with pytest.raises(IndexError):
        expanded(pairs, 2, 0, 3, 3)
    with pytest.raises(ValueError, match="--expand: got 'pose', accepted are the tasks invert, segment"):
        read_expansion("--expand", {"pose": 2}, ["invert", "segment"])
    for number, told in ((-1, "-1"), (1.5, "1.5"), (True, "true"), ("2", '"2"')):
        with pytest.raises(ValueError, match=f"--expand: got {told} for segment, accepted are whole numbers from 0"):
            read_expansion("--expand", {"segment": number}, ["segment"])
    assert read_expansion("--expand", {"b": 2}, ["a", "b"]) == {"a": 0, "b": 2}
    assert read_expansion("--expand", None, ["a"]) == {"a": 0}
