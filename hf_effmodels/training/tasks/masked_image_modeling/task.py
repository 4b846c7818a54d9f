"""The task masked-image-modeling: from arguments to an encoder that has learnt from images without labels."""

import sys
import tempfile
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers import set_seed

import hf_effmodels

from ....modeling.layers.visible import VisibleBatchNorm2d
from ...data.fingerprints import weights_fingerprint
from ...data.images import check_processor, usable
from ...data.normalization import Normalization
from ...data.pictures import PictureArguments, load_evaluation_pictures, load_pictures
from ...data.seeded import data_seed
from ...data.splits import held_out_unasked
from ...run.arguments import ArgumentReader, blaming_model_config
from ...run.contents import check_contents
from ...run.output_folder import open_run
from ...run.results import open_results, write_results_file
from ...run.run import Run
from .arguments import CropArguments, EvaluationArguments, MaskedImageArguments, MaskedModelArguments
from .data import Collator, MaskedImages
from .models import load_masked_model
from .reports import write_results
from .stages import Stages
from .trainer import MaskedImageTrainer

TRAINING_ARGUMENTS = (MaskedModelArguments, PictureArguments, CropArguments, MaskedImageArguments)
EVALUATION_ARGUMENTS = (MaskedModelArguments, PictureArguments, EvaluationArguments)


def prepare_training(reader: ArgumentReader) -> Run:
    """Read and check everything; the run that is returned trains, evaluates and writes the results."""
    arguments = reader.read(*TRAINING_ARGUMENTS)
    model_args, data_args, crop_args, args = arguments
    config, checkpoint = open_run(reader, arguments)
    train, evaluation = load_pictures(data_args, model_args.token)
    set_seed(args.seed)
    with _blaming(model_args):
        model, processor = load_masked_model(model_args)
    channels = model.config.num_channels
    train, evaluation = (
        usable(source, partial(source.read, num_channels=channels), data_args) for source in (train, evaluation)
    )
    check_processor("--model", processor)
    contents = {"training data": train.facts(), "evaluation data": evaluation.facts()}
    if model_args.model not in hf_effmodels.list_models():
        contents["model"] = weights_fingerprint(model)
    check_contents(config, checkpoint, args.output_dir, contents)
    stages = crop_args.stages(_side(model), args.per_device_train_batch_size)
    args.per_device_train_batch_size = stages.batch_sizes[0]
    if len(set(stages.batch_sizes)) > 1 and args.max_steps < 0 and args.num_train_epochs % 1:
        raise ValueError(
            f"--num_train_epochs: got {args.num_train_epochs}, accepted with --progressive_batch_sizes are whole "
            "numbers."
        )
    trainer = MaskedImageTrainer(
        model=model,
        args=args,
        stages=stages,
        train_dataset=_dataset(train, model, processor, crop_args, stages, data_seed(args)),
        eval_dataset=_dataset(evaluation, model, processor, crop_args, stages),
        data_collator=Collator(one_mask=getattr(model, "one_mask_per_batch", False)),
        compute_metrics=partial(losses_by_name, weights=getattr(model.config, "scale_weights", None)),
        processing_class=processor,
    )
    _try_out(trainer, model_args, stages)

    def report(train_metrics: dict) -> dict:
        return write_results(trainer, train_metrics, trainer.evaluate(), config, model_args, data_args)

    return Run(trainer, checkpoint, config, report, evaluation=held_out_unasked(data_args, evaluation.split))


def _blaming(args: MaskedModelArguments):
    options = {"method_config": args.method_config or None, "num_channels": args.num_channels}
    options |= {"image_size": args.image_size}
    return blaming_model_config(args.model_config, args.model, method=args.method, **options)


def _side(model) -> int:
    size = model.config.image_size
    return size if isinstance(size, int) else size[0]


def _dataset(source, model, processor, crop_args: CropArguments, stages: Stages, seed: int | None = None):
    channels = model.config.num_channels
    argument = "--image_size" if len(stages.sizes) == 1 else "--progressive_sizes"
    if seed is None:
        stages = Stages((0,), stages.sizes[-1:], stages.batch_sizes[-1:])
    try:
        return MaskedImages(
            source, Normalization.of(processor, channels), crop_args, channels, stages, model.count_blocks, seed
        )
    except ValueError as error:  # of blocks that do not fit
        raise ValueError(f"{argument}: {error}") from error


