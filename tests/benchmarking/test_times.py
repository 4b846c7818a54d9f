"""From known times the benchmark makes the right numbers: nothing here depends on how fast this machine is."""

import contextlib
import io
import json
import runpy
import sys
import types
from dataclasses import replace

import pytest
import torch

from hf_effmodels.benchmarking import runs, tables, worker
from hf_effmodels.benchmarking.counting import count, count_preset
from hf_effmodels.benchmarking.runs import Row, measure, summarize

READY = {"parameters": 8_129_000, "allocated_bytes": 5_500_000}


def row(peer: str = "ours", **more) -> Row:
    settings = {"preset": "vanillanet-5", "backend": "eager", "batch": 2, "threads": 1, "mode": "infer"}
    return Row(**{**settings, "peer": peer, "folded": True, "image_size": 64, **more})


def times(*seconds: float, cpu: float = 1.0, peak: int = 10**8) -> list[dict]:
    return [{"seconds": s, "cpu_seconds": cpu * s, "peak_bytes": peak + i * 10**6} for i, s in enumerate(seconds)]


def test_one_second_against_two_is_two_times_faster():
    result = summarize(row(), times(1.0), times(2.0), READY)
    assert (result.ratio, result.cpu_ratio) == (2.0, 2.0)
    assert summarize(row(), times(2.0), times(1.0), READY).ratio == 0.5
    # By processor time it may be another.
    assert summarize(row(), times(1.0, cpu=4.0), times(2.0), READY).cpu_ratio == 0.5


def test_ratios_are_taken_round_by_round_and_the_middle_one_counts():
    # Medians of 2 and 8 would be 4; the machine was slow in the last two rounds.
    result = summarize(row(), times(1.0, 2.0, 10.0), times(3.0, 8.0, 10.0), READY)
    assert result.ratio == 3.0


def test_every_number_of_a_result():
    result = summarize(row(), times(0.004, 0.001, 0.002, 0.003, 0.1, cpu=2.0), times(*[0.006] * 5), READY)
    assert result.rounds == 5
    assert (result.median, result.quartile_1, result.quartile_3) == pytest.approx((3.0, 2.0, 4.0))
    assert result.cpu == pytest.approx(6.0)
    assert result.peak_mb == pytest.approx(104.0), "the largest of all rounds"
    assert result.allocated_mb == 5.5 and result.parameters == 8_129_000
    single = summarize(row(), times(0.5), times(0.5), {**READY, "allocated_bytes": None})
    assert (single.quartile_1, single.median, single.quartile_3) == (500.0, 500.0, 500.0)
    assert single.allocated_mb is None


def test_multiply_adds_are_those_of_what_ran():
    folded = count_preset("vanillanet-5", folded=True, image_size=64).macs
    trained = count_preset("vanillanet-5", image_size=64).macs
    assert folded < trained < count_preset("vanillanet-5", image_size=96).macs

    def macs(**more):
        return summarize(row(**more), times(1.0), times(1.0), READY).macs

    assert macs() == folded and macs(folded=False) == trained
    assert macs(overrides='{"num_labels": 10}') == folded - 990 * 4096, "the classifier is a 1×1 convolution"
    assert macs(peer="timm") is None
    assert summarize(row(preset="pangu-pi-15m"), times(1.0), times(1.0), READY).macs is None


