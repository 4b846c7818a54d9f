"""SAM-DiffSR as a diffusers pipeline: the residual HR - bicubic(LR) is sampled by diffusion and added to the bicubic.

No mask is needed: the structure modulation of SAM-DiffSR acts in training only.
"""

import copy
import importlib
import inspect
import json
import operator
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_loading_utils import LOADABLE_CLASSES
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor, unwrap_module
from huggingface_hub import snapshot_download
from PIL import Image
from torch.nn import functional as F

from .image_inputs import images_to_tensors
from .matlab_resize import imresize

OUTPUT_TYPES = ("pil", "np", "pt")
#: The networks by the names of their classes, of this package or loaded with a repository's code.
NETWORKS = {"condition_encoder": "RRDBModel", "unet": "SamDiffSRUNet2DModel"}


@dataclass
class _Call:
    """What belongs to one call of a pipeline, and so not on the pipeline, which threads share."""

    pipeline: "SamDiffSRPipeline"
    num_timesteps: int | None = None
    interrupt: bool = False


_CALL: ContextVar[_Call | None] = ContextVar("call of SamDiffSRPipeline", default=None)


def image_to_residual(image: torch.Tensor, upsampled: torch.Tensor, residual_scale: float = 2.0) -> torch.Tensor:
    """What is diffused, x_0 = clamp((HR - bicubic)·`residual_scale`, -1, 1); images in [-1, 1]."""
    return ((image - upsampled) * residual_scale).clamp(-1, 1)


def residual_to_image(residual: torch.Tensor, upsampled: torch.Tensor, residual_scale: float = 2.0) -> torch.Tensor:
    """The image of a residual; it may leave [-1, 1] a little."""
    return residual.clamp(-1, 1) / residual_scale + upsampled


