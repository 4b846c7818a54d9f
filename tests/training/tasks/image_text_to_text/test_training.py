"""Runs: what is trained and saved, kills, two processes, the way to the Hub and back."""

import json
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from peft import PeftConfig, PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer, pipeline

from hf_effmodels.modeling.adem_vl.modeling_adem_vl import ADAPTER_NAMES
from hf_effmodels.training import evaluate, main, prepare
from hf_effmodels.training.tasks.image_text_to_text.arguments import VisionLanguageModelArguments
from hf_effmodels.training.tasks.image_text_to_text.models import (
    _texts,
    has_base_elsewhere,
    load_model,
    set_trained_weights,
)
from hf_effmodels.training.tasks.image_text_to_text.reports import _shown, save_peft_adapter
from hf_effmodels.training.tasks.image_text_to_text.samples import Sample, Samples

TASK = "hf_effmodels.training.tasks.image_text_to_text"


def history(folder, *keys):
    state = json.loads((folder / "trainer_state.json").read_text())
    return np.array([[entry[k] for k in keys] for entry in state["log_history"] if all(k in entry for k in keys)])


def weights(folder):
    return load_file(folder / "model.safetensors")


def test_a_run_of_adapters_saves_adapters_only_and_peft_reads_the_decoders_part(colour_run, tmp_path):
    whole = tmp_path / "whole"
    saved_at = ["--save_strategy", "steps", "--save_steps", "3", "--base_precision", "bfloat16"]
    main([*colour_run, *saved_at, "--output_dir", str(whole)])
    a = weights(whole)

    # Adapters only: in the checkpoint, in the result, and in what goes to the Hub.
    for folder in (whole, whole / "checkpoint-3", whole / "hub"):
        saved = weights(folder)
        assert all(ADAPTER_NAMES.match(name) for name in saved)
        assert {tensor.dtype for tensor in saved.values()} == {torch.float32}
    assert "the adapters only" in (whole / "README.md").read_text()
    model = AutoModelForImageTextToText.from_pretrained(whole)
    base = AutoModelForCausalLM.from_pretrained(model.config.text_model_name_or_path)
    assert torch.equal(model.lm_head.weight, base.lm_head.weight)
    assert torch.equal(model.state_dict()["model.value_offsets"], a["model.value_offsets"])
    # The decoder's part alone, as peft has it.
    adapted = PeftModel.from_pretrained(base, whole / "peft")
    ids, context = torch.tensor([[1, 5, 6]]), torch.randn(1, 20, 32)
    with torch.no_grad():
        expected = model(ids, vision_context=context).logits
        torch.testing.assert_close(adapted(ids, image_embeds=context).logits, expected)


def test_the_folder_for_peft_has_the_settings_of_the_model_and_replaces_an_earlier_one_alone(tmp_path):
    offsets = torch.randn(2, 1, 20, 32).to(torch.float64).unbind()
    config = SimpleNamespace(alpha=1, drop_ratio=0.35, num_vision_tokens=20, text_model_name_or_path="you/llama")
    inner = SimpleNamespace(key_offsets=torch.nn.Parameter(offsets[0]), value_offsets=torch.nn.Parameter(offsets[1]))
    (tmp_path / "peft").mkdir()
    for name in ("adapter_config.json", "notes.txt"):
        (tmp_path / "peft" / name).write_text("before")
    save_peft_adapter(SimpleNamespace(config=config, model=inner), tmp_path / "peft")
    found = PeftConfig.from_pretrained(tmp_path / "peft")
    assert (found.alpha, found.drop_ratio, found.num_vision_tokens, found.target_modules) == (1.0, 0.35, 20, {"mlp"})
    assert (found.task_type, found.inference_mode) == ("CAUSAL_LM", True)
    assert found.base_model_name_or_path == "you/llama" and (tmp_path / "peft" / "notes.txt").read_text() == "before"
    stored = load_file(tmp_path / "peft" / "adapter_model.safetensors")
    assert stored.keys() == {"base_model.adem_emb1", "base_model.adem_emb2"}
    assert all(torch.equal(stored[f"base_model.adem_emb{n + 1}"], offsets[n]) for n in (0, 1))


