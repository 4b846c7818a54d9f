"""What each task writes of a finished training into its card and curves, and what it prints of an evaluation."""

import dataclasses
import importlib
import json
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest

from hf_effmodels.training.task import list_tasks, load_task

from .recorders import Calls
from .test_rare_preparations import patched


def reports_of(task: str):
    return importlib.import_module(f"hf_effmodels.training.tasks.{task}.reports")


DENSE = {"loss": {"loss": "training"}}
#: Task -> metrics that are in its card, what it is for on the Hub, its curves and the axis they are drawn over.
CARDS = {
    "object_detection": (
        ("map", "map_50", "map_75"),
        "object-detection",
        {**DENSE, "average precision": {"eval_map": "AP", "eval_map_50": "AP, IoU 0.5"}},
        None,
    ),
    "semantic_segmentation": (
        ("miou", "pixel_accuracy", "mean_accuracy"),
        "image-segmentation",
        {**DENSE, "share": {"eval_miou": "mean IoU", "eval_pixel_accuracy": "pixel accuracy"}},
        None,
    ),
    "mask_generation": (
        ("miou_point", "miou_box", "loss"),
        "mask-generation",
        {
            "loss": {"loss": "training", "eval_loss": "evaluation"},
            "mean IoU": {"eval_miou_point": "by a point", "eval_miou_box": "by a box"},
        },
        "step",
    ),
    "image_text_to_text": (
        ("accuracy", "cider"),
        "image-text-to-text",
        {"cross entropy per answer token": {"loss": "training", "eval_loss": "evaluation"}},
        None,
    ),
    "contrastive_language_image": (
        ("accuracy", "image_to_text_recall_at_1", "text_to_image_recall_at_10"),
        "zero-shot-image-classification",
        {
            "loss": {"loss": "training", "eval_loss": "evaluation (pairs)", "word_loss": "word loss"},
            "share": {
                "eval_accuracy": "accuracy",
                "eval_image_to_text_recall_at_1": "image to text recall at 1",
            },
        },
        None,
    ),
}


@pytest.fixture
def written(monkeypatch, tmp_path):
    """A task's `write_results` with recorders around it: what it has called."""

    def call(task: str, named: dict, saves: bool = True, metrics=None, plots: bool = True, **more):
        module, calls = reports_of(task), Calls()
        patched(
            monkeypatch,
            module,
            save_results=calls.of("save_results", "all results"),
            has_matplotlib=lambda: plots,
            plot_curves=calls.of("curves"),
            write_card=calls.of("card"),
            training_summary=calls.of("summary", "the summary"),
            **{name: calls.of(name) for name in more.pop("recorded", ())},
        )
        metrics = {f"eval_{name}": number / 10 for number, name in enumerate(metrics or CARDS[task][0])}
        metrics |= {"eval_runtime": 9.0, "eval_samples_per_second": 9.0, "eval_samples": 9, **more.pop("extra", {})}
        args = SimpleNamespace(should_save=saves, output_dir=str(tmp_path), **more.pop("args", {}))
        split = {"split": "some/folder/holidays"}
        trainer = SimpleNamespace(
            args=args,
            state=SimpleNamespace(log_history="the history"),
            eval_dataset=more.pop("data", SimpleNamespace(source=SimpleNamespace(**split))),
            get_total_train_batch_size=lambda given: 96 if given is args else None,
            **more,
        )
        data = SimpleNamespace(dataset="some/where")
        found = module.write_results(trainer, "train", metrics, "config", SimpleNamespace(**named), data)
        assert found == "all results" and calls["save_results"] == [((trainer, "train", metrics), {})]
        return calls, trainer, metrics

    return call


SPECIAL = {
    "object_detection": {
        "recorded": ["write_figures"],
        "args": {"eval_pictures": 3},
        "last_measured": "measured",
        "network": SimpleNamespace(config=SimpleNamespace(id2label={0: "a", 1: "b"}, num_labels=2)),
    },
    "semantic_segmentation": {"recorded": ["write_figures"], "last_measured": "measured"},
    "mask_generation": {"recorded": ["draw_masks"], "args": {"shown_pictures": 2}, "network": "a network"},
    "image_text_to_text": {
        "recorded": ["save_peft_adapter"],
        "args": {"train": "all"},
        "adapter_only": "adapters",
        "accelerator": SimpleNamespace(unwrap_model=lambda model: None),
        "model": None,
        "extra": {"eval_loss": 2.0},
    },
    "contrastive_language_image": {
        "_weights": {"word_loss": 1.0},
        "leave_training_parts": lambda: None,
        "extra": {"eval_loss": 2.0},
    },
}


