"""The pieces of a run of two towers by themselves: what is read, drawn, masked, measured, built and left."""

from contextlib import nullcontext
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil

from hf_effmodels import LightClipModel
from hf_effmodels.training.data.pictures import hold_out
from hf_effmodels.training.tasks.contrastive_language_image import data, evaluation, models, task, trainer
from hf_effmodels.training.tasks.contrastive_language_image.arguments import (
    ImagePartArguments,
    ImageTextArguments,
    TwoTowerArguments,
)
from hf_effmodels.training.tasks.contrastive_language_image.data import Collator, ImageTextDataset, ImageTexts, Masking
from hf_effmodels.training.tasks.contrastive_language_image.masking import mask_words
from hf_effmodels.training.tasks.contrastive_language_image.teacher import Teacher
from hf_effmodels.training.tasks.contrastive_language_image.tokenizer import train_tokenizer

from ..recorders import Calls
from ..test_rare_preparations import patched
from ..test_rare_steps import bare
from .conftest import MODEL


def table(**columns) -> datasets.Dataset:
    """Grey pictures of 8×8, and these columns."""
    number = len(next(iter(columns.values())))
    pictures = [Image.new("RGB", (8, 8), (9 * n,) * 3) for n in range(number)]
    kinds = {name: datasets.Dataset.from_dict({name: values}).features[name] for name, values in columns.items()}
    return datasets.Dataset.from_dict(
        {"image": pictures, **columns}, features=datasets.Features({"image": datasets.Image(), **kinds})
    )


# What is read


@pytest.mark.parametrize("column", ["caption", "captions", "text", "texts", "sentences"])
def test_captions_are_found_by_the_usual_names_of_their_column(column):
    rows = table(other=["x", "y"], **{column: ["a dog", "a cat"]})
    found = data._read(rows, ImageTextArguments(dataset="d"), "d/train")
    assert [found.texts(n) for n in range(2)] == [["a dog"], ["a cat"]] and found.class_number(0) == -1


def test_the_captions_of_an_image_are_held_out_together_and_each_picture_of_a_class_by_itself():
    """Also where each has a row of its own: no image is evaluated on that was trained on."""
    rows = table(caption=[f"caption {n}" for n in range(12)]).select([n for n in range(12) for _ in range(3)])
    args = ImageTextArguments(dataset="d", eval_fraction=0.25)
    train, evaluation = hold_out(data._read(rows, args, "d/train"), args)
    of_train, of_evaluation = ({part.read(n, 3).tobytes() for n in range(len(part))} for part in (train, evaluation))
    assert (len(train), len(evaluation)) == (27, 9) and (len(of_train), len(of_evaluation)) == (9, 3)
    assert not of_train & of_evaluation and evaluation.split == "d/train (held out)"
    with pytest.raises(ValueError, match="--eval_split: d/train is about one image"):
        hold_out(data._read(rows.select([0, 1]), args, "d/train"), args)
    classes = ImageTextArguments(dataset="d", caption_templates=["a {}"], label_column="caption", eval_fraction=0.25)
    found = data._read(rows.select([0] * 8), classes, "d/train")
    assert [len(part) for part in hold_out(found, classes)] == [6, 2]


def test_captions_that_are_named_are_read_beside_templates_for_other_classes():
    rows = table(said=[["a dog", "it barks"], ["a cat"]], label=["b", "a"])
    args = ImageTextArguments(dataset="d", caption_column="said", eval_templates=["a {}"])
    found = data._read(rows, args, "d/test")
    assert found.labels is None and [found.texts(n) for n in range(2)] == [["a dog", "it barks"], ["a cat"]]
    assert [*found.all_texts()] == ["a dog", "it barks", "a cat"]
    # Without captions, they are for the classes.
    found = data._read(rows, ImageTextArguments(dataset="d", eval_templates=["a {}"]), "d/test")
    assert found.labels.tolist() == [1, 0] and found.texts(0) == ["a b"]


@pytest.mark.parametrize("labelled", [True, False])
def test_templates_for_the_classes_of_another_data_set_leave_captions_what_they_are(labelled, monkeypatch):
    """In a training and in an evaluation, whether the captions' pictures have classes, too, or none."""
    rows = table(caption=["a dog", "it barks"], **({"label": ["b", "a"]} if labelled else {}))
    monkeypatch.setattr(data, "for_training", lambda args, token, read, _: [read(rows, args, "d/train")] * 2)
    monkeypatch.setattr(data, "for_evaluation", lambda args, token, read, _: read(rows, args, "d/test"))
    args = ImageTextArguments(dataset="d", eval_templates=["the {}"], zero_shot_dataset="classes")
    for found in (*data.load_image_texts(args), data.load_evaluation_image_texts(args)):
        assert found.labels is None and [found.texts(n) for n in range(2)] == [["a dog"], ["it barks"]]


def test_classes_that_are_numbers_are_in_the_order_of_numbers_and_truths_are_none():
    args = ImageTextArguments(dataset="d", caption_templates=["a {}"], class_names={"9": "nine"})
    found = data._read(table(label=[10, 9, 100]), args, "d/train")
    assert found.names == ("nine", "10", "100") and found.labels.tolist() == [1, 0, 2]
    with pytest.raises(ValueError, match="^row 0 of d/train: column 'label' holds True, which is no class.$"):
        data._read(table(label=[True, False]), args, "d/train")


