"""A model of CLIP's kind in two graphs, for ONNX Runtime and OpenVINO: images and texts go into the common space on
their own, so that either half runs alone and what it gives can be kept.

`export_two_towers` writes them, `load_two_towers` runs them, alone or together.
"""

import copy
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForZeroShotImageClassification, AutoProcessor
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.clip.modeling_clip import CLIPOutput

from ._files import check_folder, whole_folder, write_json, write_text
from ._image_size import blaming_image_size
from .edge_files import summed_up
from .edge_graphs import BACKENDS, check_packages, load_graph, to_openvino
from .edge_sizes import of_one_size
from .hub.ids import reading
from .hub.made_of import with_origin
from .hub.whole import load_whole
from .hub.wrappers import unwrap, unwrap_parts

FACTS, GRAPHS = "two_towers.json", ("image", "text")
#: So near are the unit vectors of graph and model; the largest difference of any number.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class TwoTowerReport:
    """What was exported.

    Attributes:
        folder: where it is: `image.onnx` and `text.onnx`, or `.xml` and `.bin` of each.
        format: "onnx" or "openvino".
        model: class of the exported model.
        image_size: (height, width) of the images in pixels. max_length: tokens of the longest text.
        folded: the image tower was folded first.
        difference: largest difference of a number of the graphs' unit vectors from PyTorch's.
        batches: the batch sizes that they were compared at.
        bytes: of the graphs of images and of texts.
        warnings: of the exporters, as far as they say something of the model.
    """

    folder: str
    format: str
    model: str
    image_size: tuple[int, int]
    max_length: int
    folded: bool
    difference: float
    batches: tuple[int, ...]
    bytes: tuple[int, int]
    warnings: tuple[str, ...] = ()


class _Images(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pixel_values):
        return F.normalize(self.model.get_image_features(pixel_values=pixel_values).pooler_output, dim=-1)


class _Texts(nn.Module):
    """Without a mask: what fills a text up stands behind its end, which looks back alone."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids):
        return F.normalize(self.model.get_text_features(input_ids=input_ids).pooler_output, dim=-1)


def is_two_towers(config) -> bool:
    """Whether a configuration is of a model with CLIP's two towers, `get_image_features` and `get_text_features`."""
    from transformers import MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING

    model = MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING.get(type(config), None)
    return model is not None and hasattr(model, "get_image_features") and config.model_type in ("clip", "light_clip")


def load_source(source, processor=None):
    """The model that a folder or an id of the Hub names (or that it is), and its processor if there is one."""
    if not isinstance(source, str | Path):
        return unwrap(source), processor
    model = load_whole(AutoModelForZeroShotImageClassification, "source", str(source))
    with reading("source", str(source)):
        return model, processor or AutoProcessor.from_pretrained(source)


