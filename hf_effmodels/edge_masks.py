"""A promptable model in two graphs, for ONNX Runtime and OpenVINO: the encoder once, prompts and decoder many times.

`export_promptable` writes them, `load_promptable` runs them together: what it gives goes into
`hf_effmodels.pipelines.MaskPredictor` and `pipeline("hierarchical-mask-generation")` in the place of the model.
"""

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn
from transformers import (
    MODEL_FOR_MASK_GENERATION_MAPPING,
    AutoConfig,
    AutoModelForMaskGeneration,
    AutoProcessor,
    PreTrainedConfig,
    PreTrainedModel,
)

from ._files import check_folder, whole_folder, write_json, write_text
from ._places import first_line, reading
from .edge_files import summed_up
from .edge_graphs import BACKENDS, check_packages, load_graph, to_openvino
from .hub.made_of import with_origin
from .hub.whole import load_whole

GRAPHS, FACTS = ("encoder", "decoder"), "promptable.json"
#: Labels of points in the decoder's graph: none, outside, inside, and the two corners of a box.
NO_POINT, TOP_LEFT, BOTTOM_RIGHT = -1, 2, 3
#: The graphs must give the model's own masks and scores to this share of their deviation.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class PromptableReport:
    """What was exported.

    Attributes:
        folder: where it is.
        format: "onnx" or "openvino".
        model: class of the exported model.
        image_size: side of the square that images are made to, in pixels.
        folded: train-time branches and batch norms were folded first.
        difference: largest difference of masks and scores from PyTorch's, over their standard deviation: of points, of
            boxes, and of points with a mask.
        bytes: of the encoder, and of prompts with decoder.
        warnings: of the exporters, as far as they say something of the model.
    """

    folder: str
    format: str
    model: str
    image_size: int
    folded: bool
    difference: float
    bytes: tuple[int, int]
    warnings: tuple[str, ...] = ()


class PromptDecoder(nn.Module):
    """Prompts and decoder of a SAM as one graph.

    Inputs: image_embeddings (1, channels, side, side); input_points (1, prompts, points, 2), in pixels of what the
    model sees, boxes as two points; input_labels (1, prompts, points), see `NO_POINT`; input_masks, logits
    (1, 1, 4 side, 4 side), and has_mask (1,), 0 or 1.
    """

    def __init__(self, model, multimask_output: bool = True):
        super().__init__()
        self.prompt_encoder, self.mask_decoder = model.prompt_encoder, model.mask_decoder
        self.multimask_output = multimask_output
        self.register_buffer("positions", model.get_image_wide_positional_embeddings().detach().clone())

    def forward(self, image_embeddings, input_points, input_labels, input_masks, has_mask):
        prompts = self.prompt_encoder
        side = (prompts.input_image_size, prompts.input_image_size)
        sparse = prompts.shared_embedding(input_points + 0.5, side)
        labels = input_labels[..., None]
        sparse = torch.where(labels == NO_POINT, prompts.not_a_point_embed.weight, sparse)
        for label, embedding in enumerate(prompts.point_embed):
            sparse = sparse + (labels == label) * embedding.weight
        plain = prompts.no_mask_embed.weight.reshape(1, -1, 1, 1)
        dense = torch.where(has_mask[:, None, None, None] > 0, prompts.mask_embed(input_masks), plain)
        return self.mask_decoder(
            image_embeddings=image_embeddings,
            image_positional_embeddings=self.positions,
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=self.multimask_output,
        )


