"""ScienceQA (https://arxiv.org/abs/2209.09513): the Hub's columns, or the official JSON files and image folders."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from .arguments import VisionLanguageDataArguments
from .files import check_images, lazily, read_json
from .prompts import OPTIONS, SCIENCE_QA_START, science_qa_answer, science_qa_prompt
from .samples import Sample, Samples

_FIELDS = ("question", "choices", "answer", "hint", "subject", "grade")


def from_rows(rows, args: VisionLanguageDataArguments, split: str) -> Samples:
    """Of a table with the columns of `derek-thomas/ScienceQA`."""
    from .table import undecoded

    if missing := [name for name in (*_FIELDS, "image") if name not in rows.features]:
        raise ValueError(f"{split} has no column {missing[0]!r}: it is not ScienceQA; --data_format says what it is.")
    rows = undecoded(rows, "image").select_columns([*_FIELDS, "image"])
    return Samples.of(rows, partial(_from_row, order=args.prompt_format), split)


def splits(args: VisionLanguageDataArguments) -> dict:
    """Of the folder with problems.json, pid_splits.json and images/<split>/<number>/image.png."""
    folder = Path(args.dataset)
    problems = read_json(folder / "problems.json", "--dataset", dict)
    images = Path(args.image_folder) if args.image_folder else folder / "images"
    entries = read_json(folder / "pid_splits.json", "--dataset", dict)
    captions = {}
    if args.caption_file is not None:
        captions = read_json(args.caption_file, "--caption_file", dict).get("captions")
        if not isinstance(captions, dict):
            raise ValueError(f"--caption_file: {args.caption_file} has no mapping 'captions' of questions to texts.")

    def read(name: str, numbers: list) -> Samples:
        split = f"{args.dataset}/{name}"
        if unknown := [number for number in numbers if number not in problems]:
            raise ValueError(f"{split}: problems.json has no {unknown[0]!r}.")

        rows = []
        for number in numbers:
            problem = problems[number]
            file = images / problem.get("split", name) / number / problem["image"] if problem.get("image") else None
            rows.append({**problem, "image": file, "caption": captions.get(number, "")})
        check_images((row["image"] for row in rows if row["image"] is not None), split)
        return Samples.of(rows, partial(_from_row, order=args.prompt_format), split)

    return lazily(entries, read)


def _from_row(row: Mapping, order: str) -> Sample:
    answer, choices, image = row["answer"], row["choices"], row["image"]
    if not 0 <= answer < len(choices) <= len(OPTIONS):
        raise ValueError(f"answer {answer} of {len(choices)} choices; there may be {len(OPTIONS)} at most.")
    prompt = science_qa_prompt(row["question"], choices, row["hint"] or "", row.get("caption", ""), order)
    facts = {
        "subject": row["subject"],
        "grade": int(str(row["grade"]).removeprefix("grade")),
        "has_text": bool(row["hint"]),
        "has_image": image is not None,
        "choices": len(choices),
    }
    return Sample(
        turns=((prompt, science_qa_answer(answer)),),
        image=image,
        ask=prompt + SCIENCE_QA_START,
        references=(OPTIONS[answer],),
        facts=facts,
    )