@pytest.fixture
def workers(monkeypatch):
    """Processes that know their times: `seconds` by peer. Returns what was started."""
    started = []

    def start(row):
        seconds = {"slow": 2.0, "ours": 1.0, "quick": 0.5}.get(row.peer, 1.0)
        first = {"parameters": 1, "allocated_bytes": None, "repeats": 1}
        if row.peer == "refuses":
            first = {"error": "no such model"}
        lines = [
            "import sys, json, time",
            f"time.sleep({30 if row.peer == 'sleeps' else 0})",
            f"print(json.dumps({first!r}), flush=True)",
            "for n, _ in enumerate(sys.stdin):",
            f"    if {row.peer == 'dies'} and n: sys.exit(7)",
            f"    print(json.dumps(dict(seconds={seconds}, cpu_seconds={seconds}, peak_bytes=1)), flush=True)",
        ]
        process = runs.subprocess.Popen(
            [sys.executable, "-S", "-c", "\n".join(lines)],
            stdin=runs.subprocess.PIPE,
            stdout=runs.subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    monkeypatch.setattr(runs, "_start", start)
    monkeypatch.setattr(runs, "count_preset", lambda *args, **kwargs: types.SimpleNamespace(macs=5))
    return started


def test_every_row_is_run_in_every_round_and_compared_with_its_own_reference(workers):
    slow, ours, quick = rows = [row("slow"), row("ours"), row("quick")]
    by_default = measure(rows, 3)
    assert [result.row for result in by_default] == rows
    assert [result.ratio for result in by_default] == [1.0, 2.0, 4.0], "the first is the reference"
    assert [result.rounds for result in by_default] == [3, 3, 3]
    named = measure(rows, 1, {slow: quick, ours: quick, quick: slow})
    assert [result.ratio for result in named] == [0.25, 0.5, 4.0]
    assert [result.median for result in named] == [2000.0, 1000.0, 500.0]
    assert all(process.poll() is not None for process in workers), "no process is left"


def test_how_far_it_is_is_shown_on_a_terminal_alone(workers, capsys, monkeypatch):
    measure([row("slow"), row("ours")], 3)
    assert not capsys.readouterr().err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    measure([row("slow"), row("ours")], 3)
    said = capsys.readouterr().err
    assert "built" in said and "timed: 100%" in said and " 6/6 " in said


def test_the_order_of_the_rows_changes_from_round_to_round_and_follows_the_seed(workers, monkeypatch):
    orders = []
    original = runs._run_once
    monkeypatch.setattr(runs, "_run_once", lambda row, worker: orders.append(row.peer) or original(row, worker))
    rows = [row("slow"), row("ours"), row("quick")]
    for seed in (0, 0, 1):
        measure(rows, 8, seed=seed)
    first, again, other = (orders[start : start + 24] for start in (0, 24, 48))
    rounds = [tuple(first[i : i + 3]) for i in range(0, 24, 3)]
    assert all(sorted(names) == ["ours", "quick", "slow"] for names in rounds) and len(set(rounds)) > 2
    assert first == again != other


@pytest.mark.parametrize(
    "peer, message",
    [
        ("refuses", "vanillanet-5 refuses eager: no such model"),
        ("dies", "vanillanet-5 dies eager: its process ended with exit code 7"),
    ],
)
def test_a_row_that_cannot_run_is_named_and_no_process_is_left(workers, peer, message):
    with pytest.raises(ValueError, match=message):
        measure([row("ours"), row(peer)], 5)
    assert len(workers) == 2 and all(process.poll() is not None for process in workers)


def test_a_row_that_is_still_starting_is_not_waited_for_after_an_error(workers):
    with pytest.raises(ValueError, match="refuses eager: no such model"):
        measure([row("refuses"), row("sleeps")], 1)
    assert workers[1].returncode < 0, "it was stopped, it did not come to its end"


def test_a_process_of_a_row_has_its_threads_and_its_settings(monkeypatch):
    seen = {}
    monkeypatch.setattr(runs.subprocess, "Popen", lambda command, **options: seen.update(options, command=command))
    runs._start(row(threads=3, overrides='{"width_multiplier": 0.5}'))
    assert seen["env"]["OMP_NUM_THREADS"] == "3" and seen["env"].keys() >= runs.os.environ.keys()
    assert seen["env"]["PYTHONPATH"].split(runs.os.pathsep) == [place for place in sys.path if place]
    assert seen["stdin"] == seen["stdout"] == runs.subprocess.PIPE and seen["text"] is True
    assert seen["command"][0] == sys.executable
    assert seen["command"][1:3] == ["-m", "hf_effmodels.benchmarking.worker"]
    given = json.loads(seen["command"][3])
    assert given["overrides"] == {"width_multiplier": 0.5} and given["threads"] == 3 and given["batch"] == 2


def test_a_row_has_the_same_weights_and_inputs_in_every_process(monkeypatch):
    """Whatever numbers have been drawn before it is built."""
    seen = []

    def make_call(model, row):
        seen.append((model.weight.detach().clone(), torch.rand(3)))
        return lambda: None

    peer = types.SimpleNamespace(build=lambda preset, folded, overrides: torch.nn.Linear(2, 3))
    monkeypatch.setattr("hf_effmodels.benchmarking.peers.PEERS", {"ours": peer})
    monkeypatch.setattr("hf_effmodels.benchmarking.workloads.make_call", make_call)
    monkeypatch.setattr(worker, "_say", lambda facts: None)
    monkeypatch.setattr(worker.sys, "stdin", [])
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)
    asked = {"threads": 1, "peer": "ours", "preset": "x", "folded": False, "overrides": {}, "backend": "onnx"}
    with torch.random.fork_rng(devices=[]):
        for seed in (5, 6):
            torch.manual_seed(seed)
            worker.main(asked)
    (weight, pixels), (again, others) = seen
    assert torch.equal(weight, again) and torch.equal(pixels, others)


