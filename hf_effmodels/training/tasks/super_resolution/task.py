"""The task super-resolution: from arguments to a trained or evaluated pipeline (SAM-DiffSR, SRDiff) or encoder."""

import inspect
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from accelerate import PartialState
from transformers import set_seed

from ....pipelines.sam_diffsr.configuration_sam_diffsr import PRESETS
from ...data.fingerprints import weights_fingerprint
from ...data.images import usable
from ...data.seeded import data_seed
from ...data.splits import held_out_unasked
from ...run.arguments import ArgumentReader, blaming_model_config
from ...run.contents import check_contents
from ...run.output_folder import open_run
from ...run.results import open_results
from ...run.run import Run
from .arguments import SuperResolutionArguments, SuperResolutionEvaluationArguments, SuperResolutionModelArguments
from .data import HighResolutionImages, SuperResolutionDataArguments, load_data, load_evaluation_data
from .evaluation import (
    averages,
    by_encoder,
    by_pipeline,
    check_measurable,
    check_perceptual,
    enlarge_and_measure,
    perceptual,
    save_images,
    tile_overlap,
)
from .models import is_encoder, load_encoder_to_train, load_pipeline, load_pipeline_to_train, sampler, trained_encoder
from .patches import PatchDataset, PatchOptions
from .reports import write_evaluation, write_grid, write_results
from .trainer import SuperResolutionTrainer, image_loss, noise_loss

TRAINING_ARGUMENTS = (SuperResolutionModelArguments, SuperResolutionDataArguments, SuperResolutionArguments)
EVALUATION_ARGUMENTS = (
    SuperResolutionModelArguments,
    SuperResolutionDataArguments,
    SuperResolutionEvaluationArguments,
)


def prepare_training(reader: ArgumentReader) -> Run:
    """Read and check everything; the run that is returned trains, evaluates and writes the results."""
    arguments = reader.read(*TRAINING_ARGUMENTS)
    model_args, data_args, args = arguments
    config, checkpoint = open_run(reader, arguments)
    train, evaluation = load_data(data_args, model_args.token)
    set_seed(args.seed)
    with blaming_model_config(model_args.model_config):
        network, complete, objective, enlarge = _what_is_trained(model_args, args)
    scale = network.config.scale
    options = _patch_options(model_args, args, scale, complete)
    train, evaluation = _checked_data(train, evaluation, options, args, data_args)
    contents = {"training data": train.facts(), "evaluation data": evaluation.facts()}
    if model_args.model not in PRESETS:
        contents["model"] = weights_fingerprint(network)
    if model_args.stage == "diffusion":
        contents["encoder"] = weights_fingerprint(complete.condition_encoder)
    check_contents(config, checkpoint, args.output_dir, contents)
    if args.gradient_checkpointing:
        network.enable_gradient_checkpointing()
        args.gradient_checkpointing = False  # the Trainer knows only how to ask transformers' models
        if hasattr(args, "activation_checkpointing"):
            args.activation_checkpointing = False

    trainer = SuperResolutionTrainer(
        model=network,
        args=args,
        objective=objective,
        complete=complete,
        evaluation=partial(_evaluate_and_show, enlarge, evaluation, scale, args),
        train_dataset=PatchDataset(train, options, data_seed(args)),
        eval_dataset=evaluation,
    )

    def report(train_metrics: dict) -> dict:
        return write_results(trainer, train_metrics, trainer.evaluate(), config, model_args, data_args)

    later = {}
    if held_out_unasked(data_args, evaluation.split) and data_args.max_eval_samples is None:
        later = {"eval_holdout": len(evaluation)}  # the share is another one here
    return Run(trainer, checkpoint, config, report, evaluation=later)


def _what_is_trained(model_args: SuperResolutionModelArguments, args: SuperResolutionArguments):
    """The network, what is saved of it, its loss, and how it enlarges an image."""
    if model_args.stage == "rrdb":
        if args.structure_maps:
            raise ValueError("--structure_maps shift the noise of the diffusion: they do not go with --stage rrdb.")
        encoder = load_encoder_to_train(model_args)
        return encoder, encoder, image_loss, by_encoder(encoder)
    pipe = load_pipeline_to_train(model_args)
    _check_sampling(args, pipe)
    encoder = pipe.condition_encoder.requires_grad_(False).eval().to(args.device)
    objective = partial(
        noise_loss,
        encoder=encoder,
        scheduler=pipe.scheduler,
        residual_scale=pipe.config.residual_scale,
        kind=args.loss,
    )
    return (
        pipe.unet,
        pipe,
        objective,
        by_pipeline(pipe, args.scheduler, args.num_inference_steps, timesteps=args.timesteps),
    )


def _patch_options(model_args, args: SuperResolutionArguments, scale: int, complete) -> PatchOptions:
    diffusion = model_args.stage == "diffusion"
    # The smallest square that all levels of the denoiser take, or one pixel for the encoder.
    unit = max(scale, complete.unet.size_multiple) if diffusion else scale
    if args.patch_size % unit or (diffusion and args.patch_size < 2 * unit):
        least = 2 * unit if diffusion else unit
        raise ValueError(f"--patch_size: got {args.patch_size}, accepted are multiples of {unit} from {least}.")
    return PatchOptions(
        scale=scale,
        patch_size=args.patch_size,
        patches_per_image=args.patches_per_image,
        augment=args.augment,
        num_timesteps=complete.scheduler.config.num_train_timesteps if diffusion else None,
        legacy_256=diffusion and complete.config.legacy_256,
        structure=args.structure_maps,
        structure_normalization=args.structure_normalization,
        structure_constant_to_zero=args.structure_constant_to_zero,
        legacy_mask_crop=args.legacy_mask_crop,
    )


