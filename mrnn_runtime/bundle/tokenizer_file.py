"""What a bundle's tokenizer.json may hold, checked before the tokenizers library sees it.

That library panics, hangs or takes gigabytes over some of the files that it reads. So a file is one
word-level model and named steps around it: steps that cannot make a text longer, and no pattern
that is not in this module, since a pattern can take exponential time.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mrnn_runtime.bundle.fields import Fields, read_json
from mrnn_runtime.errors import BundleError
from mrnn_runtime.types import SPECIAL_TOKENS

if TYPE_CHECKING:
    from pathlib import Path

MOST_BYTES = 2**24
MOST_WORDS = 2**20
MOST_LETTERS = 256  # of a word
_MOST_STEPS = 16
_HINT = "export the bundle again; docs/reference/bundle.md says what tokenizer.json may hold"

_LETTER = r"[\p{L}\p{M}\p{N}]"
_END = rf"(?!{_LETTER})"
# Clitics that the Penn Treebank writes as words of their own.
_NEGATION = rf"n't(?=(?:n't)*{_END})"
_CLITIC = rf"'(?:s|d|m|ll|re|ve)(?=(?:n't)*{_END})"
# A dot belongs to a word only in initials and in these abbreviations.
_ABBREVIATION = r"(?:\p{L}\.)+|(?:mr|mrs|ms|dr|jr|sr|st|vs|etc|inc|prof)\."
_PART = rf"(?:(?!{_NEGATION}){_LETTER})+"

WORD = "|".join(
    (
        rf"(?:{_ABBREVIATION}){_END}",
        rf"can(?=not{_END})",
        _CLITIC,
        _NEGATION,
        rf"\p{{N}}+(?:[.,:/]\p{{N}}+)+{_END}",
        rf"(?!\p{{M}}){_PART}(?:(?:[-/]|(?!{_CLITIC})'){_PART})*",
        r"[&#%$+=@*/]",
    )
)
PLAIN_WORD = r"'s|\w+"
APOSTROPHES = "[\u2018\u2019\u00b4`]"
# A space to be dropped, wherever the pattern of words takes the two apart again.
GLUE = r" (?='(?:s|d|m|ll|re|ve)\b)|(?<!'\p{L}|'\p{L}{2})(?<=\p{L}) (?=n't\b)"
PATTERNS = (WORD, PLAIN_WORD, APOSTROPHES, GLUE)

# The steps by their place and type, with the type of each parameter; a list is a sequence of steps,
# a tuple the words to choose from.
_BEHAVIOURS = ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous")
_REPLACE = {"pattern": dict, "content": str}
_STEPS: dict[str, dict[str, dict[str, Any]]] = {
    "normalizer": {
        **{kind: {} for kind in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents")},
        "Replace": _REPLACE,
        "Sequence": {"normalizers": list},
    },
    "pre_tokenizer": {
        **{kind: {} for kind in ("Whitespace", "WhitespaceSplit", "BertPreTokenizer")},
        "Punctuation": {"behavior": _BEHAVIOURS},
        "Digits": {"individual_digits": bool},
        "Split": {"pattern": dict, "behavior": _BEHAVIOURS, "invert": bool},
        "Sequence": {"pretokenizers": list},
    },
    "decoder": {
        "Fuse": {},
        "WordPiece": {"prefix": str, "cleanup": bool},
        "Replace": _REPLACE,
        "Sequence": {"decoders": list},
    },
}
_TOP = ("version", "truncation", "padding", "added_tokens", *_STEPS, "post_processor", "model")
_ADDED = ("single_word", "lstrip", "rstrip", "normalized", "special")


def checked_tokenizer(path: Path) -> str:
    """Read a tokenizer.json, check it, and return it as JSON for the tokenizers library.

    Raises:
        BundleError: it is damaged, too large, or holds something that is not allowed.
    """
    try:
        top = Fields(read_json(path, MOST_BYTES), path, hint=_HINT)
    except (OSError, ValueError) as error:
        raise BundleError(f"{path} is no tokenizers file: {error}", hint=_HINT) from error
    _expect_keys(top, (), _TOP)
    if top.values.get("version") != "1.0":
        raise top.wrong("version", "must be 1.0")
    for key in ("truncation", "padding", "post_processor"):
        if top.values.get(key) is not None:
            raise top.wrong(key, "must be null")
    words = _words(top)
    for added in top.each("added_tokens") if "added_tokens" in top.values else ():
        _expect_keys(added, ("id", "content", *_ADDED), ())
        if added.text("content") not in SPECIAL_TOKENS:
            raise added.wrong("content", f"must be one of {', '.join(SPECIAL_TOKENS)}")
        if words.get(added.text("content")) != added.integer("id"):
            raise added.wrong("id", "must be the one that the model has")
        for key in _ADDED:
            _expect(added, key, bool)
    for place in _STEPS:
        if top.values.get(place) is not None:
            _check_step(top.fields(place), place, nested=False)
    return json.dumps(top.values)


def _words(top: Fields) -> dict[str, int]:
    """Return the vocabulary of the one model that is allowed."""
    model = top.fields("model")
    _expect_keys(model, ("type", "vocab", "unk_token"), ())
    if model.text("type") != "WordLevel":
        raise model.wrong("type", "must be WordLevel")
    words = model.take("vocab", dict, "an object")
    if len(words) > MOST_WORDS:
        raise model.wrong("vocab", f"must hold at most {MOST_WORDS} words")
    for word in words:
        if not word.isprintable() or word.split() != [word] or len(word) > MOST_LETTERS:
            raise model.wrong(
                "vocab", f"holds {word!r:.60}, which is no word of 1 to {MOST_LETTERS} letters"
            )
    ids = words.values()
    if not all(type(i) is int for i in ids) or set(ids) != set(range(len(words))):
        raise model.wrong("vocab", "must number its words from 0 on")
    if model.text("unk_token") not in words:
        raise model.wrong("unk_token", "must be in the vocabulary")
    return words


def _check_step(step: Fields, place: str, *, nested: bool) -> None:
    kinds = _STEPS[place]
    kind = step.text("type")
    if kind not in kinds or (nested and kind == "Sequence"):
        raise step.wrong("type", f"must be one of {', '.join(kinds)}, a Sequence only once")
    _expect_keys(step, ("type", *kinds[kind]), ())
    for key, wanted in kinds[kind].items():
        if wanted is list:
            steps = step.each(key)
            if len(steps) > _MOST_STEPS:
                raise step.wrong(key, f"must hold at most {_MOST_STEPS} steps")
            for inner in steps:
                _check_step(inner, place, nested=True)
        elif wanted is dict:
            _check_pattern(step, key)
        else:
            _expect(step, key, wanted)


def _check_pattern(step: Fields, key: str) -> None:
    """Allow a short text or a known pattern, and nothing longer in place of it."""
    pattern = step.fields(key)
    match pattern.values:
        case {"String": str(text), **rest} if not rest and 1 <= len(text) <= MOST_LETTERS:
            longest = len(text)
        case {"Regex": str(text), **rest} if not rest and text in PATTERNS:
            longest = 1
        case _:
            raise step.wrong(key, "must be a short String, or a Regex that mrnn-runtime knows")
    content = step.values.get("content", "")
    if isinstance(content, str) and len(content) > longest:
        raise step.wrong("content", f"must not be longer than what it replaces: {longest}")


def _expect(node: Fields, key: str, wanted: Any) -> None:  # noqa: ANN401
    value = node.values[key]
    if wanted is str:
        if not isinstance(value, str) or len(value) > MOST_LETTERS or not value.isprintable():
            raise node.wrong(key, "must be a short text on one line")
    elif value not in wanted if isinstance(wanted, tuple) else type(value) is not wanted:
        choice = ", ".join(wanted) if isinstance(wanted, tuple) else wanted.__name__
        raise node.wrong(key, f"must be {choice}, not {value!r:.60}")


def _expect_keys(node: Fields, needed: tuple[str, ...], more: tuple[str, ...]) -> None:
    if wrong := sorted(set(node.values).symmetric_difference(needed) - set(more)):
        raise node.wrong(wrong[0], "is missing, or not allowed")
