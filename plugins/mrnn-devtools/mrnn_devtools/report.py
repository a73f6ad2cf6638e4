"""One page about a run: each photo, its caption, and what reranking did to its candidates.

The page is one file: it needs no network, works from a ``file://`` address, and carries nothing of
the photos but thumbnails. Whatever a file name or a caption holds is shown as text; as a second
wall, the page's own policy lets no script run but the one that is written here.
"""

from __future__ import annotations

from base64 import b64encode
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from html import escape
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, BinaryIO

from mrnn_runtime import ImageError, MrnnError, UsageError
from mrnn_runtime.build import replacing, thumbnail

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mrnn_runtime import Caption, CaptionCandidate, Neighbour

THUMBNAIL = 360


@contextmanager
def write_report(path: Path) -> Iterator[Callable[[Caption], None]]:
    """Give a function that adds one result to the page.

    The results go to a file beside ``path`` as they come, so memory does not grow with them. It
    becomes ``path`` when the block ends; where the block fails, ``path`` stays as it was.

    Raises:
        UsageError: the file cannot be opened.
        MrnnError: later, it cannot be written.
    """
    with ExitStack() as stack:
        with _naming(path, UsageError, "choose another file for the report"):
            page = _Page(stack.enter_context(replacing(path, through=True)))

        def add(result: Caption) -> None:
            with _naming(path, MrnnError, "make room"):
                page.add(result)

        yield add
        with _naming(path, MrnnError, "make room"):
            page.end()
            stack.close()


@contextmanager
def _naming(path: Path, kind: type[MrnnError], hint: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise kind(f"cannot write {path}: {error.strerror}", hint=hint) from error


@dataclass(slots=True)
class _Page:
    """A page that is being written."""

    file: BinaryIO
    photos: int = 0
    failed: int = 0
    compared: bool = False
    reranked: bool = False

    def add(self, result: Caption) -> None:
        """Write one photo; the first one says what the page's head has to say."""
        if not self.photos:
            self._write(_head(result))
        self.photos += 1
        self.failed += result.error is not None
        self.compared |= len(result.candidates) > 1
        self.reranked |= _is_reranked(result.candidates)
        self._write(_photo(result))

    def end(self) -> None:
        """Write what is known only now."""
        photos = f"{self.photos} photo{'s' * (self.photos != 1)}"
        failed = f", {self.failed} of them could not be captioned" if self.failed else ""
        lines = [f"{photos}{failed}. log-prob: the natural log-probability of the caption."]
        if self.compared:
            lines.append(
                "A point stands between the photo's lowest value, left, and its highest, right; no "
                "scale starts at 0."
            )
        if self.reranked:
            lines.append("Lines lead from the decoder's order to the reranker's.")
        self._write("</main>\n<footer>")
        self._write("".join(f"<p>{line}</p>" for line in lines))
        self._write(f"</footer>\n<script>{_asset('js')}</script>\n</body>\n</html>\n")

    def _write(self, text: str) -> None:
        self.file.write(text.encode("utf-8", "replace"))  # a file name may hold what is no text


def _head(result: Caption) -> str:
    """Return the page up to its first photo."""
    script = b64encode(sha256(_asset("js").encode()).digest()).decode()
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; "
        f"form-action 'none'; script-src 'sha256-{script}'"
    )
    facts = [f"decoder {result.decoder}"]
    facts += [f"reranker {result.reranker}"] if result.reranker else []
    facts.append(result.provider)
    return Template(_asset("html")).substitute(
        policy=policy,
        model=escape(result.model),
        style=_asset("css"),
        facts=escape(" · ".join(facts)),
    )


def _photo(result: Caption) -> str:
    """Return the part of one photo."""
    path = f'<p class="path"><bdi>{escape(result.path)}</bdi></p>'
    if result.error is not None:
        return (
            f'<article class="failed"><div><h2>No caption</h2>{path}'
            f'<p class="why"><bdi>{escape(str(result.error))}</bdi></p></div></article>\n'
        )
    picture = _picture(result)
    return (
        f"<article{' class=shown' if picture else ''}>{picture}<div><h2>{escape(result.text)}</h2>"
        f"{path}{_ranking(result)}{_neighbours(result.neighbours)}</div></article>\n"
    )


