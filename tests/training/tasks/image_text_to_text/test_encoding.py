"""What is learned of a row, and rows with and without images in one batch."""

import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer

import hf_effmodels
from hf_effmodels.modeling.adem_vl.processing_adem_vl import AdemVLProcessor
from hf_effmodels.training.data.errors import SampleError
from hf_effmodels.training.tasks.image_text_to_text.encoding import Collator, Encoder, ImageTextToTextDataset, Pixels
from hf_effmodels.training.tasks.image_text_to_text.generation import generate_answers
from hf_effmodels.training.tasks.image_text_to_text.models import load_model
from hf_effmodels.training.tasks.image_text_to_text.samples import Sample, Samples
from hf_effmodels.training.tasks.image_text_to_text.trainer import answer_losses

PROMPT = "Instruction: Which colour is it?\nResponse:"
PICTURE = Image.new("RGB", (9, 9), (200, 30, 10))


@pytest.fixture
def processor(bases):
    size = {"height": 32, "width": 32}
    image_processor = hf_effmodels.create_image_processor("adem_vl-7b-instruction", size=size)
    return AdemVLProcessor(image_processor, AutoTokenizer.from_pretrained(bases / "llm"))


@pytest.fixture
def model(bases, model_arguments):
    from hf_effmodels.training.run.arguments import ArgumentReader
    from hf_effmodels.training.tasks.image_text_to_text.arguments import VisionLanguageModelArguments

    (arguments,) = ArgumentReader(model_arguments).read(VisionLanguageModelArguments)
    torch.manual_seed(1)
    model = load_model(arguments)[0]
    with torch.no_grad():  # where they start the image has no part in the answer
        model.model.value_offsets.normal_()
    return model


def encode(processor, text):
    return processor.tokenizer(text, add_special_tokens=False)["input_ids"]


def test_only_answers_and_the_end_are_learned_behind_a_prefix(processor):
    tokenizer, encoder = processor.tokenizer, Encoder(processor, 100)
    ids, labels = encoder(Sample(((PROMPT, "red"),), image=PICTURE))
    answer = [*encode(processor, "red"), tokenizer.eos_token_id]
    prompt = [
        tokenizer.bos_token_id,
        *encode(processor, "Image: "),
        processor.image_token_id,
        *encode(processor, PROMPT),
    ]
    assert ids == prompt + answer
    assert labels == [-100] * len(prompt) + answer
    ids, labels = encoder(Sample(((PROMPT, "red"), ("\n" + PROMPT, "blue"))))
    assert tokenizer.decode([i for i in labels if i != -100]) == "redblue</s>"
    assert tokenizer.decode(ids) == f"<s>Image: N/A{PROMPT}red\n{PROMPT}blue</s>"
    # The prompt that generation begins with is the one that was learned.
    assert Encoder(processor, 100).question(Sample(((PROMPT, "red"),), image=PICTURE), 4) == prompt


def test_long_rows_are_cut_and_unknown_tokens_never_learned(processor):
    sample = Sample(((PROMPT, "red"),))
    whole = Encoder(processor, 500)(sample)
    ids, labels = Encoder(processor, len(whole[0]) - 1)(sample)
    assert (ids, labels) == (whole[0][:-1], whole[1][:-1])
    assert len(Encoder(processor, 12).question(sample, 4)) == 8
    processor.tokenizer.add_special_tokens({"unk_token": "<unk>"})
    labels = Encoder(processor, 500)(Sample(((PROMPT, "a<unk>b"),)))[1]
    assert [i for i in labels if i != -100] == [*encode(processor, "ab"), processor.tokenizer.eos_token_id]


