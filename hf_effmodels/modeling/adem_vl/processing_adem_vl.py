"""Images and text -> inputs of an ADEM-VL model."""

import base64
import json
import os

import torch
from huggingface_hub.utils import httpx
from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import ProcessingKwargs, ProcessorMixin
from transformers.tokenization_utils_base import AddedToken

from ...images import read_image

#: Seconds to wait for an image on another machine.
_TIMEOUT = 30.0
IMAGE_TOKEN, IMAGE_PREFIX, NO_IMAGE_TEXT = "<image>", "Image: ", "Image: N/A"
#: How the template has a text begin.
_BEGINS = "{{- 'Image: ' + (ns.images or 'N/A') -}}"
#: `Instruction: …\nResponse:…` per turn behind one prefix that says whether there is an image.
CHAT_TEMPLATE = """\
{%- set ns = namespace(images='', text='') -%}
{%- for message in messages if message.content is not string -%}
{%- for part in message.content if part.type == 'image' -%}
{%- set ns.images = ns.images + '<image>' -%}
{%- endfor -%}
{%- endfor -%}
{{- 'Image: ' + (ns.images or 'N/A') -}}
{%- for message in messages -%}
{%- set ns.text = message.content if message.content is string else '' -%}
{%- if message.content is not string -%}
{%- for part in message.content if part.type == 'text' -%}
{%- set ns.text = ns.text + part.text -%}
{%- endfor -%}
{%- endif -%}
{%- if message.role == 'user' -%}
{{- 'Instruction: ' + ns.text + '\\n' -}}
{%- elif message.role == 'assistant' -%}
{{- 'Response:' -}}
{%- generation -%}
{{- ns.text -}}
{%- endgeneration -%}
{{- '' if loop.last else '\\n' -}}
{%- else -%}
{{- ns.text + '\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- 'Response:' -}}
{%- endif -%}
"""


def _chat_template(image_token: str, image_prefix: str, no_image_text: str) -> str:
    """`CHAT_TEMPLATE` for a processor whose texts begin otherwise."""
    if (image_token, image_prefix, no_image_text) == (IMAGE_TOKEN, IMAGE_PREFIX, NO_IMAGE_TEXT):
        return CHAT_TEMPLATE
    token, prefix, nothing = (
        json.dumps(text, ensure_ascii=False) for text in (image_token, image_prefix, no_image_text)
    )
    begins = f"{{{{- {prefix} + ns.images if ns.images else {nothing} -}}}}"
    return CHAT_TEMPLATE.replace(_BEGINS, begins).replace(f"'{IMAGE_TOKEN}'", token)


class AdemVLProcessorKwargs(ProcessingKwargs, total=False):
    _defaults = {"text_kwargs": {"padding": True, "padding_side": "left"}}


