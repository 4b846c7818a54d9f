"""The data sets of the paper, in each form they are handed round."""

import json
import re
from collections import Counter
from pathlib import Path

import datasets
import pytest
from PIL import Image

from hf_effmodels.training.tasks.image_text_to_text.arguments import VisionLanguageDataArguments as Arguments
from hf_effmodels.training.tasks.image_text_to_text.instructions import _file, _turns
from hf_effmodels.training.tasks.image_text_to_text.prompts import caption_of, clean_caption, science_qa_choice
from hf_effmodels.training.tasks.image_text_to_text.sources import (
    NEW_TOKENS,
    load_data,
    load_evaluation_data,
    resolve_format,
)

PROBLEM = {
    "question": "Which  property?",
    "choices": ["hard", "soft"],
    "answer": 1,
    "hint": "",
    "image": "image.png",
    "subject": "natural science",
    "grade": "grade3",
    "split": "train",
}


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def picture(path, grey=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (grey, grey, grey)).save(path)


def test_answers_are_as_long_as_the_option_says_where_it_is_not_given():
    said = Arguments.__dataclass_fields__["max_new_tokens"].metadata["help"].partition("By default ")[2]
    longest = {name: int(number) for name, number in re.findall(r"(\w+) (\d+)", said)}
    assert longest == {"science_qa": 1, "coco_captions": 20, "mme": 10, "others": 32}
    assert {kind: longest.get(kind, longest["others"]) for kind in NEW_TOKENS} == NEW_TOKENS


@pytest.fixture
def science_qa(tmp_path):
    other = {**PROBLEM, "image": None, "hint": "A hint.", "grade": "grade12", "subject": "social science"}
    problems = {"1": PROBLEM, "2": {**other, "split": "test"}, "3": {**other, "split": "train"}}
    write(tmp_path / "problems.json", problems)
    write(tmp_path / "pid_splits.json", {"train": ["1", "3"], "test": ["2"]})
    write(tmp_path / "captions.json", {"captions": {"1": "a stone"}})
    picture(tmp_path / "images" / "train" / "1" / "image.png")
    return tmp_path


def test_science_qa_prompts_are_the_papers(science_qa):
    train, test = load_data(Arguments(dataset=str(science_qa)))
    (prompt, answer), sample = train[0].turns[0], train[0]
    assert prompt == "Context: N/A\nQuestion: Which property?\nOptions: (A) hard (B) soft\nResponse:"
    assert (answer, sample.ask, sample.references) == ("The answer is B.", prompt + "The answer is", ("B",))
    assert sample.image.is_file() and test[0].image is None
    assert test[0].facts["grade"] == 12 and test[0].facts["has_text"] and not test[0].facts["has_image"]
    captions = str(science_qa / "captions.json")
    train, _ = load_data(Arguments(dataset=str(science_qa), caption_file=captions, prompt_format="QCM-A"))
    assert train[0].question.startswith("Question: Which property?\nContext: a stone\nOptions: (A) hard")
    assert [science_qa_choice(text) for text in (" B", "the C.", "b", "")] == [1, 2, None, None]
    (science_qa / "images" / "train" / "1" / "image.png").unlink()
    with pytest.raises(FileNotFoundError, match="1 images are missing, the first is"):
        load_data(Arguments(dataset=str(science_qa)))


def test_science_qa_columns_of_the_hub_are_the_same(science_qa, tmp_path):
    import datasets

    image = Image.new("RGB", (8, 8))
    more = {"task": "closed choice", "lecture": "", "solution": ""}
    rows = datasets.Dataset.from_list([{**PROBLEM, **more, "image": image}]).cast_column("image", datasets.Image())
    rows.to_parquet(tmp_path / "hub" / "test.parquet")
    source = {"data_dir": str(tmp_path / "hub"), "cache_dir": str(tmp_path / "cache")}
    arguments = Arguments(dataset="parquet", data_format="science_qa", **source)
    sample = load_evaluation_data(arguments)[0]
    folder = load_data(Arguments(dataset=str(science_qa)))[0][0]
    assert (sample.turns, sample.ask) == (folder.turns, folder.ask)
    assert sample.image["bytes"]


