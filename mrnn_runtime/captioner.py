"""Photos in, captions out: the one object that most users need."""

from __future__ import annotations

import math
import os
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mrnn_runtime.bundle import load_bundle
from mrnn_runtime.errors import ImageError, MrnnError, PluginError, UsageError
from mrnn_runtime.images import find_images, read_image
from mrnn_runtime.manifest import TOKENIZER
from mrnn_runtime.onnx_model import load_model
from mrnn_runtime.plugins import describe, manager
from mrnn_runtime.types import Caption, CaptionCandidate
from mrnn_runtime.vocabulary import Vocabulary

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from mrnn_runtime.bundle import Bundle
    from mrnn_runtime.contracts import Decoder, Encoder, Reranker, StepModel
    from mrnn_runtime.types import Candidate, DecodeOptions, EncodedImages


def load(model: str | Path | None = None, *, provider: str = "auto", threads: int = 0) -> Captioner:
    """Load a model, check its files and start its sessions.

    Args:
        model: the name of an installed model, the folder of a bundle, or None: the only installed
            model, else the one that MRNN_MODEL names, else ``flickr8k``.
        provider: ``auto``, ``cpu``, ``cuda`` or ``tensorrt``; only ``auto`` may fall back.
        threads: CPU threads of each graph; 0 lets the runtime choose.

    Raises:
        UsageError: the model or the provider is unknown.
        BundleError: the bundle is missing, damaged, unsafe or too new.
        ProviderError: the provider that was named is not really there.
    """
    bundle = load_bundle(find_model(model))
    encoder, step_model = load_model(bundle, provider=provider, threads=threads)
    vocabulary = Vocabulary.load(bundle.file(TOKENIZER))
    vocabulary.expect(bundle.vocabulary_size, bundle.tokens)
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
    with _blaming(f"model {name!r}"):
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
        batch_size: int = 4,
        decoder: str | None = None,
        reranker: str | None = None,
        options: DecodeOptions | None = None,
        beam_size: int | None = None,
        n_best: int | None = None,
        min_length: int | None = None,
        max_length: int | None = None,
        length_penalty: float | None = None,
        no_repeat_ngram: int | None = None,
        banned_words: Sequence[str] = (),
        prefix: str = "",
    ) -> Iterator[Caption]:
        """Caption images, one result an image, in order, as they are ready.

        Arguments are checked at once; images are read as the results are asked for. An image that
        cannot be read gives a result with ``error`` set, and the others go on. Options that are not
        given are the bundle's.

        Args:
            paths: files, and folders that are walked recursively.
            batch_size: images per call of the encoder; no caption depends on it.
            decoder: the name of a decoder.
            reranker: the name of a reranker, or ``none``.
            options: how to search; what follows is put over them.
            beam_size: hypotheses kept per image.
            n_best: candidates per image, at most.
            min_length: words per caption, at least.
            max_length: words per caption, at most.
            length_penalty: alpha in log_prob / length ** alpha.
            no_repeat_ngram: no n-gram of this size occurs twice; 0 allows all.
            banned_words: words that no caption contains, beside those that the bundle bans.
            prefix: words that every caption starts with.

        Raises:
            UsageError: a path, a name or a word does not exist, or an option is out of range.
            PluginError: the decoder or the reranker does not load or, later, fails.
        """
        if batch_size < 1:
            raise UsageError(f"batch_size must be at least 1, not {batch_size}")
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
        )
        search = self._search(decoder, reranker, options)
        found = find_images([paths] if isinstance(paths, (str, Path)) else paths)
        return (
            caption
            for start in range(0, len(found), batch_size)
            for caption in self._batch(found[start : start + batch_size], search)
        )

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
        }
        given = {name: value for name, value in changes.items() if value is not None}
        return replace(defaults, **given)

    def _search(self, decoder: str | None, reranker: str | None, options: DecodeOptions) -> _Search:
        name = decoder or self.bundle.decoder
        target = manager().load("decoders", name)
        with _blaming(f"decoder {name!r}"):
            search = _Search(name, target(), options, options.n_best)
        ranking = reranker or self.bundle.reranker
        if ranking is None or ranking == "none":
            return search
        target = manager().load("rerankers", ranking)
        # A reranker chooses among all that the decoder kept, not only what the caller wants to see.
        kept = replace(options, n_best=max(options.n_best, options.beam_size))
        with _blaming(f"reranker {ranking!r}"):
            return replace(search, options=kept, ranking=ranking, reranker=target(self.bundle))

    def _batch(self, paths: Sequence[Path], search: _Search) -> list[Caption]:
        images = [self._read(path) for path in paths]
        pixels = [image for image in images if not isinstance(image, ImageError)]
        ranked: Iterator[Sequence[Candidate]] = iter(())
        if pixels:
            ranked = iter(search.run(self.model, self.encoder.encode(np.stack(pixels))))
        return [
            self._result(path, search, (), str(image))
            if isinstance(image, ImageError)
            else self._result(path, search, next(ranked), None)
            for path, image in zip(paths, images, strict=True)
        ]

    def _read(self, path: Path) -> NDArray[np.uint8] | ImageError:
        try:
            return read_image(path, self.bundle.preprocess)
        except ImageError as error:
            return error

    def _result(
        self, path: Path, search: _Search, candidates: Sequence[Candidate], error: str | None
    ) -> Caption:
        worded = tuple(
            CaptionCandidate(self.vocabulary.decode(candidate.tokens), float(candidate.log_prob))
            for candidate in candidates
        )
        return Caption(
            path=str(path),
            text=worded[0].caption if worded else "",
            log_prob=worded[0].log_prob if worded else 0.0,
            finished=candidates[0].finished if candidates else False,
            candidates=worded,
            model=self.bundle.name,
            provider=self.encoder.provider,
            decoder=search.name,
            error=error,
        )