class AdemVLProcessor(ProcessorMixin):
    r"""
    An image processor and a tokenizer for ADEM-VL (section 4 of its description: sequences).

    A text with an image begins with `<image>` (or `Image: <image>`, as the chat template writes it), any other text is
    one without (`Image: N/A` in front of it is the same). The ids are

    - `[bos] + enc("Image: ") + [image token] + enc(text)` with an image,
    - `[bos] + enc("Image: N/A") + enc(text)` without,
    - `[bos] + enc(text)` for models without class token.

    The pieces are encoded on their own, as in training: sentencepiece puts a space before each.

    Args:
        image_processor: of the statistics the checkpoint was trained with; 224×224 without cropping.
        tokenizer: the decoder's. It gets the image token, behind its vocabulary, and a padding token if it has none.
        chat_template: for conversations, by default `Instruction: …\nResponse:` behind what the texts below say.
        image_token: stands for the image in texts.
        image_prefix, no_image_text: what stands before the image token, and instead of both.
        use_cls_token: as in the model's configuration.
    """

    valid_processor_kwargs = AdemVLProcessorKwargs

    def __init__(
        self,
        image_processor=None,
        tokenizer=None,
        chat_template: str | None = None,
        image_token: str = IMAGE_TOKEN,
        image_prefix: str = IMAGE_PREFIX,
        no_image_text: str = NO_IMAGE_TEXT,
        use_cls_token: bool = True,
        **kwargs,
    ):
        if image_token not in tokenizer.get_vocab():
            tokenizer.add_tokens([AddedToken(image_token, special=True, normalized=False)], special_tokens=True)
        if tokenizer.pad_token is None:
            # LLaMA's official padding is id 0, its unknown token.
            tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
        self.image_token = image_token
        self.image_token_id = tokenizer.convert_tokens_to_ids(image_token)
        self.image_prefix = image_prefix
        self.no_image_text = no_image_text
        self.use_cls_token = use_cls_token
        if chat_template in (None, CHAT_TEMPLATE):
            chat_template = _chat_template(image_token, image_prefix, no_image_text)
        super().__init__(image_processor, tokenizer, chat_template=chat_template, **kwargs)

    def __call__(self, images=None, text=None, videos=None, audio=None, **kwargs) -> BatchFeature:
        """
        Args:
            images: one image for each text that begins with the image token, in order: an image, a list, or a list of
                lists (one for each text). Images, files and addresses are read as in training (`images.read_image`):
                16 bits are scaled to 8, and the camera's rotation is applied.
            text: a text or a list of texts.
            kwargs: of the tokenizer (`padding`, left by default; `truncation` with `max_length`, which cuts the
                tail) and of the image processor. With `return_offsets_mapping`, which `apply_chat_template` asks for
                to tell the assistant's tokens, `offset_mapping` has the place of each token in its text.

        Returns:
            `input_ids`, `attention_mask`, with images `pixel_values`, and for models without class token `image_mask`.

        Raises:
            ValueError: texts and images do not correspond, or there is no text.
            NotImplementedError: offsets of a tokenizer that does not know them.
        """
        if videos is not None or audio is not None:
            raise ValueError("videos, audio: an ADEM-VL model takes images and text only.")
        texts = [text] if isinstance(text, str) else list(text or [])
        if not texts or not all(isinstance(t, str) for t in texts):
            raise ValueError(f"text: got {text!r}, accepted is a text or a list of texts.")
        settings = self._merge_kwargs(
            AdemVLProcessorKwargs, tokenizer_init_kwargs=self.tokenizer.init_kwargs, **kwargs
        )
        text_settings = dict(settings["text_kwargs"])
        return_tensors = text_settings.pop("return_tensors", None)
        rows = [self._split(t) for t in texts]
        images = self._checked(images, [has_image for has_image, _ in rows])
        ids = [self._encode(has_image, rest, text_settings) for has_image, rest in rows]
        data = self._padded(ids, text_settings)
        if text_settings.get("return_offsets_mapping"):
            data["offset_mapping"] = [
                self._offsets(text, row, side_by_side, text_settings)
                for text, row, side_by_side in zip(texts, rows, data["input_ids"], strict=True)
            ]
        if images:
            data |= self.image_processor(images, **{**settings["images_kwargs"], "return_tensors": return_tensors})
        if not self.use_cls_token and images:
            mask = [has_image for has_image, _ in rows]
            data["image_mask"] = torch.tensor(mask) if return_tensors == "pt" else mask
        return BatchFeature(data, tensor_type=return_tensors)

    def _split(self, text: str) -> tuple[bool, str]:
        """Whether the text has an image, and what follows the prefix."""
        count = text.count(self.image_token)
        if count > 1:
            raise ValueError(f"text: {text!r} has {count} image tokens; the model looks at one image per text.")
        for start in (self.image_prefix + self.image_token, self.image_token):
            if text.startswith(start):
                return True, text.removeprefix(start)
        if count:
            raise ValueError(f"text: {text!r} has its image token inside; write {self.image_token} at its start.")
        return False, text.removeprefix(self.no_image_text)

    def _checked(self, images, slots: list[bool]) -> list:
        """The images as a flat list that fits the texts."""
        nested = isinstance(images, (list, tuple)) and any(isinstance(row, (list, tuple)) for row in images)
        if nested and len(images) == len(slots):
            for index, (row, slot) in enumerate(zip(images, slots, strict=True)):
                if (count := len(_flat(row))) != slot:
                    raise ValueError(self._mismatch(f"text {index} has {int(slot)}", count))
        flat = _flat(images)
        if len(flat) != sum(slots):
            raise ValueError(self._mismatch(f"the texts have {sum(slots)}", len(flat)))
        return [read_image(_fetched(image), 3) if _is_picture(image) else image for image in flat]

    def _mismatch(self, slots: str, given: int) -> str:
        return (
            f"images: got {given}, but {slots} place(s) for one. Begin each text that has an image with "
            f"{self.image_token} (or use the chat template), and give one image for each."
        )

    def prefix_ids(self, has_image: bool) -> list[int]:
        """What stands before the text: the start token, and whether there is an image (with its place)."""
        ids = [] if self.tokenizer.bos_token_id is None else [self.tokenizer.bos_token_id]
        if not self.use_cls_token:
            return ids
        if has_image:
            return [*ids, *self._piece(self.image_prefix), self.image_token_id]
        return ids + self._piece(self.no_image_text)

    def _piece(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _encode(self, has_image: bool, rest: str, settings: dict) -> list[int]:
        ids = self.prefix_ids(has_image) + self._piece(rest)
        if not settings.get("add_special_tokens", True) and self.tokenizer.bos_token_id is not None:
            ids = ids[1:]
        return ids[: settings["max_length"]] if settings.get("truncation") and settings.get("max_length") else ids

    def _offsets(self, text: str, row: tuple[bool, str], ids: list[int], settings: dict) -> list[tuple[int, int]]:
        """Start and end in `text` of each of its tokens, padding included; (0, 0) for those that are not in it."""
        has_image, rest = row
        start = len(text) - len(rest)
        prefix = len(self._encode(has_image, "", settings))
        encoded = self.tokenizer(rest, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        offsets = [(0, 0)] * prefix + [(start + first, start + last) for first, last in encoded]
        if settings.get("truncation") and settings.get("max_length"):
            offsets = offsets[: settings["max_length"]]
        padding = [(0, 0)] * (len(ids) - len(offsets))
        left = (settings.get("padding_side") or self.tokenizer.padding_side) == "left"
        return padding + offsets if left else offsets + padding

    def _padded(self, ids: list[list[int]], settings: dict) -> dict:
        names = ("padding", "max_length", "pad_to_multiple_of", "padding_side")
        padding = {name: settings[name] for name in names if settings.get(name) is not None}
        rows = {"input_ids": ids, "attention_mask": [[1] * len(row) for row in ids]}
        return dict(self.tokenizer.pad(rows, **padding)) if padding.get("padding") else rows

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", "pixel_values", *([] if self.use_cls_token else ["image_mask"])]


def _is_picture(image) -> bool:
    """Whether the image reader takes it; other arrays and tensors are the image processor's own."""
    dtype = getattr(image, "dtype", None)
    return dtype is None or getattr(dtype, "name", None) == "uint16"  # in either order of bytes


def _fetched(image):
    """The bytes behind an address or a base64 text; what is neither, as it is."""
    if not isinstance(image, str) or os.path.isfile(image):
        return image
    if image.startswith(("http://", "https://")):
        return httpx.get(image, timeout=_TIMEOUT, follow_redirects=True).raise_for_status().content
    try:
        return base64.b64decode(image.partition(",")[2] if image.startswith("data:") else image, validate=True)
    except ValueError:
        raise ValueError(
            f"images: got {image[:80]!r}, accepted are images, arrays, tensors, image files, addresses (http://, "
            "https://) and base64 texts."
        ) from None


def _flat(images) -> list:
    if images is None:
        return []
    if isinstance(images, (list, tuple)):
        return [image for row in images for image in _flat(row)]
    if getattr(images, "ndim", 3) == 4:
        return list(images)
    return [images]


__all__ = ["AdemVLProcessor"]
