"""What is wrong with the arguments is told before anything heavy is imported, by the very rules that hold later."""

import importlib
import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import transformers

from hf_effmodels.training import list_tasks, load_task
from hf_effmodels.training.run.arguments import ArgumentReader
from hf_effmodels.training.run.early import _check_name, _check_there, accepted_names, argument_types, check_early
from hf_effmodels.training.run.recipe_arguments import RecipeArguments
from hf_effmodels.training.task import task_folder

STAGES = ("TRAINING_ARGUMENTS", "EVALUATION_ARGUMENTS")


def fields_of(types):
    from hf_effmodels.training.run.arguments import _parser_class

    return {tuple(action.option_strings): action for action in _parser_class()(types)._actions}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("task", list_tasks())
def test_the_source_shows_the_arguments_as_they_are(task, stage):
    shown = fields_of(argument_types(task_folder(task), stage))
    real = fields_of(getattr(load_task(task), stage))
    assert shown.keys() == real.keys()
    for names, action in real.items():
        for part in ("nargs", "const", "required", "dest"):
            assert getattr(shown[names], part) == getattr(action, part), names
        # Names and choices that are defined elsewhere are texts: they are looked at later.
        assert shown[names].choices in (None, action.choices)
        assert getattr(shown[names].type, "__name__", None) in (getattr(action.type, "__name__", None), "str"), names
        if action.type in (int, float):
            assert shown[names].type is action.type
            assert shown[names].default == action.default


def test_ranges_and_what_must_be_given_are_shown_as_they_are():
    for task in list_tasks():
        for stage in STAGES:
            shown = argument_types(task_folder(task), stage)
            for early, real in zip(shown, getattr(load_task(task), stage), strict=True):
                for name, f in real.__dataclass_fields__.items():
                    for key in ("accepts", "missing"):
                        assert early.__dataclass_fields__[name].metadata.get(key) == f.metadata.get(key)


def test_names_are_those_that_are_accepted_later():
    from transformers import SchedulerType
    from transformers.trainer_utils import SaveStrategy
    from transformers.training_args import OptimizerNames

    own = {"optim": {"lamb", "rmsprop_tf", "sgd"}, "lr_scheduler_type": {"step", "warmup_cosine"}}
    for argument, theirs in (("optim", OptimizerNames), ("lr_scheduler_type", SchedulerType)):
        names = set(accepted_names(argument))
        assert names >= {name.value for name in theirs} | own[argument]
        for name in names - {name.value for name in theirs}:
            assert getattr(RecipeArguments(output_dir="out", **{argument: name}), argument) == name
    assert set(accepted_names("save_strategy")) == {name.value for name in SaveStrategy}
    assert accepted_names("model") == ()


def test_a_no_that_yaml_reads_as_false_is_explained_where_no_is_a_name():
    with pytest.raises(
        ValueError, match=r"--save_strategy: got 'False'; .*YAML reads no and off as false: write \"no"
    ):
        _check_name("save_strategy", "False")
    for argument, value in (("optim", "False"), ("save_strategy", "Falsch"), ("save_strategy", "nope")):
        with pytest.raises(ValueError, match=f"--{argument}: got '{value}'") as error:
            _check_name(argument, value)
        assert "YAML" not in str(error.value)
    for argument, value in (("save_strategy", "no"), ("optim", None), ("optim", 3), ("model", "False")):
        assert _check_name(argument, value) is None


WRONG = {
    "unknown": (["--learning_rte", "1"], "nearest: --learning_rate"),
    "type": (["--learning_rate", "fast"], "learning_rate"),
    "range": (["--gradient_accumulation_steps", "0"], "--gradient_accumulation_steps: got 0"),
    "own range": (["--mixup", "-1"], "--mixup: got -1.0"),
    "not finite": (["--learning_rate", "inf"], "--learning_rate: got inf"),
    "name": (["--optim", "lam"], "--optim: got 'lam'; nearest: lamb"),
    "schedule": (["--lr_scheduler_type", "cosin"], "nearest: cosine"),
    "choice": (["--train_crop", "nope"], "random_resized"),
    "strategy": (["--eval_strategy", "False"], "YAML reads no and off as false"),
    "missing": (["--dataset", ""], "--dataset is missing: name"),
    "recipe": (["--config", "ghostnetv3/imagnet"], "nearest: ghostnetv3/imagenet"),
    "distillation": (["--task", "distillation", "--way", "1"], "--way: got 1, accepted are whole numbers from 2"),
    "task": (["--task", "dancing"], "'image-classification'"),
}

