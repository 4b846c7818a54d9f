"""Which texts are read, and what counts as one."""

from pydoc_data.topics import topics

import datasets
import pytest

from hf_effmodels.training import main
from hf_effmodels.training.data.text.arguments import TextArguments
from hf_effmodels.training.data.text.documents import (
    _is_text_folder,
    evaluated_split,
    load_evaluation_texts,
    load_text_split,
    load_texts,
    read,
)


def test_the_column_is_found_or_asked_for(text_run, tmp_path):
    rows = {"title": ["a"] * 9, "body": ["some longer text of a document"] * 9, "number": [1] * 9}
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "rows.parquet")
    text_run += ["--dataset", str(tmp_path / "rows.parquet"), "--tokenizer", "train:258", "--max_steps", "1"]
    with pytest.raises(ValueError, match="could be any of title, body"):
        main([*text_run, "--output_dir", str(tmp_path / "run")])
    with pytest.raises(ValueError, match="'number' holds no texts"):
        main([*text_run, "--text_column", "number", "--output_dir", str(tmp_path / "run")])
    main([*text_run, "--text_column", "body", "--output_dir", str(tmp_path / "run")])


@pytest.mark.parametrize("streaming", [True, False])
def test_text_files_are_cut_into_the_documents_asked_for(streaming, tmp_path):
    (tmp_path / "texts").mkdir()
    for name in ("a", "b", "c"):
        (tmp_path / "texts" / f"{name}.txt").write_text(f"{name} one\n{name} two\n\n{name} three\n")
    held_out = {"eval_documents": 1} if streaming else {"eval_fraction": 0.1}
    for unit, count in (("document", 3), ("paragraph", 6), ("line", 12)):
        args = TextArguments(str(tmp_path / "texts"), text_unit=unit, streaming=streaming, **held_out)
        documents = [text for part in load_texts(args) for text in read(part)]
        assert len(documents) == count and sum("three" in text for text in documents) == 3


def test_the_only_document_is_cut_at_a_line_and_nothing_of_it_is_lost(tmp_path):
    text = "".join(f"line {n}\n" for n in range(100))
    (tmp_path / "one.txt").write_text(text)
    train, evaluation = (
        "".join(read(part)) for part in load_texts(TextArguments(str(tmp_path / "one.txt"), eval_fraction=0.2))
    )
    assert train + evaluation == text and train.endswith("\n")
    assert len(evaluation) == pytest.approx(0.2 * len(text), abs=8)


@pytest.mark.parametrize("streaming", [True, False])
def test_the_first_documents_can_be_all_there_are(streaming, tmp_path):
    for split, count in (("train", 30), ("test", 10)):
        rows = {"text": [f"{split} {n}" for n in range(count)]}
        datasets.Dataset.from_dict(rows).to_parquet(tmp_path / f"{split}.parquet")
    files = {split: str(tmp_path / f"{split}.parquet") for split in ("train", "test")}
    source = {"data_files": files, "streaming": streaming, "cache_dir": str(tmp_path / "cache")}
    args = TextArguments("parquet", max_train_documents=4, max_eval_documents=2, **source)
    train, evaluation = (list(read(part)) for part in load_texts(args))
    assert train == [f"train {n}" for n in range(4)] and evaluation == ["test 0", "test 1"]
    assert list(read(load_evaluation_texts(args))) == evaluation
    assert list(read(load_texts(args)[0], limit=3)) == train[:3]
    held_out = {"eval_holdout": 5} if streaming else {"eval_fraction": 0.5}
    args = TextArguments("parquet", max_train_documents=4, max_eval_documents=3, **held_out, **source)
    train, evaluation = (list(read(part)) for part in load_texts(args))
    assert len(train) == 4 and len(evaluation) == 3 and not set(train) & set(evaluation)
    if not streaming:  # evenly spread: every second one
        assert evaluation == ["train 1", "train 3", "train 5"] and train == [f"train {n}" for n in (0, 2, 4, 6)]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"eval_documents": 2}, "--eval_documents goes with --streaming true; use --eval_holdout or --eval_fraction"),
        ({"streaming": True, "eval_documents": 2, "eval_holdout": 1}, "--eval_documents and --eval_holdout exclude"),
        ({"streaming": True, "eval_fraction": 0.1}, "--eval_fraction: a stream has no known length"),
        ({"block_size": 1}, "--block_size: got 1, accepted are whole numbers from 2 to 16777216"),
        ({"shuffle_blocks": 0}, "--shuffle_blocks: got 0"),
        ({"max_train_documents": 0}, "--max_train_documents: got 0"),
    ],
)
def test_wrong_arguments_about_texts_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        TextArguments("some.txt", **options)