def test_other_classes_of_the_same_number_are_not_those_that_were_trained_on():
    def of(*names):
        return ImageTexts([0, 0], "d", np.arange(2), labels=np.array([0, 1]), names=names, templates=("a {}",))

    found = data._numbered_as(of("cat", "dog"), of("ant", "cat"))
    assert found.names == ("cat", "dog", "ant") and found.labels.tolist() == [2, 0]
    assert [found.texts(n) for n in range(2)] == [["a ant"], ["a cat"]]
    same = of("cat", "dog")
    assert data._numbered_as(same, same) is same


def test_what_is_said_is_checked_and_recorded_of_the_pictures_that_are_used():
    """By their rows; a picture of another row may have nothing."""
    args = ImageTextArguments(dataset="d")
    images = [Image.new("RGB", (4, 4), (n, 0, 0)) for n in range(4)]
    said = ["", "a dog", None, ["a cat", "it"]]
    source = ImageTexts(images, "d", np.array([3, 1]), captions=said)
    assert data.checked_captions(source, args) is source
    with pytest.raises(ValueError, match=r"^--caption_column: 1 of the 2 captions of d .*: row 2 \(None\)\. --skip"):
        data.checked_captions(ImageTexts(images, "d", np.array([1, 2]), captions=said), args)
    other = ImageTexts(images, "d", np.array([3, 1]), captions=[*said[:3], ["a cat", "he"]])
    assert (
        source.facts()["pictures"] == other.facts()["pictures"] and source.facts()["texts"] != other.facts()["texts"]
    )
    labels = ImageTexts(images, "d", np.array([3, 1]), labels=np.array([0, 1, 0, 2]), names=("a", "b", "c"))
    assert [labels.class_number(n) for n in range(2)] == [2, 1]


@pytest.mark.parametrize("empty", ["train", "test"])
def test_captions_of_both_splits_are_looked_at(empty, monkeypatch):
    def source(split):
        said = ["a dog", " " if split == empty else "a cat"]
        return ImageTexts([0, 0], split, np.arange(2), captions=said)

    monkeypatch.setattr(data, "for_training", lambda *_: (source("train"), source("test")))
    with pytest.raises(ValueError, match=f"1 of the 2 captions of {empty} are empty or no texts"):
        data.load_image_texts(ImageTextArguments(dataset="d"))
    found = data.load_image_texts(ImageTextArguments(dataset="d", skip_empty_captions=True))
    assert [len(part) for part in found] == ([1, 2] if empty == "train" else [2, 1])


@pytest.mark.parametrize("alone", [True, False])
def test_templates_to_evaluate_with_are_those_of_the_evaluation(alone, monkeypatch):
    """Of a training beside those of the training; of an evaluation by themselves, too."""
    classes = ImageTexts([0], "d", np.arange(1), labels=np.array([0]), names=("dog",), templates=("a {}",))
    monkeypatch.setattr(data, "for_training", lambda *_: (classes, classes))
    monkeypatch.setattr(data, "for_evaluation", lambda *_: classes)
    given = {} if alone else {"caption_templates": ["a {}"]}
    args = ImageTextArguments(dataset="d", eval_templates=["the {}", "one {}"], **given)
    assert data.load_evaluation_image_texts(args).texts(0) == ["the dog", "one dog"]
    if not alone:
        train, held_out = data.load_image_texts(args)
        assert (train.texts(0), held_out.texts(0)) == (["a dog"], ["the dog", "one dog"])


# Samples

WORDS = {"the": 3, "dog": 4, "cat": 5, "one": 6, "here": 7}


def encode(text: str) -> list[int]:
    """The words between the marks 1 and 2."""
    return [1, *(WORDS[word] for word in text.split()), 2]


def pairs(**given) -> ImageTextDataset:
    """Three pictures of two classes with two templates, or of three captions."""
    images = [Image.new("RGB", (12, 10), (20 * n, 5, 0)) for n in range(3)]
    if given.pop("captions", False):
        source = ImageTexts(images, "d", np.arange(3), captions=[["the dog"], ["one cat", "the cat"], ["the cat"]])
    else:
        labels, templates = np.array([0, 1, 0]), ("the {}", "one {} here")
        source = ImageTexts(images, "d", np.arange(3), labels=labels, names=("dog", "cat"), templates=templates)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 6}, crop_size={"height": 6, "width": 6})
    return ImageTextDataset(source, processor, encode, **{"options": ImagePartArguments(), **given})


def test_without_a_seed_a_picture_has_the_first_of_its_captions_or_the_next_template():
    masking = Masking(0.5, 99, np.arange(50, 60), np.array([1, 2]))
    said = [pairs(masking=masking, encode_for_teacher=encode)[n] for n in range(3)]
    assert [each["input_ids"].tolist() for each in said] == [[1, 3, 4, 2], [1, 6, 5, 7, 2], [1, 3, 4, 2]]
    assert [int(each["class_number"]) for each in said] == [0, 1, 0]
    assert {name for each in said for name in each} == {"pixel_values", "input_ids", "class_number"}
    said = [pairs(captions=True)[n] for n in range(3)]
    assert [each["input_ids"].tolist() for each in said] == [[1, 3, 4, 2], [1, 6, 5, 2], [1, 3, 5, 2]]
    assert {int(each["class_number"]) for each in said} == {-1}