def test_all_weights_of_a_random_network_are_trained_and_answer_in_the_pipeline(tmp_path, colours):
    config = {
        "text_config": {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2},
        "vision_config": {
            **{"model_type": "clip_vision_model", "hidden_size": 16, "intermediate_size": 24},
            **{"num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8, "image_size": 16},
        },
        **{"pool_sizes": [2, 1], "projector_hidden_size": 8, "vision_adapter_dim": 2},
    }
    run = ["--task", "image-text-to-text", "--model", "adem_vl-7b-caption", "--model_config", json.dumps(config)]
    run += ["--tokenizer", "bpe", "--train", "all", "--dataset", "digits", "--max_train_samples", "24"]
    run += ["--max_eval_samples", "5", "--num_train_epochs", "1", "--max_new_tokens", "2", "--logging_steps", "1"]
    run += ["--eval_strategy", "epoch", "--output_dir", str(tmp_path / "run")]
    results = main(run)
    assert {"eval_loss", "eval_accuracy", "eval_samples"} <= results.keys() and results["eval_samples"] == 5
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "run")
    processor = AutoProcessor.from_pretrained(tmp_path / "run")
    assert processor.image_token_id == model.config.image_token_id == model.config.text_config.vocab_size
    content = [{"type": "image", "url": str(colours / "0.png")}, {"type": "text", "text": "Which digit is this?"}]
    answer = pipeline("image-text-to-text", model=str(tmp_path / "run"))
    found = answer(text=[{"role": "user", "content": content}], max_new_tokens=2, return_full_text=False)
    assert isinstance(found[0]["generated_text"], str)
    again = ["--task", "image-text-to-text", "--model", str(tmp_path / "run"), "--dataset", "digits"]
    again += ["--max_eval_samples", "5", "--max_new_tokens", "2", "--output", str(tmp_path / "e.json")]
    measured = evaluate([*again, "--answers", str(tmp_path / "answers.jsonl")])
    assert measured["accuracy"] == results["eval_accuracy"]
    # An image and its question must leave room for the answer, in an evaluation as in a training.
    more = ["--max_length", "12", "--max_new_tokens", "9", "--output", str(tmp_path / "f.json")]
    with pytest.raises(ValueError, match="--max_new_tokens: got 9, .* --max_length 12"):
        evaluate([*again, *more])
    lines = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert len(lines) == 5 and lines[0]["prompt"] == "Instruction: Which digit is this?\nResponse:"


def test_training_goes_on_from_what_was_saved_with_the_weights_it_was_saved_with(colour_run, tmp_path):
    short = [*colour_run, "--num_train_epochs", "1", "--max_steps", "1", "--max_eval_samples", "1"]
    start = short.index("--model")
    data_only = short[:start] + short[start + 8 :]
    main([*short, "--output_dir", str(tmp_path / "adapters")])
    main([*short, "--train", "all", "--output_dir", str(tmp_path / "all")])
    for first, adapters_only in (("adapters", True), ("all", False)):
        second = tmp_path / f"{first}_again"
        main([*data_only, "--model", str(tmp_path / first), "--output_dir", str(second)])
        saved = weights(second)
        assert all(map(ADAPTER_NAMES.match, saved)) == adapters_only
        assert (second / "peft").exists() == adapters_only
    # The language model trained in the first run is the one that the second run saved.
    name = "model.language_model.layers.0.mlp.up_proj.weight"
    assert torch.equal(weights(tmp_path / "all_again")[name], weights(tmp_path / "all")[name])
    main([*short, "--save_base", "true", "--output_dir", str(tmp_path / "whole")])
    assert name in weights(tmp_path / "whole")


def test_other_processes_can_read_the_samples(colour_run, tmp_path):
    # Where processes are not forked, a data loader's workers get the data set pickled.
    trainer = prepare("prepare_training", [*colour_run, "--output_dir", str(tmp_path / "run")]).trainer
    sample, copy = (
        dataset[3] for dataset in (trainer.train_dataset, pickle.loads(pickle.dumps(trainer.train_dataset)))
    )
    assert sample["input_ids"] == copy["input_ids"] and torch.equal(sample["pixel_values"], copy["pixel_values"])


