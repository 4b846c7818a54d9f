"""A tail behind HTTP: nothing lost, nothing mixed up, nothing executed."""

import http.client
import http.server
import json
import pickle
import re
import socket
import threading
import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
import uvicorn
from PIL import Image
from safetensors.torch import save
from transformers import ViTImageProcessorPil

from hf_effmodels.collaboration.codecs.wire import UniformCodec
from hf_effmodels.collaboration.splitting import SplitClassifier, client, service, split
from hf_effmodels.collaboration.splitting.messages import (
    COMPUTE,
    DIGEST,
    NUMBER,
    QUEUE_TIME,
    TAIL_TIME,
    pack,
    pack_logits,
    unpack,
    unpack_logits,
)
from hf_effmodels.collaboration.splitting.service import ServiceLimits, create_app, listen, serve, server_config
from hf_effmodels.images import read_image

from .test_splitting import resnet


@contextmanager
def served(tail, port: int = 0, **options):
    """The address of a running service."""
    listener = listen("127.0.0.1", port)
    limits = options.get("limits") or ServiceLimits()
    server = uvicorn.Server(server_config(create_app(tail, **options), limits, timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()


@pytest.fixture(scope="module")
def halves():
    processor = ViTImageProcessorPil(size={"height": 32, "width": 32})
    return split(resnet(), "stages.0", processor=processor)


@pytest.fixture(scope="module")
def address(halves):
    with served(halves[1]) as url:
        yield url


def ask(url: str, body: bytes, **headers) -> tuple[int, bytes]:
    host = url.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=20)
    try:
        connection.request("POST", COMPUTE, body, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def test_a_picture_is_classified_over_the_link_as_by_the_whole(halves, address):
    model, client = resnet(), SplitClassifier(halves[0], address)
    picture = Image.effect_noise((40, 30), 80).convert("RGB")
    answer = client(picture, top_k=2)
    pixels = halves[0].processor(picture, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        scores = model(pixels).logits.softmax(-1)[0]
    assert [a["label"] for a in answer] == [f"LABEL_{i}" for i in scores.topk(2).indices.tolist()]
    assert [a["score"] for a in answer] == pytest.approx(scores.topk(2).values.tolist())
    second = client([picture.rotate(90), picture], top_k=2)[1]
    assert second[0]["label"] == answer[0]["label"] and second[0]["score"] == pytest.approx(answer[0]["score"])
    assert client([]) == []
    output = client.logits(pixels)
    assert output.bytes_sent == len(pack(halves[0](pixels), (1, 3, 32, 32))) and output.attempts == 1
    assert output.bytes_received > 5 * 4 and all(v >= 0 for v in output.milliseconds.values())
    assert client.info()["at"] == "resnet.encoder.stages.0"


def test_many_clients_lose_nothing_and_mix_up_nothing(halves, address):
    images = [torch.randn(1 + i % 2, 3, 32, 32) for i in range(8)]
    expected = [halves[1](halves[0](x), tuple(x.shape)) for x in images]

    def work(i: int) -> bool:
        client = SplitClassifier(halves[0], address)
        return all(torch.equal(client.logits(images[i]).logits, expected[i]) for _ in range(20))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


def test_clients_wait_for_a_tail_that_comes_back(halves):
    pixels = torch.randn(1, 3, 32, 32)
    with served(halves[1]) as url:
        client = SplitClassifier(halves[0], url, patience=20)
        expected = client.logits(pixels).logits
    with pytest.raises(ConnectionError, match=r"gives no answer after [2-5] attempts"):  # ever less often
        SplitClassifier(halves[0], url, patience=0.2).logits(pixels)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.logits, pixels)
        time.sleep(0.3)
        with served(halves[1], port=int(url.rpartition(":")[2])):
            output = waiting.result(20)
    assert output.attempts > 1 and torch.equal(output.logits, expected)


class Harmful:
    def __reduce__(self):
        return (open, ("/nowhere/at/all", "w"))


def test_what_is_no_question_is_refused_and_the_service_goes_on(halves, address):
    digest = halves[1].facts.digest
    good = halves[0](torch.randn(1, 3, 32, 32))
    shape = (1, 3, 32, 32)
    for body, message in (
        (b"", "no safetensors"),
        (pickle.dumps(Harmful()), "no safetensors"),
        (pack(good, shape)[:-10], "no safetensors"),
        (b"\xff" * 64, "no safetensors"),
        (save(good), "four whole numbers"),
        (pack(good, (65, 3, 32, 32)), "65 images"),
        (pack(good, (0, 3, 32, 32)), "0 images"),
        (pack(good, (1, 4, 32, 32)), "3 channels"),
        (pack(good, (2, 3, 8192, 4096)), "67108864 pixels"),
        (pack(good, (1, 3, 20000, 32)), "sides of 1 to 16384"),
        (pack(good, (1, 3, 64, 32)), "expected torch.float32"),
        (pack({"features": good["features"].double()}, shape), "expected torch.float32"),
        (pack({"other": good["features"]}, shape), "accepted are"),
        (pack({"features": good["features"] * float("nan")}, shape), "logits that are not finite"),
    ):
        status, said = ask(address, body, **{DIGEST: digest})
        assert status == 400 and message in said.decode(), (message, said)
    status, said = ask(address, pack(good, shape), **{DIGEST: "0" * 64})
    assert status == 409 and b"another cut" in said
    assert ask(address, pack(good, shape))[0] == 409
    status, said = ask(address, pack(good, shape), **{DIGEST: digest, NUMBER: "7"})
    assert status == 200 and unpack_logits(said, 1).shape == (1, 5)


def test_a_head_of_another_network_is_told_so(halves, address):
    model = resnet()
    with torch.no_grad():
        model.classifier[1].bias += 1
    other, _ = split(model, "stages.0")
    with pytest.raises(ValueError, match="refuses .409.: head: it belongs to another cut"):
        SplitClassifier(other, address).logits(torch.randn(1, 3, 32, 32))
    coded, _ = split(resnet(), "stages.0", codec=UniformCodec(8))
    with pytest.raises(ValueError, match="another cut"):
        SplitClassifier(coded, address).logits(torch.randn(1, 3, 32, 32))


def test_limits_hold(halves):
    head, tail = halves
    pixels, digest = torch.randn(2, 3, 32, 32), tail.facts.digest
    limits = ServiceLimits(max_bytes=3000, max_images=2, timeout=0.5)
    with served(tail, token="secret", limits=limits) as url:
        with pytest.raises(PermissionError, match="token: it is missing or wrong"):
            SplitClassifier(head, url, token="guess").logits(pixels[:1])
        client = SplitClassifier(head, url, token="secret")
        assert client.logits(pixels[:1]).logits.shape == (1, 5)
        with pytest.raises(ValueError, match="larger than 3000 bytes"):
            client.logits(pixels)
        # Without a length, and one that never ends: counted, and given up in time.
        host, port = url.removeprefix("http://").split(":")
        start = f"POST {COMPUTE} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer secret\r\n{DIGEST}: {digest}\r\n"
        chunk = b"1000\r\n" + bytes(4096) + b"\r\n"
        for rest, expected in (
            (b"transfer-encoding: chunked\r\n\r\n" + chunk, b"413"),
            (b"content-length: 9\r\n\r\n1", b"408"),
        ):
            with socket.create_connection((host, int(port)), timeout=20) as plain:
                plain.sendall(start.encode() + rest)
                assert expected in plain.recv(4096).split(b"\r\n")[0]
        assert client.logits(pixels[:1]).attempts == 1


def test_a_busy_tail_says_so_and_clients_come_again(halves):
    head, tail = halves
    inside, go_on = threading.Event(), threading.Event()

    class Slow:
        facts, config, device = tail.facts, tail.config, tail.device

        def __call__(self, *args):
            inside.set()
            assert go_on.wait(20)
            return tail(*args)

    pixels = torch.randn(1, 3, 32, 32)
    with served(Slow(), limits=ServiceLimits(workers=1, queue=0)) as url, ThreadPoolExecutor(2) as pool:
        first = pool.submit(SplitClassifier(head, url).logits, pixels)
        assert inside.wait(20)
        status, said = ask(url, pack(head(pixels), (1, 3, 32, 32)), **{DIGEST: tail.facts.digest})
        assert status == 503 and b"come again" in said
        second = pool.submit(SplitClassifier(head, url).logits, pixels)
        time.sleep(0.1)
        go_on.set()
        assert first.result(20).attempts == 1 and second.result(20).attempts > 1
    go_on.clear()
    with served(Slow(), limits=ServiceLimits(timeout=0.2)) as url:
        with pytest.raises(ConnectionError, match="computing took longer than 0.2 s"):
            SplitClassifier(head, url).logits(pixels)
        go_on.set()


def test_a_simulated_link_takes_its_time(halves, address):
    pixels = torch.randn(1, 3, 32, 32)
    fast = SplitClassifier(halves[0], address).logits(pixels)
    slow = SplitClassifier(halves[0], address, bandwidth=2e5).logits(pixels)
    assert slow.milliseconds["link"] >= 1e3 * 8 * (slow.bytes_sent + slow.bytes_received) / 2e5
    assert torch.equal(fast.logits, slow.logits)


def test_wrong_clients_and_services_are_named(halves):
    head, tail = halves
    for options, message in (
        ({"url": "localhost:80"}, "url: got"),
        ({"url": "file:///etc"}, "url: got"),
        ({"bandwidth": 0}, "bandwidth: got 0"),
        ({"bandwidth": float("inf")}, "bandwidth: got inf"),
        ({"timeout": -1}, "timeout: got -1"),
        ({"patience": -1}, "patience: got -1"),
        ({"token": 3}, "token: got a int, accepted is a text"),
        ({"url": "http://x:0"}, "url: got 'http://x:0'"),
        ({"url": "http://"}, "url: got 'http://'"),
        ({"head": tail}, "head: got SplitTail, accepted are a SplitHead, its folder and its id"),
        ({"head": None}, "head: got NoneType, accepted are a SplitHead"),
    ):
        with pytest.raises(ValueError, match=message):
            SplitClassifier(**{"head": head, "url": "http://127.0.0.1:1", **options})
    for options in ({"max_bytes": 0}, {"max_images": 1.5}, {"workers": 0}, {"queue": -1}, {"timeout": 0.0}):
        with pytest.raises(ValueError, match=f"{next(iter(options))}: got"):
            ServiceLimits(**options)
    with pytest.raises(ValueError, match="token: it is empty"):
        create_app(tail, token="")
    for token in ("geheim\u00e9", "two words", "a\nb"):
        for refuse in (lambda t: create_app(tail, token=t), lambda t: SplitClassifier(head, "http://x", token=t)):
            with pytest.raises(ValueError, match="token: accepted are") as refused:
                refuse(token)
            assert token not in str(refused.value)
    with pytest.raises(ValueError, match="url: got 'http://x:abc'"):
        SplitClassifier(head, "http://x:abc")
    for shape in ((3, 32, 32), (1, 1, 32, 32)):
        with pytest.raises(ValueError, match="pixel_values: got .*, accepted are .images, 3, height, width"):
            SplitClassifier(head, "http://x").logits(torch.zeros(shape))
    with pytest.raises(ValueError, match="top_k: got 0"):
        SplitClassifier(head, "http://x")(Image.new("RGB", (8, 8)), top_k=0)
    with pytest.raises(ValueError, match="pixel_values: got no tensor but list, accepted are .images, 3, height"):
        SplitClassifier(head, "http://x").logits([1])
    bare = SimpleNamespace(facts=head.facts, config=SimpleNamespace(), processor=None)
    with pytest.raises(ValueError, match=r"accepted are \(images, 3, height, width\)"):
        SplitClassifier(bare, "http://x").logits(torch.zeros(1, 4, 8, 8))
    with pytest.raises(ValueError, match=r"head: it has no image processor; give split\(\) one, or call logits"):
        SplitClassifier(bare, "http://x")(Image.new("RGB", (8, 8)))
    with listen("127.0.0.1", 0) as taken, pytest.raises(OSError, match="host, port: .* in use"):
        listen("127.0.0.1", taken.getsockname()[1])


def test_a_tail_says_what_it_is_to_who_may_ask(halves):
    head, tail = halves
    with served(tail, token="secret", limits=ServiceLimits(max_bytes=3000, max_images=2)) as url:
        with pytest.raises(PermissionError, match="token: it is missing or wrong"):
            SplitClassifier(head, url).info()
        assert SplitClassifier(head, url, token="secret").info() == {
            "architecture": "ResNetForImageClassification", "at": "resnet.encoder.stages.0",
            "digest": tail.facts.digest, "codec": "raw", "codec_settings": {}, "max_bytes": 3000, "max_images": 2,
        }  # fmt: skip
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=20)
        connection.request("GET", "/v1/health")
        assert connection.getresponse().read() == b'{"status":"ok"}'
        connection.close()


def test_pictures_at_addresses_are_fetched(halves, address, monkeypatch):
    picture = Image.effect_noise((40, 30), 80).convert("RGB")
    monkeypatch.setattr("transformers.image_utils.load_image", lambda where: {"https://x/cat.jpg": picture}[where])
    client = SplitClassifier(halves[0], address)
    assert client("https://x/cat.jpg") == client(picture) and len(client(picture)) == 5


def test_five_classes_are_named_where_no_number_is_asked_for(monkeypatch):
    """As by transformers' pipeline."""
    scores = torch.tensor([[0.5, 3.0, 1.0, -2.0, 2.0, -1.0, 0.0]])
    config = SimpleNamespace(id2label=dict(enumerate("abcdefg")))
    processor = lambda images, return_tensors: {"pixel_values": torch.zeros(len(images), 3, 8, 8)}  # noqa: E731
    client = SplitClassifier(SimpleNamespace(facts=None, config=config, processor=processor), "http://x")
    monkeypatch.setattr(client, "logits", lambda pixels, width: SimpleNamespace(logits=scores))
    assert [row["label"] for row in client(Image.new("RGB", (8, 8)))] == ["b", "e", "c", "a", "g"]


class Garbled(http.server.BaseHTTPRequestHandler):
    """Somebody else's server: pages, and no HTTP at all."""

    def do_GET(self):
        if self.server.garbled:
            self.wfile.write(b"\x00\x01 no status line\r\n\r\n")
            return
        self.send_response(404 if b"not here" in self.server.page else 200)
        self.end_headers()
        self.wfile.write(self.server.page)

    def log_message(self, *args):
        pass


def test_who_is_no_tail_is_told_by_what_it_answers(halves):
    with listen("127.0.0.1", 0) as taken:
        nobody = f"http://127.0.0.1:{taken.getsockname()[1]}"
    with pytest.raises(ConnectionError, match=f"url: {nobody} gives no answer: .*refused"):
        SplitClassifier(halves[0], nobody).info()
    with http.server.HTTPServer(("127.0.0.1", 0), Garbled) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        client = SplitClassifier(halves[0], f"http://127.0.0.1:{server.server_port}")
        for server.garbled, server.page, message in (
            (False, b"<html>welcome", "is no tail: it answers '<html>welcome'"),
            (False, b"3", "is no tail: it answers '3'"),
            (False, b'{"error": "not here"}', f"^{client.url}: not here$"),
            (True, b"", "gives no answer: "),
        ):
            with pytest.raises(ConnectionError, match=message):
                client.info()
        server.shutdown()
    with pytest.raises(ValueError, match="answer: 4 bytes that are no safetensors"):
        unpack_logits(b"page", 1)
    with pytest.raises(ValueError, match="answer: its logits are not finite"):
        unpack_logits(pack_logits(torch.tensor([[1.0, float("nan")]])), 1)
    with pytest.raises(ValueError, match="answer: it holds no logits of 2 images"):
        unpack_logits(save({"other": torch.zeros(2, 3)}), 2)
    for shape in ((3, 5), (1, 5), (2,), (2, 5, 1)):
        with pytest.raises(ValueError, match="answer: it holds no logits of 2 images"):
            unpack_logits(pack_logits(torch.zeros(shape)), 2)
    assert unpack_logits(pack_logits(torch.ones(2, 5)), 2).tolist() == [[1.0] * 5] * 2


class Mirror(http.server.BaseHTTPRequestHandler):
    """Says by which path it was asked."""

    def do_GET(self):
        self.say(200, "asked")

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.say(400, "error")

    def say(self, status: int, name: str):
        answer = json.dumps({name: self.path}).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args):
        pass


