"""MME (https://arxiv.org/abs/2306.13394): two yes/no questions about each image, in 14 categories."""

from pathlib import Path

from .arguments import VisionLanguageDataArguments
from .files import lazily
from .prompts import instruction
from .samples import Sample, Samples

_IMAGES = (".jpg", ".png", ".jpeg")


def from_rows(rows, args: VisionLanguageDataArguments, split: str) -> Samples:
    """Of a table with the columns question_id, image, question, answer and category."""
    from .table import undecoded

    columns = ["question_id", "image", "question", "answer", "category"]
    if missing := [name for name in columns if name not in rows.features]:
        raise ValueError(f"{split} has no column {missing[0]!r}: it is not MME; --data_format says what it is.")
    rows = undecoded(rows, "image").select_columns(columns)
    return Samples.of(rows, _from_row, split)


def splits(args: VisionLanguageDataArguments) -> dict:
    """Of the release: a folder for each category, with images and texts of two lines, question and answer."""
    folder = Path(args.dataset)
    rows = []
    for texts in sorted(folder.glob("*/*.txt")) + sorted(folder.glob("*/questions_answers_YN/*.txt")):
        is_nested = texts.parent.name == "questions_answers_YN"
        category = (texts.parents[1] if is_nested else texts.parent).name
        images = texts.parents[1] / "images" if is_nested else texts.parent
        image = next((path for end in _IMAGES if (path := images / (texts.stem + end)).is_file()), None)
        if image is None:
            raise FileNotFoundError(f"--dataset: there is no image {images / texts.stem}.jpg (or .png) to {texts}.")
        for line in texts.read_text(encoding="utf-8").splitlines():
            if line.strip():
                question, tab, answer = line.rpartition("\t")
                if not tab:
                    raise ValueError(f"--dataset: {texts}: {line!r} is no question and answer with a tab between.")
                texts_of = {"question": question, "answer": answer.strip(), "category": category}
                rows.append({"question_id": image.name, "image": image, **texts_of})
    return lazily({"test": rows}, lambda name, rows: Samples.of(rows, _from_row, args.dataset))


def _from_row(row: dict) -> Sample:
    facts = {"category": row["category"], "image": str(row["question_id"])}
    return Sample(
        ((instruction(row["question"]), row["answer"]),), row["image"], references=(row["answer"],), facts=facts
    )
