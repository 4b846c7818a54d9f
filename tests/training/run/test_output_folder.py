import json
import os
import shutil
import zipfile
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from hf_effmodels.training import list_tasks, load_task
from hf_effmodels.training.run.arguments import FilledReader
from hf_effmodels.training.run.held import check_free, checkpoints_in, read_resume, step_of_checkpoint
from hf_effmodels.training.run.lock import owner_of
from hf_effmodels.training.run.output_folder import (
    RUN_FILE,
    WEIGHTS_WITHOUT_EMA,
    changes,
    clear_output_folder,
    making_no_folder,
    newest_checkpoint,
    open_output_folder,
    open_run,
    snapshot,
    what_is_missing,
    write_run,
)
from hf_effmodels.training.run.recipe_arguments import defaults_of, resolved
from hf_effmodels.training.run.run import Run

TASK = "image-classification"
CONFIG = {"learning_rate": 0.1, "seed": 0, "logging_steps": 50}


def write_checkpoint(folder, step):
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    save_file({"weight": torch.zeros(100)}, checkpoint / "model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save({"state": torch.zeros(100)}, checkpoint / name)
    (checkpoint / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    return checkpoint


def cut_off(file):
    file.write_bytes(file.read_bytes()[:-20])


def flip_a_byte(file):
    """Within the largest entry of an archive, whose checksum then is another."""
    with zipfile.ZipFile(file) as archive:
        entry = max(archive.infolist(), key=lambda info: info.file_size)
    content = bytearray(file.read_bytes())
    content[entry.header_offset + 30 + len(entry.filename) + len(entry.extra) + entry.file_size // 2] ^= 255
    file.write_bytes(bytes(content))
    with zipfile.ZipFile(file) as archive:
        assert archive.testzip() is not None


def damage_the_table(file):
    """An archive's list of what is in it."""
    content = bytearray(file.read_bytes())
    content[content.rindex(b"PK\x01\x02")] ^= 255
    file.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda whole: (whole / "trainer_state.json").write_text("[]"), "no readable trainer_state.json"),
        (lambda whole: (whole / "trainer_state.json").write_bytes(b"\xff"), "no readable trainer_state.json"),
        (lambda whole: (whole / "trainer_state.json").write_text("{}"), "trainer_state.json is of step None"),
        (lambda whole: damage_the_table(whole / "scheduler.pt"), "scheduler.pt is damaged"),
        (lambda whole: flip_a_byte(whole / "rng_state.pth"), "rng_state.pth is damaged"),
        (lambda whole: cut_off(whole / "optimizer.pt"), "optimizer.pt is cut off"),
        (lambda whole: cut_off(whole / "model.safetensors"), "model.safetensors is cut off"),
        (lambda whole: (whole / "model.safetensors").rename(whole / WEIGHTS_WITHOUT_EMA), "no weights"),
        (lambda whole: (whole / "a.index.json").write_text("[]"), "a.index.json is no index of weights"),
        (lambda whole: (whole / "a.index.json").write_text('{"weight_map": {"w": []}}'), "a.index.json is no index"),
        (lambda whole: (whole / "a.index.json").write_text('{"weight_map": {"w": "b", "v": "a"}}'), "no a"),
        (lambda whole: (whole / "optimizer.pt").unlink(), "no optimizer.pt"),
        (lambda whole: (whole / "scheduler.pt").unlink(), "no scheduler.pt"),
        (lambda whole: write_run(whole.parent, {**CONFIG, "ema_decay": 0.9}), f"no {WEIGHTS_WITHOUT_EMA}"),
    ],
)
def test_what_a_checkpoint_lacks_is_told(damage, said, tmp_path):
    checkpoint = write_checkpoint(tmp_path, 10)
    assert what_is_missing(checkpoint) is None
    damage(checkpoint)
    assert what_is_missing(checkpoint).startswith(said)


