"""The process: models loaded, a socket, uvicorn, and a stop that loses nothing."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from mrnn_runtime import MrnnError, UsageError, load

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.applications import Starlette

    from mrnn_runtime import Captioner

MAX_CONNECTIONS = 1000
# In which the head of a request must have arrived, and what a refused client goes on sending.
HEAD_SECONDS = 20.0
# For which a client may leave what is written for it unread.
READ_SECONDS = 20.0
# Read at once from a connection. In tiny chunks, asyncio's 256 KiB take 3 s to parse, while all
# others wait.
READ_BYTES = 2**14


def load_captioners(
    models: Sequence[str | None], *, provider: str, threads: int
) -> dict[str, Captioner]:
    """Load models, by name.

    Raises:
        UsageError: two have one name.
        MrnnError: as ``mrnn_runtime.load``.
    """
    captioners: dict[str, Captioner] = {}
    for model in models:
        captioner = load(model, provider=provider, threads=threads)
        name = captioner.bundle.name
        if name in captioners:
            raise UsageError(f"two models are called {name!r}", hint="serve one of them")
        captioners[name] = captioner
    return captioners


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; port 0 is any that is free.

    Raises:
        MrnnError: the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise MrnnError(
            f"cannot listen at {host}, port {port}: {error.strerror or error}",
            hint="choose another port, or an address of this machine",
        ) from error


def serve(app: Starlette, sock: socket.socket, *, grace: float) -> None:
    """Serve until SIGTERM or SIGINT, and then finish what was accepted.

    Args:
        app: the application.
        sock: where it listens.
        grace: seconds after which what is not finished is given up.
    """
    host, port = sock.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    # uvicorn raises the signal again once it has finished; that ends nothing any more.
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: None)
    print(f"mrnn: serving at http://{shown}:{port}", file=sys.stderr, flush=True)
    make_server(app, grace=grace).run(sockets=[sock])


def make_server(app: Starlette, *, grace: float) -> uvicorn.Server:
    """Return uvicorn, set up for ``serve``."""
    config = uvicorn.Config(
        app,
        http=_Protocol,
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,  # the line a request is ours, and uvicorn's errors go to stderr
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=round(grace),
    )
    return uvicorn.Server(config)


class _Protocol(H11Protocol):
    """uvicorn's, with limits on connections, and on the time that a client takes.

    That is the time in which the head of a request arrives, and in which an answer is read on.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - as uvicorn calls it
        super().__init__(*args, **kwargs)
        self._clock: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if len(self.connections) >= MAX_CONNECTIONS:
            transport.abort()
            return
        transport.max_size = READ_BYTES  # type: ignore[attr-defined]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self.loop.call_later(READ_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        self._stop(self._unread)
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop(self._clock)
        self._stop(self._unread)
        if self.transport is not None:
            super().connection_lost(exc)

    def _watch(self) -> None:
        """Start the clock where no request is worked on, and stop it where one is."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop(self._clock)
            self._clock = None
        elif not self._clock:
            self._clock = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def _give_up(self) -> None:
        """Close the connection; what the client has not read by now, it will not."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self.transport.close()

    @staticmethod
    def _stop(clock: asyncio.TimerHandle | None) -> None:
        if clock:
            clock.cancel()