def test_science_qa_is_scored_as_in_the_papers_table(model_arguments, tmp_path, capsys, monkeypatch):
    problem = {"question": "Q?", "choices": ["x", "y"], "hint": "", "image": None}
    problems = {
        "1": {**problem, "answer": 0, "subject": "natural science", "grade": "grade2"},
        "2": {**problem, "answer": 1, "subject": "natural science", "grade": "grade7", "hint": "h"},
        "3": {**problem, "answer": 1, "subject": "social science", "grade": "grade12"},
        "4": {**problem, "answer": 0, "subject": "language science", "grade": "grade6"},
    }
    (tmp_path / "problems.json").write_text(json.dumps(problems))
    (tmp_path / "pid_splits.json").write_text(json.dumps({"test": list(problems)}))
    answers = [" A", " C", "B", "?"]  # right, no choice, right, no letter
    monkeypatch.setattr(f"{TASK}.task.generate_answers", lambda *a, **k: answers)
    output = tmp_path / "result.json"
    found = evaluate([*model_arguments, "--dataset", str(tmp_path), "--output", str(output)])
    assert found == {
        **{"accuracy_natural_science": 0.5, "accuracy_social_science": 1.0, "accuracy_language_science": 0.0},
        **{"accuracy_text_context": 0.0, "accuracy_no_context": 2 / 3, "accuracy": 0.5},
        **{"accuracy_grades_1_6": 0.5, "accuracy_grades_7_12": 0.5, "unanswered": 2, "samples": 4},
    }
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split() == ["NAT", "SOC", "LAN", "TXT", "NO", "G1-6", "G7-12", "Avg"]
    assert printed[1].split() == ["50.00", "100.00", "0.00", "0.00", "66.67", "50.00", "50.00", "50.00"]
    assert json.loads(output.read_text())["accuracy"] == 0.5
    # Of some grades alone the table has as many columns.
    for grades, title in (("1_6", "G1-6"), ("7_12", "G7-12")):
        few = {f"accuracy_grades_{grades}": 0.5, "accuracy": 0.5, "unanswered": 1, "samples": 2}
        heads, values, last = _shown(few).splitlines()
        assert (heads.split(), values.split()) == ([title, "Avg"], ["50.00", "50.00"])
        assert last == "n 2, unanswered 1"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--base_precision", "bfloat16", "--train", "all"], "--base_precision: got bfloat16 with --train all"),
        (["--base_precision", "bfloat16", "--ema_decay", "0.9"], "--ema_decay needs --base_precision float32"),
        (["--base_precision", "4bit"], "--base_precision: 4bit needs bitsandbytes, which is not installed"),
        (
            ["--model", "adem_vl-7b-instruct"],
            "nearest: adem_vl-7b-instruction",
        ),
        (["--text_model", "nowhere/at-all"], "--text_model: 'nowhere/at-all' cannot be found"),
        (["--model_config", "{alpa: 1}"], "AdemVLConfig has no field 'alpa'; nearest: alpha"),
        (["--model_config", "{pool_sizes: [9]}"], r"pool_sizes: got \[9\], accepted are sides from 1 to"),
        (["--question_column", "frage"], "--question_column: json/train has no 'frage', its columns are"),
        (["--label_smoothing_factor", "0.1"], "--label_smoothing_factor: got 0.1; image-text-to-text has none"),
        (["--layer_decay", "0.5"], "--layer_decay: got 0.5; image-text-to-text has none"),
        (["--prompt_format", "QCM-A"], "--prompt_format: got QCM-A, which goes with --data_format science_qa"),
        (["--max_new_tokens", "90"], "--max_new_tokens: got 90, but with --max_length 96 accepted are at most"),
        (["--revision", "main"], "--revision: got 'main', which goes with a model on the Hub; adem_vl-7b-instruction"),
        (["--tokenizer_vocab_size", "3"], "--tokenizer_vocab_size: got 3"),
    ],
)
def test_wrong_input_is_named_before_anything_is_written(colour_run, tmp_path, monkeypatch, more, message):
    monkeypatch.setattr(f"{TASK}.models.is_bitsandbytes_available", lambda: False)
    with pytest.raises((ValueError, OSError), match=message):
        main([*colour_run, *more, "--output_dir", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


SIZES = {"pool_sizes": [4, 2], "projector_hidden_size": 8, "vision_adapter_dim": 4}


@pytest.fixture(scope="module")
def saved(bases, tmp_path_factory):
    """Adapters alone, whole weights, and tokenizers that lack something."""
    names = {"text_model": str(bases / "llm"), "vision_model": str(bases / "clip")}
    args = VisionLanguageModelArguments(model="adem_vl-7b-instruction", model_config=SIZES, **names)
    model, processor = load_model(args)
    tmp_path = tmp_path_factory.mktemp("saved")
    for name, adapter_only in (("adapters", True), ("whole", False)):
        model.save_pretrained(tmp_path / name, adapter_only=adapter_only)
        processor.save_pretrained(tmp_path / name)
    tokenizer = AutoTokenizer.from_pretrained(bases / "llm")
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path / "endless")
    return tmp_path


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"text_model": "x"}, "--vision_model is missing: the frozen parts are given together, or neither"),
        ({"vision_model": "x"}, "--text_model is missing: the frozen parts are given together, or neither"),
        (
            {},
            "--text_model and --vision_model are missing: .* --tokenizer, a Hub id, a folder or bpe",
        ),
        ({"tokenizer": "bpe"}, "--tokenizer: bpe is made from training texts, and there is no training"),
        (
            {"tokenizer": "bpe", "base_precision": "bfloat16"},
            "--base_precision: got bfloat16, but random weights are trained: float32",
        ),
        ({"tokenizer": "nowhere/at-all"}, "--tokenizer: 'nowhere/at-all' cannot be found"),
        ({"model": "whole", "tokenizer": "x"}, "--tokenizer goes with a preset; .*whole has its own"),
        ({"model": "whole", "model_config": {"alpha": 1}}, "--model_config goes with a preset; .*whole has its own"),
        ({"model": "llm"}, "--model: .*llm is a 'llama', accepted are ADEM-VL models. To adapt a language model give"),
        ({"model": "whole", "base_precision": "4bit"}, "4bit needs a model of adapters only; .*whole holds whole"),
        (
            {"text_model": "llm", "vision_model": "clip", "model_config": {"text_config": {}}},
            "--model_config: text_config is that of the models given as text_model and vision_model",
        ),
        (
            {"text_model": "llm", "vision_model": "clip", "model_config": {"vision_config": {}}},
            "--model_config: vision_config is that of the models given as text_model and vision_model",
        ),
        (
            {"text_model": "llm", "vision_model": "clip", "tokenizer": "endless", "model_config": SIZES},
            "--tokenizer: it has no end-of-sequence token, which ends the answers",
        ),
    ],
)
def test_parts_of_models_that_do_not_go_together_are_named(given, message, saved, bases, monkeypatch):
    monkeypatch.setattr(f"{TASK}.models.is_bitsandbytes_available", lambda: True)
    places = {"whole": saved / "whole", "endless": saved / "endless", "llm": bases / "llm", "clip": bases / "clip"}
    given = {
        name: str(places[value]) if isinstance(value, str) and value in places else value
        for name, value in given.items()
    }
    with pytest.raises((ValueError, OSError), match=message):
        load_model(VisionLanguageModelArguments(**{"model": "adem_vl-7b-instruction", **given}))


