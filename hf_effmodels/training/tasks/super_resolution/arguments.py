"""Arguments of the task super-resolution."""

from dataclasses import dataclass, field
from typing import Literal

from ....pipelines.sam_diffsr.masks import NORMALIZATIONS
from ...run.arguments import read_mapping
from ...run.recipe_arguments import RecipeArguments
from ...run.results import ResultsArguments
from ...run.values import SET, check_fields

_DIFFUSION = {"stage": ("diffusion",)}
_STRUCTURE = {"structure_maps": SET}
PARTS = ("encoder", "unet", "scheduler")
#: What may be asked for as `--metrics`, beyond PSNR and SSIM, which are always measured.
PERCEPTUAL_METRICS = ("lpips", "fid", "maniqa")
#: `--scheduler` -> class of diffusers; None keeps the one the pipeline was saved with.
SCHEDULERS = {
    "own": None,
    "ddpm": "DDPMScheduler",
    "ddim": "DDIMScheduler",
    "dpmsolver++": "DPMSolverMultistepScheduler",
    "unipc": "UniPCMultistepScheduler",
    "deis": "DEISMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
}


@dataclass
class SuperResolutionModelArguments:
    """Which networks."""

    model: str | None = field(
        default=None,
        metadata={
            "missing": "name a preset (sam-diffsr-x4), a Hub id or a local folder.",
            "help": "A preset (sam-diffsr-x4, srdiff-x4), trained from random weights; or a pipeline (with --stage "
            "rrdb: an encoder) on the Hub or in a local folder.",
        },
    )
    stage: Literal["rrdb", "diffusion"] = field(
        default="diffusion",
        metadata={"help": "rrdb: train the condition encoder by itself. diffusion: train the denoiser on top of it."},
    )
    encoder: str | None = field(
        default=None,
        metadata={
            "help": "The trained condition encoder: an output folder of stage rrdb, a pipeline, a repository on the "
            "Hub, or an official checkpoint file."
        },
    )
    model_config: dict | str | None = field(
        default=None,
        metadata={
            "help": "Fields of the preset to change, by part: {encoder: {hidden_size: 32}, unet: {...}, scheduler: "
            "{...}}."
        },
    )
    legacy_256: bool = field(
        default=False,
        metadata={
            "goes_with": _DIFFUSION,
            "help": "Enlarge images divided by 256 instead of 255, as the official code does.",
        },
    )
    residual_scale: float | None = field(
        default=None,
        metadata={
            "goes_with": _DIFFUSION,
            "accepts": "(0, inf)",
            "help": "What the residual is multiplied by before it is diffused and clipped to 1 (2).",
        },
    )
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the model on the Hub."})
    token: str | None = field(default=None, metadata={"help": "Token for gated or private repositories on the Hub."})

    def __post_init__(self):
        check_fields(self)
        self.model_config = read_mapping("model_config", self.model_config)
        for part, values in self.model_config.items():
            if part not in PARTS or not isinstance(values, dict):
                raise ValueError(
                    f"--model_config: got {part}: {values!r}, accepted are mappings for {', '.join(PARTS)}."
                )