def test_a_tail_below_a_path_is_asked_there(halves):
    """As behind a server that hands on what lies below a prefix."""
    with http.server.HTTPServer(("127.0.0.1", 0), Mirror) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        for path, below in (("", ""), ("/", ""), ("/tails", "/tails"), ("/tails/", "/tails"), ("/a/b", "/a/b")):
            client = SplitClassifier(halves[0], f"http://127.0.0.1:{server.server_port}{path}")
            assert client.info() == {"asked": f"{below}/v1/tail"}
            with pytest.raises(ValueError, match=rf"refuses \(400\): {below}/v1/logits$"):
                client.logits(torch.zeros(1, 3, 32, 32))
        server.shutdown()


@pytest.mark.parametrize(
    "url, reached",
    [
        ("https://models.example.org:8443/tail", ("secure", "models.example.org", 8443)),
        ("HTTPS://x", ("secure", "x", None)),
        ("http://[::1]:80", ("plain", "::1", 80)),
    ],
)
def test_a_tail_is_reached_as_its_address_says(halves, url, reached, monkeypatch):
    for name, kind in (("HTTPSConnection", "secure"), ("HTTPConnection", "plain")):

        def refuse(host, port, timeout, kind=kind):
            raise OSError(f"{(kind, host, port)} within {timeout} s")

        monkeypatch.setattr(http.client, name, refuse)
    with pytest.raises(ConnectionError, match=re.escape(f"{reached} within 2.5 s")):
        SplitClassifier(halves[0], url, timeout=2.5).info()


