"""Captions to words and back, in one ``tokenizers`` file: training, runtime and measures agree.

The rules follow the PTB tokeniser that pycocoevalcap runs before it measures anything: lower case,
punctuation dropped, ``dog's`` split into ``dog`` and ``'s``, hyphenated words kept whole. They live
inside the tokenizers file, so the runtime needs no code of its own to encode a sentence, and its
decoder glues ``'s`` back on.
"""

from __future__ import annotations

import lzma
from collections import Counter
from typing import TYPE_CHECKING

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from mrnn_runtime import SpecialTokens, UsageError
from mrnn_runtime.build import APOSTROPHES, GLUE, WORD

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

SPECIALS = ("<pad>", "<bos>", "<eos>", "<unk>")
TOKENS = SpecialTokens(**{sign.strip("<>"): i for i, sign in enumerate(SPECIALS)})


def _normalizer() -> normalizers.Normalizer:
    return normalizers.Sequence(
        [
            # Before NFKC, which makes a space and an accent of U+00B4, an acute that people type
            # for an apostrophe; U+02BC after it, because NFKC makes some.
            normalizers.Replace(Regex(APOSTROPHES), "'"),
            normalizers.NFKC(),
            normalizers.Lowercase(),
            normalizers.NFKC(),
            normalizers.Replace("\u02bc", "'"),
        ]
    )


def _pre_tokenizer() -> pre_tokenizers.PreTokenizer:
    # Inverted, because the pattern says what is kept: what lies between two words is thrown away.
    return pre_tokenizers.Split(Regex(WORD), behavior="removed", invert=True)


def _decoder() -> decoders.Decoder:
    return decoders.Sequence(
        [
            decoders.WordPiece(prefix="##", cleanup=False),
            decoders.Fuse(),
            decoders.Replace(Regex(GLUE), ""),
        ]
    )


_NORMALIZER = _normalizer()
_PRE_TOKENIZER = _pre_tokenizer()


def words(caption: str) -> list[str]:
    """Return the caption's words, lower case, without punctuation; there may be none."""
    return [word for word, _ in _PRE_TOKENIZER.pre_tokenize_str(_NORMALIZER.normalize_str(caption))]


def build_tokenizer(captions: Iterable[str], min_count: int) -> Tokenizer:
    """Build the word-level tokenizer of a training set.

    Ids: <pad> 0, <bos> 1, <eos> 2, <unk> 3, then words by falling count, equal ones by alphabet.

    Args:
        captions: the sentences as the corpus has them.
        min_count: a word seen less often than this becomes <unk>.

    Raises:
        UsageError: no word is seen that often.
    """
    counts: Counter[str] = Counter()
    for caption in captions:
        counts.update(words(caption))
    kept = sorted((w for w, n in counts.items() if n >= min_count), key=lambda w: (-counts[w], w))
    if not kept:
        raise UsageError(
            f"no word occurs {min_count} times in the captions",
            hint="lower the threshold or check the data set",
        )
    vocabulary = {word: i for i, word in enumerate((*SPECIALS, *kept))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = _normalizer()
    tokenizer.pre_tokenizer = _pre_tokenizer()
    tokenizer.decoder = _decoder()
    tokenizer.add_special_tokens(list(SPECIALS))
    return tokenizer


def read_sentences(path: Path) -> list[str]:
    """Read one sentence a line, utf-8; of a line with tabs, what is behind the last one.

    A file whose name ends in .xz is decompressed.

    Raises:
        UsageError: the file cannot be read, or holds no sentence.
    """
    opened = lzma.open if path.suffix == ".xz" else open
    try:
        with opened(path, "rt", encoding="utf-8") as file:
            sentences = [line.rpartition("\t")[2].strip() for line in file]
    except (OSError, ValueError, lzma.LZMAError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error
    if not any(sentences):
        raise UsageError(f"{path}: holds no sentence", hint="one a line")
    return [sentence for sentence in sentences if sentence]


def encode_caption(tokenizer: Tokenizer, caption: str) -> list[int]:
    """Return the ids of the caption's words, without start and end; unknown words are <unk>."""
    return list(tokenizer.encode(caption, add_special_tokens=False).ids)
