import json
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from hf_effmodels.training.run.arguments import (
    ArgumentReader,
    ModelArguments,
    _is_number,
    _near,
    _read_entry,
    _warn,
    blaming_model_config,
    check_fields_of,
    read_mapping,
)
from hf_effmodels.training.run.recipe_arguments import RecipeArguments, resolved
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


BASE = "model: ghostnetv3-1.0x\ndataset: digits\noutput_dir: out\n"


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


def test_null_on_the_command_line_takes_back_what_a_recipe_says(tmp_path):
    model, data, augmentation, training = read(
        RECIPE,
        tmp_path,
        *("--model-config", "null", "--data_files=null", "--lr_scheduler_kwargs", "null"),
        *("--max_train_samples", "7", "--max_train_samples", "null", "--image_size", "null", "--image_size", "32"),
    )
    assert (data.data_files, data.max_train_samples) == (None, None)
    assert model.model_config == {} and not training.lr_scheduler_kwargs and model.image_size == 32
    # Where nothing stands for nothing the word is a wrong one; and it may be an item of a list.
    with pytest.raises(ValueError, match="learning_rate.*null"):
        read(RECIPE, tmp_path, "--learning_rate", "null")
    assert read(BASE, tmp_path, "--classes", "null", "eins")[1].classes == ["null", "eins"]


def test_the_command_lines_task_wins_and_the_record_of_a_run_is_a_recipe(tmp_path):
    record = tmp_path / "training_config.yaml"
    record.write_text("task: super-resolution\nmodel: a\ncontents: {model: {weights: ab}}\n")
    reader = ArgumentReader(["--config", str(record)])
    assert reader.task == "super-resolution" and reader.read(ModelArguments)[0].model == "a"
    assert ArgumentReader(["--config", str(record), "--task", "causal-lm"]).task == "causal-lm"
    record.write_text("model: a\n")
    assert ArgumentReader(["--config", str(record)]).task == ArgumentReader([]).task == "image-classification"


def test_a_recipe_that_keeps_its_workers_runs_without_any(tmp_path):
    recipe = BASE + "dataloader_num_workers: 8\ndataloader_persistent_workers: true\n"
    assert read(recipe, tmp_path)[-1].dataloader_persistent_workers
    assert not read(recipe, tmp_path, "--dataloader_num_workers", "0")[-1].dataloader_persistent_workers


def test_a_lowest_rate_goes_with_what_else_is_said_of_a_cosine(tmp_path):
    said = ("--min_lr", "1e-6", "--lr_scheduler_type", "cosine", "--lr_scheduler_kwargs", "{num_cycles: 1.5}")
    (args,) = ArgumentReader(["--task", "image-classification", "--output_dir", str(tmp_path), *said]).read(
        RecipeArguments
    )
    assert args.lr_scheduler_kwargs == {"num_cycles": 1.5, "min_lr": 1e-6}
    assert args.lr_scheduler_type == "cosine_with_min_lr"


def test_what_a_run_writes_down_is_a_recipe_that_reads_back_the_same(tmp_path):
    import yaml

    written = resolved(*read(RECIPE, tmp_path, "--hub_token", "secret", "--token", "secret"))
    assert "secret" not in str(written)
    # How the process was started, and on what machine, is no part of what is trained.
    here = read(RECIPE, tmp_path, "--overwrite_output_dir", "true", "--use_cpu", "true", "--disable_tqdm", "true")
    said = {"overwrite_output_dir", "use_cpu", "disable_tqdm", "resume_from_checkpoint"}
    assert not said & {*resolved(*here), *written}
    assert resolved(*read(yaml.safe_dump(written), tmp_path)) == written


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--learning_rte", "1"], "--learning_rte.*nearest.*--learning_rate"),
        (["--optim", "lam"], "--optim.*'lam'.*lamb"),
        (["--lr_scheduler_type", "cosin"], "--lr_scheduler_type.*'cosin'.*cosine"),
        (
            ["--optim", "sgd", "--optim_args", "momentun=0.9"],
            "--optim_args: sgd takes no 'momentun', accepted are.*momentum",
        ),
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
    with pytest.raises(ValueError, match=message):
        read(BASE, tmp_path, *argv)


