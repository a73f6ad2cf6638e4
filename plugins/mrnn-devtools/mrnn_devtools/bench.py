"""Where the time of a caption goes on this machine, and how many a second it makes."""

from __future__ import annotations

import importlib.metadata
import platform
import statistics
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from mrnn_runtime import UsageError, read_image

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from mrnn_runtime import (
        Candidate,
        Captioner,
        EncodedImages,
        Reranker,
        Scores,
        SpecialTokens,
        StepModel,
    )
    from mrnn_runtime.build import CaptionSearch

STAGES = ("read", "encode", "step", "search", "rerank")
MADE_UP = 16
_PACKAGES = ("mrnn-runtime", "onnxruntime", "onnxruntime-gpu", "numpy", "pillow")


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchReport:
    """What was measured; times are in ms.

    Attributes:
        model: the model's name and version.
        precision: of its graphs.
        provider: the execution provider that it ran on.
        decoder: who searched.
        reranker: who chose, or None.
        photos: how many there were; each was captioned ``repeats`` times in either way.
        repeats: how often.
        stages: where the time of a photo goes, one at a time: the file decoded and resized, the
            encoder, the cell's steps, the search around them, the reranker. Means over the photos,
            of which the median over the repeats.
        p50: the median time of a photo, one at a time.
        p95: what 95 of 100 photos take no longer than.
        captions_a_second: all photos at once, with the workers; the median over the repeats.
        workers: how many.
        batch_size: of each.
        threads: that share a run of a graph; 0 is one a core.
        peak_mb: the largest memory that the process has held, or None where that is not known.
        versions: of Python, the machine and the packages that matter.
    """

    model: str
    precision: str
    provider: str
    decoder: str
    reranker: str | None
    photos: int
    repeats: int
    stages: Mapping[str, float]
    p50: float
    p95: float
    captions_a_second: float
    workers: int
    batch_size: int
    threads: int
    peak_mb: float | None
    versions: Mapping[str, str]


def bench(
    captioner: Captioner,
    paths: Sequence[Path] = (),
    *,
    workers: int = 1,
    batch_size: int = 4,
    threads: int = 0,
    decoder: str | None = None,
    beam_size: int | None = None,
    reranker: str | None = None,
    repeats: int = 3,
) -> BenchReport:
    """Caption photos one at a time, with a clock at every stage, and then all at once.

    Args:
        captioner: from ``load``.
        paths: image files; without any, some are made up.
        workers: threads that work on batches of their own.
        batch_size: images of a batch.
        threads: what ``load`` was told, for the record.
        decoder: the name of a decoder; None is the bundle's.
        beam_size: hypotheses kept per image; None is as the bundle says.
        reranker: the name of a reranker, or ``none``; None is the bundle's.
        repeats: how often all of it is measured, after a first photo that does not count.

    Raises:
        UsageError: an unknown name, or a number that is too small.
        ImageError: an image cannot be read.
        PluginError: the decoder or the reranker fails.
    """
    if repeats < 1:
        raise UsageError(f"repeats must be at least 1, not {repeats}")
    options = captioner.options(beam_size=beam_size)
    search = captioner.search(decoder, reranker, options=options)
    with TemporaryDirectory() as folder:
        files = list(paths) or make_photos(Path(folder), MADE_UP)
        _stages(captioner, search, files[0])
        runs, rates = [], []
        for _ in range(repeats):
            runs.append([_stages(captioner, search, file) for file in files])
            captions = captioner.caption(
                files,
                workers=workers,
                batch_size=batch_size,
                decoder=decoder,
                reranker=reranker,
                options=options,
            )
            start = time.perf_counter()  # images are read from here on
            count = sum(1 for _ in captions)
            rates.append(count / (time.perf_counter() - start))
    totals = [sum(stages.values()) for run in runs for stages in run]
    means = [{s: statistics.fmean(stages[s] for stages in run) for s in STAGES} for run in runs]
    bundle = captioner.bundle
    return BenchReport(
        model=f"{bundle.name} {bundle.version}",
        precision=bundle.precision,
        provider=captioner.encoder.provider,
        decoder=search.decoder_name,
        reranker=search.reranker_name,
        photos=len(files),
        repeats=repeats,
        stages={stage: statistics.median(mean[stage] for mean in means) for stage in STAGES},
        p50=float(np.percentile(totals, 50)),
        p95=float(np.percentile(totals, 95)),
        captions_a_second=statistics.median(rates),
        workers=workers,
        batch_size=batch_size,
        threads=threads,
        peak_mb=peak_mb(),
        versions=dict(_versions()),
    )


