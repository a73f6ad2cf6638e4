"""What all APIs share. A photo's way through the server is the order of this page.

    guard       headers, key, size of the body         -> 401, 403, 408, 413, 503
    an API      reads photos and options off the body  -> 400, 415, 422
    Service     takes room for the photos              -> 503 at once where there is none
      reading   bytes to pixels, in threads
      model     pixels to captions, in batches of what waits
    an API      words the answer

Whoever leaves is dropped wherever it is on this way, and what waits for it costs nothing any more.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

import numpy as np
from starlette.requests import ClientDisconnect

from mrnn_runtime import Caption, EncodedImages, Gallery, ImageError
from mrnn_runtime.build import Budget as Memory
from mrnn_runtime.build import joined
from mrnn_serve.batching import Batcher
from mrnn_serve.limits import Budget, Limits, Refusal
from mrnn_serve.works import Describe, Encode, Photo, Read

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
    from types import TracebackType

    from starlette.requests import Request

    from mrnn_runtime import Captioner
    from mrnn_serve.batching import Work
    from mrnn_serve.observe import Metrics

T = TypeVar("T")


class Service:
    """The models and the two stages before their answers: ``async with service:``."""

    def __init__(
        self,
        captioners: Mapping[str, Captioner],
        *,
        limits: Limits,
        metrics: Metrics,
        batch_size: int = 4,
        workers: int = 1,
        readers: int = 1,
        photos_folder: Path | None = None,
    ) -> None:
        """Put the parts together.

        Args:
            captioners: by name; the first one is the default.
            limits: of a request, and of all of them.
            metrics: is told of batches and photos.
            batch_size: photos that a model works on together, at most.
            workers: batches at a time.
            readers: photos that are decoded at a time.
            photos_folder: below which photos may be named by their paths, or None.
        """
        self.captioners = captioners
        self.limits = limits
        self.metrics = metrics
        self.photos = Budget(limits.queue)
        self.photos_folder = photos_folder
        self._memory = Memory(limits.memory)
        self._reading = Batcher(batch_size=1, workers=readers)
        self._model = Batcher(batch_size=batch_size, workers=workers, on_batch=metrics.batch)
        self._stages = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Start both stages, and caption nothing with each model, so that the first is quick."""
        await self._stages.enter_async_context(self._model)
        await self._stages.enter_async_context(self._reading)
        for captioner in self.captioners.values():
            size = captioner.bundle.preprocess
            blank = np.zeros((size.height, size.width, 3), np.uint8)
            await self._model.run(Describe(captioner, captioner.bundle.decode_options), blank)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Finish what was accepted."""
        await self._stages.aclose()

    @property
    def waiting(self) -> int:
        """Photos that no thread works on yet."""
        return len(self._reading) + len(self._model)

    def captioner(self, name: str | None) -> Captioner:
        """Return a model by its name, ``name:latest`` as Ollama's clients say, or the default.

        Raises:
            Refusal: there is none of that name; 404.
        """
        if not name:
            return next(iter(self.captioners.values()))
        try:
            return self.captioners[name.removesuffix(":latest")]
        except KeyError:
            known = ", ".join(self.captioners)
            raise Refusal(404, f"model {name[:100]!r} not found", f"use {known}") from None

    async def describe(
        self, request: Request, photos: Sequence[Photo], work: Describe
    ) -> list[Caption]:
        """Return the caption of each photo; one that cannot be read has ``error`` set.

        Raises:
            Refusal: there are too many photos (413), no room for them (503), or no time (503).
            ClientDisconnect: the client left.
        """
        return await self._answered(
            request, photos, lambda: _all(self._describe(photo, work) for photo in photos)
        )

    async def match(
        self,
        request: Request,
        photos: Sequence[Photo],
        captioner: Captioner,
        work: Work[Gallery, T],
    ) -> tuple[T, list[ImageError | None]]:
        """Return what a search makes of the photos, and for each why it cannot be read, or None.

        The gallery calls a photo by its place in the request, from 0: two may have one name.

        Raises as ``describe``, and
            ImageError: not one of them can be read.
        """
        return await self._answered(request, photos, lambda: self._match(photos, captioner, work))

    async def _answered(
        self,
        request: Request,
        photos: Sequence[Photo],
        answer: Callable[[], Coroutine[None, None, T]],
    ) -> T:
        """Take room and await an answer, for as long as the client and the clock allow."""
        if len(photos) > self.limits.photos:
            most = f"at most {self.limits.photos} in one request"
            raise Refusal(413, f"{len(photos)} photos are too many", most)
        with self.photos.taken(len(photos)):
            request.state.photos = len(photos)
            try:
                async with asyncio.timeout(self.limits.timeout):
                    return await _while_connected(request, answer())
            except TimeoutError:
                raise Refusal(503, "the answer took too long", "try again later") from None

    async def _describe(self, photo: Photo, work: Describe) -> Caption:
        pixels = await self._reading.run(
            Read(work.captioner, self.limits.pixels, self._memory), photo
        )
        if isinstance(pixels, ImageError):
            self.metrics.photo(failed=True)
            return _failed(photo, pixels, work)
        caption = await self._model.run(work, pixels)
        self.metrics.photo()
        return replace(caption, path=photo.name)

    async def _match(
        self, photos: Sequence[Photo], captioner: Captioner, work: Work[Gallery, T]
    ) -> tuple[T, list[ImageError | None]]:
        rows = await _all(self._encode(photo, captioner) for photo in photos)
        errors = [row if isinstance(row, ImageError) else None for row in rows]
        readable = {
            Path(str(place)): row
            for place, row in enumerate(rows)
            if not isinstance(row, ImageError)
        }
        if not readable:
            raise next(error for error in errors if error)
        gallery = Gallery(tuple(readable), joined(list(readable.values())), {})
        return await self._model.run(work, gallery), errors

    async def _encode(self, photo: Photo, captioner: Captioner) -> EncodedImages | ImageError:
        pixels = await self._reading.run(Read(captioner, self.limits.pixels, self._memory), photo)
        self.metrics.photo(failed=isinstance(pixels, ImageError))
        if isinstance(pixels, ImageError):
            return pixels
        return await self._model.run(Encode(captioner), pixels)


async def _all(coroutines: Iterable[Coroutine[None, None, T]]) -> list[T]:
    """Await them together; where one fails or the caller is cancelled, so are the others."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in coroutines]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]


async def _while_connected(request: Request, answer: Coroutine[None, None, T]) -> T:
    """Await an answer, or cancel it when the client leaves.

    Raises:
        ClientDisconnect: it left.
    """
    answered = asyncio.ensure_future(answer)
    left = asyncio.ensure_future(_leaves(request))
    try:
        await asyncio.wait({answered, left}, return_when=asyncio.FIRST_COMPLETED)
        if answered.done():
            return answered.result()
        raise ClientDisconnect
    finally:
        answered.cancel()
        left.cancel()
        await asyncio.gather(answered, left, return_exceptions=True)


async def _leaves(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _failed(photo: Photo, error: ImageError, work: Describe) -> Caption:
    return Caption(
        path=photo.name,
        text="",
        log_prob=None,
        finished=False,
        candidates=(),
        model=work.captioner.bundle.name,
        provider=work.captioner.encoder.provider,
        decoder=work.decoder or work.captioner.bundle.decoder,
        error=error,
    )
