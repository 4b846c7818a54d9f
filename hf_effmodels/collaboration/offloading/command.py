"""The command `offload`: train agents in the simulated cell, and compare them with what others would decide."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from ..._command_line import Parser, in_words_of_the_command, show
from ..._files import write_bytes, write_json
from ..._option_types import seed
from ..._written import OVERWRITE, check_free, check_rewritable, rewritten
from .profiles import PROFILES, SplitProfile, profile_from
from .settings import OffloadingSettings, OffloadingTraining

RESULTS, PICTURE = "results.json", "results.png"
_WRITER = "hf-effmodels offload"


def main(argv: Sequence[str]) -> dict:
    """Train, save, and return what `results.json` holds.

    Raises:
        ValueError, OSError: wrong input, before anything is written.
    """
    parser = Parser(
        prog="hf-effmodels offload",
        description="Who cuts where, on which channel, how loud? Agents learn it in a simulated cell (MAHPPO).",
    )
    parser.add_argument("--profile", default="resnet18", help=f"{', '.join(PROFILES)}, or a file of measure-split")
    parser.add_argument("--output", help="folder for the agents, results.json and results.png")
    parser.add_argument("--steps", type=int, default=500_000, help="slots to learn from (default: the paper's 500000)")
    parser.add_argument("--seed", type=seed, default=0, help="of everything that is drawn")
    parser.add_argument("--learning-rate", type=float, default=1e-4, help="of Adam (default: the paper's 1e-4)")
    parser.add_argument("--devices", type=int, default=5, help="how many there are")
    parser.add_argument("--channels", type=int, default=2, help="of the radio, which the devices share")
    parser.add_argument("--tasks", type=int, default=200, help="of each device, in the mean")
    parser.add_argument("--slot", type=float, default=0.5, help="seconds between decisions")
    parser.add_argument("--energy-weight", type=float, default=1.0, help="of joules beside seconds")
    parser.add_argument("--bandwidth", type=float, default=1e6, help="of a channel, hertz")
    parser.add_argument("--released", action="store_true", help="learn as the release does, with its two mistakes")
    parser.add_argument("--overwrite", action="store_true", help=OVERWRITE)
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    arguments, rest = parser.parse_known_args(list(argv))
    parser.check_no_rest(rest)
    words = {action.dest: action.option_strings[-1] for action in parser.declared}
    words["folder"] = words["output"]
    try:
        return _run(arguments)
    except (ValueError, OSError) as error:
        raise type(error)(in_words_of_the_command(str(error), words)) from error


def _run(arguments) -> dict:
    if not arguments.output:
        raise ValueError("output: name a folder for the agents and the results.")
    try:
        check_rewritable(Path(arguments.output), _WRITER)
    except OSError as error:
        raise type(error)(f"output: {str(error).removeprefix('folder: ')}") from error
    check_free("output", arguments.output, arguments.overwrite)
    profile, names = _profile(arguments.profile)
    cell = {name: getattr(arguments, name) for name in ("devices", "channels", "tasks", "slot", "energy_weight")}
    settings = OffloadingSettings(**cell, bandwidth=arguments.bandwidth)
    training = OffloadingTraining(
        steps=arguments.steps,
        learning_rate=arguments.learning_rate,
        released=arguments.released,
        seed=arguments.seed,
    )
    # What follows imports torch.
    import torch

    from .environment import OffloadingEnvironment
    from .training import baselines, measure, train

    environment = OffloadingEnvironment(profile, settings)
    curve: list[list[float]] = []

    def told(step: int, reward: float) -> None:
        curve.append([step, reward])
        if not arguments.json and len(curve) % 10 == 1:
            show(f"{step:>8} slots  mean reward {reward:.4f}\n")

    agents = train(environment, training, told)
    compared = {name: measure(environment, decide) for name, decide in baselines(environment).items()}
    random = torch.Generator().manual_seed(arguments.seed)
    compared["agents"] = measure(environment, lambda observation: agents.draw(observation, random))
    compared["likeliest"] = measure(environment, agents.decide)
    observation, _ = OffloadingEnvironment(profile, OffloadingSettings(**cell, fixed=True)).reset()
    points, channels, powers = agents.decide(observation)
    decisions = [
        {"after": names[point], "channel": int(channel), "watts": float(power)}
        for point, channel, power in zip(points, channels, powers, strict=True)
    ]
    results = {"profile": arguments.profile, "compared": compared, "first_decisions": decisions, "curve": curve}
    with rewritten(arguments.output, _WRITER) as new:
        agents.save(new, profile)
        write_json(new / RESULTS, results)
        _draw(new / PICTURE, compared, curve)
    show(json.dumps(results, indent=2) + "\n" if arguments.json else _table(results))
    return results


def _profile(name: str) -> tuple[SplitProfile, list[str]]:
    """What the points cost, and what they are called."""
    if name in PROFILES:
        last = PROFILES[name].last
        return PROFILES[name], ["image", *(f"point {i}" for i in range(1, last)), "whole"]
    if not os.path.isfile(name):
        raise ValueError(f"profile: got {name!r}, accepted are {', '.join(PROFILES)} and files of measure-split.")
    try:
        content = json.loads(Path(name).read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it holds no mapping.")
        profile = profile_from(content["profile"])
        names = [str(point["at"]) for point in content["points"]]
    except KeyError as error:
        raise ValueError(f"profile: {name} is no file of measure-split: it has no {error}.") from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"profile: {name} is no file of measure-split: {error}") from error
    if len(names) != profile.last + 1:
        raise ValueError(f"profile: {name} has {len(names)} points and costs of {profile.last + 1}.")
    return profile, names


def _table(results: dict) -> str:
    lines = [f"{'':<10}{'ms a task':>12}{'mJ a task':>12}"]
    for name, row in results["compared"].items():
        unfinished = "" if row["done"] else f"  (only {row['finished']} tasks in {row['slots']} slots)"
        lines.append(f"{name:<10}{1e3 * row['seconds']:>12.1f}{1e3 * row['joules']:>12.1f}{unfinished}")
    lines += [f"device {i}: {d}" for i, d in enumerate(results["first_decisions"])]
    return "\n".join([*lines, "simulated; all at 50 m", ""])


def _draw(file: Path, compared: dict, curve: list) -> None:
    """Latency and energy beside each other, and the rewards; nothing where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    import io

    figure = Figure(figsize=(10, 3), layout="constrained")
    for axes, (field, unit) in zip(figure.subplots(1, 3)[:2], (("seconds", "ms"), ("joules", "mJ")), strict=True):
        axes.bar(list(compared), [1e3 * row[field] for row in compared.values()])
        axes.set_ylabel(f"{unit} a task")
        axes.set_yscale("log")
    axes = figure.axes[2]
    axes.plot(*zip(*curve, strict=True))
    axes.set_xlabel("slots")
    axes.set_ylabel("mean reward")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_bytes(file, buffer.getvalue())