def test_captions_are_read_from_all_three_files(tmp_path):
    for name in ("a.jpg", "b.jpg"):
        picture(tmp_path / "images" / "val2014" / name)
    texts = {"a": ["A red Bus.", "A bus (old)!"], "b": ["Two dogs."]}
    coco = {
        "images": [{"id": n, "file_name": f"val2014/{k}.jpg"} for n, k in enumerate(texts)],
        "annotations": [{"image_id": n, "caption": t} for n, k in enumerate(texts) for t in texts[k]],
    }
    karpathy = {
        "images": [
            {"split": s, "filepath": "val2014", "filename": f"{k}.jpg", "sentences": [{"raw": t} for t in texts[k]]}
            for k, s in (("a", "restval"), ("b", "test"))
        ]
    }
    blip = [{"image": f"val2014/{k}.jpg", "caption": t} for k in texts for t in texts[k]]
    common = {"image_folder": str(tmp_path / "images"), "data_format": "coco_captions"}
    one = write(tmp_path / "karpathy.json", karpathy)
    train, test = load_data(Arguments(dataset=one, **common))
    assert [s.turns for s in (train[0], train[1])] == [
        (("a picture of ", "a picture of a red bus"),),
        (("a picture of ", "a picture of a bus old"),),
    ]
    assert (test[0].ask, test[0].references) == ("a picture of", ("Two dogs.",))
    for content in (coco, blip):
        file = write(tmp_path / "both.json", content)
        train, test = load_data(Arguments(dataset="coco", data_files={"train": file, "test": file}, **common))
        assert len(train) == 3 and len(test) == 2  # each caption; each image
        mine = {"data_files": {"mine": file, "train": file}, "train_split": "mine", "eval_split": "train"}
        assert [len(split) for split in load_data(Arguments(dataset="coco", **mine, **common))] == [3, 2]
        assert test[0].references == tuple(texts["a"]) and test[0].image == train[0].image
    both = {"train": write(tmp_path / "coco.json", coco), "other": one}  # images for training in either of two files
    train, test = load_data(Arguments(dataset="coco", data_files=both, eval_split="test", **common))
    assert [sample.turns[0][1] for sample in (train[n] for n in range(len(train)))] == [
        f"a picture of {caption}" for caption in ("a red bus", "a bus old", "two dogs", "a red bus", "a bus old")
    ]
    assert len(clean_caption("w " * 40).split()) == 30
    assert [caption_of(t) for t in (" a picture of a cat\nx", "a cat ")] == ["a cat", "a cat"]
    with pytest.raises(ValueError, match="is none of COCO's caption annotations"):
        load_data(Arguments(dataset=write(tmp_path / "wrong.json", [{"img": 1}]), **common))


@pytest.mark.parametrize("kind", ["coco_captions", "instructions", "table", "table of images"])
def test_an_image_is_held_out_with_all_that_is_said_of_it(kind, tmp_path):
    """Five texts of each of six images: to hold out a fifth of the thirty takes two images."""
    for number in range(6):
        picture(tmp_path / f"{number}.jpg", grey=40 * number)
    said = [(f"{number}.jpg", f"text {text}") for text in range(5) for number in range(6)]
    rows = {
        "coco_captions": [{"image": file, "caption": text} for file, text in said],
        "instructions": [llava("<image>\nwhat?", text, image=file) for file, text in said],
        "table": [{"image": file, "question": "what?", "answer": text} for file, text in said],
    }
    file = write(tmp_path / "rows.json", rows.get(kind, []))
    if kind == "table of images":  # their bytes, as data sets on the Hub have them
        rows["table"] = [{**row, "image": {"bytes": (tmp_path / row["image"]).read_bytes()}} for row in rows["table"]]
        features = {
            "image": datasets.Image(),
            "question": datasets.Value("string"),
            "answer": datasets.Value("string"),
        }
        made = datasets.Dataset.from_list(rows["table"], features=datasets.Features(features))
        made.to_parquet(file := str(tmp_path / "rows.parquet"))
    named = {"image_column": "image"} if kind == "table" else {}
    common = {"data_format": kind.split()[0], **named, "image_folder": str(tmp_path), "eval_fraction": 0.2}
    source = {"coco_captions": "mine", "instructions": "mine", "table": "json"}.get(kind, "parquet")
    train, held_out = load_data(Arguments(dataset=source, data_files={"train": file}, **common))
    of_train, of_held_out = (
        Counter(str(samples[n].image) for n in range(len(samples))) for samples in (train, held_out)
    )
    assert not of_train.keys() & of_held_out.keys() and [*of_held_out.values()] == [5, 5]
    assert [*of_train.values()] == [5] * 4