def test_in_training_words_are_masked_and_a_teacher_reads_what_the_student_reads():
    masking = Masking(0.9, 99, np.arange(50, 60), np.array([1, 2]))
    samples = pairs(masking=masking, encode_for_teacher=lambda text: [0, *encode(text)], seed=3)
    seen = set()
    for number in range(30):
        sample = samples[number]
        ids, labels = sample["input_ids"].tolist(), sample["mlm_labels"].tolist()
        seen.add(tuple(ids))
        assert sample["teacher_input_ids"].tolist() == [0, *ids]
        assert labels[0] == labels[-1] == -100, "marks are not asked for"
        assert (sample["mlm_input_ids"][0], sample["mlm_input_ids"][-1]) == (1, 2)
        asked = [(own, label) for own, label in zip(ids, labels, strict=True) if label != -100]
        assert len(asked) == round(0.9 * (len(ids) - 2)) and all(own == label for own, label in asked)
    assert seen == {(1, 3, 4, 2), (1, 6, 4, 7, 2), (1, 3, 5, 2), (1, 6, 5, 7, 2)}, "each class in each template"


def test_a_part_of_a_picture_is_drawn_as_the_options_say_and_laid_as_the_processor_lays(monkeypatch):
    calls = Calls()
    monkeypatch.setattr(data, "random_resized_box", calls.of("box", (2, 1, 11, 9)))
    options = ImagePartArguments(crop_scale=[0.2, 0.3], crop_ratio=[0.5, 0.75], horizontal_flip=1.0)
    samples = pairs(options=options, seed=0)
    ramp = Image.fromarray(np.random.default_rng(0).integers(0, 256, (10, 12, 3), dtype=np.uint8))
    rng = np.random.default_rng(1)
    for method in (Image.Resampling.BICUBIC, Image.Resampling.NEAREST):
        samples.processor.resample = method
        found = samples._part(ramp, rng)
        part = ramp.resize((6, 6), method, box=(2, 1, 11, 9)).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        mean, std = (np.array(v) for v in (samples.processor.image_mean, samples.processor.image_std))
        expected = (np.asarray(part) / 255 - mean) / std
        np.testing.assert_allclose(found.permute(1, 2, 0).numpy(), expected, atol=1e-5)
    assert calls["box"] == [((12, 10, [0.2, 0.3], [0.5, 0.75], rng), {})] * 2


def test_pictures_are_mirrored_as_often_as_is_asked_for():
    half = Image.new("RGB", (12, 10))
    half.paste((255, 255, 255), (0, 0, 6, 10))
    whole = {"crop_scale": [1.0, 1.0], "crop_ratio": [1.2, 1.2]}
    samples, rng = pairs(options=ImagePartArguments(**whole, horizontal_flip=0.25), seed=0), np.random.default_rng(0)
    mirrored = [bool(pixels[0, 0, 0] < pixels[0, 0, -1]) for pixels in (samples._part(half, rng) for _ in range(400))]
    assert np.mean(mirrored) == pytest.approx(0.25, abs=0.06)


def test_texts_of_several_lengths_are_filled_up_each_with_what_its_reader_takes_for_nothing():
    """A mark of the end that fills up, too, is still read where it ends a text."""
    one = {"input_ids": [1, 5, 2], "mlm_labels": [-100, 5, -100], "mlm_input_ids": [1, 9, 2]}
    two = {"input_ids": [1, 2], "mlm_labels": [-100, -100], "mlm_input_ids": [1, 2]}
    one, two = one | {"teacher_input_ids": [7]}, two | {"teacher_input_ids": [8, 8]}
    samples = [{name: torch.tensor(ids) for name, ids in each.items()} for each in (one, two)]
    batch = Collator(2, 6)([{**each, "pixel_values": torch.ones(1)} for each in samples])
    assert {name: value.tolist() for name, value in batch.items()} == {
        "input_ids": [[1, 5, 2], [1, 2, 2]],
        "attention_mask": [[1, 1, 1], [1, 1, 0]],
        "mlm_labels": [[-100, 5, -100], [-100, -100, -100]],
        "mlm_input_ids": [[1, 9, 2], [1, 2, 2]],
        "teacher_input_ids": [[7, 6], [8, 8]],
        "teacher_attention_mask": [[1, 0], [1, 1]],
        "pixel_values": [[1.0], [1.0]],
    }


def test_a_long_caption_is_cut_and_keeps_its_end():
    tokenizer = train_tokenizer(["a dog", "a cat"], 530)
    whole = tokenizer("a dog sat here")["input_ids"]
    assert data.encoder(tokenizer, len(whole))("a dog sat here") == whole
    assert data.encoder(tokenizer, 5)("a dog sat here") == [*whole[:4], tokenizer.eos_token_id]


def test_any_word_may_be_masked_and_their_number_is_rounded():
    ids, words = np.arange(100, 112), np.arange(12) % 11 > 0
    rng, chosen = np.random.default_rng(0), []
    for _ in range(60):
        chosen.append(np.flatnonzero(mask_words(ids, words, 0.15, 9, np.arange(3), rng)[1] != -100).tolist())
    assert {len(each) for each in chosen} == {2}, "a share of 0.15 of ten, to the even number"
    assert {place for each in chosen for place in each} == {*range(1, 11)}


# What is measured


