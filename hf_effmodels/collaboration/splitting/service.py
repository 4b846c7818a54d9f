"""A tail behind HTTP (FastAPI): limits on size, time and waiting requests, a token if asked; it only computes."""

import asyncio
import hmac
import logging
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass

import torch
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..._numbers import check_positive, check_whole
from .checks import clean_token, listen
from .halves import SplitTail
from .messages import (
    COMPUTE,
    DIGEST,
    HEALTH,
    INFO,
    MEDIA_TYPE,
    NUMBER,
    QUEUE_TIME,
    TAIL_TIME,
    pack_logits,
    unpack,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServiceLimits:
    """What a tail accepts.

    Attributes:
        max_bytes: of a request.
        max_images: of a request.
        max_pixels: of a request, all images together.
        workers: requests computed at the same time.
        queue: requests that wait beside them; more are told to come again.
        timeout: seconds for a request to arrive, and for it to be computed.
    """

    max_bytes: int = 64 * 2**20
    max_images: int = 64
    max_pixels: int = 2**25
    workers: int = 1
    queue: int = 64
    timeout: float = 30.0

    def __post_init__(self):
        check_whole(1, **{name: getattr(self, name) for name in ("max_bytes", "max_images", "max_pixels", "workers")})
        check_whole(0, queue=self.queue)
        check_positive(timeout=self.timeout)


class _Refused(Exception):
    def __init__(self, status: int, reason: str):
        self.status, self.reason = status, reason


def create_app(tail: SplitTail, *, token: str | None = None, limits: ServiceLimits | None = None) -> FastAPI:
    """The application: GET /v1/health, GET /v1/tail (what it is), POST /v1/logits.

    Args:
        tail: what is computed.
        token: heads must show it (`Authorization: Bearer ...`).
        limits: on requests.
    """
    limits = limits or ServiceLimits()
    token = clean_token(token)
    pool = ThreadPoolExecutor(limits.workers, thread_name_prefix="tail")
    channels = getattr(tail.config, "num_channels", None) or 3

    @asynccontextmanager
    async def lifespan(app: FastAPI):
        yield
        pool.shutdown(wait=False, cancel_futures=True)

    app = FastAPI(title="hf-effmodels serve-tail", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.busy = 0

    @app.exception_handler(_Refused)
    async def refuse(request: Request, refused: _Refused) -> JSONResponse:
        # The rest of what is being sent is not read.
        headers = {"connection": "close"} | ({"retry-after": "1"} if refused.status == 503 else {})
        return JSONResponse({"error": refused.reason}, refused.status, headers)

    def check_token(request: Request) -> None:
        shown = request.headers.get("authorization", "")
        if token is not None and not hmac.compare_digest(shown.encode(), f"Bearer {token}".encode()):
            raise _Refused(401, "token: it is missing or wrong.")

    @app.get(HEALTH)
    async def health() -> dict:
        return {"status": "ok"}

    @app.get(INFO)
    async def info(request: Request) -> dict:
        check_token(request)
        facts = tail.facts
        return {
            "architecture": facts.architecture,
            "at": facts.at,
            "digest": facts.digest,
            "codec": facts.codec,
            "codec_settings": facts.codec_settings,
            "max_bytes": limits.max_bytes,
            "max_images": limits.max_images,
        }

    @app.post(COMPUTE)
    async def logits(request: Request) -> Response:
        check_token(request)
        digest = request.headers.get(DIGEST)
        if digest != tail.facts.digest:
            raise _Refused(409, f"head: it belongs to another cut ({str(digest)[:12]}), not {tail.facts.digest[:12]}.")
        if app.state.busy >= limits.workers + limits.queue:
            raise _Refused(503, f"busy: {app.state.busy} requests are under way; come again.")
        app.state.busy += 1
        computing = None
        try:
            body = await _body(request, limits)
            arrived = time.perf_counter()
            computing = asyncio.get_running_loop().run_in_executor(pool, _compute, tail, body, channels, limits)
            # What runs too long goes on in its thread, and counts as busy until it ends.
            computing.add_done_callback(lambda done: (_free(app), done.cancelled() or done.exception()))
            answer, began, ended = await asyncio.wait_for(asyncio.shield(computing), limits.timeout)
        except TimeoutError as error:
            if computing is None:
                raise _Refused(408, f"timeout: the request took longer than {limits.timeout} s to arrive.") from error
            raise _Refused(504, f"timeout: computing took longer than {limits.timeout} s.") from error
        except ValueError as error:
            raise _Refused(400, str(error)) from error
        finally:
            if computing is None:
                _free(app)
        times = {TAIL_TIME: f"{1e3 * (ended - began):.3f}", QUEUE_TIME: f"{1e3 * (began - arrived):.3f}"}
        return Response(answer, media_type=MEDIA_TYPE, headers={NUMBER: request.headers.get(NUMBER, ""), **times})

    return app


def _free(app: FastAPI) -> None:
    app.state.busy -= 1


async def _body(request: Request, limits: ServiceLimits) -> bytes:
    said = request.headers.get("content-length", "")
    too_large = f"payload: it is larger than {limits.max_bytes} bytes."
    if said.isdigit() and int(said) > limits.max_bytes:
        raise _Refused(413, too_large)

    async def read() -> bytes:
        body = bytearray()
        async for piece in request.stream():
            body += piece
            if len(body) > limits.max_bytes:
                raise _Refused(413, too_large)
        return bytes(body)

    return await asyncio.wait_for(read(), limits.timeout)


def _compute(tail: SplitTail, body: bytes, channels: int, limits: ServiceLimits) -> tuple[bytes, float, float]:
    began = time.perf_counter()
    sent, shape = unpack(body, channels=channels, max_images=limits.max_images, max_pixels=limits.max_pixels)
    try:
        with torch.inference_mode():
            logits = tail({name: value.to(tail.device) for name, value in sent.items()}, shape)
    except (RuntimeError, NotImplementedError, TypeError) as error:
        logger.info("a request could not be computed", exc_info=True)
        raise ValueError(f"payload: images of shape {list(shape)} cannot be computed.") from error
    if not torch.isfinite(logits).all():
        raise ValueError("payload: it leads to logits that are not finite.")
    return pack_logits(logits), began, time.perf_counter()


def server_config(app: FastAPI, limits: ServiceLimits, **options) -> uvicorn.Config:
    """How uvicorn runs `app`: connections that say nothing end, so that they keep nobody else out."""

    class Impatient(_Impatient):
        patience = limits.timeout

    return uvicorn.Config(
        app,
        log_level="warning",
        http=Impatient,
        timeout_keep_alive=5,
        server_header=False,
        limit_concurrency=limits.workers + limits.queue + 64,  # connections that send nothing, too
        **options,
    )


class _Impatient(H11Protocol):
    """Closes connections whose next request has begun, or should, and has no whole head after `patience` seconds."""

    patience: float
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport) -> None:
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc) -> None:
        self._forget()
        super().connection_lost(exc)

    def _watch(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._forget()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(self.patience, self._give_up)

    def _forget(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        self._deadline = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()


def serve(
    tail: SplitTail,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    limits: ServiceLimits | None = None,
    listener: socket.socket | None = None,
) -> None:
    """Answer heads until the process is told to end.

    Args:
        tail: what is computed.
        host, port: by default this machine alone is answered.
        token, limits: see `create_app`.
        listener: of `listen`, where that has been done already.
    """
    limits = limits or ServiceLimits()
    app = create_app(tail, token=token, limits=limits)
    with listener or listen(host, port) as ready:
        uvicorn.Server(server_config(app, limits, host=host, port=port)).run(sockets=[ready])
