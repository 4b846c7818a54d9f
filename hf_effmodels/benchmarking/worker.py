"""One row of a benchmark in a process of its own: `python -m hf_effmodels.benchmarking.worker '{"preset": ...}'`.

It builds and warms up, prints a line that describes itself, and then does one timed run for each line it reads. A
process of its own gives every row its own threads, memory and allocator.
"""

import json
import os
import resource
import sys
import tempfile
import time

#: A timed run repeats short calls until it takes about this many seconds.
LEAST_SECONDS = 0.1


def main(row: dict) -> None:
    import torch

    torch.set_num_threads(row["threads"])
    torch.manual_seed(0)
    from .peers import PEERS

    training = row["mode"] == "train"
    model = PEERS[row["peer"]](row["preset"], row["folded"])
    if training and row["peer"] == "ours":
        # As scripts/train.py trains it on a CPU; the peers are trained in the layout they come in.
        model = model.to(memory_format=torch.channels_last)
    size = row["image_size"]
    pixels = torch.randn(row["batch"], row["channels"], size, size)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    call = _training_step(model, pixels) if training else _inference(model, pixels, row)
    for _ in range(2):
        call()
    began = time.perf_counter()
    call()
    repeats = max(1, round(LEAST_SECONDS / max(time.perf_counter() - began, 1e-6)))
    _say({"parameters": parameters, "repeats": repeats})
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(repeats):
            call()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        _say({"seconds": wall / repeats, "cpu_seconds": cpu / repeats, "peak_bytes": peak})


def _say(facts: dict) -> None:
    sys.__stdout__.write(json.dumps(facts) + "\n")
    sys.__stdout__.flush()


def _inference(model, pixels, row: dict):
    import torch

    if row["backend"] in ("onnx", "openvino", "openvino-default"):
        model = _exported(model, pixels, row)
        return lambda: model(pixel_values=pixels)
    if row["backend"] == "compile":
        model = torch.compile(model)

    def call():
        with torch.inference_mode():
            model(pixels)

    return call


def _exported(model, pixels, row: dict):
    from ..edge import export, load

    if row["peer"] != "ours":
        raise ValueError(f"backends: {row['backend']} runs our models, not {row['peer']}'s.")
    with tempfile.TemporaryDirectory() as folder:
        folder = os.path.join(folder, "program")
        export(model, folder, row["backend"].partition("-")[0], image_size=row["image_size"])
        if row["backend"] == "onnx":
            import onnxruntime

            session = onnxruntime.SessionOptions()
            session.intra_op_num_threads = row["threads"]
            return load(folder, session_options=session)
        config = {"INFERENCE_NUM_THREADS": row["threads"]}
        if row["backend"] == "openvino":
            config["INFERENCE_PRECISION_HINT"] = "f32"
        return load(folder, device="cpu", config=config)


def _training_step(model, pixels):
    import torch

    optimizer = torch.optim.SGD(model.train().parameters(), lr=1e-3, momentum=0.9)
    labels = torch.arange(len(pixels)) % 10

    def call():
        optimizer.zero_grad()
        output = model(pixels)
        torch.nn.functional.cross_entropy(getattr(output, "logits", output), labels).backward()
        optimizer.step()

    return call


if __name__ == "__main__":
    row = json.loads(sys.argv[1])
    # Standard output speaks to the parent: what libraries print goes to standard error.
    sys.stdout = sys.stderr
    try:
        main(row)
    except (ValueError, OSError, ImportError) as error:
        _say({"error": str(error)})
        sys.exit(2)
