"""Label maps in the place of labels (ReLabel, https://arxiv.org/abs/2101.05022): arguments and reader."""

from dataclasses import dataclass, field
from typing import Literal

from ...data.label_maps import LabelMaps
from ...data.stored_tables import table_folder
from ...run.values import SET

_READ = {"label_maps": SET}


@dataclass
class LabelMapArguments:
    """What each training crop is labelled by."""

    label_maps: str | None = field(
        default=None,
        metadata={
            "help": "A folder of hf-effmodels prepare label-maps, or such a data set on the Hub: each training crop "
            "is labelled by what a strong classifier said of its part of the picture (ReLabel), instead of by the "
            "picture's class."
        },
    )
    label_map_missing: Literal["zero", "excluded"] = field(
        default="zero",
        metadata={
            "goes_with": _READ,
            "help": "Classes that a picture's map does not store have the logit 0 (as published), or no probability.",
        },
    )
    label_map_temperature: float = field(
        default=1.0,
        metadata={
            "goes_with": _READ,
            "accepts": "(0, inf)",
            "help": "Temperature of the softmax that makes probabilities of the pooled logits.",
        },
    )
    label_map_weight: float = field(
        default=1.0,
        metadata={
            "goes_with": _READ,
            "accepts": "[0, 1]",
            "help": "Share of the map's probabilities in the label; the rest is the picture's own class.",
        },
    )


def load_label_maps(args: LabelMapArguments, train, names, train_crop: str, cache_dir, token) -> LabelMaps | None:
    """The maps of a training set; None without `--label_maps`.

    Raises:
        ValueError: they are not of these pictures or classes, or crops are made in a way that says not where they are.
        OSError: they cannot be found or reached.
    """
    if not args.label_maps:
        return None
    if train_crop != "random_resized":
        raise ValueError(
            f"--label_maps: crops are labelled, --train_crop {train_crop} makes none; use random_resized."
        )
    folder = table_folder(
        args.label_maps, argument="--label_maps", made_by="label-maps", cache_dir=cache_dir, token=token
    )
    return LabelMaps(
        folder,
        train,
        names,
        missing=args.label_map_missing,
        temperature=args.label_map_temperature,
        cache_dir=cache_dir,
    )