@pytest.mark.parametrize("streaming", [True, False])
def test_a_table_without_rows_or_without_texts_is_named(tmp_path, streaming):
    (tmp_path / "none.csv").write_text("text,n\n")
    (tmp_path / "numbers.csv").write_text("m,n\n1,2\n")
    (tmp_path / "two.csv").write_text("text,n,body\nx,2,y\n")
    args = {"streaming": streaming, "cache_dir": str(tmp_path / "cache")}
    told = "none.csv holds no documents" if streaming else "none.csv': .* no data"
    with pytest.raises(ValueError, match=f"--dataset: .*{told}"):
        load_evaluation_texts(TextArguments(str(tmp_path / "none.csv"), **args))
    with pytest.raises(ValueError, match="--text_column: it is none; the columns are m, n"):
        load_evaluation_texts(TextArguments(str(tmp_path / "numbers.csv"), **args))
    with pytest.raises(ValueError, match="--text_column: 'm' holds no texts; those are none"):
        load_evaluation_texts(TextArguments(str(tmp_path / "numbers.csv"), text_column="m", **args))
    with pytest.raises(ValueError, match="--text_column: there is no 'z', the columns are text, n, body"):
        load_evaluation_texts(TextArguments(str(tmp_path / "two.csv"), text_column="z", **args))
    for column, found in ((None, "x"), ("text", "x"), ("body", "y")):
        texts = load_evaluation_texts(TextArguments(str(tmp_path / "two.csv"), text_column=column, **args))
        assert list(read(texts)) == [found]


@pytest.mark.parametrize(
    "name, content",
    [
        ("a.jsonl", '{"text": "one"}\n{"text": "two"}\n'),
        ("a.json", '[{"text": "one"}, {"text": "two"}]'),
        ("a.CSV", "text\none\ntwo\n"),
        ("a.txt", "one\ntwo\n"),
    ],
)
def test_a_file_is_read_as_its_ending_says(name, content, tmp_path):
    (tmp_path / name).write_text(content)
    args = TextArguments(str(tmp_path / name), text_unit="line", cache_dir=str(tmp_path / "cache"))
    found, texts = load_text_split(args, None)
    assert found == "train" and list(read(texts)) == ["one", "two"]
    with pytest.raises(ValueError, match="--split: there is no 'test', the splits are train"):
        load_text_split(args, "test")
    with pytest.raises(OSError, match=r"--dataset: there is no file '.*nothing\.txt'"):
        load_text_split(TextArguments(str(tmp_path / "nothing.txt")), None)


def test_pythons_own_help_is_a_text_and_has_no_more_than_its_name():
    for streaming in (False, True):
        _, texts = load_text_split(TextArguments("pydoc_topics", streaming=streaming), "train")
        assert next(read(texts)) == topics[min(topics)]
    with pytest.raises(
        ValueError, match="--data_files: goes with what the library datasets reads; --dataset pydoc_top"
    ):
        load_texts(TextArguments("pydoc_topics", data_files="a.txt"))


def test_a_document_that_cannot_be_cut_at_a_line_is_named(tmp_path):
    for text in ("all in one line", "one line\n", "one\n" + 40 * "x"):
        (tmp_path / "one.txt").write_text(text)
        with pytest.raises(ValueError, match="the only document of .*one.txt has no line in its last 20%, where the"):
            load_texts(TextArguments(str(tmp_path / "one.txt"), eval_fraction=0.2, cache_dir=str(tmp_path / "cache")))
    (tmp_path / "one.txt").write_text("".join(f"{n}\n" for n in range(10, 100)))
    _, evaluation = load_texts(TextArguments(str(tmp_path / "one.txt"), cache_dir=str(tmp_path / "cache")))
    assert list(read(evaluation)) == ["".join(f"{n}\n" for n in range(92, 100))]  # a tenth, but for the line it cuts


def test_a_missing_document_is_an_empty_one():
    assert list(read([{"text": "a"}, {"text": None}, {"text": ""}])) == ["a", "", ""]


