"""Words and ids, by the rules of the tokenizer file."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrnn_runtime.bundle.vocabulary import Vocabulary
from mrnn_runtime.errors import BundleError, UsageError
from mrnn_runtime.types import SpecialTokens

TOKENS = SpecialTokens(pad=0, bos=1, eos=2, unk=3)


@pytest.fixture(scope="module")
def vocabulary(tiny_bundle):
    return Vocabulary.load(tiny_bundle / "tokenizer.json")


def test_words_to_ids(vocabulary):
    assert vocabulary.size == 12
    assert vocabulary.encode("A man's hat.") == [4, 5, 11, 7]
    assert vocabulary.encode("a zebra runs") == [4, 3, 8]
    assert vocabulary.encode("") == []


def test_ids_to_words(vocabulary):
    assert vocabulary.decode([4, 5, 11, 7]) == "a man's hat"
    assert vocabulary.decode((6, 8)) == "dog runs"
    assert vocabulary.decode([1, 4, 5, 2, 0]) == "a man"
    assert vocabulary.decode([]) == ""


@given(st.lists(st.integers(4, 11), max_size=9))
def test_there_and_back(vocabulary, ids):
    assert vocabulary.encode(vocabulary.decode(ids)) == ids


def test_ids_of_words(vocabulary):
    assert vocabulary.ids_of(["man", "Dog", "'s"]) == (5, 6, 11)
    assert vocabulary.ids_of([]) == ()


@pytest.mark.parametrize(
    ("word", "complaint"),
    [
        ("dogs", "did you mean dog?"),
        ("Gras", "did you mean grass?"),
        ("zebra", "does not know the word 'zebra'"),
        ("<unk>", "does not know"),
        ("<eos>", "does not know"),
        ("", "does not know"),
        (".", "does not know"),
        ("man's", "write them apart: man 's"),
        ("man zebra", "does not know"),
    ],
)
def test_words_that_are_none(vocabulary, word, complaint):
    with pytest.raises(UsageError) as caught:
        vocabulary.ids_of(["a", word])
    assert complaint in str(caught.value)


def test_it_must_fit_the_model(vocabulary):
    vocabulary.expect(12, TOKENS)
    with pytest.raises(BundleError, match="does not belong to this model"):
        vocabulary.expect(13, TOKENS)
    with pytest.raises(BundleError, match="does not belong to this model"):
        vocabulary.expect(12, SpecialTokens(pad=0, bos=2, eos=1, unk=3))


def test_special_tokens_that_are_not_there(tmp_path):
    from tokenizers import Tokenizer, models

    path = tmp_path / "tokenizer.json"
    Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]")).save(str(path))
    with pytest.raises(BundleError, match="does not belong to this model"):
        Vocabulary.load(path).expect(2, TOKENS)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b'{"model": {"type": "x"}}'])
def test_a_file_that_is_no_tokenizer(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"tokenizer\.json is no tokenizers file"):
        Vocabulary.load(path)


def test_a_file_that_is_missing(tmp_path):
    with pytest.raises(BundleError, match="no tokenizers file"):
        Vocabulary.load(tmp_path / "tokenizer.json")
