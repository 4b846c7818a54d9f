"""Which texts are read, and what counts as one."""

import datasets
import pytest

from hf_effmodels.training import main
from hf_effmodels.training.data.text.arguments import TextArguments
from hf_effmodels.training.data.text.documents import load_texts, read


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
