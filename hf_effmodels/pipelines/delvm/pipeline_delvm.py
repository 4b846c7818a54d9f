"""DeLVM as a diffusers pipeline: (image, answer) pairs say what is to be done, and it is done to a new image.

A causal transformer continues the tokens of pair after pair and of the new image by those of its answer.
"""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import DiffusionPipeline, VQModel
from diffusers.utils import BaseOutput
from huggingface_hub import snapshot_download
from PIL import Image
from transformers import LlamaForCausalLM, StaticCache
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.generation.logits_process import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from .image_tokenizer_delvm import OUTPUT_TYPES, DelvmImageTokenizer, check_ids, size_of
from .llama_steps import is_plain, step_function

#: Images that go through the tokenizer at once.
_IMAGES_AT_ONCE = 16
CACHES = ("growing", "static")


@dataclass
class DelvmPipelineOutput(BaseOutput):
    """What the pipeline returns.

    Attributes:
        images: one for each query and each of its answers, queries first; of several images in a row a list of these
            (arrays have a dimension for them).
        token_ids: (answers, tokens), those of the images.
    """

    images: list[Image.Image] | list[list[Image.Image]] | np.ndarray | torch.Tensor
    token_ids: torch.Tensor


class _GrowingLayer(CacheLayerMixin):
    """Keys and values of one layer in memory that is taken once; attention sees what has been written so far."""

    is_sliding = False

    def __init__(self, length: int):
        super().__init__()
        self.length, self.seen = length, 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys, self.values = (
            states.new_empty((*states.shape[:2], self.length, states.shape[-1]))
            for states in (key_states, value_states)
        )
        self.is_initialized = True

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs):
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        first, self.seen = self.seen, self.seen + key_states.shape[-2]
        self.keys[:, :, first : self.seen] = key_states
        self.values[:, :, first : self.seen] = value_states
        return self.keys[:, :, : self.seen], self.values[:, :, : self.seen]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.seen + query_length, 0

    def get_seq_length(self) -> int:
        return self.seen

    def get_max_length(self) -> int:
        return self.length

    def repeat(self, times: int) -> None:
        """Each sequence `times` times, one after the other."""
        if times > 1:
            self.keys, self.values = (states.repeat_interleave(times, 0) for states in (self.keys, self.values))


