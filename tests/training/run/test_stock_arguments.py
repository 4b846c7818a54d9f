import types

import pytest
from transformers import TrainingArguments

from hf_effmodels.training.run.stock_arguments import (
    check_trackers,
    in_words_of_the_command,
    named,
    read_stock_arguments,
)


@pytest.mark.parametrize(
    "message, expected",
    [
        ("`args.eval_steps` must be\n  set", "--eval_steps must be set"),
        ("--save_steps is 3, and eval_steps 2.", "--save_steps is 3, and --eval_steps 2."),
        ("set eval_steps=3", "set eval_steps=3"),  # what is to be written in Python
        ("my_eval_steps, x-eval_steps, eval_stepss", "my_eval_steps, x-eval_steps, eval_stepss"),
        ("the seed", "the seed"),  # a word of English as well
    ],
)
def test_arguments_are_named_as_the_command_line_does(message, expected):
    assert named(message) == expected


def test_strategies_that_do_not_go_together_are_named_as_they_are_given(tmp_path):
    wrong = {"eval_strategy": "epoch", "save_strategy": "no", "load_best_model_at_end": True}
    with pytest.raises(ValueError, match="^--save_strategy: got no, but .* --eval_strategy epoch; .*at_end false.$"):
        with in_words_of_the_command():
            TrainingArguments(output_dir=str(tmp_path), **wrong)


def test_steps_that_are_saved_and_measured_apart_are_named_by_their_options(tmp_path):
    wrong = {"eval_strategy": "steps", "save_strategy": "steps", "save_steps": 3, "eval_steps": 4}
    told = (
        "^--save_steps: got 3, but .* every 4 steps .--eval_steps.; accepted are multiples of that, and .*at_end false"
    )
    with pytest.raises(ValueError, match=told):
        with in_words_of_the_command():
            TrainingArguments(output_dir=str(tmp_path), load_best_model_at_end=True, **wrong)


class _Special(ValueError):
    pass


@pytest.mark.parametrize(
    "error, kind, message",
    [
        (ValueError("eval_steps is wrong"), ValueError, "--eval_steps is wrong"),
        (ImportError("eval_steps needs a\nlibrary"), ImportError, "--eval_steps needs a library"),
        (AttributeError("eval_steps is nothing"), ValueError, "--eval_steps is nothing (AttributeError)"),
    ],
)
def test_errors_of_transformers_become_those_of_the_command_line(error, kind, message):
    with pytest.raises(kind) as caught, in_words_of_the_command():
        raise error
    assert type(caught.value) is kind and str(caught.value) == message and caught.value.__cause__ is error


@pytest.mark.parametrize(
    "error", [_Special("eval_steps"), FileNotFoundError("eval_steps"), ModuleNotFoundError("x_y")]
)
def test_errors_that_say_more_by_their_kind_stay_as_they_are(error):
    with pytest.raises(type(error)) as caught, in_words_of_the_command():
        raise error
    assert caught.value is error


def test_errors_of_other_kinds_than_asked_for_stay_as_they_are():
    error = RuntimeError("eval_steps")
    with pytest.raises(RuntimeError) as caught, in_words_of_the_command(ValueError):
        raise error
    assert caught.value is error


def test_settings_of_the_accelerator_have_their_kinds(tmp_path):
    def read(config):
        args = TrainingArguments(output_dir=str(tmp_path), accelerator_config=None, **NEUTRAL)
        args.accelerator_config = config
        read_stock_arguments(args)
        return args.accelerator_config

    taken = {"gradient_accumulation_kwargs": {"num_steps": 2}, "split_batches": True, "non_blocking": None}
    assert read(dict(taken)) == taken
    for config, message in (
        ({"gradient_accumulation_kwargs": True}, "gradient_accumulation_kwargs: got True, accepted is a mapping"),
        ({"even_batches": {}}, r"even_batches: got {}, accepted is true or false"),
    ):
        with pytest.raises(ValueError, match=f"--accelerator_config: {message}"):
            read(config)