def test_a_place_for_an_image_inside_the_text_is_refused(processor):
    samples = Samples.of([0], lambda row: Sample((("What is <image>?", "red"),), image=PICTURE), "mine/train")
    encoder = Encoder(processor, 100)
    with pytest.raises(ValueError, match="row 0 of mine/train: its text has 1 <image> in it; leave it out"):
        ImageTextToTextDataset(samples, encoder, Pixels(processor.image_processor))[0]
    with pytest.raises(ValueError, match="its text has 2 <image> in it"):
        encoder.question(Sample(((PROMPT, "red"),), ask="Is <image> like <image>?"), 4)


def test_mixed_rows_have_the_loss_they_have_alone(processor, model):
    rows = [
        Sample(((PROMPT, "green"),), image=PICTURE),
        Sample(((PROMPT, "a mouse"),)),
        Sample(((PROMPT, "b"),), PICTURE),
    ]
    samples = Samples.of(rows, lambda row: row, "mine")
    dataset = ImageTextToTextDataset(samples, Encoder(processor, 100), Pixels(processor.image_processor))
    collate = Collator(processor.tokenizer.pad_token_id)
    batch = collate([dataset[n] for n in range(3)])
    assert batch["pixel_values"].shape == (2, 3, 32, 32) and "pixel_values" not in collate([dataset[1]])
    assert "image_mask" not in batch  # their texts have a place for it
    assert (batch["labels"][batch["attention_mask"] == 0] == -100).all()
    with torch.no_grad():
        together = model(**batch)
        sums, counts = answer_losses(together.logits, batch["labels"])
        for number in range(3):
            alone = model(**collate([dataset[number]])).loss
            assert (sums[number] / counts[number]).item() == pytest.approx(alone.item(), rel=1e-4)
    assert together.loss.item() == pytest.approx((sums.sum() / counts.sum()).item(), rel=1e-5)
    assert counts.tolist() == [len(encode(processor, text)) + 1 for text in ("green", "a mouse", "b")]


def test_models_without_a_place_for_the_image_are_told_which_rows_have_one(processor):
    rows = [{"input_ids": [1, 2], "labels": [-100, 2]}, {"input_ids": [3], "labels": [3]}]
    rows[1]["pixel_values"] = torch.zeros(3, 4, 4)
    batch = Collator(pad_token_id=9, with_mask=True)(rows)
    assert batch["image_mask"].tolist() == [False, True] and "image_mask" not in Collator(9, with_mask=True)(rows[:1])
    assert batch["input_ids"].tolist() == [[1, 2], [3, 9]] and batch["labels"].tolist() == [[-100, 2], [3, -100]]
    assert batch["attention_mask"].tolist() == [[1, 1], [1, 0]] and batch["pixel_values"].shape == (1, 3, 4, 4)


@pytest.mark.parametrize("image, place", [(b"no picture", ""), ("nowhere.png", r" \(nowhere.png\)")])
def test_pictures_that_cannot_be_read_are_named_wherever_they_are_met(image, place, processor, model):
    samples = Samples.of([0], lambda row: Sample(((PROMPT, "red"),), image=image), "mine/train")
    encoder, pixels = Encoder(processor, 100), Pixels(processor.image_processor)
    for meet in (
        lambda: ImageTextToTextDataset(samples, encoder, pixels)[0],
        lambda: generate_answers(model, samples, encoder, pixels, batch_size=1, max_new_tokens=1),
    ):
        with pytest.raises((SampleError, OSError), match=f"^row 0 of mine/train{place}: "):
            meet()


def test_there_is_room_for_a_question_behind_the_image(processor):
    """One token of it at least, and the place of the image, go before the answer."""
    prefix = len(processor.prefix_ids(True))
    Encoder(processor, prefix + 5).check_room(4)
    with pytest.raises(
        ValueError, match=f"--max_new_tokens: got 5, .* --max_length {prefix + 5} accepted are at most 4"
    ):
        Encoder(processor, prefix + 5).check_room(5)