def export_two_towers(
    source,
    folder: str | Path,
    format: str = "onnx",
    *,
    processor=None,
    image_size: int | tuple[int, int] | None = None,
    tolerance: float = TOLERANCE,
) -> TwoTowerReport:
    """Write the two graphs of a model of CLIP's kind, and check them against it. Both give unit vectors.

    Batches are of any size, texts of any length up to the text tower's; images have one size.

    Args:
        source: a LightCLIP or a CLIP of transformers (left as it is: a copy is folded), a folder or an id of the Hub.
        folder: where to write; must not exist or be empty.
        format: "onnx" or "openvino".
        processor: with image processor and tokenizer, to put beside the graphs; by default the source's own.
        image_size: side, or (height, width), of the images in pixels; by default what the processor makes them, or
            without one the image tower's.
        tolerance: largest `difference` (see `TwoTowerReport`) that is accepted.

    Raises:
        ValueError: another format, a model of another kind, a processor that keeps the shapes of pictures without an
            `image_size`, or graphs that give other vectors; nothing is written.
        ImportError: the extra `edge` is not installed.
        FileExistsError: `folder` has something in it.
    """
    if format not in BACKENDS:
        raise ValueError(f"format: got {format!r}, accepted of two towers are {', '.join(map(repr, BACKENDS))}.")
    check_packages(format)
    folder = Path(folder)
    check_folder(folder)
    model, processor = load_source(source, processor)
    if not is_two_towers(getattr(model, "config", None)):
        raise ValueError(f"source: got {type(model).__name__}, accepted are LightCLIP and CLIP of transformers.")
    model = unwrap_parts(copy.deepcopy(model)).eval().float().cpu()
    if hasattr(model, "reparameterize"):
        model.reparameterize()
    model.to(memory_format=torch.contiguous_format)
    config = model.config
    size = image_size or getattr(config, "image_size", None) or config.vision_config.image_size
    size = (size, size) if isinstance(size, int) else tuple(size)
    if processor is not None:
        processor, asked = copy.deepcopy(processor), None if image_size is None else size
        channels = getattr(config.vision_config, "num_channels", 3)
        size, processor.image_processor = of_one_size(model, processor.image_processor, asked, channels)
    halves = {"image": _Images(model).eval(), "text": _Texts(model).eval()}
    inputs = _inputs(config, size)
    with blaming_image_size(size, is_asked_for=image_size is not None), torch.no_grad():
        halves["image"](inputs["image"][:1])
    batch = torch.export.Dim("batch", min=1, max=4096)
    length = torch.export.Dim("length", min=2, max=config.text_config.max_position_embeddings)
    shapes = {"image": ({0: batch},), "text": ({0: batch, 1: length},)}
    with whole_folder(folder) as new:
        with summed_up() as said:
            for name, half in halves.items():
                file = new / f"{name}.onnx"
                _write(half, inputs[name], file, shapes[name], "pixel_values" if name == "image" else "input_ids")
                if format == "openvino":
                    to_openvino(new, name)
        config.architectures = [getattr(type(model), "__name__", "")]
        config.save_pretrained(new)
        if processor is not None:
            processor.save_pretrained(new)
        facts = {"format": format, "image_size": list(size), "logit_scale": model.logit_scale.exp().item()}
        write_json(new / FACTS, facts)
        difference = _difference(load_two_towers(new), halves, inputs)
        if not difference <= tolerance:
            raise ValueError(
                f"{format}: the graphs' unit vectors differ from PyTorch's by {difference:.1e}, accepted is "
                f"tolerance={tolerance:g}; nothing was written."
            )
        sizes = tuple(sum(path.stat().st_size for path in new.glob(f"{name}.*")) for name in GRAPHS)
        readme = _readme(type(model).__name__, format, size, difference, processor is not None)
        write_text(new / "README.md", with_origin(readme, model))
    return TwoTowerReport(
        folder=str(folder),
        format=format,
        model=type(model).__name__,
        image_size=size,
        max_length=config.text_config.max_position_embeddings,
        folded=bool(getattr(config, "reparameterized", False)),
        difference=difference,
        batches=(1, 3),
        bytes=sizes,
        warnings=tuple(said),
    )