def test_classes_are_described_in_parts_and_five_have_no_top_five(monkeypatch):
    """Names by templates, two texts at a time; what differs by less than single precision tells is still told."""
    monkeypatch.setattr(evaluation, "_TEXTS", 2)
    asked = []

    def features(input_ids, attention_mask):
        asked.append(len(input_ids))
        return SimpleNamespace(pooler_output=torch.stack([input_ids[:, 1], input_ids[:, 2]], 1).float())

    model = SimpleNamespace(device="cpu", get_text_features=features)
    found = evaluation.class_vectors(model, encode, 0, ["dog", "cat", "one", "here", "the"], ["the {}"])
    assert asked == [2, 2, 1]
    expected = np.array([[3, 4], [3, 5], [3, 6], [3, 7], [3, 3]]) / np.sqrt([[25], [34], [45], [58], [18]])
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)
    five = evaluation.zero_shot_accuracy(np.eye(5), np.eye(5), np.arange(5))
    assert five == {"accuracy": 1.0}
    six = evaluation.zero_shot_accuracy(np.eye(6), np.eye(6)[[1, 0, 2, 3, 4, 5]], np.arange(6))
    assert six == {"accuracy": 4 / 6, "top_5_accuracy": 4 / 6}, "two are last behind four that tie with them"
    close = np.array([[1, 0], [1, 1e-9]], dtype=np.float32)
    assert evaluation.zero_shot_accuracy(np.ones((1, 2), np.float32), close, np.array([1])) == {"accuracy": 1.0}


@pytest.mark.parametrize("part, numbers", [((0, 1), [0, 1, 2, 3, 4]), ((1, 2), [1, 3]), ((5, 6), [])])
def test_pictures_with_classes_are_embedded_once_by_one_of_all_processes(part, numbers):
    def features(pixel_values):
        return SimpleNamespace(pooler_output=torch.stack([pixel_values, torch.full_like(pixel_values, 3.0)], 1))

    model = SimpleNamespace(device="cpu", get_image_features=features, config=SimpleNamespace(projection_dim=2))
    samples = [{"pixel_values": torch.tensor(float(n))} for n in range(5)]
    found = evaluation.zero_shot_vectors(model, samples, Collator(0), 2, part)
    expected = np.array([[n, 3] for n in numbers], np.float32).reshape(-1, 2)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert found.shape == (len(numbers), 2) and found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6)


# Towers


@pytest.mark.parametrize("pretrained", [True, False])
@pytest.mark.parametrize("given", ["org/words", None])
def test_towers_are_checked_with_the_processor_they_get(pretrained, given, monkeypatch):
    calls = Calls()
    processor = SimpleNamespace(image_processor="images", tokenizer="its own")
    patched(
        monkeypatch,
        models,
        names_preset=lambda *_: not pretrained,
        _tokenizer=calls.of("tokenizer", "read"),
        _from_preset=calls.of("preset", "built"),
        _from_pretrained=calls.of("pretrained", ("loaded", processor)),
        CLIPProcessor=lambda images, tokenizer: SimpleNamespace(image_processor=images, tokenizer=tokenizer),
        check_processor=calls.of("processor"),
        _check_tokenizer=calls.of("words"),
    )
    monkeypatch.setattr(models.hf_effmodels, "create_image_processor", calls.of("images", "images"))
    args = SimpleNamespace(model="m", revision="v", tokenizer=given, image_size=24)
    model, found = models.load_two_towers(args, "captions")
    words = "its own" if pretrained and given is None else "read"
    assert (model, found.tokenizer) == ("loaded" if pretrained else "built", words)
    assert calls["processor"] == [(("--model", "images"), {})]
    assert calls["words"] == [((args, model, words), {})]
    if words == "read":
        assert calls["tokenizer"] == [((args, given or "openai/clip-vit-base-patch32", "captions"), {})]
    if not pretrained:
        assert calls["images"] == [(("m",), {"image_size": 24})] and calls["preset"] == [((args, "read"), {})]


def test_a_tokenizer_by_its_name_is_read_with_the_token_of_the_hub(monkeypatch):
    calls = Calls()
    monkeypatch.setattr(models.AutoTokenizer, "from_pretrained", calls.of("read", "words"))
    monkeypatch.setattr(models, "reading", lambda *given: calls.of("reading")(*given) or nullcontext())
    assert models._tokenizer(TwoTowerArguments(model="m", token="hf_a"), "org/words", ()) == "words"
    assert calls == {"reading": [(("--tokenizer", "org/words"), {})], "read": [(("org/words",), {"token": "hf_a"})]}


@pytest.mark.parametrize("source", [{"token": "t"}, {"token": "t", "revision": "v1", "trust_remote_code": True}])
def test_a_trained_model_is_read_at_its_revision_and_has_to_be_of_two_towers(source, monkeypatch):
    """A teacher has no revision; that of the model is told with its option."""
    calls, said = Calls(), ("--revision", "v1") if "revision" in source else None
    monkeypatch.setattr(models, "reading", lambda *given, **how: calls.of("reading")(*given, **how) or nullcontext())
    monkeypatch.setattr(models.AutoProcessor, "from_pretrained", calls.of("processor", "processor"))
    monkeypatch.setattr(models, "load_whole", calls.of("model", "model"))
    monkeypatch.setattr(models, "_check_kind", calls.of("kind"))
    assert models.load_trained("--model", "org/towers", {**source}) == ("model", "processor")
    assert calls["reading"] == [(("--model", "org/towers"), {"revision": said})]
    assert calls["processor"] == [(("org/towers",), source)]
    loaded = {**source, "revision": said}
    assert calls["model"] == [((models.AutoModelForZeroShotImageClassification, "--model", "org/towers"), loaded)]
    assert calls["kind"] == [(("--model", "org/towers", "model", "processor"), {})]


