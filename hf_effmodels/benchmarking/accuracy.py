"""Accuracy beside the times: top-1 of the classifiers among the rows, on the pictures of a data set."""

import argparse
from collections.abc import Sequence

import torch
from tqdm import tqdm

from .._shapes import in_runs
from ..prediction.predictor import Source, load_network, load_part
from .places import AUTO_CLASSES, channels_of, config_of, is_place, task_of_place

#: What the command line says of the data set: names of fields of the task's own arguments.
OPTIONS = (
    *("dataset", "dataset_config", "dataset_revision", "data_files", "data_dir"),
    *("eval_split", "eval_fraction", "eval_holdout", "label_column", "label_mapping", "max_eval_samples"),
)
_TASK, _BATCH = "image-classification", 32


def accuracies(arguments: argparse.Namespace) -> dict[str, float]:
    """Folder, id or exported folder among `arguments.presets` -> the share of pictures whose likeliest class is right.

    Args:
        arguments: with `presets` and, of the data set, `OPTIONS`; no `dataset`, no accuracies.

    Raises:
        ValueError: an option without a data set, no classifier with weights, classes that are not a model's.
        OSError: a data set or a model that cannot be found. ImportError: without the library datasets.
    """
    given = {name: value for name in OPTIONS if (value := getattr(arguments, name)) is not None}
    if "dataset" not in given:
        if given:
            raise ValueError(f"--{next(iter(given))} goes with --dataset.")
        return {}
    places = [name for name in arguments.presets if is_place(name) and task_of_place(name) == _TASK]
    if not places:
        raise ValueError(
            "--dataset: accuracy is of image classifiers with weights, which are folders, ids of the Hub and exported "
            f"folders; got {', '.join(arguments.presets)}."
        )
    try:
        from ..training.tasks.image_classification.data import DataArguments, load_evaluation_data

        pictures = load_evaluation_data(DataArguments(**given))
    except ModuleNotFoundError as error:
        raise ImportError(f"{error}. --dataset needs an extra: pip install 'hf_effmodels[train]'.") from error
    numbered = {name: _as_numbered_by(config_of(name), name, pictures) for name in places}
    return {name: _top1(name, own) for name, own in numbered.items()}


def _as_numbered_by(config, name: str, pictures):
    """The pictures with the numbers that their classes have in a model."""
    from ..training.data.classes import model_classes
    from ..training.tasks.image_classification.data import check_labels
    from ..training.tasks.image_classification.models import class_names

    try:
        if pictures.names is not None:
            own = class_names(config)
            pictures = pictures.renumbered(model_classes(pictures.names, own), own)
        check_labels(pictures, config.num_labels)
    except ValueError as error:
        raise ValueError(f"{error} ({name})") from None
    return pictures


@torch.no_grad()
def _top1(name: str, pictures: Sequence) -> float:
    from ..training.tasks.image_classification.transforms import EvaluationTransform

    source = Source(name)
    model = load_network(source, AUTO_CLASSES[_TASK], "cpu")
    transform, channels = EvaluationTransform(load_part(source, "AutoImageProcessor")), channels_of(model.config)
    right, dtype = 0, getattr(model, "dtype", torch.float32)
    with tqdm(desc=f"accuracy of {name}", unit="image", total=len(pictures), disable=None) as bar:
        for start in range(0, len(pictures), _BATCH):
            numbers = range(start, min(start + _BATCH, len(pictures)))
            runs = in_runs(transform(pictures.read(number, channels)) for number in numbers)
            found = torch.cat([model(pixel_values=pixels.to(dtype)).logits.argmax(-1) for pixels in runs])
            right += int((found.cpu() == torch.from_numpy(pictures.labels[start : numbers.stop])).sum())
            bar.update(len(numbers))
    return right / len(pictures)
