"""Graphs of our own making, several of one model or with more than the model in them, on ONNX Runtime and OpenVINO."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import torch

BACKENDS = ("onnx", "openvino")
PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("onnx", "onnxscript", "openvino")}


def check_packages(backend: str) -> None:
    """ImportError unless what a backend needs is installed."""
    missing = [package for package in PACKAGES[backend] if importlib.util.find_spec(package) is None]
    if missing:
        raise ImportError(f"backend {backend!r} needs {' and '.join(missing)}: pip install {' '.join(missing)}")


def to_openvino(folder: Path, name: str) -> None:
    """Turn the graph `name`.onnx of a folder into `name`.xml and `name`.bin, in float32."""
    import openvino

    openvino.save_model(
        openvino.convert_model(folder / f"{name}.onnx"), folder / f"{name}.xml", compress_to_fp16=False
    )
    for file in (folder / f"{name}.onnx", folder / f"{name}.onnx.data"):
        file.unlink(missing_ok=True)


def load_graph(folder: Path, name: str, backend: str) -> Callable[..., list[torch.Tensor]]:
    """A function of the graph's inputs by name that gives its outputs; threads may share it."""
    return (_openvino if backend == "openvino" else _onnx)(folder, name)


def _onnx(folder: Path, name: str):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    file = str(folder / f"{name}.onnx")
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])

    def run(**inputs):
        outputs = session.run(None, {key: value.contiguous().numpy() for key, value in inputs.items()})
        return [torch.from_numpy(output) for output in outputs]

    return run


def _openvino(folder: Path, name: str):
    import openvino

    compiled = openvino.Core().compile_model(folder / f"{name}.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(**inputs):
        results = compiled.create_infer_request().infer({k: v.contiguous().numpy() for k, v in inputs.items()})
        return [torch.from_numpy(results[output].copy()) for output in compiled.outputs]

    return run
