"""Of several processes the first writes the results; the others tell them, too, and leave the folder alone."""

from importlib import import_module
from types import SimpleNamespace

import pytest

from hf_effmodels.training.tasks.causal_lm import reports as causal_lm

TASKS = "hf_effmodels.training.tasks"
REPORTS = (
    *("semantic_segmentation", "object_detection", "mask_generation", "super_resolution", "image_text_to_text"),
    *("contrastive_language_image", "masked_image_modeling", "visual_sequence_modeling"),
)


def trainer(folder, first: bool = False, **more):
    args = SimpleNamespace(output_dir=str(folder), should_save=first)
    nothing = {"last_measured": None, "_weights": {}, "leave_training_parts": lambda: None, "eval_dataset": None}
    return SimpleNamespace(args=args, **nothing | more)


@pytest.mark.parametrize("task", REPORTS)
def test_a_process_that_is_not_the_first_writes_no_results(task, tmp_path, monkeypatch):
    reports = import_module(f"{TASKS}.{task}.reports")
    given = []
    monkeypatch.setattr(reports, "save_results", lambda *metrics: given.append(metrics[1:]) or {"eval_x": 3})
    own = trainer(tmp_path)
    metrics = [{"train_loss": 1.0}, {"eval_x": 3}, {}, {}, {}]
    assert reports.write_results(own, *metrics) == {"eval_x": 3}
    assert given == [({"train_loss": 1.0}, {"eval_x": 3})], "all processes gather what is saved"
    assert not [*tmp_path.iterdir()]
    with pytest.raises(Exception):  # noqa: B017  the first one writes of a trainer that has nothing
        reports.write_results(trainer(tmp_path, first=True), *metrics)


def test_a_process_that_is_not_the_first_writes_no_generator(tmp_path, monkeypatch):
    task = import_module(f"{TASKS}.data_free_distillation.task")
    written = []
    monkeypatch.setattr(task, "save_results", lambda *metrics: {"train_loss": 1.0})
    monkeypatch.setattr(task, "save_generator", lambda *given: written.append(given))
    nothing = (None, {}, None, None, None, None, {"train_loss": 1.0})
    assert task._report(trainer(tmp_path), *nothing) == {"train_loss": 1.0} and not written
    with pytest.raises(AttributeError):
        task._report(trainer(tmp_path, first=True, generator="generator"), *nothing)
    assert written == [("generator", tmp_path / "generator")]


@pytest.mark.parametrize("first", [False, True])
def test_language_models_are_reported_by_the_first_process_alone(first, tmp_path, monkeypatch):
    written, waited = [], []
    monkeypatch.setattr(causal_lm, "text_metrics", lambda metrics, size: metrics | {"bytes": size})
    monkeypatch.setattr(causal_lm, "save_results", lambda trainer, train, metrics: train | metrics)
    monkeypatch.setattr(causal_lm, "_write_reports", lambda *given: written.append(given[1]))
    own = trainer(
        tmp_path,
        first,
        model=SimpleNamespace(config=SimpleNamespace(use_cache=False)),
        eval_dataset=SimpleNamespace(counts=SimpleNamespace(bytes=7)),
        accelerator=SimpleNamespace(wait_for_everyone=lambda: waited.append(1)),
        is_fsdp_enabled=False,
        is_deepspeed_enabled=False,
    )
    metrics = {"eval_loss": 2.0, "bytes": 7}
    assert causal_lm.write_results(own, {}, {"eval_loss": 2.0}, {}, None, None) == metrics
    assert written == [metrics] * first and waited == [1] and own.model.config.use_cache


@pytest.mark.parametrize("sharding", ["is_fsdp_enabled", "is_deepspeed_enabled"])
def test_of_weights_in_parts_the_saved_model_is_what_the_reports_are_of(sharding, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(causal_lm, "text_metrics", lambda metrics, size: metrics)
    monkeypatch.setattr(causal_lm, "save_results", lambda *metrics: {})
    monkeypatch.setattr(causal_lm, "unset_hf_deepspeed_config", lambda: told.append("unset"))
    load = SimpleNamespace(from_pretrained=lambda folder: told.append(folder) or "whole")
    monkeypatch.setattr(causal_lm, "AutoModelForCausalLM", load)
    monkeypatch.setattr(causal_lm, "_write_reports", lambda trainer, *_: told.append(trainer.model))
    model = SimpleNamespace(config=SimpleNamespace(use_cache=False))
    own = trainer(
        tmp_path,
        True,
        model=model,
        eval_dataset=SimpleNamespace(counts=SimpleNamespace(bytes=7)),
        accelerator=SimpleNamespace(wait_for_everyone=lambda: None),
        **{"is_fsdp_enabled": False, "is_deepspeed_enabled": False} | {sharding: True},
    )
    causal_lm.write_results(own, {}, {}, {}, None, None)
    # Before it is loaded: transformers would shard what it loads.
    assert told == ["unset", tmp_path, "whole"] and own.model is model


#: Task -> what an evaluation is called with beside its settings, and what measures.
EVALUATIONS = {
    "semantic_segmentation": (("model", "processor", "dataset"), ("call",), "measure"),
    "object_detection": (("model", "processor", "dataset", "names"), ("call",), "measure"),
}


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("task", EVALUATIONS)
def test_an_evaluation_is_written_by_the_first_process_alone(task, first, monkeypatch):
    module = import_module(f"{TASKS}.{task}.task")
    before, after, measures = EVALUATIONS[task]
    measured = SimpleNamespace(metrics={"x": 1})
    monkeypatch.setattr(module, "PartialState", lambda: SimpleNamespace(is_main_process=first))
    monkeypatch.setattr(module, measures, lambda *_, **__: measured)
    monkeypatch.setattr(module, "write_evaluation", lambda *given: given)
    model = SimpleNamespace(to=lambda device: None)
    names = ("per_device_eval_batch_size", "dataloader_num_workers", "eval_mode", "eval_stride", "eval_pictures")
    names += ("eval_threshold", "eval_nms_threshold", "precision")
    args = SimpleNamespace(**dict.fromkeys(names))
    found = module._evaluate(model, *before[1:], args, *after)
    assert found == ((measured, *before[2:], args, "call") if first else {"x": 1})


@pytest.mark.parametrize("first", [False, True])
def test_enlarged_pictures_are_written_by_the_first_process_alone(first, tmp_path, monkeypatch):
    module = import_module(f"{TASKS}.super_resolution.task")
    monkeypatch.setattr(module, "PartialState", lambda: SimpleNamespace(is_main_process=first))
    monkeypatch.setattr(module, "enlarge_and_measure", lambda *_, **__: "results")
    monkeypatch.setattr(module, "averages", lambda results: {"of": results})
    saved = []
    monkeypatch.setattr(module, "save_images", lambda results, folder: saved.append((results, folder)))
    monkeypatch.setattr(module, "write_evaluation", lambda *given: given)
    args = SimpleNamespace(
        seed=0, eval_size=None, crop_border=0, save_images=str(tmp_path), metrics=[], output="results.json"
    )
    found = module._evaluate(None, None, 4, args, {}, "cpu", "call")
    assert found == (("results", {}, "results.json", "call") if first else {"of": "results"})
    assert saved == [("results", tmp_path)] * first
