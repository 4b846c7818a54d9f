import pytest

from hf_effmodels.training.run.values import check_value


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
