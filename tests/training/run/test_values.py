from dataclasses import dataclass, field, fields

import pytest

from hf_effmodels.training.run.arguments import ArgumentReader
from hf_effmodels.training.run.recipe_arguments import RecipeArguments
from hf_effmodels.training.run.values import (
    SET,
    TRANSFORMERS_ACCEPTS,
    Except,
    acts,
    check_field,
    check_fields,
    check_goes_with,
    check_value,
    governing,
)


@pytest.mark.parametrize(
    "accepts, inside, outside, words",
    [
        ("[1, inf)", (1, 2**53), (0, -1, 0.999), "from 1"),
        ("(0, inf)", (1e-300, 5), (0, -1e-300), "above 0"),
        ("[0, 1]", (0, 1, 0.5), (-1e-9, 1.0001), "from 0 to 1"),
        ("[0, 1)", (0, 0.999), (1, -1), "from 0 to below 1"),
        ("(0, 1]", (1e-9, 1), (0, 1.1), "above 0 and up to 1"),
        ("(0, 1)", (0.5,), (0, 1), "between 0 and 1"),
    ],
)
def test_an_interval_takes_its_ends_as_it_is_written_and_is_said_in_words(accepts, inside, outside, words):
    for value in inside:
        check_value("name", value, accepts, whole=False)
    for value in outside:
        with pytest.raises(ValueError, match=f"^--name: got {value}, accepted are numbers {words}.$"):
            check_value("name", value, accepts, whole=False)
    with pytest.raises(ValueError, match=f"whole numbers {words}.$"):
        check_value("name", outside[0], accepts, whole=True)


@pytest.mark.parametrize("hide", [lambda x: x, lambda x: [0, x], lambda x: {"a": [{"b": x}]}, lambda x: [[0.5, [x]]]])
def test_what_is_not_finite_is_found_wherever_it_is(hide):
    check_value("name", hide(1.5), None, whole=False)
    for value in (float("inf"), float("-inf"), float("nan")):
        with pytest.raises(ValueError, match=rf"--name: got {value}( in .*)?, accepted are finite numbers"):
            check_value("name", hide(value), None, whole=False)
    with pytest.raises(ValueError, match="accepted are whole numbers up to 9007199254740992"):
        check_value("name", hide(2**53 + 1), None, whole=True)


def test_what_is_no_number_passes():
    for value in (None, "", "inf", True, [], {}, ["a", None], {"a": "nan"}):
        check_value("name", value, "[5, 6]", whole=False)


@dataclass
class _Arguments:
    alone: int = 3
    with_set: float = field(default=0.5, metadata={"goes_with": {"kind": SET}})
    with_values: float = field(default=0.5, metadata={"goes_with": {"kind": (None, "a", "b")}})
    with_others: list = field(default_factory=lambda: [1], metadata={"goes_with": {"kind": Except(("a", "b"))}})
    with_either: int = field(default=1, metadata={"goes_with": {"kind": ("a",), "alone": (4, 5)}})
    with_both: int = field(default=1, metadata={"goes_with": ({"kind": ("a",)}, {"alone": (4,)})})
    kind: object = None