@dataclass
class SuperResolutionArguments(RecipeArguments):
    """`RecipeArguments`, patches, the loss, and how to evaluate. The last model is kept, not the best."""

    optim: str = field(default="adamw_torch", metadata={"help": "See RecipeArguments; without decay it is Adam."})
    lr_scheduler_type: str = field(
        default="constant", metadata={"help": "See RecipeArguments; constant goes with --lr_decay_steps."}
    )
    lr_decay_steps: int | None = field(
        default=None,
        metadata={"accepts": "[1, inf)", "help": "Multiply the learning rate by --lr_decay_rate every so many steps."},
    )
    lr_decay_rate: float = field(
        default=0.5,
        metadata={
            "goes_with": {"lr_decay_steps": SET},
            "accepts": "(0, 1]",
            "help": "See --lr_decay_steps.",
        },
    )
    max_grad_norm: float = field(default=0.0, metadata={"help": "Clip gradients to this norm; 0 for not at all."})
    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate: no, steps or epoch."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to save: no, steps, epoch or best."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints to keep."})
    logging_steps: float = field(default=50, metadata={"help": "Steps between log lines; below 1 a share of all."})
    ddp_find_unused_parameters: bool | None = field(default=False, metadata={"help": "All parameters are used."})

    patch_size: int = field(
        default=160, metadata={"accepts": "[1, 65536]", "help": "Side of the high-resolution patches in pixels."}
    )
    patches_per_image: int = field(
        default=1, metadata={"accepts": "[1, 1000000]", "help": "Patches of each image in an epoch."}
    )
    augment: bool = field(default=False, metadata={"help": "Random flips and quarter turns (the paper has none)."})
    loss: Literal["l1", "l2", "ssim"] = field(
        default="l1",
        metadata={
            "help": "Of the predicted noise; stage rrdb always has L1 of the image.",
        },
    )
    structure_maps: bool = field(
        default=False,
        metadata={"help": "Shift the training noise by the data set's structure maps (SAM-DiffSR); off: SRDiff."},
    )
    structure_normalization: Literal[NORMALIZATIONS] = field(
        default="none",
        metadata={
            "goes_with": _STRUCTURE,
            "help": "Of the structure map of a patch.",
        },
    )
    structure_constant_to_zero: bool = field(
        default=False,
        metadata={
            "goes_with": _STRUCTURE,
            "help": "The map of a patch that lies in one region becomes 0.",
        },
    )
    legacy_mask_crop: bool = field(
        default=False,
        metadata={
            "goes_with": _STRUCTURE,
            "help": "Cut structure maps at low-resolution coordinates, as the official code does: image and map then "
            "show different places.",
        },
    )

    num_inference_steps: int | None = field(
        default=None,
        metadata={
            "accepts": "[1, 1000000]",
            "help": "Steps of the sampler at evaluation; by default all timesteps.",
        },
    )
    scheduler: Literal[tuple(SCHEDULERS)] = field(
        default="own",
        metadata={
            "help": "Sampler at evaluation: the pipeline's own, or one of diffusers.",
        },
    )
    timesteps: list[int] = field(
        default_factory=list,
        metadata={
            "accepts": "[0, inf)",
            "help": "Its descending timesteps themselves, such as 85 60 30, for samplers that take them.",
        },
    )
    eval_size: int | None = field(
        default=None,
        metadata={
            "accepts": "[1, 65536]",
            "help": "Evaluate on the central square of this many high-resolution pixels.",
        },
    )
    crop_border: int = field(
        default=0, metadata={"accepts": "[0, 65536]", "help": "Pixels that PSNR and SSIM leave out along each edge."}
    )
    grid_images: int = field(
        default=4, metadata={"accepts": "[0, 10000]", "help": "Images in the picture that each evaluation writes."}
    )

    def __post_init__(self):
        if self.lr_decay_steps and self.lr_scheduler_type != "constant":
            raise ValueError(f"--lr_decay_steps goes with --lr_scheduler_type constant, not {self.lr_scheduler_type}.")
        super().__post_init__()


@dataclass
class SuperResolutionEvaluationArguments(ResultsArguments):
    """How to evaluate."""

    num_inference_steps: int | None = field(
        default=None, metadata={"accepts": "[1, 1000000]", "help": "Steps of the sampler; by default all timesteps."}
    )
    scheduler: Literal[tuple(SCHEDULERS)] = field(
        default="own", metadata={"help": "The pipeline's own sampler, or one of diffusers."}
    )
    timesteps: list[int] = field(
        default_factory=list,
        metadata={
            "accepts": "[0, inf)",
            "help": "The descending timesteps themselves, such as 85 60 30, for samplers that take them.",
        },
    )
    seed: int = field(
        default=0, metadata={"accepts": "[0, 4294967295]", "help": "Of the sampled noise; image i has seed + i."}
    )
    crop_border: int = field(
        default=0, metadata={"accepts": "[0, 65536]", "help": "Pixels that PSNR and SSIM leave out along each edge."}
    )
    eval_size: int | None = field(
        default=None,
        metadata={
            "accepts": "[1, 65536]",
            "help": "Evaluate on the central square of this many high-resolution pixels.",
        },
    )
    tile_size: int | None = field(
        default=None,
        metadata={
            "accepts": "[1, 65536]",
            "help": "Side of the tiles in low-resolution pixels, which bounds the memory.",
        },
    )
    metrics: list[str] = field(
        default_factory=list,
        metadata={"help": "Beyond PSNR and SSIM: lpips, fid, maniqa. They need the library pyiqa."},
    )
    save_images: str | None = field(
        default=None, metadata={"help": "Folder for the enlarged images (sr), bicubic ones and references as PNG."}
    )

    def __post_init__(self):
        check_fields(self)
        for name in self.metrics:
            if name not in PERCEPTUAL_METRICS:
                raise ValueError(f"--metrics: got {name!r}, accepted are {', '.join(PERCEPTUAL_METRICS)}.")
