"""The door: who may ask, and how much of a body is taken. Nothing of a photo is decoded here."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
from contextlib import suppress
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect

from mrnn_serve.answers import refuse
from mrnn_serve.limits import Budget, Limits, Refusal

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Probes and the page itself; whatever costs or tells something needs the key.
OPEN_PATHS = frozenset({"/healthz", "/readyz"})

# How long a refused client may go on sending.
LINGER_SECONDS = 2.0


class Guard:
    """Refuses a request by its headers, and cuts off a body that is too large or too slow."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        limits: Limits,
        photos: Budget,
        api_key: str | None,
        loopback_only: bool,
    ) -> None:
        """Stand before an application.

        Args:
            app: the application.
            limits: of one request.
            photos: where it is spent, no body is read.
            api_key: what ``Authorization: Bearer`` must hold; None lets everybody in.
            loopback_only: whether ``Host`` must name this machine, as it does where the server
                listens to no other: a web page of somebody else that had its name point here
                (DNS rebinding) is refused.
        """
        self._app = app
        self._limits = limits
        self._photos = photos
        self._bodies = Budget(limits.bodies)
        self._api_key = api_key
        self._loopback_only = loopback_only

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        body = _Body(receive, self._limits, self._bodies)
        try:
            self._check(scope)
            body.expect(Headers(scope=scope))
            await self._app(scope, body.receive, body.sending(send))
        except Refusal as error:  # raised before the application; it answers its own
            await refuse(error)(scope, receive, body.sending(send))
        finally:
            body.give_back()

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        if self._loopback_only and not _is_loopback(headers.get("host", "")):
            raise Refusal(403, "this server is for the machine that it runs on", "ask 127.0.0.1")
        if scope["path"] in OPEN_PATHS:
            return
        if self._api_key is not None and not _has_key(headers, self._api_key):
            raise Refusal(401, "the API key is missing or wrong", "Authorization: Bearer KEY")
        if headers.get("content-encoding", "identity") != "identity":
            raise Refusal(415, "compressed bodies are not taken", "send it as it is")
        if scope["method"] == "POST" and self._photos.is_spent:
            raise Refusal(503, "the server is busy", "try again in a second")


def _has_key(headers: Headers, key: str) -> bool:
    scheme, _, given = headers.get("authorization", "").partition(" ")
    # Bytes: compare_digest takes no text beyond ASCII. It takes equally long wherever they differ.
    return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), key.encode())


def _is_loopback(host: str) -> bool:
    """Say whether the value of a Host header means this machine; HTTP/1.0 may leave it out."""
    name = host.partition("]")[0][1:] if host.startswith("[") else host.partition(":")[0]
    if name in ("", "localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


class _Body:
    """Counts a body as it arrives."""

    def __init__(self, receive: Receive, limits: Limits, budget: Budget) -> None:
        self._receive = receive
        self._limits = limits
        self._budget = budget
        self._held = self._size = 0
        self._complete = False
        self._deadline = asyncio.get_running_loop().time() + limits.timeout

    def expect(self, headers: Headers) -> None:
        """Refuse by its declared length, or set as much aside."""
        length = headers.get("content-length", "0")
        if len(length) > 18 or int(length) > self._limits.body:  # digits only, h11 has seen to it
            raise self._too_large()
        self._hold(int(length))

    async def receive(self) -> Message:
        """Receive the next part.

        Raises:
            Refusal: it is too large (413), too slow (408), or there is no room (503).
        """
        if self._complete:  # what comes now is that the client leaves
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            raise Refusal(408, "the request took too long to arrive") from None
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        self._size += len(message.get("body", b""))
        if self._size > self._limits.body:
            raise self._too_large()
        self._hold(self._size - self._held)
        self._complete = not message.get("more_body", False)
        return message

    def sending(self, send: Send) -> Send:
        """Return a ``send`` that ends an answer only when the client has stopped sending.

        The connection may be closed at the end, and who still sends then does not see the answer.
        """

        async def send_and_linger(message: Message) -> None:
            last = message["type"] == "http.response.body" and not message.get("more_body", False)
            if last and not self._complete:
                await send({**message, "more_body": True})
                await self._drain()
                message = {"type": "http.response.body", "body": b""}
            await send(message)

        return send_and_linger

    async def _drain(self) -> None:
        """Throw away what is left of the body, for a while, and as much as is taken at most."""
        drained = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                while drained <= self._limits.body:
                    message = await self._receive()
                    if not message.get("more_body", False):  # complete, or the client left
                        return
                    drained += len(message["body"])

    def give_back(self) -> None:
        """Let other requests have the room."""
        self._budget.give_back(self._held)
        self._held = 0

    def _hold(self, amount: int) -> None:
        if amount > 0:
            self._budget.take(amount)
            self._held += amount

    def _too_large(self) -> Refusal:
        megabytes = self._limits.body / 2**20
        return Refusal(413, f"the body is larger than {megabytes:g} MiB", "send fewer photos")
