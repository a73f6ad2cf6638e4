"""Real servers on 127.0.0.1, in a thread of the tests, with the tiny bundle."""

import base64
import io
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("mrnn_serve.app", reason="mrnn-serve is not installed")

from mrnn_runtime import load
from mrnn_serve.app import Access, make_app
from mrnn_serve.limits import Limits
from mrnn_serve.observe import Metrics
from mrnn_serve.server import listen, make_server
from mrnn_serve.service import Service


def make_jpeg(seed=0, size=(40, 30), kind="JPEG"):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


@pytest.fixture(scope="session")
def jpeg():
    """The bytes of a small photo."""
    return make_jpeg()


@pytest.fixture(scope="session")
def jpegs():
    """The bytes of several small photos."""
    return [make_jpeg(seed) for seed in range(6)]


@pytest.fixture(scope="session")
def b64(jpeg):
    return base64.b64encode(jpeg).decode()


@pytest.fixture(scope="session")
def tiny(tiny_bundle):
    """The captioner of the tiny bundle."""
    return load(tiny_bundle, provider="cpu", threads=1)


@pytest.fixture(scope="session")
def texts(tiny, jpegs):
    """What the tiny captioner says about ``jpegs`` without a server."""
    return [caption.text for caption in tiny.caption(jpegs)]


@contextmanager
def running(captioner, *, access=None, photos_folder=None, workers=1, batch_size=4, **limits):
    """Run a server; the block is given its url, client, service and log."""
    log = []
    service = Service(
        {captioner.bundle.name: captioner},
        limits=Limits(**limits),
        metrics=Metrics(),
        batch_size=batch_size,
        workers=workers,
        photos_folder=photos_folder,
    )
    sock = listen("127.0.0.1", 0)
    server = make_server(make_app(service, access or Access(), log.append), grace=30)
    port = sock.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    thread = threading.Thread(target=server.run, args=([sock],))
    thread.start()
    try:
        with httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
            yield SimpleNamespace(url=url, port=port, client=client, service=service, log=log)
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def start():
    """``with start(captioner, ...) as server``."""
    return running


@pytest.fixture(scope="module")
def server(tiny):
    """A server that the tests of a file share: leave it as it is.

    It must not outlive them: tests of the runtime change the clock, by which its event loop sleeps.
    """
    with running(tiny, body=2 * 2**20, pixels=1_000_000, photos=8, queue=64) as server:
        yield server


@pytest.fixture
def post(server):
    return server.client.post


@dataclass
class HeldEncoder:
    """The real encoder behind a door that the test opens."""

    real: object
    open: threading.Event = field(default_factory=threading.Event)
    entered: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    batches: list = field(default_factory=list)
    provider = "CPUExecutionProvider"

    def encode(self, images):
        self.batches.append(len(images))
        self.entered.release()
        assert self.open.wait(30)
        return self.real.encode(images)


@pytest.fixture
def held(tiny):
    """A captioner whose encoder waits, but for the first batch, which warms the server up."""
    encoder = HeldEncoder(tiny.encoder)
    encoder.open.set()
    return replace(tiny, encoder=encoder)


@pytest.fixture
def hold():
    """``hold(captioner)``: from now on its encoder waits for ``encoder.open.set()``."""

    def close(captioner):
        encoder = captioner.encoder
        assert encoder.entered.acquire(timeout=30)  # the server has started
        encoder.open.clear()
        encoder.batches.clear()
        return encoder

    return close
