"""Photos in, captions out: the one object that most users need."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mrnn_runtime.bundle.loading import load_bundle
from mrnn_runtime.bundle.manifest import TOKENIZER
from mrnn_runtime.bundle.vocabulary import Vocabulary
from mrnn_runtime.decoding.candidates import Found, Search, blaming, score
from mrnn_runtime.engine.model import load_model
from mrnn_runtime.engine.parallel import in_order
from mrnn_runtime.errors import ImageError, UsageError
from mrnn_runtime.images import find_images, read_image
from mrnn_runtime.plugins.manager import manager
from mrnn_runtime.types import Caption, CaptionCandidate, RerankOptions

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from mrnn_runtime.bundle.loading import Bundle
    from mrnn_runtime.plugins.contracts import Encoder, Reranker, StepModel
    from mrnn_runtime.types import Candidate, DecodeOptions, EncodedImages


def load(model: str | Path | None = None, *, provider: str = "auto", threads: int = 0) -> Captioner:
    """Load a model, check its files and start its sessions.

    Args:
        model: the name of an installed model, the folder of a bundle, or None: the only installed
            model, else the one that MRNN_MODEL names, else ``flickr8k``.
        provider: ``auto``, ``cpu``, ``cuda``, ``cuda-graphs`` or ``tensorrt``; only ``auto`` may
            fall back.
        threads: CPU threads of each graph; 0 lets the runtime choose.

    Raises:
        UsageError: the model or the provider is unknown.
        BundleError: the bundle is missing, damaged, unsafe or too new.
        ProviderError: the provider that was named is not really there.
    """
    bundle = load_bundle(find_model(model))
    with ThreadPoolExecutor(1) as pool:  # graphs are prepared outside of Python's lock
        graphs = pool.submit(load_model, bundle, provider=provider, threads=threads)
        vocabulary = Vocabulary.load(bundle.file(TOKENIZER))
        vocabulary.expect(bundle.vocabulary_size, bundle.tokens)
        encoder, step_model = graphs.result()
    return Captioner(bundle, encoder, step_model, vocabulary)


def find_model(model: str | Path | None = None) -> Path:
    """Return the folder of a bundle; see ``load`` for the names.

    A bare word that names an installed model never means the folder of that name: write ``./word``,
    or give a Path.

    Raises:
        UsageError: no model is called that.
        PluginError: two plugins claim the name, or the one that has it fails.
    """
    if isinstance(model, Path):
        return model
    name = model or default_model()
    plugins = manager()
    folder = Path(name)
    if folder.name != name or (name not in plugins.components("models") and folder.is_dir()):
        return folder
    try:
        target = plugins.load("models", name)
    except UsageError as error:
        mend = "install one (pip install mrnn-flickr8k) or name the folder of a bundle"
        raise UsageError(error.message, hint=f"{error.hint}; {mend}") from None
    with blaming(f"model {name!r}"):
        return Path(target())


def default_model() -> str:
    """Return the model that is meant where none is named: its name, or a folder."""
    installed = list(manager().components("models"))
    if len(installed) == 1:
        return installed[0]
    return os.environ.get("MRNN_MODEL") or "flickr8k"


@dataclass(frozen=True, slots=True, eq=False)
class Captioner:
    """A loaded model. Make one with ``load``.

    Attributes:
        bundle: what the model is, and its defaults.
        encoder: images to image inputs.
        model: the language half, one step at a time.
        vocabulary: words to token ids and back.
    """

    bundle: Bundle
    encoder: Encoder
    model: StepModel
    vocabulary: Vocabulary

    def caption(
        self,
        paths: str | Path | Iterable[str | Path],
        *,
        missing_ok: bool = False,
        batch_size: int = 4,
        workers: int = 1,
        decoder: str | None = None,
        reranker: str | None = None,
        rerank: RerankOptions | None = None,
        explain: bool = False,
        options: DecodeOptions | None = None,
        beam_size: int | None = None,
        n_best: int | None = None,
        min_length: int | None = None,
        max_length: int | None = None,
        length_penalty: float | None = None,
        no_repeat_ngram: int | None = None,
        banned_words: Sequence[str] = (),
        prefix: str = "",
        deadline_ms: int | None = None,
    ) -> Generator[Caption]:
        """Caption images, one result an image, in order, as they are ready.

        Arguments are checked at once; images are read as the results are asked for. An image that
        cannot be read gives a result with ``error`` set, and the others go on. Options that are not
        given are the bundle's.

        Args:
            paths: files, and folders that are walked recursively.
            missing_ok: whether a path that is neither file nor folder gives a result with ``error``
                set, as a file that vanishes later does, instead of a UsageError.
            batch_size: images that are worked on together, at most; no caption depends on it.
            workers: threads that each work on a batch; no caption depends on it. For many images,
                ``load(..., threads=1)`` and a worker a core is the fastest.
            decoder: the name of a decoder.
            reranker: the name of a reranker, or ``none``.
            rerank: how the reranker chooses.
            explain: whether to fill ``neighbours``, where the reranker can say who voted.
            options: how to search; what follows is put over them.
            beam_size: hypotheses kept per image.
            n_best: candidates per image, at most.
            min_length: words per caption, at least.
            max_length: words per caption, at most.
            length_penalty: alpha in log_prob / length ** alpha.
            no_repeat_ngram: no n-gram of this size occurs twice; 0 allows all.
            banned_words: words that no caption contains, beside those that the bundle bans.
            prefix: words that every caption starts with.
            deadline_ms: milliseconds from the reading of a batch after which its captions are
                returned as they are; reading and encoding are not cut short.

        Raises:
            UsageError: a path, a name or a word does not exist, or an option is out of range.
            PluginError: the decoder or the reranker does not load or, later, fails.
            BundleError: the reranker's references are missing, damaged or another model's.
        """
        if batch_size < 1:
            raise UsageError(f"batch_size must be at least 1, not {batch_size}")
        if workers < 1:
            raise UsageError(f"workers must be at least 1, not {workers}")
        options = self.options(
            options,
            beam_size=beam_size,
            n_best=n_best,
            min_length=min_length,
            max_length=max_length,
            length_penalty=length_penalty,
            no_repeat_ngram=no_repeat_ngram,
            banned_words=banned_words,
            prefix=prefix,
            deadline_ms=deadline_ms,
        )
        search = self._search(decoder, reranker, options, rerank, explain=explain)
        found = find_images(
            [paths] if isinstance(paths, (str, Path)) else paths, missing_ok=missing_ok
        )
        size = min(batch_size, -(-len(found) // workers)) or 1  # a few leave no worker idle
        batches = (found[i : i + size] for i in range(0, len(found), size))
        return self._captions(batches, search, workers)

    def _captions(
        self, batches: Iterable[Sequence[Path]], search: Search, workers: int
    ) -> Generator[Caption]:
        done = in_order(partial(self._batch, search=search), batches, workers)
        try:
            for captions in done:
                yield from captions
        finally:
            done.close()

    def options(
        self,
        base: DecodeOptions | None = None,
        *,
        beam_size: int | None = None,
        n_best: int | None = None,
        min_length: int | None = None,
        max_length: int | None = None,
        length_penalty: float | None = None,
        no_repeat_ngram: int | None = None,
        banned_words: Sequence[str] = (),
        prefix: str = "",
        deadline_ms: int | None = None,
    ) -> DecodeOptions:
        """Return ``base``, or the bundle's options, with what else is given put over them.

        Raises:
            UsageError: a word is not in the vocabulary, or an option is out of range.
        """
        defaults = base or self.bundle.decode_options
        changes: dict[str, Any] = {
            "beam_size": beam_size,
            "n_best": n_best,
            "min_length": min_length,
            "max_length": max_length,
            "length_penalty": length_penalty,
            "no_repeat_ngram": no_repeat_ngram,
            "banned": (*defaults.banned, *self.vocabulary.ids_of(banned_words)),
            "prefix": self.vocabulary.ids_of(prefix.split()) or None,
            "deadline_ms": deadline_ms,
        }
        given = {name: value for name, value in changes.items() if value is not None}
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
            images: from ``encoder.encode``.
            decoder: the name of a decoder; None is the bundle's.
            options: how to search; None is as the bundle says.

        Raises:
            UsageError: there is no such decoder.
            PluginError: the decoder does not load, or fails.
        """
        search = self._search(decoder, "none", options or self.bundle.decode_options, None)
        return search.decode(self.model, images)

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
            images: from ``encoder.encode``.
            candidates: of each image.
            reranker: the name of a reranker.
            options: how it chooses; what is None there is as the bundle says.

        Raises:
            UsageError: there is no such reranker.
            PluginError: it does not load, or fails.
            BundleError: its references are missing, damaged or another model's.
        """
        return score(reranker, self._make_reranker(reranker, options), images, candidates)

    def _make_reranker(self, name: str, rerank: RerankOptions | None) -> Reranker:
        given = rerank or RerankOptions()
        own = self.bundle.rerank_options.get(name, RerankOptions())
        merged = replace(given, k=given.k or own.k, m=given.m or own.m)
        target = manager().load("rerankers", name)
        with blaming(f"reranker {name!r}"):
            made: Reranker = target(self.bundle, merged)
        return made

    def _search(
        self,
        decoder: str | None,
        reranker: str | None,
        options: DecodeOptions,
        rerank: RerankOptions | None,
        *,
        explain: bool = False,
    ) -> Search:
        name = decoder or self.bundle.decoder
        target = manager().load("decoders", name)
        with blaming(f"decoder {name!r}"):
            search = Search(name, target(), options, options.n_best)
        ranking = reranker or self.bundle.reranker
        if ranking is None or ranking == "none":
            return search
        return replace(
            search,
            # A reranker chooses among all that the decoder kept, not only what is to be shown.
            options=replace(options, n_best=max(options.n_best, options.beam_size)),
            ranking=ranking,
            reranker=self._make_reranker(ranking, rerank),
            explain=explain,
        )

    def _batch(self, paths: Sequence[Path], search: Search) -> list[Caption]:
        began = time.monotonic()
        images = [self._read(path) for path in paths]
        pixels = [image for image in images if not isinstance(image, ImageError)]
        found: Iterator[Found] = iter(())
        if pixels:
            encoded = self.encoder.encode(np.stack(pixels))
            found = iter(search.within(time.monotonic() - began).run(self.model, encoded))
        return [
            self._result(path, search, Found(), str(image))
            if isinstance(image, ImageError)
            else self._result(path, search, next(found), None)
            for path, image in zip(paths, images, strict=True)
        ]

    def _read(self, path: Path) -> NDArray[np.uint8] | ImageError:
        try:
            return read_image(path, self.bundle.preprocess)
        except ImageError as error:
            return error

    def _result(self, path: Path, search: Search, found: Found, error: str | None) -> Caption:
        worded = tuple(
            CaptionCandidate(
                caption=self.vocabulary.decode(one.candidate.tokens),
                log_prob=float(one.candidate.log_prob),
                score=float(one.candidate.score),
                rank=one.rank,
                rerank_score=one.score,
            )
            for one in found.ranked
        )
        return Caption(
            path=str(path),
            text=worded[0].caption if worded else "",
            log_prob=worded[0].log_prob if worded else 0.0,
            finished=found.ranked[0].candidate.finished if worded else False,
            candidates=worded,
            model=self.bundle.name,
            provider=self.encoder.provider,
            decoder=search.name,
            reranker=search.ranking or None,
            neighbours=found.neighbours,
            error=error,
        )