def test_a_preset_has_the_fields_that_are_given_over_its_own_and_the_marks_of_its_tokenizer():
    tokenizer = train_tokenizer(["a dog"], 540)
    fields = {
        "vision_config": {"hidden_sizes": [8, 8, 8, 16], "depths": [1, 1, 1, 2], "embedding_size": 8},
        "text_config": {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2},
    }
    args = TwoTowerArguments(model="light_clip-resnet-18", model_config=fields, image_size=40)
    config = models._from_preset(args, tokenizer).config
    vision, text = config.vision_config, config.text_config
    assert (vision.model_type, vision.layer_type, vision.depths) == ("resnet", "basic", [1, 1, 1, 2])
    assert vision.image_size == 40
    assert (text.vocab_size, text.hidden_size, text.num_hidden_layers) == (len(tokenizer), 16, 1)
    marks = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    assert (text.bos_token_id, text.eos_token_id, text.pad_token_id) == marks
    # A tower of another type has nothing of the preset's.
    for given, kind in (({"width_multiplier": 0.5}, "ghostnetv3"), ({"model_type": "tinyvit"}, "tinyvit")):
        fields["vision_config"] = given
        args = TwoTowerArguments(model="light_clip-ghostnetv3-1.0x", model_config=fields)
        with torch.device("meta"):
            vision = models._from_preset(args, tokenizer).config.vision_config
        assert vision.model_type == kind and getattr(vision, "width_multiplier", 0.5) == 0.5


@pytest.fixture(scope="module")
def towers():
    """A LightCLIP with all that trains it, and its processor."""
    import yaml

    fields = yaml.safe_load(MODEL[:-1] + ", token_projection: own, token_loss_weight: 1.0, mlm_loss_weight: 1.0}")
    args = TwoTowerArguments(model="light_clip-resnet-18", model_config=fields, tokenizer="train:540", image_size=16)
    torch.manual_seed(0)
    return models.load_two_towers(args, ["a dog", "a cat"])


def _left(model, dtype=torch.float32) -> LightClipModel:
    """What a run leaves of a model."""
    own = SimpleNamespace(network=model.to(dtype))
    trainer.ContrastiveTrainer.leave_training_parts(own)
    assert own.model is own.model_wrapped
    return own.model


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_what_is_left_of_a_model_has_its_weights_in_their_precision(towers, dtype):
    import copy

    model = copy.deepcopy(towers[0])
    left = _left(model, dtype)
    assert type(left) is LightClipModel and left.dtype == dtype and not left.training
    weights = model.state_dict()
    for name, value in left.state_dict().items():
        assert torch.equal(value, weights.pop(name)), name
    assert {name.split(".")[0] for name in weights} == {
        *("fusions", "mlm_head", "patch_projection", "word_projection", "mask_embedding")
    }


def test_a_model_that_was_saved_without_what_trains_it_is_trained_on(towers, tmp_path):
    """Which begins anew; any other weight that lacks is told, and so is a field that there is not."""
    import copy

    model, processor = towers
    left = _left(copy.deepcopy(model))
    left.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    on, _ = models.load_two_towers(TwoTowerArguments(model=str(tmp_path), model_config={"mlm_loss_weight": 0.5}))
    assert type(on) is models.LightClipForPreTraining and on.config.mlm_loss_weight == 0.5
    found = on.state_dict()
    assert all(torch.equal(value, found[name]) for name, value in left.state_dict().items())
    assert all(value.isfinite().all() for value in found.values())
    with pytest.raises(ValueError, match="^--model_config: .*mlm_loss_wait"):
        models.load_two_towers(TwoTowerArguments(model=str(tmp_path), model_config={"mlm_loss_wait": 0.5}))


# Preparations


def test_words_are_masked_where_the_model_learns_by_it_and_marks_stand_for_none(towers):
    model, processor = towers
    tokenizer, args = processor.tokenizer, SimpleNamespace(mask_ratio=0.25)
    masking = task._masking(args, model, tokenizer)
    marks = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    assert masking.ratio == 0.25 and masking.mask_id == model.config.mask_token_id
    assert set(masking.marks.tolist()) == marks
    assert set(masking.ordinary.tolist()) == {*range(len(tokenizer))} - marks
    # A tokenizer that fills up with a mark of its own, or has no mark of the beginning.
    for begins, marks in ((7, [7, 11, 20]), (None, [11, 20])):
        other = type("Words", (), {"__len__": lambda self: 30, "eos_token_id": 11, "pad_token_id": 20})()
        other.bos_token_id = begins
        masking = task._masking(args, model, other)
        assert masking.marks.tolist() == marks
        assert masking.ordinary.tolist() == [number for number in range(30) if number not in marks]
    weight, model.config.mlm_loss_weight = model.config.mlm_loss_weight, 0.0
    try:
        assert task._masking(args, model, tokenizer) is None
    finally:
        model.config.mlm_loss_weight = weight
    assert task._masking(args, SimpleNamespace(config=model.config), tokenizer) is None, "another kind of model"