class Clock:
    """Time that passes only where something says so: a call takes 20 ms, and its threads work for 30."""

    def __init__(self):
        self.now = self.cpu = 0.0
        self.calls = 0

    def call(self):
        self.calls += 1
        self.now += 0.02
        self.cpu += 0.03

    def perf_counter(self):
        return self.now

    def process_time(self):
        return self.cpu


def test_a_timed_run_repeats_short_calls_and_gives_the_time_of_one(monkeypatch):
    clock, said = Clock(), []
    peer = types.SimpleNamespace(build=lambda preset, folded, overrides: torch.nn.Linear(2, 3))
    monkeypatch.setattr("hf_effmodels.benchmarking.peers.PEERS", {"ours": peer})
    monkeypatch.setattr("hf_effmodels.benchmarking.workloads.make_call", lambda model, row: clock.call)
    monkeypatch.setattr(worker, "time", clock)
    monkeypatch.setattr(worker, "_say", said.append)
    monkeypatch.setattr(worker, "peak_allocation", lambda call: 77)
    monkeypatch.setattr(worker.sys, "stdin", ["\n", "\n"])
    monkeypatch.setattr(torch, "set_num_threads", lambda number: said.append(number))
    asked = {"threads": 4, "peer": "ours", "preset": "x", "folded": False, "overrides": {}, "backend": "eager"}
    worker.main(asked)
    assert said[:2] == [4, {"parameters": 9, "repeats": 5, "allocated_bytes": 77}], "5 × 20 ms are 100 ms"
    assert len(said) == 4 and clock.calls == 2 + 1 + 2 * 5
    for facts in said[2:]:
        assert facts["seconds"] == pytest.approx(0.02) and facts["cpu_seconds"] == pytest.approx(0.03)
        assert 2e7 < facts["peak_bytes"] < 1e11, "bytes, not kilobytes"
    said.clear()
    worker.main({**asked, "backend": "onnx"})
    assert said[1]["allocated_bytes"] is None
    # Linux tells the largest memory in 1024 bytes, macOS in bytes.
    monkeypatch.setattr(worker.resource, "getrusage", lambda who: types.SimpleNamespace(ru_maxrss=7_000))
    for platform, expected in (("linux", 7_168_000), ("darwin", 7_000)):
        monkeypatch.setattr(worker.sys, "platform", platform)
        said.clear()
        worker.main(asked)
        assert [facts["peak_bytes"] for facts in said[2:]] == [expected] * 2


def test_multiply_adds_are_counted_of_convolutions_and_matrix_products_alone():
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 4, 3, padding=1, groups=1)
            self.depthwise = torch.nn.Conv2d(4, 4, 3, padding=1, groups=4)
            self.norm = torch.nn.BatchNorm2d(4)
            self.linear = torch.nn.Linear(4, 5)

        def forward(self, x):
            x = self.norm(self.depthwise(self.conv(x))).relu()
            distances = x.flatten(2).transpose(1, 2) @ x.flatten(2)
            return self.linear(x.mean((2, 3))), distances

    cost = count(Net().eval(), torch.zeros(1, 3, 8, 8))
    assert cost.macs == 4 * 3 * 9 * 64 + 4 * 9 * 64 + 64 * 4 * 64 + 4 * 5
    assert cost.parameters == 3 * 4 * 9 + 4 + 4 * 9 + 4 + 2 * 4 + 4 * 5 + 5


