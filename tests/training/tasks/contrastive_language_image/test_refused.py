"""Models, tokenizers and first pairs that two towers cannot be trained with, and random numbers that come again."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from hf_effmodels import LightClipConfig, LightClipForPreTraining
from hf_effmodels.training.tasks.contrastive_language_image import data, models, task, trainer
from hf_effmodels.training.tasks.contrastive_language_image.arguments import ImageTextArguments


class Tokenizer:
    """One word, its mark of the end behind it."""

    eos_token_id = 3

    def __init__(self, pad, size=5, end=3):
        self.pad_token_id, self.size, self.end = pad, size, end

    def __len__(self):
        return self.size

    def __call__(self, text):
        return {"input_ids": [1, self.end]}


def of_clip(**more):
    return SimpleNamespace(get_image_features=1, get_text_features=1, logit_scale=1, **more)


def test_a_model_needs_two_towers_a_softmax_and_a_processor_of_both():
    whole = SimpleNamespace(tokenizer=1, image_processor=1)
    models._check_kind("--teacher", "folder", of_clip(), whole)
    for lacking in ("tokenizer", "image_processor"):
        processor = SimpleNamespace(**{name: 1 for name in vars(whole) if name != lacking})
        with pytest.raises(ValueError, match="^--teacher: folder lacks an image processor or a tokenizer.$"):
            models._check_kind("--teacher", "folder", of_clip(), processor)
    for model in (of_clip(logit_bias=1), SimpleNamespace(get_image_features=1, get_text_features=1)):
        with pytest.raises(ValueError, match="^--teacher: folder is a SimpleNamespace, accepted are models with"):
            models._check_kind("--teacher", "folder", model, whole)


@pytest.mark.parametrize("given, argument", [("theirs", "--tokenizer"), (None, "--model")])
def test_a_tokenizer_pads_ends_texts_as_the_model_reads_them_and_fits_its_vocabulary(given, argument):
    def check(tokenizer, eos=3):
        model = SimpleNamespace(config=SimpleNamespace(text_config=SimpleNamespace(vocab_size=5, eos_token_id=eos)))
        models._check_tokenizer(SimpleNamespace(tokenizer=given), model, tokenizer)

    check(Tokenizer(0))
    check(Tokenizer(0), eos=2)  # as CLIP's first configurations say, whatever their tokenizer has
    for wrong, message in (
        (
            {"tokenizer": Tokenizer(None)},
            "the tokenizer has no padding token; accepted are tokenizers of CLIP's kind.",
        ),
        ({"tokenizer": Tokenizer(0, 6)}, "the tokenizer has 6 tokens, the model 5."),
        (
            {"tokenizer": Tokenizer(0, end=4)},
            "the model looks for the mark of the end 3, but the tokenizer's texts end",
        ),
        (
            {"tokenizer": Tokenizer(0), "eos": 4},
            "the model looks for the mark of the end 4, but the tokenizer's texts",
        ),
    ):
        with pytest.raises(ValueError) as error:
            check(**wrong)
        assert str(error.value).startswith(f"{argument}: {message}")


@pytest.mark.parametrize("ours", [True, False])
def test_two_towers_of_a_folder_are_built_with_what_trains_them(ours, monkeypatch):
    """Of this package's own kind the class with the losses, not the one that is left of it afterwards."""
    asked = []
    config = LightClipConfig() if ours else SimpleNamespace(projection_dim=4)
    processor = SimpleNamespace(tokenizer=1, image_processor=1)

    def load(kind, argument, name, **how):
        asked.append((kind, argument, name, how))
        return of_clip()

    monkeypatch.setattr(models.AutoConfig, "from_pretrained", lambda name, **how: config)
    monkeypatch.setattr(models.AutoProcessor, "from_pretrained", lambda name, **how: processor)
    monkeypatch.setattr(models, "load_whole", load)
    monkeypatch.setattr(models, "reading", lambda *_, **__: nullcontext())
    how = {"token": "mine", "trust_remote_code": False}
    fields = {"projection_dim": 8}
    args = SimpleNamespace(
        model="folder", model_config=fields, image_tower=None, image_size=None, revision="v1", **how
    )
    assert models._from_pretrained(args)[1] is processor
    ((kind, argument, name, given),) = asked
    assert kind is (LightClipForPreTraining if ours else models.AutoModelForZeroShotImageClassification)
    assert ("spared" in given) == ours, "what trains may be lacking in what was saved without"
    given.pop("spared", None)
    assert (argument, name, given) == ("--model", "folder", {**fields, **how, "revision": ("--revision", "v1")})