def _try_out(trainer: MaskedImageTrainer, model_args: MaskedModelArguments, stages: Stages) -> None:
    """What fails for the first image, or at one of the sizes, fails before anything is written."""
    model, data = trainer.model, trainer.train_dataset
    for start, size in zip(stages.starts, stages.sizes, strict=True):
        batch = trainer.data_collator([data[start * len(data)]])
        batch = {name: value.to(trainer.args.device) for name, value in batch.items()}
        try:
            with torch.no_grad(), _blaming(model_args):
                outputs = model.eval()(**batch)
        except ValueError as error:
            argument = "--model" if len(stages.sizes) == 1 else "--progressive_sizes"
            raise ValueError(f"{argument}: {model_args.model} takes no images of {size}×{size}: {error}") from error
        if not torch.isfinite(outputs.loss):
            raise ValueError(f"--model: the loss of {model_args.model} is {float(outputs.loss)} for the first image.")
        if any(isinstance(module, VisibleBatchNorm2d) for module in model.modules()):
            _check_statistics(trainer, int((outputs.mask == 0).sum()))
    trainer.eval_dataset[0]
    sizes = {name: getattr(trainer.args, f"encoder_{name}") for name in ("image_size", "window_size")}
    if not any(sizes.values()):
        return
    try:
        with tempfile.TemporaryDirectory() as folder:
            model.save_encoder(folder, **sizes)
    except ValueError as error:
        raise ValueError(f"--encoder_{error}") from error


def _check_statistics(trainer: MaskedImageTrainer, visible: int) -> None:
    """Batch norms that see `visible` blocks of an image need two in each batch, the last of an epoch as well."""
    args = trainer.args
    last = 0 if args.dataloader_drop_last else len(trainer.train_dataset) % args.per_device_train_batch_size
    smallest = min(args.per_device_train_batch_size, last or args.per_device_train_batch_size)
    if visible * smallest < 2:
        raise ValueError(
            f"--per_device_train_batch_size: got {args.per_device_train_batch_size}, with which a batch of the "
            f"{len(trainer.train_dataset)} images has one block that is visible, of which batch norms have no "
            "statistics; accepted are other batches, larger images or a smaller mask_ratio (--method_config)."
        )


def losses_by_name(prediction, weights=None) -> dict[str, float]:
    """The loss, and that of each scale where there are several, as means over the images."""
    losses = np.asarray(prediction.predictions, dtype=np.float64).mean(0)
    measured = {"loss": float(losses @ np.asarray(weights if weights is not None else [1.0]))}
    if len(losses) > 1:
        measured |= {f"loss_scale_{number}": float(loss) for number, loss in enumerate(losses, start=1)}
    return measured


def prepare_evaluation(reader: ArgumentReader) -> Callable[[], dict]:
    """Read and check everything; the function returned evaluates and writes the results."""
    arguments = reader.read(*EVALUATION_ARGUMENTS)
    model_args, data_args, args = arguments
    call = open_results(reader.task, arguments)
    source = load_evaluation_pictures(data_args, model_args.token)
    if model_args.method is not None:
        raise ValueError("--method: a new model has learnt nothing that could be evaluated; name a trained one.")
    size, model_args.image_size = model_args.image_size, None
    with _blaming(model_args):
        model, processor = load_masked_model(model_args)
    source = usable(source, partial(source.read, num_channels=model.config.num_channels), data_args)
    crop_args = CropArguments()
    stages = crop_args.stages(size or _side(model), 1)
    dataset = _dataset(source, model, processor, crop_args, stages)
    dataset[0]
    return partial(_evaluate, model.eval(), dataset, model_args.model, data_args.dataset, args, call)


@torch.no_grad()
def _evaluate(model, dataset: MaskedImages, name: str, of: str, args: EvaluationArguments, call: dict) -> dict:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    one_mask = getattr(model, "one_mask_per_batch", False)
    loader = DataLoader(
        dataset,
        # Where a batch has one mask, images are measured one by one, each with its own.
        batch_size=1 if one_mask else args.per_device_eval_batch_size,
        num_workers=args.dataloader_num_workers,
        collate_fn=Collator(one_mask),
    )
    losses = []
    for batch in loader:
        batch = {name: value.to(device) for name, value in batch.items()}
        losses.append(model.image_losses(batch["pixel_values"], model(**batch)).float().cpu().numpy())
    prediction = type("Prediction", (), {"predictions": np.concatenate(losses)})
    measured = losses_by_name(prediction, getattr(model.config, "scale_weights", None))
    facts = {"model": name, "dataset": of, "split": dataset.source.split, "samples": len(dataset)}
    results = write_results_file(args.output, {**facts, **measured}, call)
    sys.stdout.write("  ".join(f"{name} {value:.4f}" for name, value in measured.items()) + f"  n {len(dataset)}\n")
    return results
