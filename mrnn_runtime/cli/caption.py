"""``mrnn caption``."""

from __future__ import annotations

import sys
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from mrnn_runtime.cli import files, options, results, sidecars
from mrnn_runtime.cli import output as speech
from mrnn_runtime.cli.extensions import optional
from mrnn_runtime.cli.options import flag, option
from mrnn_runtime.cli.targets import Targets
from mrnn_runtime.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mrnn_runtime.types import DecodeOptions

EXAMPLES = """\b
mrnn caption dog.jpg
mrnn caption photos/ --output captions.jsonl
mrnn caption photos/ --output captions.jsonl --resume
mrnn caption photos/ --decoder greedy --ban man --ban woman
mrnn caption dog.jpg --beam-size 10 --n-best 3
mrnn caption dog.jpg --decoder sample --n-best 5 --seed 7
mrnn caption photos/ --beam-size 10 --reranker consensus-cider --report report.html
mrnn caption photos/ --min-confidence 0.5 --format jsonl
mrnn caption photos/ --write-metadata --keep-mtime
mrnn caption --watch photos/ --sidecar xmp
"""


def caption(
    context: typer.Context,
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH",
            help="Images, and folders that are walked recursively; - reads them from stdin, one a "
            "line.",
            show_default=False,
        ),
    ],
    model: options.Model = None,
    provider: options.Provider = "auto",
    workers: Annotated[
        int | None,
        option(
            "N",
            "Batches that are worked on at once, changes no caption; else one a core, and 1 for one"
            " image.",
        ),
    ] = None,
    threads: Annotated[
        int | None,
        option("N", "CPU threads of each graph; 0 is one a core. Else 1, or 0 for one image."),
    ] = None,
    batch_size: Annotated[int, option("B", "Images of a batch; changes no caption.")] = 4,
    readers: Annotated[
        int | None,
        option(
            "N",
            "Threads that read the next photos; 0: each worker reads its own. Else 2 a worker and"
            " 2 more.",
        ),
    ] = None,
    memory: Annotated[
        int, option("MB", "What photos that are read may take; one that needs more fails.")
    ] = 1200,
    decoder: Annotated[
        str | None,
        option(
            "NAME",
            "How to search; mrnn plugins lists decoders and rerankers.",
            "Search (what a decoder does not use, it ignores)",
        ),
    ] = None,
    # The names of DecodeChanges; this function takes their values from the context.
    beam_size: Annotated[int | None, option("K", "Hypotheses kept per image.")] = None,
    n_best: Annotated[
        int | None, option("N", "Candidates per image, at most; the number of samples.")
    ] = None,
    prefix: Annotated[str | None, option("TEXT", "How every caption starts.")] = None,
    banned_words: Annotated[
        list[str] | None,
        typer.Option(
            "--ban", metavar="WORD", help="A word that no caption contains; may be repeated."
        ),
    ] = None,
    min_length: Annotated[int | None, option("N", "Words per caption, at least.")] = None,
    max_length: Annotated[int | None, option("N", "Words per caption, at most.")] = None,
    length_penalty: Annotated[
        float | None, option("A", "Rank by log_prob / length ** A; 0 is the plain sum.")
    ] = None,
    exact: Annotated[
        bool | None,
        flag("--exact", "With a length penalty, search on until no hypothesis can win any more."),
    ] = None,
    no_repeat_ngram: Annotated[
        int | None, option("N", "No n-gram of this size twice; 0 allows all.")
    ] = None,
    deadline_ms: Annotated[
        int | None,
        option("MS", "After so long, take what is there; a batch shares it. 0: no deadline."),
    ] = None,
    temperature: Annotated[
        float | None,
        option("T", "Below 1 sharper, above 1 flatter.", "Sampling (decoder sample)"),
    ] = None,
    top_k: Annotated[int | None, option("K", "Among the K best words only; 0 is all.")] = None,
    top_p: Annotated[
        float | None, option("P", "Among the fewest words that hold this probability.")
    ] = None,
    seed: Annotated[int | None, option("N", "Another seed, other samples.")] = None,
    reranker: Annotated[
        str | None,
        option("NAME", "Who chooses among all that the beam holds; or none.", "Reranking"),
    ] = None,
    references: Annotated[
        Path | None, option("DIR", "Captioned photos to ask, instead of the model's own.")
    ] = None,
    neighbours: Annotated[int | None, option("K", "How many of the nearest of them vote.")] = None,
    votes: Annotated[
        int | None, option("M", "How many of their most similar captions count.")
    ] = None,
    leave_one_out: Annotated[
        bool, flag("--leave-one-out", "The photo itself has no vote.")
    ] = False,
    explain: Annotated[
        bool, flag("--explain", "Say which reference photos voted (jsonl, report).")
    ] = False,
    min_confidence: Annotated[
        float | None,
        typer.Option(
            metavar="P",
            min=0.0,
            max=1.0,
            help="Keep captions back that are good with a smaller probability; for models that know"
            " it.",
        ),
    ] = None,
    form: Annotated[
        results.Format | None,
        typer.Option(
            "--format",
            help="text: path, tab, caption. jsonl: one object an image. csv: one line an image. "
            "Else what the name of --output ends in, or text.",
            rich_help_panel="Output",
        ),
    ] = None,
    output: Annotated[Path | None, option("FILE", "Write the results to a file.")] = None,
    watch: Annotated[
        bool,
        flag(
            "--watch",
            "Caption the photos of a folder that are not done yet, and those that come, until it is"
            " stopped (needs mrnn-photos).",
        ),
    ] = False,
    resume: Annotated[
        bool,
        flag(
            "--resume",
            "Go on with --output (jsonl, csv), or with the sidecars: only what is not done yet.",
        ),
    ] = False,
    sidecar: Annotated[
        sidecars.Sidecar | None,
        option(
            None,
            "Also write photo.jpg.txt, .json or .xmp beside each photo. An XMP file that is there"
            " keeps all it says (needs mrnn-photos).",
        ),
    ] = None,
    write_metadata: Annotated[
        bool,
        flag(
            "--write-metadata",
            "Also write the caption into each photo: XMP, IPTC and EXIF (needs mrnn-photos).",
        ),
    ] = False,
    overwrite: Annotated[
        bool, flag("--overwrite", "Replace a caption that an XMP file or a photo has.")
    ] = False,
    keep_mtime: Annotated[
        bool,
        flag("--keep-mtime", "With --write-metadata: keep the time of a photo's last change."),
    ] = False,
    report: Annotated[
        Path | None,
        option(
            "FILE.html",
            "Also write a page with photos, candidates and ranks (needs mrnn-devtools).",
        ),
    ] = None,
) -> None:
    """Caption images, in order, one result an image.

    An image that cannot be read is named on stderr (jsonl and csv: gets an error record), the
    others go on, and the exit code is 1. Options that are not given are those of the model.
    """
    from mrnn_runtime.captioner import load
    from mrnn_runtime.engine.sessions import cores
    from mrnn_runtime.types import DecodeChanges, RerankOptions

    skipped: Counter[str] = Counter()
    if watch:
        if report:
            raise UsageError("--report is written at the end, and --watch has none")
        watching = optional("mrnn_photos.watching")
        watching.check(paths)
        images = watching.photos_in(paths)
    else:
        images = _images(paths, skipped)
    keepers = sidecars.keepers(
        sidecar, metadata=write_metadata, overwrite=overwrite, keep_mtime=keep_mtime
    )
    targets = Targets(output, form or results.format_of(output), report, keepers)
    targets.check(images)
    with ExitStack() as stack:
        if output:
            stack.enter_context(files.locked(output))
        done: set[Path] = set()
        if watch:
            done = targets.done(images, option="--watch")
        elif resume:
            images = targets.rest(images)
        rerank = RerankOptions(
            k=neighbours, m=votes, references=references, leave_one_out=leave_one_out
        )
        # Many images are shared among the cores; only a single one gets all of them to itself.
        alone = len(images) <= 1 and not watch
        threads = (0 if alone else 1) if threads is None else threads
        if workers is None:  # a graph with threads for all cores leaves none for a second worker
            workers = 1 if alone or threads == 0 else max(1, cores() // threads)
        captioner = load(model, provider=provider, threads=threads)
        changes = {name: context.params[name] for name in DecodeChanges.__annotations__}
        search = captioner.options(**cast("DecodeChanges", changes))
        shown = search.n_best
        if (reranker or captioner.bundle.reranker or "none") == "none":
            if explain or rerank != RerankOptions():
                raise UsageError(
                    "there is no reranker to take --references, --neighbours, --votes,"
                    " --leave-one-out or --explain",
                    hint="name one, for example --reranker consensus-cider",
                )
        elif report is not None:  # which shows all that the reranker chose among
            search = replace(search, n_best=max(search.n_best, search.beam_size))
        if min_confidence is not None:
            calibration = captioner.bundle.calibration
            if not (calibration and calibration.fits(decoder or captioner.bundle.decoder, search)):
                raise UsageError(
                    f"{captioner.bundle.name} has no confidence for this search",
                    hint="use another model, or its own --decoder and --beam-size",
                )
        describe = partial(
            captioner.caption,
            missing_ok=True,  # what was there a moment ago, or what stdin names
            batch_size=batch_size,
            workers=workers,
            readers=readers,
            memory=memory,
            decoder=decoder,
            reranker=reranker,
            rerank=rerank,
            explain=explain,
            options=search,
        )
        speech.detail(
            f"{captioner.bundle.name} {captioner.bundle.version} on {captioner.encoder.provider};"
            f" {', '.join([decoder or captioner.bundle.decoder, *_described(search)])};"
            f" reranker {reranker or captioner.bundle.reranker or 'none'};"
            f" workers {workers}, threads {threads or cores()}, batch-size {batch_size}"
        )
        if watch:
            speech.note(f"watching {', '.join(paths)}; Ctrl-C or SIGTERM ends it")
            captions = watching.captions(paths, done, describe)
        else:
            captions = describe(images)
        began = time.perf_counter()
        tally = targets.write(
            captions,
            0 if watch else len(images),
            shown,
            resume=resume or watch,
            min_confidence=min_confidence or 0.0,
            done=done if watch else None,
        )
    if tally["unsure"]:
        speech.note(
            f"{tally['unsure']} of {tally['captioned']} captions kept back for a low confidence"
        )
    if tally["kept"]:
        speech.note(
            f"{tally['kept']} photos keep the caption that they have (--overwrite replaces it)"
        )
    seconds = time.perf_counter() - began
    speech.summary(tally["captioned"], tally["failed"], skipped, seconds)
    if tally["failed"]:
        raise typer.Exit(speech.SOME_IMAGES_FAILED)


def _described(search: DecodeOptions) -> Iterator[str]:
    """Yield the beam size and what is not as by default, as options; word ids say nothing."""
    for name, default in asdict(type(search)()).items():
        value = getattr(search, name)
        if name in ("banned", "prefix") or (value == default and name != "beam_size"):
            continue
        option = name.replace("_", "-")
        yield option if value is True else f"{option} {value}"


def _images(paths: list[str], skipped: Counter[str]) -> list[Path]:
    """Return the images that are meant; one that stdin names need not exist.

    ``skipped`` counts the files of folders that are no images, by suffix.
    """
    from mrnn_runtime.engine.inputs import find_images

    images: list[Path] = []
    for path in files.expanded(paths):
        if path != "-":
            images += find_images([path], skipped=skipped)
            continue
        if sys.stdin is None:
            raise UsageError("stdin is closed, so - names no images", hint="name them as arguments")
        for line in sys.stdin:
            named = Path(line.rstrip("\r\n"))
            if line.strip():
                images += find_images([named], missing_ok=True, skipped=skipped)
    return images
