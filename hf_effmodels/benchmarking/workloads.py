"""What one timed call does, by the kind of model: images, text, images with text, a step of a denoiser."""

import os
import tempfile
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from transformers import AutoImageProcessor, RTDetrImageProcessorPil

from ..modeling.light_clip.modeling_light_clip import LightClipForPreTraining
from ..models import create_image_processor, get_config, model_info
from ..quantization.stored import TRAINABLE, quantizer_of
from .arguments import MODES_OF
from .layers import LAYERS
from .places import config_of, is_place, program_format, task_of_place

#: Where the image token stands in the text of an image-text model.
_IMAGE_POSITION = 5
#: The classes of images in a training step, one after the other, of models that have as many.
LABELS = 10


def task_of(preset: str) -> str:
    """The task that a preset, or the model of a folder or the Hub, is timed in: its main one.

    Raises:
        ValueError: it cannot be timed. OSError: it is neither a preset nor anywhere.
    """
    if preset in LAYERS:
        return "layer"
    if is_place(preset):
        return task_of_place(preset)
    task = model_info(preset).tasks[0]
    if task not in WORKLOADS:
        raise ValueError(f"--presets: {preset} is for {task}; accepted are presets for {', '.join(WORKLOADS)}.")
    return task


def modes(preset: str) -> tuple[str, ...]:
    """The modes a preset can be timed in."""
    if preset in LAYERS:
        return LAYERS[preset].modes
    if program_format(preset) is not None:
        return ("infer", "generate") if task_of(preset) == "text-generation" else ("infer",)
    found = MODES_OF[task_of(preset)]
    if is_place(preset) and quantizer_of(config_of(preset)) not in (None, *TRAINABLE):
        return tuple(mode for mode in found if mode != "train")
    return found


def backends(preset: str) -> tuple[str, ...]:
    """The backends a preset can be timed on."""
    exported = ("onnx", "openvino", "openvino-default")
    if (own := program_format(preset)) is not None:
        return tuple(backend for backend in exported if backend.partition("-")[0] == own)
    if is_place(preset) and task_of(preset) == "text-generation" and quantizer_of(config_of(preset)) is not None:
        return ("eager",)
    of = {"image-classification": ("eager", "compile", *exported)}
    of |= dict.fromkeys(("object-detection", "image-segmentation", "text-generation"), ("eager", *exported))
    return of.get(task_of(preset), ("eager",))


def make_call(model: nn.Module, row: dict) -> Callable[[], object]:
    """The call to be timed, on fixed random inputs; `row` is a `runs.Row` as a dictionary."""
    return WORKLOADS[task_of(row["preset"])](model, row)


def _images(model: nn.Module, row: dict):
    size = row["image_size"]
    pixels = torch.randn(row["batch"], row["channels"], size, size)
    if row["mode"] == "train":
        if row["peer"] == "ours":
            # As scripts/train.py trains it on a CPU; the peers are trained in the layout they come in.
            model.to(memory_format=torch.channels_last)

        def loss():
            output = model(pixels)
            logits = getattr(output, "logits", output)
            task = F.cross_entropy(logits, torch.arange(len(logits)) % min(LABELS, logits.shape[-1]))
            return task + sum(getattr(output, "distillation", {}).values())

        return _training_step(model, loss, torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9))
    if row["backend"] in ("onnx", "openvino", "openvino-default"):
        program = _exported(model, row)
        return lambda: program(pixel_values=pixels)
    if row["backend"] == "compile":
        model = torch.compile(model)
    return _without_gradients(lambda: model(pixels))


def _layer(model: nn.Module, row: dict):
    """In training both gradients, that of the inputs and that of the weights, of random ones of the outputs."""
    size = row["image_size"]
    inputs = torch.randn(row["batch"] * LAYERS[row["preset"]].images, row["channels"], size, size)
    if row["mode"] == "infer":
        return _without_gradients(lambda: model(inputs))
    inputs.requires_grad_()
    gradient = torch.randn_like(model(inputs))

    def call():
        model.zero_grad()
        inputs.grad = None
        model(inputs).backward(gradient)

    return call