@pytest.fixture
def random_config():
    """Of a network that is small enough to start from random weights."""
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {**sizes, "model_type": "clip_vision_model", "num_hidden_layers": 2, "patch_size": 8, "image_size": 16}
    config = {"text_config": sizes, "vision_config": vision, "pool_sizes": [2, 1], "projector_hidden_size": 8}
    return {**config, "vision_adapter_dim": 2}


def test_a_random_network_may_take_a_tokenizer_of_somebody_elses(bases, random_config, tmp_path):
    given = {"model": "adem_vl-7b-caption", "model_config": random_config}
    args = VisionLanguageModelArguments(**given, tokenizer=str(bases / "llm"))
    model, processor = load_model(args)
    theirs = AutoTokenizer.from_pretrained(bases / "llm")
    assert processor.tokenizer.get_vocab().keys() >= theirs.get_vocab().keys()
    # The place of the image comes behind their vocabulary.
    assert model.config.text_config.vocab_size == len(theirs) == model.config.image_token_id
    names = ("eos_token_id", "pad_token_id", "bos_token_id")
    own = {name: getattr(theirs, name) for name in names}
    assert sorted(own.values()) == [0, 1, 2]
    for config in (model.config.text_config, model.generation_config):
        assert {name: getattr(config, name) for name in names} == own
    # One that has the image's token keeps its place; without a class token no text has one.
    theirs.add_tokens(["<image>", "<more>"], special_tokens=True)
    theirs.save_pretrained(tmp_path)
    for use_cls_token in (True, False):
        given["model_config"]["use_cls_token"] = use_cls_token
        model, processor = load_model(VisionLanguageModelArguments(**given, tokenizer=str(tmp_path)))
        assert model.config.image_token_id == processor.image_token_id == len(theirs) - 2
        assert model.config.text_config.vocab_size == len(theirs)
        assert model.config.use_cls_token == processor.use_cls_token == use_cls_token


