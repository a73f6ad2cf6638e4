"""Where the results of ``mrnn caption`` go, what is there already, and how they get there."""

from __future__ import annotations

import os
from collections import Counter
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mrnn_runtime.cli import extensions, files, results, resuming, sidecars
from mrnn_runtime.cli import output as speech
from mrnn_runtime.errors import ImageError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from mrnn_runtime.types import Caption


@dataclass(frozen=True, slots=True)
class Targets:
    """Where the results of a run go."""

    output: Path | None
    form: results.Format
    sidecar: sidecars.Sidecar | None
    report: Path | None
    metadata: bool = False
    overwrite: bool = False
    keep_mtime: bool = False

    def check(self, images: Sequence[Path]) -> None:
        """Refuse targets that are one file or an image, and an option that has no target."""
        if self.overwrite and not (self.metadata or self.sidecar is sidecars.Sidecar.XMP):
            raise UsageError(
                "--overwrite is for --sidecar xmp and --write-metadata", hint="leave it out"
            )
        if self.keep_mtime and not self.metadata:
            raise UsageError("--keep-mtime is for --write-metadata", hint="leave it out")
        if self.metadata:  # or the first photo would say what is missing, after loading the model
            extensions.optional("mrnn_photos.metadata")
        named = {"--output": self.output, "--report": self.report}
        targets = {option: path for option, path in named.items() if path is not None}
        files.check_targets(targets, images)
        kind = self.sidecar
        written = {os.path.abspath(sidecars.beside(image, kind)) for image in images if kind}
        for path in (*targets.values(), *images) if written else ():
            if os.path.abspath(path) in written:
                raise UsageError(
                    f"--sidecar would write over {path}", hint="move it, or take another kind"
                )

    def done(self, images: Sequence[Path]) -> set[Path]:
        """Return the images that are done already; none where no target says so."""
        if self.output:
            paths = resuming.resume(self.output, self.form)
            return {image for image in images if str(image) in paths}
        kinds = [self.sidecar] * bool(self.sidecar) + [None] * self.metadata
        return {
            image
            for image in images
            if kinds and all(sidecars.is_captioned(image, kind) for kind in kinds)
        }

    def rest(self, images: list[Path]) -> list[Path]:
        """Return the images that are not done yet."""
        if self.output and self.report:
            raise UsageError(
                "--report shows all images, --resume does only some", hint="leave one out"
            )
        if not (self.output or self.sidecar or self.metadata):
            raise UsageError(
                "--resume does not know what is done",
                hint="name the results: --output, --sidecar or --write-metadata",
            )
        done = self.done(images)
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
    ) -> Counter[str]:
        """Write the results as they come, and count them.

        Args:
            captions: the results.
            total: how many they will be; 0 where nobody knows.
            shown: candidates of each that are written.
            resume: whether the output goes on.
            min_confidence: captions below it are kept back.

        Returns:
            How many are captioned or failed, and of the captioned how many are unsure (kept back)
            or kept (an XMP file has a caption already).
        """
        tally: Counter[str] = Counter()
        with ExitStack() as stack:
            # In this order, so that files are whole before the workers are waited for.
            stack.enter_context(closing(captions))
            add = stack.enter_context(_page(self.report)) if self.report else None
            write = stack.enter_context(results.records_to(self.output, append=resume))
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
                    tally.update(self._write_one(kept, write))
            except KeyboardInterrupt:
                goes_on = self.output or self.sidecar or self.metadata
                advice = "; --resume goes on" if goes_on and total else ""
                done = tally["captioned"] + tally["failed"]
                of_all = f" of {total}" if total else ""
                speech.note(f"stopped after {done}{of_all} images{advice}")
                raise
        return tally

    def _write_one(self, result: Caption, write: Callable[[str], object]) -> Iterator[str]:
        """Write one result; yield what it counts as."""
        # First what is beside the photo: who finds the record must find that as well.
        if result.error is None:
            try:
                if not all(list(self._write_beside(result))):
                    yield "kept"
            except ImageError as error:
                result = replace(result, candidates=(), error=error)
        write(results.record(result, self.form))
        if result.error is not None and self.form is results.Format.TEXT:
            speech.warn(f"error: {result.error}")
        yield "captioned" if result.error is None else "failed"

    def _write_beside(self, result: Caption) -> Iterator[bool]:
        """Write what is beside the photo and into it; yield whether a caption was put there.

        Raises:
            ImageError: it cannot be written.
        """
        if self.sidecar and (result.text or self.sidecar is not sidecars.Sidecar.XMP):
            yield sidecars.write_sidecar(result, self.sidecar, overwrite=self.overwrite)
        if self.metadata and result.text:
            yield sidecars.write_metadata(
                result, overwrite=self.overwrite, keep_mtime=self.keep_mtime
            )


def _page(report: Path) -> AbstractContextManager[Callable[[Caption], None]]:
    from mrnn_runtime.cli.report import write_report  # it takes a few milliseconds to import

    return write_report(report)