def _text(model: nn.Module, row: dict):
    ids = torch.randint(3, model.config.vocab_size, (row["batch"], row["length"]))
    if row["mode"] == "train":
        return _training_step(model, lambda: model(ids, labels=ids, use_cache=False).loss, _adamw(model))
    if row["backend"] != "eager":
        model = _exported(model, row)
    if row["mode"] == "generate":
        return _generation(model, row, ids)
    return _without_gradients(lambda: model(ids, use_cache=True, logits_to_keep=1))


def _image_text(model: nn.Module, row: dict):
    config = get_config(row["preset"], **row["overrides"])
    text, vision = config.text_config, config.vision_config
    ids = torch.randint(3, text.vocab_size, (row["batch"], row["length"]))
    ids[:, _IMAGE_POSITION] = config.image_token_id
    pixels = torch.randn(row["batch"], vision.num_channels, vision.image_size, vision.image_size)
    if row["mode"] == "train":
        labels = ids.masked_fill(ids == config.image_token_id, -100)
        return _training_step(
            model, lambda: model(ids, pixel_values=pixels, labels=labels, use_cache=False).loss, _adamw(model)
        )
    if row["mode"] == "generate":
        return _generation(model, row, ids, pixel_values=pixels)
    return _without_gradients(lambda: model(ids, pixel_values=pixels, use_cache=True, logits_to_keep=1))


def _two_towers(model: nn.Module, row: dict):
    """As many texts as images. The texts are of the given length, 15 % of their words masked."""
    size, text = row["image_size"], model.config.text_config
    length = min(row["length"], text.max_position_embeddings)
    pixels = torch.randn(row["batch"], row["channels"], size, size)
    ids = torch.randint(1, text.bos_token_id, (row["batch"], length))
    ids[:, 0], ids[:, -1] = text.bos_token_id, text.eos_token_id
    if row["mode"] == "infer":
        return _without_gradients(lambda: model(input_ids=ids, pixel_values=pixels))
    if row["peer"] != "ours":
        return _training_step(
            model, lambda: model(input_ids=ids, pixel_values=pixels, return_loss=True).loss, _adamw(model)
        )
    training = LightClipForPreTraining(model.config)
    masked = torch.zeros_like(ids, dtype=torch.bool)
    masked[:, 1 : 1 + max(1, round(0.15 * (length - 2)))] = True
    masks = {
        "mlm_input_ids": ids.masked_fill(masked, model.config.mask_token_id),
        "mlm_labels": ids.masked_fill(~masked, -100),
    }
    return _training_step(
        training, lambda: training(input_ids=ids, pixel_values=pixels, softening=0.1, **masks).loss, _adamw(training)
    )


def _masked_images(model: nn.Module, row: dict):
    size = row["image_size"]
    pixels = torch.randn(row["batch"], row["channels"], size, size)
    if row["mode"] == "train":
        return _training_step(model, lambda: model(pixels).loss, _adamw(model))
    return _without_gradients(lambda: model(pixels))


def _detector(model: nn.Module, row: dict):
    size = row["image_size"]
    pixels = torch.randn(row["batch"], row["channels"], size, size)
    if row["mode"] == "train":
        boxes = torch.tensor([[0.3, 0.4, 0.2, 0.3], [0.6, 0.5, 0.5, 0.4]])
        classes = torch.arange(2) % getattr(model.config, "num_labels", 2)
        labels = [{"class_labels": classes, "boxes": boxes} for _ in pixels]
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
        return _training_step(model, lambda: model(pixels, labels=labels).loss, optimizer)
    if row["backend"] != "eager":
        program = _exported(model, row)
        return lambda: program(pixel_values=pixels)
    if row["mode"] == "detect":
        return _without_gradients(_detection(model, row))
    return _without_gradients(lambda: model(pixels))


def _detection(model: nn.Module, row: dict):
    """From a photograph's size of noise to boxes in its pixels, at the threshold of a picture."""
    size = row["image_size"]
    images = [Image.fromarray(np.random.default_rng(n).integers(0, 255, (480, 640, 3), dtype=np.uint8))
              for n in range(row["batch"])]  # fmt: skip
    if is_place(row["preset"]):
        processor = AutoImageProcessor.from_pretrained(row["preset"])
    elif model.config.model_type == get_config(row["preset"]).model_type:
        processor = create_image_processor(row["preset"], image_size=size)
    else:
        processor = RTDetrImageProcessorPil(size={"height": size, "width": size})

    def detect():
        outputs = model(**processor(images, return_tensors="pt"))
        return processor.post_process_object_detection(outputs, threshold=0.4, target_sizes=[(480, 640)] * len(images))

    return detect