def test_a_tokenizer_is_made_of_all_that_it_is_going_to_see():
    """What stands before each text, each text whole, and what is asked without an answer."""
    rows = [Sample((("Q1 ", "A1"), ("Q2 ", "A2")), ask="Q3"), Sample((("Q4 ", "A4"),), image="a picture")]
    found = [*_texts(Samples.of(rows, lambda row: row, "x"))]
    assert found == ["Image: ", "Image: N/A", "Q1 A1Q2 A2", "Q3", "Q4 A4", "Q4 "]


def test_frozen_parts_are_all_in_the_precision_that_is_asked_for(bases):
    names = {"text_model": str(bases / "llm"), "vision_model": str(bases / "clip")}
    given = {"model": "adem_vl-7b-instruction", "model_config": SIZES, **names}
    model, processor = load_model(VisionLanguageModelArguments(**given, base_precision="bfloat16"))
    for name in ("eos_token_id", "pad_token_id", "bos_token_id"):  # which the language model does not know
        assert getattr(model.generation_config, name) == getattr(processor.tokenizer, name)
    for name, weight in model.named_parameters():
        assert weight.dtype == (torch.float32 if ADAPTER_NAMES.match(name) else torch.bfloat16), name


def test_frozen_parts_are_elsewhere_unless_they_lie_in_the_folder_or_nowhere(saved):
    def elsewhere(**given):
        return has_base_elsewhere(VisionLanguageModelArguments(**given))

    preset = {"model": "adem_vl-7b-instruction"}
    assert elsewhere(**preset, text_model="x", vision_model="y") and not elsewhere(**preset, tokenizer="bpe")
    assert elsewhere(model=str(saved / "adapters")) and not elsewhere(model=str(saved / "whole"))


def test_low_precision_of_four_bits_keeps_no_base_and_answers_to_instructions_have_no_score(
    colour_run, tmp_path, monkeypatch
):
    monkeypatch.setattr(f"{TASK}.task.load_model", lambda *_: pytest.fail("a model was loaded"))
    (tmp_path / "rows.json").write_text("[]")
    output = ["--output", str(tmp_path / "result.json")]
    data = ["--dataset", str(tmp_path / "rows.json"), "--data_format", "instructions"]
    with pytest.raises(ValueError, match="--data_format: answers to instructions have no score; evaluate on another"):
        evaluate(["--task", "image-text-to-text", "--model", "adem_vl-7b-instruction", *data, *output])
    monkeypatch.undo()
    monkeypatch.setattr(f"{TASK}.models.is_bitsandbytes_available", lambda: True)
    monkeypatch.setattr(f"{TASK}.models._precision", lambda args: {"dtype": torch.bfloat16})
    more = ["--base_precision", "4bit", "--save_base", "true", "--output_dir", str(tmp_path / "run")]
    with pytest.raises(ValueError, match="--save_base: with 4bit the frozen parts are not the ones that would be"):
        main([*colour_run, *more])


