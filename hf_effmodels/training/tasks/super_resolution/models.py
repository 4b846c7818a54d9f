"""The networks that a recipe asks for."""

import difflib
import inspect
import os
from pathlib import Path

import diffusers
from diffusers.utils import CONFIG_NAME

from ....hub.ids import check_place, reading
from ....hub.whole import check_filled
from ....pipelines.sam_diffsr.configuration_sam_diffsr import PRESETS
from ....pipelines.sam_diffsr.convert_sam_diffsr import load_encoder
from ....pipelines.sam_diffsr.create import create_pipeline
from ....pipelines.sam_diffsr.modeling_sam_diffsr import RRDBModel, SamDiffSRUNet2DModel
from ....pipelines.sam_diffsr.pipeline_sam_diffsr import SamDiffSRPipeline
from ....pipelines.sam_diffsr.scheduling_sam_diffsr import SamDiffSRScheduler
from ...run.presets import names_preset
from .arguments import SCHEDULERS, SuperResolutionModelArguments

_CLASSES = {"encoder": RRDBModel, "unet": SamDiffSRUNet2DModel, "scheduler": SamDiffSRScheduler}


def load_encoder_to_train(args: SuperResolutionModelArguments) -> RRDBModel:
    """The condition encoder of a preset with random weights, or a trained one."""
    _check_fields(args)
    if names_preset(args.model, args.revision, PRESETS):
        _refuse(args.encoder, "--encoder: stage rrdb trains the encoder; give --model, where it should start from.")
        encoder = RRDBModel(**PRESETS[args.model].config["encoder"] | args.model_config.get("encoder", {}))
    else:
        _refuse(args.model_config, "--model_config goes with presets; a trained encoder has its configuration.")
        encoder = trained_encoder("--model", args.model, args)
    if encoder.config.scale == 2:
        raise ValueError("--stage rrdb: at scale 2 the network's image is magnified by 4; train it at scale 4.")
    return encoder


def load_pipeline_to_train(args: SuperResolutionModelArguments) -> SamDiffSRPipeline:
    """The pipeline of a preset with a trained encoder and a random denoiser, or a trained pipeline."""
    _check_fields(args)
    # With a preset the revision is the encoder's.
    if not names_preset(args.model, None if args.encoder else args.revision, PRESETS):
        check_place("--model", args.model, revision=("--revision", args.revision))
        _refuse(args.encoder, "--encoder goes with presets; a trained pipeline has its encoder.")
        for name in ("model_config", "legacy_256", "residual_scale"):
            _refuse(getattr(args, name), f"--{name} goes with presets; a trained pipeline has its configuration.")
        return load_pipeline(args.model, args)
    if args.encoder is None:
        raise ValueError(
            "--encoder is missing: the denoiser is trained on a trained condition encoder. Train one with --stage "
            "rrdb (--config sam_diffsr/rrdb_df2k) and name its output folder."
        )
    _refuse(
        args.model_config.get("encoder"), "--model_config encoder: --encoder is a trained one with its configuration."
    )
    encoder = trained_encoder("--encoder", args.encoder, args)
    conditions = {
        "condition_channels": encoder.config.hidden_size,
        "num_conditions": len(range(encoder.config.num_blocks + 1)[2::3]),
    }
    unet = {"scale": encoder.config.scale, **conditions, **args.model_config.get("unet", {})}
    for name, value in conditions.items():
        if unet[name] != value:
            raise ValueError(f"--model_config unet {name}: got {unet[name]}, the encoder {args.encoder} has {value}.")
    pipe = create_pipeline(
        args.model,
        unet=unet,
        scheduler=args.model_config.get("scheduler"),
        legacy_256=args.legacy_256,
        residual_scale=args.residual_scale or 2.0,
    )
    pipe.register_modules(condition_encoder=encoder.eval())
    return pipe


def load_pipeline(name: str, args: SuperResolutionModelArguments) -> SamDiffSRPipeline:
    """A trained pipeline; OSError where there is none, ValueError where weights are lacking."""
    with reading("--model", name, revision=("--revision", args.revision)):
        pipe = SamDiffSRPipeline.from_pretrained(name, revision=args.revision, token=args.token)
    check_filled("--model", name, *pipe.components.values())
    return pipe


def trained_encoder(argument: str, name: str, args: SuperResolutionModelArguments) -> RRDBModel:
    """A trained condition encoder: a folder or repository of an encoder or a pipeline, or an official file."""
    if os.path.isfile(name):
        return load_encoder(name)
    options = {"revision": args.revision, "token": args.token}
    with reading(argument, name, revision=("--revision", args.revision)):
        if is_encoder(name):
            encoder = RRDBModel.from_pretrained(name, **options)
        else:
            try:
                encoder = RRDBModel.from_pretrained(name, subfolder="condition_encoder", **options)
            except OSError:
                encoder = RRDBModel.from_pretrained(name, **options)
    check_filled(argument, name, encoder)
    return encoder


def is_encoder(name: str) -> bool:
    """Whether this is a local folder of a condition encoder by itself."""
    return (Path(name) / CONFIG_NAME).is_file() and not (Path(name) / SamDiffSRPipeline.config_name).is_file()


def sampler(name: str, own):
    """The sampler `name` of `SCHEDULERS` with the timesteps that `own`, a pipeline's, was trained with."""
    class_name = SCHEDULERS[name]
    if class_name is None:
        return own
    return getattr(diffusers, class_name).from_config(own.config)


def _check_fields(args: SuperResolutionModelArguments) -> None:
    for part, values in args.model_config.items():
        known = [name for name in inspect.signature(_CLASSES[part].__init__).parameters if name != "self"]
        for name in values:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=3) or known
                raise ValueError(f"--model_config {part}: unknown {name!r}; nearest: {', '.join(near)}.")


def _refuse(value, message: str) -> None:
    if value:
        raise ValueError(message)