@pytest.mark.parametrize("kind", ["instructions", "table"])
def test_texts_without_an_image_are_held_out_one_by_one(kind, tmp_path):
    picture(tmp_path / "a.jpg")
    said = [("hi", f"hello {number}", None) for number in range(8)]
    said += [("<image>\nwhat?", f"a cat {number}", "a.jpg") for number in range(2)]
    rows = {
        "instructions": [llava(question, answer, image=image) for question, answer, image in said],
        "table": [dict(zip(("question", "answer", "image"), row, strict=True)) for row in said],
    }
    file = write(tmp_path / "rows.json", rows[kind])
    source = {"table": {"dataset": "json", "data_files": {"train": file}, "image_column": "image"}}
    common = {"data_format": kind, "image_folder": str(tmp_path), **source.get(kind, {"dataset": file})}
    for fraction in (0.1, 0.3, 0.5):
        train, held_out = load_data(Arguments(eval_fraction=fraction, **common))
        images = [sum(samples[n].image is not None for n in range(len(samples))) for samples in (train, held_out)]
        assert sorted(images) == [0, 2] and len(train) + len(held_out) == 10
        assert len(held_out) in (10 * fraction, 10 * fraction + (images[1] == 2))


def llava(*texts, image=None):
    turns = [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(texts)]
    return {"id": "1", "conversations": turns, **({"image": image} if image else {})}


def test_instructions_are_conversations_of_several_turns_or_lavins_list(tmp_path):
    picture(tmp_path / "a.jpg")
    picture(tmp_path / "images" / "train" / "7" / "image.png")
    rows = [llava("<image>\nwhat?", "a cat", "why?", "it is", image="a.jpg"), llava("hi", "hello")]
    file = write(tmp_path / "llava.json", rows)
    common = {"data_format": "instructions", "image_folder": str(tmp_path), "eval_fraction": 0.5}
    train, held_out = load_data(Arguments(dataset=file, **common))
    samples = sorted((train[0], held_out[0]), key=lambda s: s.image is None)
    assert samples[0].turns == (
        ("Instruction: what?\nResponse:", "a cat"),
        ("\nInstruction: why?\nResponse:", "it is"),
    )
    assert samples[0].question == "Instruction: what?\nResponse:a cat\nInstruction: why?\nResponse:"
    assert samples[1].turns == (("Instruction: hi\nResponse:", "hello"),)
    lavin = [
        {"qid": "7", "instruction": "Q\nResponse:", "answer": "A", "image": "image.png", "image_source": "sqa"},
        {"qid": "8", "instruction": "Name it", "answer": "B", "image": None},
    ]
    file = write(tmp_path / "all_data.json", {"train": lavin, "val": lavin[1:]})
    train, _ = load_data(Arguments(dataset=file, **{**common, "eval_fraction": None}))
    assert [train[n].turns[0][0] for n in range(2)] == ["Q\nResponse:", "Instruction: Name it\nResponse:"]
    assert train[0].image.is_file()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (llava("what?", "a cat", image="a.jpg"), r"row 0 of .*: its text has 0 <image>, it names 1 image"),
        (
            llava("<image> what?", "a cat"),
            "its text has 1 <image>, it names 0 image; accepted is one of both or neither",
        ),
        (llava("<image><image> what?", "a cat", image="a.jpg"), "its text has 2 <image>, it names 1 image"),
        (llava("what?"), "the turns are from human; accepted are human and gpt by turns"),
        ({"instruction": "x"}, "row 0 of .*: there is no 'output'"),
    ],
)
def test_slots_and_images_of_instructions_must_agree(tmp_path, row, message):
    picture(tmp_path / "a.jpg")
    file = write(tmp_path / "llava.json", [row, row])
    with pytest.raises(ValueError, match=message):
        load_data(Arguments(dataset=file, data_format="instructions", image_folder=str(tmp_path)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "--data_files: .*rows.json is not valid JSON"),
        ({"train": {}}, "--data_files: .*rows.json holds no list of entries"),
        (["a text"], "--data_files: .*rows.json holds no list of entries"),
        ("3", "--data_files: .*rows.json holds no list of entries"),
        ([], "x/train is empty"),
        ([{"instruction": "what?", "output": "a cat", "image": "a.jpg"}], "--image_folder is missing: x/train names"),
    ],
)
def test_files_that_are_no_instructions_are_named(tmp_path, content, message):
    file = write(tmp_path / "rows.json", content)
    with pytest.raises(ValueError, match=message):
        load_data(Arguments(dataset="x", data_files=file, data_format="instructions", eval_split="train"))


