"""Native kernels: every instruction set of this machine against torch's operators; what happens without a compiler."""

import logging
import os
import subprocess

import pytest
import torch

from hf_effmodels.benchmarking.worker import peak_allocation
from hf_effmodels.kernels import native_adder, native_library, native_packed
from hf_effmodels.kernels.native_geometry import Geometry, border_masks
from hf_effmodels.modeling.layers.adder import AdderConv2d, looped_forward, looped_input_gradient
from hf_effmodels.quantization import quantize_adder

LEVELS = range(native_library.level() + 1 if native_library.library() is not None else 0)

#: batch, channels, height, width, filters, kernel, stride, padding, dilation: odd sizes of everything.
CONVOLUTIONS = [
    (2, 3, 9, 7, 5, 3, 1, 1, 1),
    (1, 64, 8, 8, 32, 3, 2, 1, 1),
    (2, 130, 6, 5, 40, 1, 1, 0, 1),
    (1, 70, 11, 13, 33, 3, 1, 2, 2),
    (1, 16, 5, 20, 16, 5, 3, 2, 1),
    (1, 5, 3, 37, 9, 3, 1, 1, 1),
]


def test_there_is_a_kernel_where_there_is_a_compiler():
    """Without it the tests below would test nothing."""
    assert len(LEVELS) > 0


def packed_and_unpacked(sizes, levels, dtype, last, isa):
    batch, channels, height, width, filters, kernel, stride, padding, dilation = sizes
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(batch, channels, height, width, dtype=dtype, generator=generator)
    if levels[0] < levels[1]:  # what is neither below nor above counts for nothing, and so do the ends
        inputs[:, ::2, 0], inputs[:, ::3, 1] = levels
    if last:
        inputs = inputs.contiguous(memory_format=torch.channels_last)
    positive = torch.rand(filters, channels, kernel, kernel, generator=generator) > 0.5
    geometry = [[v, v] for v in (kernel, stride, padding, dilation)]
    rows, columns, row_class, column_class = border_masks(Geometry.of(inputs.shape, filters, *geometry))
    scales = [torch.randn(*s, filters, dtype=dtype, generator=generator) for s in ((), (), (len(rows), len(columns)))]
    tables = (*scales, row_class, column_class, *levels)
    words = native_packed.sign_words(positive)
    packed = native_packed.packed_conv2d(inputs, words, *tables, *geometry, not last, isa)
    assert packed.is_contiguous()
    return packed, native_packed.unpacked_conv2d(inputs, positive, *tables, *geometry[1:], not last)


@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("levels", [(0.05, 0.05), (-0.125, 0.25)], ids=["signs", "ternary"])
def test_packed_convolutions_are_equal_to_the_last_bit(isa, levels):
    for sizes in CONVOLUTIONS:
        for dtype in (torch.float32, torch.float64):
            for last in (False, True):
                packed, unpacked = packed_and_unpacked(sizes, levels, dtype, last, isa)
                assert torch.equal(packed, unpacked), (sizes, dtype, last)


@pytest.mark.parametrize("isa", LEVELS)
def test_sums_of_distances_of_bytes_are_exact(isa):
    generator = torch.Generator().manual_seed(0)
    levels = torch.randint(0, 256, (2, 6, 9, 16), dtype=torch.uint8, generator=generator)
    weight = torch.randint(0, 256, (19, 16, 3, 3), dtype=torch.uint8, generator=generator)
    gain, shift = torch.full((19,), 0.5), torch.arange(19.0)
    found = native_packed.byte_distances(
        levels, native_packed.byte_words(weight), gain, shift, [3, 3], [2, 2], [1, 1], isa
    )
    sums = looped_forward(levels.permute(0, 3, 1, 2).double(), weight.double(), (2, 2), (1, 1))
    assert torch.equal(found.double(), (sums * 0.5 + shift.double()[:, None, None]).permute(0, 2, 3, 1))


