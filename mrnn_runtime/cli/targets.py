"""Where the results of ``mrnn caption`` go, what is there already, and how they get there."""

from __future__ import annotations

import os
from collections import Counter
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mrnn_runtime.cli import files, results, resuming, sidecars
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
    overwrite: bool

    def check(self, images: Sequence[Path]) -> None:
        """Refuse targets that are one file or an image, and an option that has no target."""
        if self.overwrite and self.sidecar is not sidecars.Sidecar.XMP:
            raise UsageError("--overwrite is for --sidecar xmp", hint="leave it out")
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

    def rest(self, images: list[Path]) -> list[Path]:
        """Return the images that are not done yet."""
        if self.output:
            if self.report:
                raise UsageError(
                    "--report shows all images, --resume does only some", hint="leave one out"
                )
            done = resuming.resume(self.output, self.form)
            rest = [image for image in images if str(image) not in done]
        elif self.sidecar:
            kind = self.sidecar
            rest = [image for image in images if not sidecars.is_captioned(image, kind)]
        else:
            raise UsageError(
                "--resume does not know what is done",
                hint="name the results: --output or --sidecar",
            )
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
            total: how many they will be.
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
                advice = "; --resume goes on" if self.output or self.sidecar else ""
                done = tally["captioned"] + tally["failed"]
                speech.note(f"stopped after {done} of {total} images{advice}")
                raise
        return tally

    def _write_one(self, result: Caption, write: Callable[[str], object]) -> Iterator[str]:
        """Write one result; yield what it counts as."""
        # First what is beside the photo: who finds the record must find that as well.
        says_nothing = not result.text and self.sidecar is sidecars.Sidecar.XMP
        if self.sidecar and result.error is None and not says_nothing:
            try:
                if not sidecars.write_sidecar(result, self.sidecar, overwrite=self.overwrite):
                    yield "kept"
            except ImageError as error:
                result = replace(result, candidates=(), error=error)
        write(results.record(result, self.form))
        if result.error is not None and self.form is results.Format.TEXT:
            speech.note(f"error: {result.error}")
        yield "captioned" if result.error is None else "failed"


def _page(report: Path) -> AbstractContextManager[Callable[[Caption], None]]:
    from mrnn_runtime.cli.report import write_report  # it takes a few milliseconds to import

    return write_report(report)
