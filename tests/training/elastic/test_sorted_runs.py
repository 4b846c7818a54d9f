"""Sub-models that learn together in runs of the tasks causal-lm and image-classification."""

import json
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    ConvNextImageProcessorPil,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from hf_effmodels._written import rewritten
from hf_effmodels.training import evaluate, main, prepare
from hf_effmodels.training.elastic.arguments import SortedArguments
from hf_effmodels.training.elastic.sorted_runs import SortedRun, making_sorted
from hf_effmodels.training.run.output_folder import clear_output_folder, write_run
from hf_effmodels.training.tasks.causal_lm.arguments import CausalLMArguments
from hf_effmodels.training.tasks.image_classification.task import ImageClassificationArguments

from ...processes import run_in_two
from ..tasks.contract import history, same, weights

SUBMODELS = "{one: {num_hidden_layers: 1}, thin: {intermediate_size: 24}}"
SIZES = "{hidden_size: 32, intermediate_size: 48, num_hidden_layers: 3, num_attention_heads: 2}"


@pytest.fixture
def sorted_text_run(text_run):
    return [*text_run, "--model_config", SIZES, "--sorted_submodels", SUBMODELS, "--max_steps", "6"]


@pytest.fixture
def sorted_digits_run(vit_folder, digits_run):
    """13 samples in batches of 4: the last step of an epoch has fewer."""
    submodels = "{narrow: {num_hidden_layers: 1, intermediate_size: 8}}"
    return [*digits_run, "--model", str(vit_folder), "--sorted_submodels", submodels, "--max_train_samples", "13"]


