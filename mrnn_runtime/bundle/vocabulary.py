"""Words and token ids, both ways, by the rules of the bundle's tokenizer file."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from mrnn_runtime.bundle.tokenizer_file import checked_tokenizer
from mrnn_runtime.errors import BundleError, UsageError
from mrnn_runtime.types import SPECIAL_TOKENS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tokenizers import Tokenizer

    from mrnn_runtime.types import SpecialTokens


class Vocabulary:
    """The words that a model knows. Make one with ``load``."""

    __slots__ = ("_path", "_specials", "_tokenizer")

    def __init__(self, tokenizer: Tokenizer, path: Path) -> None:
        """Wrap a tokenizer that was read from ``path``."""
        self._tokenizer = tokenizer
        self._path = path
        self._specials = tuple(tokenizer.token_to_id(token) for token in SPECIAL_TOKENS)

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        """Read a ``tokenizers`` file.

        Raises:
            BundleError: the file is none, or holds what :mod:`.tokenizer_file` does not allow.
        """
        from tokenizers import Tokenizer

        checked = checked_tokenizer(path)
        try:
            return cls(Tokenizer.from_str(checked), path)
        except Exception as error:  # tokenizers raises nothing more precise
            raise BundleError(
                f"{path} is no tokenizers file: {error}", hint="export the bundle again"
            ) from error

    @property
    def size(self) -> int:
        """V, special tokens included."""
        return int(self._tokenizer.get_vocab_size())

    def expect(self, size: int, tokens: SpecialTokens) -> None:
        """Check that this is the vocabulary of a model.

        Args:
            size: V, the width of the model's scores.
            tokens: the special tokens that the model was trained with.

        Raises:
            BundleError: it has another size, or the special tokens have other ids.
        """
        own = (self.size, *self._specials)
        wanted = (size, tokens.pad, tokens.bos, tokens.eos, tokens.unk)
        if own != wanted:
            names = ", ".join(("size", *SPECIAL_TOKENS))
            raise BundleError(
                f"{self._path} does not belong to this model: {names} are {own}, not {wanted}",
                hint="export the bundle again",
            )

    def encode(self, text: str) -> list[int]:
        """Return the ids of the text's words, no start and end sign; unknown ones are <unk>."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text's words; words that are not known have ids from V on.

        The same unknown word has the same id in all of the texts.
        """
        normalise = self._tokenizer.normalizer
        (unknown,) = self._specials[-1:]
        more: dict[str, int] = {}
        encoded = []
        for text, encoding in zip(
            texts,
            self._tokenizer.encode_batch(list(texts), add_special_tokens=False),
            strict=True,
        ):
            ids = list(encoding.ids)
            for place, (start, stop) in enumerate(encoding.offsets):
                if ids[place] == unknown:
                    word = text[start:stop]
                    word = normalise.normalize_str(word) if normalise else word
                    ids[place] = more.setdefault(word, self.size + len(more))
            encoded.append(ids)
        return encoded

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of word ids, ``'s`` and the like glued on, special tokens left out.

        It is one line, and empty only where there is no word.
        """
        text = self._tokenizer.decode(list(ids)).strip()
        if text:
            return text
        # Steps of the file's decoder may leave nothing of a word.
        return " ".join(str(self._tokenizer.id_to_token(i)) for i in ids if i not in self._specials)

    def ids_of(self, words: Sequence[str]) -> tuple[int, ...]:
        """Return the id of each word.

        Raises:
            UsageError: the vocabulary has no such word, or takes it for several.
        """
        return tuple(self._id_of(word) for word in words)

    def _id_of(self, word: str) -> int:
        ids = self.encode(word)
        known = not set(ids) & set(self._specials)
        if len(ids) == 1 and known:
            return ids[0]
        if len(ids) > 1 and known:
            parts = " ".join(str(self._tokenizer.id_to_token(i)) for i in ids)
            raise UsageError(
                f"{word!r} is {len(ids)} words to this model", hint=f"write them apart: {parts}"
            )
        vocabulary = set(self._tokenizer.get_vocab()) - set(SPECIAL_TOKENS)
        close = difflib.get_close_matches(word.lower(), sorted(vocabulary))
        raise UsageError(
            f"this model does not know the word {word!r}",
            hint=f"did you mean {' or '.join(close)}?" if close else "",
        )