def test_connections_that_say_nothing_keep_nobody_out(halves):
    head, tail = halves
    limits = ServiceLimits(queue=0, timeout=0.3)
    with served(tail, token=" secret\n", limits=limits) as url:
        host, port = url.removeprefix("http://").split(":")
        silent = [socket.create_connection((host, int(port)), timeout=20) for _ in range(80)]
        # One is answered first, and one begins to speak.
        silent[0].sendall(b"GET /v1/health HTTP/1.1\r\nhost: x\r\n\r\n")
        silent[1].sendall(b"POST /v1/logits HTTP/1.1\r\n")
        time.sleep(0.1)
        silent[0].sendall(b"GET")
        assert SplitClassifier(head, url, token="secret\n").logits(torch.randn(1, 3, 32, 32)).logits.shape == (1, 5)
        for connection in silent:
            while connection.recv(4096):
                pass
            connection.close()


def test_pictures_are_read_as_in_training(halves, address, tmp_path):
    deep = torch.arange(0, 65536, 64, dtype=torch.int32).view(32, 32).numpy().astype("uint16")
    Image.fromarray(deep).save(tmp_path / "deep.png")
    client = SplitClassifier(halves[0], address)
    answer = client([tmp_path / "deep.png", Image.open(tmp_path / "deep.png"), read_image(tmp_path / "deep.png")])
    assert answer[0] == answer[1] == answer[2]
    assert answer[0] != client(Image.new("RGB", (32, 32), "white"))
    (tmp_path / "no.png").write_text("no picture")
    with pytest.raises(OSError, match=r"images: .*no\.png: the file is not an image"):
        client(tmp_path / "no.png")