def test_as_many_pairs_and_tokens_as_just_fit_are_taken():
    def of(number):
        return type("Pairs", (list,), {"split": f"d/{number}"})(range(number))

    args = SimpleNamespace(per_device_train_batch_size=4, world_size=2)
    task._check_sizes(of(8), of(2), args)
    with pytest.raises(ValueError, match="^--per_device_train_batch_size: got 4, but d/7 has 7 pairs: "):
        task._check_sizes(of(7), of(2), args)
    with pytest.raises(ValueError, match="^d/1 has 1 pair, accepted are 2 or more"):
        task._check_sizes(of(8), of(1), args)
    text = SimpleNamespace(max_position_embeddings=32)
    model = SimpleNamespace(config=SimpleNamespace(text_config=text))
    lengths = {given: task._length(SimpleNamespace(max_length=given), model) for given in (None, 5, 32)}
    assert lengths == {None: 32, 5: 5, 32: 32}
    with pytest.raises(ValueError, match="^--max_length: got 33, but the text tower takes 32 tokens"):
        task._length(SimpleNamespace(max_length=33), model)


def test_words_that_just_find_their_places_in_an_image_are_matched():
    """Five places: as many for a word, and for as many words between two marks where each has its own."""

    def check(longest, top_k=1, matching="one_to_one"):
        config = SimpleNamespace(token_top_k=top_k, token_matching=matching)
        task._check_matching(5, SimpleNamespace(network=SimpleNamespace(config=config)), longest)

    check(7)
    check(7, top_k=5)
    check(30, matching="relaxed")
    with pytest.raises(ValueError, match="^--max_length: captions may have 6 words, but images 5 .* up to 7 tokens"):
        check(8)
    with pytest.raises(ValueError, match="^--model_config: token_top_k: got 6, accepted are 1 to .* this size, 5"):
        check(7, top_k=6)


@pytest.mark.parametrize("wrong", [None, "images", "texts"])
def test_a_network_is_tried_out_at_rest_and_what_it_says_are_numbers(wrong, monkeypatch):
    """So that no statistics of it move before the training begins."""
    seen = []

    def vectors(model, batch):
        seen.append((model.training, torch.is_grad_enabled(), batch["n"].tolist()))
        return tuple(torch.full((2, 3), float("nan") if wrong == name else 1.0) for name in ("images", "texts"))

    monkeypatch.setattr(task, "unit_vectors", vectors)
    trial = SimpleNamespace(
        data_collator=lambda samples: {"n": torch.tensor(samples)},
        train_dataset=[4],
        eval_dataset=[5],
        network=torch.nn.Linear(1, 1).train(),
        args=SimpleNamespace(device="cpu"),
        teacher=None,
    )
    told = pytest.raises(ValueError, match="^--model: m gives what is no number for the first pair") if wrong else None
    with told or nullcontext():
        task._try_out(trial, SimpleNamespace(model="m", model_config={}), 32)
    assert seen == [(False, False, [4, 4])]


@pytest.mark.parametrize("affinity, feature, width, message", [
    (1.0, 0.0, 12, None), (0.0, 1.0, 8, None),
    (1.0, 1.0, 12, "^--feature_weight: the teacher's embeddings have 12 numbers, the model's 8"),
    (0.0, 0.0, 8, "^--teacher: nothing is learnt from it with --affinity_weight 0 and --feature_weight 0"),
])  # fmt: skip
def test_a_teacher_reads_as_much_as_it_can_and_need_not_be_as_wide_for_affinities(
    affinity, feature, width, message, monkeypatch
):
    def of(width, length):
        return SimpleNamespace(
            config=SimpleNamespace(projection_dim=width, text_config=SimpleNamespace(max_position_embeddings=length))
        )

    theirs = SimpleNamespace(tokenizer=SimpleNamespace(pad_token_id=7), image_processor="its images")
    patched(
        monkeypatch,
        task,
        load_trained=lambda *_: (of(width, 40), theirs),
        encoder=lambda tokenizer, length: (tokenizer, length),
        Teacher=lambda *given: ("teacher", *given[1:]),
    )
    args = SimpleNamespace(teacher="t", affinity_weight=affinity, feature_weight=feature)
    own = SimpleNamespace(image_processor="our images")
    with pytest.raises(ValueError, match=message) if message else nullcontext():
        found = task._teacher(args, of(8, 32), own, None)
        assert found == (("teacher", "its images", "our images"), (theirs.tokenizer, 40), 7)


class Towers(torch.nn.Module):
    """Two towers that keep what they are shown."""

    def __init__(self):
        super().__init__()
        self.dropout, self.weight = torch.nn.Dropout(0.5), torch.nn.Parameter(torch.ones(1, dtype=torch.bfloat16))
        self.dtype, self.seen = torch.bfloat16, {}

    def get_image_features(self, pixel_values):
        self.seen["pixels"] = pixel_values
        return SimpleNamespace(pooler_output=self.dropout(torch.ones(1, 4, dtype=torch.bfloat16)))

    def get_text_features(self, input_ids, attention_mask):
        self.seen["text"] = (input_ids, attention_mask)
        return SimpleNamespace(pooler_output=torch.tensor([[3.0, 4.0]]))


