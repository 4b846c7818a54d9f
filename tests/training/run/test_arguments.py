import pytest

from hf_effmodels.training.run.arguments import ArgumentReader, ModelArguments
from hf_effmodels.training.run.recipe_arguments import resolved
from hf_effmodels.training.tasks.image_classification.data import DataArguments
from hf_effmodels.training.tasks.image_classification.task import ImageClassificationArguments
from hf_effmodels.training.tasks.image_classification.transforms import AugmentationArguments

CLASSES = (ModelArguments, DataArguments, AugmentationArguments, ImageClassificationArguments)
RECIPE = """
task: image-classification
model: ghostnetv3-1.0x
model_config: {width_multiplier: 0.5, stages: [[[3, 8, 8, 0, 1]]]}
dataset: parquet
data_files: {train: [a.parquet, b.parquet], test: c.parquet}
output_dir: out
learning_rate: 5e-3          # YAML takes this for a text
crop_scale: [0.5, 1]
load_best_model_at_end: false
metric_for_best_model: null
lr_scheduler_type: step
lr_scheduler_kwargs: {decay_epochs: 2.4}
optim: rmsprop_tf
optim_args: {alpha: 0.9, momentum: 0.9, eps: 0.001}
report_to: [tensorboard, trackio]
"""


def read(text, tmp_path, *argv):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text)
    return ArgumentReader(["--config", str(recipe), *argv]).read(*CLASSES)


def test_a_recipe_fills_the_dataclasses_and_the_command_line_wins(tmp_path):
    model, data, augmentation, training = read(
        RECIPE,
        tmp_path,
        *("--learning-rate=0.1", "--model_config", "{width_multiplier: 0.75}", "--crop_scale", "0.2", "0.9", "--bf16"),
    )
    assert model.model_config == {"width_multiplier": 0.75}
    assert data.data_files == {"train": ["a.parquet", "b.parquet"], "test": "c.parquet"}
    assert augmentation.crop_scale == [0.2, 0.9]
    assert (training.learning_rate, training.bf16, training.load_best_model_at_end) == (0.1, True, False)
    assert (training.optim, training.optim_args) == ("rmsprop_tf", "alpha=0.9,momentum=0.9,eps=0.001")
    assert (training.lr_scheduler_type, training.lr_scheduler_kwargs) == ("step", {"decay_epochs": 2.4})
    assert training.metric_for_best_model is None
    assert training.report_to == ["tensorboard", "trackio"]


def test_what_a_run_writes_down_is_a_recipe_that_reads_back_the_same(tmp_path):
    import yaml

    written = resolved(*read(RECIPE, tmp_path, "--hub_token", "secret", "--token", "secret"))
    assert "secret" not in str(written)
    assert resolved(*read(yaml.safe_dump(written), tmp_path)) == written


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--learning_rte", "1"], "--learning_rte.*nearest.*--learning_rate"),
        (["--optim", "lam"], "--optim.*'lam'.*lamb"),
        (["--lr_scheduler_type", "cosin"], "--lr_scheduler_type.*'cosin'.*cosine"),
        (["--optim", "sgd", "--optim_args", "momentun=0.9"], "momentun.*accepted are.*momentum"),
        (["--learning_rate", "fast"], "--learning_rate.*fast"),
        (["--bf16", "perhaps"], "(?s)bf16.*perhaps"),
        (["--model_config", "[1, 2]"], "--model_config.*mapping"),
        (["--ema_decay", "1"], "--ema_decay.*1.0.*below 1"),
        (["--crop_scale", "0.9", "0.1"], "--crop_scale"),
        (["--mixup", "-1"], "--mixup.*-1"),
        (["--min_lr", "0.1", "--lr_scheduler_type", "linear"], "--min_lr.*cosine"),
        (["--eval_fraction", "2"], "--eval_fraction.*2"),
    ],
)
def test_a_wrong_argument_is_named_with_what_is_accepted(argv, message, tmp_path):
    base = "model: ghostnetv3-1.0x\ndataset: digits\noutput_dir: out\n"
    with pytest.raises(ValueError, match=message):
        read(base, tmp_path, *argv)


@pytest.mark.parametrize(
    "text, message",
    [
        ("learning_rte: 1", "recipe.yaml: unknown key 'learning_rte'; nearest: learning_rate"),
        ("[1, 2]", "mapping"),
        ("a: [", "not valid YAML"),
        ("learning_rate: [0.1, 0.2]", "learning_rate: got .*0.2.*one value too many"),
    ],
)
def test_a_wrong_recipe_is_refused(text, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read(text, tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere.yaml"):
        ArgumentReader(["--config", "nowhere.yaml"])