@pytest.fixture
def rows(tmp_path):
    """A data set of thirty texts to train on and ten to test, and one of six others."""
    for name, count in (("train", 30), ("test", 10), ("other", 6)):
        table = datasets.Dataset.from_dict({"text": [f"{name} {n}" for n in range(count)]})
        table.to_parquet(tmp_path / f"{name}.parquet")
    source = {"cache_dir": str(tmp_path / "cache"), "streaming": True}

    def arguments(*names, **options) -> TextArguments:
        files = {name: str(tmp_path / f"{name}.parquet") for name in names}
        return TextArguments("parquet", **{"data_files": files, **source, **options})

    return arguments


def test_of_a_stream_the_first_documents_are_held_out(rows):
    for held_out in ({"eval_documents": 3}, {"eval_holdout": 3}):
        train, evaluation = (list(read(part)) for part in load_texts(rows("train", **held_out)))
        assert train == [f"train {n}" for n in range(3, 30)] and evaluation == ["train 0", "train 1", "train 2"]
        assert list(read(load_evaluation_texts(rows("train", **held_out)))) == evaluation
    args = rows("train", eval_documents=3, max_eval_documents=2, max_train_documents=1)
    assert [list(read(part)) for part in load_texts(args)] == [["train 3"], ["train 0", "train 1"]]
    assert list(read(load_evaluation_texts(args))) == ["train 0", "train 1"]
    with pytest.raises(ValueError, match="--eval_documents: say how many documents of the stream are held out"):
        load_texts(rows("train"))


def test_a_split_to_evaluate_on_is_cut_to_the_documents_asked_for(rows):
    for options, count in (({"eval_documents": 4}, 4), ({"eval_documents": 4, "max_eval_documents": 3}, 3), ({}, 10)):
        args = rows("train", "test", **options)
        train, evaluation = (list(read(part)) for part in load_texts(args))
        assert train == [f"train {n}" for n in range(30)] and evaluation == [f"test {n}" for n in range(count)]
        assert list(read(load_evaluation_texts(args))) == evaluation
    # Of a data set with a single split an evaluation alone takes all.
    assert len(list(read(load_evaluation_texts(rows("train"))))) == 30


def test_another_data_set_may_be_evaluated_on(rows, tmp_path):
    args = rows("train", eval_dataset=str(tmp_path / "other.parquet"), max_eval_documents=4)
    train, evaluation = load_texts(args)
    assert list(read(evaluation)) == list(read(load_evaluation_texts(args))) == [f"other {n}" for n in range(4)]
    assert len(list(read(train))) == 30 and evaluated_split(args, evaluation) == "train"


def test_a_report_says_whether_the_documents_were_held_out(rows):
    for options, told in (
        ({"streaming": False, "eval_fraction": 0.1}, "train (held out)"),
        ({"streaming": True, "eval_documents": 2}, "train (held out)"),
        ({"streaming": False, "eval_split": "train"}, "train"),
    ):
        args = rows("train", **options)
        assert evaluated_split(args, load_texts(args)[1]) == told
    for streaming in (False, True):
        args = rows("train", "test", streaming=streaming)
        assert evaluated_split(args, load_texts(args)[1]) == "test"


def test_a_single_document_of_which_a_number_is_held_out_is_not_cut(tmp_path):
    (tmp_path / "one.txt").write_text("".join(f"line {n}\n" for n in range(100)))
    with pytest.raises(ValueError, match="--eval_holdout: 1 of the 1 samples of .*/train leave none to train on"):
        load_texts(TextArguments(str(tmp_path / "one.txt"), eval_holdout=1, cache_dir=str(tmp_path / "cache")))


@pytest.mark.parametrize(
    "files, is_of_texts",
    [
        ([], False),
        (["a.txt"], True),
        (["a.txt", "b/c/d.TXT"], True),
        (["b/a.txt", "b.json"], False),
        (["a.json"], False),
        (["a.txt", "b/c.csv"], False),
    ],
)
def test_a_folder_of_texts_holds_nothing_else(files, is_of_texts, tmp_path):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert _is_text_folder(tmp_path) is is_of_texts


@pytest.mark.parametrize("streaming", [True, False])
def test_a_column_that_is_called_text_and_holds_numbers_is_not_the_text(tmp_path, streaming):
    rows = datasets.Dataset.from_dict({"text": [3, 4], "body": ["one", "two"]})
    rows.to_parquet(tmp_path / "rows.parquet")
    args = TextArguments(str(tmp_path / "rows.parquet"), streaming=streaming, cache_dir=str(tmp_path / "cache"))
    assert list(read(load_evaluation_texts(args))) == ["one", "two"]
    args.text_column = "text"
    with pytest.raises(ValueError, match="--text_column: 'text' holds no texts; those are body"):
        load_evaluation_texts(args)