@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("size, stride, padding", [(3, 1, 1), (3, 2, 1), (1, 2, 0), (5, 3, 2), (2, 1, 0)])
def test_adder_kernels_agree_with_the_loops_in_float64(isa, size, stride, padding):
    generator = torch.Generator().manual_seed(0)
    inputs = 2 * torch.randn(2, 11, 9, 13, generator=generator)
    weight = torch.randn(19, 11, size, size, generator=generator)
    geometry = ([stride] * 2, [padding] * 2)
    output = native_adder.forward(inputs, weight, *geometry, isa)
    exact = [t.double() for t in (inputs, weight)]
    torch.testing.assert_close(output.double(), looped_forward(*exact, *geometry), rtol=2e-6, atol=1e-5)
    gradient = torch.randn(output.shape, generator=generator)
    found = native_adder.input_gradient(inputs, weight, gradient, *geometry, isa)
    expected = looped_input_gradient(*exact, gradient.double(), *geometry)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_inputs_of_other_channels_are_refused_by_kernels_and_loops(dtype):
    layer = AdderConv2d(4, 6, 3, padding=1).to(dtype)
    quantised = quantize_adder(torch.nn.Sequential(torch.nn.ReLU(), layer).eval(), [torch.rand(2, 4, 8, 8).to(dtype)])
    for network in (layer, quantised):
        for shape in ((1, 3, 8, 8), (1, 5, 8, 8), (4, 8, 8)):
            with pytest.raises(ValueError, match=r"inputs: got .* accepted are \(batch, 4, height, width\)"):
                network(torch.zeros(shape, dtype=dtype))
    for shape in ((1, 3, 8, 8), (4, 8, 8)):  # nor is memory read that is not theirs
        with pytest.raises(ValueError, match=r"inputs: got .* accepted are \(batch, 4, height, width\)"):
            native_adder.forward(torch.zeros(shape), torch.zeros(6, 4, 3, 3), [1, 1], [1, 1])


def test_threads_change_nothing():
    before = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(packed_and_unpacked(CONVOLUTIONS[2], (0.0, 0.0), torch.float32, True, -1)[0])
            inputs, weight = (
                torch.linspace(-1, 1, 2 * 9 * 64).view(2, 9, 8, 8),
                torch.linspace(-1, 1, 36).view(4, 9, 1, 1),
            )
            results.append(native_adder.forward(inputs, weight, [1, 1], [0, 0]))
            results.append(native_adder.input_gradient(inputs, weight, results[-1], [1, 1], [0, 0]))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, two) for one, two in zip(results[:3], results[3:], strict=True))


def test_the_operators_are_proper_ones_of_torch():
    torch.library.opcheck(native_adder.forward, (torch.randn(1, 2, 5, 5), torch.randn(3, 2, 3, 3), [1, 1], [1, 1]))
    layer = AdderConv2d(3, 4, 3, padding=1)
    inputs = torch.randn(1, 3, 6, 6)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(layer, fullgraph=True, backend="eager")(inputs), layer(inputs))