#: Folders, by the files that tell what they hold.
FOLDERS = {
    "gpt2": {"config.json": {"model_type": "gpt2"}},
    "bare": {"config.json": {"model_type": "vit"}},
    "pipe": {"model_index.json": {}},
}
#: Task, argument -> a folder of another kind, and what is said of it.
WRONG_KINDS = {
    ("causal-lm", "model"): ("bare", "is a vit, for which there is no AutoModelForCausalLM"),
    ("contrastive-language-image", "teacher"): ("gpt2", "there is no AutoModelForZeroShotImageClassification"),
    ("data-free-distillation", "teachers"): ("gpt2", "there is no AutoModelForImageClassification"),
    ("distillation", "teacher"): ("pipe", "holds a pipeline of diffusers"),
    ("image-classification", "model"): ("gpt2", "there is no AutoModelForImageClassification"),
    ("image-text-to-text", "model"): ("gpt2", "there is no AutoModelForImageTextToText"),
    ("language-distillation", "teacher"): ("bare", "there is no AutoModelForCausalLM"),
    ("mask-generation", "teacher"): ("bare", "there is no AutoModelForMaskGeneration"),
    ("masked-image-modeling", "model"): ("pipe", "holds a pipeline of diffusers"),
    ("object-detection", "model"): ("bare", "there is no AutoModelForObjectDetection"),
    ("semantic-segmentation", "model"): ("gpt2", "there is no AutoModelForSemanticSegmentation"),
    ("source-free-adaptation", "model"): ("gpt2", "there is no AutoModelForImageClassification"),
    ("super-resolution", "encoder"): ("bare", "is a vit of transformers; accepted are pipelines of diffusers"),
    ("visual-sequence-modeling", "image_tokenizer"): ("bare", "accepted are pipelines of diffusers"),
}
PROGRAM = """
import json, sys
from hf_effmodels.training import prepare
told = {}
for name, argv in json.loads(sys.argv[1]).items():
    try:
        prepare("prepare_training", argv)
    except (ValueError, OSError) as error:
        told[name] = str(error)
print(json.dumps([told, [library for library in ("torch", "transformers", "datasets") if library in sys.modules]]))
"""


def test_wrong_arguments_are_told_before_torch_is_imported():
    base = ["--model", "ghostnetv3-1.0x", "--dataset", "digits", "--output_dir", "out"]
    calls = {name: base + argv for name, (argv, _) in WRONG.items()}
    told = told_without_torch(calls)
    for name, (_, message) in WRONG.items():
        assert message in told[name]


def told_without_torch(calls, folder=None):
    """Name of each call -> what is said of it."""
    called = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(calls)], capture_output=True, text=True, check=True, cwd=folder
    )
    told, imported = json.loads(called.stdout)
    assert not imported
    return told


def write_folders(where):
    for name, files in FOLDERS.items():
        (where / name).mkdir()
        for file, content in files.items():
            (where / name / file).write_text(json.dumps(content))


def test_folders_of_another_kind_are_told_before_torch_is_imported(tmp_path):
    write_folders(tmp_path)
    calls = {}
    for (task, argument), (folder, _) in WRONG_KINDS.items():
        others = {"model": "ghostnetv3-1.0x", "dataset": "digits", "output_dir": "out"} | {argument: folder}
        if task == "mask-generation":
            del others["dataset"]
        calls[task] = ["--task", task, *(word for name, value in others.items() for word in (f"--{name}", value))]
    told = told_without_torch(calls, tmp_path)
    assert {*told} == {*list_tasks()}
    for (task, argument), (folder, message) in WRONG_KINDS.items():
        assert told[task].startswith(f"--{argument}: {folder} ") and message in told[task]
    assert not (tmp_path / "out").exists()