def test_a_sharded_checkpoint_has_its_states_in_folders(tmp_path):
    checkpoint = write_checkpoint(tmp_path, 10)
    for name in ("optimizer.pt", "scheduler.pt"):
        (checkpoint / name).unlink()
    (checkpoint / "optimizer_0").mkdir()
    assert what_is_missing(checkpoint) is None
    (checkpoint / "model.safetensors").rename(checkpoint / "pytorch_model_fsdp.bin")
    assert what_is_missing(checkpoint) is None


def test_the_newest_checkpoint_is_the_one_of_the_most_steps(tmp_path):
    for step in (9, 100, 20):
        write_checkpoint(tmp_path, step)
    for name in ("checkpoint-300x", "checkpoint-", "my-checkpoint-500"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-400").touch()
    assert newest_checkpoint(tmp_path).name == "checkpoint-100" and newest_checkpoint(tmp_path / "none") is None


@pytest.mark.parametrize("name", ["checkpoint-5-backup", "checkpoint-5.bak", "my-checkpoint-5", "checkpoint-5 (copy)"])
def test_a_copy_of_a_checkpoint_under_another_name_is_the_users(name, tmp_path):
    """It is neither gone on from nor deleted with the run, however whole it is."""
    write_run(tmp_path, CONFIG)
    shutil.copytree(write_checkpoint(tmp_path, 5), tmp_path / name)
    write_checkpoint(tmp_path, 3)
    assert step_of_checkpoint(tmp_path / name) is None and step_of_checkpoint(tmp_path / "checkpoint-5") == 5
    assert [path.name for path in checkpoints_in(tmp_path)] == ["checkpoint-3", "checkpoint-5"]
    clear_output_folder(tmp_path)
    assert newest_checkpoint(tmp_path) is None
    assert [path.name for path in tmp_path.iterdir()] == [name] and what_is_missing(tmp_path / name) is None


def test_a_folder_that_was_made_for_a_run_goes_with_it_unless_something_is_in_it(tmp_path):
    with making_no_folder(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b").mkdir(parents=True)
    assert not (tmp_path / "a").exists() and tmp_path.is_dir()
    with making_no_folder(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b").mkdir(parents=True)
        (tmp_path / "a" / "notes").touch()
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["notes"]
    with making_no_folder(tmp_path / "a"):
        pass
    assert (tmp_path / "a").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="^--output_dir: .*/file is a file.$"):
        open_output_folder(tmp_path / "file", CONFIG, None, overwrite=False)


@pytest.mark.parametrize(
    "damage",
    [
        lambda checkpoint: (checkpoint / "trainer_state.json").unlink(),
        lambda checkpoint: cut_off(checkpoint / "trainer_state.json"),
        lambda checkpoint: cut_off(checkpoint / "model.safetensors"),
        lambda checkpoint: (checkpoint / "model.safetensors").unlink(),
        lambda checkpoint: cut_off(checkpoint / "optimizer.pt"),
        lambda checkpoint: (checkpoint / "scheduler.pt").unlink(),
        lambda checkpoint: cut_off(checkpoint / "rng_state.pth"),
        lambda checkpoint: (checkpoint / "rng_state.pth").unlink(),
        lambda checkpoint: flip_a_byte(checkpoint / "optimizer.pt"),
    ],
)
def test_an_unfinished_checkpoint_is_passed_over(damage, tmp_path):
    write_checkpoint(tmp_path, 90)
    whole = write_checkpoint(tmp_path, 100)
    assert newest_checkpoint(tmp_path) == whole
    damage(write_checkpoint(tmp_path, 200))
    assert newest_checkpoint(tmp_path) == whole


def test_a_folder_that_holds_a_run_is_only_reused_on_demand(tmp_path):
    assert open_output_folder(tmp_path / "new", CONFIG, None, overwrite=False) is None
    assert not (tmp_path / "new").exists()
    write_run(tmp_path, CONFIG)
    checkpoint = write_checkpoint(tmp_path, 10)
    with pytest.raises(ValueError, match="already holds a run.*--resume_from_checkpoint true.*--overwrite_output_dir"):
        open_output_folder(tmp_path, CONFIG, None, overwrite=False)
    assert open_output_folder(tmp_path, CONFIG, "true", overwrite=False) == checkpoint
    assert open_output_folder(tmp_path, {**CONFIG, "logging_steps": 1}, "auto", overwrite=False) == checkpoint
    with pytest.raises(ValueError, match="other arguments: learning_rate: 0.1 -> 0.2"):
        open_output_folder(tmp_path, {**CONFIG, "learning_rate": 0.2}, "true", overwrite=False)
    with pytest.raises(ValueError, match="exclude each other"):
        open_output_folder(tmp_path, CONFIG, "true", overwrite=True)
    assert open_output_folder(tmp_path, CONFIG, None, overwrite=True) is None
    (tmp_path / "notes.txt").write_text("mine")
    clear_output_folder(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_what_is_said_of_going_on_is_nothing_one_of_two_words_or_a_folder():
    for value in (None, "", False, "False", "no", "None"):
        assert read_resume(value) is None
    assert [read_resume(value) for value in (True, "TRUE", "Auto")] == ["true", "true", "auto"]
    assert read_resume("Out/checkpoint-4") == "Out/checkpoint-4"


def test_a_folder_with_a_model_is_not_overwritten(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="already holds a run or a model.*config.json"):
        open_output_folder(tmp_path, CONFIG, None, overwrite=False)
    # Not even when asked for: nothing says that a run has written it.
    with pytest.raises(ValueError, match="--overwrite_output_dir: .*config.json, but no training_config.yaml"):
        open_output_folder(tmp_path, CONFIG, None, overwrite=True)
    (tmp_path / RUN_FILE).write_text("learning_rate: 0.1\n")
    with pytest.raises(ValueError, match="no training_config.yaml that a run has written"):
        open_output_folder(tmp_path, CONFIG, None, overwrite=True)


@pytest.mark.parametrize("name", ["README.md", "training_curve.png", "sample.txt", "all_results.json"])
def test_what_a_run_would_write_over_is_refused_where_no_run_has_written_it(tmp_path, name):
    (tmp_path / name).write_text("a thesis")
    for resume, overwrite in ((None, False), (None, True), ("auto", False)):
        with pytest.raises(ValueError, match=rf"{tmp_path} .*holds .*{name}"):
            open_output_folder(tmp_path, CONFIG, resume, overwrite)
    write_run(tmp_path, CONFIG)
    assert open_output_folder(tmp_path, CONFIG, None, overwrite=False) is None


MODELS = ("config.json", "model.safetensors", "model.safetensors.index.json")
MODELS += ("model_index.json", "diffusion_pytorch_model.safetensors")
REPORTS = ("README.md", "trainer_state.json", "all_results.json", "train_results.json", "eval_results.json")
REPORTS += ("sample.txt", "text.json", "expert_load.json", "expert_load.png", "adaptation.json", "per_class.csv")
REPORTS += ("masks.png", "masked.png", "answers.png", "example.png", "submodels.json", "training_curve.png")


@pytest.mark.parametrize("name", [*MODELS, *REPORTS])
def test_every_file_that_a_run_of_some_task_writes_is_kept_unless_a_run_has_written_it(tmp_path, name):
    check_free(tmp_path, overwrite=False)
    (tmp_path / name).touch()
    for overwrite in (False, True):
        with pytest.raises(ValueError, match=f" holds .*{name}"):
            check_free(tmp_path, overwrite)
    write_run(tmp_path, CONFIG)
    check_free(tmp_path, overwrite=True)
    if name in REPORTS:  # beside the record of a run that has come to no model
        check_free(tmp_path, overwrite=False)
        return
    with pytest.raises(ValueError, match=f"already holds a run or a model .*{name}, {RUN_FILE}"):
        check_free(tmp_path, overwrite=False)


def test_a_run_that_ended_before_its_first_checkpoint_leaves_the_folder_to_any_other(tmp_path):
    write_run(tmp_path, CONFIG)
    for other in (CONFIG, {**CONFIG, "learning_rate": 7}):
        for resume in (None, "auto"):
            assert open_output_folder(tmp_path, other, resume, overwrite=False) is None
    # A recipe of one's own is no record.
    (tmp_path / RUN_FILE).write_text("learning_rate: 0.1\n")
    with pytest.raises(ValueError, match="already holds a run or a model .training_config.yaml."):
        open_output_folder(tmp_path, CONFIG, None, overwrite=False)


def test_where_to_resume_from_is_checked(tmp_path, caplog, monkeypatch):
    run = tmp_path / "run"
    write_run(run, CONFIG)
    with pytest.raises(ValueError, match="no whole checkpoint"):
        open_output_folder(run, CONFIG, "true", overwrite=False)
    assert open_output_folder(run, CONFIG, "auto", overwrite=False) is None
    with pytest.raises(ValueError, match="accepted are true, auto and a checkpoint"):
        open_output_folder(run, CONFIG, str(run / "checkpoint-7"), overwrite=False)
    checkpoint = write_checkpoint(run, 10)
    other = {**CONFIG, "seed": 1}
    with pytest.raises(ValueError, match="seed: 0 -> 1"):
        open_output_folder(run, other, str(checkpoint), overwrite=False)
    with monkeypatch.context() as inside:  # however either place is written
        inside.chdir(tmp_path)
        for folder, place in (("run", f"run/{checkpoint.name}"), (run, f"run/{checkpoint.name}"), ("run", checkpoint)):
            with pytest.raises(ValueError, match="seed: 0 -> 1"):
                open_output_folder(Path(folder), other, str(place), overwrite=False)
    # Another run may begin from it, with a word about what differs.
    assert open_output_folder(tmp_path / "other", other, str(checkpoint), overwrite=False) == checkpoint
    assert "seed: 0 -> 1" in caplog.text
    write_run(tmp_path / "other", other)
    (tmp_path / "other" / "config.json").touch()
    with pytest.raises(ValueError, match="already holds a run"):
        open_output_folder(tmp_path / "other", other, str(checkpoint), overwrite=False)
    with pytest.raises(ValueError, match="exclude each other"):
        open_output_folder(run, CONFIG, str(checkpoint), overwrite=True)
    (run / RUN_FILE).unlink()
    with pytest.raises(ValueError, match="checkpoint-10, but no training_config.yaml"):
        open_output_folder(run, CONFIG, "auto", overwrite=False)
    assert open_output_folder(run, CONFIG, str(checkpoint), overwrite=False) == checkpoint
    cut_off(checkpoint / "model.safetensors")
    with pytest.raises(ValueError, match="not whole.*model.safetensors"):
        open_output_folder(tmp_path / "other", other, str(checkpoint), overwrite=False)


def test_the_run_file_is_never_half_written_and_reads_back(tmp_path):
    write_run(tmp_path, {"model": "ghostnetv3-1.0x", "crop_scale": [0.1, 1.0], "model_config": {"stages": [[1, 2]]}})
    assert [path.name for path in tmp_path.iterdir()] == [RUN_FILE]


def test_a_file_that_is_written_in_place_is_noticed(tmp_path):
    write_run(tmp_path, {"seed": 1})
    (tmp_path / "model.safetensors").touch()
    before = snapshot(tmp_path)
    assert before.keys() == {RUN_FILE, "model.safetensors"} and snapshot(tmp_path) == before
    later = (tmp_path / RUN_FILE).stat().st_mtime + 1
    os.utime(tmp_path / RUN_FILE, (later, later))  # the same file, with another content perhaps
    assert snapshot(tmp_path) != before


def test_a_change_is_one_of_any_key_and_none_is_a_value():
    assert changes({"a": 1, "b": 2, "gone": 3}, {"a": 1, "b": 4, "new": 5, "none": None, "report_to": "all"}) == [
        "b: 2 -> 4",
        "gone: 3 -> None",
        "new: None -> 5",
    ]
    for how in ("dataloader_num_workers", "preprocessing_num_workers"):  # how fast, not what
        assert changes({how: 1}, {how: 4}) == []
    # What a record lacks stands for its default, and what no version knows any more does not count.
    defaults = {"kept": None, "new": 5, "none": None}
    assert changes({"removed": 3, "kept": 1}, {"new": 5}, defaults) == ["kept: 1 -> None"]
    assert changes({}, {"new": 6, "kept": 2}, defaults) == ["kept: None -> 2", "new: 5 -> 6"]


COMPUTED = """
task model model_config method method_config image_size dataset dataset_config dataset_revision data_files data_dir
train_split eval_dataset eval_split eval_fraction eval_holdout max_train_samples max_eval_samples skip_bad_images
image_column label_column label_mapping classes revision trust_remote_code tokenizer teacher teachers
seed data_seed full_determinism learning_rate optim optim_args optim_target_modules weight_decay adam_beta1 adam_beta2
adam_epsilon max_grad_norm lr_scheduler_type lr_scheduler_kwargs warmup_steps num_train_epochs max_steps
per_device_train_batch_size per_device_eval_batch_size gradient_accumulation_steps average_tokens_across_devices
label_smoothing_factor label_names neftune_noise_alpha bf16 fp16 tf32 bf16_full_eval fp16_full_eval
gradient_checkpointing torch_compile ema_decay layer_decay load_best_model_at_end metric_for_best_model
greater_is_better eval_strategy eval_steps eval_delay save_strategy save_steps save_only_model ignore_data_skip
dataloader_drop_last train_sampling_strategy parallelism_config deepspeed fsdp fsdp_config accelerator_config
""".split()


def test_a_run_does_not_go_on_with_another_value_of_what_is_computed():
    assert [key for key in COMPUTED if not changes({key: "one"}, {key: "another"})] == []


def arguments_of(task, *argv):
    from hf_effmodels.training.run.arguments import ArgumentReader

    types = load_task(task).TRAINING_ARGUMENTS
    base = ["--task", task, "--model", "model", "--output_dir", "out"]
    base += ["--dataset", "data"] if any(f.name == "dataset" for data in types for f in fields(data)) else []
    base += ["--teacher", "teacher"] if task == "language-distillation" else []
    base += ["--teachers", "teacher"] if task == "data-free-distillation" else []
    return ArgumentReader([*base, *argv]).read(*types)


@pytest.mark.parametrize("task", list_tasks())
def test_a_run_is_known_by_every_argument_that_changes_what_is_computed(task):
    arguments = arguments_of(task)
    now, defaults = resolved(*arguments), defaults_of(*map(type, arguments))
    assert not changes(now, now, defaults)
    assert len(defaults) > 80
    free = [key for key in defaults if not changes({**now, key: "other"}, now, defaults)]
    assert {"output_dir", "logging_steps", "report_to", "push_to_hub"} <= set(free)
    for key in set(defaults) - set(free):
        assert changes({**now, key: "other"}, now, defaults) == [f"{key}: other -> {now.get(key)}"]
        assert changes(now, {**now, key: "other"}, defaults) == [f"{key}: {now.get(key)} -> other"]
        without = {other: value for other, value in now.items() if other != key}
        if now.get(key) == defaults[key]:  # an earlier version's record, which lacks the argument
            assert not changes(without, now, defaults)
    assert not set(free) & {"ema_decay", "layer_decay", "seed", "model", "dataset", "eval_fraction", "model_config"}


@pytest.mark.parametrize(
    "argv, changed",
    [
        (["--ema_decay", "0.9"], "ema_decay: .* 0.9"),
        (["--layer_decay", "0.8"], "layer_decay: .* 0.8"),
        (["--randaugment", "rand-m9"], "randaugment: .* rand-m9"),
        (["--color_jitter", "0.4"], r"color_jitter: .* \[0.4\]"),
        (["--max_train_samples", "3"], "max_train_samples: .* 3"),
        (["--num_channels", "1"], "num_channels: .* 1"),
        (["--image_size", "64"], "image_size: .* 64"),
        (["--model_config", "{a: 1}"], "model_config: "),
        (["--label_column", "label"], "label_column: "),
        (["--data_seed", "1"], "data_seed: "),
        (["--revision", "v2"], "revision: "),
    ],
)
@pytest.mark.parametrize("resume", ["auto", "checkpoint"])
def test_an_argument_that_comes_or_goes_between_two_runs_of_a_folder_is_noticed(argv, changed, resume, tmp_path):
    for first, then in ((argv, []), ([], argv)):
        folder = tmp_path / ("dropped" if first else "added")
        checkpoint = write_checkpoint(folder, 10)
        save_file({"weight": torch.zeros(100)}, checkpoint / WEIGHTS_WITHOUT_EMA)
        goes_on = [
            "--output_dir",
            str(folder),
            "--resume_from_checkpoint",
            str(checkpoint) if resume == "checkpoint" else resume,
        ]
        write_run(folder, open_run(FilledReader(TASK, (), ()), arguments_of(TASK, *first))[0])
        assert open_run(FilledReader(TASK, (), ()), arguments_of(TASK, *first, *goes_on))[1] == checkpoint
        with pytest.raises(ValueError, match=f"holds a run with other arguments: {changed if then else ''}"):
            open_run(FilledReader(TASK, (), ()), arguments_of(TASK, *then, *goes_on))


def test_a_token_is_not_written_down_and_a_token_of_the_vocabulary_is(tmp_path):
    argv = ["--token", "hf_1", "--hub_token", "hf_2", "--eos_token", "</s>"]
    config, _ = open_run(FilledReader("causal-lm", (), ()), arguments_of("causal-lm", *argv))
    assert config["eos_token"] == "</s>"
    assert "hf_1" not in str(config)
    assert "hf_2" not in str(config)

    @dataclass
    class OfATask:
        api_key: str = field(default="hf_3", metadata={"secret": True})
        api_keys: int = 4

    assert resolved(OfATask()) == {"api_keys": 4}


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "does not hold the arguments of a run any more"),
        ("# The arguments of the run in this folder.\n", "does not hold the arguments"),
        ("[1, 2]", "does not hold the arguments"),
        ("task: image-classification\n", "does not hold the arguments"),
        ("just a text", "does not hold the arguments"),
        ("a: [", "cannot be read"),
        ("a: 1\na: 2", "cannot be read .*stands twice"),
        ("learning_rate: 0.1\n", "seed: None -> 0"),
    ],
)
def test_a_record_that_was_emptied_or_broken_is_no_reason_to_go_on(text, message, tmp_path):
    checkpoint = write_checkpoint(tmp_path, 10)
    (tmp_path / RUN_FILE).write_text(text)
    for resume in ("true", "auto", str(checkpoint)):
        with pytest.raises(ValueError, match=message):
            open_output_folder(tmp_path, CONFIG, resume, overwrite=False)