def test_a_teacher_is_shown_the_whole_of_a_larger_picture_in_its_own_precision():
    """Also the pixel that none of its own lies near, as a processor that makes pictures smaller shows it."""
    size = {"height": 4, "width": 4}
    theirs = SimpleNamespace(do_center_crop=False, size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    ours = SimpleNamespace(image_mean=[0.0] * 3, image_std=[1.0] * 3)
    towers = Towers().train()
    teacher = Teacher(towers, theirs, ours)
    assert not towers.training and not towers.weight.requires_grad
    pixels = torch.full((1, 3, 24, 24), 0.5)
    pixels[0, :, 0, 0] = 1.0
    images, texts = teacher(pixels, "ids", "mask")
    seen = towers.seen["pixels"]
    assert seen.dtype == torch.bfloat16 and seen.shape == (1, 3, 4, 4)
    assert seen[0, 0, 0, 0].abs() > 1e-3 and not seen[0, :, 2:, 2:].any(), "what was 0.5 is 0 to it"
    assert images.tolist() == [[0.5] * 4] and towers.seen["text"] == ("ids", "mask")
    torch.testing.assert_close(texts, torch.tensor([[0.6, 0.8]]))


# Steps


@pytest.mark.parametrize("affinity, feature", [(1.0, 0.0), (0.0, 1.0), (0.5, 2.0)])
def test_losses_of_a_teacher_are_those_with_a_weight(affinity, feature, monkeypatch):
    calls = Calls()
    patched(
        monkeypatch,
        trainer,
        softened_contrastive_loss=calls.of("own", 1.0),
        affinity_loss=calls.of("affinity", 2.0),
        embedding_distance=calls.of("feature", 3.0),
    )
    config = SimpleNamespace(uniform_softening=True)
    monkeypatch.setattr(trainer.ContrastiveTrainer, "network", SimpleNamespace(config=config))
    monkeypatch.setattr(trainer.ContrastiveTrainer, "softening", 0.25)
    own = bare(
        trainer.ContrastiveTrainer,
        teacher=SimpleNamespace(scale=torch.tensor(5.0)),
        args=SimpleNamespace(world_size=1, affinity_weight=affinity, feature_weight=feature),
    )
    embedded = {name: name for name in ("images", "texts", "teacher_images", "teacher_texts", "masked_words")}
    scale = torch.tensor(3.0)
    parts = own._compare_exactly(embedded, scale)
    expected = {"instance_loss": 1.0} | ({"affinity_loss": 2.0} if affinity else {})
    assert parts == expected | ({"feature_loss": 3.0} if feature else {})
    assert calls["own"] == [(("images", "texts", scale, 0.25, True), {})]
    four = ("images", "texts", "teacher_images", "teacher_texts")
    if affinity:
        assert calls["affinity"] == [((*four, scale, torch.tensor(5.0)), {})]
    assert calls.get("feature", []) == ([(four, {})] if feature else [])
    assert own.named_parts(parts) == parts and own.named_parts({"instance_loss": 1.0}) == {}


@pytest.mark.parametrize("labels, beside, expected", [
    (6, None, ["loss", "accuracy", "top_5_accuracy"]), (5, None, ["loss", "accuracy"]), (None, None, ["loss"]),
    (None, 5, ["loss", "accuracy"]), (None, 6, ["loss", "accuracy", "top_5_accuracy"]),
])  # fmt: skip
def test_what_is_measured_of_classes_is_known_before(labels, beside, expected):
    def of(number):
        names = tuple(str(n) for n in range(number or 0))
        given = {"captions": ["a"]} if number is None else {"labels": np.zeros(1, int)}
        return SimpleNamespace(source=ImageTexts([0], "d", np.arange(1), names=names, **given))

    own = bare(trainer.ContrastiveTrainer, eval_dataset=of(labels), zero_shot=None if beside is None else of(beside))
    recalls = [] if labels else ["image_to_text_recall_at_1", "text_to_image_recall_at_1"]
    assert [*own.metric_names()] == [expected[0], *recalls, *expected[1:]]


@pytest.mark.parametrize("given, kept", [
    (torch.bfloat16, torch.float32), (torch.float16, torch.float32), (torch.float32, torch.float32),
    (torch.float64, torch.float64),
], ids=str)  # fmt: skip
def test_what_towers_say_in_half_precision_is_compared_in_full_and_in_double_as_it_is(
    given, kept, towers, monkeypatch
):
    """Embeddings, and the words that are guessed: the sum of their losses over those that are asked for."""
    generator = torch.Generator().manual_seed(0)
    said = {"image_embeds": (2, 4), "text_embeds": (2, 4), "patch_embeds": (2, 5, 3), "word_embeds": (2, 3, 3)}
    said = {name: torch.randn(size, generator=generator).to(given) for name, size in said.items()}
    logits = (4 * torch.randn(2, 6, generator=generator)).to(given)
    mask, asked = torch.tensor([[True, True, False], [True, False, False]]), []

    def model(**inputs):
        asked.append(inputs)
        return SimpleNamespace(**said, word_mask=mask, mlm_logits=logits)

    monkeypatch.setattr(trainer.ContrastiveTrainer, "network", towers[0])
    inputs = {"pixel_values": "pixels", "input_ids": "ids", "attention_mask": "mask"}
    labels = torch.tensor([[-100, 3, -100], [5, -100, -100]])
    batch = {**inputs, "mlm_input_ids": "masked", "mlm_labels": labels, "class_number": "class"}
    found = bare(trainer.ContrastiveTrainer, teacher=None)._embed(model, batch)
    assert asked == [{**inputs, "mlm_input_ids": "masked", "mlm_labels": labels, "return_loss": False}]
    shared = {"images": "image_embeds", "texts": "text_embeds", "patches": "patch_embeds", "words": "word_embeds"}
    assert found.keys() == {*shared, "word_mask", "masked_words"}
    for name, own in shared.items():
        assert found[name].dtype == kept and torch.equal(found[name], said[own].to(kept))
    assert found["word_mask"].tolist() == [[1, 1, 0], [1, 0, 0]], "as numbers, which processes gather"
    likely = logits.double().log_softmax(-1)
    assert found["masked_words"].dtype == kept
    assert found["masked_words"].item() == pytest.approx(-(likely[0, 3] + likely[1, 5]).item(), rel=1e-6)


@pytest.mark.parametrize("asked, share", [([[5, -100], [7, 9]], 3.0), ([[6, -100]], 1.0), ([[-100, -100]], 1.0)])
def test_masked_words_count_alike_in_a_step_and_captions_without_words_are_no_fault(asked, share, monkeypatch):
    """Their losses are divided by their number in all batches, which are embedded ahead where there are several."""
    batches = [{"mlm_labels": torch.tensor([row])} for row in asked]
    monkeypatch.setattr(trainer.RecipeTrainer, "get_batch_samples", lambda *_: (batches, 7))
    own = bare(
        trainer.ContrastiveTrainer,
        args=SimpleNamespace(device="cpu"),
        accelerator=SimpleNamespace(reduce=lambda value, how: {"sum": value}[how]),
        _look_ahead=lambda given: ("ahead", given),
    )
    assert own.get_batch_samples(None, len(asked), "cpu") == (batches, 7)
    assert own._masked_in_step == share and own._step == (("ahead", batches) if len(asked) > 1 else None)


def test_batches_that_are_embedded_ahead_are_so_in_the_precision_of_the_training(towers, monkeypatch):
    """And each of them once."""
    entered, network = [], towers[0]
    monkeypatch.setattr(trainer.ContrastiveTrainer, "network", network)

    def embed(model, inputs):
        assert entered == ["in"] * (inputs + 1) and not torch.is_grad_enabled()
        return {"images": torch.full((1, 2), float(inputs)), "texts": torch.ones(1, 2)}

    own = bare(
        trainer.ContrastiveTrainer,
        args=SimpleNamespace(device=torch.device("cpu")),
        compute_loss_context_manager=lambda: entered.append("in") or nullcontext(),
        _embed=embed,
        _prepare_inputs=lambda batch: batch,
        _compare=lambda whole, scale: {"instance_loss": (whole["images"] * whole["texts"]).sum() * scale},
        _total=lambda parts: parts["instance_loss"],
    )
    step = own._look_ahead([0, 1, 2])
    scale = network.logit_scale.exp().item()
    assert [each["texts"].tolist() for each in step.gradients] == [[[n * scale] * 2] for n in range(3)]
    assert step.of_scale.item() == pytest.approx(6 * scale) and len(step.random) == 3


@pytest.mark.parametrize("classes", [True, False])
@pytest.mark.parametrize("beside", [True, False])
def test_an_evaluation_by_itself_measures_all_pairs_as_it_was_asked_for(classes, beside, monkeypatch):
    """Three pairs, two at a time, and beside them two pictures with classes."""
    calls, samples = Calls(), [{"n": torch.tensor(float(n))} for n in range(3)]

    def of(split, number, labels):
        names = ("a", "b") if labels else ()
        given = {"labels": np.arange(number)} if labels else {"captions": ["x"] * number}
        found = type("Data", (list,), {})(samples[:number])
        found.source = ImageTexts([0] * number, split, np.arange(number), names=names, templates=("t {}",), **given)
        found.encode = f"encoder of {split}"
        return found

    patched(
        monkeypatch,
        task,
        unit_vectors=lambda model, batch: (batch["n"][:, None], -batch["n"][:, None]),
        class_vectors=calls.of("classes", lambda *_: torch.ones(2, 1)),
        measure=calls.of("measure", lambda *_: {"loss": 1.5}),
        zero_shot_vectors=calls.of("vectors", "vectors"),
        zero_shot_accuracy=calls.of("accuracy", {"accuracy": 0.5}),
        write_evaluation=calls.of("write", "written"),
    )
    pairs, pictures = of("d/test", 3, classes), of("digits/test", 2, True) if beside else None
    model = SimpleNamespace(device="cpu", to=lambda device: None, logit_scale=torch.tensor(2.0).log())
    args = SimpleNamespace(per_device_eval_batch_size=2, dataloader_num_workers=0, eval_group=7, output="e.json")

    def collate(batch):
        return {"n": torch.stack([each["n"] for each in batch])}

    collate.pad_id = 9
    assert task._evaluate(model, [pairs, pictures], collate, "a-model", "d", args, "call") == "written"
    [((images, texts, source, scale, group, of_classes), _)] = calls["measure"]
    assert images.tolist() == [[0], [1], [2]] and texts.tolist() == [[0], [-1], [-2]] and source is pairs.source
    assert scale == pytest.approx(2.0) and group == 7 and (of_classes is not None) == classes
    described = [(model, f"encoder of {split}", 9, ("a", "b"), ("t {}",)) for split in ("d/test", "digits/test")]
    expected = described[: 1 if classes else 0] + described[1:][: 1 if beside else 0]
    assert [given for given, _ in calls.get("classes", [])] == expected
    if beside:
        assert calls["vectors"] == [((model, pictures, collate, 2), {"workers": 0})]
        [((vectors, _, numbers), _)] = calls["accuracy"]
        assert vectors == "vectors" and numbers.tolist() == [0, 1]
    measured = {"loss": 1.5, **({"accuracy": 0.5} if beside else {})}
    facts = {"model": "a-model", "dataset": "d", "split": "d/test", "samples": 3}
    assert calls["write"] == [((measured, facts, "e.json", "call"), {})]