def test_files_in_the_place_of_folders_are_told_before_torch_is_imported(tmp_path):
    (tmp_path / "file").write_text("")
    base = ["--dataset", "digits", "--model"]
    calls = {
        "output": [*base, "ghostnetv3-1.0x", "--output_dir", "file"],
        "above": [*base, "ghostnetv3-1.0x", "--output_dir", "file/run/one"],
        "model": [*base, "file", "--output_dir", "out"],
    }
    told = told_without_torch(calls, tmp_path)
    assert told == {
        "output": "--output_dir: file is a file; accepted is a folder.",
        "above": "--output_dir: file is a file; accepted is a folder.",
        "model": "--model: file is a file; accepted are a folder and an id of the Hub.",
    }


def test_a_folder_with_a_run_or_a_model_is_told_before_torch_is_imported(tmp_path):
    for file in ("run/checkpoint-8/x", "run/training_config.yaml", "foreign/model.safetensors", "reports/masks.png"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("")
    (tmp_path / "run" / "training_config.yaml").write_text("# The arguments of the run in this folder. And so on.")
    base = ["--dataset", "digits", "--model", "ghostnetv3-1.0x", "--output_dir"]
    told = told_without_torch(
        {
            "run": [*base, "run"],
            "foreign": [*base, "foreign", "--overwrite_output_dir", "true"],
            "reports": [*base, "reports"],
        },
        tmp_path,
    )
    instead = (
        "Continue the run with --resume_from_checkpoint true, replace it with --overwrite_output_dir true, or choose "
        "another folder."
    )
    assert told == {
        "run": f"--output_dir: run already holds a run or a model (checkpoint-8, training_config.yaml). {instead}",
        "foreign": "--overwrite_output_dir: foreign holds model.safetensors, but no training_config.yaml that a run "
        "has written, and only runs are overwritten. Choose another folder, or delete these yourself.",
        "reports": f"--output_dir: reports already holds a run or a model (masks.png). {instead}",
    }
    for none in ("false", "none", "no", ""):  # said, and still no run to go on with
        reader = ArgumentReader([*base, str(tmp_path / "run"), "--resume_from_checkpoint", none])
        with pytest.raises(ValueError, match="^--output_dir: .* already holds a run"):
            check_early(reader, task_folder(reader.task), "TRAINING_ARGUMENTS")
    for allowed in (["--resume_from_checkpoint", "auto"], ["--overwrite_output_dir", "true"]):
        reader = ArgumentReader([*base, str(tmp_path / "run"), *allowed])
        check_early(reader, task_folder(reader.task), "TRAINING_ARGUMENTS")


@pytest.mark.parametrize(
    "data, output, told",
    [
        ("--dataset photos", "photos", "photos is the folder of --dataset itself, and would be both; name another."),
        (
            "--dataset photos",
            "photos/a/out",
            "photos/a/out lies in the folder photos of --dataset; name one beside it.",
        ),
        ("--dataset .", "outputs/net", "outputs/net lies in the folder . of --dataset"),
        (
            "--dataset imagefolder --data_dir photos",
            "photos/out",
            "photos/out lies in the folder photos of --data_dir",
        ),
        ("--dataset photos --data_dir a", "photos/a/out", "photos/a/out lies in the folder photos/a of --data_dir"),
        (
            "--dataset digits --eval_dataset photos",
            "photos/out",
            "photos/out lies in the folder photos of --eval_data",
        ),
        ("--dataset photos --data_dir a", "photos/b/out", None),
        ("--dataset photos", "photos-out", None),
    ],
)
def test_what_a_run_writes_does_not_lie_among_its_data(data, output, told, tmp_path, monkeypatch):
    """The next run, and the command that the run names next, would read it as data."""
    monkeypatch.chdir(tmp_path)
    for folder in ("a", "b"):
        (tmp_path / "photos" / folder).mkdir(parents=True)
    reader = ArgumentReader([*data.split(), "--model", "ghostnetv3-1.0x", "--output_dir", output])
    if told is None:
        check_early(reader, task_folder(reader.task), "TRAINING_ARGUMENTS")
        return
    with pytest.raises(ValueError, match=f"^--output_dir: {told}"):
        check_early(reader, task_folder(reader.task), "TRAINING_ARGUMENTS")


def test_damaged_files_and_mappings_are_told_before_torch_is_imported(tmp_path):
    contents = {"cut": b'{"model_type": "vit"', "list": b"[1]", "bytes": b"\x00"}
    # Which libraries do not read, either.
    contents |= {
        "marked": '{"model_type": "vit"}'.encode("utf-8-sig"),
        "wide": '{"model_type": "vit"}'.encode("utf-16"),
    }
    for folder, content in contents.items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "config.json").write_bytes(content)
    base = ["--dataset", "digits", "--output_dir", "out"]
    calls = {folder: [*base, "--model", folder] for folder in contents}
    teacher = ["--task", "distillation", *base, "--model", "ghostnetv3-1.0x", "--teacher"]
    calls |= {"teacher": [*teacher, "cut"], "mapping": [*teacher, '{"cut": 1']}
    preset = [*base, "--model", "ghostnetv3-1.0x"]
    mappings = {
        name: [*preset, f"--{name}", "{a: [1}"] for name in ("model_config", "lr_scheduler_kwargs", "optim_args")
    }
    calls |= {"open": [*preset, "--model_config", "a: [b"]}  # a mapping needs no braces
    calls |= {"data": ["--model", "ghostnetv3-1.0x", "--output_dir", "out", "--dataset", "{a"]}
    told = told_without_torch(calls | mappings, tmp_path)
    where = f"cut{os.sep}config.json is not valid JSON (Expecting ',' delimiter"
    assert told["cut"].startswith(f"--model: {where}") and told["teacher"].startswith(f"--teacher: {where}")
    assert told["list"] == f"--model: list{os.sep}config.json holds no mapping of settings."
    for name in ("bytes", "marked", "wide"):
        assert told[name].startswith(f"--model: {name}{os.sep}config.json is not valid JSON (")
    assert told["mapping"].startswith("--teacher: got '{\"cut\": 1', which is not valid YAML: ")
    assert told["open"].startswith("--model_config: got 'a: [b', which is not valid YAML: ")
    assert told["data"] == "--dataset: there is no folder or file '{a'."
    for name in mappings:
        assert told[name].startswith(f"--{name}: got '{{a: [1}}', which is not valid YAML: ")