def make_photos(folder: Path, count: int) -> list[Path]:
    """Write JPEGs of 500 x 375 pixels into a folder: soft colours, and the grain of a camera."""
    rng = np.random.default_rng(0)
    rows, columns = np.linspace(0, 9, 750)[:, None, None], np.linspace(0, 12, 1000)[None, :, None]
    files = [folder / f"{place:02}.jpg" for place in range(count)]
    for file in files:
        phase = rng.uniform(0, 6, (2, 3))
        waves = np.sin(rows + phase[0]) * np.cos(columns + phase[1])
        pixels = 128 + 90 * waves + rng.normal(0, 24, (750, 1000, 1))
        photo = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        photo.resize((500, 375)).save(file, quality=75)
    return files


def peak_mb() -> float | None:
    """Return the largest memory that this process has held, in MB, where the system tells."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


@dataclass(frozen=True, slots=True)
class _Clock:
    """Time by stage, in ms; a stage inside another is no part of that."""

    spent: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))

    @contextmanager
    def on(self, stage: str) -> Iterator[None]:
        """Add the time that passes inside to a stage."""
        start, before = time.perf_counter(), sum(self.spent.values())
        yield
        inside = sum(self.spent.values()) - before
        self.spent[stage] += 1000 * (time.perf_counter() - start) - inside


@dataclass(frozen=True, slots=True)
class _TimedModel:
    """A step model with a clock; fulfils ``StepModel``."""

    model: StepModel
    clock: _Clock

    @property
    def tokens(self) -> SpecialTokens:
        return self.model.tokens

    @property
    def vocabulary_size(self) -> int:
        return self.model.vocabulary_size

    def start(self, images: EncodedImages) -> Any:  # noqa: ANN401
        return self.model.start(images)

    def step(
        self,
        tokens: NDArray[np.int64],
        state: Any,  # noqa: ANN401
        top_k: int,
        *,
        full: bool = False,
    ) -> tuple[Scores, Any]:
        with self.clock.on("step"):
            return self.model.step(tokens, state, top_k, full=full)


@dataclass(frozen=True, slots=True)
class _TimedReranker:
    """A reranker with a clock; fulfils ``Reranker``."""

    reranker: Reranker
    clock: _Clock

    def score(
        self, images: EncodedImages, candidates: Sequence[Sequence[Candidate]]
    ) -> list[list[float]]:
        with self.clock.on("rerank"):
            return self.reranker.score(images, candidates)


def _stages(captioner: Captioner, search: CaptionSearch, path: Path) -> dict[str, float]:
    """Caption a photo; return the time of each stage in ms."""
    clock = _Clock()
    with clock.on("read"):
        pixels = read_image(path, captioner.bundle.preprocess)
    with clock.on("encode"):
        encoded = captioner.encoder.encode(pixels[np.newaxis])
    if search.reranker is not None:
        search = replace(search, reranker=_TimedReranker(search.reranker, clock))
    with clock.on("search"):
        search.run(_TimedModel(captioner.model, clock), encoded, captioner.vocabulary.decode)
    return clock.spent


def _versions() -> Iterator[tuple[str, str]]:
    yield "python", platform.python_version()
    yield "machine", f"{platform.system()} {platform.machine()}"
    for package in _PACKAGES:
        try:
            yield package, importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # one of onnxruntime's two wheels
            continue
