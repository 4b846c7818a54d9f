"""How the native kernels are compiled, kept and refused; what they are asked, and what they say of their results."""

import logging
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from hf_effmodels.kernels import native_adder, native_library, native_packed
from hf_effmodels.kernels.native_geometry import (
    Geometry,
    border_classes,
    border_masks,
    check_channels,
    output_size,
)

#: Makes an empty library.
EMPTY = 'while [ "$1" != -o ]; do shift; done; : > "$2"'


@pytest.fixture
def fresh():
    """`library` as in a new process, here and afterwards."""
    native_library.library.cache_clear()
    yield native_library.library
    native_library.library.cache_clear()


def said(caplog) -> str:
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    return record.getMessage()


def compiler(folder: Path, lines: str) -> str:
    """A program that says a version, and otherwise does this."""
    path = folder / "compiler"
    path.write_text(f'#!/bin/sh\nif [ "$1" = --version ]; then echo 1; exit 0; fi\n{lines}\n')
    path.chmod(0o755)
    return str(path)


def test_the_switch_is_on_or_off(monkeypatch, caplog, fresh):
    monkeypatch.setenv("HF_EFFMODELS_KERNELS", "maybe")
    for _ in range(2):  # a mistake is told each time
        with pytest.raises(ValueError, match="^HF_EFFMODELS_KERNELS: got 'maybe', accepted are 'on', 'off'.$"):
            fresh()
    monkeypatch.setenv("HF_EFFMODELS_KERNELS", "off")
    with caplog.at_level(logging.WARNING, "hf_effmodels"):
        assert fresh() is None and not native_library.available() and fresh() is None
    assert said(caplog) == (
        "No native kernels, torch's operators compute the same more slowly: HF_EFFMODELS_KERNELS is off."
    )
    assert not native_adder.applies_to(torch.zeros(1))
    fresh.cache_clear()
    monkeypatch.setenv("HF_EFFMODELS_KERNELS", "on")
    assert fresh() is not None and native_library.available() and fresh() is fresh()


def test_kernels_are_kept_in_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert native_library.cache_folder() == tmp_path / "hf_effmodels" / "kernels"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for value in ("", None):
        if value is None:
            monkeypatch.delenv("XDG_CACHE_HOME")
        else:
            monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert native_library.cache_folder() == tmp_path / "home" / ".cache" / "hf_effmodels" / "kernels"


def test_what_cannot_be_compiled_here_is_told_in_one_line(monkeypatch, caplog, tmp_path, fresh):
    def lacks(lines: str | None, **changes) -> str:
        caplog.clear()
        fresh.cache_clear()
        with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, "hf_effmodels"):
            patch.setenv("XDG_CACHE_HOME", str(tmp_path))
            if lines is not None:
                patch.setenv("CC", compiler(tmp_path, lines))
            for name, value in changes.items():
                patch.setattr(native_library, name, value)
            assert fresh() is None
        return said(caplog).removeprefix("No native kernels, torch's operators compute the same more slowly: ")

    assert lacks(None, SOURCE=tmp_path / "kernels.c") == ("their source is a part of hf_effmodels, which this is not.")

    def nobody():
        raise RuntimeError("Could not determine home directory")

    assert lacks(None, cache_folder=nobody) == "Could not determine home directory."
    assert lacks("echo ' no such thing ' >&2; exit 1") == f"{tmp_path}/compiler failed: no such thing."
    long = lacks("printf '%0700d' 7 >&2; exit 1")
    assert long == f"{tmp_path}/compiler failed: {'0' * 500}."
    assert "timed out after 0.05 seconds" in lacks("exec sleep 5", PATIENCE=0.05)
    kept = {name: getattr(os, name) for name in ("environ", "stat", "replace")}
    assert lacks(None, os=SimpleNamespace(**kept)).startswith("native kernels are not built on ")
    assert not list((tmp_path / "hf_effmodels").glob("kernels/*"))  # nothing is left of what failed
    version = tmp_path / "compiler"
    version.write_text("#!/bin/sh\nexit 3\n")
    monkeypatch.setenv("CC", str(version))
    with pytest.raises(subprocess.CalledProcessError, match="returned non-zero exit status 3"):
        native_library.compiled(tmp_path / "k")
    assert "exit status 3" in lacks(None)


