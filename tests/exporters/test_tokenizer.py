"""Words of captions: the rules, the round trip, and the agreement with the PTB tokeniser."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from mrnn_exporters import datasets, metrics
from mrnn_exporters.tokenizer import SPECIALS, build_tokenizer, encode_caption, words
from mrnn_runtime.bundle.vocabulary import Vocabulary
from mrnn_runtime.errors import UsageError

SENTENCES = {
    "A black dog is running after a white dog in the snow .": "a black dog is running after a white"
    " dog in the snow",
    "The dog's owner can't walk, isn't it?": "the dog 's owner ca n't walk is n't it",
    "the girls' hats; they're red": "the girls hats they 're red",
    "A red-haired girl - on a merry-go-round --": "a red-haired girl on a merry-go-round",
    "A sign says \" stop \" and “go” or 'wait' .": "a sign says stop and go or wait",
    "It's 3.5 or 11:20, 2 dogs and 1,000 cats": "it 's 3.5 or 11:20 2 dogs and 1,000 cats",
    "Mr. T of the U.S. at 5 o'clock...": "mr. t of the u.s. at 5 o'clock",
    "A café on the his/her side cannot close": "a café on the his/her side can not close",
    "AT&T # 8": "at & t # 8",
    "don\u2019t": "do n't",
    "A dog\n\tand\u00a0a cat": "a dog and a cat",
    " .,;:!?\"'`()[]- ": "",
    "": "",
}


@pytest.mark.parametrize(("caption", "expected"), SENTENCES.items())
def test_words(caption: str, expected: str) -> None:
    assert " ".join(words(caption)) == expected


def test_the_decoder_glues_clitics() -> None:
    caption = "the dog's owner can't see the girls, they're red-haired"
    tokenizer = build_tokenizer([caption], 1)
    assert tokenizer.decode(encode_caption(tokenizer, caption)) == caption.replace(",", "")


PIECES = (
    "a dog's don't 's n't 'll u.s. mr. 3.5 11:20 his/her o'clock x-ray - -- ' ` \" é İ ß ŉ ½ ﬁ"
    " cannot can not , . # & the A n 's' -a a- 0n'tn't it's \u2019 \u0301 \n"
)
FRAGMENTS = st.sampled_from([" ", *PIECES.split(" ")])
CAPTIONS = st.one_of(
    st.text(max_size=20),
    st.lists(FRAGMENTS, max_size=12).map("".join),
    st.lists(FRAGMENTS, max_size=8).map(" ".join),
)


@given(CAPTIONS)
def test_ids_are_the_words_and_decoding_loses_nothing(caption: str) -> None:
    split = words(caption)
    assume(split and not any(sign in caption for sign in SPECIALS))
    tokenizer = build_tokenizer([caption], 1)
    ids = encode_caption(tokenizer, caption)
    assert [tokenizer.id_to_token(i) for i in ids] == split
    assert encode_caption(tokenizer, tokenizer.decode(ids)) == ids


@given(CAPTIONS)
def test_a_word_never_holds_a_blank_or_a_capital(caption: str) -> None:
    for word in words(caption):
        assert word.split() == [word]
        assert words(word) == [word]


def test_ids_go_by_count_then_alphabet() -> None:
    tokenizer = build_tokenizer(["b a c", "b c d", "b"], 1)
    tokens = [tokenizer.id_to_token(i) for i in range(tokenizer.get_vocab_size())]
    assert tokens == [*SPECIALS, "b", "c", "a", "d"]


def test_rare_words_are_unknown() -> None:
    tokenizer = build_tokenizer(["a dog", "a cat", "a dog"], 2)
    assert encode_caption(tokenizer, "A cat, a dog!") == [4, 3, 4, 5]
    with pytest.raises(UsageError, match="no word occurs 4 times"):
        build_tokenizer(["a dog", "a cat", "a dog"], 4)


def test_the_runtime_reads_the_file_as_the_trainer_does(tmp_path: Path) -> None:
    caption = "The dog's owner can't see a red-haired girl."
    tokenizer = build_tokenizer([caption], 1)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    vocabulary = Vocabulary.load(tmp_path / "tokenizer.json")
    ids = encode_caption(tokenizer, caption)
    assert vocabulary.encode(caption) == ids
    assert vocabulary.decode([1, *ids, 2]) == "the dog's owner can't see a red-haired girl"
    assert vocabulary.size == len(SPECIALS) + len(set(words(caption)))


def test_the_file_survives_a_second_round() -> None:
    tokenizer = build_tokenizer(["it's a dog"], 1)
    again = Tokenizer.from_str(tokenizer.to_str())
    assert again.to_str() == tokenizer.to_str()


needs_java = pytest.mark.skipif(
    metrics.java() is None, reason="the PTB tokeniser is a Java program"
)


@needs_java
def test_agrees_with_the_ptb_tokeniser_on_every_rule() -> None:
    # It keeps at&t whole, and some punctuation that pycocoevalcap forgot to drop.
    captions = [c for c in SENTENCES if "&" not in c and "[" not in c]
    assert [" ".join(words(c)) for c in captions] == metrics.ptb(captions)


@needs_java
def test_agrees_with_the_ptb_tokeniser_on_the_corpus(flickr8k_root: Path) -> None:
    examples = datasets.read("flickr8k", flickr8k_root, "train")
    captions = [c for e in examples for c in e.captions]
    same = sum(
        " ".join(words(c)) == p for c, p in zip(captions, metrics.ptb(captions), strict=True)
    )
    assert same / len(captions) > 0.999
