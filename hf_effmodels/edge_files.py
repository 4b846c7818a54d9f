"""What lies beside an exported program, and what its exporters say on their way."""

import logging
import re
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

logger = logging.getLogger(__name__)

#: Above so many bytes a program cannot be one file (protobuf's limit is 2 GiB).
_ONE_FILE = 1_800_000_000
#: Libraries that warn while a model is exported.
_LIBRARIES = ("torch", "transformers", "onnxscript")
#: What they say whatever is exported, of themselves: which versions they were tried with (every program is compared
#: with PyTorch here), and operators that nobody has asked for.
_OF_THEMSELVES = re.compile(
    r"is experimental and patches|^torchvision is not installed|^Failed to infer the signature for function"
    r"|^`dynamic=True` with no explicit|^Skipping constant folding"
)
#: In READMEs: how to run a program on a file.
_PREDICT = "```bash\nhf-effmodels predict . photo.jpg\n```"
#: Warnings for those who write the libraries.
_FOR_DEVELOPERS = (DeprecationWarning, PendingDeprecationWarning, FutureWarning)


class _Count(logging.Filter):
    """Counts warnings, and keeps them back."""

    def __init__(self):
        super().__init__()
        self.messages: list[str] = []
        self._last: logging.LogRecord | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno > logging.WARNING or record.name.startswith(__name__.partition(".")[0]):
            return True
        if record.levelno == logging.WARNING and record is not self._last:  # it comes to several handlers
            self.messages.append(record.getMessage())
            self._last = record
        return record.levelno < logging.WARNING


@contextmanager
def summed_up() -> Iterator[list[str]]:
    """Within it warnings of libraries are kept back. Gives those that say something of what is exported, each once;
    they are there at the end, and told in one line (level INFO)."""
    count, told = _Count(), []
    names = [name for name in logging.root.manager.loggerDict if name.partition(".")[0] in _LIBRARIES]
    loggers = [logging.getLogger(), *map(logging.getLogger, names)]
    # Some loggers are called after files: what they say comes by at the handler of last resort, if at any.
    places = [*loggers, *(handler for one in loggers for handler in one.handlers), logging.lastResort]
    for place in places:
        place.addFilter(count)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default")
            yield told
    finally:
        for place in places:
            place.removeFilter(count)
        of_python = [str(one.message) for one in caught if not issubclass(one.category, _FOR_DEVELOPERS)]
        said = (" ".join(message.split()) for message in (*count.messages, *of_python))
        told += dict.fromkeys(message[:200] for message in said if not _OF_THEMSELVES.search(message))
        if told:
            more = f" (and {len(told) - 1} more)" if len(told) > 1 else ""
            logger.info("the exporters warn: %s%s", told[0], more)


def as_one_file(folder: Path) -> None:
    """The weights of an ONNX program into its file, where that is possible: it then runs wherever it is copied.

    transformers' loader looks for `model.onnx.data`, too: it stays, and is empty.
    """
    import onnx

    program, weights = folder / "model.onnx", folder / "model.onnx.data"
    if not weights.is_file() or weights.stat().st_size + program.stat().st_size > _ONE_FILE:
        return
    whole = onnx.load(program)
    onnx.save(whole, program)
    weights.write_bytes(b"")


def halve(folder: Path, format: str) -> None:
    """The weights of a program in float16; images and outputs stay in float32.

    ONNX programs compute in it, too, where the device has the operators; OpenVINO as `edge.load` asks it to.
    """
    if format == "openvino":
        import openvino

        [program] = folder.glob("*.xml")
        with tempfile.TemporaryDirectory(dir=folder) as beside:  # what is read is being used
            small = Path(beside, program.name)
            openvino.save_model(openvino.Core().read_model(program), small, compress_to_fp16=True)
            for path in Path(beside).iterdir():
                path.replace(folder / path.name)
        return
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    program, weights = folder / "model.onnx", folder / "model.onnx.data"
    # The types are in the graph already, and the inference does not know all operators.
    onnx.save(convert_float_to_float16(onnx.load(program), keep_io_types=True, disable_shape_infer=True), program)
    weights.write_bytes(b"")


def size_of(folder: Path) -> int:
    """Bytes of the program: all files but the settings."""
    return sum(path.stat().st_size for path in folder.iterdir() if path.suffix not in (".json", ".md"))


#: Kind of model -> what is printed of its outputs.
_ANSWERS = {
    "image-classification": "print(program.config.id2label[outputs.logits.argmax(-1).item()])",
    "object-detection": "sides = [image.size[::-1]]\n"
    "print(processor.post_process_object_detection(outputs, threshold=0.4, target_sizes=sides)[0])",
    "image-segmentation": "sides = [image.size[::-1]]\n"
    "print(processor.post_process_semantic_segmentation(outputs, target_sizes=sides)[0])",
}


def write_readme(
    folder: Path,
    model: str,
    format: str,
    precision: str,
    size: tuple[int, int],
    checked: str,
    has_processor: bool,
    *,
    kind: str = "image-classification",
    channels: int = 3,
    made_of: str = "",
) -> None:
    """What the folder is, and how to run it: on files where an image processor lies beside the program; `made_of` is
    a section of the model that it was made of."""
    predict = f"{_PREDICT}\n\n" if has_processor else ""
    load = 'program = edge.load(".")  # or transformers.exporters.ExportedModel.from_pretrained(".")'
    prepared = " `preprocessor_config.json` how images are prepared," if has_processor else ""
    if has_processor:
        mode = "L" if channels == 1 else "RGB"
        code = f"""from hf_effmodels import edge
from PIL import Image
from transformers import AutoImageProcessor

{load}
processor = AutoImageProcessor.from_pretrained(".")
image = Image.open("photo.jpg").convert("{mode}")  # a picture of yours
outputs = program(**processor(images=image, return_tensors="pt"))
{_ANSWERS[kind]}
"""
    else:
        code = f"""import torch
from hf_effmodels import edge

{load}
print(program(pixel_values=torch.rand(1, {channels}, {size[0]}, {size[1]})))  # prepared images
"""
    text = f"""# {model}, exported

An {format} program ({precision}) of images of {size[0]} x {size[1]} pixels, of any batch size where the format can.
{checked}

In this folder, with a picture of yours as `photo.jpg`:

{predict}```python
{code}```

`export.json` says what was exported with which versions,{prepared}
`config.json` what the classes are called.
"""
    if not has_processor:
        text = text.replace("In this folder, with a picture of yours as `photo.jpg`:\n\n", "In this folder:\n\n")
    (folder / "README.md").write_text(f"{text}\n{made_of}" if made_of else text, encoding="utf-8")