#: What transformers' defaults are not, and our commands' are.
NEUTRAL = {"remove_unused_columns": False, "hub_strategy": "end", "report_to": [], "use_cpu": True}


@pytest.fixture
def stock(tmp_path):
    def read(**given):
        args = TrainingArguments(output_dir=str(tmp_path), **NEUTRAL)
        for name, value in given.items():
            setattr(args, name, value)
        read_stock_arguments(args)
        return args

    return read


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("prediction_loss_only", True, "got true, accepted is false: an evaluation measures more than the loss."),
        ("batch_eval_metrics", True, "got true, accepted is false: metrics are those of the whole evaluation set."),
        ("eval_do_concat_batches", False, "got false, accepted is true: metrics are those of the whole"),
        ("include_for_metrics", ["loss"], "got loss, accepted is nothing: each task knows what its metrics take."),
        ("label_names", ["y", "z"], "got y z, accepted is labels: each task knows where its labels are."),
        ("remove_unused_columns", True, "got true, accepted is false: samples hold what is used."),
        ("length_column_name", "size", "got 'size', accepted is length: samples are not grouped by length."),
        ("train_sampling_strategy", "group_by_length", "got 'group_by_length', accepted is random or sequential: "),
        ("do_predict", True, "got true, accepted is false: hf-effmodels evaluate does that."),
        ("hub_always_push", True, "got true, accepted is false: only the finished model is published."),
        ("torch_compile_mode", "fastest", "got 'fastest', accepted are default, reduce-overhead, max-autotune, "),
        ("torch_compile_backend", "gcc", "got 'gcc', accepted are no, eager, "),
        ("accelerator_config", {"evenly": True}, "there is no 'evenly', accepted are split_batches, "),
        ("license", "mine own", "license: "),
    ],
)
def test_what_would_be_ignored_or_fail_later_is_refused(name, value, said, stock):
    with pytest.raises(ValueError) as caught:
        stock(**{name: value})
    assert str(caught.value).startswith("--" if name == "license" else f"--{name}: ")
    assert said in str(caught.value)


def test_mappings_are_read_and_files_of_mappings_are_left_where_they_are(stock, tmp_path):
    args = stock(fsdp_config='{"min_num_params": 3}', gradient_checkpointing_kwargs='{"use_reentrant": false}')
    assert args.fsdp_config == {"min_num_params": 3} and args.gradient_checkpointing_kwargs == {"use_reentrant": False}
    assert stock(fsdp_config=' {"min_num_params": 3}').fsdp_config == {"min_num_params": 3}
    (tmp_path / "deepspeed.json").write_text("{}")
    assert stock(deepspeed=str(tmp_path / "deepspeed.json")).deepspeed == str(tmp_path / "deepspeed.json")
    for name in ("fsdp_config", "deepspeed", "accelerator_config"):
        with pytest.raises(
            OSError, match=f"^--{name}: got 'none.json', accepted are a mapping and the path of a JSON"
        ):
            stock(**{name: "none.json"})
    with pytest.raises(ValueError, match="^--gradient_checkpointing_kwargs: "):
        stock(gradient_checkpointing_kwargs="none.json")


def test_workers_that_are_not_there_do_not_stay(stock):
    given = {"dataloader_persistent_workers": True}
    assert stock(**given, dataloader_num_workers=2).dataloader_persistent_workers
    assert not stock(**given, dataloader_num_workers=0).dataloader_persistent_workers


def test_trackers_are_those_that_transformers_knows():
    check_trackers(types.SimpleNamespace(report_to=["none", "all", "tensorboard"]))
    with pytest.raises(ValueError, match="^--report_to: got 'tensorbord', accepted are none, all, "):
        check_trackers(types.SimpleNamespace(report_to=["none", "tensorbord"]))
