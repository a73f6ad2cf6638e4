"""``mrnn search`` and ``mrnn rank``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mrnn_runtime.cli import files, options, results
from mrnn_runtime.cli import output as speech
from mrnn_runtime.cli.options import flag, option
from mrnn_runtime.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mrnn_runtime.captioner import Captioner
    from mrnn_runtime.retrieval.gallery import Gallery
    from mrnn_runtime.retrieval.ranking import Match

_Json = Annotated[bool, flag("--json", "Write JSON lines, with scores.")]

SEARCH_EXAMPLES = """\b
mrnn search "a dog runs on the beach" photos/
mrnn search "two children in a pool" photos/ --top 3 --json
mrnn search "two children in a pool" --gallery gallery/
"""
RANK_EXAMPLES = """\b
mrnn rank photo.jpg --sentences sentences.txt
mrnn rank photos/ --sentences sentences.txt --background other-photos/ --top 1
"""


def search(
    sentence: Annotated[str, typer.Argument(metavar="SENTENCE", help="What to look for.")],
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PATH", help="Photos, and folders that are walked.", show_default=False
        ),
    ] = None,
    stored: Annotated[
        Path | None,
        typer.Option(
            "--gallery",
            metavar="DIR",
            help="Instead of PATH: encoded photos on disk, which mrnn ray index wrote.",
        ),
    ] = None,
    model: options.Model = None,
    provider: options.Provider = "auto",
    top: Annotated[int, typer.Option(metavar="N", min=1, help="How many photos to show.")] = 10,
    as_json: _Json = False,
    cache: Annotated[Path | None, option("DIR", "Where encoded photos are kept.")] = None,
    no_cache: Annotated[bool, flag("--no-cache", "Keep nothing.")] = False,
) -> None:
    """Find the photos that a sentence fits best.

    Writes ln P(sentence | photo) and the photo, the best first. What the CNN makes of the photos is
    kept, so that the next question about the same folder is quick.
    """
    from mrnn_runtime.captioner import load
    from mrnn_runtime.engine.inputs import find_images
    from mrnn_runtime.retrieval.gallery import default_cache, open_gallery
    from mrnn_runtime.retrieval.ranking import find_photos
    from mrnn_runtime.retrieval.stored import open_stored

    if cache and no_cache:
        raise UsageError("--cache and --no-cache exclude each other", hint="give one of them")
    if bool(paths) == bool(stored):
        raise UsageError("name photos, or a --gallery", hint="one of the two")
    if stored:
        if cache or no_cache:
            raise UsageError(
                "--cache and --no-cache are for PATH, a --gallery needs no cache",
                hint="leave it out",
            )
        captioner = load(model, provider=provider)
        _tell_unknown(captioner, [sentence])
        matches = find_photos(captioner, sentence, open_stored(captioner, stored), top=top)
        _show(matches, as_json=as_json, named="path")
        return
    paths = files.expanded(paths or [])
    find_images(paths)
    captioner = load(model, provider=provider)
    _tell_unknown(captioner, [sentence])
    where = None if no_cache else cache or default_cache()
    gallery = open_gallery(captioner, paths, cache=where, watch=speech.watched)
    _show(find_photos(captioner, sentence, gallery, top=top), as_json=as_json, named="path")
    _tell_failed(gallery)


def rank(
    paths: Annotated[
        list[str],
        typer.Argument(metavar="PATH", help="Photos, and folders that are walked recursively."),
    ],
    sentences: Annotated[
        Path, typer.Option(metavar="FILE", help="The sentences, one a line.", show_default=False)
    ],
    background: Annotated[
        Path | None,
        option(
            "DIR", "Photos of all kinds for P(sentence); else training photos that the model holds."
        ),
    ] = None,
    model: options.Model = None,
    provider: options.Provider = "auto",
    top: Annotated[
        int, typer.Option(metavar="N", min=1, help="How many sentences to show for each photo.")
    ] = 5,
    as_json: _Json = False,
) -> None:
    """Rank sentences for a photo.

    Writes ln(P(sentence | photo) / P(sentence)), the photo and the sentence, the best first.
    P(sentence) is the mean over background photos, so that a sentence that fits every photo does
    not win.
    """
    from mrnn_runtime.captioner import load
    from mrnn_runtime.engine.inputs import find_images
    from mrnn_runtime.retrieval.gallery import open_gallery
    from mrnn_runtime.retrieval.ranking import load_background, rank_sentences

    paths = files.expanded(paths)
    find_images(paths)
    try:
        lines = [line.strip() for line in sentences.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise UsageError(
            f"{sentences} cannot be read: {why}", hint="a text file, one sentence a line"
        ) from error
    wanted = list(dict.fromkeys(line for line in lines if line))
    if not wanted:
        raise UsageError(f"{sentences} holds no sentence", hint="write one sentence a line")
    captioner = load(model, provider=provider)
    _tell_unknown(captioner, wanted)
    galleries = []
    if background:
        galleries.append(open_gallery(captioner, [background], watch=speech.watched))
        others = galleries[0].images
    else:
        others = load_background(captioner.bundle)
    galleries.append(open_gallery(captioner, paths, watch=speech.watched))
    for matches in rank_sentences(captioner, wanted, galleries[-1], background=others):
        _show(matches[:top], as_json=as_json, named="sentence")
    _tell_failed(*galleries)


def _show(matches: Sequence[Match], *, as_json: bool, named: str) -> None:
    with results.records_to(None) as write:
        for place, match in enumerate(matches, start=1):
            if as_json:
                record = {
                    "path": str(match.path),
                    "sentence": match.sentence,
                    "rank": place,
                    "log_prob": match.log_prob,
                    "score": match.score,
                }
                write(json.dumps(record) + "\n")
            else:
                parts = [f"{match.score:.2f}", speech.one_line(str(match.path))]
                parts += [match.sentence] if named == "sentence" else []
                write("\t".join(parts) + "\n")


def _tell_unknown(captioner: Captioner, sentences: Sequence[str]) -> None:
    from mrnn_runtime.retrieval.ranking import unknown_words

    words = {word: None for sentence in sentences for word in unknown_words(captioner, sentence)}
    if words:
        shown = ", ".join(list(words)[:10]) + (", ..." if len(words) > 10 else "")
        speech.note(f"words that the model does not know, which count as <unk>: {shown}")


def _tell_failed(*galleries: Gallery) -> None:
    errors = [error for gallery in galleries for error in gallery.errors.values()]
    for error in errors:
        speech.warn(f"error: {error}")
    if errors:
        total = len(errors) + sum(len(gallery.paths) for gallery in galleries)
        speech.note(f"{len(errors)} of {total} images failed")
        raise typer.Exit(speech.SOME_IMAGES_FAILED)