def _inputs(config, size: tuple[int, int]) -> dict[str, torch.Tensor]:
    """Three random images, and three random texts with their ends at other places."""
    generator = torch.Generator().manual_seed(0)
    channels, text = getattr(config.vision_config, "num_channels", 3), config.text_config
    longest = text.max_position_embeddings
    ids = torch.randint(0, text.vocab_size, (3, longest), generator=generator)
    end = text.eos_token_id if text.eos_token_id != 2 else text.vocab_size - 1  # the largest is taken for the end
    ids[ids == end] = 0
    for row, place in enumerate((longest - 1, longest // 2, 1)):
        ids[row, place:] = end
    return {"image": torch.randn(3, channels, *size, generator=generator), "text": ids}


def _write(half: nn.Module, example: torch.Tensor, file: Path, shapes, name: str) -> None:
    with torch.no_grad():
        program = torch.onnx.export(
            half,
            (example[:2],),
            input_names=[name],
            output_names=["embeds"],
            dynamic_shapes=shapes,
            dynamo=True,
            verbose=False,
        )
    program.save(file)


@torch.no_grad()
def _difference(exported: "ExportedTwoTowers", halves: dict[str, nn.Module], inputs: dict[str, torch.Tensor]) -> float:
    differences = []
    for count in (1, 3):
        for name, given in (("image", inputs["image"]), ("text", inputs["text"]), ("text", inputs["text"][:, -7:])):
            expected, got = halves[name](given[:count]), exported.vectors(name, given[:count])
            if not (expected.isfinite().all() and got.isfinite().all()):
                raise ValueError(f"source: the {name} half gives what is no number for random input.")
            differences.append((got - expected).abs().max().item())
    return max(differences)


def _readme(model: str, format: str, size: tuple[int, int], difference: float, has_processor: bool) -> str:
    predict, code = (
        "",
        """from hf_effmodels.edge_two_towers import load_two_towers

model = load_two_towers(".")
""",
    )
    if has_processor:
        predict = "In this folder, with a picture of yours as `photo.jpg`:\n\n"
        predict += "```bash\nhf-effmodels predict . photo.jpg --labels cat dog\n```\n\n"
        code = """from hf_effmodels.edge_two_towers import load_two_towers
from PIL import Image
from transformers import AutoProcessor

model, processor = load_two_towers("."), AutoProcessor.from_pretrained(".")
image = Image.open("photo.jpg").convert("RGB")  # a picture of yours
inputs = processor(images=image, text=["a cat", "a dog"], padding=True, return_tensors="pt")
print(model(**inputs).logits_per_image.softmax(-1))
"""
    return f"""# {model}, exported in two halves

Two {format} graphs: `image` of images of {size[0]} x {size[1]} pixels, `text` of texts, batches of any size.
Both give unit vectors, whose cosines say how well images and texts go together. They differ from PyTorch's by
{difference:.1e} at most.

{predict}```python
{code}```
"""


class ExportedTwoTowers:
    """Two graphs that answer as the model they were made of.

    Attributes:
        config: of the model. device, dtype: of the tensors it takes and gives: the CPU's, float32.
        logit_scale: factor of the cosines.
    """

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, folder: str | Path):
        folder = Path(folder)
        if not (folder / FACTS).is_file():
            raise ValueError(f"folder: {folder} was not written by export_two_towers: it has no {FACTS}.")
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        self.config = AutoConfig.from_pretrained(folder)
        self.image_size, self.logit_scale = tuple(facts["image_size"]), facts["logit_scale"]
        self._graphs = {name: load_graph(folder, name, facts["format"]) for name in GRAPHS}

    def vectors(self, half: str, values: torch.Tensor) -> torch.Tensor:
        """(batch, width) unit vectors.

        Args:
            half: "image" or "text".
            values: images (batch, channels, height, width), or ids (batch, tokens).
        """
        given = {"pixel_values": values.float()} if half == "image" else {"input_ids": values.long()}
        return self._graphs[half](**given)[0]

    def get_image_features(self, pixel_values: torch.Tensor, **kwargs) -> BaseModelOutputWithPooling:
        """As of the model; `pooler_output` are unit vectors.

        Raises:
            ValueError: images of another size.
        """
        if tuple(pixel_values.shape[-2:]) != self.image_size:
            raise ValueError(
                f"pixel_values: got images of {tuple(pixel_values.shape[-2:])} pixels, exported for {self.image_size}."
            )
        return BaseModelOutputWithPooling(pooler_output=self.vectors("image", pixel_values))

    def get_text_features(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs
    ) -> BaseModelOutputWithPooling:
        """As of the model; `pooler_output` are unit vectors.

        Raises:
            ValueError: texts that are filled up in front.
        """
        if attention_mask is not None and (attention_mask[:, 1:] > attention_mask[:, :-1]).any():
            raise ValueError("attention_mask: got texts that are filled up in front, accepted are those behind.")
        return BaseModelOutputWithPooling(pooler_output=self.vectors("text", input_ids))

    def __call__(self, input_ids=None, pixel_values=None, attention_mask=None, **kwargs) -> CLIPOutput:
        """Images, texts and the scaled cosines of all with all, as of `CLIPModel`."""
        images = self.get_image_features(pixel_values).pooler_output
        texts = self.get_text_features(input_ids, attention_mask).pooler_output
        logits = self.logit_scale * images @ texts.T
        return CLIPOutput(logits_per_image=logits, logits_per_text=logits.T, image_embeds=images, text_embeds=texts)


def load_two_towers(folder: str | Path) -> ExportedTwoTowers:
    """The two graphs of a folder that `export_two_towers` wrote, ready to run; threads may share them."""
    return ExportedTwoTowers(folder)