def test_a_compiler_without_openmp_is_asked_without_it(monkeypatch, tmp_path):
    asked = tmp_path / "asked"
    lines = f'echo "$@" >> {asked}\ncase "$*" in *-fopenmp*) echo no OpenMP >&2; exit 1;; esac\n'
    lines += 'while [ "$1" != -o ]; do shift; done; echo made > "$2"'
    monkeypatch.setenv("CC", compiler(tmp_path, lines))
    path = native_library.compiled(tmp_path / "kernels")
    assert path.read_text() == "made\n" and [p.name for p in (tmp_path / "kernels").iterdir()] == [path.name]
    first, second = asked.read_text().splitlines()
    options = "-O3 -std=gnu11 -fPIC -shared -ffp-contract=off -fno-math-errno -Wno-psabi"
    start = f"{options} -fopenmp {native_library.SOURCE} -o {tmp_path}/kernels/"
    assert first.startswith(start) and first.endswith(f"/{path.name}")
    assert second == first.replace(" -fopenmp", "")
    monkeypatch.setenv("CC", compiler(tmp_path, lines.split("\ncase")[0] + f"\n{EMPTY}"))
    asked.unlink()
    native_library.compiled(tmp_path / "others")
    assert len(asked.read_text().splitlines()) == 1, "with OpenMP once"


def test_another_source_compiler_or_option_is_another_library(monkeypatch, tmp_path):
    monkeypatch.setenv("CC", compiler(tmp_path, EMPTY))
    folder = tmp_path / "kernels"
    paths = [native_library.compiled(folder), native_library.compiled(folder)]
    assert paths[0] == paths[1] and paths[0].parent == folder and len(paths[0].name) == len("kernels-.so") + 64
    other = tmp_path / "kernels.c"
    other.write_text("int one;")
    changes = {
        "SOURCE": other,
        "OPTIONS": (*native_library.OPTIONS, "-g"),
        "platform": SimpleNamespace(machine=lambda: "abacus"),
    }
    for name, value in changes.items():
        with monkeypatch.context() as patch:
            patch.setattr(native_library, name, value)
            paths.append(native_library.compiled(folder))
    Path(compiler(tmp_path, EMPTY)).write_text(f"#!/bin/sh\n[ $1 = --version ] && echo 2 && exit 0\n{EMPTY}\n")
    paths.append(native_library.compiled(folder))
    assert len(set(paths)) == 5 == len(list(folder.iterdir()))


