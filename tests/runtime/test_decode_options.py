import dataclasses

import pytest

from mrnn_runtime.errors import UsageError
from mrnn_runtime.types import DecodeOptions


@pytest.mark.parametrize(
    "options",
    [
        {"beam_size": 0},
        {"beam_size": 2.0},
        {"beam_size": True},
        {"n_best": 0},
        {"min_length": 0},
        {"max_length": "20"},
        {"length_penalty": -0.1},
        {"length_penalty": 10.1},
        {"length_penalty": float("nan")},
        {"length_penalty": "1"},
        {"no_repeat_ngram": -1},
        {"banned": [4]},
        {"banned": (-1,)},
        {"prefix": (4.0,)},
        {"prefix": "a man"},
        {"temperature": 0},
        {"temperature": True},
        {"temperature": float("inf")},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"seed": -1},
        {"beam_size": 1001},
        {"beam_size": 2**31},
        {"n_best": 2**31},
        {"max_length": 10**400},
        {"deadline_ms": 10**5000},
        {"deadline_ms": -(10**5000)},
        {"no_repeat_ngram": 10**400},
        {"top_k": 2**31},
        {"seed": 2**63},
        {"length_penalty": 10**400},
        {"exact": 1},
    ],
    ids=lambda options: next(iter(options)),
)
def test_a_value_out_of_range_is_refused_by_name(options):
    [name] = options
    with pytest.raises(UsageError, match=name):
        DecodeOptions(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_length": 5, "max_length": 4}, "max_length 4 is smaller than min_length 5"),
        ({"prefix": (4, 5), "max_length": 1}, "the prefix has 2 words, max_length allows 1"),
        ({"prefix": (4, 5), "banned": (5, 6)}, r"banned token ids: \[5\]"),
        ({"prefix": (4, 5, 4, 5), "no_repeat_ngram": 2}, "repeats an n-gram"),
        ({"prefix": (4, 4), "no_repeat_ngram": 1}, "repeats an n-gram"),
    ],
)
def test_values_that_clash_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        DecodeOptions(**options)


def test_the_edges_are_allowed():
    DecodeOptions(min_length=4, max_length=4, prefix=(4, 5, 4, 6), no_repeat_ngram=2)
    DecodeOptions(beam_size=1000, n_best=1000, max_length=1000, seed=2**63 - 1)
    DecodeOptions(length_penalty=10, temperature=100, top_p=1, top_k=1, n_best=9, beam_size=1)
    DecodeOptions(prefix=(4, 4), no_repeat_ngram=0)


def test_a_changed_copy_is_checked_as_well():
    with pytest.raises(UsageError, match="max_length"):
        dataclasses.replace(DecodeOptions(min_length=10), max_length=9)
