"""What is wrong with an argument, or would be ignored, is said before a run begins, in every task."""

import re
from dataclasses import MISSING, fields
from pathlib import Path

import pytest
import torch
from transformers import ConvNextConfig, ConvNextForImageClassification, ConvNextImageProcessorPil

from hf_effmodels.training import evaluate, main, prepare
from hf_effmodels.training.data.splits import load_splits
from hf_effmodels.training.task import load_task
from hf_effmodels.training.tasks.image_classification.data import DataArguments

from .distillation.conftest import distilled_run, teacher  # noqa: F401
from .image_text_to_text.conftest import bases, colour_run, colours, model_arguments  # noqa: F401
from .super_resolution.conftest import encoder, pictures, short_run  # noqa: F401

NO_EVALUATION = ("--eval_strategy", "no", "--load_best_model_at_end", "false")
#: Of transformers' `TrainingArguments`: refused by every task.
STOCK = {
    "metric": (["--metric_for_best_model", "f1"], "--metric_for_best_model: got 'f1', accepted are "),
    "labels": (["--label_names", "x"], "--label_names: got x, accepted is labels"),
    "loss only": (["--prediction_loss_only", "true"], "--prediction_loss_only: got true, accepted is false"),
    "parts": (["--eval_do_concat_batches", "false"], "--eval_do_concat_batches"),
    "in parts": (["--batch_eval_metrics", "true"], "--batch_eval_metrics"),
    "more": (["--include_for_metrics", "inputs"], "--include_for_metrics: got inputs, accepted is nothing"),
    "columns": (["--remove_unused_columns", "true"], "--remove_unused_columns"),
    "length": (["--length_column_name", "x"], "--length_column_name"),
    "order": (["--train_sampling_strategy", "group_by_length"], "accepted is random or sequential"),
    "predict": (["--do_predict", "true"], "--do_predict: got true"),
    "accelerator": (
        ["--accelerator_config", "{foo: 1}"],
        "--accelerator_config: there is no 'foo', accepted are",
    ),
    "split": (["--accelerator_config", "{split_batches: 3}"], "split_batches: got 3, accepted is true or false"),
    "file": (["--accelerator_config", "nowhere.json"], "--accelerator_config: got 'nowhere.json', accepted are a map"),
    "fsdp": (["--fsdp_config", "nowhere.json"], "--fsdp_config: got 'nowhere.json'"),
    "deepspeed": (["--deepspeed", "nowhere.json"], "--deepspeed: got 'nowhere.json'"),
    "checkpointing": (
        ["--gradient_checkpointing_kwargs", "[1]", "--gradient_checkpointing", "true"],
        "--gradient_checkpointing_kwargs: got .* a mapping",
    ),
    "mode": (["--torch_compile_mode", "nope"], "--torch_compile_mode: got 'nope', accepted are default, "),
    "backend": (["--torch_compile_backend", "nope"], "--torch_compile_backend: got 'nope', accepted are .*inductor"),
    "tracker": (["--report_to", "x"], "--report_to: got 'x', accepted are none, all, .*tensorboard"),
    "plateau": (
        [*("--lr_scheduler_type", "reduce_lr_on_plateau"), *NO_EVALUATION],
        "--lr_scheduler_type reduce_lr_on_plateau requires",
    ),
    "optimizer": (["--optim", "stable_adamw"], "--optim: stable_adamw cannot be used here .*torch-optimi"),
    "licence": (["--license", "x"], "--license: got 'x', which is not a licence identifier"),
    "liger": (["--use_liger_kernel", "true"], "--use_liger_kernel needs the library liger-kernel"),
    # They would be ignored.
    "modules": (
        ["--optim_target_modules", "x"],
        "--optim_target_modules: got x, which goes with --optim galore_adamw",
    ),
    "steps": (["--eval_steps", "3", "--eval_strategy", "epoch"], "--eval_steps: got 3.0, which goes with .* steps"),
    "saving": (
        ["--save_steps", "3", "--save_strategy", "epoch"],
        "--save_steps: got 3.0, which goes with",
    ),
    "workers": (["--dataloader_persistent_workers", "true"], "goes with --dataloader_num_workers, not .* 0"),
    "context": (["--dataloader_multiprocessing_context", "spawn"], "goes with --dataloader_num_workers"),
    "repository": (["--hub_model_id", "me/model"], "--hub_model_id: got me/model, which goes with --push_to_hub"),
    "warm-up": (
        ["--warmup_steps", "3", "--lr_scheduler_type", "constant"],
        "--warmup_steps: got 3.0, which goes with --lr_scheduler_type other than constant",
    ),
    "liger settings": (["--liger_kernel_config", "{rope: true}"], "which goes with --use_liger_kernel"),
}
#: Task -> (arguments, message) of its own, and of its models.
OWN = {
    "image-classification": [
        (["--neftune_noise_alpha", "1"], "--neftune_noise_alpha: ConvNextForImageClassification has no embedding"),
        (["--gradient_checkpointing", "true"], "--gradient_checkpointing: ConvNext.* does not support it"),
        (["--bf16_full_eval", "true"], "--bf16_full_eval"),
        (["--include_num_input_tokens_seen", "all"], "--include_num_input_tokens_seen"),
        (["--num_channels", "1"], "--num_channels: no model works with 1 .*--ignore_mismatched_sizes true"),
        (["--image_size", "1"], "--image_size: no model works with 1"),
        (["--model", "ghostnetv3-1x"], "--model: unknown preset 'ghostnetv3-1x', .*nearest: .*ghostnetv3-1.0x"),
        (["--model", "pangu-pi-1b-pro"], "--model: pangu-pi-1b-pro is a preset for text-generation"),
        (["--model", "ghostnetv3-1.0x", "--model_config", "{foo: 3}"], "--model_config: .* has no field 'foo'"),
        (["--model", "ghostnetv3-1.0x", "--revision", "x"], "--revision: got 'x', which goes with a model on the Hub"),
        (["--revision", "x"], "--revision: got 'x', but --model .* lies here"),
        (["--dataset_revision", "x"], "--dataset_revision: goes with what .*--dataset digits is all"),
        (["--data_dir", "x"], "--data_dir: goes with"),
        (["--data_files", "x"], "--data_files: goes with"),
        (["--data_files", "{a: {b: 1}}"], "--data_files: got .* for a, accepted are a path or a list"),
        (["--data_files", "{}"], "--data_files: got no files"),
        (["--eval_dataset", "./nowhere"], "--eval_dataset: there is no folder or file './nowhere'"),
        (
            ["--crop_padding", "2", "--train_crop", "none"],
            "--crop_padding: got 2, which goes with --train_crop",
        ),
        (["--mix_probability", "0.5"], "--mix_probability: got 0.5, which goes with --mixup or --cutmix"),
        (["--mix_switch_probability", "0.2", "--mixup", "1"], "goes with --cutmix, not --cutmix 0"),
        (["--mix_off_epochs", "1"], "--mix_off_epochs: got 1, which goes with --mixup or --cutmix"),
        *[
            ([f"--{name}", *values, "--train_crop", "random_padded"], f"--{name}: got .* goes with --train_crop rand")
            for name, values in (("crop_scale", ["0.5", "1"]), ("crop_ratio", ["1", "2"]), ("interpolation", ["box"]))
        ],
        (["--random_erasing_mode", "const"], "--random_erasing_mode: got const, which goes with --random_erasing"),
    ],
    "distillation": [
        (["--teacher_revision", "x"], "--teacher_revision: got 'x', but --teacher .* lies here"),
        (["--teacher", "./nowhere"], "--teacher: there is no folder or file './nowhere'"),
    ],
    "causal-lm": [
        (["--sample_tokens", "5"], "--sample_tokens: got 5, which goes with --sample_prompt"),
        (["--shuffle_blocks", "5"], "--shuffle_blocks: got 5, which goes with --streaming"),
        (["--attn_implementation", "x"], "--attn_implementation: got 'x'"),
        (["--dataset_revision", "x"], "--dataset_revision: got 'x', but --dataset .* lies here"),
        (["--data_files", "nowhere.txt"], "--dataset: .* is a file; accepted are a folder"),
        (
            ["--dataset", "text", "--data_files", "nowhere.txt"],
            "cannot be found or reached, with --data_files nowhere.txt",
        ),
        (["--dataset", "pydoc_topics", "--data_dir", "x"], "--data_dir: goes with"),
    ],
    "super-resolution": [
        (["--neftune_noise_alpha", "1"], "--neftune_noise_alpha: SamDiffSRUNet2DModel has no embedding"),
        (["--layer_decay", "0.5"], "--layer_decay 0.5: no optimizer can be made"),
        (["--lr_decay_rate", "0.1"], "--lr_decay_rate: got 0.1, which goes with --lr_decay_steps"),
        (["--structure_normalization", "minmax"], "structure_normalization"),
        (["--load_best_model_at_end", "true", "--save_strategy", "epoch"], "got 'loss', accepted are psnr_y"),
        (["--dataset", "skimage_photos", "--data_dir", "x"], "--data_dir: goes with"),
    ],
    "image-text-to-text": [
        (["--max_new_tokens", "94"], "--max_new_tokens: got 94, but with --max_length 96 accepted are at most"),
        (["--tokenizer_vocab_size", "300"], "--tokenizer_vocab_size: got 300, which goes with --tokenizer bpe"),
        (["--vision_model", "./nowhere"], "--vision_model: there is no folder or file './nowhere'"),
        (["--prompt_format", "QCM-A"], "--prompt_format: got QCM-A, which goes with --data_format science_qa"),
    ],
}
RUNS = {
    "image-classification": "digits_run",
    "distillation": "distilled_run",
    "causal-lm": "text_run",
    "super-resolution": "short_run",
    "image-text-to-text": "colour_run",
}


