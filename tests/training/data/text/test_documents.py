"""Which texts are read, and what counts as one."""

import datasets
import pytest

from hf_effmodels.training import main
from hf_effmodels.training.data.text.arguments import TextArguments
from hf_effmodels.training.data.text.documents import load_evaluation_texts, load_texts, read


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


def test_a_missing_document_is_an_empty_one():
    assert list(read([{"text": "a"}, {"text": None}, {"text": ""}])) == ["a", "", ""]