class SamDiffSRPipeline(DiffusionPipeline):
    """Super-resolution of images that were reduced bicubically.

    Args:
        condition_encoder: `RRDBModel`, which encodes the low-resolution image once.
        unet: `SamDiffSRUNet2DModel`, which predicts the noise in the residual.
        scheduler: `SamDiffSRScheduler`, or any sampler of diffusers built from its configuration.
        residual_scale: the residual is diffused multiplied by this.
        legacy_256: enlarge the image divided by 256 instead of 255, as the official code does and the published
            weights expect.
    """

    model_cpu_offload_seq = "condition_encoder->unet"
    _callback_tensor_inputs = ["sample", "noise_prediction"]

    def __init__(
        self,
        condition_encoder: ModelMixin,
        unet: ModelMixin,
        scheduler: SchedulerMixin,
        residual_scale: float = 2.0,
        legacy_256: bool = True,
    ):
        super().__init__()
        self.register_modules(condition_encoder=condition_encoder, unet=unet, scheduler=scheduler)
        self.register_to_config(residual_scale=residual_scale, legacy_256=legacy_256)

    @property
    def interrupt(self) -> bool:
        """Set `pipe._interrupt = True` in a callback to stop its call after the step."""
        return self._interrupt

    @property
    def _interrupt(self) -> bool:
        call = self._call()
        return call is not None and call.interrupt

    @_interrupt.setter
    def _interrupt(self, value: bool) -> None:
        call = self._call()
        if call is not None:
            call.interrupt = value
        elif value:
            raise RuntimeError("_interrupt: set it in a callback of the call that shall stop; here none is running.")

    @property
    def num_timesteps(self) -> int | None:
        """Steps of the call that is running; None outside of callbacks."""
        call = self._call()
        return None if call is None else call.num_timesteps

    def _call(self) -> _Call | None:
        """The call of this pipeline that is running in this thread."""
        call = _CALL.get()
        return call if call is not None and call.pipeline is self else None

    @torch.no_grad()
    def __call__(
        self,
        image,
        num_inference_steps: int | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        tile_size: int | None = None,
        tile_overlap: int = 16,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable | PipelineCallback | MultiPipelineCallbacks | None = None,
        callback_on_step_end_tensor_inputs: list[str] | None = None,
        timesteps: list[int] | None = None,
    ) -> ImagePipelineOutput | tuple:
        """Enlarge one image or several.

        Args:
            image: a PIL image, an array (height, width, 3), a tensor (3, height, width) in [0, 1], a batch, or a list;
                grey and 16-bit images too. Any size: images are padded to what the network takes and cut again. Images
                of one size are sampled together, of several sizes one after the other.
            num_inference_steps: by default all timesteps the network was trained with (100).
            generator: makes the result repeatable; a list has one for each image.
            tile_size: side in low-resolution pixels of the squares the networks work on, which bounds the memory; by
                default the whole image at once. The predicted noise of overlapping tiles is blended at every step, so
                that there is one sample, without seams.
            tile_overlap: low-resolution pixels that neighbouring tiles share.
            output_type: `"pil"`; `"np"`: float arrays (batch, height, width, 3) in [0, 1]; `"pt"`: tensors
                (batch, 3, height, width) in [0, 1]. Of images of several sizes: lists.
            return_dict: an `ImagePipelineOutput`, or a tuple of its content.
            callback_on_step_end: called as `callback(pipe, step, timestep, tensors)` after every step; tensors in the
                dictionary it returns replace those of the sampling.
            callback_on_step_end_tensor_inputs: which tensors it gets: "sample" (padded residuals), "noise_prediction".
            timesteps: the descending timesteps themselves instead of `num_inference_steps`, for schedulers whose
                `set_timesteps` takes them. The first few of 100 say little of the image: `[85, 60, 30]` leaves them
                out.

        Returns:
            The images, `scale` times as large.
        """
        if isinstance(callback_on_step_end, (PipelineCallback, MultiPipelineCallbacks)):
            callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs
        if callback_on_step_end_tensor_inputs is None:
            callback_on_step_end_tensor_inputs = ["sample"]
        images = images_to_tensors(image)
        tensor_names = callback_on_step_end_tensor_inputs
        self.check_inputs(
            images, num_inference_steps, generator, tile_size, tile_overlap, output_type, tensor_names, timesteps
        )
        if timesteps is not None:
            steps = [operator.index(timestep) for timestep in timesteps]
        else:
            steps = operator.index(num_inference_steps or self.scheduler.config.num_train_timesteps)

        if len({tuple(tensor.shape) for tensor in images}) == 1:
            batches, generators = [torch.stack(images)], [generator]
        else:
            batches = [tensor[None] for tensor in images]
            generators = generator if isinstance(generator, list) else [generator] * len(images)
        call = _CALL.set(_Call(self))
        try:
            results = [
                self._enlarge(batch, steps, generator, tile_size, tile_overlap, callback_on_step_end, tensor_names)
                for batch, generator in zip(batches, generators, strict=True)
            ]
        finally:
            _CALL.reset(call)
        self.maybe_free_model_hooks()

        images = _output(results, output_type)
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _enlarge(self, batch, steps, generator, tile_size, tile_overlap, callback, tensor_names) -> torch.Tensor:
        """Images of one size, (batch, 3, height, width) in [0, 1] -> the large ones, in [-1, 1]."""
        low, upsampled = self.prepare_images(batch)
        residual = self.sample_residual(
            low, upsampled, steps, generator, tile_size, tile_overlap, callback, tensor_names
        )
        enlarged = residual_to_image(residual, upsampled, self.config.residual_scale)
        height, width = (side * self.unet.config.scale for side in batch.shape[-2:])
        return enlarged[..., :height, :width].clamp(-1, 1)

    def check_inputs(
        self,
        images,
        num_inference_steps,
        generator,
        tile_size,
        tile_overlap,
        output_type,
        tensor_names,
        timesteps=None,
    ) -> None:
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type: got {output_type!r}, accepted are {', '.join(map(repr, OUTPUT_TYPES))}.")
        if num_inference_steps is not None and not _is_whole(num_inference_steps, 1):
            raise ValueError(f"num_inference_steps: got {num_inference_steps!r}, accepted are whole numbers from 1.")
        if timesteps is not None:
            if not len(timesteps) or not all(_is_whole(timestep, 0) for timestep in timesteps):
                raise ValueError(f"timesteps: got {timesteps!r}, accepted are descending whole numbers from 0.")
            if num_inference_steps is not None:
                raise ValueError("timesteps and num_inference_steps exclude each other.")
            if "timesteps" not in inspect.signature(self.scheduler.set_timesteps).parameters:
                raise ValueError(f"timesteps: {type(self.scheduler).__name__} takes a number of steps only.")
        if isinstance(generator, list) and len(generator) != len(images):
            raise ValueError(f"generator: got {len(generator)} generators for {len(images)} images.")
        unit = self.size_unit
        if tile_size is not None:
            if not _is_whole(tile_size, 2 * unit) or tile_size % unit:
                raise ValueError(f"tile_size: got {tile_size!r}, accepted are multiples of {unit} from {2 * unit}.")
            if not _is_whole(tile_overlap, 0) or tile_overlap % unit or tile_overlap >= tile_size:
                raise ValueError(
                    f"tile_overlap: got {tile_overlap!r}, accepted are multiples of {unit} from 0, below tile_size "
                    f"({tile_size})."
                )
        unknown = [name for name in tensor_names if name not in self._callback_tensor_inputs]
        if unknown:
            raise ValueError(
                f"callback_on_step_end_tensor_inputs: got {unknown[0]!r}, accepted are {self._callback_tensor_inputs}."
            )

    @property
    def size_unit(self) -> int:
        """Sides of what the networks see are multiples of this many low-resolution pixels, and twice this at least."""
        return max(1, self.unet.size_multiple // self.unet.config.scale)

    def prepare_images(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The low-resolution images and their bicubic enlargements in [-1, 1], padded to the networks' unit.

        Args:
            images: (batch, 3, height, width) in [0, 1].
        """
        dtype = torch.promote_types(self.unet.dtype, torch.float32)
        images = images.to(self._execution_device, dtype)
        divided = images * (255 / 256) if self.config.legacy_256 else images
        low, upsampled = images * 2 - 1, imresize(divided, self.unet.config.scale) * 2 - 1
        unit, scale = self.size_unit, self.unet.config.scale
        bottom, right = (max(2 * unit, -(-side // unit) * unit) - side for side in images.shape[-2:])
        low = F.pad(low, (0, right, 0, bottom), mode="replicate")
        upsampled = F.pad(upsampled, (0, right * scale, 0, bottom * scale), mode="replicate")
        return low, upsampled

    def sample_residual(
        self, low, upsampled, steps, generator, tile_size, tile_overlap, callback, tensor_names
    ) -> torch.Tensor:
        """Sample the residuals, (batch, 3, H, W), of the images that `prepare_images` returned."""
        _check_schedule(self.scheduler)
        _check_thresholding(self.scheduler, upsampled)
        if self.interrupt:  # at an image of another size: of this one nothing is known yet
            return torch.zeros_like(upsampled)
        scheduler = copy.deepcopy(self.scheduler)  # it keeps where it is: each call has its own
        scale = self.unet.config.scale
        tiles = [
            (top, left, bottom, right)
            for top, bottom in _spans(low.shape[-2], tile_size, tile_overlap)
            for left, right in _spans(low.shape[-1], tile_size, tile_overlap)
        ]
        dtype = self.condition_encoder.dtype
        conditions = [
            [
                features.to(self.unet.dtype)
                for features in self.condition_encoder(
                    low[..., top:bottom, left:right].to(dtype), output_image=False
                ).condition
            ]
            for top, left, bottom, right in tiles
        ]
        weights = [_weights(tile, low.shape[-2:], tile_overlap, scale).to(low) for tile in tiles]

        with _naming(scheduler, steps):
            if isinstance(steps, int):
                scheduler.set_timesteps(steps, device=low.device)
            else:
                scheduler.set_timesteps(timesteps=steps, device=low.device)
        timesteps = scheduler.timesteps
        if (call := self._call()) is not None:
            call.num_timesteps = len(timesteps)
        sample = randn_tensor(upsampled.shape, generator=generator, device=low.device, dtype=upsampled.dtype)
        sample = sample * scheduler.init_noise_sigma
        takes_generator = "generator" in inspect.signature(scheduler.step).parameters
        extra = {"generator": generator} if takes_generator else {}

        with self.progress_bar(total=len(timesteps)) as progress:
            for step, timestep in enumerate(timesteps):
                if self.interrupt:
                    continue
                scaled = scheduler.scale_model_input(sample, timestep)
                noise_prediction = self.predict_noise(scaled, timestep, upsampled, tiles, weights, conditions)
                if step == 0:
                    starts_finite = noise_prediction.isfinite().all()
                with _naming(scheduler, steps):
                    sample = scheduler.step(noise_prediction, timestep, sample, **extra, return_dict=False)[0]
                if callback is not None:
                    named = {"sample": sample, "noise_prediction": noise_prediction}
                    replaced = callback(self, step, timestep, {name: named[name] for name in tensor_names}) or {}
                    sample = replaced.get("sample", sample)
                progress.update()
        if not sample.isfinite().all():
            if not starts_finite:
                raise ValueError(f"unet: what it predicts is not finite, in {self.unet.dtype}.")
            number = steps if isinstance(steps, int) else len(steps)
            raise ValueError(
                f"scheduler: {type(scheduler).__name__} in {number} steps with {_settings(scheduler)} ends in values "
                "that are not finite. Take another number of steps or other settings."
            )
        return sample

    def predict_noise(self, sample, timestep, upsampled, tiles, weights, conditions) -> torch.Tensor:
        """The noise in `sample`: one call of the network for each tile, blended by `weights`.

        With a single tile its projected condition replaces the features in `conditions`: it serves all steps. With
        more, keeping those of all tiles would take as much memory as the whole image at once.
        """
        scale, dtype = self.unet.config.scale, self.unet.dtype
        total, weight_sum = torch.zeros_like(sample), torch.zeros_like(sample[:1, :1])
        for index, (tile, weight) in enumerate(zip(tiles, weights, strict=True)):
            top, left, bottom, right = (scale * side for side in tile)
            window = (..., slice(top, bottom), slice(left, right))
            output = self.unet(sample[window].to(dtype), timestep, conditions[index], upsampled[window].to(dtype))
            if len(tiles) == 1:
                conditions[0] = output.condition
                return output.sample.to(sample.dtype)
            total[window] += weight * output.sample.to(sample.dtype)
            weight_sum[window] += weight
        return total / weight_sum

    # ---- saving with the code, loading without running any ----

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **kwargs) -> "SamDiffSRPipeline":
        """A pipeline with the same networks; arguments of `__init__` may be given anew. See diffusers' `from_pipe`.

        Raises:
            ValueError: the other pipeline's networks are not those of SAM-DiffSR.
        """
        for name, class_name in NETWORKS.items():
            # Given by name: diffusers would compare their classes with the annotations, which know no subclasses.
            network = kwargs.setdefault(name, pipeline.components.get(name))
            if class_name not in {base.__name__ for base in type(unwrap_module(network)).__mro__}:
                raise ValueError(f"{name}: got {type(network).__name__}, accepted is {class_name}.")
        return super().from_pipe(pipeline, **kwargs)

    def save_config(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs) -> None:
        """Write `model_index.json` and, beside it, the code the pipeline needs where this package is not installed.

        So a saved or pushed pipeline loads by `DiffusionPipeline.from_pretrained(..., trust_remote_code=True)`.
        """
        super().save_config(save_directory, push_to_hub=push_to_hub, **kwargs)
        folder, here = Path(save_directory), Path(__file__)
        path = folder / self.config_name
        config = json.loads(path.read_text(encoding="utf-8"))
        config.pop("_name_or_path", None)  # a path on this machine is nobody else's business
        config["_class_name"] = [here.stem, type(self).__name__]
        for name in ("pipeline_sam_diffsr", "image_inputs", "matlab_resize"):
            _copy(here.with_name(f"{name}.py"), folder)
        for name, component in self.components.items():
            component = unwrap_module(component)  # of torch.compile
            module = type(component).__module__
            if component is not None and module.partition(".")[0] not in LOADABLE_CLASSES:
                source = Path(inspect.getsourcefile(type(component)))
                _copy(source, folder / name)
                config[name] = [source.stem, type(component).__name__]
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    @classmethod
    def _dict_from_json_file(cls, json_file: str | os.PathLike) -> dict:
        """The configuration; the modules that `save_config` wrote beside it are read from this package instead."""
        config = super()._dict_from_json_file(json_file)
        package = cls._package()
        if package is not None and os.path.basename(json_file) == cls.config_name:
            if isinstance(config.get("_class_name"), list):
                config["_class_name"] = config["_class_name"][1]
            for name, value in config.items():
                if isinstance(value, list) and value[0] in ("modeling_sam_diffsr", "scheduling_sam_diffsr"):
                    # diffusers takes classes of modules that are imported already, and imports none by name.
                    config[name] = [importlib.import_module(f"{package}.{value[0]}").__name__, value[1]]
        return config

    @classmethod
    def download(cls, pretrained_model_name: str, **kwargs) -> str:
        """Download a pipeline: weights and configuration, none of the repository's code where ours is installed."""
        if cls._package() is None:
            return super().download(pretrained_model_name, **kwargs)
        variant = kwargs.get("variant")
        weights = "diffusion_pytorch_model"
        accepted = ("cache_dir", "revision", "token", "force_download", "local_files_only")
        return snapshot_download(
            pretrained_model_name,
            allow_patterns=[cls.config_name, "*/*config.json", f"*/{weights}*.safetensors", f"*/{weights}*.json"],
            ignore_patterns=None if variant else [f"*/{weights}.*.safetensors"],
            **{name: kwargs[name] for name in accepted if kwargs.get(name) is not None},
        )

    @staticmethod
    def _package() -> str | None:
        """The package this class is imported from; None where the file was loaded from a repository."""
        return __package__ if __package__ and __package__.startswith("hf_effmodels.") else None


def _is_whole(number, least: int) -> bool:
    """Whether this is a whole number, of whatever library, from `least`."""
    try:
        return not isinstance(number, bool) and operator.index(number) >= least
    except TypeError:
        return False


def _settings(scheduler: SchedulerMixin) -> str:
    """How a sampler samples, in the words of its configuration."""
    schedule = ("num_train_timesteps", "trained_betas", "beta_start", "beta_end", "beta_schedule", "steps_offset")
    shown = {name: value for name, value in scheduler.config.items() if name[0] != "_" and name not in schedule}
    shown = {name: value for name, value in shown.items() if value and isinstance(value, (str, int, float))}
    return ", ".join(f"{name}={value}" for name, value in shown.items())


@contextmanager
def _naming(scheduler: SchedulerMixin, steps: int | list[int]) -> Iterator[None]:
    """What goes wrong in a sampler of diffusers says which one it was and how it was set."""
    try:
        yield
    except (ArithmeticError, AssertionError, LookupError, ValueError) as error:
        if not type(scheduler).__module__.startswith("diffusers."):
            raise
        number = steps if isinstance(steps, int) else len(steps)
        raise ValueError(
            f"scheduler: {type(scheduler).__name__} cannot sample in {number} steps with {_settings(scheduler)} "
            f"({type(error).__name__}: {error})"
        ) from error


def _check_schedule(scheduler: SchedulerMixin) -> None:
    """ValueError if a stock sampler was given an override that it ignores: it prefers `trained_betas` to the fields of
    a schedule, without a word, and for "linear" our configuration has filled them in."""
    config = scheduler.config
    filled_in_from, betas = config.get("_betas_filled_in_from"), config.get("trained_betas")
    if filled_in_from is None or betas is None or not type(scheduler).__module__.startswith("diffusers."):
        return
    steps, _, start, end = filled_in_from
    if len(betas) != steps or not np.array_equal(betas[:-1], np.linspace(start, end, steps)[:-1]):
        return  # of the user's own
    fields = zip(("num_train_timesteps", "beta_schedule", "beta_start", "beta_end"), filled_in_from, strict=True)
    changed = {name: config[name] for name, value in fields if config.get(name, value) != value}
    if changed:
        given, name = ", ".join(f"{name}={value!r}" for name, value in changed.items()), type(scheduler).__name__
        raise ValueError(
            f"scheduler: {name} takes the trained_betas of its configuration and ignores {given}. Change the schedule "
            f"first: {name}.from_config(SamDiffSRScheduler.from_config(config, {given}).config)."
        )


def _check_thresholding(scheduler: SchedulerMixin, images: torch.Tensor) -> None:
    """Samplers that threshold call torch.quantile, which takes no more than 2**24 values."""
    if hasattr(scheduler, "_threshold_sample") and scheduler.config.thresholding and images.numel() > 2**24:
        raise ValueError(
            f"scheduler: {type(scheduler).__name__} with thresholding takes up to {2**24:,} values, the images "
            f"will have {images.numel():,}. Enlarge fewer or smaller ones at once, use SamDiffSRScheduler, or "
            "DDIMScheduler.from_config(config, thresholding=False)."
        )


def _copy(source: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / source.name
    if not (target.exists() and target.samefile(source)):
        shutil.copyfile(source, target)


def _spans(side: int, tile: int | None, overlap: int) -> list[tuple[int, int]]:
    """Begin and end of the tiles along one side; all of one size, the last moved back into the image."""
    if tile is None or tile >= side:
        return [(0, side)]
    starts = [*range(0, side - tile, tile - overlap), side - tile]
    return [(start, start + tile) for start in starts]


def _weights(tile: tuple[int, int, int, int], size: tuple[int, int], overlap: int, scale: int) -> torch.Tensor:
    """How much each pixel of a tile counts: less towards an edge that another tile overlaps, (H, W)."""
    top, left, bottom, right = tile
    rows = _ramp((bottom - top) * scale, overlap * scale, top > 0, bottom < size[0])
    columns = _ramp((right - left) * scale, overlap * scale, left > 0, right < size[1])
    return rows[:, None] * columns[None, :]


def _ramp(length: int, overlap: int, fade_in: bool, fade_out: bool) -> torch.Tensor:
    weights = torch.ones(length, dtype=torch.float64)
    if overlap:
        slope = (torch.arange(overlap, dtype=torch.float64) + 0.5) / overlap
        if fade_in:
            weights[:overlap] *= slope
        if fade_out:
            weights[-overlap:] *= slope.flip(0)
    return weights


def _output(results: list[torch.Tensor], output_type: str):
    """Batches of images in [-1, 1] in the form that was asked for."""
    if output_type == "pil":
        pixels = [((batch + 1) * 127.5).round().to(torch.uint8) for batch in results]
        return [Image.fromarray(image.permute(1, 2, 0).cpu().numpy()) for batch in pixels for image in batch]
    results = [(batch + 1) / 2 for batch in results]
    if output_type == "np":
        results = [np.ascontiguousarray(batch.permute(0, 2, 3, 1).cpu().numpy()) for batch in results]
    return results[0] if len(results) == 1 else [batch[0] for batch in results]