def _picture(result: Caption) -> str:
    """Return the photo as part of the page, or nothing where it has gone in the meantime."""
    try:
        data = b64encode(thumbnail(result.path, THUMBNAIL)).decode()
    except ImageError:
        return ""
    alt = escape(result.text)
    return f'<img src="data:image/jpeg;base64,{data}" alt="{alt}" loading="lazy">'


def _ranking(result: Caption) -> str:
    """Return the candidates in their order, and how they came to it where they were reranked."""
    candidates = result.candidates
    reranked = _is_reranked(candidates)
    if len(candidates) == 1 and not reranked:
        return f'<p class="lone">log-prob {_number(candidates[0].log_prob, 2)}</p>'
    log_probs = [one.log_prob for one in candidates]
    columns = [[_value("log-prob", at, log_probs, 2) for at in log_probs]]
    if reranked:
        scores = [one.rerank_score or 0.0 for one in candidates]
        columns.append([_value("score", at, scores, 3) for at in scores])
    rows = "".join(
        f'<li><span class="place">{place}</span>'
        f'<span class="words"><span>{escape(one.caption)}</span>'
        f"{_move(one.rank, place) if reranked else ''}</span>{''.join(values)}</li>"
        for place, (one, *values) in enumerate(zip(candidates, *columns, strict=True), 1)
    )
    heads = "<span>log-prob</span>"
    heads += f"<span>{escape(result.reranker or 'score')}</span>" if reranked else ""
    title = "after" if reranked else ""
    legend = f'<div class="legend after" aria-hidden="true"><span></span><span>{title}</span>'
    return (
        f'<div class="ranking{"" if reranked else " single"}" style="--numbers:{len(columns)}">'
        f"{_lines([one.rank for one in candidates]) if reranked else ''}{legend}{heads}</div>"
        f'<ol role="list" aria-label="Candidates">{rows}</ol></div>'
    )


def _lines(ranks: Sequence[int]) -> str:
    """Return the old places, and a line from each to the new place of its candidate."""
    height = max(ranks)
    slots = "".join(
        f'<span class="slot" style="grid-row:{old + 1}" aria-hidden="true">{old}</span>'
        for old in sorted(ranks)
    )
    # The candidate that is first now is drawn last, over the others.
    lines = "".join(
        f"<path{' class=first' if new == 1 else ''} "
        f'd="M0 {old - 0.5}C40 {old - 0.5} 60 {new - 0.5} 100 {new - 0.5}"/>'
        for new, old in reversed(list(enumerate(ranks, 1)))
    )
    return (
        f'<div class="legend before" aria-hidden="true">before</div>{slots}'
        f'<svg class="lines" style="grid-row:2/span {height}" viewBox="0 0 100 {height}" '
        f'preserveAspectRatio="none" aria-hidden="true">{lines}</svg>'
    )


def _move(old: int, new: int) -> str:
    """Return how far a candidate went, for eyes and for screen readers."""
    if old == new:
        return '<span class="unseen">, where it was before</span>'
    arrow = "↑" if new < old else "↓"
    return (
        f'&nbsp;<span class="move"><span aria-hidden="true">{arrow}{abs(old - new)}</span>'
        f'<span class="unseen">, place {old} before</span></span>'
    )


def _value(name: str, value: float, among: Sequence[float], digits: int) -> str:
    """Return a number, and where it lies among those of the photo."""
    low, high = min(among), max(among)
    at = (value - low) / (high - low) if high > low else 1.0
    return (
        f'<span class="value"><b><span class="unseen">{name} </span>{_number(value, digits)}</b>'
        f'<i style="--at:{at:.3f}"></i></span>'
    )


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _neighbours(neighbours: Sequence[Neighbour]) -> str:
    """Return the reference images that had a vote, folded away."""
    if not neighbours:
        return ""
    items = "".join(
        f"<li><bdi>{escape(one.image)}</bdi> {one.distance:.3f}</li>" for one in neighbours
    )
    summary = f"The {len(neighbours)} nearest reference images, which voted, and their distances"
    return f'<details class="neighbours"><summary>{summary}</summary><ol>{items}</ol></details>'


def _is_reranked(candidates: Sequence[CaptionCandidate]) -> bool:
    return any(one.rerank_score is not None for one in candidates)


def _asset(kind: str) -> str:
    """Return the page's head (html), style (css) or script (js)."""
    return Path(__file__).with_suffix(f".{kind}").read_text("utf-8")