def _segmenter(model: nn.Module, row: dict):
    size = row["image_size"]
    pixels = torch.randn(row["batch"], row["channels"], size, size)
    if row["mode"] == "train":
        labels = torch.arange(size * size).view(1, size, size).expand(len(pixels), -1, -1) % model.config.num_labels
        return _training_step(model, lambda: model(pixels, labels=labels).loss, _adamw(model))
    if row["backend"] != "eager":
        program = _exported(model, row)
        return lambda: program(pixel_values=pixels)
    return _without_gradients(lambda: model(pixels))


def _promptable(model: nn.Module, row: dict):
    """A point for each image; the loss is only there to have gradients of everything."""
    size = row["image_size"]
    pixels = torch.randn(row["batch"], row["channels"], size, size)
    points = torch.full((row["batch"], 1, 1, 2), size / 2)

    def masks():
        return model(pixel_values=pixels, input_points=points).pred_masks

    if row["mode"] == "train":
        return _training_step(model, lambda: masks().square().mean(), _adamw(model))
    return _without_gradients(masks)


def _denoiser(model: nn.Module, row: dict):
    config, size = model.unet.config, row["image_size"]
    residuals = torch.randn(row["batch"], config.num_channels, size, size)
    side = size // config.scale
    maps = [torch.randn(row["batch"], config.condition_channels, side, side) for _ in range(config.num_conditions)]
    timesteps = torch.full((row["batch"],), 50)
    if row["mode"] == "train":
        return _training_step(
            model,
            lambda: F.l1_loss(model(residuals, timesteps, maps), residuals),
            torch.optim.Adam(model.parameters()),
        )
    return _without_gradients(lambda: model(residuals, timesteps, maps))


#: Main task of a preset -> what makes the call; `MODES_OF` has the modes.
WORKLOADS: dict[str, Callable[[nn.Module, dict], Callable[[], object]]] = {
    "image-classification": _images,
    "text-generation": _text,
    "visual-prompting": _text,
    "image-text-to-text": _image_text,
    "super-resolution": _denoiser,
    "object-detection": _detector,
    "image-segmentation": _segmenter,
    "mask-generation": _promptable,
    "zero-shot-image-classification": _two_towers,
    "masked-image-modeling": _masked_images,
    "layer": _layer,
}


def _without_gradients(compute: Callable[[], object]) -> Callable[[], object]:
    def call():
        with torch.inference_mode():
            return compute()

    return call


def _adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW([parameter for parameter in model.parameters() if parameter.requires_grad], lr=1e-4)


def _training_step(model: nn.Module, loss: Callable[[], torch.Tensor], optimizer: torch.optim.Optimizer):
    model.train()

    def call():
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return call


def _generation(model: nn.Module, row: dict, ids: torch.Tensor, **inputs):
    count = row["new_tokens"]
    settings = {"max_new_tokens": count, "min_new_tokens": count, "do_sample": False, "pad_token_id": 0}

    return lambda: model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **inputs, **settings)


def _exported(model: nn.Module, row: dict):
    from ..edge import export
    from ..edge_language import export_language_model, is_language_model

    if program_format(row["preset"]) is not None:
        return _opened(row["preset"], row)
    if row["peer"] != "ours":
        raise ValueError(f"--backends: {row['backend']} runs our models, not {row['peer']}'s.")
    with tempfile.TemporaryDirectory() as folder:
        folder, format = os.path.join(folder, "program"), row["backend"].partition("-")[0]
        if is_language_model(model.config):
            export_language_model(model, folder, format)
        else:
            export(model, folder, format, image_size=row["image_size"])
        return _opened(folder, row)


def _opened(folder: str, row: dict):
    from .. import edge
    from ..edge_language import is_exported_language_model, load_language_model

    load = load_language_model if is_exported_language_model(folder) else edge.load
    if row["backend"] == "onnx":
        import onnxruntime

        session = onnxruntime.SessionOptions()
        session.intra_op_num_threads = row["threads"]
        return load(folder, session_options=session)
    config = {"INFERENCE_NUM_THREADS": row["threads"]}
    if row["backend"] == "openvino":
        config["INFERENCE_PRECISION_HINT"] = "f32"
    return load(folder, device="cpu", config=config)