def said_of(argv: list[str], output: Path) -> str:
    """What a run is refused with; it leaves no folder behind."""
    try:
        prepare("prepare_training", [*argv, "--output_dir", str(output)])
    except (ValueError, OSError, ImportError) as error:
        return str(error) if not output.parent.exists() else f"LEFT A FOLDER: {error}"
    return "NOT REFUSED"


def without(argv: list[str], name: str) -> list[str]:
    if name not in argv:
        return argv
    start = argv.index(name)
    end = next((i for i in range(start + 1, len(argv)) if argv[i].startswith("--")), len(argv))
    return argv[:start] + argv[end:]


@pytest.fixture
def run_of(request, pictures):  # noqa: F811
    def make(task: str) -> list[str]:
        argv = request.getfixturevalue(RUNS[task])
        return [*argv, "--dataset", str(pictures)] if task == "super-resolution" else argv

    return make


@pytest.mark.parametrize("task", RUNS)
def test_what_no_run_could_follow_is_refused_before_it_begins(task, run_of, tmp_path):
    run, wrong = run_of(task), {}
    for argv, message in [*STOCK.values(), *OWN[task]]:
        argv_of_run = run
        for name in [word for word in argv if word.startswith("--")]:
            argv_of_run = without(argv_of_run, name)
        said = said_of([*argv_of_run, *argv], tmp_path / "new" / "run")
        if not re.search(message, said):
            wrong[" ".join(argv)] = said
    assert not wrong