def test_an_answer_to_somebody_else_is_none(halves, monkeypatch):
    class Confused(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["content-length"]))
            number, answer = self.headers[NUMBER], pack_logits(torch.zeros(self.server.images, 5))
            more = 9 if self.server.breaks_off else 0
            self.send_response(200)
            self.send_header(NUMBER, number if self.server.knows else "7")
            self.send_header("content-length", str(len(answer) + more))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *args):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Confused) as server:
        server.breaks_off = False
        threading.Thread(target=server.serve_forever, daemon=True).start()
        client = SplitClassifier(halves[0], f"http://127.0.0.1:{server.server_port}")
        for server.knows, server.images, message in (
            (False, 1, "another request"),
            (True, 2, "no logits of 1 images"),
        ):
            with pytest.raises(ValueError, match=message):
                client.logits(torch.randn(1, 3, 32, 32))
        server.images, server.breaks_off = 1, True
        with pytest.raises(ConnectionError, match="gives no answer after 1 attempts"):  # a part of one is none
            SplitClassifier(halves[0], client.url, patience=0).logits(torch.randn(1, 3, 32, 32))
        server.breaks_off = False
        with monkeypatch.context() as patch:
            patch.setattr("hf_effmodels.collaboration.splitting.client._MOST_ANSWER", 20)
            with pytest.raises(ValueError, match="an answer of more than 20 bytes"):
                client.logits(torch.randn(1, 3, 32, 32))
        assert client.logits(torch.randn(1, 3, 32, 32)).logits.tolist() == [[0.0] * 5]
        server.shutdown()


