import pytest
import torch
from transformers import ConvNextImageProcessorPil, ResNetConfig, ResNetForImageClassification

from hf_effmodels import create_model
from hf_effmodels.modeling.cdfkd_mfs.configuration_cdfkd_mfs import CdfkdMfsConfig
from hf_effmodels.modeling.cdfkd_mfs.modeling_cdfkd_mfs import CdfkdMfsForImageClassification

PROCESSOR = {"size": {"shortest_edge": 8}, "crop_pct": 1.0, "image_mean": [0.4], "image_std": [0.3]}
DIGITS = {number: str(number) for number in range(10)}


def _with_statistics(model):
    for norm in (module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)):
        norm.running_mean.normal_(std=0.3)
        norm.running_var.uniform_(0.5, 1.5)
        norm.weight.data.uniform_(0.5, 1.5)
    return model


@pytest.fixture(scope="session")
def teachers(tmp_path_factory):
    """Two classifiers of digits with batch norms, one of this package and one of transformers, which takes images of
    another size and normalisation and has its classes in another order. What they know is chance's."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("teachers")
    ours = create_model(
        "wrn4x161", hidden_sizes=[4, 4, 8], depths=[1, 1], num_channels=1, image_size=8, id2label=DIGITS
    )
    theirs = ResNetForImageClassification(
        ResNetConfig(
            num_channels=1,
            embedding_size=4,
            hidden_sizes=[4, 8],
            depths=[1, 1],
            layer_type="basic",
            id2label={number: str(9 - number) for number in range(10)},
        )
    )
    for name, model, settings in (
        ("ours", ours, PROCESSOR),
        ("theirs", theirs, {**PROCESSOR, "size": {"shortest_edge": 12}, "image_mean": [0.5], "image_std": [0.25]}),
    ):
        _with_statistics(model).save_pretrained(folder / name)
        ConvNextImageProcessorPil(**settings).save_pretrained(folder / name)
    return [str(folder / "ours"), str(folder / "theirs")]


@pytest.fixture(scope="session")
def plain_student(tmp_path_factory):
    """A student without batch norms, of one teacher: what it learns does not depend on how a step is cut."""
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("student")
    backbone = {
        **{"model_type": "convnext", "num_channels": 1, "hidden_sizes": [4, 8], "depths": [1, 1], "num_stages": 2},
        **{"patch_size": 2, "out_features": ["stage2"]},
    }
    config = CdfkdMfsConfig(
        **{"trunk": "backbone", "backbone_config": backbone, "sharing": "none", "num_heads": 1, "num_channels": 1},
        **{"image_size": 8, "id2label": DIGITS},
    )
    CdfkdMfsForImageClassification(config).save_pretrained(folder)
    ConvNextImageProcessorPil(**PROCESSOR).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def data_free_run(teachers):
    """Arguments of a run of three epochs of four steps, without `--output_dir`."""
    return [
        *("--task", "data-free-distillation", "--teachers", *teachers, "--model", "mhwrn4x161"),
        *("--model_config", "{hidden_sizes: [4, 4, 8], depths: [1, 1]}", "--latent_size", "8"),
        *("--dataset", "digits", "--max_eval_samples", "11", "--eval_strategy", "epoch"),
        *("--num_train_epochs", "3", "--steps_per_epoch", "4", "--student_steps", "2"),
        *("--per_device_train_batch_size", "4", "--learning_rate", "0.05"),
        *("--logging_steps", "1", "--disable_tqdm", "true"),
    ]