def test_it_is_said_where_nothing_can_be_learned(colour_run, bases, random_config, tmp_path, caplog):
    """An answer that is cut off, and frozen parts of random weights that stay so."""
    short = ["--max_length", "12", "--max_new_tokens", "1", "--output_dir", str(tmp_path / "run")]
    prepare("prepare_training", [*colour_run, *short, "--tokenizer", str(bases / "llm")])
    assert "the first and the last row of json/train have no answer within --max_length 12" in caplog.text
    assert "random weights" not in caplog.text
    run = ["--task", "image-text-to-text", "--model", "adem_vl-7b-caption"]
    run += ["--model_config", json.dumps(random_config)]
    run += ["--tokenizer", "bpe", "--dataset", "digits", "--max_train_samples", "4", "--max_eval_samples", "2"]
    prepare("prepare_training", [*run, "--output_dir", str(tmp_path / "random")])
    assert "the frozen parts have random weights and stay like that; --train all trains them, too" in caplog.text


@pytest.mark.parametrize("row", [1, 15])
def test_an_image_of_the_first_or_the_last_row_that_cannot_be_read_ends_a_run_before_it_begins(
    row, colour_run, colours, tmp_path
):
    (tmp_path / "images").mkdir()
    for file in colours.glob("*.png"):
        (tmp_path / "images" / file.name).write_bytes(b"no picture" if file.stem == str(row) else file.read_bytes())
    table = [json.loads(line) for line in (colours / "table.jsonl").read_text().splitlines()][1:]
    (tmp_path / "table.jsonl").write_text("\n".join(map(json.dumps, table)))
    run = [str(tmp_path / "table.jsonl") if word == str(colours / "table.jsonl") else word for word in colour_run]
    run += ["--image_folder", str(tmp_path / "images"), "--eval_split", "train", "--output_dir", str(tmp_path / "run")]
    at = run.index("--eval_fraction")
    with pytest.raises((ValueError, OSError), match=rf"row {row - 1} of json/train \(.*images/{row}\.png\)"):
        prepare("prepare_training", run[:at] + run[at + 2 :])
    assert not (tmp_path / "run").exists()


def test_images_that_cannot_be_read_are_named_or_left_out(colour_run, colours, tmp_path):
    (tmp_path / "images").mkdir()
    for file in colours.glob("*.png"):
        (tmp_path / "images" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "images" / "6.png").write_bytes(b"no picture")
    run = [*colour_run, "--image_folder", str(tmp_path / "images"), "--output_dir", str(tmp_path / "run")]
    with pytest.raises(
        ValueError, match=r"--check_images: 1 of the \d+ .*row 6 of .*images/6\.png\): the file is not"
    ):
        prepare("prepare_training", [*run, "--check_images", "true"])
    trainer = prepare("prepare_training", [*run, "--skip_bad_images", "true"]).trainer
    used = [*trainer.train_dataset.samples.numbers, *trainer.eval_dataset.samples.numbers]
    assert sorted(used) == [number for number in range(16) if number != 6]


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "4bit"])
@pytest.mark.parametrize("train", ["adapters", "adapters+vision", "all"])
def test_what_is_trained_is_in_float32_and_what_has_changed_is_stored(train, precision):
    class Part(torch.nn.Module):
        asked = None

        def requires_grad_(self, value=True):
            self.asked = value

    model = Part()
    model.model = SimpleNamespace(vision_tower=Part())
    model.config = SimpleNamespace(vision_model_name_or_path="tower", text_model_name_or_path="llama")
    frozen = []
    model.freeze_base = lambda: frozen.append(model.asked)
    if train != "adapters" and precision != "float32":
        with pytest.raises(ValueError, match=f"--base_precision: got {precision} with --train .*; what is trained is"):
            set_trained_weights(model, train, precision)
        assert not frozen and model.config.vision_model_name_or_path == "tower"
        return
    set_trained_weights(model, train, precision)
    assert frozen == [None]  # first
    assert (model.asked, model.model.vision_tower.asked) == (
        True if train == "all" else None,
        True if train == "adapters+vision" else None,
    )
    assert (model.config.vision_model_name_or_path, model.config.text_model_name_or_path) == (
        "tower" if train == "adapters" else None,
        None if train == "all" else "llama",
    )
