"""BLEU-1..4, METEOR, ROUGE-L and CIDEr, by pycocoevalcap: what the field's tables are made with.

Its PTB tokeniser and METEOR are Java programs. Without Java the captions are split by
:func:`mrnn_exporters.tokenizer.words` instead and METEOR is left out; a measure says which
tokeniser it went through.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mrnn_exporters.tokenizer import words
from mrnn_runtime import MrnnError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

TOKENISERS = ("ptb", "plain")


@dataclass(frozen=True, slots=True)
class Measures:
    """How good captions are.

    Attributes:
        values: BLEU-1 .. BLEU-4, METEOR (where Java is there), ROUGE-L and CIDEr, in that order.
        tokeniser: ``ptb`` or ``plain``; figures of different tokenisers do not compare.
    """

    values: Mapping[str, float]
    tokeniser: str


def java() -> str | None:
    """Return the Java program, or None where there is none."""
    return shutil.which("java")


def measure(
    references: Sequence[Sequence[str]], captions: Sequence[str], *, tokeniser: str | None = None
) -> Measures:
    """Measure one caption per photo against its reference captions.

    Args:
        references: per photo its captions, at least one, as the corpus has them.
        captions: per photo the caption to be measured.
        tokeniser: ``ptb``, ``plain``, or None: ptb where Java is there.

    Raises:
        UsageError: an unknown tokeniser, ptb without Java, or nothing to measure.
        MrnnError: a Java program failed.
    """
    name = tokeniser or ("ptb" if java() else "plain")
    if name not in TOKENISERS:
        raise UsageError(f"unknown tokeniser {name!r}", hint=f"use one of {', '.join(TOKENISERS)}")
    if not captions:
        raise UsageError("there is no caption to measure", hint="use a larger --limit")
    flat = [sentence for group in references for sentence in group]
    split = ptb if name == "ptb" else plain
    tokens = iter(split([*flat, *captions]))
    gold = {i: [next(tokens) for _ in group] for i, group in enumerate(references)}
    mine = {i: [next(tokens)] for i in range(len(captions))}
    return Measures(dict(_scores(gold, mine, meteor=name == "ptb")), name)


def plain(sentences: Sequence[str]) -> list[str]:
    """Return each sentence as words between single blanks, split by our own rules."""
    return [" ".join(words(sentence)) for sentence in sentences]


def ptb(sentences: Sequence[str]) -> list[str]:
    """Return each sentence as words between single blanks, as pycocoevalcap's PTBTokenizer does.

    The same jar with the same options and the same punctuation dropped, but fed through a pipe:
    their class writes its input beside the jar, into the installed package.

    Raises:
        UsageError: there is no Java.
        MrnnError: it failed.
    """
    from pycocoevalcap.tokenizer import ptbtokenizer

    program = java()
    if program is None:
        raise UsageError(
            "the PTB tokeniser needs Java, and there is none", hint="install one, or take plain"
        )
    jar = Path(ptbtokenizer.__file__).with_name(ptbtokenizer.STANFORD_CORENLP_3_4_1_JAR)
    command = [program, "-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer"]
    done = subprocess.run(
        [*command, "-preserveLines", "-lowerCase", "-encoding", "utf-8"],
        input="".join(" ".join(sentence.split()) + "\n" for sentence in sentences).encode(),
        capture_output=True,
        check=False,
    )
    lines = done.stdout.decode(errors="replace").split("\n")[:-1]
    if done.returncode or len(lines) != len(sentences):
        raise MrnnError(
            f"the PTB tokeniser failed: {done.stderr.decode(errors='replace').strip()[-300:]}",
            hint="check the Java installation, or take the plain tokeniser",
        )
    dropped = set(ptbtokenizer.PUNCTUATIONS)
    return [" ".join(word for word in line.split() if word not in dropped) for line in lines]


def _scores(
    gold: Mapping[int, list[str]], mine: Mapping[int, list[str]], *, meteor: bool
) -> Iterator[tuple[str, float]]:
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    # The scorers print their progress; stdout belongs to results.
    with contextlib.redirect_stdout(io.StringIO()):
        bleu, _ = Bleu(4).compute_score(gold, mine)
        rouge, _ = Rouge().compute_score(gold, mine)
        cider, _ = Cider().compute_score(gold, mine)
    yield from ((f"BLEU-{n}", float(value)) for n, value in enumerate(bleu, start=1))
    if meteor:
        yield "METEOR", _meteor(gold, mine)
    yield "ROUGE-L", float(rouge)
    yield "CIDEr", float(cider)


def _meteor(gold: Mapping[int, list[str]], mine: Mapping[int, list[str]]) -> float:
    from pycocoevalcap.meteor.meteor import Meteor

    scorer = Meteor()
    process = scorer.meteor_p
    try:
        return float(scorer.compute_score(gold, mine)[0])
    except (OSError, ValueError) as error:
        raise MrnnError(
            "METEOR's Java program failed",
            hint="it wants 2 GB of memory; or take --tokeniser plain",
        ) from error
    finally:
        # Its own clean-up leaves two pipes open and, after a failure, waits for ever on its lock.
        process.kill()
        with contextlib.suppress(OSError):
            process.stdin.close()
        process.stdout.close()
        process.stderr.close()
        process.wait()
        if scorer.lock.locked():
            scorer.lock.release()