def _refusal(name, **given):
    known = {f.name: f for f in fields(_Arguments)}
    try:
        check_goes_with(known[name], vars(_Arguments(**given)))
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize(
    "name, value, taken, refused, words",
    [
        ("alone", 9, [{}, {"kind": "a"}], [], ""),
        ("with_set", 0.7, [{"kind": "a"}, {"kind": 2}], [{"kind": 0}, {"kind": False}, {"kind": None}], "--kind,"),
        ("with_values", 0.7, [{"kind": None}, {"kind": "a"}, {"kind": ["c", "b"]}], [{"kind": "c"}], "--kind a or b,"),
        ("with_values", 0.7, [], [{"kind": ["c", "d"]}], "--kind a or b, not --kind c d."),
        ("with_others", [2], [{"kind": "c"}, {"kind": None}], [{"kind": "b"}], "--kind other than a or b,"),
        (
            "with_either",
            2,
            [{"kind": "a"}, {"alone": 5}],
            [{"kind": "b"}],
            "--kind a or --alone 4 or 5, not --kind b,",
        ),
        ("with_both", 2, [{"kind": "a", "alone": 4}], [{"kind": "a"}], "--alone 4, not --alone 3."),
        ("with_both", 2, [], [{"alone": 4}], "--kind a, which is not given."),
    ],
)
def test_what_would_be_ignored_beside_the_others_is_refused(name, value, taken, refused, words):
    for given in taken:
        assert _refusal(name, **{name: value}, **given) is None
    for given in refused:
        assert words in _refusal(name, **{name: value}, **given)
        default = vars(_Arguments())[name]
        for nothing in (default, None, "", [], {}):
            assert _refusal(name, **{name: nothing}, **given) is None


def test_of_the_others_only_those_that_a_task_has_count():
    f = {f.name: f for f in fields(_Arguments)}["with_either"]
    check_goes_with(f, {"with_either": 2})
    with pytest.raises(ValueError, match="^--with_either: got 2, which goes with --kind a, not --kind b.$"):
        check_goes_with(f, {"with_either": 2, "kind": "b"})


def test_an_argument_acts_where_one_that_is_said_is_at_such_a_value_whatever_is_not_said():
    either = next(f for f in fields(_Arguments) if f.name == "with_either")  # --kind a, or --alone 4 or 5
    said = ({"kind": "a"}, {"alone": 4}, {"kind": "b", "alone": 5}, {})
    assert all(acts(either, values) for values in said)
    assert not any(acts(either, values) for values in ({"kind": "b"}, {"alone": 3}, {"kind": "b", "alone": 3}))


#: Of transformers' arguments: the least that is taken, and what is not any more.
LEAST = {
    **dict.fromkeys(("per_device_train_batch_size", "per_device_eval_batch_size"), (1, 0)),
    **dict.fromkeys(("gradient_accumulation_steps", "torch_empty_cache_steps", "eval_accumulation_steps"), (1, 0)),
    **dict.fromkeys(("dataloader_prefetch_factor", "ddp_bucket_cap_mb", "ddp_timeout", "max_steps"), (1, 0)),
    **dict.fromkeys(("num_train_epochs", "logging_steps", "eval_steps", "save_steps"), (0.1, 0)),
    **dict.fromkeys(("learning_rate", "warmup_steps", "weight_decay", "adam_beta1", "adam_beta2"), (0, -0.1)),
    **dict.fromkeys(("adam_epsilon", "max_grad_norm", "label_smoothing_factor", "neftune_noise_alpha"), (0, -0.1)),
    **dict.fromkeys(("eval_delay", "save_total_limit", "seed", "data_seed", "dataloader_num_workers"), (0, -1)),
}
#: The same of the most.
MOST = {
    **dict.fromkeys(("adam_beta1", "adam_beta2", "label_smoothing_factor"), (0.999, 1)),
    **dict.fromkeys(("seed", "data_seed"), (2**32 - 1, 2**32)),
    "max_steps": (-1, -2),  # not given
}


def test_transformers_arguments_have_their_ends_and_what_they_go_with():
    known = {f.name: f for f in fields(RecipeArguments)}
    assert LEAST.keys() == TRANSFORMERS_ACCEPTS.keys()
    for name, (taken, refused) in (*LEAST.items(), *MOST.items()):
        check_field(known[name], float, taken)
        with pytest.raises(ValueError, match=f"^--{name}: got {refused}, accepted are numbers "):
            check_field(known[name], float, refused)
    for name, beside, taken, refused in (
        ("eval_steps", "eval_strategy", ("steps", "no"), "epoch"),
        ("eval_delay", "eval_strategy", ("steps", "epoch"), "no"),
        ("save_steps", "save_strategy", ("steps", "no"), "epoch"),
        ("warmup_steps", "lr_scheduler_type", ("linear", "cosine"), "constant"),
        ("dataloader_prefetch_factor", "dataloader_num_workers", (1, 8), 0),
        ("hub_model_id", "push_to_hub", (True,), False),
    ):
        for value in taken:
            check_goes_with(known[name], {name: 7, beside: value})
        with pytest.raises(ValueError, match=f"^--{name}: got 7, which goes with --{beside}"):
            check_goes_with(known[name], {name: 7, beside: refused})