class DelvmPipeline(DiffusionPipeline):
    """Does to an image what was done to the images of a prompt (https://arxiv.org/abs/2402.04841).

    Args:
        vqvae: the image tokenizer, a `VQModel` that takes pixels in [0, 1].
        language_model: over its codes, without tokens of other kinds.
        image_size: side of the squares that images are cut to; by default the tokenizer's `sample_size`.

    Raises:
        ValueError: a language model with fewer tokens than there are codes, or a size that the stages of the tokenizer
            do not divide.
    """

    model_cpu_offload_seq = "vqvae->language_model->vqvae"

    def __init__(self, vqvae: VQModel, language_model: LlamaForCausalLM, image_size: int | None = None):
        super().__init__()
        if vqvae is not None:
            image_size = image_size or vqvae.config.sample_size
            codes = DelvmImageTokenizer(vqvae, image_size).vocab_size
            if language_model is not None and language_model.config.vocab_size < codes:
                raise ValueError(
                    f"language_model: it has {language_model.config.vocab_size} tokens, accepted are as many as the "
                    f"tokenizer has codes, {codes}, or more."
                )
        self.register_modules(vqvae=vqvae, language_model=language_model)
        self.register_to_config(image_size=image_size)

    @property
    def image_tokenizer(self) -> DelvmImageTokenizer:
        """Images <-> ids, by this pipeline's `vqvae`."""
        return DelvmImageTokenizer(self.vqvae, self.config.image_size, self._execution_device)

    @property
    def most_pairs(self) -> int:
        """Pairs that a prompt may have: with the query and one answer they fill the language model's context."""
        images = self.language_model.config.max_position_embeddings // self.image_tokenizer.tokens_per_image
        return max(0, (images - 2) // 2)

    @torch.no_grad()
    def __call__(
        self,
        prompt_images: Sequence,
        image,
        num_images_per_prompt: int = 1,
        num_answer_images: int = 1,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        allowed_ids: Sequence[int] | torch.Tensor | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        cache: str = "growing",
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> DelvmPipelineOutput | tuple:
        """Answer one image or several.

        Args:
            prompt_images: (image, answer) pairs, each of one size; for several images the same ones for all, or a list
                of pairs for each. Images of any size and kind (see `image_tokenizer_delvm.to_pixels`): the square in
                the middle counts.
            image: the query, or a list of queries.
            num_images_per_prompt: answers to each query.
            num_answer_images: images of an answer, one after the other.
            temperature: 0 takes the likeliest id at each place; above, ids are drawn. By default 0 for one answer to
                each query, and 1 for several.
            top_k, top_p: draw among the likeliest ids only: so many of them, or those which together have this
                probability.
            allowed_ids: the only ids answers may have, such as those of black and white for masks.
            generator: makes what is drawn repeatable; a list has one for each answer.
            cache: where keys and values are kept: "growing", which is the faster one as it is, or "static", whose
                shapes stay for a compiled language model.
            output_type: `"pil"`; `"np"`: floats (answers, height, width, 3) in [0, 1]; `"pt"`: the same as tensors
                (answers, 3, height, width).
            return_dict: a `DelvmPipelineOutput`, or a tuple of its content.

        Raises:
            ValueError: pairs of other lengths or sizes, more than the context holds, or an option out of its range.
        """
        tokenizer = self.image_tokenizer
        if image is None or isinstance(image, str):
            raise ValueError(f"image: got {image!r}, accepted are PIL images, arrays, tensors and lists of these.")
        queries = [image] if _is_image(image) else list(image)
        prompts, is_shared = _prompts(prompt_images, len(queries))
        if temperature is None:
            temperature = 0.0 if num_images_per_prompt == 1 else 1.0
        self.check_inputs(
            tokenizer,
            prompts,
            queries,
            num_images_per_prompt,
            num_answer_images,
            temperature,
            top_k,
            top_p,
            allowed_ids,
            generator,
            cache,
            output_type,
        )
        shown = [part for prompt in prompts for pair in prompt for part in pair]
        images = [*shown, *queries]
        parts = [images[first : first + _IMAGES_AT_ONCE] for first in range(0, len(images), _IMAGES_AT_ONCE)]
        encoded = torch.cat([tokenizer.encode(part) for part in parts])
        pairs = encoded[: len(shown)].reshape(len(prompts), -1)
        asked = encoded[len(shown) :]
        number = num_answer_images * tokenizer.tokens_per_image
        ids = self.generate_ids(
            pairs,
            asked,
            number,
            num_images_per_prompt,
            choose=_chooser(temperature, top_k, top_p, generator),
            allowed_ids=self._allowed(tokenizer, allowed_ids),
            cache=cache,
        )
        images = _joined(
            [
                tokenizer.decode(part, output_type)
                for part in ids.reshape(-1, tokenizer.tokens_per_image).split(_IMAGES_AT_ONCE)
            ]
        )
        if num_answer_images > 1:
            images = _in_rows(images, num_answer_images)
        self.maybe_free_model_hooks()
        return DelvmPipelineOutput(images=images, token_ids=ids) if return_dict else (images, ids)

    def check_inputs(
        self,
        tokenizer,
        prompts,
        queries,
        num_images_per_prompt,
        num_answer_images,
        temperature,
        top_k,
        top_p,
        allowed_ids,
        generator,
        cache,
        output_type,
    ) -> None:
        whole = {"num_images_per_prompt": num_images_per_prompt, "num_answer_images": num_answer_images}
        whole |= {} if top_k is None else {"top_k": top_k}
        for name, value in whole.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}: got {value!r}, accepted are whole numbers from 1.")
        if not 0 <= temperature < float("inf"):
            raise ValueError(f"temperature: got {temperature}, accepted are numbers from 0.")
        if top_p is not None and not 0 < top_p <= 1:
            raise ValueError(f"top_p: got {top_p}, accepted are numbers above 0 up to 1.")
        for name, value, accepted in (("output_type", output_type, OUTPUT_TYPES), ("cache", cache, CACHES)):
            if value not in accepted:
                raise ValueError(f"{name}: got {value!r}, accepted are {', '.join(map(repr, accepted))}.")
        if temperature and num_images_per_prompt * len(queries) and isinstance(generator, list):
            if len(generator) != num_images_per_prompt * len(queries):
                answers = num_images_per_prompt * len(queries)
                raise ValueError(f"generator: got {len(generator)} generators for {answers} answers.")
        if not queries:
            raise ValueError("image: got an empty list.")
        lengths = sorted({len(prompt) for prompt in prompts})
        if len(lengths) > 1:
            raise ValueError(
                f"prompt_images: got {lengths[0]} and {lengths[-1]} pairs, accepted are as many for each image; call "
                "the pipeline for each number."
            )
        for number, (first, answer) in enumerate(pair for prompt in prompts for pair in prompt):
            if (of_image := size_of(first)) != (of_answer := size_of(answer)):
                raise ValueError(
                    f"prompt_images: pair {number} has an image of {_by(of_image)} pixels and an answer of "
                    f"{_by(of_answer)}, accepted are pairs of one size."
                )
        tokens = tokenizer.tokens_per_image
        context = self.language_model.config.max_position_embeddings
        if (2 * lengths[0] + 1 + num_answer_images) * tokens > context:
            most = (context // tokens - 1 - num_answer_images) // 2
            raise ValueError(
                f"prompt_images: got {lengths[0]} pairs, accepted are up to {max(0, most)} with {num_answer_images} "
                f"image(s) as answer: the language model sees {context} tokens, an image has {tokens}."
            )
        if allowed_ids is not None:
            allowed = torch.as_tensor(allowed_ids).reshape(1, -1)
            if not allowed.numel():
                raise ValueError("allowed_ids: got none.")
            check_ids(allowed, tokenizer.vocab_size, allowed.numel())

    def _allowed(self, tokenizer: DelvmImageTokenizer, allowed_ids) -> torch.Tensor | None:
        """Which of the language model's tokens an answer may not have, None where it may have all."""
        codes, tokens = tokenizer.vocab_size, self.language_model.config.vocab_size
        if allowed_ids is None and codes == tokens:
            return None
        forbidden = torch.ones(tokens, dtype=torch.bool)
        forbidden[torch.arange(codes) if allowed_ids is None else torch.as_tensor(allowed_ids).long().cpu()] = False
        return forbidden.to(tokenizer.device)

    def generate_ids(
        self,
        prompts: torch.Tensor,
        queries: torch.Tensor,
        number: int,
        repeats: int = 1,
        *,
        choose=None,
        allowed_ids: torch.Tensor | None = None,
        cache: str = "growing",
    ) -> torch.Tensor:
        """The ids that follow, (queries · repeats, number): exactly so many, whichever they are.

        A prompt that all queries share is read once, and each query once for all of its answers.

        Args:
            prompts: (1 or queries, ids). queries: (queries, ids).
            number: of ids for each answer.
            repeats: answers to each query.
            choose: (answers, tokens) logits -> (answers,) ids; by default the likeliest.
            allowed_ids: (tokens,), True for those that may not come.
            cache: see `__call__`.
        """
        model, choose = self.language_model, choose or (lambda logits: logits.argmax(-1))
        length = prompts.shape[1] + queries.shape[1] + number
        prompts = prompts.expand(len(queries), -1) if len(prompts) == 1 and cache == "static" else prompts
        if cache == "static":
            past = StaticCache(config=model.config, max_cache_len=length)
            rows = torch.cat([prompts, queries], 1).repeat_interleave(repeats, 0)
            logits = model(rows, past_key_values=past, use_cache=True, logits_to_keep=1).logits[:, -1]
        else:
            past = Cache(layers=[_GrowingLayer(length) for _ in range(model.config.num_hidden_layers)])
            if len(prompts) != len(queries) and prompts.shape[1]:
                model.base_model(prompts, past_key_values=past, use_cache=True)
                for layer in past.layers:
                    layer.repeat(len(queries))
                rows = queries
            else:
                rows = torch.cat([prompts.expand(len(queries), -1), queries], 1)
            logits = model(rows, past_key_values=past, use_cache=True, logits_to_keep=1).logits[:, -1]
            for layer in past.layers:
                layer.repeat(repeats)
            logits = logits.repeat_interleave(repeats, 0)
        if not logits.isfinite().all():
            raise ValueError(f"language_model: what it predicts is not finite, in {model.dtype}.")
        ids = torch.empty(len(logits), number, dtype=torch.long, device=logits.device)
        step = None
        if cache == "growing" and is_plain(model):
            step = step_function(model, *zip(*((s.keys, s.values) for s in past.layers), strict=True), length)
        with self.progress_bar(total=number) as progress:
            for place in range(number):
                if allowed_ids is not None:
                    logits = logits.masked_fill(allowed_ids, -torch.inf)
                ids[:, place] = choose(logits)
                progress.update()
                if place + 1 == number:
                    break
                if step is not None:
                    logits = step(ids[:, place], length - number + place)
                else:
                    logits = model(ids[:, place : place + 1], past_key_values=past, use_cache=True).logits[:, -1]
        return ids

    # ---- saving with the code, loading without running any ----

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
        for name in (here.stem, "image_tokenizer_delvm", "llama_steps"):
            source, target = here.with_name(f"{name}.py"), folder / f"{name}.py"
            if not (target.exists() and target.samefile(source)):
                shutil.copyfile(source, target)
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    @classmethod
    def _dict_from_json_file(cls, json_file: str | os.PathLike) -> dict:
        """The configuration; where this package is installed, its code is not read from beside it."""
        config = super()._dict_from_json_file(json_file)
        if cls._is_installed() and os.path.basename(json_file) == cls.config_name:
            if isinstance(config.get("_class_name"), list):
                config["_class_name"] = config["_class_name"][1]
        return config

    @classmethod
    def download(cls, pretrained_model_name: str, **kwargs) -> str:
        """Download a pipeline: weights and configuration, none of the repository's code where ours is installed."""
        if not cls._is_installed():
            return super().download(pretrained_model_name, **kwargs)
        variant = kwargs.get("variant")
        weights = [f"*/{stem}*.{kind}" for stem in ("diffusion_pytorch_model", "model") for kind in _KINDS]
        accepted = ("cache_dir", "revision", "token", "force_download", "local_files_only")
        return snapshot_download(
            pretrained_model_name,
            allow_patterns=[cls.config_name, "*/*config.json", *weights],
            ignore_patterns=None if variant else ["*/*model.fp16*", "*/*model.bf16*", "*/*model.fp32*"],
            **{name: kwargs[name] for name in accepted if kwargs.get(name) is not None},
        )

    @staticmethod
    def _is_installed() -> bool:
        """Whether this class is imported from its package, and not from a file of a repository."""
        return bool(__package__) and __package__.startswith("hf_effmodels.")


_KINDS = ("safetensors", "json")


def _is_image(value) -> bool:
    """Whether this is one image, and not a batch or a list."""
    return isinstance(value, Image.Image) or isinstance(value, (np.ndarray, torch.Tensor)) and value.ndim < 4


def _prompts(prompt_images, queries: int) -> tuple[list[list], bool]:
    """A list of pairs for each query, or one for all of them."""
    given = list(prompt_images or ())
    nested = [_is_list(entry) and (not len(entry) or _is_list(entry[0])) for entry in given]
    if any(nested):
        if not all(nested) or len(given) != queries:
            raise ValueError(
                f"prompt_images: got {len(given)} entries for {queries} images, accepted are (image, answer) pairs "
                "for all, or a list of pairs for each image."
            )
        prompts = [list(prompt) for prompt in given]
    else:
        prompts = [given]
    for prompt in prompts:
        for number, pair in enumerate(prompt):
            if not _is_list(pair) or len(pair) != 2 or not all(map(_is_image, pair)):
                got = f"{len(pair)} entries" if _is_list(pair) else type(pair).__name__
                raise ValueError(f"prompt_images: number {number} is {got}, accepted are pairs (image, answer).")
    return prompts, not any(nested)


def _is_list(value) -> bool:
    return isinstance(value, (list, tuple))


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]}"


