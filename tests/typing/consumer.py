"""The public interface as a type checker sees it. mypy reads this file; nobody runs it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, assert_type

import numpy as np

from mrnn_runtime import (
    Bundle,
    Candidate,
    Caption,
    CaptionCandidate,
    Captioner,
    Component,
    DecodeOptions,
    Decoder,
    EncodedImages,
    ImageError,
    MrnnError,
    Reranker,
    RerankOptions,
    StepModel,
    __version__,
    hookimpl,
    load,
    load_bundle,
)
from mrnn_runtime.decoding import Constraints, make_candidate, rank
from mrnn_runtime.testing import Check, TableModel, checks_for, encoded_images, tiny_bundle

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    import typer


def caption_photos(folder: Path) -> list[str]:
    """Load a model and caption photos, in every way that there is."""
    captioner = load("flickr8k", provider="cpu", threads=2)
    assert_type(captioner, Captioner)
    assert_type(captioner.bundle, Bundle)
    assert_type(load_bundle(folder).decode_options, DecodeOptions)
    assert_type(captioner.caption(folder), Generator[Caption])
    captioner.caption("a.jpg", beam_size=3, n_best=2, banned_words=["dog"], prefix="a man")
    captioner.caption([folder, "b.jpg"], options=DecodeOptions(max_length=9), decoder="sample")
    captioner.caption(folder, reranker="consensus-cider", rerank=RerankOptions(k=60), explain=True)
    captioner.caption([b"JPEG", np.zeros((9, 9, 3), np.uint8)], temperature=0.7, decoder="sample")
    captioner.caption(3)  # type: ignore[arg-type]
    captioner.caption(folder, colour="red")  # type: ignore[call-arg]
    try:
        captions = list(captioner.caption(folder))
    except MrnnError as error:
        return [__version__, error.message, error.hint]
    for caption in captions:
        assert_type(caption.error, ImageError | None)
        assert_type(caption.log_prob, float | None)
        assert_type(caption.candidates, tuple[CaptionCandidate, ...])
        caption.text = "other"  # type: ignore[misc]
    return [caption.text for caption in captions]


class FirstWord:
    """A decoder: captions of one word."""

    def decode(
        self, model: StepModel, images: EncodedImages, options: DecodeOptions
    ) -> list[list[Candidate]]:
        """Return the best first word of each image."""
        rules = Constraints.of(model, options)
        ids, log_probs, _ = rules.best(rules.begin(images), 1)
        best = log_probs.argmax(axis=1)
        return [
            rank(
                [
                    make_candidate(
                        [int(ids[row, column])],
                        float(log_probs[row, column]),
                        finished=False,
                        length_penalty=options.length_penalty,
                    )
                ],
                options.n_best,
            )
            for row, column in enumerate(best.tolist())
        ]


class Longest:
    """A reranker: the longest caption."""

    def __init__(self, bundle: Bundle, options: RerankOptions) -> None:
        """Keep what the length is measured by."""
        self.longest = bundle.decode_options.max_length

    def score(
        self, images: EncodedImages, candidates: Sequence[Sequence[Candidate]]
    ) -> list[list[float]]:
        """Return each length as a share of the greatest."""
        return [[len(one.tokens) / self.longest for one in row] for row in candidates]


class NoReranker:
    """Scores images, where candidates are meant."""

    def score(self, images: EncodedImages) -> list[float]:
        """Return a number an image."""
        return [0.0] * len(images)


def roles(bundle: Bundle) -> tuple[Decoder, Reranker]:
    """Return them as what they are for."""
    wrong: Reranker = NoReranker()  # type: ignore[assignment]
    del wrong
    return FirstWord(), Longest(bundle, RerankOptions())


@hookimpl
def mrnn_decoders() -> list[Component]:
    """Register the decoder."""
    return [Component("first-word", "consumer:FirstWord", "captions of one word")]


@hookimpl
def mrnn_commands(app: typer.Typer) -> None:
    """Register a command."""

    @app.command()
    def hello() -> None:
        """Greet."""


def check_everything(folder: Path) -> None:
    """Use the kit."""
    (component,) = mrnn_decoders()
    checks = checks_for(component, "decoders")
    assert_type(checks, list[Check])
    checks_for(component, "decoder")  # type: ignore[arg-type]
    model, images = TableModel(vocabulary_size=20), encoded_images(2)
    candidates = FirstWord().decode(model, images, DecodeOptions())
    assert_type(candidates[0][0].tokens, tuple[int, ...])
    images.take(np.array([0]))
    assert_type(tiny_bundle(folder), Path)
