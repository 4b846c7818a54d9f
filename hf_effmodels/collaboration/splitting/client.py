"""A classifier whose tail runs elsewhere."""

import http.client
import json
import math
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import torch

from ..._numbers import check_from_zero, check_positive, check_whole
from .checks import check_address, clean_token
from .halves import SplitHead
from .messages import (
    COMPUTE,
    DIGEST,
    INFO,
    MEDIA_TYPE,
    NUMBER,
    QUEUE_TIME,
    TAIL_TIME,
    pack,
    unpack_logits,
)

#: Statuses after which the same request may succeed.
_COME_AGAIN = (429, 502, 503)
_FIRST_WAIT, _LONGEST_WAIT = 0.05, 1.0
_MOST_ANSWER = 64 * 2**20
#: Seconds that a clock can wait.
_LONGEST = threading.TIMEOUT_MAX


@dataclass(frozen=True)
class SplitOutput:
    """An answer.

    Attributes:
        logits: (images, labels).
        bytes_sent, bytes_received: of the bodies, for all images.
        milliseconds: `head` (with encoding), `link` (there and back, without the tail), `queue` (waiting at the tail)
            and `tail`.
        attempts: how often it was sent.
    """

    logits: torch.Tensor
    bytes_sent: int
    bytes_received: int
    milliseconds: dict[str, float]
    attempts: int


