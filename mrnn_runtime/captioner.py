"""Photos in, captions out: the one object that most users need."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from mrnn_runtime.bundle.loading import load_bundle
from mrnn_runtime.bundle.manifest import TOKENIZER
from mrnn_runtime.bundle.vocabulary import Vocabulary
from mrnn_runtime.decoding.candidates import CaptionSearch, rerank
from mrnn_runtime.engine.inputs import list_images, read_images
from mrnn_runtime.engine.model import load_model
from mrnn_runtime.engine.parallel import Budget, ahead, in_order
from mrnn_runtime.errors import UsageError
from mrnn_runtime.plugins.contracts import blaming
from mrnn_runtime.plugins.manager import PluginManager, manager
from mrnn_runtime.plugins.models import find_model
from mrnn_runtime.types import Caption, DecodeOptions, RerankOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path
    from typing import Unpack

    import numpy as np
    from numpy.typing import NDArray

    from mrnn_runtime.bundle.manifest import Bundle
    from mrnn_runtime.engine.inputs import NamedImage
    from mrnn_runtime.errors import ImageError
    from mrnn_runtime.plugins.contracts import Encoder, Reranker, StepModel
    from mrnn_runtime.types import (
        Candidate,
        CaptionCandidate,
        DecodeChanges,
        EncodedImages,
        ImageSource,
        Neighbour,
    )


def load(
    model: str | Path | None = None,
    *,
    provider: str = "auto",
    threads: int = 0,
    plugins: PluginManager | None = None,
) -> Captioner:
    """Load a model, check its files and start its sessions.

    Args:
        model: the name of an installed model, the folder of a bundle, or None: the only installed
            model, else the one that MRNN_MODEL names, else ``everyday``.
        provider: ``auto``, ``cpu``, ``cuda`` or ``tensorrt``; only ``auto`` may fall back.
        threads: CPU threads of each graph; 0 lets the runtime choose.
        plugins: where models, decoders and rerankers are looked up; by default what is installed.

    Raises:
        UsageError: the model or the provider is unknown.
        BundleError: the bundle is missing, damaged, unsafe or too new.
        ProviderError: the provider that was named is not really there.
    """
    bundle = load_bundle(find_model(model, plugins=plugins))
    with ThreadPoolExecutor(1) as pool:  # ONNX Runtime releases the GIL while it prepares graphs
        graphs = pool.submit(load_model, bundle, provider=provider, threads=threads)
        vocabulary = Vocabulary.load(bundle.file(TOKENIZER))
        vocabulary.expect(bundle.vocabulary_size, bundle.tokens)
        encoder, step_model = graphs.result()
    return Captioner(bundle, encoder, step_model, vocabulary, plugins)


@dataclass(frozen=True, slots=True, eq=False)
class _Batch:
    """Images that were read: their names, pixels uint8 [m, h, w, 3] of those that could be, errors.

    Attributes:
        seconds: how long it took.
    """

    names: Sequence[str]
    pixels: NDArray[np.uint8]
    errors: Sequence[ImageError | None]
    seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class Captioner:
    """A loaded model. Make one with ``load``.

    Attributes:
        bundle: what the model is, and its defaults.
        encoder: images to image inputs.
        model: the language half, one step at a time.
        vocabulary: words to token ids and back.
        plugins: where decoders and rerankers are looked up; None is what is installed.
    """

    bundle: Bundle
    encoder: Encoder
    model: StepModel
    vocabulary: Vocabulary
    plugins: PluginManager | None = None
    # By plugin manager, name and options: opening references checks their files every time.
    _rerankers: dict[tuple[PluginManager, str, RerankOptions], Reranker] = field(
        default_factory=dict, init=False, repr=False
    )

    def caption(
        self,
        images: ImageSource | Iterable[ImageSource],
        *,
        missing_ok: bool = False,
        batch_size: int = 4,
        workers: int = 1,
        readers: int | None = None,
        memory: int = 1200,
        decoder: str | None = None,
        reranker: str | None = None,
        rerank: RerankOptions | None = None,
        explain: bool = False,
        options: DecodeOptions | None = None,
        **changes: Unpack[DecodeChanges],
    ) -> Generator[Caption]:
        """Caption images, one result an image, in order, as they are ready.

        Arguments are checked at once; images are read as the results are asked for. An image that
        cannot be read gives a result with ``error`` set, and the others go on. Options that are not
        given are the bundle's.

        Args:
            images: one image or several, of mixed kinds: paths of files and of folders, which are
                walked recursively; bytes of a file; files opened in binary mode; images of Pillow;
                arrays uint8 [h, w, 3] RGB.
            missing_ok: whether a path that is neither file nor folder gives a result with ``error``
                set, as a file that vanishes later does, instead of a UsageError.
            batch_size: images that are worked on together, at most; no caption depends on it.
            workers: threads that each work on a batch; no caption depends on it. For many images,
                ``load(..., threads=1)`` and a worker a core is the fastest.
            readers: threads that read the images of the next batches; 0 lets each worker read its
                own; None is enough for files that come over a network.
            memory: megabytes that the images which are read at a time may take; one that needs more
                gives a result with ``error`` set.
            decoder: the name of a decoder.
            reranker: the name of a reranker, or ``none``.
            rerank: how the reranker chooses.
            explain: whether to fill ``neighbours``, where the reranker can say who voted.
            options: how to search; ``changes`` are put over them.
            changes: options by name, words as text. The time of ``deadline_ms`` is that of a
                batch's own reading, encoding and search; the first two are not cut short.

        Raises:
            UsageError: a path, a name or a word does not exist, something is no image of a kind
                that is taken, or an option is out of range.
            PluginError: the decoder or the reranker does not load or, later, fails.
            BundleError: the reranker's references are missing, damaged or another model's.
        """
        for name, value, least, most in (
            ("batch_size", batch_size, 1, 1000),
            ("workers", workers, 1, 1000),
            ("readers", readers or 0, 0, 1000),
            ("memory", memory, 1, 1 << 20),
        ):
            if not least <= value <= most:
                raise UsageError(f"{name} must lie in {least}..{most}, not {value}")
        options = self.options(options, **changes)
        search = self.search(decoder, reranker, options=options, rerank=rerank, explain=explain)
        named = list_images(images, missing_ok=missing_ok)
        size = min(batch_size, -(-len(named) // workers)) or 1  # a few leave no worker idle
        batches = (named[i : i + size] for i in range(0, len(named), size))
        if readers is None:
            readers = 2 * workers + 2 if len(named) > size else 0
        read = partial(self._read, budget=Budget(memory * 10**6, by=" by the option memory"))
        return self._captions(ahead(read, batches, readers), search, workers)

    def _captions(
        self,
        reading: AbstractContextManager[Iterator[Callable[[], _Batch]]],
        search: CaptionSearch,
        workers: int,
    ) -> Generator[Caption]:
        job = partial(self._caption_batch, search=search)
        with reading as batches, closing(in_order(job, batches, workers)) as captioned:
            for captions in captioned:
                yield from captions

    def encode(self, images: ImageSource | Iterable[ImageSource]) -> EncodedImages:
        """Read and encode images, of the kinds that ``caption`` takes, all at once.

        Raises:
            UsageError: a path does not exist, or something is no image of a kind that is taken.
            ImageError: an image cannot be read.
        """
        pixels, errors = read_images(list_images(images), self.bundle.preprocess)
        for error in errors:
            if error is not None:
                raise error
        return self.encoder.encode(pixels)

    def options(
        self, base: DecodeOptions | None = None, **changes: Unpack[DecodeChanges]
    ) -> DecodeOptions:
        """Return ``base``, or the bundle's options, with the changes put over them.

        Raises:
            UsageError: a word is not in the vocabulary, or an option is unknown or out of range.
        """
        defaults = base or self.bundle.decode_options
        given: dict[str, Any] = {k: v for k, v in changes.items() if v is not None}
        banned, prefix = given.pop("banned_words", ()), given.pop("prefix", "")
        if unknown := set(given) - set(DecodeOptions.__dataclass_fields__):
            raise UsageError(
                f"unknown decoding option {', '.join(sorted(unknown))}",
                hint=f"use {', '.join(DecodeOptions.__dataclass_fields__)}",
            )
        if banned:
            given["banned"] = (*defaults.banned, *self.vocabulary.ids_of(banned))
        if prefix:
            given["prefix"] = self.vocabulary.ids_of(prefix.split())
        return replace(defaults, **given)

    def decode(
        self,
        images: EncodedImages,
        *,
        decoder: str | None = None,
        options: DecodeOptions | None = None,
    ) -> list[list[Candidate]]:
        """Return the candidates of encoded images, at least one each, in the decoder's order.

        Args:
            images: from ``encode``.
            decoder: the name of a decoder; None is the bundle's.
            options: how to search; None is as the bundle says.

        Raises:
            UsageError: there is no such decoder.
            PluginError: the decoder does not load, or fails.
        """
        return self.search(decoder, "none", options=options).decode(self.model, images)

    def rerank(
        self,
        images: EncodedImages,
        candidates: Sequence[Sequence[Candidate]],
        *,
        reranker: str,
        options: RerankOptions | None = None,
    ) -> list[list[float]]:
        """Return the score of each candidate, higher is better.

        Args:
            images: from ``encode``.
            candidates: of each image.
            reranker: the name of a reranker.
            options: how it chooses; what is None there is as the bundle says.

        Raises:
            UsageError: there is no such reranker.
            PluginError: it does not load, or fails.
            BundleError: its references are missing, damaged or another model's.
        """
        made = self._reranker(reranker, options)
        scores, _ = rerank(reranker, made, images, candidates)
        return scores

    def search(
        self,
        decoder: str | None = None,
        reranker: str | None = None,
        *,
        options: DecodeOptions | None = None,
        rerank: RerankOptions | None = None,
        explain: bool = False,
    ) -> CaptionSearch:
        """Return a decoder and a reranker, loaded; None is what the bundle names.

        Raises:
            UsageError: a name is unknown.
            PluginError: the decoder or the reranker does not load.
            BundleError: the reranker's references are missing, damaged or another model's.
        """
        name = decoder or self.bundle.decoder
        options = options or self.bundle.decode_options
        target = (self.plugins or manager()).load("decoders", name)
        with blaming(f"decoder {name!r}"):
            search = CaptionSearch(name, target(), options, options.n_best)
        calibration = self.bundle.calibration
        if calibration and calibration.fits(name, options):
            search = replace(search, calibration=calibration)
        chosen = reranker or self.bundle.reranker
        if chosen is None or chosen == "none":
            return search
        return replace(
            search,
            # A reranker chooses among all that the decoder kept, not only what is to be shown.
            options=replace(options, n_best=max(options.n_best, options.beam_size)),
            reranker_name=chosen,
            reranker=self._reranker(chosen, rerank),
            explain=explain,
        )

    def _reranker(self, name: str, options: RerankOptions | None) -> Reranker:
        given = options or RerankOptions()
        own = self.bundle.rerank_options.get(name, RerankOptions())
        merged = replace(given, k=given.k or own.k, m=given.m or own.m)
        plugins = self.plugins or manager()
        key = (plugins, name, merged)
        if key not in self._rerankers:
            target = plugins.load("rerankers", name)
            with blaming(f"reranker {name!r}"):
                self._rerankers[key] = target(self.bundle, merged)
        return self._rerankers[key]

    def _read(self, images: Sequence[NamedImage], budget: Budget) -> _Batch:
        began = time.monotonic()
        pixels, errors = read_images(images, self.bundle.preprocess, budget.claims)
        names = [image.name for image in images]
        return _Batch(names, pixels, errors, time.monotonic() - began)

    def _caption_batch(self, read: Callable[[], _Batch], search: CaptionSearch) -> list[Caption]:
        batch = read()
        began = time.monotonic() - batch.seconds
        readable = [place for place, error in enumerate(batch.errors) if error is None]
        results = {}
        if readable:
            encoded = self.encoder.encode(batch.pixels)
            rest = search.within(time.monotonic() - began)
            candidates = rest.run(self.model, encoded, self.vocabulary.decode)
            results = dict(zip(readable, candidates, strict=True))
        return [
            self._caption(name, search, *results.get(place, ((), ())), batch.errors[place])
            for place, name in enumerate(batch.names)
        ]

    def _caption(
        self,
        name: str,
        search: CaptionSearch,
        candidates: tuple[CaptionCandidate, ...],
        neighbours: tuple[Neighbour, ...],
        error: ImageError | None,
    ) -> Caption:
        best = candidates[0] if candidates else None
        return Caption(
            path=name,
            text=best.caption if best else "",
            log_prob=best.log_prob if best else None,
            finished=best.finished if best else False,
            candidates=candidates,
            model=self.bundle.name,
            provider=self.encoder.provider,
            decoder=search.decoder_name,
            reranker=search.reranker_name,
            neighbours=neighbours,
            error=error,
            confidence=best.confidence if best else None,
        )