def test_a_file_is_told_before_torch_is_imported_where_data_sets_are_no_files(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    no_data = {"mask-generation"}  # has --images
    take_files = {"causal-lm", "language-distillation", "image-text-to-text", "visual-sequence-modeling"}
    tasks = {*list_tasks()} - no_data - take_files
    base = ["--model", "ghostnetv3-1.0x", "--output_dir", "out", "--dataset"]
    calls = {task: ["--task", task, *base, "notes.txt"] for task in sorted(tasks)}
    calls["data-free-distillation"] += ["--teachers", "any"]
    told = told_without_torch(calls, tmp_path)
    assert set(told.values()) == {
        "--dataset: 'notes.txt' is a file; accepted are a folder, an id of the Hub, and a format such as csv, json, "
        "parquet or imagefolder with --data_files notes.txt."
    }
    assert {*told} == tasks
    write_folders(tmp_path)
    for task in take_files:  # these may be
        teacher = ["--teacher", str(tmp_path / "gpt2")] if task == "language-distillation" else []
        reader = ArgumentReader(["--task", task, *base, str(tmp_path / "notes.txt"), *teacher])
        check_early(reader, task_folder(task), "TRAINING_ARGUMENTS")


@pytest.mark.parametrize("task", list_tasks())
def test_the_kinds_of_folders_are_of_arguments_and_auto_classes_that_there_are(task):
    heads = importlib.import_module(load_task(task).__package__).HEADS
    fields_of_task = {f.name for types in STAGES for data in getattr(load_task(task), types) for f in fields(data)}
    assert heads and {*heads} <= fields_of_task
    for accepted in heads.values():
        for name in (accepted,) if isinstance(accepted, str) else accepted or ():
            assert hasattr(transformers, name)


def test_a_folder_is_not_looked_at_where_it_is_not_read_or_not_for_its_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_folders(tmp_path)
    (tmp_path / "bare" / "export.json").write_text("{}")
    (tmp_path / "pipe").rename("resnet")

    def check(*argv):
        reader = ArgumentReader(["--dataset", "digits", "--output_dir", "out", *argv])
        check_early(reader, task_folder(reader.task), "TRAINING_ARGUMENTS")

    check("--model", "resnet")  # a type of model goes before a folder of its name
    check("--model", "bare", "--random_weights", "true")
    with pytest.raises(OSError, match="--model: bare holds an exported program, no weights"):
        check("--model", "bare")


def test_a_model_is_not_trained_into_its_own_folder(tmp_path):
    write_folders(tmp_path)
    own = str(tmp_path / "bare" / ".." / "bare")
    argv = ["--model", str(tmp_path / "bare"), "--dataset", "digits", "--overwrite_output_dir", "true"]
    reader = ArgumentReader([*argv, "--output_dir", own])
    with pytest.raises(ValueError, match=f"^--output_dir: {own} is the folder of --model itself, and would be both"):
        check_early(reader, task_folder(reader.task), "TRAINING_ARGUMENTS")


def test_a_task_that_the_source_does_not_show_is_left_to_later(tmp_path):
    reader = ArgumentReader(["--nope", "1"])
    for source in (
        "TRAINING_ARGUMENTS = make()",
        "from somewhere import Base\nclass A(Base):\n    x: int = 1\nTRAINING_ARGUMENTS = (A,)",
        "def broken(:",
        "",
    ):
        (tmp_path / "task.py").write_text(source)
        folder = tmp_path / str(len(source))
        folder.mkdir()
        (tmp_path / "task.py").rename(folder / "task.py")
        check_early(reader, folder, "TRAINING_ARGUMENTS")
    (tmp_path / "task.py").write_text(
        "from dataclasses import dataclass\nclass A:\n    x: int = 1\nTRAINING_ARGUMENTS = (A,)"
    )
    with pytest.raises(ValueError, match="unknown argument '--nope'"):
        check_early(reader, Path(tmp_path), "TRAINING_ARGUMENTS")


@pytest.mark.parametrize(
    "argument", ["model", "models", "teacher", "encoder", "image_tokenizer", "detector", "dataset", "eval_dataset"]
)
def test_places_that_are_none_are_told_of_every_argument_that_names_one(argument, tmp_path):
    with pytest.raises(OSError, match=f"^--{argument}: "):
        _check_there(argument, str(tmp_path / "nowhere" / "at-all"))
    _check_there(argument, "built-in")
    _check_there(argument, None)
    _check_there("license", str(tmp_path / "nowhere" / "at-all"))
    (tmp_path / "config.json").write_text("{")
    if "dataset" in argument:
        _check_there(argument, str(tmp_path))
        return
    with pytest.raises((ValueError, OSError), match=f"^--{argument}: "):
        _check_there(argument, str(tmp_path))


def test_each_model_that_is_named_is_looked_at_and_none_is_overwritten(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_folders(tmp_path)
    for name in ("good", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text('{"model_type": "resnet"}')
        (tmp_path / name / "model.safetensors").write_bytes(b"")

    def check(*argv, task="distillation", output="out"):
        reader = ArgumentReader(["--task", task, "--dataset", "digits", "--output_dir", output, *argv])
        check_early(reader, task_folder(task), "TRAINING_ARGUMENTS")

    student = ["--model", "ghostnetv3-1.0x", "--overwrite_output_dir", "true"]
    with pytest.raises(ValueError, match="^--output_dir: other is the folder of --teacher itself, and would be both"):
        check(*student, "--teacher", "other", output="other")
    check(*student, "--teacher", "other")
    several, free = ["--teachers", "good"], "data-free-distillation"
    check(*student, *several, "other", task=free)
    with pytest.raises(OSError, match="^--teachers: gpt2 is a gpt2, for which there is no"):
        check(*student, *several, "gpt2", task=free)
    with pytest.raises(ValueError, match="^--output_dir: other is the folder of --teachers itself"):
        check(*student, *several, "other", task=free, output="other")
    # What can be no id of the Hub is told early of what is only read.
    with pytest.raises(OSError, match="^--teacher: there is no folder or file 'no body'"):
        check(*student, "--teacher", "no body")


def test_a_file_is_no_model_but_may_be_what_others_are_read_from(tmp_path):
    (tmp_path / "weights.safetensors").write_bytes(b"")
    file = str(tmp_path / "weights.safetensors")
    with pytest.raises(OSError, match="^--model: .*weights.safetensors is a file; accepted are a folder and an id"):
        _check_there("model", file)
    for argument in ("teacher", "encoder", "detector", "image_tokenizer", "dataset", "eval_dataset"):
        _check_there(argument, file)
    with pytest.raises(OSError, match="^--dataset: "):
        _check_there("dataset", "{a: b}")