class SplitClassifier:
    """`SplitClassifier("head", "http://127.0.0.1:8000")("cat.jpg")`, as transformers' pipeline answers.

    Args:
        head: a `SplitHead`, its folder or its id on the Hub; or an `ImageHead`, which sends images as they are.
        url: where its tail is served.
        token: of the service, if it asks for one.
        timeout: seconds for one attempt.
        patience: seconds in which requests that failed on their way are repeated.
        bandwidth: simulate a link of so many bits per second, there and back; None for the real one.

    Threads may share it.
    """

    def __init__(
        self,
        head: SplitHead | str | Path,
        url: str,
        *,
        token: str | None = None,
        timeout: float = 10.0,
        patience: float = 30.0,
        bandwidth: float | None = None,
    ):
        check_address(url)
        check_positive(timeout=timeout)
        if bandwidth is not None:
            check_positive(bandwidth=bandwidth)
        if patience != math.inf:
            check_from_zero(patience=patience)
        self.url, self.token = url, clean_token(token)
        self.head = SplitHead.from_pretrained(head) if isinstance(head, str | Path) else head
        known = hasattr(self.head, "facts") and hasattr(self.head, "config")
        if not known or getattr(self.head, "half", "head") != "head":
            raise ValueError(f"head: got {type(head).__name__}, accepted are a SplitHead, its folder and its id.")
        self.timeout, self.patience, self.bandwidth = timeout, patience, bandwidth

    def __call__(self, images, top_k: int = 5, *, width: int | None = None) -> list:
        """The likeliest classes, `[{"label": ..., "score": ...}, ...]`, of each image.

        Args:
            images: a path, an address, a PIL image; or a list of them, which gives a list of answers. They are read
                as in training (`hf_effmodels.images.read_image`).
            top_k: how many classes.
            width: see `logits`.
        """
        check_whole(1, top_k=top_k)
        if self.head.processor is None:
            raise ValueError("head: it has no image processor; give split() one, or call logits(pixel_values).")
        several = isinstance(images, Sequence) and not isinstance(images, (str, bytes))
        channels = getattr(self.head.config, "num_channels", None) or 3
        loaded = [_read(image, channels) for image in (images if several else [images])]
        if not loaded:
            return []
        pixels = self.head.processor(loaded, return_tensors="pt")["pixel_values"]
        scores = self.logits(pixels, width=width).logits.float().softmax(-1)
        names = self.head.config.id2label
        answers = []
        for row in scores:
            best = row.topk(min(top_k, len(row)))
            pairs = zip(best.values.tolist(), best.indices.tolist(), strict=True)
            answers.append([{"label": names[index], "score": score} for score, index in pairs])
        return answers if several else answers[0]

    def logits(self, pixel_values: torch.Tensor, *, width: int | None = None) -> SplitOutput:
        """The answer for images (images, channels, height, width), and what it took.

        Args:
            width: of the encoder for this request, where the head's codec has several (`head.codec.widths`): a
                smaller one computes and sends less.

        Raises:
            ValueError: what is no images; the tail refuses the request: it is of another cut, or they are too many.
            PermissionError: the token is wrong.
            ConnectionError: no answer within `patience`.
        """
        channels = getattr(self.head.config, "num_channels", None) or 3
        is_tensor = isinstance(pixel_values, torch.Tensor)
        if not is_tensor or pixel_values.ndim != 4 or pixel_values.shape[1] != channels:
            got = tuple(pixel_values.shape) if is_tensor else f"no tensor but {type(pixel_values).__name__}"
            raise ValueError(f"pixel_values: got {got}, accepted are (images, {channels}, height, width).")
        began = time.perf_counter()
        weight = next((p for p in self.head.network.parameters() if p.device.type != "meta"), None)
        if weight is not None:
            pixel_values = pixel_values.to(weight.device, weight.dtype)
        body = pack(self.head(pixel_values, width=width), tuple(pixel_values.shape))
        packed = time.perf_counter()
        number, give_up = uuid.uuid4().hex, packed + self.patience
        headers = {"content-type": MEDIA_TYPE, DIGEST: self.head.facts.digest, NUMBER: number}
        wait, attempts = _FIRST_WAIT, 0
        while True:
            attempts += 1
            sent = time.perf_counter()
            try:
                self._take_time(len(body))
                status, answered, answer = self._request("POST", COMPUTE, body, headers)
                reason = _reason(answer) if status != 200 else ""
                if status not in _COME_AGAIN:
                    break
            except (OSError, http.client.HTTPException) as error:
                reason = str(error) or type(error).__name__
            if time.perf_counter() + wait > give_up:
                raise ConnectionError(f"url: {self.url} gives no answer after {attempts} attempts: {reason}")
            time.sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT)
        if status == 401:
            raise PermissionError(f"{self.url}: {reason}")
        if status == 504:
            raise ConnectionError(f"{self.url}: {reason}")
        if status != 200:
            raise ValueError(f"{self.url} refuses ({status}): {reason}")
        if answered.get(NUMBER) != number:
            raise ValueError(f"{self.url}: an answer to another request.")
        self._take_time(len(answer))
        logits = unpack_logits(answer, len(pixel_values))
        tail, queue = (float(answered.get(name, "nan")) for name in (TAIL_TIME, QUEUE_TIME))
        link = 1e3 * (time.perf_counter() - sent) - tail - queue
        times = {"head": 1e3 * (packed - began), "link": link, "queue": queue, "tail": tail}
        return SplitOutput(logits, len(body), len(answer), times, attempts)

    def info(self) -> dict:
        """What the tail says of itself.

        Raises:
            PermissionError: the token is wrong. ConnectionError: nobody answers there, or no tail.
        """
        try:
            status, _, answer = self._request("GET", INFO, None, {})
        except (OSError, http.client.HTTPException) as error:
            raise ConnectionError(f"url: {self.url} gives no answer: {str(error) or type(error).__name__}") from error
        if status == 401:
            raise PermissionError(f"{self.url}: {_reason(answer)}")
        if status != 200:
            raise ConnectionError(f"{self.url}: {_reason(answer)}")
        try:
            return dict(json.loads(answer))
        except (ValueError, TypeError) as error:
            raise ConnectionError(f"url: {self.url} is no tail: it answers {_reason(answer)[:80]!r}") from error

    def _take_time(self, size: int) -> None:
        if self.bandwidth is not None:
            time.sleep(min(8 * size / self.bandwidth, _LONGEST))

    def _request(self, method: str, path: str, body: bytes | None, headers: dict) -> tuple[int, dict, bytes]:
        parts = urlsplit(self.url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.hostname, parts.port, timeout=min(self.timeout, _LONGEST))
        if self.token is not None:
            headers = {**headers, "authorization": f"Bearer {self.token}"}
        try:
            connection.request(method, parts.path.rstrip("/") + path, body, headers)
            response = connection.getresponse()
            answer = response.read(_MOST_ANSWER + 1)
            if len(answer) > _MOST_ANSWER:
                raise ValueError(f"{self.url}: an answer of more than {_MOST_ANSWER} bytes.")
            if method == "POST" and response.length:
                raise http.client.IncompleteRead(answer)
            return response.status, {name.lower(): value for name, value in response.getheaders()}, answer
        finally:
            connection.close()


def _read(image, num_channels: int):
    """A picture in the model's channels; addresses are fetched by transformers."""
    from ...images import image_name, read_image

    if isinstance(image, str) and image.startswith(("http://", "https://")):
        from transformers.image_utils import load_image

        image = load_image(image)
    try:
        return read_image(image, num_channels)
    except (ValueError, OSError) as error:
        raise type(error)(f"images: {image_name(image) or 'an image'}: {error}") from error


def _reason(answer: bytes) -> str:
    try:
        return str(json.loads(answer)["error"])
    except (ValueError, KeyError, TypeError):
        return answer[:200].decode(errors="replace")
