"""What docs/how-to/split.md and docs/how-to/offload.md say of processes of their own, over loopback.

    python docs/evidence/several_machines.py load OUTPUT
    python docs/evidence/several_machines.py parts OUTPUT --model outputs/devit_digits_fusion
    python docs/evidence/several_machines.py drive OUTPUT --model outputs/quickstart_ghostnetv3_digits

`load`: 8 clients with 200 requests each against a ResNet-18 (64 pixels, random weights) cut after its third stage; the
tail is killed (SIGKILL) after 800 answers and started again. `parts`: the parts of a DeViT, a process each, on digits;
then one is killed. `drive`: agents learn from measured costs of the network's cuts, and decide for five devices where
each of their digits is computed, with a served process for each cut.
"""

import argparse
import json
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
)

from hf_effmodels.collaboration.codecs.wire import UniformCodec
from hf_effmodels.collaboration.decomposition import take_part
from hf_effmodels.collaboration.offloading import OffloadingEnvironment, OffloadingSettings
from hf_effmodels.collaboration.offloading.driving import drive, local_point, split_point
from hf_effmodels.collaboration.offloading.training import OffloadingTraining, baselines, measure, train
from hf_effmodels.collaboration.splitting import FusedClassifier, SplitClassifier, split
from hf_effmodels.collaboration.splitting.measure import measure_split, profile_of
from hf_effmodels.collaboration.splitting.whole import whole
from hf_effmodels.training.data.digits import read_digits


def start(folder: Path, port: int, *more: str) -> subprocess.Popen:
    """`hf-effmodels serve-tail`, once it answers."""
    command = [sys.executable, "-c", "from hf_effmodels.cli import main; main()", "serve-tail", str(folder)]
    process = subprocess.Popen([*command, "--port", str(port), *more], stdout=subprocess.DEVNULL)
    while process.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/health", timeout=1)
            return process
        except OSError:
            time.sleep(0.1)
    raise SystemExit(f"{folder}: the service has ended with {process.returncode}")