def test_pictures_of_lavins_list_lie_where_coco_has_them(tmp_path):
    """Those of ScienceQA in the folders of their questions, all others in COCO's training set."""
    picture(tmp_path / "cocoimages" / "train" / "COCO_train2014_1.jpg")
    row = {"instruction": "what?", "answer": "a cat", "image": "1.jpg", "image_source": "llava"}
    file = write(tmp_path / "all_data.json", {"train": [row], "val": [row]})
    args = Arguments(dataset=file, data_format="instructions", image_folder=str(tmp_path))
    assert load_data(args)[0][0].image == tmp_path / "cocoimages" / "train" / "COCO_train2014_1.jpg"


def test_columns_of_the_hub_are_known_by_their_format(tmp_path):
    """MME's table is its folders; another table is none of either format, and a look at it names what is missing."""
    import datasets

    rows = {"question_id": "1.png", "image": Image.new("RGB", (8, 8)), "category": "color"}
    rows |= {"question": "Is it red?", "answer": "Yes", "more": 1}
    mme = datasets.Dataset.from_list([rows]).cast_column("image", datasets.Image())
    mme.to_parquet(tmp_path / "mme" / "test.parquet")
    two = mme.add_column("second", [{"bytes": b"", "path": None}]).cast_column("second", datasets.Image())
    two.to_parquet(tmp_path / "two" / "test.parquet")

    def read(name: str, **more):
        source = {"data_dir": str(tmp_path / name), "cache_dir": str(tmp_path / "cache")}
        return load_evaluation_data(Arguments(dataset="parquet", **source, **more))

    sample = read("mme", data_format="mme")[0]
    assert sample.question == "Instruction: Is it red?\nResponse:" and sample.references == ("Yes",)
    assert sample.facts == {"category": "color", "image": "1.png"} and sample.image["bytes"]
    mme.remove_columns("category").to_parquet(tmp_path / "less" / "test.parquet")
    for name, options, message in (
        ("less", {"data_format": "mme"}, "parquet/test has no column 'category': it is not MME; --data_format says"),
        ("mme", {"data_format": "science_qa"}, "parquet/test has no column 'choices': it is not ScienceQA"),
        ("two", {"data_format": "table"}, "--image_column: could be any of image, second; say which"),
        ("two", {"data_format": "table", "image_column": "third"}, "--image_column: parquet/test has no 'third', its"),
        ("mme", {"data_format": "table", "answer_column": "reply"}, "--answer_column: parquet/test has no 'reply'"),
    ):
        with pytest.raises(ValueError, match=message):
            read(name, **options)
    assert read("two", data_format="table", image_column="image")[0].image["bytes"]
    # One question for all rows needs no column of questions.
    mme.remove_columns("question").to_parquet(tmp_path / "asked" / "test.parquet")
    asked = read("asked", data_format="table", question="What?", prompt_template="{question}!")
    assert asked[0].turns == (("What?!", "Yes"),)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("problems.json", [], "--dataset: .*problems.json holds a list, accepted is a dict"),
        ("pid_splits.json", ["1"], "--dataset: .*pid_splits.json holds a list, accepted is a dict"),
        ("pid_splits.json", {"train": ["1", "9"], "test": ["2"]}, "/train: problems.json has no '9'"),
        ("captions.json", {}, "--caption_file: .*captions.json has no mapping 'captions' of questions to texts"),
        ("captions.json", [], "--caption_file: .*captions.json holds a list, accepted is a dict"),
    ],
)
def test_files_that_are_not_science_qas_are_named(science_qa, file, content, message):
    write(science_qa / file, content)
    with pytest.raises(ValueError, match=message):
        load_data(Arguments(dataset=str(science_qa), caption_file=str(science_qa / "captions.json")))


