"""Tables of what was computed once: written file by file, shown when whole, and known again by their settings."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from hf_effmodels.training.data import label_maps, soft_label_records, stored_labels, text_embeddings, token_tables
from hf_effmodels.training.data.image_pairs import ImagePairs
from hf_effmodels.training.data.pictures import Pictures
from hf_effmodels.training.data.stored_labels import digest_of
from hf_effmodels.training.data.stored_tables import (
    UNFINISHED,
    TableWriter,
    changes,
    check_output,
    finish_table,
    read_table,
    table_folder,
)
from hf_effmodels.training.losses.label_maps import pooled_targets

SETTINGS = {"seed": 3, "classes": ["a", "b"], "size": [2, 2]}


def read(folder, **options):
    return read_table(folder, "made.json", argument="--table", made_by="things", **options)


def test_a_table_is_written_in_files_of_so_many_rows_and_goes_on_with_those_that_lack(tmp_path):
    output = tmp_path / "deep" / "table"
    writer = TableWriter(output, 7, 3, SETTINGS, "made.json", split="test")
    names = [f"test-0000{number}-of-00003.parquet" for number in range(3)]
    assert writer.missing() == dict(zip(names, [range(3), range(3, 6), range(6, 7)], strict=True))
    writer.write(names[1], {"n": pa.array([3, 4, 5])})
    assert [*output.iterdir()] == [output / UNFINISHED], "hidden until all is done"
    again = TableWriter(output, 7, 3, SETTINGS, "made.json", split="test")
    assert list(again.missing()) == [names[0], names[2]]
    again.write(names[0], pa.table({"n": [0, 1, 2]}))
    again.write(names[2], {"n": pa.array([6])})
    # A kill in the midst of showing them: one is there, the others are not yet.
    (output / "data").mkdir()
    (output / UNFINISHED / names[0]).rename(output / "data" / names[0])
    assert not again.missing()
    assert again.finish() == output and sorted(p.name for p in output.iterdir()) == ["data", "made.json"]
    settings, rows = read(output, cache_dir=str(tmp_path / "cache"))
    assert settings == SETTINGS and rows["n"][:] == list(range(7))


def test_a_table_is_made_where_nothing_is_or_its_own_beginning(tmp_path):
    check_output(tmp_path / "new", SETTINGS, "made.json")
    check_output(tmp_path, SETTINGS, "made.json")
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="--output: .*file is a file"):
        check_output(tmp_path / "file", SETTINGS, "made.json")
    with pytest.raises(ValueError, match="--output: .* is not empty and holds no unfinished table; name another"):
        check_output(tmp_path, SETTINGS, "made.json")
    TableWriter(tmp_path / "begun", 1, 1, {**SETTINGS, "ratio": (1, 2)}, "made.json")
    check_output(tmp_path / "begun", {**SETTINGS, "ratio": (1, 2)}, "made.json")
    with pytest.raises(ValueError, match=r"--output: .*begun holds a table begun with another seed \(3, now 4\)"):
        check_output(tmp_path / "begun", {**SETTINGS, "seed": 4}, "made.json")
    (tmp_path / "begun" / UNFINISHED / "made.json").write_text("{")
    with pytest.raises(ValueError, match="holds no unfinished table"):
        check_output(tmp_path / "begun", SETTINGS, "made.json")


def test_what_changed_is_shown_with_its_values_where_they_are_short():
    begun = {"a": 1, "b": [1], "c": "x" * 30, "d": None}
    assert changes(begun, {"a": 1, "b": (1,), "c": "x" * 30, "d": None}) == []
    found = changes(begun, {"a": True, "b": [2], "c": "y" * 30, "d": "z", "e": 0.5})
    assert found == ["b", "c", "d (None, now z)", "e (None, now 0.5)"]
    assert changes({"gone": 3, "a": 1, "never": None}, {"a": 1}) == ["gone (3, now None)"]
    assert changes({"gone": [3], "a": 1}, {"a": 2}) == ["a (1, now 2)", "gone"]


def test_what_is_no_finished_table_is_named_with_what_makes_one(tmp_path):
    with pytest.raises(ValueError, match="--table: .* holds no finished table of hf-effmodels prepare things"):
        read(tmp_path)
    (tmp_path / "made.json").write_text("{")
    with pytest.raises(ValueError, match="holds no finished table of hf-effmodels prepare things"):
        read(tmp_path)
    (tmp_path / "made.json").write_text("{}")
    with pytest.raises(ValueError, match=r"--table: .* has no data/\*.parquet"):
        read(tmp_path)


def test_a_table_is_a_folder_or_a_data_set_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    options = {"argument": "--table", "made_by": "things"}
    assert str(table_folder("mine", **options)) == "mine"
    for nowhere in ("there", "mine/there", "a/b/c"):
        with pytest.raises(
            OSError, match=f"--table: there is no folder '{nowhere}'; hf-effmodels prepare things makes"
        ):
            table_folder(nowhere, **options)
    asked = []

    def download(*names, **given):
        asked.append((*names, given))
        return tmp_path / "mine"

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert table_folder("org/table", **options, cache_dir="c", token="t") == tmp_path / "mine"
    assert asked == [("org/table", {"repo_type": "dataset", "cache_dir": "c", "token": "t"})]

    def fail(*names, **given):
        raise ValueError("no such revision")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(OSError, match="--table: 'org/table' cannot be found or reached. no such revision"):
        table_folder("org/table", **options)


def test_what_is_made_of_a_table_to_read_it_lies_where_it_is_told(tmp_path):
    table = TableWriter(tmp_path / "table", 3, 2, SETTINGS, "made.json")
    for name, rows in table.missing().items():
        table.write(name, {"row": pa.array(rows)})
    table.finish()
    settings, rows = read(tmp_path / "table", cache_dir=str(tmp_path / "cache"))
    assert settings == SETTINGS and rows["row"][:] == [0, 1, 2]
    assert rows.cache_files
    assert all(file["filename"].startswith(f"{tmp_path / 'cache'}/") for file in rows.cache_files)


# Of the tables that there are


def write_table(folder, settings_file: str, settings: dict, **columns) -> str:
    TableWriter(folder, 1, 1, settings, settings_file)
    pq.write_table(pa.table(columns), folder / UNFINISHED / "train-00000-of-00001.parquet")
    return str(finish_table(folder, settings, settings_file))


def test_tables_of_other_columns_or_rows_are_named(tmp_path):
    cache = {"cache_dir": str(tmp_path / "cache")}
    texts = write_table(tmp_path / "texts", text_embeddings.SETTINGS_FILE, {}, id=["a"], vector=[[1.0]])
    with pytest.raises(
        ValueError, match="--text_embeddings: .*texts has the columns id, vector, expected id and embed"
    ):
        text_embeddings.TextEmbeddings(texts, **cache)
    maps = write_table(tmp_path / "maps", label_maps.SETTINGS_FILE, {}, row=[0], scores=[[1.0]])
    source = Pictures(["a.png"], "mine/train", np.arange(1))
    with pytest.raises(ValueError, match="--label_maps: .*maps has the columns row, scores: no label maps"):
        label_maps.LabelMaps(maps, source, ["a", "b"], **cache)
    settings = {"classes": ["a", "b"], "samples": 2, "epochs": 3}
    labels = write_table(tmp_path / "labels", stored_labels.SETTINGS_FILE, settings, seed=[1, 2, 3, 4])
    with pytest.raises(ValueError, match="--stored_labels: .* has 4 rows, expected 6: 2 pictures of 3 epochs"):
        stored_labels.StoredLabels(labels, **cache)
    (tmp_path / "labels" / stored_labels.SETTINGS_FILE).write_text(json.dumps(settings | {"epochs": 1}))
    with pytest.raises(ValueError, match="has 4 rows, expected 2: 2 pictures of 1 epochs"):
        stored_labels.StoredLabels(labels, **cache)


def test_label_maps_are_found_by_the_rows_of_their_pictures_and_read_as_they_lie(tmp_path):
    """Rows in any order, more of them than are trained on, and axes as the published files have them."""
    images = [str(tmp_path / f"{number}.bin") for number in range(3)]
    for number in range(3):
        (tmp_path / f"{number}.bin").write_bytes(bytes([number]))
    drawn = np.random.default_rng(0)
    scores, classes = drawn.normal(size=(3, 4)), [[0, 1, 1, 0], [1, 1, 0, 1], [0, 0, 1, 0]]
    settings = {"classes": ["a", "b"], "top_k": 1, "map_size": [2, 2], "axis_order": "published"}
    columns = {"row": [2, 0, 1], "picture": [label_maps.picture_key(images[row]) for row in (2, 0, 1)]}

    def read_maps(name, source, values=scores, **options):
        lists = {"scores": values.tolist(), "classes": classes}
        folder = write_table(tmp_path / name, label_maps.SETTINGS_FILE, settings, **columns, **lists)
        cache = {"cache_dir": str(tmp_path / "cache" / name)}
        return label_maps.LabelMaps(folder, source, ["b", "a"], **cache, **options)  # the other way round

    source = Pictures(images, "mine/train", np.array([1, 2]))
    found, box = read_maps("maps", source, temperature=2.0), (0.0, 0.5, 1.0, 1.0)
    for index, place in ((0, 2), (1, 0)):
        stored = torch.tensor(scores[place]).view(1, 1, 2, 2), 1 - torch.tensor(classes[place]).view(1, 1, 2, 2)
        # What is called a row there is a column here.
        expected = pooled_targets(*(part.mT for part in stored), [box], 2, temperature=2.0)[0]
        torch.testing.assert_close(found.target(index, box), expected.float())
    changed = scores.copy()
    changed[0] += 1
    assert found.facts() != read_maps("changed", source, changed).facts()
    (tmp_path / "2.bin").write_bytes(b"another")
    with pytest.raises(ValueError, match="made of another picture than row 2 of mine/train"):
        read_maps("maps", source)


def test_stored_labels_are_those_of_one_setting_and_of_so_many_epochs(tmp_path):
    settings = stored_labels.settings_of(
        seed=1, samples=2, classes=("a", "b"), augmentation={"size": (8, 8), "flip": 0.5}
    )
    assert settings["augmentation"] == {"size": [8, 8], "flip": 0.5} and settings["classes"] == ["a", "b"]
    pictures = [{"pixel_values": np.full((3, 2, 2), n, np.float32)} for n in range(4)]

    class Shown(list):
        """Pictures as a training set gives them, two for each of two epochs."""

        def __len__(self):
            return 2

        def __getitem__(self, number):
            return {"pixel_values": torch.from_numpy(pictures[number]["pixel_values"])}

    stored = {**settings, "epochs": 2, "pictures": stored_labels.digest_of(Shown(), 2)}
    columns = {"seed": [5, 6, 7, 8], "ids": [[1], [0], [1], [0]], "probabilities": [[0.75]] * 4}
    folder = write_table(tmp_path / "labels", stored_labels.SETTINGS_FILE, stored, **columns)
    found = stored_labels.StoredLabels(folder, cache_dir=str(tmp_path / "cache"))
    for epochs in (1, 2):  # a training may be shorter
        found.check(settings, Shown(), epochs)
    for changed, message in (
        ({"seed": 2}, "they are of another seed: 1, not 2"),
        ({"augmentation": {"size": [8, 8], "flip": 0.1}}, "they are of another augmentation.flip: 0.5, not 0.1"),
        ({"augmentation": {"size": [8, 8]}}, "they are of another augmentation.flip: 0.5, not None"),
        ({"classes": ["x" * 120]}, r"they are of another classes: \['a', 'b'\], not \['x{98}\.\.\.\.$"),
    ):
        with pytest.raises(ValueError, match=f"--stored_labels: {message}"):
            found.check({**settings, **changed}, Shown(), 2)
    with pytest.raises(ValueError, match="they are of 2 epochs, the training has 3"):
        found.check(settings, Shown(), 3)
    pictures[3]["pixel_values"][0, 0, 0] += 1
    with pytest.raises(ValueError, match="the augmented pictures are not those that the teacher saw"):
        found.check(settings, Shown(), 1)
    logits = found.logits(1, torch.tensor([1, 0]), torch.tensor([8, 7]))
    torch.testing.assert_close(logits.exp(), torch.tensor([[0.75, 0.25], [0.25, 0.75]]))
    # In half precision they may sum up to one or more, and nothing is left for the other class: little, yet a number.
    full = write_table(tmp_path / "full", stored_labels.SETTINGS_FILE, stored,
                       **(columns | {"probabilities": [[1.0], [1.0009765625], [0.0], [0.5]]}))  # fmt: skip
    found_in_full = stored_labels.StoredLabels(full, cache_dir=str(tmp_path / "cache-of-full"))
    for epoch, seeds in ((0, [5, 6]), (1, [7, 8])):
        values = found_in_full.logits(epoch, torch.tensor([0, 1]), torch.tensor(seeds))
        assert values.isfinite().all() and values.exp().max() < 1.01
    for seeds in ([8, 7], [6, 7]):  # all of them, and one alone
        with pytest.raises(ValueError, match="--stored_labels: the pictures of epoch 0 were augmented by other seeds"):
            found.logits(0, torch.tensor([1, 0]), torch.tensor(seeds))


def test_records_of_soft_labels_have_room_up_to_the_largest_numbers():
    ids, probabilities = np.array([[32767, 0]]), np.array([[0.5, 0.25]])
    [record] = soft_label_records.encode_records([2**31 - 1], ids, probabilities)
    seeds, found, _ = soft_label_records.decode_records(record, 2)
    assert seeds.tolist() == [2**31 - 1] and found.tolist() == ids.tolist()
    for wrong, message in (
        (([-1], ids, probabilities), "seeds: accepted are whole numbers from 0 to below 2.31"),
        (([1], ids - 1, probabilities), "ids: got 32766, the format has room for classes from 0 to 32767"),
        (([], ids[:0], probabilities[:0]), r"ids: got shape \(0, 2\), .* and 0 seeds"),
        (([1], ids[0], probabilities[0]), r"ids: got shape \(2,\)"),
        (([1], ids, probabilities[:, :1]), r"probabilities \(1, 1\)"),
    ):
        with pytest.raises(ValueError, match=message):
            soft_label_records.encode_records(*wrong)


class Tokens:
    """Each picture is the number of its own brightness, twice."""

    tokens_per_image = 2

    def encode(self, images):
        return torch.tensor([[np.asarray(image)[0, 0, 0]] * 2 for image in images])


def test_rows_of_tokens_are_the_pairs_and_then_their_copies_and_none_are_of_the_right_shape():
    images = [Image.new("RGB", (4, 4), (value,) * 3) for value in range(40)]
    pairs = ImagePairs("t", [str(n) for n in range(40)], [(image, image) for image in reversed(images)])
    none = token_tables.encode_rows(Tokens(), pairs, 1, 0, [])
    assert none.images.shape == none.answers.shape == (0, 2) and none.images.dtype == np.int32 and not none.names
    rows = token_tables.encode_rows(Tokens(), pairs, 1, 0, range(36, 44))
    assert rows.task == "t" and rows.names == ["36", "37", "38", "39", "0", "1", "2", "3"]
    assert rows.images[:, 0].tolist() == [3, 2, 1, 0, 39, 38, 37, 36] and (rows.images == rows.answers).all()
    assert len(token_tables.encode_rows(Tokens(), pairs, 1, 0, range(70)).images) == 70


def test_a_table_of_tokens_that_is_damaged_is_named(tmp_path):
    assert not token_tables.is_table(str(tmp_path))
    with pytest.raises(ValueError, match="--dataset: .* is no table of tokens"):
        token_tables.read_settings(str(tmp_path))
    (tmp_path / token_tables.SETTINGS_FILE).write_text(json.dumps({"shards": {"train": 2}, "tasks": ["t"]}))
    (tmp_path / "data").mkdir()
    row = {"task": ["t"], "name": ["n"], "image_ids": [[1]], "answer_ids": [[2]]}
    pq.write_table(pa.table(row), tmp_path / "data" / "train-0.parquet")
    assert token_tables.is_table(str(tmp_path))
    with pytest.raises(ValueError, match="--dataset: .* has 1 files of train, expected 2; prepare it again"):
        token_tables.read_table(str(tmp_path), "train")
    pq.write_table(pa.table({**row, "name": ["m"]}), tmp_path / "data" / "train-1.parquet")
    [pairs] = token_tables.read_table(str(tmp_path), "train")
    assert (pairs.names, pairs.images.tolist(), pairs.answers.tolist()) == (["n", "m"], [[1], [1]], [[2], [2]])


@pytest.mark.parametrize(
    "rows, epochs, looked_at",
    [
        (3, 2, [0, 1, 2, 3, 4, 5]),
        (8, 2, list(range(16))),
        (1000, 1, [0, 67, 133, 200, 266, 333, 400, 466]),
        (1, 1, [0]),
    ],
)
def test_a_training_set_is_known_by_some_pictures_all_over_its_epochs(rows, epochs, looked_at):
    seen = []

    class Pictures:
        def __len__(self):
            return rows

        def __getitem__(self, number):
            seen.append(number)
            return {"pixel_values": torch.full((3, 2, 2), float(number % rows))}

    digest_of(Pictures(), epochs)
    assert (
        seen[: len(looked_at)] == looked_at and len(seen) == min(16, rows * epochs) and seen[-1] == rows * epochs - 1
    )
