"""The pure functions of CBQ where no parity case looks."""

import math

import pytest
import torch

from hf_effmodels.quantization import CbqConfig
from hf_effmodels.quantization.cbq.capture import Call, _float32, split_call
from hf_effmodels.quantization.cbq.grid import (
    Grid,
    dequantize,
    quantize,
    quantize_activations,
    straight_through,
    weight_grid,
)
from hf_effmodels.quantization.cbq.learning import LearnedLayer
from hf_effmodels.quantization.cbq.outliers import channel_scales, find_outliers, truncate
from hf_effmodels.quantization.cbq.packing import pack, unpack
from hf_effmodels.quantization.cbq.reconstruction import reconstruction_loss, windows
from hf_effmodels.quantization.cbq.rounding import (
    Pull,
    fractions,
    harden,
    rectified_sigmoid,
    round_by,
    rounded_weight,
    undecided,
)
from hf_effmodels.quantization.cbq.settings import CbqSettings, check_format


@pytest.mark.parametrize("number", [21, 50])  # of 3 bits: 21 leave one bit of the second word, 50 more
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_packed_words_are_the_bits_of_the_values_one_after_the_other(bits, number):
    generator = torch.Generator().manual_seed(bits)
    integers = torch.randint(-(2 ** (bits - 1)), 2 ** (bits - 1), (3, number), generator=generator)
    packed = pack(integers, bits)
    for row, words in zip(integers.tolist(), packed.tolist(), strict=True):
        stream = sum((value + 2 ** (bits - 1)) << (i * bits) for i, value in enumerate(row))
        expected = [(stream >> (32 * i)) & 0xFFFFFFFF for i in range(-(-number * bits // 32))]
        assert [word % 2**32 for word in words] == expected
    assert torch.equal(unpack(packed, bits, number), integers.to(torch.int8))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_no_value_moves_by_more_than_its_grid_allows(bits, symmetric):
    weight = torch.randn(8, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    grid = weight_grid(weight, bits, 8, symmetric)
    assert grid.scale.shape == (8, 4)
    moved = (dequantize(quantize(weight, grid, bits), grid) - weight).abs().reshape(8, 4, 8).amax(-1)
    # Half a step; a symmetric grid lacks half a step above its largest integer, an asymmetric one shifts its zero.
    assert (moved <= grid.scale * (0.5 + 1e-9 if symmetric else 1.0)).all()
    assert (moved > 0.2 * grid.scale).any()


def test_nothing_learned_is_rounding_to_nearest():
    weight = torch.randn(6, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    grid = weight_grid(weight, 3, 8)
    delta = rectified_sigmoid(fractions(weight, grid))
    inside = (weight / grid.scale.repeat_interleave(8, 1)).abs() < 3
    torch.testing.assert_close(
        dequantize(round_by(weight, grid, delta, 3), grid)[inside], weight[inside], atol=1e-3, rtol=0
    )
    hard = round_by(weight, grid, harden(delta), 3)
    assert torch.equal(hard[inside], quantize(weight, grid, 3)[inside])


@pytest.mark.parametrize("hard", [True, False])
@pytest.mark.parametrize("symmetric", [True, False])
def test_the_learned_weight_and_its_gradients_are_those_of_its_formula(hard, symmetric):
    generator = torch.Generator().manual_seed(4)
    weight, v, grad = torch.randn(3, 6, 16, generator=generator, dtype=torch.float64).unbind(0)
    first = weight_grid(weight, 2, 8, symmetric)  # of two bits: many are at the ends of the grid, or beyond
    for start in (None, fractions(weight, first)):
        learned, scale = v.clone().requires_grad_(), (0.7 * first.scale).requires_grad_()
        grid = Grid(scale, first.zero_point)
        delta = rectified_sigmoid(3 * learned if start is None else 3 * learned + start)
        rounding = straight_through(delta, harden(delta)) if hard else delta
        expected = dequantize(round_by(weight, grid, rounding, 2), grid)
        objective = (expected * grad).sum() + 0.3 * undecided(delta, 5.5)
        got = rounded_weight(weight, 3 * learned, grid, 2, start, hard, Pull(0.3, 5.5))
        assert torch.equal(got, expected)
        gradients = torch.autograd.grad((got * grad).sum(), [learned, scale])
        torch.testing.assert_close(gradients, torch.autograd.grad(objective, [learned, scale]), atol=1e-12, rtol=1e-12)


def test_another_round_finds_the_lower_outliers():
    channel_max = torch.cat([torch.linspace(1, 2, 93), torch.tensor([18.0, 25.0, 400.0])])
    once, often = (channel_scales(channel_max, rounds=rounds) for rounds in (1, 5))
    assert (once > 1).sum() == 1
    torch.testing.assert_close(once[-1], torch.tensor((400 / 25) ** 0.5))
    assert (often[-3:] > 1).all() and (often[:-3] == 1).all()
    assert (channel_max / often).max() < (channel_max / once).max()


def test_lambdas_move_the_threshold_and_the_split():
    values = torch.cat([torch.linspace(0, 1, 100), torch.tensor([2.8, 3.0, 3.3, 6.0, 9.5])])
    found = find_outliers(values, 3.0, 1.0)
    torch.testing.assert_close(found.threshold, values[78] + 3.0 * (values[78] - values[26]))
    # Kept 2.8 to 6.0: the gap to 9.5 is largest, unless their variance weighs more.
    assert find_outliers(values, 1.0, 1.0).count == 1
    assert find_outliers(values, 1.0, 9.0).count > 1
    assert truncate(values, 1.0, 1.0).max() == 6.0
    assert truncate(values, 1.0, 1.0, rounds=2).max() < 6.0


def test_values_without_outliers_stay():
    weight = torch.linspace(-1, 1, 64)
    assert find_outliers(weight.abs()).count == 0
    assert torch.equal(truncate(weight), weight)


def test_the_weight_of_the_divergence_counts():
    output, target = torch.randn(2, 3, 4, 8, generator=torch.Generator().manual_seed(2)).unbind(0)
    loss = reconstruction_loss(output, target, 0.3)
    divergence = (
        torch.nn.functional.kl_div(output.log_softmax(-1), target.softmax(-1), reduction="none").sum(-1).mean()
    )
    torch.testing.assert_close(loss.total, ((output - target) ** 2).sum(-1).mean() + 0.3 * divergence)


def test_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match="group_size: got 24.*32 inputs"):
        weight_grid(torch.ones(2, 32), 4, 24)
    with pytest.raises(ValueError, match="overlap: got 2.*0 to window - 1 = 1"):
        windows(6, 2, 2)


def test_a_value_at_the_threshold_is_no_outlier():
    found = find_outliers(torch.full((8,), 3.0))
    assert (found.candidates, found.count) == (0, 0) and found.threshold == found.largest_kept == 3


def test_an_asymmetric_grid_reaches_from_zero_whatever_the_signs():
    weight = torch.tensor([[1.0, 4.0], [-6.0, -2.0]])
    grid = weight_grid(weight, 4, symmetric=False)
    torch.testing.assert_close(grid.scale[:, 0], torch.tensor([4 / 15, 6 / 15]))
    assert grid.zero_point[:, 0].tolist() == [-8, 7]  # the integers of zero: from -8 to 7


def test_what_a_block_is_called_with_is_learned_on_in_float32():
    half, whole = torch.ones(2, dtype=torch.bfloat16), torch.arange(2)
    call = _float32(
        Call((half,), {"position_embeddings": (half, half), "position_ids": whole, "past_key_values": None})
    )
    assert call.args[0].dtype == torch.float32
    assert [part.dtype for part in call.kwargs["position_embeddings"]] == [torch.float32] * 2
    assert call.kwargs["position_ids"] is whole and call.kwargs["past_key_values"] is None


@pytest.mark.parametrize(
    "name, wrong, ends",
    [
        ("bits", 5, [2, 3, 4, 8]),
        ("bits", True, []),
        ("activation_bits", 5, [None, 4, 6, 8]),
        ("symmetric", 1, [True, False]),
        ("learn_steps", 0, [True, False]),
        ("cfp", "yes", [True, False]),
        ("method", "awq", ["cbq", "gptq", "rtn"]),
        ("target", "all", ["homologous", "accumulated", "both"]),
        ("rounding", "none", ["hard", "soft"]),
        ("rounding_init", "one", ["fraction", "zero"]),
        ("group_size", 7, [8, 65536, None]),
        ("rank", 0, [1, None]),
        ("window", 0, [2, 100]),
        ("overlap", -1, [0, 1]),
        ("epochs", -1, [0]),
        ("epochs", None, []),
        ("batch_size", 0, [1]),
        ("cfp_rounds", 0, [1]),
        ("damping", 0, [1e-8]),
        ("seed", -1, [0, 2**32 - 1]),
        ("seed", 2**32, []),
        ("step_lr", 1.1, [0, 1]),
        ("rounding_lr", "1e-3", [0]),
        *((name, -0.1, [0]) for name in ("kld_weight", "lambda1", "lambda2", "rounding_weight", "rounding_lr")),
        ("kld_weight", True, []),
        ("kld_weight", float("nan"), []),
    ],
)
def test_settings_are_taken_to_their_ends_and_no_further(name, wrong, ends):
    with pytest.raises(ValueError, match=f"^{name}: got {wrong}, accepted are"):
        CbqSettings(**{name: wrong})
    for right in ends:
        assert getattr(CbqSettings(**{name: right}), name) == right


def test_settings_that_exclude_each_other_are_named():
    assert CbqSettings(group_size=-1).group_size is None
    for window, overlap in ((2, 2), (1, 1)):
        with pytest.raises(ValueError, match=f"overlap: got {overlap}, accepted are 0 to window - 1 = {window - 1}"):
            CbqSettings(window=window, overlap=overlap)
    with pytest.raises(ValueError, match="epochs: got 0, but with rounding_init zero all of the rounding is learned"):
        CbqSettings(rounding_init="zero", epochs=0)
    for taken in ({"method": "rtn"}, {"epochs": 1}, {"rounding_init": "fraction"}):
        CbqSettings(**{"rounding_init": "zero", "epochs": 0, **taken})
    for format, options in (
        *(("gptq", {"bits": bits}) for bits in (2, 4, 8)),
        *(("compressed-tensors", options) for options in ({"bits": 2}, {"symmetric": False}, {"activation_bits": 8})),
        *(("cbq", options) for options in ({"bits": 3}, {"symmetric": False}, {"activation_bits": 4})),
    ):
        check_format(format, CbqSettings(**options))
    for options in ({"bits": 3}, {"symmetric": False}, {"activation_bits": 8}):
        with pytest.raises(ValueError, match="format: gptq is written for symmetric weights of 2, 4 or 8 bits"):
            check_format("gptq", CbqSettings(**options))


def test_a_call_is_its_hidden_states_and_the_rest_wherever_they_stand():
    states, mask = torch.ones(1, 2, 3), torch.zeros(1)
    assert split_call((states, mask), {"x": 1}) == (states, Call((mask,), {"x": 1}))
    found, call = split_call((), {"x": 1, "hidden_states": states})
    assert found is states and call == Call((), {"x": 1})


def test_windows_go_to_the_last_block():
    assert windows(5, 2, 1) == [(0, 2), (1, 3), (2, 4), (3, 5)]
    assert windows(5, 3, 1) == [(0, 3), (2, 5)] and windows(5, 2, 0) == [(0, 2), (2, 4), (4, 5)]
    assert windows(1, 2, 1) == windows(1, 1, 0) == [(0, 1)] and windows(3, 3, 2) == [(0, 3)]


@pytest.mark.parametrize("rank", [None, 2, 50])
@pytest.mark.parametrize("start", ["fraction", "zero"])
def test_learning_begins_at_the_weight_itself_or_half_way_and_with_the_steps_as_they_are(rank, start):
    weight = torch.randn(6, 16, generator=torch.Generator().manual_seed(1))
    config = CbqConfig(bits=4, group_size=8, rank=rank, rounding="soft", rounding_init=start)
    layer = LearnedLayer(weight, config, torch.Generator().manual_seed(0))
    assert not layer.v().any() and torch.equal(layer.grid().scale, weight_grid(weight, 4, 8).scale)
    if start == "fraction":
        inside = (weight / layer.grid().scale.repeat_interleave(8, 1)).abs() < 7
        torch.testing.assert_close(layer.current()[inside], weight[inside], atol=1e-3, rtol=0)
    else:
        torch.testing.assert_close(layer.delta(), torch.full((6, 16), 0.5))
    # Of two factors of the rank that is asked for, at most of the weight's own.
    shapes = [tuple(each.shape) for each in layer.learned()]
    assert shapes == ([(6, 16)] if rank is None else [(6, min(rank, 6)), (min(rank, 6), 16)])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("symmetric", [True, False])
def test_steps_are_those_that_the_file_holds_and_weights_are_rounded_by_them(dtype, symmetric):
    weight = torch.randn(6, 16, generator=torch.Generator().manual_seed(3))
    config = CbqConfig(bits=8, group_size=8, rank=None, symmetric=symmetric)
    layer = LearnedLayer(weight, config, torch.Generator().manual_seed(0))
    layer.log_step += 0.01
    stored = layer.hard(dtype)
    own = weight_grid(weight, 8, 8, symmetric).scale * math.exp(0.01)
    assert torch.equal(stored.grid.scale, own.to(dtype).float())
    assert stored.grid.scale.dtype == torch.float32 and stored.integers.dtype == torch.int8
    # Each weight stands at one of the two multiples of the stored step that it lies between.
    steps = stored.grid.scale.repeat_interleave(8, 1)
    multiples = stored.integers - stored.grid.zero_point.repeat_interleave(8, 1)
    inside = (stored.integers > -128) & (stored.integers < 127)
    above = (multiples - (weight / steps).floor())[inside]
    assert set(above.unique().tolist()) == {0.0, 1.0} and inside.double().mean() > 0.9


def test_channels_beside_which_all_others_are_nought_stay_as_they_are():
    """There is nothing to divide by."""
    channels = torch.tensor([0.0] * 30 + [5.0])
    assert torch.equal(channel_scales(channels), torch.ones(31))
    # Nor are channels scaled where none stands out.
    assert torch.equal(channel_scales(torch.linspace(1, 2, 31)), torch.ones(31))


def test_a_channel_that_stands_out_is_divided_by_the_root_of_how_far_it_does():
    channels = torch.cat([torch.linspace(1, 2, 30), torch.tensor([32.0])])
    scales = channel_scales(channels)
    assert torch.equal(scales[:-1], torch.ones(30)) and scales[-1].item() == pytest.approx((32 / 2) ** 0.5)
    # Again, with what the first round has left of it: 32 / 4 is four times what is kept.
    assert channel_scales(channels, rounds=2)[-1].item() == pytest.approx(4 * (8 / 2) ** 0.5)


@pytest.mark.parametrize("symmetric", [True, False])
def test_tokens_have_a_grid_each_that_gradients_pass(symmetric):
    x = torch.tensor([[1.0, -2.0, 0.5, 4.0], [0.0, 0.0, 0.0, 0.0]], requires_grad=True)
    found = quantize_activations(x, 4, symmetric)
    step = 8 / 15 if symmetric else 6 / 15
    zero = 0.0 if symmetric else round(-8 + 2 / step)
    assert found.scale[0].item() == pytest.approx(step) and found.zero_point[0].item() == zero
    expected = [max(-8, min(7, round(value / step) + zero)) for value in (1.0, -2.0, 0.5, 4.0)]
    assert found.integers[0].tolist() == expected
    assert found.dequantized[0].tolist() == pytest.approx([(q - zero) * step for q in expected])
    assert not found.dequantized[1].any() and found.scale[1].item() == pytest.approx(1e-8)
    found.dequantized[0].sum().backward()
    if symmetric:
        assert x.grad[0, :3].tolist() == [1, 1, 1]
