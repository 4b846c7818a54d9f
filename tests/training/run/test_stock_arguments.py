import pytest
from transformers import TrainingArguments

from hf_effmodels.training.run.stock_arguments import in_words_of_the_command, named, read_stock_arguments


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