def test_presets_without_images_or_without_a_folded_form_are_not_counted():
    with pytest.raises(ValueError, match="pangu-pi-15m .* takes text: models for images are counted"):
        count_preset("pangu-pi-15m")
    with pytest.raises(ValueError, match="adem_vl-7b-caption .* takes image\\+text"):
        count_preset("adem_vl-7b-caption")
    with pytest.raises(ValueError, match="unknown preset"):
        count_preset("ghostnetv9")


RESULT = runs.Result(
    row=row(threads=4, batch=8),
    rounds=3,
    median=1.234,
    quartile_1=1.1,
    quartile_3=1.5,
    cpu=2.345,
    ratio=3.456,
    cpu_ratio=4.567,
    peak_mb=567.8,
    allocated_mb=6.78,
    parameters=7_891_234,
    macs=89_123_456,
)


def test_every_column_of_the_table_has_its_number(tmp_path):
    shown = dict(zip(tables.COLUMNS, tables.cells(RESULT), strict=True))
    assert shown == {
        "preset": "vanillanet-5",
        "implementation": "ours",
        "backend": "eager",
        "batch": "8",
        "threads": "4",
        "mode": "infer",
        "median ms": "1.23",
        "IQR ms": "1.10–1.50",
        "CPU ms": "2.35",
        "times faster": "3.46",
        "by CPU time": "4.57",
        "peak MB": "568",
        "call MB": "6.8",
        "params M": "7.891",
        "MACs M": "89.1",
        "tokens/s": "",
        "top-1 %": "",
    }
    assert tables.cells(replace(RESULT, accuracy=0.81239))[-1] == "81.24"
    lines = tables.markdown([RESULT]).splitlines()
    assert lines[0].startswith("| preset |") and set(lines[1]) <= set("|- ") and len(lines) == 3


@pytest.mark.parametrize("mode, expected", [("generate", 2 * 50 / 0.25), ("infer", 2 * 30 / 0.25)])
def test_language_models_have_tokens_per_second_of_all_rows_of_a_batch(mode, expected):
    timed = replace(RESULT, row=row(batch=2, mode=mode, length=30, new_tokens=50), median=250.0)
    assert timed.tokens_per_second == pytest.approx(expected) and RESULT.tokens_per_second is None
    names, *lines = tables.table([RESULT, timed])
    assert names[-1] == "tokens/s" and [line[-1] for line in lines] == ["", f"{expected:.1f}"]
    assert tables.table([RESULT])[0][-1] == "MACs M"


@pytest.mark.draws
def test_files_of_an_earlier_benchmark_stay_unless_they_may_go(tmp_path):
    written = tables.write([replace(RESULT, row=replace(RESULT.row, preset="réseau"))], tmp_path / "out")
    assert {path.suffix for path in written} == {".md", ".csv", ".json", ".png"}
    for path in written[:3]:
        text = path.read_text(encoding="utf-8")
        assert "réseau" in text and text.endswith("\n"), path
    record = json.loads((tmp_path / "out" / "benchmark.json").read_text(encoding="utf-8"))["results"][0]
    assert (record["ratio"], record["row"]["threads"], record["median"]) == (3.456, 4, 1.234)
    with pytest.raises(ValueError, match="output: .* holds benchmark.md, benchmark.csv, .*--overwrite replaces them"):
        tables.prepare_folder(tmp_path / "out", False)
    tables.prepare_folder(tmp_path / "out", True)
    tables.prepare_folder(tmp_path / "new" / "folder", False)
    assert (tmp_path / "new" / "folder").is_dir()
    (tmp_path / "file").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match="output: .*file is a file"):
            tables.prepare_folder(tmp_path / "file", overwrite)