@pytest.fixture(scope="module")
def vit_folder(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("vit")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    ViTForImageClassification(ViTConfig(**sizes, image_size=16, patch_size=8, num_labels=10)).save_pretrained(folder)
    ConvNextImageProcessorPil(size={"shortest_edge": 16}, crop_pct=0.875).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def resnet_folder(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("resnet")
    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[2, 1], layer_type="basic", num_labels=10, num_channels=3
    )
    ResNetForImageClassification(config).save_pretrained(folder)
    ConvNextImageProcessorPil(size={"shortest_edge": 16}, crop_pct=0.875).save_pretrained(folder)
    return folder


def test_a_run_that_goes_on_from_a_checkpoint_ends_in_the_same_weights(sorted_text_run, tmp_path):
    run = [*sorted_text_run, "--submodels_per_step", "2", "--ema_decay", "0.8", "--gradient_accumulation_steps", "2"]
    run += ["--save_strategy", "steps", "--save_steps", "2", "--save_total_limit", "9", "--eval_strategy", "steps"]
    run += ["--eval_steps", "3", "--bf16", "true"]
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    main([*run, "--output_dir", str(whole)])
    main([*run, "--output_dir", str(resumed), "--resume_from_checkpoint", str(whole / "checkpoint-2")])
    assert same(weights(whole), weights(resumed))
    assert np.array_equal(history(whole, "eval_thin_loss"), history(resumed, "eval_thin_loss"))
    names = {name.partition(":")[0] for name in weights(resumed)}
    assert names >= {"submodels/one/model.safetensors", "submodels/thin/model.safetensors", "model.safetensors"}


def test_eight_small_batches_give_the_gradient_of_one_large(sorted_text_run, tmp_path):
    run = [*sorted_text_run, "--optim", "sgd", "--max_grad_norm", "0", "--max_steps", "2"]
    logged = []
    for batch, steps in ((8, 1), (1, 8)):
        size = ["--per_device_train_batch_size", str(batch), "--gradient_accumulation_steps", str(steps)]
        main([*run, *size, "--output_dir", str(tmp_path / f"{batch}x{steps}")])
        logged.append(history(tmp_path / f"{batch}x{steps}", "loss", "grad_norm"))
    np.testing.assert_allclose(*logged, rtol=1e-4)


def test_a_step_is_the_mean_over_plain_models_and_each_is_saved_as_it_was_measured(
    sorted_text_run, text_file, tmp_path
):
    prepared = prepare(
        "prepare_training",
        [*sorted_text_run, "--max_steps", "1", "--learning_rate", "0", "--output_dir", str(tmp_path)],
    )
    batch = next(iter(prepared.trainer.get_train_dataloader()))
    results = prepared.train()
    folders = {"one": "submodels/one", "thin": "submodels/thin", "whole": "."}
    models = {name: AutoModelForCausalLM.from_pretrained(tmp_path / folder) for name, folder in folders.items()}
    losses = [model(**batch).loss.item() for model in models.values()]
    assert history(tmp_path, "loss")[0, 0] == pytest.approx(np.mean(losses), rel=1e-5)
    table = json.loads((tmp_path / "submodels.json").read_text())
    for name, model in list(models.items())[:2]:
        data = ["--dataset", str(text_file), "--text_unit", "line", "--block_size", "16", "--eval_fraction", "0.1"]
        where = ["--model", str(tmp_path / folders[name]), "--output", str(tmp_path / f"{name}.json")]
        found = evaluate(["--task", "causal-lm", *where, *data])
        assert found["loss"] == pytest.approx(results[f"eval_{name}_loss"], rel=1e-5)
        assert table[name]["loss"] == results[f"eval_{name}_loss"] != results["eval_loss"]
        assert table[name]["parameters"] == model.num_parameters() and model.config.use_cache
    # Early exit: the first layers draft, the whole verifies.
    prompt = {"input_ids": batch["input_ids"][:1, :4], "max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    assisted = models["whole"].generate(**prompt, assistant_model=models["one"])
    torch.testing.assert_close(assisted, models["whole"].generate(**prompt))


@pytest.mark.parametrize("drawn", [1, 2, 3])
def test_the_operations_of_a_token_are_those_of_the_networks_that_learn_from_it(drawn, sorted_text_run, tmp_path):
    """On average over the draws, so many of three a step. 6 for each weight and 12 · layers · width · 16."""
    run = ["llama" if word == "pangu-pi-15m" else word for word in sorted_text_run]
    run += ["--submodels_per_step", str(drawn), "--output_dir", str(tmp_path)]
    trainer = prepare("prepare_training", run).trainer

    def operations(layers, width) -> int:
        vocabulary = trainer.model.config.vocab_size
        return 6 * (layers * (4 * 32 * 32 + 3 * 32 * width) + 32 * vocabulary) + 12 * layers * 32 * 16

    networks = [(1, 48), (3, 24), (3, 48)]
    expected = drawn * sum(operations(*sizes) for sizes in networks) / 3
    trainer._tokens, trainer._peak, trainer.watch = 1000, 1.0, SimpleNamespace(lap=lambda: 1.0)
    assert trainer._speed() == {"tokens_per_second": 1000.0, "mfu": pytest.approx(1000 * expected / 1e12, rel=1e-9)}


def test_two_processes_follow_the_trajectory_of_one(sorted_digits_run, tmp_path):
    run = [*sorted_digits_run, "--max_grad_norm", "0", "--eval_strategy", "steps", "--eval_steps", "4"]
    run += ["--save_strategy", "no", "--load_best_model_at_end", "false", "--num_train_epochs", "1"]
    run += ["--submodels_per_step", "1", "--per_device_eval_batch_size", "3"]
    two, one = tmp_path / "two", tmp_path / "one"
    run_in_two(main, [*run, "--per_device_train_batch_size", "2", "--output_dir", str(two)])
    main([*run, "--per_device_train_batch_size", "4", "--output_dir", str(one)])
    for keys in (("loss", "grad_norm"), ("eval_loss", "eval_narrow_loss", "eval_narrow_accuracy")):
        np.testing.assert_allclose(history(two, *keys), history(one, *keys), rtol=1e-4)
    expected = weights(one)
    assert all(torch.allclose(expected[name], value, atol=1e-5) for name, value in weights(two).items())


def test_batch_norms_of_each_network_are_those_of_the_training_samples(resnet_folder, digits_run, tmp_path):
    run = [*digits_run, "--model", str(resnet_folder), "--sorted_submodels", "{small: {depths: [1, 1]}}"]
    run += ["--submodel_calibration_samples", "16", "--max_steps", "4", "--eval_steps", "2", "--save_strategy", "no"]
    run += ["--load_best_model_at_end", "false"]
    watched, unwatched = tmp_path / "watched", tmp_path / "unwatched"
    prepared = prepare("prepare_training", [*run, "--eval_strategy", "steps", "--output_dir", str(watched)])
    results = prepared.train()
    # In each evaluation of the training, the second one, too, which is of the last step.
    log = [entry for entry in prepared.trainer.state.log_history if "eval_loss" in entry and entry["step"] == 4]
    for name in ("eval_loss", "eval_small_loss"):
        assert log[0][name] == pytest.approx(results[name], rel=1e-5)
    images = torch.stack([prepared.trainer.train_dataset[index]["pixel_values"] for index in range(16)])
    for folder, name in ((watched, "eval_loss"), (watched / "submodels" / "small", "eval_small_loss")):
        model = AutoModelForImageClassification.from_pretrained(folder)
        stem = model.resnet.embedder.embedder
        with torch.no_grad():
            features = stem.convolution(images)
        torch.testing.assert_close(stem.normalization.running_mean, features.mean((0, 2, 3)), atol=1e-5, rtol=1e-4)
        arguments = ["--model", str(folder), "--dataset", "digits", "--max_eval_samples", "11"]
        measured = evaluate([*arguments, "--output", str(tmp_path / f"{name}.json")])
        assert measured["loss"] == pytest.approx(results[name], rel=1e-5)
    # What is measured on the way leaves no trace.
    main([*run, "--eval_strategy", "no", "--output_dir", str(unwatched)])
    assert same(weights(watched), weights(unwatched))


def test_what_cannot_be_is_refused_before_the_work(sorted_text_run, sorted_digits_run, tmp_path):
    for run, arguments, reason in (
        (sorted_text_run, ["--sorted_submodels", "{a: {}}"], "--sorted_submodels: got {} for a"),
        (sorted_text_run, ["--sorted_submodels", "{a/b: {num_hidden_layers: 1}}"], "got the name 'a/b'"),
        (sorted_text_run, ["--sorted_submodels", "{a: {num_hidden_layers: 9}}"], "num_hidden_layers: got 9, accepted"),
        (sorted_text_run, ["--submodels_per_step", "4"], "--submodels_per_step: got 4, accepted are 1 to 3"),
        (sorted_text_run, ["--bitnet", "mean"], "does not go with --bitnet"),
        (sorted_text_run, ["--gradient_checkpointing", "true"], "gradient_checkpointing: got True"),
        (sorted_text_run, ["--task", "language-distillation", "--teacher", "pangu-pi-15m"], "distillation trains one"),
        (sorted_digits_run, ["--bivit", "layers"], "does not go with --bivit"),
        (sorted_digits_run, ["--training_branches", "2"], "does not go with --training_branches"),
    ):
        with pytest.raises(ValueError, match=reason):
            prepare("prepare_training", [*run, *arguments, "--output_dir", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("arguments", [CausalLMArguments, ImageClassificationArguments])
@pytest.mark.parametrize("number", [1, 3])
def test_as_many_take_part_in_a_step_as_there_are_sub_models_and_the_whole(arguments, number, tmp_path):
    submodels = {f"first-{count}": {"num_hidden_layers": count} for count in range(1, number + 1)}
    given = {"output_dir": str(tmp_path), "sorted_submodels": submodels, "use_cpu": True}
    for drawn in (1, number, number + 1):
        made = arguments(**given, submodels_per_step=drawn)
        assert (made.submodels_per_step, made.sorted_submodels) == (drawn, submodels)
    said = f"--submodels_per_step: got {number + 2}, accepted are 1 to {number + 1}, the sub-models and the whole"
    with pytest.raises(ValueError, match=said):
        arguments(**given, submodels_per_step=number + 2)


def test_a_run_that_is_overwritten_leaves_none_of_its_sub_models_and_all_else(tmp_path):
    run, outside = tmp_path / "run", tmp_path / "thesis"
    run.mkdir()
    # A record that somebody has written names what is not the run's.
    names = {"one": {}, "mine": {}, "../../thesis": {}, str(outside): {}}
    write_run(run, {"task": "causal-lm", "sorted_submodels": names})
    for name in ("one", "two"):
        with rewritten(run / "submodels" / name, "a sorted training") as folder:
            (folder / "config.json").write_text("{}")
            (folder / "parts").mkdir()
            (folder / "parts" / "weights").write_text("1")
    (run / "submodels" / "two" / "notes.txt").write_text("mine")
    for folder in (run / "submodels" / "mine", outside):
        folder.mkdir()
        (folder / "config.json").write_text("{}")
    (run / "submodels.json").write_text("{}")
    clear_output_folder(run)
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"run/submodels/mine/config.json", "run/submodels/two/notes.txt", "thesis/config.json"}
    (run / "submodels.json").write_text("of somebody, where no run is recorded")
    clear_output_folder(run)
    assert (run / "submodels.json").is_file()


@pytest.mark.parametrize(
    "asked, sizes", [(5, [2, 2, 1]), (4, [2, 2]), (1, [1]), (7, [2, 2, 2, 1]), (99, [2, 2, 2, 1])]
)
def test_statistics_are_taken_of_the_first_samples_each_once(asked, sizes):
    samples = [{"pixels": torch.full((3,), float(n)), "labels": n} for n in range(7)]
    args = SimpleNamespace(per_device_eval_batch_size=2, device=torch.device("cpu"))
    run = SimpleNamespace(calibration_samples=asked, train_dataset=samples, args=args)
    batches = list(SortedRun._calibration_batches(run, "pixels"))
    assert [len(batch["pixels"]) for batch in batches] == sizes and all({*batch} == {"pixels"} for batch in batches)
    assert torch.cat([batch["pixels"] for batch in batches])[:, 0].tolist() == list(range(min(asked, 7)))


def test_names_and_numbers_of_sub_models_go_to_their_bounds():
    @dataclass
    class Base:
        def __post_init__(self):
            self.asked = True

    @dataclass
    class Arguments(SortedArguments, Base):
        pass

    longest = "a" + "b" * 63
    for name in (longest, "9", "Half_of-it.2"):
        read = Arguments(sorted_submodels=f"{{{name!r}: {{num_hidden_layers: 2}}}}", submodels_per_step=2)
        assert read.sorted_submodels == {name: {"num_hidden_layers": 2}} and read.asked
    for name in (longest + "b", ".hidden", "_x", "-x", "a b", "a/b", "\u00e4", "a\n"):
        with pytest.raises(ValueError, match="--sorted_submodels: got the name"):
            Arguments(sorted_submodels={name: {"num_hidden_layers": 2}})
    two = {"a": {"num_hidden_layers": 2}, "b": {"num_hidden_layers": 1}}
    assert Arguments(sorted_submodels=two, submodels_per_step=3).submodels_per_step == 3
    with pytest.raises(
        ValueError, match="--submodels_per_step: got 4, accepted are 1 to 3, the sub-models and the wh"
    ):
        Arguments(sorted_submodels=two, submodels_per_step=4)
    for none in (None, "", {}):
        assert Arguments(sorted_submodels=none).sorted_submodels is None
    for sizes in ({}, 3, [1], None, "half"):
        with pytest.raises(ValueError, match="--sorted_submodels: got .* for b, accepted are sizes such as"):
            Arguments(sorted_submodels={**two, "b": sizes})


def test_what_is_said_of_sub_models_reaches_their_trainer_and_its_refusals_are_called_by_the_option():
    made = []
    args = SimpleNamespace(sorted_submodels={"a": {}}, submodels_per_step=2, submodel_calibration_samples=17)
    making_sorted(lambda **options: made.append(options), args)(model="m")
    expected = {"submodels": {"a": {}}, "submodels_per_step": 2, "calibration_samples": 17, "model": "m"}
    assert made == [expected]
    for said, told in (("sizes do not fit", "--sorted_submodels: sizes do not fit"), ("--seed: no", "--seed: no")):

        def refuse(said=said, **options):
            raise ValueError(said)

        with pytest.raises(ValueError) as caught:
            making_sorted(refuse, args)()
        assert str(caught.value) == told