@pytest.mark.parametrize(
    "text, message",
    [
        ("learning_rte: 1", "recipe.yaml: unknown key 'learning_rte'; nearest: learning_rate"),
        ("[1, 2]", "mapping"),
        ("", "is empty.*mapping"),
        ("a: [", "not valid YAML"),
        ("learning_rate: [0.1, 0.2]", "learning_rate: got .*0.2.*one value too many"),
        ("learning_rate: {a: 1}", "learning_rate: got .*no mapping"),
        ("run_name: {a: 1}", "run_name: got .*no mapping"),
        ("learning_rate: null", "learning_rate: got null"),
        ("learning_rate: []", "learning_rate: got .*one value"),
        # The last of two equal keys would win without a word.
        ("seed: 1\nseed: 2", "the key 'seed' stands twice .line 5"),
        ("model_config: {width_multiplier: 1, width_multiplier: 2}", "'width_multiplier' stands twice"),
        ("1: 2", "the key 1, which is no text"),
        ("null: 2", "the key None is neither"),
        ("on: 2", "the key True, which is no text"),
        ("model_config: {1.5: 2}", "the key 1.5 is neither"),
        # Items of a list are values, whatever they look like.
        ("report_to: [none, --push_to_hub, '--seed']\ninterpolation: [--bf16]", "interpolation: got '--bf16' in the"),
        ("crop_scale: [0.5, fast]", "crop_scale: got 'fast' in the list, which is no float"),
        ("crop_scale: [0.5, null]", "crop_scale: got None"),
        ("crop_scale: [0.5, [1]]", "crop_scale: got .1. in"),
        ("crop_scale: [0.5, true]", "crop_scale: got True"),
        ("learning_rate: .inf", "learning_rate: got inf, accepted are finite numbers"),
        ("learning_rate: nan", "learning_rate: got nan, accepted are finite numbers from 0"),
        ("model_config: {stages: [[0.1, {rate: .nan}]]}", "model_config: got nan in .*accepted are finite"),
        ("crop_ratio: [0.5, .inf]", "crop_ratio: got inf in .*accepted are finite"),
        ("optim: lamb\noptim_args: {eps: .inf}", "optim_args: got inf"),
        ("lr_scheduler_kwargs: {min_lr: .inf}", "lr_scheduler_kwargs: got inf"),
        ("a: &a [*a]", "nested too deeply"),
        ("a: &l0 [x]\n" + "\n".join(f"k{n}: &l{n + 1} [*l{n}, *l{n}]" for n in range(30)), "more than 100000"),
        ("task: [1]", "task: got .1., accepted is the name of a task"),
        (f"seed: {'9' * 400}", "more than 300 digits"),
    ],
)
def test_a_wrong_recipe_is_refused(text, message, tmp_path):
    base = "" if "learning_rte" in text or message in ("mapping", "is empty.*mapping", "not valid YAML") else BASE
    with pytest.raises(ValueError, match=message):
        read(base + text, tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere.yaml"):
        ArgumentReader(["--config", "nowhere.yaml"])


def test_a_merged_mapping_may_be_said_otherwise(tmp_path):
    merged = "model_config: {<<: &base {width_multiplier: 0.5, dropout: 0.1}, width_multiplier: 0.75}"
    assert read(BASE + merged, tmp_path)[0].model_config == {"width_multiplier": 0.75, "dropout": 0.1}


def test_values_keep_their_kind_on_the_way_from_the_recipe(tmp_path):
    text = "model_config: {id2label: {0: a, 1: b}, when: 2024-01-01}\ncrop_scale: [1e-1, 1]\nreport_to: [--seed]\n"
    model, _, augmentation, training = read(BASE + text, tmp_path)
    assert model.model_config == {"id2label": {0: "a", 1: "b"}, "when": "2024-01-01"}
    assert augmentation.crop_scale == [0.1, 1.0]
    assert training.report_to == ["--seed"]


@pytest.mark.parametrize(
    "argv, message",
    [
        (
            ["--gradient_accumulation_steps", "0"],
            "--gradient_accumulation_steps: got 0, accepted are whole numbers from 1",
        ),
        (["--per_device_train_batch_size", "0"], "whole numbers from 1 to 1048576"),
        (["--per_device_eval_batch_size", "-3"], "--per_device_eval_batch_size: got -3"),
        (["--max_steps", "0"], "--max_steps: got 0, accepted are whole numbers from 1"),
        (["--max_steps", "-2"], "--max_steps: got -2, accepted are whole numbers from 1"),
        (["--num_train_epochs", "1e300"], "--num_train_epochs: got 1e.300, accepted are numbers above 0 and up to"),
        (["--seed", "-1"], "--seed: got -1, accepted are whole numbers from 0 to 4294967295"),
        (["--max_steps", "9" * 30], "--max_steps: got 9+, accepted are whole numbers up to"),
        (["--learning_rate", "inf"], "--learning_rate: got inf, accepted are finite numbers"),
        (["--warmup_steps", "nan"], "--warmup_steps: got nan"),
        (["--weight_decay", "-0.1"], "--weight_decay: got -0.1, accepted are numbers from 0"),
        (["--adam_beta2", "1"], "--adam_beta2: got 1.0, accepted are numbers from 0 to below 1"),
        (["--max_grad_norm", "-1"], "--max_grad_norm: got -1.0"),
        (["--label_smoothing_factor", "1"], "--label_smoothing_factor: got 1.0"),
        (["--dataloader_num_workers", "1000000"], "--dataloader_num_workers: got 1000000"),
        (["--ddp_timeout", "1000000000000"], "--ddp_timeout"),
        (["--image_size", "1000000000"], "--image_size: got 1000000000, accepted are whole numbers from 1 to 65536"),
        (["--model_config", "{a: 1, a: 2}"], "--model_config: got .*'a' stands twice"),
        (["--model_config", "{a: .inf}"], "--model_config: got inf in"),
        (["--model_config", "{1: 2}"], "--model_config: got the key 1 in .*, accepted are names"),
        (["--model_config", "{true: 2}"], "--model_config: got the key True"),
        (["--optim_args", "eps=nan", "--optim", "lamb"], "--optim_args: got nan for 'eps'"),
        (["--optim_args", "eps=fast", "--optim", "lamb"], "--optim_args: got 'eps=fast', which lamb does not take"),
        # transformers ignores them.
        (["--optim_args", "{nope: 1}"], "--optim_args: adamw_torch takes no 'nope'; --adam_beta1"),
        (["--optim_args", "eps=1e-8"], "--optim_args: adamw_torch takes no 'eps'"),
        (["--optim", "adagrad", "--optim_args", "lr_decay=0.1,nope=1"], "--optim_args: adagrad takes no 'nope'"),
        (
            ["--lr_scheduler_kwargs", "{nope: 1}"],
            "_kwargs: cosine takes no 'nope', accepted are .*num_cycles",
        ),
        (
            ["--lr_scheduler_type", "step", "--lr_scheduler_kwargs", "{decay: 1}"],
            "step takes no 'decay'.*decay_ep",
        ),
        (["--lr_scheduler_type", "step", "--lr_scheduler_kwargs", "{decay_epochs: fast}"], "'fast'.* cannot be made"),
        (["--lr_scheduler_type", "step", "--lr_scheduler_kwargs", "{optimizer: 1}"], "step takes no 'optimizer'"),
        (["--lr_scheduler_type", "constant", "--lr_scheduler_kwargs", "{nope: 1}"], "accepted is nothing"),
        (["--lr_scheduler_type", "warmup_stable_decay"], "num_decay_steps"),
        (["--min_lr", "1"], "--min_lr: got 1.0, accepted are numbers from 0 to --learning_rate, 5e-05"),
        (["-x"], "unknown argument '-x'"),
        (["stray"], "a value without a key: stray"),
        (["--model", ""], "--model is missing"),
        (["--output_dir", ""], "--output_dir is missing: name a folder"),
    ],
)
def test_numbers_out_of_range_are_refused_with_what_is_accepted(argv, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read(BASE, tmp_path, *argv)


@pytest.mark.parametrize("name", ["token", "hub_token"])
def test_a_token_is_taken_without_white_space_around_it_and_never_shown(name, tmp_path):
    for given in ("hf_secret", "hf_secret\n", "  hf_secret\r\n"):
        for argv, text in (([f"--{name}", given], ""), ([], f"{name}: {json.dumps(given)}\n")):
            model, _, _, training = read(BASE + text, tmp_path, *argv)
            assert getattr(model if name == "token" else training, name) == "hf_secret"
    assert getattr(read(BASE + f'{name}: "\\n"\n', tmp_path)[0 if name == "token" else 3], name) is None
    for text, argv in (
        ("", [f"--{name}", "hf_secret hf_secret"]),
        ("", [f"--{name}", "hf_\nsecret"]),
        ("", [f"--{name}", "hf_secr\u00e9t"]),
        ("", [f"--{name}", "hf_secret", "hf_secret"]),
        ("", [f"--{name[:-1]}=hf_secret"]),
        (f"{name}: 'hf_secret", []),
        (f"{name}: [hf_secret]", []),
        (f"{name}: {{hf_secret: 1}}", []),
        (f"{name}: hf_secret\n{name}: hf_secret", []),
        (f"{name}: hf_secret: 1", []),
    ):
        with pytest.raises(ValueError) as refused:
            read(BASE + text, tmp_path, *argv)
        assert "secr" not in str(refused.value)


@dataclass
class Lists:
    whole: list[int] = field(default_factory=lambda: [1, 2])
    real: list[float] | None = None
    words: list[str] | None = None
    chosen: list[str] = field(default_factory=lambda: ["a"], metadata={"choices": ["a", "b"]})
    table: dict | str | None = None
    one: int = 1
    secret: str | None = field(default=None, metadata={"secret": True})


def entry(name, value):
    f = Lists.__dataclass_fields__[name]
    return _read_entry(f"--{name}", value, f.type, f)


def test_items_of_a_list_in_a_recipe_are_of_its_kind():
    assert entry("whole", [3, "4"]) == [3, 4] and entry("real", [1, 0.5, "1e-3"]) == [1.0, 0.5, 0.001]
    assert entry("words", [1, "b"]) == ["1", "b"] and entry("chosen", ["b", "a"]) == ["b", "a"]
    assert entry("table", {"a": 1}) == {"a": 1} and entry("real", None) is None and entry("whole", []) == []


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("whole", [2.5], "--whole: got 2.5 in the list, which is no int."),
        ("whole", [2, 3.0], "--whole: got 3.0 in the list, which is no int."),
        ("whole", [True], "--whole: got True in the list, which is no int."),
        ("whole", ["1.0"], "--whole: got '1.0' in the list, which is no int."),
        ("whole", None, "--whole: got null, but it has no value that stands for nothing."),
        ("real", [[1]], "--real: got [1] in the list, which is no float."),
        ("real", [10**400], f"--real: got {10**400} in the list, which is no float."),
        ("real", {"a": 1}, "--real: got {'a': 1}, accepted is no mapping."),
        ("words", [None], "--words: got None in the list, which is no str."),
        ("chosen", ["a", "c"], "--chosen: got 'c' in the list, accepted are 'a', 'b'."),
        ("one", [1, 2], "--one: got [1, 2], accepted is one value; a list is one value too many."),
        ("secret", ["hf_x"], "--secret: accepted is a text (it is not shown here)."),
    ],
)
def test_items_of_another_kind_are_told_and_not_cut_off(name, value, said):
    with pytest.raises(ValueError) as caught:
        entry(name, value)
    assert str(caught.value) == said


