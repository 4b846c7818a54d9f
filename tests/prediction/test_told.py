"""What is said of devices, revisions and boxes before anything large is read."""

from types import SimpleNamespace

import pytest
import torch
from transformers import AutoConfig

from hf_effmodels.architecture import TASKS
from hf_effmodels.prediction import predictor
from hf_effmodels.prediction.command import check_device
from hf_effmodels.prediction.predictor import Source, find_task
from hf_effmodels.prediction.tasks.boxes import _sorted


def test_devices_on_which_torch_cannot_compute_are_told_by_its_first_line(monkeypatch):
    check_device(None)
    check_device("cpu")
    with pytest.raises(ValueError, match="^--device: got 'fast', accepted are such as .*, and cuda:1.$"):
        check_device("fast")
    for kind in (RuntimeError, AssertionError, NotImplementedError):
        for said, told in (("it is not there\nand more", "it is not there"), ("", "it cannot be used")):

            def empty(size, *, device, kind=kind, said=said):
                assert (size, device) == (1, "cuda:7")
                raise kind(said)

            with monkeypatch.context() as patch:
                patch.setattr(torch, "empty", empty)
                with pytest.raises(ValueError, match=f"^--device: got 'cuda:7': {told}$"):
                    check_device("cuda:7")


def test_a_model_is_looked_for_in_its_revision(monkeypatch):
    asked = []

    def check_model(argument, name, **options):
        asked.append((argument, name, options))
        raise OSError("there is no such model")

    monkeypatch.setattr(predictor, "check_model", check_model)
    for source in ("a/b", Source("a/b", revision="v2")):
        with pytest.raises(OSError, match="there is no such model"):
            find_task(source)
    assert asked == [
        ("MODEL", "a/b", {"revision": ("--revision", None)}),
        ("MODEL", "a/b", {"revision": ("--revision", "v2")}),
    ]
    monkeypatch.setattr(predictor, "check_model", lambda *given, **options: None)
    with pytest.raises(ValueError, match="^revision: got 'v2', but adabin-resnet18 is a preset: it has none.$"):
        find_task(Source("adabin-resnet18", revision="v2"))
    with pytest.raises(ValueError, match="^task: got 'sing', accepted are "):
        find_task("a/b", "sing")


@pytest.mark.parametrize("auto", ["AutoModelForImageClassification", "AutoModelForSemanticSegmentation"])
def test_models_of_code_of_their_own_are_for_what_they_say(auto, monkeypatch, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    said = SimpleNamespace(model_type="mine", architectures=["Mine"], auto_map={auto: "modeling_mine.Mine"})
    monkeypatch.setattr(AutoConfig, "from_pretrained", lambda name, **options: said)
    (task,) = [task.name for task in TASKS.values() if task.auto_class == auto]
    source = Source(str(tmp_path), trust_remote_code=True)
    assert find_task(source) == (source, task)
    said.auto_map = {auto: "modeling_mine.Other"}
    with pytest.raises(ValueError, match="MODEL: .*"):
        find_task(source)


def test_boxes_are_given_the_surest_first():
    found = {
        "scores": torch.tensor([0.25, 0.75, 0.5, 0.75]),
        "labels": torch.tensor([3, 1, 2, 0]),
        "boxes": torch.arange(16.0).reshape(4, 4),
    }
    assert _sorted(found) == [
        (0.75, 1, [4.0, 5.0, 6.0, 7.0]),
        (0.75, 0, [12.0, 13.0, 14.0, 15.0]),
        (0.5, 2, [8.0, 9.0, 10.0, 11.0]),
        (0.25, 3, [0.0, 1.0, 2.0, 3.0]),
    ]


@pytest.mark.parametrize(
    "task, own, chosen",
    [
        (None, ["feature-extraction", "text-generation", "text-classification"], "text-generation"),
        ("text-classification", ["text-generation", "text-classification"], "text-classification"),
        ("super-resolution", ["super-resolution"], "super-resolution"),
    ],
)
def test_a_model_does_what_it_is_told_to_or_the_first_that_it_can(task, own, chosen):
    assert predictor._chosen("net", task, own) == chosen


@pytest.mark.parametrize(
    "task, own, said",
    [
        ("text-generation", ["fill-mask"], "net is for fill-mask, not for text-generation.$"),
        ("text-generation", [], "net is for no known task, not for text-generation.$"),
        (
            None,
            ["fill-mask", "token-classification"],
            "net is for fill-mask and token-classification; predictions are",
        ),
        (None, [], "net is for no known task; predictions are made for image-classification, "),
    ],
)
def test_a_model_that_cannot_do_it_is_told_with_what_it_is_for(task, own, said):
    with pytest.raises(ValueError, match=f"^MODEL: {said}"):
        predictor._chosen("net", task, own)
