from pathlib import Path

import pytest
import yaml

from hf_effmodels.training import load_task, prepare
from hf_effmodels.training.run.arguments import ArgumentReader

RECIPES = sorted((Path(__file__).resolve().parents[2] / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_opens_with_its_command_and_every_key_is_known(recipe):
    commands = [line for line in recipe.read_text().splitlines() if line.startswith("#   ")]
    assert any("accelerate launch" in c and f"scripts/train.py --config recipes/{recipe.name}" in c for c in commands)
    reader = ArgumentReader(["--config", str(recipe)])
    *_, training = reader.read(*load_task(reader.task).TRAINING_ARGUMENTS)
    assert training.output_dir.startswith("outputs/")


def test_the_imagenet_recipe_has_the_papers_numbers():
    recipe = yaml.safe_load(next(path for path in RECIPES if path.stem == "imagenet_ghostnetv3").read_text())
    assert 8 * recipe["per_device_train_batch_size"] == 2048
    assert recipe["warmup_steps"] == pytest.approx(5 / recipe["num_train_epochs"], rel=1e-5)
    expected = {"num_train_epochs": 600, "optim": "lamb", "learning_rate": 0.005, "weight_decay": 0.05}
    expected |= {"ema_decay": 0.9999, "lr_scheduler_type": "cosine", "label_smoothing_factor": 0.1, "image_size": 224}
    expected |= {"mixup": 0, "cutmix": 0}
    assert {key: recipe[key] for key in expected} == expected


def test_the_quickstart_is_ready_to_train(tmp_path):
    recipe = next(path for path in RECIPES if path.stem == "quickstart_ghostnetv3_digits")
    work = prepare("prepare_training", ["--config", str(recipe), "--output_dir", str(tmp_path / "run")])
    trainer = work.args[0]
    assert type(trainer.model).__name__ == "GhostNetV3ForImageClassification"
    assert (len(trainer.train_dataset), len(trainer.eval_dataset)) == (1438, 359)
    assert trainer.train_dataset[0]["pixel_values"].shape == (3, 32, 32)
    assert not (tmp_path / "run" / "training_config.yaml").exists()
