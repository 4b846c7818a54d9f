"""The SAM that a recipe asks for, and its image processor."""

import os

import torch
from transformers import CONFIG_MAPPING, AutoConfig, AutoImageProcessor, AutoModelForMaskGeneration

import hf_effmodels

from ....hub.ids import reading
from ....hub.whole import load_whole
from ...run.arguments import ModelArguments, check_fields_of
from .teacher import check_is_sam


def is_loaded(args: ModelArguments) -> bool:
    """Whether the model has weights from a folder or the Hub."""
    built = args.model in hf_effmodels.list_models() or args.model in CONFIG_MAPPING
    return os.path.exists(args.model) or not built


@torch.no_grad()
def place_at_unit_scale(model) -> None:
    """Begin the random frequencies of positions with deviation 1, as segment-anything does.

    transformers' SAM takes half of the encoder's width: frequencies so high that a point's position tells nothing of
    its neighbours', with which no training from random weights finds out where a prompt is. Of a model of another kind
    nothing changes.
    """
    divided = set()  # one table in two modules
    for module in model.modules():
        table, scale = getattr(module, "positional_embedding", None), getattr(module, "scale", None)
        if not isinstance(table, torch.Tensor) or not scale:
            continue
        if id(table) not in divided:
            table.div_(scale)
            divided.add(id(table))
        module.scale = 1.0


def load_sam(args: ModelArguments):
    """A preset or a model type of transformers (`sam`), with random weights, or a pretrained model; and its processor.

    Raises:
        ValueError: unknown preset or setting, no SAM, or weights that are lacking.
        OSError: a model that cannot be found or reached.
    """
    for name in ("num_channels", "image_size", "ignore_mismatched_sizes"):
        if getattr(args, name):
            raise ValueError(f"--{name}: of a SAM the parts' sizes are set: --model_config {{vision_config: ...}}.")
    fields, said = dict(args.model_config), ("--revision", args.revision)
    source = {"revision": args.revision, "token": args.token, "trust_remote_code": args.trust_remote_code}
    if args.model in hf_effmodels.list_models(task="mask-generation"):
        model = hf_effmodels.create_model(args.model, task="mask-generation", **fields)
    elif args.model in CONFIG_MAPPING and not os.path.exists(args.model):
        model = AutoModelForMaskGeneration.from_config(AutoConfig.for_model(args.model, **fields))
        place_at_unit_scale(model)
    else:
        if "/" not in args.model and not os.path.exists(args.model):
            hf_effmodels.get_config(args.model)  # says which presets come near
        with reading("--model", args.model, revision=said):
            config = AutoConfig.from_pretrained(args.model, **source)
        check_fields_of(config, fields)
        model = load_whole(AutoModelForMaskGeneration, "--model", args.model, **{**source, **fields, "revision": said})
    check_is_sam("--model", args.model, model)
    if is_loaded(args):
        with reading("--model", args.model, revision=said):
            return model, AutoImageProcessor.from_pretrained(args.model, **source)
    return model, hf_effmodels.create_image_processor("tinysam", image_size=model.config.vision_config.image_size)