@pytest.mark.parametrize("given", [None, ServiceLimits(max_images=3, timeout=2.0)])
def test_a_tail_is_served_with_the_limits_that_are_given_and_else_with_the_usual_ones(halves, monkeypatch, given):
    ran = []
    monkeypatch.setattr(service.uvicorn.Server, "run", lambda self, sockets: ran.append((self.config, sockets)))
    made = []
    monkeypatch.setattr(service, "create_app", lambda tail, **options: made.append((tail, options)) or "app")
    serve(halves[1], port=0, token="secret", limits=given)
    usual = {
        "max_bytes": 64 * 2**20,
        "max_images": 64,
        "max_pixels": 2**25,
        "workers": 1,
        "queue": 64,
        "timeout": 30.0,
    }
    ((tail, options),) = made
    assert tail is halves[1] and options["token"] == "secret"
    assert vars(options["limits"]) == (vars(given) if given else usual)
    ((config, sockets),) = ran
    assert config.app == "app" and len(sockets) == 1


@pytest.mark.parametrize(
    "said, message",
    [
        (torch.tensor([2, 3, 4, 5]), None),
        (torch.tensor([1, 3, 1, 16384]), None),
        (torch.tensor([1, 3, 16384, 1]), None),
        (torch.tensor([4, 3, 64, 64]), None),  # as many images and pixels as may be
        (None, "input_shape must be four whole numbers"),
        (torch.tensor([2.0, 3.0, 4.0, 5.0]), "input_shape must be four whole numbers"),
        (torch.tensor([2, 3, 4, 5], dtype=torch.int32), "input_shape must be four whole numbers"),
        (torch.tensor([2, 3, 4]), "input_shape must be four whole numbers"),
        (torch.tensor([[2, 3, 4, 5]]), "input_shape must be four whole numbers"),
        (torch.tensor([0, 3, 4, 5]), "got 0 images, accepted are 1 to 4"),
        (torch.tensor([-1, 3, 4, 5]), "got -1 images, accepted are 1 to 4"),
        (torch.tensor([5, 3, 4, 5]), "got 5 images, accepted are 1 to 4"),
        (torch.tensor([4, 3, 64, 65]), "got 16640 pixels, accepted are 16384"),
        (torch.tensor([2, 1, 4, 5]), r"input_shape \[2, 1, 4, 5\], accepted are 3 channels"),
        (torch.tensor([2, 3, 0, 5]), "accepted are 3 channels and sides of 1 to 16384"),
        (torch.tensor([2, 3, 5, 0]), "accepted are 3 channels and sides of 1 to 16384"),
        (torch.tensor([2, 3, -4, 5]), "accepted are 3 channels and sides of 1 to 16384"),
        (torch.tensor([2, 3, -4, -5]), "accepted are 3 channels and sides of 1 to 16384"),
    ],
)
def test_a_question_is_of_images_within_the_limits(said, message):
    body = save({"x": torch.ones(2), **({} if said is None else {"input_shape": said})})
    options = {"channels": 3, "max_images": 4, "max_pixels": 16384}
    if message is None:
        sent, shape = unpack(body, **options)
        assert shape == tuple(said.tolist()) and sent.keys() == {"x"} and sent["x"].tolist() == [1, 1]
        return
    with pytest.raises(ValueError, match=f"^payload: .*{message}"):
        unpack(body, **options)