@pytest.fixture
def silent(monkeypatch):
    """Runs whose trainers are stand-ins have nothing to say of a model."""
    for name in ("_say_what_begins", "_say_what_is_next"):
        monkeypatch.setattr(Run, name, lambda self, output: None)


@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, RuntimeError])
def test_a_run_that_fails_at_its_start_leaves_the_folder_reusable(error, tmp_path):
    def fail(**kwargs):
        assert owner_of(tmp_path) is not None  # another run is told whose folder it is
        raise error("at the start")

    args = SimpleNamespace(output_dir=str(tmp_path), should_save=True, overwrite_output_dir=False, process_index=0)
    run = Run(SimpleNamespace(args=args, train=fail, model=torch.nn.Identity()), None, CONFIG, report=None)
    for _ in range(2):
        with pytest.raises(error, match="at the start"):
            run()
        assert [path.name for path in tmp_path.iterdir()] == [RUN_FILE]
        assert open_output_folder(tmp_path, {**CONFIG, "seed": 5}, None, overwrite=False) is None


@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize("held, overwrite", [(False, False), (False, True), (True, True)])
def test_of_two_runs_prepared_for_one_folder_the_second_does_not_replace_the_first(tmp_path, held, overwrite):
    if held:
        write_run(tmp_path, CONFIG)
        write_checkpoint(tmp_path, 10)

    def train(seed):
        def call(**kwargs):
            checkpoint = write_checkpoint(tmp_path, 10)
            (checkpoint / "seed").write_text(str(seed))
            return SimpleNamespace(metrics={})

        return call

    def prepare(seed):
        args = SimpleNamespace(output_dir=str(tmp_path), should_save=True, overwrite_output_dir=overwrite)
        args.process_index, args.push_to_hub = 0, False
        return Run(
            SimpleNamespace(args=args, train=train(seed), model=torch.nn.Identity()),
            None,
            {**CONFIG, "seed": seed},
            report=dict,
        )

    first, second = prepare(1), prepare(2)
    assert first.train() == {}
    with pytest.raises(ValueError, match="another run has written into .* since this one looked at it .checkpoint-10"):
        second.train()
    assert (tmp_path / "checkpoint-10" / "seed").read_text() == "1" and "seed: 1" in (tmp_path / RUN_FILE).read_text()
    assert owner_of(tmp_path) is None
    if overwrite:  # looked at again, it is replaced as asked for
        prepare(3).train()
        assert (tmp_path / "checkpoint-10" / "seed").read_text() == "3"