class _Encoder(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.encoder = model.vision_encoder

    def forward(self, pixel_values):
        return self.encoder(pixel_values)[0]


#: Models whose encoder gives one map of features, and whose prompts and decoder are SAM's: SAM-HQ's decoder asks for
#: features of earlier blocks, SAM 2's for finer maps.
_TYPES = ("sam", "tinysam")


def is_promptable(config) -> bool:
    """Whether a configuration is of a model that finds masks by prompts, be it one that is exported or not."""
    return type(config) in MODEL_FOR_MASK_GENERATION_MAPPING


def _check_type(argument: str, config) -> None:
    kind = getattr(config, "model_type", type(config).__name__)
    if kind not in _TYPES:
        raise ValueError(f"{argument}: got {kind}, accepted for two graphs are the types {' and '.join(_TYPES)}.")


def check_fits(argument: str, config) -> None:
    """ValueError for a SAM whose parts have other sizes than one another: libraries read it, and it computes nothing.
    Of other models nothing is said; TinySAM's configuration looks at its own."""
    if config.model_type != "sam":
        return
    vision, prompts, decoder = config.vision_config, config.prompt_encoder_config, config.mask_decoder_config
    for name, got, expected in (
        ("prompt_encoder_config.image_size", prompts.image_size, vision.image_size),
        (
            "prompt_encoder_config.image_embedding_size",
            prompts.image_embedding_size,
            vision.image_size // vision.patch_size,
        ),
        ("prompt_encoder_config.hidden_size", prompts.hidden_size, vision.output_channels),
        ("mask_decoder_config.hidden_size", decoder.hidden_size, vision.output_channels),
        ("vision_config.num_pos_feats twice", 2 * vision.num_pos_feats, vision.output_channels),
    ):
        if got != expected:
            raise ValueError(f"{argument}: {name}: got {got}, the image encoder has {expected}.")


def load_source(source: str | Path) -> tuple[PreTrainedModel, object]:
    """The model that a folder or an id of the Hub names, and its processor; ValueError for other types than SAM's."""
    with reading("source", str(source)):
        config = AutoConfig.from_pretrained(source)
    _check_type("source", config)
    check_fits("source", config)
    model = load_whole(AutoModelForMaskGeneration, "source", str(source), dtype=torch.float32).eval()
    with reading("source", str(source)):
        return model, AutoProcessor.from_pretrained(source)


def export_promptable(
    model: PreTrainedModel,
    folder: str | Path,
    backend: str = "onnx",
    *,
    multimask_output: bool = True,
    processor=None,
    tolerance: float = TOLERANCE,
) -> PromptableReport:
    """Write the two graphs of a SAM (transformers' or TinySAM), and check them against it.

    Args:
        model: in evaluation mode, float32, on the CPU; left as it is: of a TinySAM a copy is folded.
        folder: new or empty: `encoder.onnx` and `decoder.onnx`, or `.xml` and `.bin`, and `promptable.json`.
        backend: "onnx" or "openvino".
        multimask_output: several masks for each prompt, or one.
        processor: to put beside the graphs, for `hf-effmodels predict`.
        tolerance: largest `difference` (see `PromptableReport`) that is accepted.

    Raises:
        ValueError: another backend, no SAM, one whose parts do not fit each other, or a graph that gives other masks
            than the model; nothing is written.
        ImportError: the extra `edge` is not installed. FileExistsError: `folder` has something in it.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend: got {backend!r}, accepted are {', '.join(map(repr, BACKENDS))}.")
    check_packages(backend)
    check_folder(folder)
    _check_type("model", getattr(model, "config", model))
    check_fits("model", model.config)
    if model.training:
        raise ValueError("model: it is in training mode; call model.eval() first.")
    if hasattr(model, "reparameterize"):
        model = copy.deepcopy(model).reparameterize()
    side, embedding = model.config.vision_config.image_size, model.config.prompt_encoder_config.image_embedding_size
    channels = model.config.vision_config.num_channels
    decoder = PromptDecoder(model, multimask_output).eval()
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(1, channels, side, side, generator=generator)
    with torch.no_grad():  # before the exporters, which take long
        try:
            model(pixel_values=pixels, input_points=torch.zeros(1, 1, 1, 2))
        except (RuntimeError, ValueError, IndexError) as error:
            raise ValueError(f"model: it makes no masks of random pixels: {first_line(error)}.") from error
        embeddings = _Encoder(model)(pixels)
    prompts = (
        embeddings,
        torch.rand(1, 3, 4, 2, generator=generator) * side,
        torch.tensor([[[1, 0, -1, 1], [2, 3, 1, 0], [1, 1, 0, -1]]]),
        torch.randn(1, 1, 4 * embedding, 4 * embedding, generator=generator),
        torch.tensor([0.0]),
    )
    free = {2: torch.export.Dim("points", min=2), 1: torch.export.Dim("prompts", min=2)}
    shapes = (None, {1: free[1], 2: free[2]}, {1: free[1], 2: free[2]}, None, None)
    names = ["image_embeddings", "input_points", "input_labels", "input_masks", "has_mask"]
    with whole_folder(folder) as new:
        with summed_up() as said:
            encoder = _Encoder(model).eval()
            _write(encoder, (pixels,), new / "encoder.onnx", ["pixel_values"], ["image_embeddings"], None)
            _write(decoder, prompts, new / "decoder.onnx", names, ["pred_masks", "iou_scores"], shapes)
            if backend == "openvino":
                for name in GRAPHS:
                    to_openvino(new, name)
        model.config.architectures = [type(model).__name__]
        model.config.save_pretrained(new)
        if processor is not None:
            processor.save_pretrained(new)
        facts = {"backend": backend, "image_size": side, "embedding_size": embedding, "multimask": multimask_output}
        write_json(new / FACTS, facts)
        difference = _difference(load_promptable(new), model, pixels, prompts, multimask_output)
        if not difference <= tolerance:
            raise ValueError(
                f"{backend}: the graphs' masks or scores differ from PyTorch's by {difference:.1e} of their standard "
                f"deviation, accepted is tolerance={tolerance:g}; nothing was written."
            )
        sizes = tuple(sum(path.stat().st_size for path in new.glob(f"{name}.*")) for name in GRAPHS)
        readme = _readme(type(model).__name__, backend, side, difference, processor is not None)
        write_text(new / "README.md", with_origin(readme, model))
    return PromptableReport(
        folder=str(folder),
        format=backend,
        model=type(model).__name__,
        image_size=side,
        folded=bool(getattr(model.config, "reparameterized", False)),
        difference=difference,
        bytes=sizes,
        warnings=tuple(said),
    )


def _readme(model: str, backend: str, side: int, difference: float, has_processor: bool) -> str:
    predict, code = (
        "",
        """from hf_effmodels.edge_masks import load_promptable

model = load_promptable(".")  # into hf_effmodels.pipelines.MaskPredictor, with the model's processor
""",
    )
    if has_processor:
        predict = "In this folder, with a picture of yours as `photo.jpg`:\n\n"
        predict += "```bash\nhf-effmodels predict . photo.jpg --save drawn\n```\n\n"
        code = """from hf_effmodels.edge_masks import load_promptable
from hf_effmodels.pipelines import MaskPredictor
from PIL import Image
from transformers import AutoProcessor

predictor = MaskPredictor(load_promptable("."), AutoProcessor.from_pretrained("."))
image = predictor.encode(Image.open("photo.jpg").convert("RGB"))  # a picture of yours
print(image.predict(points=[[10, 20]], labels=[1]).best)  # what is at column 10 of row 20
"""
    return f"""# {model}, exported

Two {backend} graphs of a model that finds masks by prompts: `encoder` for images of {side} x {side} pixels, and
`decoder` for any number of prompts with any number of points. Masks and scores differ from PyTorch's by
{difference:.1e} of their standard deviation.

{predict}```python
{code}```
"""


def _write(module, arguments, file: Path, inputs: list[str], outputs: list[str], shapes) -> None:
    with torch.no_grad():
        program = torch.onnx.export(
            module,
            arguments,
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes=shapes,
            dynamo=True,
            verbose=False,
        )
    program.save(file)


@torch.no_grad()
def _difference(exported: "ExportedPromptable", model, pixels, prompts, multimask_output: bool) -> float:
    differences = []
    embeddings = exported.get_image_embeddings(pixels)
    points, labels = prompts[1][:, :2, :2], prompts[2][:, :2, :2].clamp(0, 1)
    mask = prompts[3]
    for arguments in (
        {"input_points": points, "input_labels": labels},
        {"input_boxes": prompts[1][:, :, :2].flatten(2).sort(-1).values},
        {"input_points": points, "input_labels": labels, "input_masks": mask},
    ):
        expected = model(pixel_values=pixels, multimask_output=multimask_output, **arguments)
        got = exported(image_embeddings=embeddings, **arguments)
        for name in ("pred_masks", "iou_scores"):
            ours, theirs = getattr(got, name), getattr(expected, name)
            differences.append((ours - theirs).abs().max() / theirs.std().clamp(min=1e-6))
    return torch.stack(differences).max().item()  # what is no number stays none


def is_exported_promptable(folder: str | Path) -> bool:
    """Whether a folder is one that `export_promptable` has written."""
    return Path(folder, FACTS).is_file()


class ExportedPromptable(PreTrainedModel):
    """Two graphs that answer as the model they were made of.

    Attributes:
        device, dtype: of the tensors it takes and gives: the CPU's, float32.
        image_size: side of the pictures. multimask_output: which masks it gives.
    """

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, folder: str | Path):
        folder = Path(folder)
        if not is_exported_promptable(folder):
            raise ValueError(f"folder: {folder} was not written by export_promptable: it has no {FACTS}.")
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        has_config = (folder / "config.json").is_file()  # what earlier versions wrote has none
        super().__init__(AutoConfig.from_pretrained(folder) if has_config else PreTrainedConfig())
        self.image_size, self.embedding_size = facts["image_size"], facts["embedding_size"]
        self.multimask_output = facts["multimask"]
        self._encoder, self._decoder = (load_graph(folder, name, facts["backend"]) for name in GRAPHS)

    def get_image_embeddings(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Images (1, channels, image_size, image_size) -> embeddings (1, channels, side, side)."""
        return self._encoder(pixel_values=pixel_values.float())[0]

    def forward(
        self,
        *,
        image_embeddings: torch.Tensor,
        input_points: torch.Tensor | None = None,
        input_labels: torch.Tensor | None = None,
        input_boxes: torch.Tensor | None = None,
        input_masks: torch.Tensor | None = None,
        multimask_output: bool | None = None,
    ):
        """`pred_masks` and `iou_scores`, as of the model; see `SamModel.forward`."""
        if multimask_output not in (None, self.multimask_output):
            raise ValueError(
                f"multimask_output: got {multimask_output}, it was exported with {self.multimask_output}."
            )
        if input_points is None and input_boxes is None:
            raise ValueError("input_points: got None, and input_boxes: got None; one of the two is needed.")
        points, labels = [], []
        if input_points is not None:
            points.append(input_points)
            labels.append(torch.ones(input_points.shape[:3]) if input_labels is None else input_labels)
            if input_boxes is None:
                points.append(torch.zeros(*input_points.shape[:2], 1, 2))
                labels.append(torch.full((*input_points.shape[:2], 1), NO_POINT))
        if input_boxes is not None:
            points.append(input_boxes.unflatten(-1, (2, 2)))
            labels.append(torch.tensor([TOP_LEFT, BOTTOM_RIGHT]).expand(*input_boxes.shape[:2], 2))
        points = torch.cat([part.float() for part in points], dim=2)
        labels = torch.cat([part.long() for part in labels], dim=2)
        count, side = points.shape[1], 4 * self.embedding_size
        if count == 1:  # the graph is for two prompts and more
            points, labels = points.repeat(1, 2, 1, 1), labels.repeat(1, 2, 1)
        mask = torch.zeros(1, 1, side, side) if input_masks is None else input_masks.float()
        masks, scores = self._decoder(
            image_embeddings=image_embeddings.float(),
            input_points=points,
            input_labels=labels,
            input_masks=mask,
            has_mask=torch.tensor([float(input_masks is not None)]),
        )
        return SimpleNamespace(pred_masks=masks[:, :count], iou_scores=scores[:, :count])


def load_promptable(folder: str | Path) -> ExportedPromptable:
    """The two graphs of a folder that `export_promptable` wrote, ready to run."""
    return ExportedPromptable(folder)
