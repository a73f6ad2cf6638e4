"""Words and ids, by the rules of the tokenizer file."""

import json

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


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[]", b"\xff", b'{"model": {"type": "x"}}', b"[" * 9999, b"[" + b"{}," * 10**6],
)
def test_a_file_that_is_no_tokenizer(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"tokenizer\.json(:| is no tokenizers file)"):
        Vocabulary.load(path)


def test_a_file_that_is_missing(tmp_path):
    with pytest.raises(BundleError, match="no tokenizers file"):
        Vocabulary.load(tmp_path / "tokenizer.json")


def replace_step(content, text="a", kind="String"):
    return {"type": "Replace", "pattern": {kind: text}, "content": content}


def sequence(place, *steps):
    plural = {"normalizer": "normalizers", "decoder": "decoders"}.get(place, "pretokenizers")
    return {place: {"type": "Sequence", plural: list(steps)}}


PADDING = {
    "strategy": {"Fixed": 2**40},
    "direction": "Right",
    "pad_to_multiple_of": None,
    "pad_id": 0,
    "pad_type_id": 0,
    "pad_token": "<pad>",
}
TRUNCATION = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 2}
HOSTILE = [
    {"truncation": TRUNCATION},
    {"padding": PADDING},
    {"padding": {**PADDING, "strategy": "BatchLongest", "pad_to_multiple_of": 2**40}},
    {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
    {"normalizer": {"type": "Prepend", "prepend": "a" * 9999}},
    {"normalizer": replace_step("aa")},
    sequence("normalizer", *[replace_step("aaaa")] * 16),
    sequence("normalizer", *[{"type": "NFKC"}] * 17),
    sequence("normalizer", sequence("normalizer", {"type": "NFC"})["normalizer"]),
    {"normalizer": replace_step("b", "")},
    {"normalizer": replace_step("", "(a+)+$", "Regex")},
    {"normalizer": replace_step("\n")},
    {"pre_tokenizer": {"type": "FixedLength", "length": 0}},
    {"pre_tokenizer": {"type": "Metaspace", "replacement": "_", "prepend_scheme": "always"}},
    {
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": "("},
            "behavior": "Removed",
            "invert": False,
        }
    },
    {
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": r"(?:a|aa)+$"},
            "behavior": "Removed",
            "invert": True,
        }
    },
    {"decoder": {"type": "Strip", "content": "a", "start": 2**62, "stop": 0}},
    {"decoder": {"type": "CTC", "pad_token": "a", "word_delimiter_token": "|", "cleanup": True}},
    {"decoder": replace_step("aa")},
    {"decoder": replace_step("\n")},
    {"decoder": {"type": "WordPiece", "prefix": "\x1b[2J", "cleanup": False}},
    {
        "post_processor": {
            "type": "ByteLevel",
            "add_prefix_space": True,
            "trim_offsets": True,
            "use_regex": True,
        }
    },
    {"model": {"type": "BPE", "vocab": {}, "merges": []}},
    {"version": None},
    {"more": None},
]
VOCABULARIES = [
    {"a\nb": 4},
    {"a b": 4},
    {"": 4},
    {"\x1b[2J": 4},
    {"\u202e": 4},
    {"x" * 257: 4},
    {"a": 5},
    {"a": 4, "b": 4},
    {"a": -1},
    {"a": 2**62},
    {"a": True},
    {"a": "4"},
]


@pytest.fixture
def changed(tiny_bundle, tmp_path):
    """Write a tokenizer.json with some fields changed."""

    def write(changes):
        top = json.loads((tiny_bundle / "tokenizer.json").read_bytes())
        (tmp_path / "tokenizer.json").write_text(json.dumps({**top, **changes}))
        return tmp_path / "tokenizer.json"

    return write


@pytest.mark.parametrize("changes", HOSTILE, ids=lambda changes: str(changes)[:60])
def test_what_is_not_allowed_never_reaches_the_library(changed, changes):
    with pytest.raises(BundleError, match=r"tokenizer\.json: ") as caught:
        Vocabulary.load(changed(changes))
    assert caught.value.hint


@pytest.mark.parametrize("words", VOCABULARIES, ids=lambda words: ascii(words)[:40])
def test_words_that_no_caption_may_hold(changed, words):
    specials = {"<pad>": 0, "<bos>": 1, "<eos>": 2, "<unk>": 3}
    model = {"type": "WordLevel", "vocab": specials | words, "unk_token": "<unk>"}
    with pytest.raises(BundleError, match=r"model\.vocab"):
        Vocabulary.load(changed({"model": model}))


def test_a_word_may_not_be_a_special_token(changed, tiny_bundle):
    added = json.loads((tiny_bundle / "tokenizer.json").read_bytes())["added_tokens"]
    for change in ({"content": "dog"}, {"id": 6}, {"special": 1}, {"more": 1}):
        with pytest.raises(BundleError, match="added_tokens"):
            Vocabulary.load(changed({"added_tokens": [*added[:3], {**added[3], **change}]}))


@pytest.mark.parametrize(
    "changes",
    [
        {"pre_tokenizer": {"type": "Whitespace"}},
        sequence(
            "pre_tokenizer",
            {"type": "WhitespaceSplit"},
            {"type": "Punctuation", "behavior": "Isolated"},
        ),
        {"normalizer": None, "decoder": None},
        sequence("normalizer", {"type": "NFD"}, {"type": "StripAccents"}, {"type": "Lowercase"}),
    ],
    ids=str,
)
def test_what_third_parties_may_write(changed, changes):
    vocabulary = Vocabulary.load(changed(changes))
    assert vocabulary.encode("a man") == [4, 5]
    assert vocabulary.decode([4, 5]).split() == ["a", "man"]


@pytest.mark.parametrize(
    "step", [replace_step("", "dog"), {"type": "WordPiece", "prefix": "dog", "cleanup": False}]
)
def test_a_caption_is_never_empty(changed, step):
    vocabulary = Vocabulary.load(changed(sequence("decoder", step, step)))
    assert vocabulary.decode([6]) == "dog"
    assert vocabulary.decode([2]) == ""


def test_the_exporters_write_what_is_allowed(tmp_path, tiny_bundle):
    tokenizers = pytest.importorskip("mrnn_exporters.tokenizer")
    path = tmp_path / "tokenizer.json"
    tokenizers.build_tokenizer(["A man's dog can't run.", "a \u00b4dog\u00b4"], 1).save(str(path))
    assert (
        Vocabulary.load(path).decode(Vocabulary.load(path).encode("a man's dog")) == "a man's dog"
    )
