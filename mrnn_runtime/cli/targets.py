"""Where the results of ``mrnn caption`` go, what is there already, and how they get there."""

from __future__ import annotations

import os
from collections import Counter
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mrnn_runtime.cli import files, results, resuming
from mrnn_runtime.cli import output as speech
from mrnn_runtime.cli.extensions import optional
from mrnn_runtime.errors import ImageError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from mrnn_runtime.cli.sidecars import Keeper
    from mrnn_runtime.types import Caption

_REPORT = "mrnn_devtools.report"


@dataclass(frozen=True, slots=True)
class Targets:
    """Where the results of a run go.

    Attributes:
        output: a file, or None for stdout.
        form: how they are written there.
        report: a page about the run, or None.
        keepers: what holds the caption of each photo as well.
    """

    output: Path | None
    form: results.Format
    report: Path | None
    keepers: Sequence[Keeper]

    def check(self, images: Sequence[Path]) -> None:
        """Refuse targets that are one file or an image, or need what is not installed."""
        if self.report:  # or it would say what is missing after the model is loaded
            optional(_REPORT)
        named = {"--output": self.output, "--report": self.report}
        targets = {option: path for option, path in named.items() if path is not None}
        files.check_targets(targets, images)
        places = ((keeper.place(image), image) for image in images for keeper in self.keepers)
        written = {os.path.abspath(place) for place, image in places if place != image}
        for path in (*targets.values(), *images) if written else ():
            if os.path.abspath(path) in written:
                raise UsageError(
                    f"--sidecar would write over {path}", hint="move it, or take another kind"
                )

    @property
    def can_go_on(self) -> bool:
        """Whether --resume can go on with what a run has written."""
        if self.output:
            is_file = os.path.isfile(self.output) or not os.path.exists(self.output)
            return is_file and self.form is not results.Format.TEXT and not self.report
        return bool(self.keepers)

    def done(self, images: Sequence[Path], *, option: str) -> set[Path]:
        """Return the images that are done already; none where no target says so.

        ``option`` is the one that asks.
        """
        if self.output:
            paths = resuming.resume(self.output, self.form, option)
            return {image for image in images if str(image) in paths}
        return {
            image
            for image in images
            if self.keepers and all(keeper.has_caption(image) for keeper in self.keepers)
        }

    def rest(self, images: list[Path]) -> list[Path]:
        """Return the images that are not done yet."""
        if self.output and self.report:
            raise UsageError(
                "--report shows all images, --resume does only some", hint="leave one out"
            )
        if not (self.output or self.keepers):
            raise UsageError(
                "--resume does not know what is done",
                hint="name the results: --output, --sidecar or --write-metadata",
            )
        done = self.done(images, option="--resume")
        rest = [image for image in images if image not in done]
        speech.note(f"{len(images) - len(rest)} of {len(images)} images are done")
        return rest

    def write(
        self,
        captions: Generator[Caption],
        total: int,
        shown: int,
        *,
        resume: bool,
        min_confidence: float,
        done: set[Path] | None = None,
    ) -> Counter[str]:
        """Write the results as they come, and count them.

        Args:
            captions: the results.
            total: how many they will be; 0 where nobody knows.
            shown: candidates of each that are written.
            resume: whether the output goes on.
            min_confidence: captions below it are kept back.
            done: gets the images whose captions are written, where that matters: it grows with
                them.

        Returns:
            How many are captioned or failed, and of the captioned how many are unsure (kept back)
            or kept (an XMP file or the photo has a caption already).
        """
        tally: Counter[str] = Counter()
        with ExitStack() as stack:
            # In this order, so that files are whole before the workers are waited for.
            stack.enter_context(closing(captions))
            add: Callable[[Caption], None] | None = None
            if self.report:
                add = stack.enter_context(optional(_REPORT).write_report(self.report))
            goes_on = bool(total) and self.can_go_on
            target = results.records_to(self.output, append=resume, goes_on=goes_on)
            write = stack.enter_context(target)
            if not (resume and self.output and self.output.stat().st_size):
                write(results.header(self.form))
            watched = stack.enter_context(speech.progress(captions, total))
            try:
                for result in watched:
                    if add:
                        add(result)
                    kept = replace(result, candidates=result.candidates[:shown])
                    if result.confidence is not None and result.confidence < min_confidence:
                        kept = replace(kept, text="", candidates=())
                        tally["unsure"] += 1
                    tally.update(self._write_one(kept, write, done))
            except KeyboardInterrupt:
                advice = "; --resume goes on" if goes_on else ""
                images = tally["captioned"] + tally["failed"]
                of_all = f" of {total}" if total else ""
                speech.note(f"stopped after {images}{of_all} images{advice}")
                raise
        return tally

    def _write_one(
        self, result: Caption, write: Callable[[str], object], done: set[Path] | None
    ) -> Iterator[str]:
        """Write one result; yield what it counts as."""
        # First what is beside the photo: who finds the record must find that as well.
        if result.error is None:
            try:
                if not all([_keep(keeper, result) for keeper in self.keepers]):
                    yield "kept"
            except ImageError as error:
                result = replace(result, candidates=(), error=error)
        write(results.record(result, self.form))
        if result.error is not None and self.form is results.Format.TEXT:
            speech.warn(f"error: {result.error}")
        if result.error is None and done is not None:
            done.add(Path(result.path))
        yield "captioned" if result.error is None else "failed"


def _keep(keeper: Keeper, result: Caption) -> bool:
    """Write what holds a photo's caption; False where it keeps its own.

    Raises:
        ImageError: it cannot be written.
    """
    place = keeper.place(Path(result.path))
    try:
        return keeper.keep(result)
    except OSError as error:
        raise ImageError(
            f"{place} cannot be written: {error.strerror or error}",
            hint="check the folder's permissions",
        ) from error
    except ValueError as error:
        raise ImageError(f"{place} cannot be written: {error}") from error
    except ImageError as error:
        raise ImageError(f"{place} cannot be written: {error.message}", hint=error.hint) from error