def test_the_last_of_every_fifty_batches_is_told(processor, model, monkeypatch):
    said = []
    samples = Samples.of(list(range(101)), lambda row: Sample(((PROMPT, "x"),)), "mine")
    prompt = torch.tensor([processor.tokenizer.eos_token_id])
    monkeypatch.setattr(
        model, "generate", lambda input_ids, **_: torch.cat([input_ids, prompt.expand(len(input_ids), 1)], 1)
    )
    encoder, pixels = Encoder(processor, 100), Pixels(processor.image_processor)
    answers = generate_answers(model, samples, encoder, pixels, batch_size=2, max_new_tokens=1, log=said.append)
    assert said == ["100 of 101 answered"] and answers == [""] * 101


def test_answers_generated_in_batches_are_those_of_each_row_alone(processor, model):
    rows = [
        Sample(((PROMPT, "x"),), image=PICTURE),
        Sample((("Instruction: Why?\nResponse:", "x"),)),
        Sample(((PROMPT + " It is", "x"),), image=Image.new("RGB", (5, 7), (0, 0, 255))),
    ]
    encoder, pixels = Encoder(processor, 100), Pixels(processor.image_processor)
    settings = {"max_new_tokens": 4}
    batched = generate_answers(
        model, Samples.of(rows, lambda row: row, "mine"), encoder, pixels, batch_size=2, **settings
    )
    alone = [
        generate_answers(model, Samples.of([row], lambda row: row, "mine"), encoder, pixels, batch_size=1, **settings)[
            0
        ]
        for row in rows
    ]
    assert batched == alone and len(set(batched)) > 1


def test_one_token_of_a_question_is_left_however_long_its_answer_may_get(processor):
    whole = Encoder(processor, 100).question(Sample(((PROMPT, "red"),)), 4)
    for length, answer, left in ((12, 11, 1), (12, 12, 1), (12, 40, 1), (12, 10, 2)):
        assert Encoder(processor, length).question(Sample(((PROMPT, "red"),)), answer) == whole[:left]


def test_pictures_are_augmented_in_training_alone(processor):
    seen = []

    def augment(image, rng):
        seen.append(rng)
        return Image.new("RGB", image.size)

    pixels, rng = Pixels(processor.image_processor, augment), torch.Generator()
    plain = Pixels(processor.image_processor)(PICTURE)
    assert torch.equal(pixels(PICTURE), plain) and seen == []
    black = Pixels(processor.image_processor)(Image.new("RGB", PICTURE.size))
    assert torch.equal(pixels(PICTURE, rng), black) and seen == [rng]
    assert torch.equal(Pixels(processor.image_processor)(PICTURE, rng), plain)


@pytest.mark.parametrize("unknown", ["</s>", "<s>", "<unk>"])
def test_ends_within_an_answer_are_learned_though_they_stand_for_the_unknown(processor, unknown):
    """Some tokenizers have one token for both; an unknown one of its own is never learned."""
    tokenizer = processor.tokenizer
    tokenizer.add_special_tokens({"unk_token": unknown})
    labels = Encoder(processor, 500)(Sample(((PROMPT, f"a{unknown}b"),)))[1]
    learned = [number for number in labels if number != -100]
    within = [] if unknown == "<unk>" else [tokenizer.convert_tokens_to_ids(unknown)]
    assert learned == [*encode(processor, "a"), *within, *encode(processor, "b"), tokenizer.eos_token_id]


@pytest.mark.parametrize("bf16", [True, False])
def test_answers_are_computed_in_bfloat16_where_that_is_asked_for(bf16, processor, model, monkeypatch):
    seen = []
    monkeypatch.setattr(
        model, "generate", lambda input_ids, **_: seen.append(torch.is_autocast_enabled("cpu")) or input_ids
    )
    samples = Samples.of([0], lambda row: Sample(((PROMPT, "x"),)), "mine")
    encoder, pixels = Encoder(processor, 100), Pixels(processor.image_processor)
    generate_answers(model, samples, encoder, pixels, batch_size=1, max_new_tokens=1, bf16=bf16)
    assert seen == [bf16]
