import pytest

from hf_effmodels.modeling.layers.left_alone import is_within
from hf_effmodels.quantization.cbq.layer_names import is_named


@pytest.mark.parametrize(
    "name, within",
    [("layers.1", True), ("layers.1.mlp", True), ("layers.10", False), ("head", True), ("heads", False), ("", False)],
)
def test_a_part_that_is_left_alone_is_so_with_all_in_it_and_nothing_beside_it(name, within):
    assert is_within(name, ["layers.1", "head"]) is within
    assert not is_within(name, [])


@pytest.mark.parametrize(
    "pattern, named",
    [
        ("model.layers.1.mlp.up", True),
        ("up", True),
        ("mlp.up", True),
        ("mlp", True),
        ("layers.1", True),
        ("model", True),
        ("p", False),
        ("lp.up", False),
        ("layers.1.mlp.u", False),
        ("layers", True),
        ("layer", False),
        ("re:model", True),
        ("re:.*mlp", True),
        ("re:mlp", False),
        ("re:.*up$", True),
        (".*mlp.*", False),
    ],
)
def test_a_layer_is_named_by_whole_words_of_its_name_or_by_a_pattern(pattern, named):
    assert is_named("model.layers.1.mlp.up", pattern) is named