@pytest.mark.draws
def test_the_picture_has_a_panel_for_each_batch_and_a_bar_for_each_row(tmp_path, monkeypatch):
    from matplotlib import pyplot

    monkeypatch.setattr(pyplot, "close", lambda figure: None)
    single = replace(RESULT, row=row(batch=1, threads=1), median=5.0, quartile_1=4.0, quartile_3=8.0)
    tables.draw([RESULT, single, replace(single, row=row("timm", batch=1, threads=1))], tmp_path / "b.png")
    axes = pyplot.gcf().axes
    assert [axis.get_title() for axis in axes] == ["batch 8, 4 threads, infer", "batch 1, 1 thread, infer"]
    assert [bar.get_width() for bar in axes[1].patches] == [5.0, 5.0]
    (left, right) = axes[1].containers[0].lines[2][0].get_segments()[0][:, 0]
    assert (left, right) == (4.0, 8.0), "from the first to the third quartile"
    assert [text.get_text().strip() for text in axes[0].texts] == ["3.46×"]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("too few pixels"), "too few pixels"),
        (MemoryError(), "MemoryError"),
        (ImportError("no timm"), "no timm"),
        (OSError("no folder"), "no folder"),
        (RuntimeError("odd"), "odd"),
        (TypeError("no number"), "no number"),
        (ZeroDivisionError("by zero"), "by zero"),
        # These say a name alone, or what has none of which attribute.
        (KeyError("num_labels"), "KeyError: 'num_labels'"),
        (IndexError("out of range"), "IndexError: out of range"),
        (AttributeError("it has no 'stem'"), "AttributeError: it has no 'stem'"),
        (LookupError(), "LookupError"),
        (AssertionError(), "AssertionError"),
        (NotImplementedError("on meta"), "on meta"),
        (StopIteration("at the end"), "at the end"),
    ],
)
def test_a_row_says_in_a_line_why_it_cannot_run_and_prints_nothing_else(error, said, monkeypatch, capsys):
    def build(preset, folded, overrides):
        print("a library says something")
        raise error

    monkeypatch.setattr("hf_effmodels.benchmarking.peers.PEERS", {"ours": types.SimpleNamespace(build=build)})
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)
    asked = {"threads": 1, "peer": "ours", "preset": "x", "folded": False, "overrides": {}, "backend": "eager"}
    monkeypatch.setattr(sys, "argv", ["worker", json.dumps(asked)])
    spoken = io.StringIO()
    monkeypatch.setattr(sys, "__stdout__", spoken)
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.delitem(sys.modules, "hf_effmodels.benchmarking.worker")
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module("hf_effmodels.benchmarking.worker", run_name="__main__")
    assert stopped.value.code == 2 and spoken.getvalue() == json.dumps({"error": said}) + "\n"
    assert capsys.readouterr().err == "a library says something\n"


def test_the_processor_is_what_linux_says_or_what_python_knows(monkeypatch, tmp_path):
    lines = {"text": "processor : 0\nmodel name\t: A Core: fast\n"}
    monkeypatch.setattr(tables, "Path", lambda path: types.SimpleNamespace(read_text=lambda encoding: lines["text"]))
    monkeypatch.setattr(tables.platform, "processor", lambda: "")
    monkeypatch.setattr(tables.platform, "machine", lambda: "riscv64")
    assert tables._processor() == "A Core: fast"
    lines["text"] = "processor : 0\n"
    assert tables._processor() == "riscv64"
    monkeypatch.setattr(tables.platform, "processor", lambda: "a RISC-V")
    monkeypatch.setattr(tables, "Path", lambda path: tmp_path / "cpuinfo")
    assert tables._processor() == "a RISC-V"


def test_without_matplotlib_there_is_no_picture(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    written = tables.write([summarize(row(peer="timm"), times(1.0), times(1.0), READY)], tmp_path)
    assert [path.name for path in written] == ["benchmark.md", "benchmark.csv", "benchmark.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in written)


def test_what_a_profiler_says_is_not_heard_and_what_is_said_afterwards_is(capfd):
    for error in (False, True):
        with contextlib.suppress(ValueError), worker._silent_standard_error():
            worker.os.write(2, b"begun")
            if error:
                raise ValueError
        worker.os.write(2, b"heard")
    assert capfd.readouterr().err == "heard" * 2