def test_a_word_that_starts_with_a_dash_is_a_number_or_an_option():
    assert all(map(_is_number, ("-1", "-1e-3", "-inf", "0.5"))) and not any(map(_is_number, ("-x", "--1", "")))
    assert _near("learning-rte", ["learning_rate", "seed"], "--") == "; nearest: --learning_rate"
    assert _near("qqq", ["learning_rate"]) == "; --help lists the known ones"
    sizes = ["train_batch_size", "eval_batch_size", "batch_sizes", "image_size", "ema_decay"]
    assert _near("batch-size", sizes, "--") == "; nearest: --train_batch_size, --eval_batch_size"
    assert _near("size", sizes) == "; nearest: train_batch_size, eval_batch_size, image_size"


def test_one_process_sees_one_gpu(monkeypatch, tmp_path):
    monkeypatch.setattr(RecipeArguments, "n_gpu", property(lambda self: 2))
    with pytest.raises(
        ValueError, match="^one process sees 2 GPUs: start one for each with accelerate launch, or choo"
    ):
        RecipeArguments(output_dir=str(tmp_path))


def test_what_a_recipe_says_in_vain_is_told_and_on_the_command_line_it_is_refused(tmp_path, caplog):
    _warn.cache_clear()
    text = BASE + "eval_strategy: epoch\neval_steps: 5\n"
    read(text, tmp_path)
    (said,) = [record.getMessage() for record in caplog.records if "nothing comes of" in record.getMessage()]
    assert said.startswith(f"{tmp_path / 'recipe.yaml'}: nothing comes of --eval_steps: got 5.0, which goes with ")
    caplog.clear()
    read(text, tmp_path)
    assert "nothing comes of" not in caplog.text, "once"
    _warn.cache_clear()
    read(text, tmp_path, "--eval_strategy", "epoch")
    read(text, tmp_path, "--eval-strategy=epoch")
    read(BASE, tmp_path)
    assert "nothing comes of" not in caplog.text, "the command line has put it out of use, or there is no such key"
    with pytest.raises(ValueError, match="^--eval_steps: got 5.0, which goes with --eval_strategy steps or no, not "):
        read(BASE + "eval_strategy: epoch\n", tmp_path, "--eval_steps", "5")
    _warn.cache_clear()