def test_a_simulated_link_takes_its_time_for_each_try_and_for_the_answer(halves, monkeypatch):
    """By a clock that goes on only while somebody waits."""
    now = [0.0]

    def sleep(seconds):
        now[0] += seconds

    monkeypatch.setattr(client, "time", SimpleNamespace(perf_counter=lambda: now[0], sleep=sleep))
    own, statuses = SplitClassifier(halves[0], "http://127.0.0.1:1", bandwidth=1000.0, patience=1e6), [503, 200]
    answer, bodies = pack_logits(torch.zeros(2, 5)), []

    def request(method, path, body, headers):
        bodies.append(body)
        status, told = statuses.pop(0), {NUMBER: headers[NUMBER], TAIL_TIME: "3", QUEUE_TIME: "4"}
        return status, told, answer if status == 200 else b"come again"

    monkeypatch.setattr(own, "_request", request)
    found = own.logits(torch.randn(2, 3, 32, 32))
    sent, received = len(bodies[0]), len(answer)
    assert (found.attempts, found.bytes_sent, found.bytes_received) == (2, sent, received) and len(bodies) == 2
    assert now[0] == pytest.approx(8 * (2 * sent + received) / 1000, abs=0.2), "and a moment between the two"
    # Of the link counts the last try alone, without what the server says it took.
    assert found.milliseconds["link"] == pytest.approx(8 * (sent + received) - 3 - 4)
    assert (found.milliseconds["tail"], found.milliseconds["queue"], found.milliseconds["head"]) == (3, 4, 0)


@pytest.mark.parametrize("width", [None, 2])
@pytest.mark.parametrize("count", [1, 3])
def test_each_picture_of_a_list_gets_its_own_classes_in_the_width_that_is_asked_for(width, count, monkeypatch):
    asked, logits = [], torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 1.0], [0.0, 1.0, 4.0]])[:count]
    config = SimpleNamespace(id2label=dict(enumerate("abc")), num_channels=1)
    processor = lambda images, return_tensors: {"pixel_values": [image.mode for image in images]}  # noqa: E731
    client = SplitClassifier(SimpleNamespace(facts=None, config=config, processor=processor), "http://x")
    monkeypatch.setattr(
        client, "logits", lambda pixels, width: asked.append((pixels, width)) or SimpleNamespace(logits=logits)
    )
    found = client([Image.new("RGB", (8, 8))] * count, top_k=2, width=width)
    assert asked == [(["L"] * count, width)]
    shares = logits.exp() / logits.exp().sum(1, keepdim=True)
    best = [["b", "c"], ["a", "c"], ["c", "b"]][:count]
    assert [[row["label"] for row in one] for one in found] == best
    for one, names, own in zip(found, best, shares, strict=True):
        assert [row["score"] for row in one] == pytest.approx([own["abc".index(name)].item() for name in names])
    assert client(Image.new("RGB", (8, 8)), top_k=9, width=width) == client([Image.new("RGB", (8, 8))], top_k=9)[0]
    assert client([]) == []


@pytest.mark.parametrize(
    "answer, message",
    [
        ({"logits": torch.zeros(2, 5)}, None),
        ({"logits": torch.zeros(3, 5)}, "it holds no logits of 2 images"),
        ({"logits": torch.zeros(2)}, "it holds no logits of 2 images"),
        ({"logits": torch.zeros(2, 5, 1)}, "it holds no logits of 2 images"),
        ({"others": torch.zeros(2, 5)}, "it holds no logits of 2 images"),
        ({"logits": torch.tensor([[0.0, 1.0], [float("nan"), 0.0]])}, "its logits are not finite"),
        ({"logits": torch.tensor([[0.0, float("-inf")], [1.0, 0.0]])}, "its logits are not finite"),
    ],
)
def test_an_answer_is_finite_logits_of_as_many_images(answer, message):
    if message is None:
        assert torch.equal(unpack_logits(save(answer), 2), answer["logits"])
        return
    with pytest.raises(ValueError, match=f"^answer: {message}.$"):
        unpack_logits(save(answer), 2)


@pytest.mark.parametrize("status, again", [(429, True), (502, True), (503, True), (400, False), (500, False)])
def test_what_may_succeed_later_is_sent_again_and_nothing_else(status, again, halves, monkeypatch):
    monkeypatch.setattr(client, "time", SimpleNamespace(perf_counter=lambda: 0.0, sleep=lambda seconds: None))
    own, statuses = SplitClassifier(halves[0], "http://127.0.0.1:1"), [status, status, 200]

    def request(method, path, body, headers):
        now = statuses.pop(0)
        return now, {NUMBER: headers[NUMBER]}, pack_logits(torch.zeros(1, 5)) if now == 200 else b"no"

    monkeypatch.setattr(own, "_request", request)
    if again:
        assert own.logits(torch.zeros(1, 3, 32, 32)).attempts == 3
    else:
        with pytest.raises(ValueError, match=f"refuses .{status}.: no"):
            own.logits(torch.zeros(1, 3, 32, 32))
        assert len(statuses) == 2


@pytest.mark.parametrize("in_pieces", [False, True])
@pytest.mark.parametrize("less, status", [(0, 200), (1, 413)])
def test_a_request_may_be_as_large_as_is_said_and_no_larger(halves, in_pieces, less, status):
    head, tail = halves
    pixels = torch.randn(1, 3, 32, 32)
    body = pack(head(pixels), tuple(pixels.shape))
    with served(tail, limits=ServiceLimits(max_bytes=len(body) - less)) as url:
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=20)
        pieces = iter([body[:7], body[7:]]) if in_pieces else body  # an iterator has no length, and is sent in chunks
        connection.request("POST", COMPUTE, pieces, {DIGEST: tail.facts.digest}, encode_chunked=in_pieces)
        answer = connection.getresponse()
        assert answer.status == status, answer.read()
        connection.close()