@dataclass(frozen=True, slots=True)
class _Search:
    """A decoder, its options and, perhaps, a reranker: what makes candidates of encoded images."""

    name: str
    decoder: Decoder
    options: DecodeOptions
    n_best: int
    ranking: str = ""
    reranker: Reranker | None = None

    def run(self, model: StepModel, images: EncodedImages) -> list[Sequence[Candidate]]:
        """Return the candidates of each image, best first, at least one.

        Raises:
            PluginError: the decoder or the reranker fails, or breaks its contract.
        """
        found: Sequence[Sequence[Candidate]]
        with _blaming(f"decoder {self.name!r}"):
            found = self.decoder.decode(model, images, self.options)
            if [bool(row) for row in found] != [True] * len(images):
                raise ValueError(f"it must give candidates for each of {len(images)} images")
        if self.reranker is not None:
            with _blaming(f"reranker {self.ranking!r}"):
                scores = self.reranker.score(images, found)
                found = [_rank(*pair) for pair in zip(found, scores, strict=True)]
        return [row[: self.n_best] for row in found]


def _rank(candidates: Sequence[Candidate], scores: Sequence[float]) -> list[Candidate]:
    """Sort candidates by score, the highest first; equal scores keep the decoder's order."""
    if not all(math.isfinite(score) for score in scores):
        raise ValueError(f"scores must be finite, not {list(scores)}")
    pairs = sorted(zip(candidates, scores, strict=True), key=lambda pair: -pair[1])
    return [candidate for candidate, _ in pairs]


@contextmanager
def _blaming(what: str) -> Iterator[None]:
    """Turn whatever a plugin raises, beside our own errors, into a PluginError that names it."""
    try:
        yield
    except MrnnError:
        raise
    except Exception as error:
        raise PluginError(
            f"{what} failed: {describe(error)}",
            hint="report it to the author of the plugin; mrnn plugins says who that is",
        ) from error
