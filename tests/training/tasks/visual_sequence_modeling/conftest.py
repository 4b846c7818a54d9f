import pytest

from hf_effmodels.pipelines import DelvmPipeline
from tests.pipelines.delvm.tiny import tiny_language_model, tiny_vqvae


@pytest.fixture(scope="session")
def tiny_pipeline(tmp_path_factory):
    """A saved pipeline: 8×8 pixels are 16 tokens of 32 codes."""
    folder = tmp_path_factory.mktemp("pipeline")
    DelvmPipeline(tiny_vqvae(), tiny_language_model(initializer_range=0.02), image_size=8).save_pretrained(folder)
    return folder


@pytest.fixture
def visual_run(tiny_pipeline):
    """Arguments of a run of ten steps, without `--output_dir`."""
    return [
        *("--task", "visual-sequence-modeling", "--model", "llama", "--image_tokenizer", str(tiny_pipeline)),
        *("--model_config", "{hidden_size: 16, intermediate_size: 24, num_hidden_layers: 1, num_attention_heads: 2}"),
        *("--image_size", "8", "--dataset", "digits", "--task_samples", "{invert: 20, segment: 20}"),
        *("--pairs_per_sentence", "2", "--max_eval_samples", "5", "--answered_images", "0"),
        *("--per_device_train_batch_size", "8", "--num_train_epochs", "2", "--learning_rate", "0.02"),
        *("--logging_steps", "1", "--eval_strategy", "steps", "--eval_steps", "2", "--disable_tqdm", "true"),
    ]