def _checked_data(
    train: HighResolutionImages,
    evaluation: HighResolutionImages,
    options: PatchOptions,
    args: SuperResolutionArguments,
    data_args: SuperResolutionDataArguments,
) -> tuple[HighResolutionImages, HighResolutionImages]:
    """What fails for the first image (a broken file, one smaller than a patch) fails before anything is written; all
    are looked at where there are few, or as the arguments ask."""
    if args.structure_maps and not train.has_structure:
        raise ValueError(
            f"--structure_maps: {train.split} has none (columns regions and values); write them with "
            "hf-effmodels prepare super-resolution-masks, or turn this off to train SRDiff."
        )

    def cut(index: int) -> None:
        PatchDataset(train.select([index]), options, args.seed)[0]

    measure = partial(_measurable, evaluation, scale=options.scale, size=args.eval_size, crop_border=args.crop_border)
    for source, use in ((train, cut), (evaluation, measure)):
        if not data_args.skip_bad_images:
            for index in range(len(source)) if len(source) <= 16 else (0, len(source) - 1):
                use(index)
    return usable(train, cut, data_args), usable(evaluation, measure, data_args)


def _measurable(source: HighResolutionImages, index: int, **options) -> None:
    check_measurable(source.select([index]), 0, **options)


def _evaluate_and_show(
    enlarge, source: HighResolutionImages, scale: int, args: SuperResolutionArguments, step: int
) -> dict[str, float]:
    results = enlarge_and_measure(
        enlarge, source, scale, seed=args.seed, size=args.eval_size, crop_border=args.crop_border
    )
    if args.should_save and args.grid_images:
        write_grid(results[: args.grid_images], Path(args.output_dir) / "validation" / f"step-{step:07d}.png")
    return averages(results)


def prepare_evaluation(reader: ArgumentReader) -> Callable[[], dict]:
    """Read and check everything; the function returned evaluates and writes the results."""
    arguments = reader.read(*EVALUATION_ARGUMENTS)
    model_args, data_args, args = arguments
    call = open_results(reader.task, arguments)
    for name in ("encoder", "model_config", "legacy_256", "residual_scale"):
        if getattr(model_args, name):
            raise ValueError(f"--{name} goes with training; a trained model has what it needs.")
    check_perceptual(args.metrics)
    source = load_evaluation_data(data_args, model_args.token)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    facts = {"model": model_args.model, "dataset": data_args.dataset, "split": source.split.rpartition("/")[2]}
    if is_encoder(model_args.model):
        encoder = trained_encoder("--model", model_args.model, model_args).eval().to(device)
        for name in ("num_inference_steps", "tile_size", "timesteps"):
            if getattr(args, name):
                raise ValueError(f"--{name}: {model_args.model} is an encoder, which samples nothing.")
        scale, enlarge = encoder.config.scale, by_encoder(encoder)
    else:
        pipe = load_pipeline(model_args.model, model_args).to(device)
        steps = _check_sampling(args, pipe)
        if args.tile_size is not None:
            pipe.check_inputs([], None, None, args.tile_size, tile_overlap(pipe, args.tile_size), "pil", [])
        scale = pipe.unet.config.scale
        enlarge = by_pipeline(pipe, args.scheduler, args.num_inference_steps, args.tile_size, args.timesteps)
        facts |= {"scheduler": args.scheduler, "num_inference_steps": steps, "timesteps": args.timesteps}
        facts["seed"] = args.seed
    facts |= {"scale": scale, "crop_border": args.crop_border, "eval_size": args.eval_size, "device": device}
    measure = partial(_measurable, source, scale=scale, size=args.eval_size, crop_border=args.crop_border)
    if data_args.skip_bad_images:
        source = usable(source, measure, data_args)
    else:
        for index in range(len(source)):
            measure(index)
    return partial(_evaluate, enlarge, source, scale, args, facts, device, call)


def _check_sampling(args, pipe) -> int:
    """The number of sampling steps; ValueError where the scheduler cannot take them."""
    total, steps, timesteps = pipe.scheduler.config.num_train_timesteps, args.num_inference_steps, args.timesteps
    if steps is not None and steps > total:
        raise ValueError(f"--num_inference_steps: got {steps}, accepted are 1 to {total}.")
    if not timesteps:
        return steps or total
    if steps is not None:
        raise ValueError("--timesteps and --num_inference_steps exclude each other.")
    if any(not 0 <= t < total for t in timesteps) or sorted(set(timesteps), reverse=True) != timesteps:
        raise ValueError(f"--timesteps: got {timesteps}, accepted are descending numbers from {total - 1} to 0.")
    scheduler = sampler(args.scheduler, pipe.scheduler)
    if "timesteps" not in inspect.signature(scheduler.set_timesteps).parameters:
        raise ValueError(f"--timesteps: {type(scheduler).__name__} takes a number of steps only.")
    return len(timesteps)


def _evaluate(enlarge, source, scale: int, args, facts: dict, device: str, call: dict) -> dict:
    results = enlarge_and_measure(
        enlarge, source, scale, seed=args.seed, size=args.eval_size, crop_border=args.crop_border
    )
    if not PartialState().is_main_process:
        return averages(results)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.save_images or temporary)
        if args.save_images or args.metrics:
            save_images(results, folder)
        if args.metrics:
            facts["perceptual"] = perceptual(args.metrics, folder, device)
    return write_evaluation(results, facts, args.output, call)
