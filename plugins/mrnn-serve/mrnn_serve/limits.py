"""What a request may cost, checked before anything is decoded, and how one is refused."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mrnn_runtime import BundleError, ImageError, MrnnError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

RETRY_AFTER = 1  # seconds; a batch is done by then


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the server takes.

    Attributes:
        body: bytes of one request.
        bodies: bytes of all requests that are not answered yet.
        pixels: of one photo, before it is decoded.
        memory: bytes that photos which are decoded at a time may take.
        photos: of one request.
        queue: photos that are accepted and not answered yet.
        timeout: seconds in which a request must have arrived, and again in which it must be
            answered.
    """

    body: int = 64 * 2**20
    bodies: int = 256 * 2**20
    pixels: int = 64_000_000
    memory: int = 1_200_000_000
    photos: int = 64
    queue: int = 256
    timeout: float = 60.0


class Refusal(Exception):  # noqa: N818 - it is the word for it
    """A request that is not answered with a result.

    Attributes:
        status: of HTTP.
        message: what is wrong.
        hint: what to do about it, or the empty string.
    """

    def __init__(self, status: int, message: str, hint: str = "") -> None:
        """Keep the parts."""
        super().__init__(message)
        self.status = status
        self.message = message
        self.hint = hint

    @property
    def headers(self) -> dict[str, str]:
        """What a client needs to know beside the body."""
        if self.status == 503:
            return {"Retry-After": str(RETRY_AFTER)}
        return {"WWW-Authenticate": "Bearer"} if self.status == 401 else {}


def refusal(error: MrnnError) -> Refusal:
    """Return how an error of the runtime is answered.

    The bundle was checked when the server started: a BundleError is about the references of a
    reranker that the request named.
    """
    if isinstance(error, ImageError):
        status = 422
    else:
        status = 400 if isinstance(error, UsageError | BundleError) else 500
    return Refusal(status, error.message, error.hint)


class Budget:
    """An amount of something that all requests share."""

    def __init__(self, limit: int) -> None:
        """Start with all of it."""
        self.limit = limit
        self.used = 0

    @property
    def is_spent(self) -> bool:
        """Whether nothing is left."""
        return self.used >= self.limit

    def take(self, amount: int) -> None:
        """Take some of it.

        Raises:
            Refusal: it is not there; 503.
        """
        if self.used + amount > self.limit:
            raise Refusal(503, "the server is busy", f"try again in {RETRY_AFTER} s")
        self.used += amount

    def give_back(self, amount: int) -> None:
        """Give back what was taken."""
        self.used -= amount

    @contextmanager
    def taken(self, amount: int) -> Iterator[None]:
        """Take some of it for as long as the block runs.

        Raises:
            Refusal: it is not there; 503.
        """
        self.take(amount)
        try:
            yield
        finally:
            self.give_back(amount)