def test_of_a_recipe_it_is_said_what_comes_to_nothing(digits_run, tmp_path, caplog):
    (tmp_path / "recipe.yaml").write_text("mixup: 0.2\nmix_probability: 0.5\nwarmup_steps: 3\n")
    run = [*digits_run, "--config", str(tmp_path / "recipe.yaml"), "--output_dir", str(tmp_path / "run")]
    prepare("prepare_training", [*run, "--mixup", "0", "--lr_scheduler_type", "constant"])
    assert "nothing comes of" not in caplog.text
    (tmp_path / "recipe.yaml").write_text("mix_probability: 0.5\n")
    prepare("prepare_training", run)
    assert caplog.text.count("nothing comes of --mix_probability: got 0.5, which goes with --mixup or --cutmix") == 1


def test_what_the_recipes_of_the_field_say_is_taken(digits_run, tmp_path):
    taken = ["--label_names", "labels", "--accelerator_config", "{even_batches: true}", "--do_train", "true"]
    taken += ["--metric_for_best_model", "eval_loss", "--greater_is_better", "false"]
    run = prepare("prepare_training", [*digits_run, *taken, "--output_dir", str(tmp_path / "run")])
    assert run.trainer.args.accelerator_config.even_batches
    assert not (tmp_path / "run").exists()


