"""What commands draw: the numbers they have measured, where they belong."""

import pytest

from hf_effmodels.collaboration.codecs import curves
from hf_effmodels.collaboration.offloading import command as offload
from hf_effmodels.collaboration.splitting.measure import IMAGE, WHOLE, PointCost, draw_latencies


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are written."""
    from matplotlib.figure import Figure

    figures = []

    def savefig(figure, file, **options):
        figures.append(figure)
        file.write(b"\x89PNG")

    monkeypatch.setattr(Figure, "savefig", savefig)
    return figures


def test_milliseconds_and_millijoules_of_a_task_are_drawn_beside_the_rewards(drawn, tmp_path):
    compared = {"agents": {"seconds": 0.02, "joules": 0.003}, "device": {"seconds": 0.5, "joules": 0.04}}
    offload._draw(tmp_path / "x.png", compared, [[10, -1.5], [20, -0.5], [30, -0.25]])
    (figure,) = drawn
    seconds, joules, rewards = figure.axes
    for axes, unit, heights in ((seconds, "ms", [20, 500]), (joules, "mJ", [3, 40])):
        assert [bar.get_height() for bar in axes.patches] == pytest.approx(heights)
        assert (axes.get_ylabel(), axes.get_yscale()) == (f"{unit} a task", "log")
        assert [text.get_text() for text in axes.get_xticklabels()] == ["agents", "device"]
    (line,) = rewards.lines
    assert (line.get_xdata().tolist(), line.get_ydata().tolist()) == ([10, 20, 30], [-1.5, -0.5, -0.25])
    assert (tmp_path / "x.png").read_bytes() == b"\x89PNG"


def test_accuracy_over_bytes_is_drawn_from_the_fewest_bytes_on(drawn, tmp_path):
    report = {
        "accuracy": 0.75,
        "bottlenecks": [{"bytes": 90.0, "accuracy": 0.7}, {"bytes": 10.0, "accuracy": 0.25}],
        "pictures": [
            {"kind": "JPEG", "bytes": 400.0, "accuracy": 0.6},
            {"kind": "WEBP", "bytes": 300.0, "accuracy": 0.65},
            {"kind": "JPEG", "bytes": 200.0, "accuracy": 0.5},
        ],
    }
    curves._draw(tmp_path / "x.png", report)
    (axes,) = drawn[0].axes
    lines = {line.get_label(): [*zip(line.get_xdata(), line.get_ydata(), strict=True)] for line in axes.lines}
    assert [place[1] for place in lines.pop("whole network")] == [75, 75]
    assert lines == {
        "bottleneck": [(10, 25), (90, 70)], "JPEG": [(200, 50), (400, 60)], "WEBP": [(300, 65)],
    }  # fmt: skip
    assert axes.get_xscale() == "log" and axes.get_yscale() == "linear" and axes.get_legend() is not None


def test_latencies_are_drawn_over_the_bandwidth_with_a_line_for_each_point(drawn, tmp_path):
    costs = [
        PointCost(IMAGE, 8000, 0.0, 0.03), PointCost("stages.0", 1000, 0.01, 0.02),
        PointCost(WHOLE, 0, 0.05, 0.0),
    ]  # fmt: skip
    draw_latencies(tmp_path / "x.png", costs, 1e6, 1e8)
    (axes,) = drawn[0].axes
    found = {line.get_label(): line for line in axes.lines}
    assert [*found] == ["all on the server", "after stages.0", "all on the device"]
    assert [line.get_linestyle() for line in found.values()] == ["--", "-", "--"]
    for line, cost in zip(found.values(), costs, strict=True):
        megabits, milliseconds = line.get_xdata(), line.get_ydata()
        assert (len(megabits), megabits[0], megabits[-1]) == (51, pytest.approx(1), pytest.approx(100))
        assert megabits[25] == pytest.approx(10)  # evenly on the logarithmic axis
        for bandwidth, time in ((1, milliseconds[0]), (10, milliseconds[25]), (100, milliseconds[-1])):
            seconds = cost.head_seconds + cost.tail_seconds + cost.bits / (bandwidth * 1e6)
            assert time == pytest.approx(1000 * seconds)
    assert axes.get_xscale() == axes.get_yscale() == "log"