@pytest.mark.parametrize("saves, plots", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("task", CARDS)
def test_a_card_has_what_says_how_good_the_model_is_and_where_it_was_measured(task, saves, plots, written, tmp_path):
    names, tag, panels, axis = CARDS[task]
    special, model = dict(SPECIAL[task]), {"model": "some/model", "text_model": None}
    dataset, split = "some/where", "holidays"
    if task == "mask_generation":

        class Data(list):
            pass

        special["data"] = Data(range(7))
        dataset, split = "shapes over photographs", "7 pictures of photographs that were not trained on"
    if task == "image_text_to_text":
        special["data"] = SimpleNamespace(samples=SimpleNamespace(split="some/folder/holidays"))
    calls, trainer, metrics = written(task, model, saves=saves, plots=plots, **special)
    if not saves:
        assert set(calls) == {"save_results"}
        return
    [(given, card)] = calls["card"]
    assert given == (trainer, {name: metrics[f"eval_{name}"] for name in names})
    expected = {"split": split, "dataset": dataset, "model": "some/model", "pipeline_tag": tag}
    expected |= {"training": "the summary", **({"adapter_only": "adapters"} if task == "image_text_to_text" else {})}
    assert card == expected
    assert calls["summary"] == [(("config", reports_of(task).HYPER_PARAMETERS, 96), {})]
    file = tmp_path / "training_curve.png"
    over = {} if axis is None else {"x": axis}
    assert calls.get("curves", []) == ([(("the history", file, panels), over)] if plots else [])
    source = trainer.eval_dataset
    if task == "object_detection":
        assert calls["write_figures"] == [(("measured", source, ["a", "b"], tmp_path, 3), {})]
    if task == "semantic_segmentation":
        assert calls["write_figures"] == [(("measured", tmp_path), {})]
    if task == "mask_generation":
        assert calls.get("draw_masks", []) == ([(("a network", source, 2, tmp_path / "masks.png"), {})] * plots)


@pytest.mark.parametrize("task, kind", [("object_detection", "detector"), ("semantic_segmentation", "segmenter")])
def test_a_card_of_a_model_that_was_built_anew_names_its_type(task, kind, written):
    calls, _, _ = written(task, {"model": None, kind: "a-type"}, **SPECIAL[task])
    assert calls["card"][0][1]["model"] == "a-type"


def test_a_card_of_adapters_names_the_model_that_they_are_for(written):
    data = SimpleNamespace(samples=SimpleNamespace(split="x"))
    special = {**SPECIAL["image_text_to_text"], "data": data}
    calls, _, _ = written("image_text_to_text", {"model": "adem-vl-7b", "text_model": "some/llama"}, **special)
    assert calls["card"][0][1]["model"] == "some/llama" and "save_peft_adapter" not in calls


@pytest.mark.parametrize("train, base, kept", [("adapters", "some/llama", True), ("adapters", None, False)])
def test_adapters_lie_beside_as_peft_takes_them_where_their_model_is_elsewhere(train, base, kept, written, tmp_path):
    network = SimpleNamespace(config=SimpleNamespace(text_model_name_or_path=base))
    special = {
        **SPECIAL["image_text_to_text"],
        "args": {"train": train},
        "data": SimpleNamespace(samples=SimpleNamespace(split="x")),
        "accelerator": SimpleNamespace(unwrap_model=lambda model: network),
    }
    calls, _, _ = written("image_text_to_text", {"model": "m", "text_model": None}, **special)
    assert calls.get("save_peft_adapter", []) == ([((network, tmp_path / "peft"), {})] if kept else [])


def test_of_what_has_no_score_the_loss_is_in_the_card(written):
    data = SimpleNamespace(samples=SimpleNamespace(split="x"))
    special = {**SPECIAL["image_text_to_text"], "data": data, "extra": {}}
    calls, trainer, _ = written(
        "image_text_to_text", {"model": "m", "text_model": None}, metrics=("loss", "epoch", "unanswered"), **special
    )
    assert calls["card"][0][0] == (trainer, {"loss": 0.0})
    special = {**SPECIAL["contrastive_language_image"], "extra": {}}
    calls, trainer, _ = written("contrastive_language_image", {"model": "m"}, metrics=("loss",), **special)
    assert calls["card"][0][0] == (trainer, {"loss": 0.0})


@pytest.mark.parametrize("side", [None, 96])
@pytest.mark.parametrize("shown", [0, 3])
def test_masked_images_leave_an_encoder_with_its_image_processor(side, shown, monkeypatch, tmp_path):
    module, calls = reports_of("masked_image_modeling"), Calls()

    class Processor:
        def __init__(self, side=None):
            self.side = side

        def save_pretrained(self, folder):
            calls.of("processor")(self.side, folder)

    patched(
        monkeypatch,
        module,
        save_results=lambda *_: "all results",
        rewritten=lambda folder, by: nullcontext(folder),
        encoder_processor=lambda network, processor: Processor(),
        sized_processor=lambda processor, side: Processor(side),
        has_matplotlib=lambda: True,
        plot_curves=calls.of("curves"),
        draw_predictions=calls.of("draw"),
        write_card=calls.of("card"),
        training_summary=lambda *_: "the summary",
    )
    args = SimpleNamespace(
        should_save=True, output_dir=str(tmp_path), encoder_image_size=side, encoder_window_size=7, shown_images=shown
    )
    history = [{"loss": 1.0, "loss_scale_1": 1.0}, {"eval_loss": 2.0}]
    trainer = SimpleNamespace(
        args=args,
        network=SimpleNamespace(save_encoder=calls.of("encoder")),
        processing_class="processor",
        state=SimpleNamespace(log_history=history),
        eval_dataset=SimpleNamespace(source=SimpleNamespace(split="mine/test")),
        get_total_train_batch_size=lambda args: 8,
    )
    metrics = {"eval_loss": 2.0, "eval_loss_scale_1": 3.0, "eval_runtime": 9.0}
    model, data = SimpleNamespace(model="m"), SimpleNamespace(dataset="d")
    assert module.write_results(trainer, {}, metrics, {}, model, data) == "all results"
    assert calls["encoder"] == [((tmp_path / "encoder", side, 7), {})]
    assert calls["processor"] == [((side, tmp_path / "encoder"), {})]
    [(given, card)] = calls["card"]
    assert given == (trainer, {"loss": 2.0, "loss_scale_1": 3.0})
    assert card == {
        "split": "test", "dataset": "d", "model": "m", "pipeline_tag": "image-feature-extraction",
        "training": "the summary",
    }  # fmt: skip
    drawn = [((trainer.network, trainer.eval_dataset, 3, tmp_path / "masked.png"), {})]
    assert calls.get("draw", []) == (drawn if shown else [])
    [(curves, _)] = calls["curves"]
    assert curves[2] == {"loss": {"loss": "training", "eval_loss": "evaluation", "loss_scale_1": "scale 1"}}


# Evaluations


def filed(monkeypatch, module, calls: Calls) -> None:
    monkeypatch.setattr(module, "write_results_file", calls.of("file", lambda file, results, call: results))


@pytest.mark.parametrize("output", [None, "results/e.json"])
def test_a_measured_detector_is_told_with_its_classes_and_figures_beside_the_file(output, capsys, monkeypatch):
    module, calls = reports_of("object_detection"), Calls()
    filed(monkeypatch, module, calls)
    monkeypatch.setattr(module, "write_figures", calls.of("figures"))
    precision = SimpleNamespace(metrics={"map": 0.5, "AP_small": 0.1}, per_class={"a": 0.25, "b": float("nan")})
    measured = SimpleNamespace(metrics={"map": 0.5, "map_50": 0.75, "samples": 4}, precision=precision)
    dataset = SimpleNamespace(source=SimpleNamespace(split="mine/test"))
    args, call = SimpleNamespace(output=output, eval_pictures=3), {"model": "m", "dataset": "d", "other": 1}
    found = module.write_evaluation(measured, dataset, ["a", "b"], args, call)
    said = capsys.readouterr().out
    assert found == {
        "model": "m", "dataset": "d", "split": "mine/test", "map": 0.5, "map_50": 0.75, "samples": 4, "AP_small": 0.1,
        "per_class": {"a": 0.25, "b": None},
    }  # fmt: skip
    assert calls["file"] == [((output, found, call), {})] and said == "AP 50.00  AP50 75.00  n 4\n"
    folder = None if output is None else module.Path("results")
    figures = [((measured, dataset, ["a", "b"], folder, 3), {"prefix": "e_"})]
    assert calls.get("figures", []) == (figures if output else [])


@pytest.mark.parametrize("output", [None, "results/e.json"])
def test_a_measured_segmenter_is_told_with_its_classes_and_figures_beside_the_file(output, capsys, monkeypatch):
    module, calls = reports_of("semantic_segmentation"), Calls()
    filed(monkeypatch, module, calls)
    monkeypatch.setattr(module, "write_figures", calls.of("figures"))
    metrics = {"miou": 0.5, "pixel_accuracy": 0.75, "samples": 4}
    measured = SimpleNamespace(metrics=metrics, per_class={"a": 0.25, "b": float("nan")})
    dataset = SimpleNamespace(source=SimpleNamespace(split="mine/test"))
    args, call = SimpleNamespace(output=output), {"model": "m", "dataset": "d"}
    found = module.write_evaluation(measured, dataset, args, call)
    said = capsys.readouterr().out
    assert found == {
        "model": "m", "dataset": "d", "split": "mine/test", **metrics, "per_class": {"a": 0.25, "b": None},
    }  # fmt: skip
    assert calls["file"] == [((output, found, call), {})] and said == "mIoU 50.00  pixels 75.00  n 4\n"
    figures = [((measured, module.Path("results")), {"prefix": "e_"})]
    assert calls.get("figures", []) == (figures if output else [])


def test_shares_of_two_towers_are_told_in_per_cent_and_losses_are_not(capsys, monkeypatch):
    module, calls = reports_of("contrastive_language_image"), Calls()
    filed(monkeypatch, module, calls)
    measured = {"loss": 1.5, "accuracy": 0.25, "top_5_accuracy": 0.5, "image_to_text_recall_at_5": 0.125}
    found = module.write_evaluation(measured, {"model": "m", "samples": 8}, "e.json", {"task": "t"})
    said = capsys.readouterr().out
    assert found == {"model": "m", "samples": 8, **measured}
    assert calls["file"] == [(("e.json", found, {"task": "t"}), {})]
    expected = "loss 1.5000  accuracy 25.00 %  top_5_accuracy 50.00 %  image_to_text_recall_at_5 12.50 %  n 8\n"
    assert said == expected


@pytest.mark.parametrize("asked", [True, False])
def test_answers_are_written_with_their_questions_where_that_is_asked_for(asked, capsys, monkeypatch, tmp_path):
    module, calls = reports_of("image_text_to_text"), Calls()
    filed(monkeypatch, module, calls)
    samples = [SimpleNamespace(question=f"q{n}", references=(f"r{n}", "é")) for n in range(2)]
    file = tmp_path / "answers.jsonl"
    args = SimpleNamespace(output="e.json", answers=str(file) if asked else None)
    call = {"model": "m", "dataset": "d"}
    metrics = {"accuracy": 0.5, "samples": 2}
    found = module.write_evaluation(metrics, samples, ["a0", "a1"], "test", args, call)
    said = capsys.readouterr().out
    assert found == {"model": "m", "dataset": "d", "split": "test", **metrics}
    assert said == "accuracy 0.5\nsamples 2\n"
    assert file.exists() == asked
    if asked:
        lines = file.read_text(encoding="utf-8").splitlines()
        assert "é" in lines[0] and [json.loads(line) for line in lines] == [
            {"prompt": f"q{n}", "answer": f"a{n}", "references": [f"r{n}", "é"]} for n in range(2)
        ]


# Hyper-parameters

#: Task -> one whose runs write the same card.
BUILT_ON = {"image-classification": "distillation", "causal-lm": "language-distillation"}


@pytest.mark.parametrize("name", list_tasks())
def test_a_card_states_hyper_parameters_that_there_are_each_once(name):
    """One that is called otherwise would be left out without a word."""
    module = load_task(name)
    kinds = [*module.TRAINING_ARGUMENTS, *(load_task(BUILT_ON[name]).TRAINING_ARGUMENTS if name in BUILT_ON else ())]
    known = {field.name for kind in kinds for field in dataclasses.fields(kind)}
    folder = module.__name__.removesuffix(".task")
    places = [sys.modules.get(f"{folder}.{part}") for part in ("task", "reports")]
    stated = [place.HYPER_PARAMETERS for place in places if hasattr(place, "HYPER_PARAMETERS")]
    for names in stated:
        assert not set(names) - known and len(set(names)) == len(names)
        assert {"learning_rate", "seed", "num_train_epochs"} <= set(names)


def test_colours_of_classes_are_pascals_and_what_is_none_is_white():
    palette = reports_of("semantic_segmentation").palette()
    first = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128), (0, 128, 128)]
    assert palette.shape == (256, 3) and palette[:7].tolist() == [list(colour) for colour in first]
    assert palette[8].tolist() == [64, 0, 0] and palette[255].tolist() == [255] * 3
    assert len(np.unique(palette[:255], axis=0)) == 255
