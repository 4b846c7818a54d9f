"""Stored labels are what the teacher says of the very pictures that training shows, and nothing else is taken."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hf_effmodels import cli
from hf_effmodels.training import main, prepare
from hf_effmodels.training.preparation import soft_labels
from hf_effmodels.training.preparation.soft_labels import main as store
from hf_effmodels.training.tasks.distillation.arguments import DistillationArguments

from ..run.test_contents import change_weights
from ..tasks.contract import history, same, weights
from ..tasks.distillation.conftest import distilled_run, teacher  # noqa: F401

LOSSES = ["--losses", "{kd: {temperature: 2}}", "--randaugment", "rand-m9-mstd0.5-inc1", "--random_erasing", "0.5"]
SHORT = ["--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false"]


@pytest.fixture
def run(distilled_run):  # noqa: F811
    return [*distilled_run, *LOSSES, *SHORT]


def without_teacher(run: list[str], folder) -> list[str]:
    at = run.index("--teacher")
    return [*run[:at], *run[at + 2 :], "--stored_labels", str(folder)]


def test_training_with_stored_labels_has_the_losses_of_the_teacher_online(run, tmp_path, monkeypatch):
    labels = ["--output_dir", str(tmp_path / "unused"), "--output", str(tmp_path / "labels")]
    labels += ["--top_k", "10", "--label_precision", "float32", "--shard_size", "32"]
    real, calls = soft_labels._shard, []

    def killed(*args):
        calls.append(args[1])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(soft_labels, "_shard", killed)
    with pytest.raises(KeyboardInterrupt):
        store([*run, *labels])
    with pytest.raises(ValueError, match="holds no finished table"):
        main([*without_teacher(run, tmp_path / "labels"), "--output_dir", str(tmp_path / "early")])
    with pytest.raises(ValueError, match="holds a table begun with another top_k"):
        store([*run, *labels, "--top_k", "3"])
    with pytest.raises(ValueError, match="holds a table begun with another shard_size"):
        store([*run, *labels, "--shard_size", "7"])
    other = tmp_path / "other" / "teacher"
    shutil.copytree(run[run.index("--teacher") + 1], other)
    change_weights(other)
    shutil.move(named := Path(run[run.index("--teacher") + 1]), kept := tmp_path / "kept")
    shutil.move(other, named)
    try:
        with pytest.raises(ValueError, match="holds a table begun with another weights"):
            store([*run, *labels])
    finally:
        shutil.rmtree(named)
        shutil.move(kept, named)
    calls.clear()
    monkeypatch.setattr(soft_labels, "_shard", lambda *args: (calls.append(args[1]), real(*args))[1])
    store([*run, *labels])
    assert calls == [range(32, 64), range(64, 80)], "the first file was there already"

    main([*run, "--output_dir", str(tmp_path / "online")])
    main([*without_teacher(run, tmp_path / "labels"), "--output_dir", str(tmp_path / "stored")])
    online, stored = (history(tmp_path / name, "loss", "kd") for name in ("online", "stored"))
    assert np.array_equal(stored, online)
    assert same(weights(tmp_path / "stored"), weights(tmp_path / "online"))
    assert len(online) == 10 and np.ptp(np.asarray(online)[:, 1]) > 1e-3

    other = tmp_path / "refused"
    for options, message in (
        (["--seed", "7"], "they are of another seed: 42, not 7"),
        (["--random_erasing", "0.4"], "another augmentation.random_erasing: 0.5, not 0.4"),
        (["--max_train_samples", "39"], "another samples: 40, not 39"),
        (["--num_train_epochs", "3"], "they are of 2 epochs, the training has 3"),
        (["--image_size", "20"], "the augmented pictures are not those that the teacher saw"),
        (["--mixup", "0.2"], "pictures that are not mixed; --mixup 0"),
        (["--losses", "{fitnet: {stages: [1]}}"], "the loss fitnet needs a teacher's features"),
        (["--losses", "{rkd: {}}"], "stored labels are logits|needs a teacher's features"),
        (["--teacher", "some/where"], "--teacher and --stored_labels exclude each other"),
    ):
        with pytest.raises(ValueError, match=message):
            main([*without_teacher(run, tmp_path / "labels"), *options, "--output_dir", str(other)])
    assert not (other / "training_config.yaml").exists()


def test_the_rest_is_shared_by_the_classes_that_are_not_stored(run, teacher, tmp_path):  # noqa: F811
    (tmp_path / "trained").mkdir()
    (tmp_path / "trained" / "config.json").write_text("{}")  # of the run that the recipe names: nothing to labels
    store([*run, "--output_dir", str(tmp_path / "trained"), "--output", str(tmp_path / "labels"), "--top_k", "3"])
    assert [file.name for file in (tmp_path / "trained").iterdir()] == ["config.json"]
    settings = json.loads((tmp_path / "labels" / "soft_labels.json").read_text())
    assert settings["teacher"] == {str(teacher): 1.0} and settings["epochs"] == 2
    prepared = prepare("prepare_training", [*run, "--output_dir", str(tmp_path / "a")]).trainer
    taught = prepare(
        "prepare_training", [*without_teacher(run, tmp_path / "labels"), "--output_dir", str(tmp_path / "b")]
    ).trainer
    samples = [prepared.train_dataset[40 + index] for index in (3, 17)]  # of the second epoch
    seeds = torch.tensor([sample["sample_seed"] for sample in samples])
    found = taught.teachers.logits(1, torch.tensor([3, 17]), seeds).exp()
    expected = prepared.teachers.logits(torch.stack([sample["pixel_values"] for sample in samples])).softmax(1)
    for row, full in zip(found, expected, strict=True):
        kept = full.topk(3)
        torch.testing.assert_close(row[kept.indices], kept.values, rtol=1e-3, atol=1e-4)
        others = torch.ones(10, dtype=torch.bool).scatter_(0, kept.indices, False)
        torch.testing.assert_close(row[others], ((1 - kept.values.sum()) / 7).expand(7), rtol=1e-2, atol=1e-3)
    with pytest.raises(ValueError, match="augmented by other seeds"):
        taught.teachers.logits(0, torch.tensor([3, 17]), seeds)


@pytest.mark.parametrize(
    "top_k, precision, values",
    [(10, "float32", "logits"), (10, "float16", "probabilities"), (9, "float32", "probabilities")],
)
def test_logits_are_stored_where_all_of_them_are_kept_as_they_are(run, tmp_path, top_k, precision, values):
    out = ["--output_dir", str(tmp_path / "unused"), "--output", str(tmp_path / "labels")]
    *_, settings = soft_labels._prepare(
        [*run, *out, "--top_k", str(top_k), "--label_precision", precision, "--num_train_epochs", "1"]
    )
    assert (settings["values"], settings["top_k"], settings["precision"]) == (values, top_k, precision)
    assert settings["epochs"] == 1 and settings["revision"] is None


def test_a_table_is_of_one_revision_of_the_teacher(run, tmp_path, monkeypatch):
    """The teacher lies on this machine, so that its revision is named only once it has been loaded."""
    prepared = soft_labels._TASK.prepare_training

    def of_revision(reader):
        trained = prepared(reader)
        reader.read(DistillationArguments)[0].teacher_revision = "v2"
        return trained

    monkeypatch.setattr(soft_labels._TASK, "prepare_training", of_revision)
    out = ["--output_dir", str(tmp_path / "unused"), "--output", str(tmp_path / "labels"), "--num_train_epochs", "1"]
    *_, settings = soft_labels._prepare([*run, *out])
    assert settings["revision"] == "v2"


def test_wrong_input_is_named(run, tmp_path):
    out = ["--output_dir", str(tmp_path / "unused"), "--output", str(tmp_path / "labels")]
    with pytest.raises(ValueError, match="--top_k: got 11, accepted are numbers up to that of the classes, 10"):
        store([*run, *out, "--top_k", "11"])
    with pytest.raises(ValueError, match="--stored_labels: these are made here; name a --teacher"):
        store([*without_teacher(run, "x"), *out])
    for options, message in (
        (["--mixup", "0.2"], "--mixup: labels are stored of pictures that are not mixed; accepted is 0"),
        (["--cutmix", "1"], "--cutmix: labels are stored of pictures that are not mixed; accepted is 0"),
    ):
        with pytest.raises(ValueError, match=message):
            store([*run, *out, *options])
    at = run.index("--teacher")
    alone = [*run[:at], *run[at + 2 :], "--losses", "{lsskd: {stages: [1, 2], heads: light}}"]
    with pytest.raises(ValueError, match="--teacher is missing: name an image classifier on the Hub or in a local"):
        store([*alone, *out])
    with pytest.raises(ValueError, match="--output is missing"):
        store([*run, "--output_dir", str(tmp_path / "unused")])
    with pytest.raises(ValueError, match="--task: got image-classification, accepted is distillation"):
        store(["--output", str(tmp_path / "labels")])
    with pytest.raises(OSError, match="--stored_labels: there is no folder"):
        main([*without_teacher(run, tmp_path / "nowhere"), "--output_dir", str(tmp_path / "x")])
    assert not (tmp_path / "labels").exists()


def test_help_is_shown_where_no_task_is_named(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["prepare", "soft-labels", "--help"])
    assert ended.value.code == 0 and "--label_precision" in capsys.readouterr().out


def test_labels_are_stored_by_one_process(monkeypatch, tmp_path):
    several = SimpleNamespace(trainer=SimpleNamespace(args=SimpleNamespace(world_size=2)))
    monkeypatch.setattr(soft_labels, "_TASK", SimpleNamespace(prepare_training=lambda reader: several))
    with pytest.raises(ValueError, match="^prepare soft-labels: got 2 processes, accepted is one.$"):
        store(["--task", "distillation", "--model", "m", "--dataset", "digits", "--output", str(tmp_path / "labels"),
               "--output_dir", str(tmp_path / "run"), "--losses", "{kd: {}}"])  # fmt: skip