def answered(url: str, body: bytes, digest: str) -> tuple[int, dict]:
    """The status and the headers."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=20)
    try:
        connection.request("POST", COMPUTE, body, {DIGEST: digest})
        response = connection.getresponse()
        response.read()
        return response.status, {name.lower(): value for name, value in response.getheaders()}
    finally:
        connection.close()


def test_as_many_requests_are_computed_and_wait_as_there_may_and_one_more_is_told_when_to_come_again(halves):
    head, tail = halves
    inside, go_on = threading.Semaphore(0), threading.Event()

    class Slow:
        facts, config, device = tail.facts, tail.config, tail.device

        def __call__(self, *args):
            inside.release()
            assert go_on.wait(20)
            return tail(*args)

    body = pack(head(torch.randn(1, 3, 32, 32)), (1, 3, 32, 32))
    with served(Slow(), limits=ServiceLimits(workers=2, queue=1)) as url, ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(answered, url, body, tail.facts.digest) for _ in range(4)]
        try:
            ((first,), _) = wait(asked, 20, FIRST_COMPLETED)
            status, headers = first.result()
            assert (status, headers["retry-after"], headers["connection"]) == (503, "1", "close")
            assert inside.acquire(timeout=5) and inside.acquire(timeout=5), "two are computed at the same time"
            assert not inside.acquire(blocking=False)
        finally:
            go_on.set()
        assert sorted(one.result(20)[0] for one in asked) == [200, 200, 200, 503]


def test_a_request_that_was_refused_keeps_no_place_and_is_not_read_to_its_end(halves):
    head, tail = halves
    body = pack(head(torch.randn(1, 3, 32, 32)), (1, 3, 32, 32))
    with served(tail, limits=ServiceLimits(workers=1, queue=0, max_bytes=len(body))) as url:
        for wrong, status in ((body + b"x", 413), (body[:-1], 400)):
            found, headers = answered(url, wrong, tail.facts.digest)
            assert found == status and headers["connection"] == "close" and "retry-after" not in headers
            found, headers = answered(url, body, tail.facts.digest)
            assert found == 200 and headers.get(NUMBER) == "" and "server" not in headers


class Clock:
    """Goes on only while somebody waits, and keeps how long."""

    def __init__(self):
        self.now, self.waits = 0.0, []

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds


@pytest.mark.parametrize("patience, attempts", [(0, 1), (0.05, 2), (0.14, 2), (0.15, 3), (2.55, 7), (3.6, 8)])
def test_a_client_waits_twice_as_long_each_time_but_never_longer_than_a_second(
    patience, attempts, halves, monkeypatch
):
    """And not beyond its patience."""
    clock = Clock()
    monkeypatch.setattr(client, "time", clock)
    own = SplitClassifier(halves[0], "http://127.0.0.1:1", patience=patience + 1e-9)
    monkeypatch.setattr(own, "_request", lambda *_: (503, {}, b'{"error": "come again"}'))
    with pytest.raises(ConnectionError, match=f"gives no answer after {attempts} attempts: come again$"):
        own.logits(torch.zeros(1, 3, 32, 32))
    assert clock.waits == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0][: attempts - 1]


def test_a_client_without_an_end_to_its_patience_waits_and_one_with_endless_times_does_not_break(halves, monkeypatch):
    clock, tries = Clock(), []
    monkeypatch.setattr(client, "time", clock)

    class Line:
        def __init__(self, host, port, timeout):
            tries.append(timeout)

        def request(self, *_):
            raise TimeoutError if len(tries) < 40 else PermissionError("that is enough")

        def close(self):
            pass

    monkeypatch.setattr(http.client, "HTTPConnection", Line)
    own = SplitClassifier(halves[0], "http://x", patience=1e6, timeout=1e300, bandwidth=1e-300)
    with pytest.raises(ConnectionError, match="after [0-9]+ attempts: (TimeoutError|that is enough)$"):
        own.logits(torch.zeros(1, 3, 32, 32))
    assert {*tries} == {threading.TIMEOUT_MAX} == {wait for wait in clock.waits if wait > 1}
    tries.clear()
    clock.waits.clear()
    patient, answers = SplitClassifier(halves[0], "http://x", patience=float("inf"), timeout=7.0), [503] * 50 + [400]
    monkeypatch.setattr(patient, "_request", lambda *_: (answers.pop(0), {}, b"no"))
    with pytest.raises(ValueError, match=r"refuses \(400\): no"):
        patient.logits(torch.zeros(1, 3, 32, 32))
    assert len(clock.waits) == 50 and sum(clock.waits) == pytest.approx(1.55 + 45)


@pytest.mark.parametrize("status, error", [(504, ConnectionError), (401, PermissionError), (404, ValueError)])
def test_a_tail_that_computed_too_long_is_not_asked_again_and_gives_no_fault_of_the_request(
    status, error, halves, monkeypatch
):
    monkeypatch.setattr(client, "time", Clock())
    own, asked = SplitClassifier(halves[0], "http://x"), []
    monkeypatch.setattr(own, "_request", lambda *_: asked.append(1) or (status, {}, b'{"error": "so it is"}'))
    with pytest.raises(error, match="so it is") as caught:
        own.logits(torch.zeros(1, 3, 32, 32))
    assert len(asked) == 1 and type(caught.value) is error


@pytest.mark.parametrize("width", [None, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("given", [torch.float32, torch.float64, torch.uint8])
def test_pixels_go_into_the_head_in_the_precision_of_its_weights(width, dtype, given, monkeypatch):
    """Those of the layers that it has: what only its tail computes with has no numbers."""

    class Head:
        facts, config, processor = SimpleNamespace(digest="d"), SimpleNamespace(num_channels=3), None
        network = torch.nn.ModuleList(
            [torch.nn.Linear(2, 2, device="meta"), torch.nn.Linear(2, 2, dtype=dtype), torch.nn.Linear(2, 2)]
        )

        def __call__(self, pixels, *, width):
            seen.append((pixels.dtype, pixels.device.type, width))
            return {"features": pixels}

    seen, own = [], SplitClassifier(Head(), "http://x")

    def request(method, path, body, headers):
        sent, shape = unpack(body, channels=3, max_images=2, max_pixels=99)
        assert sent["features"].dtype == dtype and shape == (2, 3, 4, 5)
        return 200, {NUMBER: headers[NUMBER]}, pack_logits(torch.zeros(2, 5))

    monkeypatch.setattr(own, "_request", request)
    found = own.logits(torch.ones(2, 3, 4, 5, dtype=given), width=width)
    assert seen == [(dtype, "cpu", width)]
    # What a tail does not tell is not known.
    assert all(str(found.milliseconds[name]) == "nan" for name in ("link", "queue", "tail"))


def test_what_a_tail_says_it_took_is_in_milliseconds_and_apart_from_what_was_waited(halves, monkeypatch):
    """By a clock that says when the request was there, when it was begun and when it was done."""
    head, tail = halves
    body, times = pack(head(torch.zeros(1, 3, 32, 32)), (1, 3, 32, 32)), iter([1.0, 1.25, 3.0])
    with served(tail) as url:
        monkeypatch.setattr(service, "time", SimpleNamespace(perf_counter=lambda: next(times)))
        status, headers = answered(url, body, tail.facts.digest)
    assert (status, headers[QUEUE_TIME], headers[TAIL_TIME]) == (200, "250.000", "1750.000")


def test_a_request_that_is_computed_too_long_keeps_its_place_until_it_ends(halves):
    head, tail = halves
    go_on = threading.Event()

    class Slow:
        facts, config, device = tail.facts, tail.config, tail.device

        def __call__(self, *args):
            assert go_on.wait(20)
            return tail(*args)

    body = pack(head(torch.randn(1, 3, 32, 32)), (1, 3, 32, 32))
    with served(Slow(), limits=ServiceLimits(workers=1, queue=0, timeout=0.15)) as url:
        assert answered(url, body, tail.facts.digest)[0] == 504
        for _ in range(2):
            assert answered(url, body, tail.facts.digest)[0] == 503
        go_on.set()
        statuses = []
        while 200 not in statuses and len(statuses) < 100:
            statuses.append(answered(url, body, tail.facts.digest)[0])
            time.sleep(0.01)
        assert {*statuses} <= {503, 200} and statuses[-1] == 200
        assert answered(url, body, tail.facts.digest)[0] == 200


@pytest.mark.parametrize("error", [RuntimeError, NotImplementedError, TypeError])
def test_images_that_a_tail_cannot_compute_are_the_fault_of_the_request(halves, error):
    head, tail = halves

    class Broken:
        facts, config, device = tail.facts, tail.config, tail.device

        def __call__(self, *args):
            raise error("deep inside")

    body = pack(head(torch.randn(2, 3, 32, 32)), (2, 3, 32, 32))
    with served(Broken()) as url:
        for _ in range(2):
            status, said = ask(url, body, **{DIGEST: tail.facts.digest})
            assert (status, said.decode()) == (
                400,
                '{"error":"payload: images of shape [2, 3, 32, 32] cannot be computed."}',
            )


@pytest.mark.parametrize("limits", [ServiceLimits(timeout=3.0), ServiceLimits(workers=300, queue=500, timeout=0.5)])
def test_more_connections_are_taken_than_requests_so_that_every_head_gets_an_answer_in_words(limits):
    config = server_config("app", limits, port=1234, host="0.0.0.0")
    assert config.limit_concurrency > limits.workers + limits.queue + 1
    assert (config.port, config.host, config.server_header) == (1234, "0.0.0.0", False)
    assert config.http.patience == limits.timeout