@pytest.mark.usefixtures("silent")
def test_what_another_run_has_written_is_called_by_its_name(tmp_path):
    write_run(tmp_path, CONFIG)
    write_checkpoint(tmp_path, 10)
    args = SimpleNamespace(output_dir=str(tmp_path), should_save=True, overwrite_output_dir=True, process_index=0)
    model = torch.nn.Identity()
    run = Run(SimpleNamespace(args=args, train=pytest.fail, model=model), None, CONFIG, report=dict)
    write_checkpoint(tmp_path, 20)  # checkpoint-10 is as it was
    with pytest.raises(ValueError, match="since this one looked at it .checkpoint-20.. Start this one anew"):
        run.train()
    shutil.rmtree(tmp_path / "checkpoint-20")
    run = Run(SimpleNamespace(args=args, train=pytest.fail, model=model), None, CONFIG, report=dict)
    shutil.rmtree(tmp_path / "checkpoint-10")
    with pytest.raises(ValueError, match="since this one looked at it .what was there is gone."):
        run.train()


def test_of_a_run_that_is_replaced_its_checkpoints_and_its_model_go_and_all_else_stays(tmp_path):
    write_run(tmp_path, CONFIG)
    gone = (*MODELS, "README.md", "trainer_state.json", "all_results.json", "submodels.json")
    stays = ("checkpoint-best/config.json", "checkpoint-7", "notes.txt", "runs/events", "hub/notes.txt", "model.bin")
    for name in (*gone, *stays, "checkpoint-30/model.safetensors", "checkpoint-4/x/y"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    clear_output_folder(tmp_path)
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {*stays}
    clear_output_folder(tmp_path)  # nothing of a run is there any more
    assert left == {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", [*MODELS, "README.md", "trainer_state.json", "all_results.json"])
def test_a_run_that_could_not_be_deleted_to_its_end_is_still_known_as_one(tmp_path, name, monkeypatch):
    write_run(tmp_path, CONFIG)
    for each in (*MODELS, "README.md", "trainer_state.json", "all_results.json"):
        (tmp_path / each).write_text("1")
    unlink = Path.unlink

    def fail(self, missing_ok=False):
        if self.name == name:
            raise PermissionError(f"{name} is in use")
        unlink(self, missing_ok=missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", fail)
        with pytest.raises(PermissionError, match="in use"):
            clear_output_folder(tmp_path)
    assert (tmp_path / RUN_FILE).is_file() and (tmp_path / name).is_file()
    assert open_output_folder(tmp_path, CONFIG, None, overwrite=True) is None
    clear_output_folder(tmp_path)
    assert not [*tmp_path.iterdir()]
