"""What a model can be exported to, and in which numbers; imports no torch: wrong words are told at once."""

import importlib.util
from dataclasses import dataclass


@dataclass(frozen=True)
class Format:
    """An export format: transformers' exporter and its configuration, and the packages both need."""

    exporter: str
    config: str
    packages: tuple[str, ...]
    options: dict


FORMATS = {
    "onnx": Format("OnnxExporter", "OnnxConfig", ("onnx", "onnxscript", "onnxruntime"), {}),
    # Left to itself OpenVINO computes in bfloat16 where the CPU can: outputs are then off by about a hundredth.
    "openvino": Format(
        "OpenVINOExporter", "OpenVINOConfig", ("openvino",), {"config": {"INFERENCE_PRECISION_HINT": "f32"}}
    ),
    "executorch": Format("ExecutorchExporter", "ExecutorchConfig", ("executorch",), {}),
}

#: Precision -> the formats that have it. None keeps weights in bfloat16: ONNX Runtime computes in it on no CPU, and
#: OpenVINO where a CPU can, of any program (see `edge.load`).
PRECISIONS = {
    "float32": ("onnx", "openvino", "executorch"),
    "float16": ("onnx", "openvino"),
    "int8": ("onnx",),
    "int4": ("onnx",),  # of language models
}
#: Shorter names of precisions.
SHORT = {"fp32": "float32", "fp16": "float16"}
#: Largest difference of the outputs that is accepted (of logits in their standard deviation). Half precision keeps 11
#: bits: some units of the last place for each of the layers. Integers are judged by their classes.
TOLERANCES = {"float32": 1e-4, "float16": 2e-2}
#: The smallest share of answers that must stay the same, of integers.
AGREEMENTS = {"int8": 0.9, "int4": 0.75}


def check_format(name: str) -> Format:
    """The format; ValueError for an unknown one, ImportError where its packages are not installed."""
    if name not in FORMATS:
        raise ValueError(f"format: got {name!r}, accepted are {', '.join(map(repr, FORMATS))}.")
    missing = [package for package in FORMATS[name].packages if importlib.util.find_spec(package) is None]
    if missing:
        raise ImportError(f"format {name!r} needs {' and '.join(missing)}: pip install {' '.join(missing)}")
    return FORMATS[name]


def check_precision(name: str, format: str) -> str:
    """The precision's full name; ValueError for an unknown one, or one that the format does not have."""
    full = SHORT.get(name, name)
    if full not in PRECISIONS:
        accepted = ", ".join(map(repr, (*PRECISIONS, *SHORT)))
        raise ValueError(f"precision: got {name!r}, accepted are {accepted}.")
    if format not in PRECISIONS[full]:
        accepted = ", ".join(one for one, formats in PRECISIONS.items() if format in formats)
        raise ValueError(f"precision: got {name!r}, accepted with format={format!r} are {accepted}.")
    return full