#: What a run does not get beside a model that is no preset, or a data set that is no format.
BESIDE = {
    "--model": ("--model_config", "--tokenizer", "--encoder", "--text_model", "--vision_model"),
    "--dataset": ("--data_files",),
}


@pytest.mark.parametrize("name", ["/", ".", "./nowhere", "~/nowhere", "a/b/c", "nowhere.json", "data/nowhere"])
def test_a_path_where_nothing_is_is_not_looked_for_on_the_hub(name, run_of, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("socket.getaddrinfo", lambda *address, **_: asked.append(address))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    for task in RUNS:
        run = run_of(task)
        for argument in ("--model", "--dataset"):
            argv = without(run, argument)
            for other in BESIDE[argument]:
                argv = without(argv, other)
            with pytest.raises((ValueError, OSError)) as error:
                prepare("prepare_training", [*argv, argument, name, "--output_dir", str(tmp_path / "run")])
            # Of a folder that the run itself would lie in, that is said: it is no data set either.
            said = str(error.value)
            assert f"{argument}: " in said or f" of {argument}; name one beside it" in said, said
            assert len(said.splitlines()) == 1, said
    assert not asked, "the Hub was asked"


def test_the_hub_is_not_tried_where_its_name_is_not_known(digits_run, tmp_path, monkeypatch):
    def unknown(*_, **__):
        raise OSError(-2, "Name or service not known")

    monkeypatch.setattr("socket.getaddrinfo", unknown)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for argument in ("--model", "--dataset"):
        argv = [*without(digits_run, argument), argument, "outpts/digits", "--output_dir", str(tmp_path / "run")]
        with pytest.raises(
            OSError,
            match=f"{argument}: 'outpts/digits' cannot be found or reached: .*there is no way to https",
        ):
            main(argv)
    with pytest.raises(OSError, match="--model: 'outpts/digits' cannot be found"):
        evaluate(["--model", "outpts/digits", "--dataset", "digits", "--output", str(tmp_path / "e.json")])
    # A format is no place: files of one's own are read without the Hub.
    (tmp_path / "rows.json").write_text('{"label": 3}')
    args = DataArguments(dataset="json", data_files=str(tmp_path / "rows.json"), cache_dir=str(tmp_path / "cache"))
    assert load_splits(args, None)["train"]["label"] == [3]


def test_what_comes_near_a_mistyped_path_is_named(digits_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    config = ConvNextConfig(patch_size=2, hidden_sizes=[8], depths=[1], num_stages=1, image_size=16, num_labels=10)
    ConvNextForImageClassification(config).save_pretrained("outputs/digits")
    ConvNextImageProcessorPil(size={"shortest_edge": 16}).save_pretrained("outputs/digits")
    run = [*without(digits_run, "--model"), "--output_dir", str(tmp_path / "run")]
    with pytest.raises(OSError, match="--model: .* 'outputs/digitz'; nearest: outputs/digits"):
        prepare("prepare_training", [*run, "--model", "outputs/digitz"])
    prepare("prepare_training", [*run, "--model", "outputs/digits"])


@pytest.mark.parametrize(
    "task, what_is_done",
    [
        (
            "image-classification",  # torchvision's and timm's crops and mirroring, and no more
            {"train_crop": "random_resized", "crop_scale": [0.08, 1.0], "crop_ratio": [3 / 4, 4 / 3]}
            | {"crop_padding": 4, "interpolation": ["bilinear", "bicubic"], "horizontal_flip": 0.5}
            | {"color_jitter": None, "lighting": 0.0, "randaugment": None, "autoaugment": None}
            | {"random_erasing": 0.0, "random_erasing_mode": "pixel", "random_erasing_count": 1}
            | {"mixup": 0.0, "cutmix": 0.0, "mix_probability": 1.0, "mix_switch_probability": 0.5, "mix_off_epochs": 0}
            | {
                "repeated_augmentation": 1,
                "loss": "cross_entropy",
                "random_weights": False,
                "training_branches": None,
            }
            | {"eval_strategy": "epoch", "save_strategy": "epoch", "save_total_limit": 2, "logging_steps": 50}
            | {"load_best_model_at_end": True, "metric_for_best_model": "accuracy"}
            | {"ddp_find_unused_parameters": False, "label_map_missing": "zero", "label_map_temperature": 1.0}
            | {"label_map_weight": 1.0},
        ),
        (
            "distillation",  # the labels count in full; episodes are of five classes with one picture of each
            {"labels_weight": 1.0, "teacher_dtype": "auto", "teacher_compile": False, "episodes_per_epoch": None}
            | {"way": 5, "shot": 1, "query": 15, "eval_episodes": 800},
        ),
        ("causal-lm", {"sample_tokens": 100, "sample_prompt": None, "peak_tflops": None, "attn_implementation": None}),
        (
            "language-distillation",  # Minitron's: logits alone, KL of the teacher
            {"divergence": "forward", "divergence_weight": 1.0, "temperature": 1.0, "top_k": None, "jsd_beta": 0.5}
            | {"hidden_states_weight": 0.0, "label_weight": 0.0, "teacher_dtype": "auto"},
        ),
        (
            "masked-image-modeling",  # MAE's parts of pictures
            {"crop_scale": [0.2, 1.0], "crop_ratio": [3 / 4, 4 / 3], "interpolation": "bicubic"}
            | {"horizontal_flip": 0.5, "progressive_sizes": None, "progressive_batch_sizes": None},
        ),
        (
            "semantic-segmentation",  # mmsegmentation's sizes and shares
            {"scale_range": [0.5, 2.0], "max_class_share": 0.75, "horizontal_flip": 0.5, "brightness": 0.0}
            | {"contrast": 0.0, "saturation": 0.0, "eval_mode": "whole", "eval_stride": None}
            | {"head_learning_rate_factor": 1.0, "reduce_labels": False}
            | {"metric_for_best_model": "miou", "load_best_model_at_end": True},
        ),
        (
            "source-free-adaptation",
            {"distance_threshold": 1.0, "min_samples_per_class": 5, "cluster_tolerance": 0.001, "std_factor": 1.0}
            | {"estimate_source": True, "discrepancy_weight": 1.0, "augmented_features": False}
            | {"norm_learning_rate_factor": 1.0, "steps_per_round": 50, "samples_per_class": 3}
            | {"load_best_model_at_end": False, "per_device_train_batch_size": 30, "learning_rate": 1e-3}
            | {"optim": "sgd", "weight_decay": 5e-4},
        ),
        (
            "visual-sequence-modeling",
            {"tokenizer_steps": 1000, "factorized_embedding": False, "pairs_per_sentence": 4, "packing": "drawn"}
            | {"packed_length": 2048, "gt_weight": 1.0, "kd_weight": 1.0, "kd_temperature": 1.0, "kd_inverse": False}
            | {"kd_predicted_only": False, "answered_images": 32},
        ),
        (
            "image-text-to-text",
            {"train": "adapters", "augmentation": "none", "save_base": False, "base_precision": "float32"}
            | {"max_length": 512, "max_new_tokens": None, "tokenizer_vocab_size": 512, "prompt_format": "CQM-A"}
            | {"prompt_template": "Instruction: {question}\nResponse:"},
        ),
        ("mask-generation", {"prompts_per_picture": 4, "shapes_per_picture": 6, "hard_prompt_rounds": 9}),
        (
            "data-free-distillation",
            {"optim": "sgd", "learning_rate": 0.1, "weight_decay": 5e-4, "max_grad_norm": 0.0, "generator": None}
            | {"metric_for_best_model": "accuracy", "save_strategy": "epoch", "save_total_limit": 2},
        ),
    ],
)
def test_a_recipe_that_says_nothing_of_it_trains_as_it_always_has(task, what_is_done):
    """Recipes say what differs: another default would make another training of each."""
    found = {}
    for arguments in load_task(task).TRAINING_ARGUMENTS:
        for f in fields(arguments):
            found[f.name] = f.default if f.default is not MISSING else f.default_factory()
    assert {name: found[name] for name in what_is_done} == what_is_done
