"""Six small pictures, a tiny encoder trained on nothing, and arguments of runs that take seconds."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from hf_effmodels.pipelines import RRDBModel
from hf_effmodels.training.preparation.super_resolution_masks import main as prepare_masks

NETWORKS = ["--model", "sam-diffsr-x4", "--model_config"]
TINY = {
    "rrdb": [*NETWORKS, "{encoder: {hidden_size: 8, num_blocks: 3, growth: 4}}", "--stage", "rrdb"],
    "diffusion": [*NETWORKS, "{unet: {hidden_size: 8, dim_mults: [1, 2]}, scheduler: {num_train_timesteps: 10}}"],
}


def picture(width: int, height: int, seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(2))


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(6):
        picture(40 + number, 36, number).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="session")
def table(pictures, tmp_path_factory):
    """The pictures with structure maps: four quarters each, by a segmenter put in SLIC's place."""
    folder = tmp_path_factory.mktemp("table") / "maps"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hf_effmodels.training.preparation.super_resolution_masks.table.slic", lambda *_: quarters)
        prepare_masks(["--dataset", str(pictures), "--segmenter", "slic", "--output", str(folder)])
    return folder


def quarters(image: Image.Image) -> list[np.ndarray]:
    rows, columns = np.indices((image.height, image.width))
    number = 2 * (rows >= image.height // 2) + (columns >= image.width // 2)
    return [number == quarter for quarter in range(4)]


@pytest.fixture(scope="session")
def encoder(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("encoder")
    RRDBModel(hidden_size=8, num_blocks=3, growth=4).save_pretrained(folder)
    return folder


@pytest.fixture
def short_run(encoder, tmp_path):
    """Arguments of a run of the denoiser, six steps in two epochs, without `--dataset` and `--output_dir`."""
    return [
        *("--task", "super-resolution", *TINY["diffusion"], "--encoder", str(encoder)),
        *("--eval_holdout", "2", "--cache_dir", str(tmp_path / "cache"), "--patch_size", "16", "--augment", "true"),
        *("--patches_per_image", "3", "--per_device_train_batch_size", "4", "--num_train_epochs", "2"),
        *("--learning_rate", "0.003", "--ema_decay", "0.5", "--eval_size", "32", "--num_inference_steps", "2"),
        *("--logging_steps", "1", "--disable_tqdm", "true"),
    ]