@dataclass
class Needed:
    folder: str | None = field(default=None, metadata={"missing": "name one."})


@pytest.mark.parametrize("value", [None, ""])
def test_an_empty_text_is_as_missing_as_none(value):
    with pytest.raises(ValueError, match="^--folder is missing: name one.$"):
        check_fields(Needed(value))


def test_what_governs_an_argument_is_all_that_it_goes_with():
    found = {f.name: governing(f) for f in fields(_Arguments)}
    assert found["with_both"] == found["with_either"] == {"kind", "alone"}
    assert (found["with_set"], found["alone"]) == ({"kind"}, set())


@dataclass
class Found:
    by: str = "model"
    model: str | None = field(
        default=None, metadata={"missing": "name one, or --by hand.", "missing_with": {"by": ("model",)}}
    )

    def __post_init__(self):
        check_fields(self)


def test_what_another_argument_needs_is_missing_with_it_alone():
    for make in (Found, lambda **given: ArgumentReader([f"--{k}={v}" for k, v in given.items()]).read(Found)[0]):
        assert make(by="hand").model is None and make(model="net").by == "model"
        for given in ({}, {"by": "model"}, {"model": ""}):
            with pytest.raises(ValueError, match="^--model is missing: name one, or --by hand.$"):
                make(**given)


@dataclass
class Tiles:
    side: int | None = field(default=None, metadata={"multiple_of": ("scale", 3)})
    scale: int = field(default=2, metadata={"accepts": "[1, 8]"})

    def __post_init__(self):
        check_fields(self)


def test_what_must_divide_by_another_argument_is_looked_at_after_that_ones_range():
    for make in (Tiles, lambda **given: ArgumentReader([f"--{k}={v}" for k, v in given.items()]).read(Tiles)[0]):
        assert make(side=18).side == 18 and make().side is None and make(side=12, scale=4).scale == 4
        with pytest.raises(ValueError, match=r"^--side: got 8, accepted are multiples of 6 \(3 times --scale\).$"):
            make(side=8)
        with pytest.raises(ValueError, match="^--scale: got 0, accepted are whole numbers from 1 to 8"):
            make(side=6, scale=0)


@pytest.mark.parametrize("number, fits", [(2**53, True), (-(2**53), True), (2**53 + 1, False), (-(2**53) - 1, False)])
def test_whole_numbers_are_those_that_a_float_holds_exactly(number, fits):
    """JSON and YAML of other programs read larger ones as others."""
    if fits:
        assert check_value("seed", number, None, True) is None
        return
    with pytest.raises(ValueError, match=f"--seed: got {number}, accepted are whole numbers up to {2**53}"):
        check_value("seed", number, None, True)
    with pytest.raises(ValueError, match=f"--seed: got {number} in "):
        check_value("seed", [1, number], None, True)


@pytest.mark.parametrize("factor", [True, False, "3", None, 0, -1, -0.5, float("inf"), float("nan")])
def test_factors_of_learning_rates_are_positive_numbers(factor, tmp_path):
    with pytest.raises(ValueError, match=r"--learning_rate_factors: got .*head.*, accepted are (positive|finite) num"):
        RecipeArguments(output_dir=str(tmp_path), learning_rate_factors={"stem": 2, "head": factor})
    for fits in (1e-9, 3, 0.5):
        given = RecipeArguments(output_dir=str(tmp_path), learning_rate_factors={"head": fits})
        assert given.learning_rate_factors == {"head": fits}