@pytest.mark.parametrize("wrong", [None, "images", "texts"])
def test_towers_that_give_no_numbers_for_the_first_pair_are_refused(wrong, monkeypatch):
    found = [torch.ones(2, 3), torch.ones(2, 3)]
    if wrong:
        found[wrong == "texts"][1, 2] = float("nan")
    monkeypatch.setattr(task, "unit_vectors", lambda network, batch: found)
    own = SimpleNamespace(
        data_collator=lambda samples: {"pixel_values": torch.zeros(len(samples))},
        train_dataset=["first"],
        eval_dataset=["first"],
        args=SimpleNamespace(device="cpu"),
        network=torch.nn.Identity(),
        teacher=None,
    )
    args = SimpleNamespace(model="folder", model_config={})
    if wrong is None:
        task._try_out(own, args, 8)
        return
    with pytest.raises(ValueError, match="^--model: folder gives what is no number for the first pair.$"):
        task._try_out(own, args, 8)


def test_a_batch_is_embedded_again_with_the_random_numbers_of_the_first_time(monkeypatch):
    kept = trainer._random_state(torch.device("cpu"))
    assert len(kept) == 1
    first = torch.rand(3)
    trainer._set_random_state(kept, torch.device("cpu"))
    assert torch.equal(torch.rand(3), first)
    told = []
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: f"of {device}")
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: told.append((state, str(device))))
    device = torch.device("cuda", 1)
    kept = trainer._random_state(device)
    torch.rand(3)
    trainer._set_random_state(kept, device)
    assert told == [("of cuda:1", "cuda:1")]
    assert torch.equal(torch.get_rng_state(), kept[0])


def test_classes_to_measure_on_are_read_from_their_own_data_set(monkeypatch):
    """By its name, configuration and split; nothing of where the captions lie is meant for it."""
    read = []
    monkeypatch.setattr(data, "for_evaluation", lambda args, token, *_: read.append((args, token)) or "pictures")
    args = ImageTextArguments(
        dataset="org/captions", dataset_config="large", dataset_revision="v1", data_files="a.tar", data_dir="parts",
        eval_dataset="org/other", eval_split="dev", caption_column="said", image_column="photo",
        label_column="kind", class_names={"0": "cat"}, eval_templates=["a {}", "the {}"], max_eval_samples=7,
        zero_shot_dataset="org/classes", zero_shot_config="small", zero_shot_split="validation", cache_dir="here",
    )  # fmt: skip
    assert data.load_zero_shot(args, "hf_a") == "pictures"
    [(other, token)] = read
    assert (other.dataset, other.dataset_config, other.eval_split, token) == (
        "org/classes",
        "small",
        "validation",
        "hf_a",
    )
    for name in ("dataset_revision", "data_files", "data_dir", "eval_dataset", "caption_column"):
        assert not getattr(other, name), name
    assert other.caption_templates == ["a {}", "the {}"] and other.class_names == {"0": "cat"}
    assert (other.image_column, other.label_column, other.max_eval_samples) == ("photo", "kind", 7)
    assert other.cache_dir == "here" and other.argument == "--zero_shot_dataset" and args.dataset == "org/captions"
    assert data.load_zero_shot(ImageTextArguments(dataset="org/captions"), None) is None
    # Of the classes all are measured on, though of the captions some are held out.
    for name, value in (("eval_holdout", 5), ("eval_fraction", 0.25)):
        held_out = ImageTextArguments(
            dataset="org/captions", eval_templates=["a {}"], zero_shot_dataset="org/classes", **{name: value}
        )
        data.load_zero_shot(held_out)
        other, _ = read.pop()
        assert (other.eval_holdout, other.eval_fraction) == (None, None) and getattr(held_out, name) == value