@pytest.mark.parametrize("kernel, stride", [(3, 1), (3, 2), (1, 1), (1, 2)])
def test_no_more_memory_than_the_output(kernel, stride):
    """Forward the layer takes nothing but its output, backward at most as much beside the gradients."""
    layer = AdderConv2d(32, 32, kernel, stride, kernel // 2)
    inputs = torch.randn(4, 32, 14 * stride, 14 * stride, requires_grad=True)
    outputs = []
    forward = peak_allocation(lambda: outputs.append(layer(inputs)))
    upstream = torch.randn_like(outputs[0])
    backward = peak_allocation(lambda: outputs[0].backward(upstream))
    output, gradients = (sum(4 * t.numel() for t in tensors) for tensors in (outputs, (inputs, layer.weight)))
    assert forward <= 1.01 * output
    assert gradients <= backward <= max(gradients, 1.5 * output + 4 * layer.weight.numel()) + 4096


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_what_is_not_finite_is_refused_by_all_forms(value, dtype, memory_format):
    positive = torch.ones(2, 70, 1, 1, dtype=torch.bool)
    words = native_packed.sign_words(positive)
    tables = (torch.ones(2, dtype=dtype),) * 2 + (torch.zeros(1, 1, 2, dtype=dtype),)
    tables += (torch.zeros(5, dtype=torch.int64),) * 2 + (0.0, 0.0)
    square = [[1, 1], [0, 0], [1, 1]]
    for channel in (7, 69):  # of a whole word and of one that is not
        inputs = torch.full((1, 70, 5, 5), torch.finfo(dtype).max, dtype=dtype).contiguous(memory_format=memory_format)
        native_packed.packed_conv2d(inputs, words, *tables, [1, 1], *square)
        inputs[0, channel, 4, 4] = value
        for isa in LEVELS:
            with pytest.raises(ValueError, match="inputs: got values that are not finite"):
                native_packed.packed_conv2d(inputs, words, *tables, [1, 1], *square, isa=isa)
        with pytest.raises(ValueError, match="inputs: got values that are not finite"):
            native_packed.unpacked_conv2d(inputs, positive, *tables, *square)


@pytest.mark.parametrize("count", [1, 8, 13])
def test_bits_come_back(count):
    values = torch.rand(3, count) > 0.5
    packed = native_packed.pack_bits(values)
    assert packed.shape == (3, -(-count // 8)) and torch.equal(native_packed.unpack_bits(packed, count), values)
    assert packed[0, 0] == sum(int(bit) << i for i, bit in enumerate(values[0, :8]))


def test_without_a_compiler_one_line_says_so_and_results_are_the_same(monkeypatch, caplog):
    layer, inputs = AdderConv2d(3, 4, 3, padding=1), torch.randn(1, 3, 6, 6)
    expected = layer(inputs)
    monkeypatch.setenv("CC", "no-such-compiler")
    native_library.library.cache_clear()
    try:
        with caplog.at_level(logging.WARNING, "hf_effmodels"):
            torch.testing.assert_close(layer(inputs), expected, rtol=1e-5, atol=1e-5)
            layer(inputs)
        messages = [record.message for record in caplog.records]
        assert len(messages) == 1 and "there is no C compiler (no-such-compiler)" in messages[0]
    finally:
        native_library.library.cache_clear()


def test_what_is_compiled_is_kept_in_a_private_folder(tmp_path, monkeypatch):
    path = native_library.compiled(tmp_path / "kernels")
    assert (tmp_path / "kernels").stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr(subprocess, "run", _only_versions(subprocess.run))
    assert native_library.compiled(tmp_path / "kernels") == path, "not compiled again"
    os.chmod(tmp_path / "kernels", 0o777)
    with pytest.raises(OSError, match="others may write to it"):
        native_library.compiled(tmp_path / "kernels")


def _only_versions(run):
    def checked(command, **options):
        assert command[1:] == ["--version"]
        return run(command, **options)

    return checked


def test_what_lies_scattered_in_memory_is_read_as_what_it_is():
    """Every second of the rows, transposed and expanded ones: the kernels read what lies one after another."""
    generator = torch.Generator().manual_seed(0)

    def scattered(rows, columns, height, width):
        return torch.randn(columns, rows, 2 * height, width, generator=generator)[:, :, ::2].transpose(0, 1)

    inputs, weight = scattered(2, 11, 9, 13), scattered(5, 11, 3, 3)
    geometry = ([1, 1], [1, 1])
    exact = [value.double() for value in (inputs, weight)]
    output = native_adder.forward(inputs, weight, *geometry)
    torch.testing.assert_close(output.double(), looped_forward(*exact, *geometry), rtol=2e-6, atol=1e-5)
    gradient = torch.tensor(0.5).expand(output.shape)
    found = native_adder.input_gradient(inputs, weight, gradient, *geometry)
    expected = looped_input_gradient(*exact, gradient.double(), *geometry)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    positive = torch.rand(5, 11, 3, 3, generator=generator) > 0.5
    rows, columns, *classes = border_masks(Geometry.of(inputs.shape, 5, [3, 3], *geometry))
    scales = [torch.randn(*shape, 5, generator=generator) for shape in ((), (), (len(rows), len(columns)))]
    tables, words = (*scales, *classes, -0.1, 0.2), native_packed.sign_words(positive)
    for first in (True, False):
        packed = native_packed.packed_conv2d(inputs, words, *tables, [3, 3], *geometry, [1, 1], first)
        assert torch.equal(packed, native_packed.unpacked_conv2d(inputs, positive, *tables, *geometry, (1, 1), first))