def _chooser(temperature: float, top_k: int | None, top_p: float | None, generator):
    """(answers, tokens) logits -> (answers,) ids."""
    if not temperature:
        return lambda logits: logits.argmax(-1)
    warpers = [TemperatureLogitsWarper(float(temperature))]
    warpers += [TopKLogitsWarper(top_k)] if top_k is not None else []
    warpers += [TopPLogitsWarper(float(top_p))] if top_p is not None else []

    def choose(logits: torch.Tensor) -> torch.Tensor:
        scores = logits.float()
        for warper in warpers:
            scores = warper(None, scores)
        # In double precision, so that no number below 1 reaches ids of no probability.
        reached = scores.softmax(-1).double().cumsum(-1)
        drawn = _uniform(len(scores), generator, scores.device) * reached[:, -1:]
        return (reached <= drawn).sum(-1)

    return choose


def _uniform(rows: int, generator, device: torch.device) -> torch.Tensor:
    """(rows, 1) numbers in [0, 1), drawn where their generator is: results do not depend on the device."""
    generators = generator if isinstance(generator, list) else [generator]
    rows_each = 1 if isinstance(generator, list) else rows
    parts = [
        torch.rand(rows_each, 1, generator=one, device=device if one is None else one.device, dtype=torch.float64)
        for one in generators
    ]
    return torch.cat([part.to(device) for part in parts])


def _joined(parts: list):
    if isinstance(parts[0], list):
        return [image for part in parts for image in part]
    return np.concatenate(parts) if isinstance(parts[0], np.ndarray) else torch.cat(parts)


def _in_rows(images, length: int):
    if isinstance(images, list):
        return [images[first : first + length] for first in range(0, len(images), length)]
    return images.reshape(-1, length, *images.shape[1:])