@contextmanager
def serving(*started: subprocess.Popen):
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def load(output: Path, arguments) -> dict:
    torch.manual_seed(0)
    config = ResNetConfig(hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic", image_size=64)
    model = ResNetForImageClassification(config).eval()
    head, tail = split(model, "stages.2")
    tail.save_pretrained(output / "tail")
    images = [torch.randn(1, 3, 64, 64) for _ in range(8)]
    with torch.no_grad():
        expected = [model(image).logits for image in images]
    running, answered, repeated, lock = [start(output / "tail", 8123)], 0, 0, threading.Lock()

    def work(number: int) -> int:
        nonlocal answered, repeated
        client, right = SplitClassifier(head, "http://127.0.0.1:8123", patience=120), 0
        for _ in range(200):
            found = client.logits(images[number])
            right += torch.equal(found.logits, expected[number])
            with lock:
                answered, repeated = answered + 1, repeated + (found.attempts > 1)
                if answered == 800:
                    running[0].kill()
                    running[0].wait()
                    threading.Thread(target=lambda: running.append(start(output / "tail", 8123))).start()
        return right

    with ThreadPoolExecutor(8) as pool:
        right = sum(pool.map(work, range(8)))
    with serving(*running):
        return {"answers": answered, "equal to the whole": right, "repeated requests": repeated}


def digits(model, name: str, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The first test digits, and their numbers."""
    rows, processor = read_digits()["test"][:count], AutoImageProcessor.from_pretrained(name)
    pixels = processor([row["image"].convert("RGB") for row in rows], return_tensors="pt")["pixel_values"]
    return pixels, torch.tensor([model.config.label2id[row["label"]] for row in rows])


def parts(output: Path, arguments) -> dict:
    model = AutoModelForImageClassification.from_pretrained(arguments.model).eval()
    pixels, labels = digits(model, arguments.model, 359)
    count = len(model.config.parts)
    for number in range(count):
        take_part(model, number).save_pretrained(output / f"device{number}")
    running = [start(output / f"device{n}", 8130 + n, "--images", "--max-images", "400") for n in range(count)]
    urls = [f"http://127.0.0.1:{8130 + n}" for n in range(count)]
    with serving(*running):
        answer = FusedClassifier(model, urls).logits(pixels)
        with torch.no_grad():
            here = model(pixels).logits
        running[0].kill()
        running[0].wait()
        lacking = FusedClassifier(model, urls, missing="zeros", patience=0.5).logits(pixels)
    share = lambda logits: float((logits.argmax(-1) == labels).float().mean())  # noqa: E731
    return {
        "images": len(labels),
        "largest difference to the whole": float((answer.logits - here).abs().max()),
        "right": share(answer.logits),
        "right without the first part": share(lacking.logits),
        "bytes of an image, to and from all parts": [
            answer.bytes_sent / len(labels),
            answer.bytes_received / len(labels),
        ],
    }


def drive_cuts(output: Path, arguments) -> dict:
    model = AutoModelForImageClassification.from_pretrained(arguments.model).eval()
    pixels, labels = digits(model, arguments.model, 5 * arguments.tasks)
    size = tuple(pixels.shape[2:])
    costs = measure_split(model, arguments.at, bits=8, image_size=size, device_slowdown=arguments.slowdown, repeats=9)
    profile = profile_of(costs, 2.5)
    settings = OffloadingSettings(tasks=arguments.tasks, slot=10 * profile.seconds[-1], bandwidth=arguments.bandwidth)
    environment = OffloadingEnvironment(profile, settings)
    agents = train(environment, OffloadingTraining(steps=arguments.steps, learning_rate=1e-3, seed=0))
    model.save_pretrained(output / "whole")
    running, points = [start(output / "whole", 8140, "--images")], []
    points.append(split_point(SplitClassifier(whole(model)[0], "http://127.0.0.1:8140")))
    for number, cost in enumerate(costs[1:-1]):
        head, tail = split(model, cost.at, codec=UniformCodec(8), image_size=size)
        tail.save_pretrained(output / f"tail{number}")
        running.append(start(output / f"tail{number}", 8141 + number))
        points.append(split_point(SplitClassifier(head, f"http://127.0.0.1:{8141 + number}")))
    images = list(pixels.unflatten(0, (5, -1)))
    with serving(*running):
        driven = drive(agents.decide, environment, [*points, local_point(model)], images)
    said = torch.cat(driven.logits).argmax(-1)
    with torch.no_grad():
        alone = model(pixels).logits.argmax(-1)
    names = [cost.at for cost in costs]
    compared = {name: measure(environment, decide) for name, decide in baselines(environment).items()}
    return {
        "points": {name: sum(taken.count(n) for taken in driven.points) for n, name in enumerate(names)},
        "right": float((said == labels).float().mean()),
        "right, the whole alone": float((alone == labels).float().mean()),
        "bytes really sent": driven.bytes_sent,
        "simulated milliseconds and millijoules of a task": {
            "agents": [1e3 * driven.seconds, 1e3 * driven.joules],
            **{name: [1e3 * row["seconds"], 1e3 * row["joules"]] for name, row in compared.items()},
        },
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["load", "parts", "drive"])
    parser.add_argument("output", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--at", nargs="*", default=["ghostnetv3.stages.0", "ghostnetv3.stages.1"])
    parser.add_argument("--tasks", type=int, default=70, help="digits of each of five devices")
    parser.add_argument("--steps", type=int, default=20_480)
    parser.add_argument("--slowdown", type=float, default=20.0)
    parser.add_argument("--bandwidth", type=float, default=1e6)
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    found = {"load": load, "parts": parts, "drive": drive_cuts}[given.what](given.output, given)
    (given.output / f"{given.what}.json").write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))
