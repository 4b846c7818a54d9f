"""Arguments of the task masked-image-modeling."""

from dataclasses import dataclass, field
from typing import Literal

from ...run.arguments import ModelArguments, check_fields, read_mapping
from ...run.recipe_arguments import RecipeArguments
from ...run.results import ResultsArguments
from .stages import Stages


@dataclass
class MaskedModelArguments(ModelArguments):
    """Which model sees masked images, and who masks them."""

    model: str | None = field(
        default=None,
        metadata={
            "missing": "name a preset for masked-image-modeling (hf-effmodels list), a folder or a Hub id; or, with "
            "--method, any vision model.",
            "help": "A preset for masked-image-modeling, or such a model in a folder or on the Hub. With --method any "
            "vision model, which becomes the encoder: a preset or a model type of transformers (vit, swin, resnet, "
            "...), from random weights; a folder or a Hub id, with its weights.",
        },
    )
    method: Literal["fastmim", "localmim", "simmim", "spark"] | None = field(
        default=None,
        metadata={
            "help": "What is built around --model: fastmim takes any vision model, localmim ViT and Swin, simmim "
            "BEiT, ViT, DeiT, Swin and Swin v2, spark convolutional networks."
        },
    )
    method_config: dict | str | None = field(
        default=None,
        metadata={
            "goes_with": {"method": ("fastmim", "localmim", "simmim", "spark")},
            "help": "Fields of the method's configuration, such as {mask_ratio: 0.6, block_size: 32}; --model_config "
            "has the encoder's.",
        },
    )

    def __post_init__(self):
        super().__post_init__()
        check_fields(self)
        self.method_config = read_mapping("method_config", self.method_config)
        if "backbone_config" in self.method_config:
            raise ValueError("--method_config: backbone_config is what --model and --model_config say.")


@dataclass
class CropArguments:
    """Which part of an image is looked at, and in which sizes."""

    crop_scale: list[float] = field(
        default_factory=lambda: [0.2, 1.0],
        metadata={"accepts": "(0, 1]", "help": "Smallest and largest share of the image's area."},
    )
    crop_ratio: list[float] = field(
        default_factory=lambda: [3 / 4, 4 / 3],
        metadata={"accepts": "(0, inf)", "help": "Smallest and largest width / height of the part."},
    )
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = field(
        default="bicubic", metadata={"help": "Filter for resizing."}
    )
    horizontal_flip: float = field(
        default=0.5, metadata={"accepts": "[0, 1]", "help": "Probability of mirroring left and right."}
    )
    progressive_sizes: list[int] | None = field(
        default=None,
        metadata={
            "accepts": "[1, 65536]",
            "help": "Sides of the images in pixels, one after the other (FastMIM-P), such as 128 160 192; the first "
            "one from the beginning.",
        },
    )
    progressive_epochs: list[int] | None = field(
        default=None,
        metadata={"accepts": "[0, inf)", "help": "Epoch from which each of progressive_sizes is used, from 0 on."},
    )
    progressive_batch_sizes: list[int] | None = field(
        default=None,
        metadata={
            "accepts": "[1, inf)",
            "help": "Images per process and batch with each of progressive_sizes, by default always "
            "per_device_train_batch_size. The learning rate follows in proportion.",
        },
    )

    def __post_init__(self):
        check_fields(self)
        for name in ("crop_scale", "crop_ratio"):
            values = getattr(self, name)
            if len(values) != 2 or values[0] > values[1]:
                raise ValueError(f"--{name}: got {values}, accepted are two positive numbers in order.")
        sizes, epochs, batches = self.progressive_sizes, self.progressive_epochs, self.progressive_batch_sizes
        if sizes is None:
            for name, value in (("progressive_epochs", epochs), ("progressive_batch_sizes", batches)):
                if value is not None:
                    raise ValueError(f"--{name} goes with --progressive_sizes.")
            return
        if epochs is None or len(epochs) != len(sizes) or not sizes:
            raise ValueError(f"--progressive_epochs: got {epochs}, accepted is a number for each of {sizes}.")
        if epochs[0] != 0 or sorted(set(epochs)) != epochs:
            raise ValueError(f"--progressive_epochs: got {epochs}, accepted are numbers that grow from 0.")
        if batches is not None and len(batches) != len(sizes):
            raise ValueError(f"--progressive_batch_sizes: got {batches}, accepted is a number for each of {sizes}.")

    def stages(self, image_size: int, batch_size: int) -> Stages:
        """The sizes of the run; `image_size` and `batch_size` throughout where nothing is said of progress."""
        sizes = self.progressive_sizes or [image_size]
        batches = self.progressive_batch_sizes or [batch_size] * len(sizes)
        return Stages(tuple(self.progressive_epochs or [0]), tuple(sizes), tuple(batches))


@dataclass
class MaskedImageArguments(RecipeArguments):
    """How to train, and what is shown of it."""

    shown_images: int = field(
        default=4,
        metadata={"accepts": "[0, 64]", "help": "Images that are drawn, masked and predicted, into masked.png."},
    )
    encoder_image_size: int | None = field(
        default=None,
        metadata={
            "accepts": "[1, 65536]",
            "help": "Side of the images that the folder encoder is for, such as 224 after a training at 128: its "
            "table of positions is interpolated.",
        },
    )
    encoder_window_size: int | None = field(
        default=None,
        metadata={
            "accepts": "[1, 1024]",
            "help": "Side of the windows, in tokens, of the Swin in the folder encoder: its biases are resampled.",
        },
    )


@dataclass
class EvaluationArguments(ResultsArguments):
    """How to evaluate."""

    per_device_eval_batch_size: int = field(default=64, metadata={"accepts": "[1, inf)", "help": "Images at a time."})
    dataloader_num_workers: int = field(
        default=0, metadata={"accepts": "[0, inf)", "help": "Processes that read images."}
    )

    def __post_init__(self):
        check_fields(self)
