"""What can be seen of the server: a request id, one log line a request, and metrics."""

from __future__ import annotations

import json
import logging
import re
import secrets
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.datastructures import Headers, MutableHeaders

from mrnn_serve.answers import CLIENT_LEFT, refuse
from mrnn_serve.limits import Refusal

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    LogLine = Callable[[Mapping[str, object]], None]

_log = logging.getLogger(__name__)

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_PLAIN = re.compile(r"[!#-<>-~]+")  # ASCII that prints, but for quotes and =
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """What ``/metrics`` tells, in a registry of its own."""

    def __init__(self) -> None:
        """Start at nothing."""
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "mrnn_requests", "Requests.", ["path", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "mrnn_request_seconds",
            "From the request line to the end of the answer.",
            ["path"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._photos = Counter(
            "mrnn_photos", "Photos that were answered.", ["result"], registry=self._registry
        )
        self._batch = Histogram(
            "mrnn_batch_photos",
            "Photos that a model worked on together.",
            buckets=(1, 2, 4, 8, 16, 32),
            registry=self._registry,
        )
        self._waited = Histogram(
            "mrnn_wait_seconds",
            "How long the first photo of a batch waited for a model.",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._waiting = Gauge("mrnn_waiting", "Photos that wait.", registry=self._registry)

    def watch(self, waiting: Callable[[], int]) -> None:
        """Say where the length of the queue is to be read."""
        self._waiting.set_function(waiting)

    def batch(self, size: int, waited: float) -> None:
        """Count a batch whose first photo waited for so many seconds."""
        self._batch.observe(size)
        self._waited.observe(waited)

    def photo(self, *, failed: bool = False) -> None:
        """Count a photo."""
        self._photos.labels("unreadable" if failed else "ok").inc()

    def request(self, path: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def text(self) -> bytes:
        """Return all of it as Prometheus reads it."""
        return generate_latest(self._registry)


class Observe:
    """Gives each request an id, and tells the log and the metrics of it."""

    def __init__(
        self, app: ASGIApp, *, metrics: Metrics, log: LogLine, paths: frozenset[str]
    ) -> None:
        """Stand around an application; ``paths`` are counted one by one, others together."""
        self._app = app
        self._metrics = metrics
        self._log = log
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        began = time.monotonic()
        given = Headers(scope=scope).get("x-request-id", "")
        name = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        state = scope.setdefault("state", {})
        state["request_id"] = name
        status, started = CLIENT_LEFT, False

        async def send_named(message: Message) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                status, started = message["status"], True
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = name
                headers["X-Content-Type-Options"] = "nosniff"
            await send(message)

        try:
            await self._app(scope, receive, send_named)
        except Exception as error:  # what nobody foresaw
            _log.error("request %s failed", name, exc_info=error)
            if started:  # uvicorn closes the connection
                raise
            await refuse(Refusal(500, f"internal error, request {name}"))(
                scope, receive, send_named
            )
        finally:
            seconds = time.monotonic() - began
            path = scope["path"] if scope["path"] in self._paths else "other"
            self._metrics.request(path, status, seconds)
            client = scope.get("client") or ("", 0)
            self._log(
                {
                    "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                    "id": name,
                    "client": client[0],
                    "method": scope["method"],
                    "path": scope["path"][:200],
                    "status": status,
                    "ms": round(1000 * seconds),
                    "photos": state.get("photos", 0),
                }
            )


def log_text(facts: Mapping[str, object]) -> None:
    """Write the line of a request to stderr as ``key=value``."""
    print(" ".join(f"{key}={_quoted(value)}" for key, value in facts.items()), file=sys.stderr)


def log_json(facts: Mapping[str, object]) -> None:
    """Write the line of a request to stderr as a JSON object."""
    print(json.dumps(facts), file=sys.stderr)


def _quoted(value: object) -> str:
    """Return a value so that no client can write lines or keys of its own into the log."""
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)
