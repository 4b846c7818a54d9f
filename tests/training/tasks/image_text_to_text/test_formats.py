"""What the formats make of rows that are not the plainest."""

import json

import datasets
import numpy as np
import pytest
from PIL import Image
from transformers import AutoTokenizer, CLIPImageProcessorPil

from hf_effmodels.modeling.adem_vl.processing_adem_vl import AdemVLProcessor
from hf_effmodels.training.tasks.image_text_to_text.arguments import VisionLanguageDataArguments as Arguments
from hf_effmodels.training.tasks.image_text_to_text.encoding import Encoder, ImageTextToTextDataset, Pixels
from hf_effmodels.training.tasks.image_text_to_text.samples import Sample, Samples
from hf_effmodels.training.tasks.image_text_to_text.sources import load_data, load_evaluation_data

from .test_sources import PROBLEM, picture, write


def test_only_a_training_set_is_augmented_and_each_sample_by_its_own_numbers(bases):
    processor = AdemVLProcessor(
        CLIPImageProcessorPil(do_resize=False, do_center_crop=False, do_normalize=False, do_rescale=False),
        AutoTokenizer.from_pretrained(bases / "llm"),
    )

    def augment(image, rng):
        return Image.new("RGB", image.size, (int(rng.integers(256)), 0, 0))

    samples = Samples.of([0, 1], lambda row: Sample((("Q", "A"),), Image.new("RGB", (40, 40), "blue")), "mine")
    encoder, pixels = Encoder(processor, 50), Pixels(processor.image_processor, augment)
    trained = ImageTextToTextDataset(samples, encoder, pixels, seed=5)
    for epoch, index in ((0, 0), (0, 1), (3, 1)):
        drawn = int(np.random.default_rng((5, epoch, index)).integers(256))
        assert trained[2 * epoch + index]["pixel_values"][:, 0, 0].tolist() == [drawn, 0, 0]
    evaluated = ImageTextToTextDataset(samples, encoder, pixels)
    assert evaluated[1]["pixel_values"][:, 0, 0].tolist() == [0, 0, 255]
    # A question that is too long loses its tail, so that the image keeps its place in front.
    long = Sample((("one two three four five six", "A"),), image=0)
    whole = encoder.question(long, 4)
    cut = Encoder(processor, len(whole)).question(long, 4)
    assert cut == whole[: len(whole) - 4] and processor.image_token_id in cut


def test_alpacas_second_text_follows_the_instruction(tmp_path):
    rows = [
        {"instruction": "Add them.", "input": "1 and 2", "output": "3"},
        {"instruction": "Say hello.", "input": "", "output": "Hello."},
        # In its form already, however it ends.
        *({"instruction": f"Instruction: Sing.\nResponse:{end}", "output": "La."} for end in ("", " ", "\n", " \n")),
    ]
    file = write(tmp_path / "alpaca.json", rows)
    args = Arguments(dataset="alpaca", data_files=file, data_format="instructions", eval_split="train")
    train, _ = load_data(args)
    assert train[0].turns == (("Instruction: Add them.\n1 and 2\nResponse:", "3"),)
    assert train[1].turns == (("Instruction: Say hello.\nResponse:", "Hello."),)
    for number in range(4):
        ((prompt, answer),) = train[2 + number].turns
        assert prompt.rstrip() == "Instruction: Sing.\nResponse:" and answer == "La."


def test_a_question_of_mme_may_have_tabs_in_it(tmp_path):
    picture(tmp_path / "existence" / "1.png")
    write(tmp_path / "existence" / "1.txt", "Is it\twet?\tYes\nIs it dry?\tNo\n")
    samples = load_evaluation_data(Arguments(dataset=str(tmp_path)))
    assert samples[0].question == "Instruction: Is it\twet?\nResponse:" and samples[0].references == ("Yes",)
    assert samples[1].references == ("No",) and samples[1].facts == {"category": "existence", "image": "1.png"}


@pytest.mark.parametrize("changes", [{"answer": 5}, {"answer": -1}, {"choices": list("abcdef")}])
def test_science_qa_has_five_choices_at_most_and_one_of_them_is_right(tmp_path, changes):
    write(tmp_path / "problems.json", {"1": {**PROBLEM, "image": None, **changes}})
    write(tmp_path / "pid_splits.json", {"test": ["1"]})
    with pytest.raises(ValueError, match="row 0 of .*/test: answer .* choices; there may be 5 at most"):
        load_evaluation_data(Arguments(dataset=str(tmp_path)))


def test_images_of_science_qa_lie_in_the_folder_of_their_own_split(tmp_path):
    write(tmp_path / "problems.json", {"1": {**PROBLEM, "split": "val"}})
    write(tmp_path / "pid_splits.json", {"minitest": ["1"]})
    picture(tmp_path / "images" / "val" / "1" / "image.png")
    sample = load_evaluation_data(Arguments(dataset=str(tmp_path), eval_split="minitest"))[0]
    assert sample.image == tmp_path / "images" / "val" / "1" / "image.png"


def test_answers_of_a_table_may_be_classes_and_are_never_empty(tmp_path):
    features = datasets.Features(
        {"question": datasets.Value("string"), "answer": datasets.ClassLabel(names=["cat", "dog"])}
    )
    rows = datasets.Dataset.from_dict({"question": ["a?", "b?"], "answer": [1, 0]}, features=features)
    rows.to_parquet(str(tmp_path / "rows.parquet"))
    source = {"data_format": "table", "cache_dir": str(tmp_path / "cache"), "eval_split": "train"}
    samples = load_evaluation_data(Arguments(dataset="parquet", data_files=str(tmp_path / "rows.parquet"), **source))
    assert [sample.references for sample in (samples[0], samples[1])] == [("dog",), ("cat",)]
    for row, name in (({"question": " ", "answer": "x"}, "question"), ({"question": "x", "answer": ""}, "answer")):
        file = write(tmp_path / f"{name}.jsonl", json.dumps(row))
        with pytest.raises(ValueError, match=f"row 0 of json/train: its {name} is .* that are not empty"):
            load_evaluation_data(Arguments(dataset="json", data_files=file, **source))
