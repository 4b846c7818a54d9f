import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

from hf_effmodels.training import list_tasks, load_task, prepare
from hf_effmodels.training.run import recipes
from hf_effmodels.training.run.arguments import ArgumentReader, _warn
from hf_effmodels.training.run.recipes import RECIPES, find_recipe, list_recipes, read_recipe, read_yaml

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", list_recipes())
def test_a_recipe_opens_with_its_command_and_every_key_is_known_and_has_an_effect(name, caplog):
    _warn.cache_clear()
    commands = [line for line in find_recipe(name).read_text().splitlines() if line.startswith("#   ")]
    words = [line.split() for line in commands if "hf-effmodels train" in line or "accelerate launch" in line]
    assert any(name in line for line in words), f"none of its commands has --config {name}"
    reader = ArgumentReader(["--config", name])
    *_, training = reader.read(*load_task(reader.task).TRAINING_ARGUMENTS)
    assert training.output_dir.startswith("outputs/")
    assert not caplog.text


def test_each_task_has_a_quickstart_of_its_own():
    assert [name for name in list_recipes() if name.startswith("quickstart/")] == [
        f"quickstart/{task}" for task in list_tasks()
    ]
    for task in list_tasks():
        assert ArgumentReader(["--config", f"quickstart/{task}"]).task == task


def test_a_recipe_is_found_by_name_and_by_path_and_a_file_of_ones_own_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    expected = RECIPES / "ghostnetv3" / "imagenet.yaml"
    for name in ("ghostnetv3/imagenet", "ghostnetv3/imagenet.yaml", str(expected)):
        assert find_recipe(name) == expected
    own = Path("ghostnetv3") / "imagenet.yaml"
    own.parent.mkdir()
    own.write_text("task: causal-lm\n")
    assert find_recipe("ghostnetv3/imagenet.yaml") == own
    assert ArgumentReader(["--config", str(own)]).task == "causal-lm"


@pytest.mark.parametrize(
    "name, message",
    [
        ("ghostnetv3/imagnet", "no file 'ghostnetv3/imagnet' and no recipe.*; nearest: ghostnetv3/imagenet"),
        ("imagenet", "nearest: .*ghostnetv3/imagenet.*vig/imagenet"),
        ("accelerate/fsdp2", "no recipe of that name"),
        ("../recipes/ghostnetv3/imagenet", "no recipe of that name"),
        ("qqq", "the recipes are .*quickstart/image-classification"),
        ("", "--config"),
        (str(ROOT), "is a folder"),
    ],
)
def test_an_unknown_recipe_is_answered_with_those_that_come_near(name, message):
    with pytest.raises(FileNotFoundError, match=message):
        ArgumentReader(["--config", name])


def test_wheel_and_source_distribution_have_the_recipes(tmp_path):
    for name in ("setup.cfg", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "hf_effmodels", tmp_path / "hf_effmodels", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "recipes").symlink_to("hf_effmodels/recipes")
    build = "from setuptools import build_meta as b; b.build_wheel('dist'); b.build_sdist('dist')"
    subprocess.run([sys.executable, "-c", build], cwd=tmp_path, check=True, capture_output=True)
    expected = {f"hf_effmodels/recipes/{file.relative_to(RECIPES).as_posix()}" for file in RECIPES.rglob("*.yaml")}
    assert len(expected) > len(list_recipes())  # accelerate's, too
    with zipfile.ZipFile(next((tmp_path / "dist").glob("*.whl"))) as wheel:
        assert {name for name in wheel.namelist() if name.endswith(".yaml")} == expected
    with tarfile.open(next((tmp_path / "dist").glob("*.tar.gz"))) as sources:
        names = {name.partition("/")[2] for name in sources.getnames()}
        assert {name for name in names if name.endswith(".yaml")} == expected


def test_the_imagenet_recipe_has_the_papers_numbers():
    recipe = yaml.safe_load(find_recipe("ghostnetv3/imagenet").read_text())
    assert 8 * recipe["per_device_train_batch_size"] == 2048
    assert recipe["warmup_steps"] == pytest.approx(5 / recipe["num_train_epochs"], rel=1e-5)
    expected = {"num_train_epochs": 600, "optim": "lamb", "learning_rate": 0.005, "weight_decay": 0.05}
    expected |= {"ema_decay": 0.9999, "lr_scheduler_type": "cosine", "label_smoothing_factor": 0.1, "image_size": 224}
    expected |= {"mixup": 0, "cutmix": 0}
    assert {key: recipe[key] for key in expected} == expected


def test_the_quickstart_is_ready_to_train(tmp_path):
    arguments = ["--config", "quickstart/image-classification", "--output_dir", str(tmp_path / "run")]
    trainer = prepare("prepare_training", arguments).trainer
    assert type(trainer.model).__name__ == "GhostNetV3ForImageClassification"
    assert (len(trainer.train_dataset), len(trainer.eval_dataset)) == (1438, 359)
    assert trainer.train_dataset[0]["pixel_values"].shape == (3, 32, 32)
    assert not (tmp_path / "run" / "training_config.yaml").exists()


def test_yaml_is_plain_values_and_dates_are_texts():
    text = "a: 2024-01-31\nb: [1, 2.5, null, true]\nc: {d: {1: x}}\ne: &f [1]\ng: *f"
    assert read_yaml(text) == {
        "a": "2024-01-31", "b": [1, 2.5, None, True], "c": {"d": {1: "x"}}, "e": [1], "g": [1]
    }  # fmt: skip
    assert read_yaml("") is None and read_yaml("a: b") == {"a": "b"} and read_yaml("7") == 7


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: !!binary aGVsbG8=", "b'hello' is neither a text, a number, a truth value, a list nor a mapping."),
        ("a: [!!set {x}]", "{'x'} is neither a text, a number, a truth value, a list nor a mapping."),
        ("a: !!int ''", ""),
        ("a: !!float x", ""),
        ("a: !!python/object:os.system x", "could not determine a constructor for the tag .* .line 1."),
        ("{[1]: 2}", "unhashable key .line 1."),
        ("a: 1\nb: [\n", "expected the node content, but found '<stream end>' .line 3."),
        ("x: {a: 1, a: 1}", "the key 'a' stands twice .line 1.."),
        ("a: " + "[" * 500 + "]" * 500, "it is nested too deeply"),
        (f"a: {2**1024}", "it has a number of more than 300 digits."),
        ("a: b\0c", "unacceptable character"),
    ],
)
def test_what_is_no_plain_yaml_is_told(text, said):
    with pytest.raises(ValueError, match=f"^is not valid YAML: .*{said}"):
        read_yaml(text)


def test_so_many_values_are_taken_and_no_more(monkeypatch):
    monkeypatch.setattr(recipes, "_MOST_VALUES", 5)
    assert read_yaml("[1, 2, 3, 4]") == [1, 2, 3, 4] and read_yaml(str(2**1024 - 1)) == 2**1024 - 1
    with pytest.raises(ValueError, match="it has more than 5 values.$"):
        read_yaml("[1, 2, 3, [4]]")


def test_a_recipe_that_is_no_text_is_named(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_bytes(b"a: \xff")
    with pytest.raises(ValueError, match=f"^--config: {file} is not a text in UTF-8 "):
        read_recipe(file)
    file.write_text("a: !!set {x}")
    with pytest.raises(ValueError, match=f"^--config: {file} is not valid YAML: "):
        read_recipe(file)