@pytest.mark.parametrize(
    "error, stays",
    [
        (MemoryError("no room"), True),
        (RuntimeError("can't allocate memory: you tried to allocate 9 bytes"), True),
        (OSError("no such file"), True),
        (RuntimeError("shapes do not fit"), False),
        (ZeroDivisionError("by nought"), False),
    ],
)
def test_a_machine_without_room_is_not_blamed_on_what_was_said_of_the_model(error, stays):
    with pytest.raises(type(error) if stays else ValueError) as caught, blaming_model_config({"depth": 3}):
        raise error
    assert (caught.value is error) == stays
    if not stays:
        said = f"--model_config: no model works with {{'depth': 3}} ({type(error).__name__}: {error})."
        assert str(caught.value) == said


@pytest.mark.parametrize(
    "given, name",
    [
        ({"model": "org/net", "dataset": "a/b c.csv"}, "net-b_c"),
        ({"model": "net", "method": "cbq", "dataset": "texts.jsonl"}, "net-cbq-texts"),
        ({"model": "net", "detector": "yolos", "method": "x"}, "net-yolos-x"),
        ({"model": None, "dataset": {"a": 1}}, "image-classification"),
    ],
)
def test_a_folder_that_nobody_names_is_called_by_what_it_is_made_of(given, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    reader = ArgumentReader([])
    assert reader._new_folder(SimpleNamespace(**given)) == f"outputs/{name}-1"
    (tmp_path / "outputs" / f"{name}-1").mkdir(parents=True)
    assert reader._new_folder(SimpleNamespace(**given)) == f"outputs/{name}-2"


def test_a_long_reason_why_no_model_works_is_cut_and_stands_in_one_line():
    with pytest.raises(ValueError) as caught, blaming_model_config({"a": 1}, "org/net", bitnet="mean", codebook=None):
        raise RuntimeError("first\n   second " + "x" * 400)
    reason = "RuntimeError: first second " + "x" * (300 - len("first second "))
    assert str(caught.value) == f"--model_config, --bitnet: no model works with {{'a': 1}}, mean ({reason})."
    # Where nothing was said of it the model is to blame; a mistake in the code, without a model, stays what it is.
    with pytest.raises(ValueError, match=r"^--model: no model works with org/net \(KeyError: 'depth'\)\.$"):
        with blaming_model_config({}, "org/net"):
            raise KeyError("depth")
    with pytest.raises(KeyError), blaming_model_config({}, bitnet=None):
        raise KeyError("depth")
    with pytest.raises(ValueError, match=r"\(its weights have other shapes; --ignore_mismatched_sizes true starts th"):
        with blaming_model_config({"a": 1}):
            raise RuntimeError("You may use ignore_mismatched_sizes=True")


def test_of_a_check_of_a_configuration_the_reason_alone_is_told():
    class StrictDataclassFieldValidationError(Exception):
        pass

    with pytest.raises(ValueError) as caught, blaming_model_config({"a": 1}):
        raise StrictDataclassFieldValidationError("field a") from TypeError("a is no text")
    assert str(caught.value) == "--model_config: no model works with {'a': 1} (a is no text)."
    with pytest.raises(ValueError) as caught, blaming_model_config({"a": 1}):
        raise RuntimeError("field a") from TypeError("a is no text")
    assert str(caught.value) == "--model_config: no model works with {'a': 1} (RuntimeError: field a)."
    with pytest.raises(ValueError, match=r"\(StrictDataclassFieldValidationError: field a\)\.$"):
        with blaming_model_config({"a": 1}):
            raise StrictDataclassFieldValidationError("field a")


def test_a_field_is_what_a_configuration_keeps_and_nothing_that_it_does():
    class Config:
        depth, hidden_size = 3, None

        def to_dict(self):
            return {"depth": 3, "hidden_size": None, "hidden_sizes": [1]}

    assert check_fields_of(Config(), {"depth": 4, "hidden_size": 2}) is None
    for name, hint in (("to_dict", ""), ("widths", ""), ("hidden_sise", "; nearest: hidden_size, hidden_sizes")):
        with pytest.raises(ValueError, match=f"^--model_config: Config has no field {name!r}{hint}.$"):
            check_fields_of(Config(), {"depth": 4, name: 1})
    with pytest.raises(ValueError, match="^--changes: Config has no field 'x'.$"):
        check_fields_of(Config(), {"x": 1}, "--changes")


def test_the_keys_of_a_mapping_are_names_unless_others_are_asked_for():
    assert read_mapping("a", "{1: 2}", keys=int) == {1: 2} and read_mapping("a", {"b": 1}) == {"b": 1}
    assert read_mapping("a", None) == {} == read_mapping("a", "")
    for value, keys in (("{1: 2}", str), ("{true: 2}", int), ("{true: 2}", object), ("{b: 2}", int)):
        with pytest.raises(ValueError, match="^--a: got the key .*, accepted are names.$"):
            read_mapping("a", value, keys=keys)
    for value in ("[1]", "word", [1], 3):
        with pytest.raises(ValueError, match="^--a: got .*, accepted is a mapping such as"):
            read_mapping("a", value)