def test_compilers_are_looked_for_in_order(monkeypatch, tmp_path):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(OSError, match=r"^there is no C compiler \(cc, gcc, clang\)$"):
        native_library._compiler()
    for name in ("clang", "gcc", "cc"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
        assert native_library._compiler() == [str(tmp_path / name)]
    monkeypatch.setenv("CC", "clang")
    assert native_library._compiler() == [str(tmp_path / "clang")]
    monkeypatch.setenv("CC", "gcc -m64 '-DNAME=two words'")
    assert native_library._compiler() == [str(tmp_path / "gcc"), "-m64", "-DNAME=two words"]
    monkeypatch.setenv("CC", "'gcc")
    with pytest.raises(OSError, match=r"^there is no C compiler \(CC: got \"'gcc\": No closing quotation\)$"):
        native_library._compiler()


def test_a_compiler_may_be_called_through_another_program_and_with_words_of_its_own(monkeypatch, tmp_path):
    real = compiler(tmp_path, EMPTY)
    front = tmp_path / "ccache"
    front.write_text('#!/bin/sh\n"$@"\n')
    front.chmod(0o755)
    paths = []
    for said in (real, f"{front} {real}", f"{front} {front} {real}"):
        monkeypatch.setenv("CC", said)
        paths.append(native_library.compiled(tmp_path / "kernels"))
    assert all(path.exists() for path in paths)
    assert len(set(paths)) == 3, "what it is called with makes another library"


def test_files_and_folders_of_somebody_else_are_not_loaded(monkeypatch, tmp_path):
    monkeypatch.setenv("CC", compiler(tmp_path, EMPTY))
    folder = tmp_path / "kernels"
    path = native_library.compiled(folder)
    for mode in (0o720, 0o702):
        folder.chmod(mode)
        with pytest.raises(OSError, match=f"^{folder} belongs to somebody else, or others may write to it$"):
            native_library.compiled(folder)
    folder.chmod(0o755)  # to read is nothing
    assert native_library.compiled(folder) == path
    own = os.getuid()
    monkeypatch.setattr(native_library.os, "getuid", lambda: own + 1)
    with pytest.raises(OSError, match=f"^{folder} belongs to somebody else"):
        native_library.compiled(folder)
    answers = iter([own, own + 1])  # the folder is one's own, the file is not
    monkeypatch.setattr(native_library.os, "getuid", lambda: next(answers))
    with pytest.raises(OSError, match=f"^{path} belongs to somebody else$"):
        native_library.compiled(folder)


class Asked:
    """In the place of the library: what is asked, and a status that is answered."""

    def __init__(self, status: int = 0, seen: int = 0):
        self.calls, self.status, self.seen = [], status, seen

    def __getattr__(self, name: str):
        def answer(*arguments):
            self.calls.append((name.removeprefix("effmodels_"), arguments))
            return {"effmodels_best_level": 3, "effmodels_pack": self.seen}.get(name, self.status)

        return answer


def calls_of_all() -> list:
    """Each operator, with sizes by its name: what it takes."""
    image, weight, square = torch.zeros(1, 8, 5, 6), torch.zeros(3, 8, 3, 3), ([1, 2], [1, 0])
    tables = (torch.zeros(3), torch.zeros(3), torch.zeros(2, 1, 3), torch.zeros(5).long(), torch.zeros(2).long())
    words = native_packed.sign_words(weight > 0)
    return [
        (native_adder.forward, (image, weight, *square)),
        (native_adder.input_gradient, (image, weight, torch.zeros(1, 3, 5, 2), *square)),
        (native_packed.packed_conv2d, (image, words, *tables, 0.0, 0.0, [3, 3], *square, [1, 1])),
        (
            native_packed.byte_distances,
            (
                torch.zeros(1, 5, 6, 8, dtype=torch.uint8),
                native_packed.byte_words(weight.byte()),
                torch.zeros(3),
                torch.zeros(3),
                [3, 3],
                *square,
            ),
        ),
    ]


@pytest.mark.parametrize("number", range(4), ids=["adder", "gradient", "packed", "bytes"])
def test_the_best_instruction_set_is_asked_unless_another_is(monkeypatch, number):
    operator, arguments = calls_of_all()[number]
    asked = Asked()
    for module in (native_adder, native_packed, native_library):
        monkeypatch.setattr(module, "library", lambda: asked)
    operator(*arguments)
    operator(*arguments, isa=0)
    found = [values[0] for name, values in asked.calls if name != "best_level"]
    assert found == ([3, 3, 0, 0] if number == 2 else [3, 0])
    assert all(values[1] == torch.get_num_threads() for name, values in asked.calls if name != "best_level")
    asked.status = 1
    with pytest.raises(MemoryError, match="^native kernels: no memory.$"):
        operator(*arguments)


def test_what_packing_has_seen_chooses_the_operation(monkeypatch):
    operator, arguments = calls_of_all()[2]
    for seen, operation in ((0, native_packed.SIGNS), (1, native_packed.TERNARY)):
        asked = Asked(seen=seen)
        for module in (native_packed, native_library):
            monkeypatch.setattr(module, "library", lambda asked=asked: asked)
        for dtype, first in ((torch.float32, False), (torch.float64, True)):
            image, words, *tables = arguments
            tables[:3] = [table.to(dtype) for table in tables[:3]]
            operator(image.to(dtype), words, *tables, first)
            (_, pack), (name, values) = [call for call in asked.calls if call[0] != "best_level"][-2:]
            assert (pack[2], pack[3]) == (dtype == torch.float64, False)
            assert [number.value for number in pack[5:10]] == [1, 8, 30, 0.0, 0.0]
            assert name == "conv" and values[2:5] == (operation, dtype == torch.float64, first)
            assert list(values[5]) == [1, 8, 1, 5, 6, 3, 5, 2, 3, 3, 1, 2, 1, 0, 1, 1]
            assert values[-2].value == 1  # cases of columns


@pytest.mark.parametrize("height, width", [(4, 9), (9, 4)])
def test_each_row_and_column_of_bytes_has_a_case(monkeypatch, height, width):
    asked = []
    monkeypatch.setattr(native_packed, "_convolve", lambda *arguments: asked.append(arguments))
    levels, words = torch.zeros(1, height, width, 8, dtype=torch.uint8), torch.zeros(1, 1, 1, 8, dtype=torch.int64)
    native_packed.byte_distances(levels, words, torch.zeros(3), torch.zeros(3), [1, 1], [1, 1], [0, 0], isa=0)
    ((*_, rows, columns, output, _),) = asked
    assert output.shape == (1, height, width, 3) and len(rows) >= height and len(columns) >= width
    assert not rows.any() and not columns.any()


@pytest.mark.parametrize("number", range(4), ids=["adder", "gradient", "packed", "bytes"])
def test_shapes_are_known_without_computing(number):
    operator, arguments = calls_of_all()[number]
    torch.library.opcheck(operator, arguments)
    shapes = {0: (1, 3, 5, 2), 1: (1, 8, 5, 6), 2: (1, 5, 2, 3), 3: (1, 5, 2, 3)}
    meta = [value.to("meta") if isinstance(value, torch.Tensor) else value for value in arguments]
    made = operator(*meta)
    assert made.is_meta and made.shape == shapes[number] == operator(*arguments).shape
    if number == 2:
        torch.library.opcheck(operator, (*arguments, True))
        assert operator(*meta, True).shape == (1, 3, 5, 2) == operator(*arguments, True).shape


def test_sizes_are_those_of_a_convolution():
    for arguments, expected in (
        ((7, 3, 1, 1), 7),
        ((7, 3, 2, 1), 4),
        ((8, 3, 2, 1), 4),
        ((9, 2, 3, 0), 3),
        ((9, 3, 1, 0, 2), 5),
        ((9, 3, 2, 2, 4), 3),
        ((2, 3, 1, 0), 0),
    ):
        assert output_size(*arguments) == expected, arguments
    geometry = Geometry.of((2, 65, 9, 7), 5, (3, 2), (2, 1), (1, 0), (1, 3))
    assert (geometry.batch, geometry.channels, geometry.words, geometry.filters) == (2, 65, 2, 5)
    assert (geometry.height, geometry.width, geometry.out_height, geometry.out_width) == (9, 7, 5, 4)
    assert Geometry.of((1, 64, 9, 7), 5, (3, 3), (1, 1), (1, 1)).words == 1
    assert Geometry.of((1, 16, 9, 7), 5, (3, 3), (1, 1), (1, 1), channels_per_word=8).words == 2
    with pytest.raises(ValueError, match=r"^inputs: \(1, 3, 2, 9\) is smaller than the kernel \(3, 3\).$"):
        Geometry.of((1, 3, 2, 9), 5, (3, 3), (1, 1), (0, 0))


def test_positions_outside_of_the_image_are_told_by_line():
    assert border_classes(4, 3, 1, 1, 1) == (
        ((False, True, True), (True, True, True), (True, True, False)),
        (0, 1, 1, 2),
    )
    assert border_classes(5, 2, 2, 1, 3) == (((False, True), (True, True)), (0, 1))
    geometry = Geometry.of((1, 3, 4, 5), 5, (3, 2), (1, 2), (1, 1), (1, 3))
    rows, columns, of_row, of_column = border_masks(geometry)
    assert rows.dtype == columns.dtype == torch.float64
    assert rows.tolist() == [[0, 1, 1], [1, 1, 1], [1, 1, 0]] and of_row.tolist() == [0, 1, 1, 2]
    assert columns.tolist() == [[0, 1], [1, 1]] and of_column.tolist() == [0, 1]


def test_inputs_that_kernels_cannot_read_are_refused():
    check_channels(torch.zeros(2, 4, 1, 1, dtype=torch.float16), 4)
    for dtype in (torch.int32, torch.bool, torch.uint8):
        with pytest.raises(ValueError, match=f"^inputs: got {dtype}, accepted are floating point numbers.$"):
            check_channels(torch.zeros(2, 4, 1, 1, dtype=dtype), 4)
    for shape in ((2, 3, 1, 1), (4, 1, 1), (2, 4, 1, 1, 1)):
        with pytest.raises(ValueError, match="inputs: got .* accepted are .batch, 4, height, width.") as error:
            check_channels(torch.zeros(shape), 4)
        assert str(shape) in str(error.value)
    assert native_adder.applies_to(torch.zeros(1), torch.zeros(2))
    assert not native_adder.applies_to(torch.zeros(1), torch.zeros(2).double())
    assert not native_adder.applies_to(torch.zeros(1, device="meta"), torch.zeros(2))


def test_words_hold_channels_from_the_first_bit_on():
    positive = torch.zeros(9, 65, 1, 2, dtype=torch.bool)
    positive[0, [0, 5, 63], 0, 0] = True
    positive[8, 64, 0, 1] = True
    words = native_packed.sign_words(positive)
    assert words.shape == (2, 2, 2, 8) and words.is_contiguous() and words.dtype == torch.int64
    assert words[0, 0, 0, 0].item() == 1 + 32 - 2**63 and words[1, 1, 1, 0].item() == 1
    assert words.count_nonzero() == 2
    values = torch.zeros(1, 9, 1, 1, dtype=torch.uint8)
    values[0, 1], values[0, 8] = 7, 200
    bytes_ = native_packed.byte_words(values)
    assert bytes_.shape == (1, 1, 2, 8) and bytes_[0, 0, :, 0].tolist() == [7 << 8, 200]
    assert bytes_.count_nonzero() == 2


@pytest.mark.parametrize("number", range(4), ids=["adder", "gradient", "packed", "bytes"])
def test_memory_of_other_devices_is_never_given_to_the_kernels(number):
    name = calls_of_all()[number][0]._qualname
    has_kernel = torch._C._dispatch_has_computed_kernel_for_dispatch_key
    assert [has_kernel(name, key) for key in ("CPU", "CUDA", "XPU")] == [True, False, False]