def test_mme_is_read_from_its_folders(tmp_path):
    for folder in (tmp_path / "color", tmp_path / "posters" / "images"):
        picture(folder / "1.png")
    write(tmp_path / "color" / "1.txt", "Is it red? Please answer yes or no.\tYes\nIs it blue?\tNo\n")
    write(tmp_path / "posters" / "questions_answers_YN" / "1.txt", "Is it X?\tYes\nIs it Y?\tNo")
    samples = load_evaluation_data(Arguments(dataset=str(tmp_path), data_format="mme"))
    assert len(samples) == 4 and samples[0].facts == {"category": "color", "image": "1.png"}
    assert samples[0].question == "Instruction: Is it red? Please answer yes or no.\nResponse:"
    assert samples[3].references == ("No",)
    with pytest.raises(ValueError, match="mme is for evaluation only"):
        load_data(Arguments(dataset=str(tmp_path), data_format="mme"))
    write(tmp_path / "color" / "1.txt", "Is it red? Yes\n")
    with pytest.raises(ValueError, match="--dataset: .*1.txt: 'Is it red. Yes' is no question and answer with a tab"):
        load_evaluation_data(Arguments(dataset=str(tmp_path), data_format="mme"))
    (tmp_path / "color" / "1.png").unlink()
    with pytest.raises(FileNotFoundError, match="--dataset: there is no image .*color/1.jpg .or .png. to .*1.txt"):
        load_evaluation_data(Arguments(dataset=str(tmp_path), data_format="mme"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dataset": "mine"}, "--data_format is missing: 'mine' could be any of coco_captions, instructions"),
        ({"dataset": "x", "data_format": "coco_captions"}, "--image_folder is missing"),
        ({"dataset": "x", "data_format": "instructions"}, "--data_files is missing: 'x' is no file"),
        ({"dataset": "digits", "image_folder": "nowhere"}, "--image_folder: there is no folder 'nowhere'"),
        (
            {"dataset": "digits", "train_split": "all"},
            "--train_split: there is no 'all' in digits, the splits are train",
        ),
        ({"dataset": "digits", "caption_file": "c.json"}, "--caption_file goes with ScienceQA"),
        (
            {"dataset": "x", "data_format": "instructions", "question": "Why?"},
            "--question goes with --data_format table, not instructions",
        ),
        (
            {"dataset": "x", "data_format": "instructions", "data_files": "no.json"},
            "--data_files: there is no file 'no.json'",
        ),
    ],
)
def test_what_is_wrong_with_the_arguments_is_said(arguments, message):
    with pytest.raises((ValueError, OSError), match=message):
        load_data(Arguments(**arguments))
    for wrong in ({"prompt_template": "x"}, {"max_length": 1}, {"eval_fraction": 2}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Arguments(dataset="digits", **wrong)


def test_a_table_is_asked_in_the_words_that_are_given():
    options = {"dataset": "digits", "question": "What number?", "prompt_template": "Q: {question} A:"}
    train, test = load_data(Arguments(**options, max_train_samples=3, max_eval_samples=2))
    assert (len(train), len(test)) == (3, 2)
    assert (
        train[0].turns == (("Q: What number? A:", train[0].references[0]),) and train[0].references[0] in "0123456789"
    )
    asked = load_evaluation_data(Arguments(dataset="digits"))[0].turns[0][0]
    assert asked == "Instruction: Which digit is this?\nResponse:"


def said(*turns):
    return [{"from": role, "value": text} for role, text in turns]


def test_turns_are_questions_and_answers_without_the_images_place():
    asked = said(("human", "<image>\nWhat? "), ("gpt", " A cat. "), ("user", "Why?"), ("assistant", "So."))
    first, second = ("Instruction: What?\nResponse:", "A cat."), ("Instruction: Why?\nResponse:", "So.")
    assert _turns(asked, True) == (first, ("\n" + second[0], second[1])) and _turns(asked[2:], False) == (second,)


@pytest.mark.parametrize(
    "turns",
    [
        (),
        (("human", "a"),),
        (("human", "a"), ("gpt", "b"), ("human", "c")),
        (("gpt", "a"), ("human", "b")),
        (("human", "a"), ("human", "b")),
        (("human", "a"), ("gpt", "b"), ("gpt", "c"), ("human", "d")),
        (("human", "a"), ("system", "b")),
    ],
)
def test_turns_are_by_turns(turns):
    with pytest.raises(ValueError, match="the turns are from .*; accepted are human and gpt by turns, gpt the last"):
        _turns(said(*turns), False)


@pytest.mark.parametrize("slots, has_image", [(0, True), (1, False), (2, True), (2, False)])
def test_an_image_has_one_place_and_a_place_an_image(slots, has_image):
    turns = said(("human", "<image>" * slots + "a"), ("gpt", "b"))
    with pytest.raises(ValueError, match=f"its text has {slots} <image>, it names {int(has_image)} image"):
        _turns(turns, has_image)


def test_images_lie_where_their_source_has_them():
    assert _file({"image": "a/b.png"}) == Path("a/b.png")
    assert _file({"image": "image.png", "image_source": "sqa", "qid": 7}) == Path("images/train/7/image.png")
    assert _file({"image": "0012.jpg", "image_source": "coco"}) == Path("cocoimages/train/COCO_train2014_0012.jpg")


def test_questions_of_mme_come_by_category_and_file_plain_folders_first(tmp_path):
    """The image of each has its name and one of three endings, beside it or in the folder `images`."""
    names = ["m", "a", "z", "k", "b", "y"]
    for category, images, texts in (("red", "red", "red"), ("blue", "blue/images", "blue/questions_answers_YN")):
        for number, name in enumerate(names):
            picture(tmp_path / images / f"{name}{('.jpg', '.png', '.jpeg')[number % 3]}")
            write(tmp_path / texts / f"{name}.txt", f"Is\tit {name}?\t Yes \n\n  \nIs it {category}?\tNo\n")
    picture(tmp_path / "red" / "z.png")  # of two the ending that comes first
    samples = load_evaluation_data(Arguments(dataset=str(tmp_path), data_format="mme"))
    found = [(s.facts["category"], s.facts["image"].partition(".")[0]) for s in (samples[n] for n in range(24))]
    assert found == [(category, name) for category in ("red", "blue") for name in sorted(names) for _ in range(2)]
    assert [samples[n].references for n in range(2)] == [("Yes",), ("No",)]
    assert samples[0].question == "Instruction: Is\tit a?\nResponse:"
    endings = {s.facts["image"] for s in (samples[n] for n in range(12))}
    assert endings == {"m.jpg", "a.png", "z.jpeg", "k.jpg", "b.png", "y.jpeg"} - {"z.jpeg"} | {"z.png"}


@pytest.mark.parametrize("wrong", [0, 4])
@pytest.mark.parametrize("kind", ["instructions", "table"])
def test_the_first_and_the_last_of_the_samples_are_looked_at_before_the_training(tmp_path, kind, wrong):
    """What is trained on, and what is evaluated on alone; of those that are taken, and no others. (Instructions are
    read whole, a table's rows when they are asked for.)"""
    made, mistake, message = {
        "instructions": (llava, llava("<image> what?", "a cat"), "its text has 1 <image>"),
        "table": (
            lambda question, answer: {"question": question, "answer": answer},
            {"question": "what?", "answer": " "},
            "its answer is ' '",
        ),
    }[kind]
    rows = [made(f"what {n}?", f"a {n}") for n in range(5)]
    good = write(tmp_path / "good.json", rows)
    bad = write(tmp_path / "bad.json", [*rows[:wrong], mistake, *rows[wrong + 1 :]])
    common = {"dataset": "instructions" if kind == "instructions" else "json", "data_format": kind}
    common |= {"image_folder": str(tmp_path)}
    for first, second in ((good, bad), (bad, good)):
        args = Arguments(data_files={"train": first, "test": second}, **common)
        with pytest.raises(ValueError, match=f"row {wrong} of .*: {message}"):
            load_data(args)
    args = Arguments(data_files={"train": good, "test": bad}, **common)
    with pytest.raises(ValueError, match=f"row {wrong} of .*: {message}"):
        load_evaluation_data(args)


def test_what_is_evaluated_on_may_be_a_data_set_of_its_own(tmp_path):
    files = {
        name: write(tmp_path / f"{name}.json", [llava(f"{name} {n}?", "a cat") for n in range(4)])
        for name in ("mine", "theirs")
    }
    common = {"data_format": "instructions", "image_folder": str(tmp_path), "max_eval_samples": 2}
    args = Arguments(dataset=files["mine"], eval_dataset=files["theirs"], max_train_samples=3, **common)
    train, evaluation = load_data(args)
    alone = load_evaluation_data(args)
    assert [train[n].turns[0][0] for n in range(len(train))] == [
        f"Instruction: mine {n}?\nResponse:" for n in (0, 2, 3)
    ]
    for source in (evaluation, alone):
        asked = [source[n].turns[0][0] for n in range(len(source))]
        assert asked == [f"Instruction: theirs {n}?\nResponse:" for n in (0, 3)]


@pytest.mark.parametrize("kind", ["COCO's", "BLIP's", "conversations"])
def test_one_file_is_the_training_split_whatever_that_is_called(kind, tmp_path):
    """Two captions of each of two images, or four conversations; half of them are held out."""
    images = {name: f"{name}.jpg" for name in "ab"}
    for file in images.values():
        picture(tmp_path / file)
    said = [(name, f"{name} {number}") for name in images for number in range(2)]
    coco = {"images": [{"id": name, "file_name": file} for name, file in images.items()]}
    coco["annotations"] = [{"image_id": name, "caption": text} for name, text in said]
    rows = {
        "COCO's": coco,
        "BLIP's": [{"image": images[name], "caption": text} for name, text in said],
        "conversations": [llava("what?", text) for _, text in said],
    }
    file = write(tmp_path / "rows.json", rows[kind])
    form = "instructions" if kind == "conversations" else "coco_captions"
    common = {"data_format": form, "image_folder": str(tmp_path), "eval_fraction": 0.5}
    train, held_out = load_data(Arguments(dataset=file, train_split="mine", **common))
    assert (len(train), len(held_out)) == (2, 2) and train.split == f"{file}/mine"


@pytest.mark.parametrize(
    "content", [[1], ["a text"], 3, {"images": [1]}, {"images": 3}, {"annotations": 3, "images": []}, [{"caption": 1}]]
)
def test_files_that_are_no_captions_are_named(content, tmp_path):
    file = write(tmp_path / "rows.json", content)
    with pytest.raises(ValueError, match="--data_files: .*rows.json is none of COCO's caption annotations"):
        load_data(Arguments(dataset=file, data_format="coco_captions", image_folder=str(tmp_path)))


def test_images_that_are_missing_are_counted_once_each_however_often_they_are_asked_about(tmp_path):
    picture(tmp_path / "a.jpg")
    rows = [llava("<image> what?", "a cat", image=f"{name}.jpg") for name in "abbcb"]
    file = write(tmp_path / "rows.json", rows)
    with pytest.raises(FileNotFoundError, match="2 images are missing, the first is '.*b.jpg'"):
        load_data(Arguments(dataset=file, data_format="instructions", image_folder=str(tmp_path)))


def test_images_of_science_qa_may_lie_in_a_folder_of_their_own(science_qa, tmp_path):
    (science_qa / "images").rename(tmp_path / "elsewhere")
    args = Arguments(dataset=str(science_qa), image_folder=str(tmp_path / "elsewhere"))
    assert load_data(args)[0][0].image == tmp_path / "elsewhere" / "train" / "1" / "image.png"


def test_data_sets_that_are_known_by_their_names_need_no_format(tmp_path):
    known = {"derek-thomas/ScienceQA": "science_qa", "lmms-lab/MME": "mme", "digits": "table"}
    assert {name: resolve_format(Arguments(dataset=name)) for name in known} == known
    assert resolve_format(Arguments(dataset="digits", data_format="mme")) == "mme"  # what is said goes before
    # The numbers of the captions' file are those of a folder's questions; the Hub's have none.
    args = Arguments(dataset="derek-thomas/ScienceQA", caption_file="captions.json")
    with pytest.raises(ValueError, match="--caption_file goes with ScienceQA in a folder, whose questions"):
        load_evaluation_data(args)
