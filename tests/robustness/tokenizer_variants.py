"""Tokenizer files as somebody would write them who means harm, or who uses all of the library."""

import json

TEXTS = ("", "a", " ", "'s", "dog", "\n", "\x1b[2J", "\u202e", "\0", "x" * 300, "a" * 10**5)
PATTERNS = ("", "a", r"\w+", "(a+)+$", "(", "(?:a|aa)+$", r"'s|\w+", "(?:a{1000}){1000}", "(?i)A")
NUMBERS = (0, 1, -1, 2, 16, 2**31, 2**40, 2**62, 2**64, 10**30, 0.5, None, True, "1")
PARAMETERS = {
    "pattern": lambda r: {r.choice(("String", "Regex")): r.choice(PATTERNS)},
    "content": lambda r: r.choice(TEXTS),
    "behavior": lambda r: r.choice(("Removed", "Isolated", "Contiguous", "x")),
    "prepend_scheme": lambda r: r.choice(("always", "first", "x")),
    "precompiled_charsmap": lambda r: r.choice(("", "AAAA", "/" * 4000)),
}
WORDED = ("prefix", "prepend", "replacement", "pad_token", "word_delimiter_token", "suffix")
COUNTED = ("start", "stop", "length")
# Steps of the library and their parameters, whatever place they are meant for.
STEPS = {
    **{kind: () for kind in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Nmt")},
    **{kind: () for kind in ("Whitespace", "WhitespaceSplit", "BertPreTokenizer", "Fuse")},
    **{kind: () for kind in ("ByteFallback", "UnicodeScripts")},
    "Replace": ("pattern", "content"),
    "Prepend": ("prepend",),
    "Precompiled": ("precompiled_charsmap",),
    "BertNormalizer": ("clean_text", "handle_chinese_chars", "strip_accents", "lowercase"),
    "Strip": ("content", "start", "stop", "strip_left", "strip_right"),
    "Split": ("pattern", "behavior", "invert"),
    "Punctuation": ("behavior",),
    "Digits": ("individual_digits",),
    "FixedLength": ("length",),
    "Metaspace": ("replacement", "prepend_scheme", "split"),
    "ByteLevel": ("add_prefix_space", "trim_offsets", "use_regex"),
    "WordPiece": ("prefix", "cleanup"),
    "CTC": ("pad_token", "word_delimiter_token", "cleanup"),
    "BPEDecoder": ("suffix",),
}
SEQUENCES = {
    "normalizer": "normalizers",
    "pre_tokenizer": "pretokenizers",
    "decoder": "decoders",
    "post_processor": "processors",
}


def _step(place, random, depth=0):
    if depth < 3 and random.random() < 0.3:
        # The longest ones outside only: inside of each other they would fill our own memory.
        count = random.choice((0, 1, 2) if depth else (0, 1, 2, 5, 16, 17, 200))
        return {"type": "Sequence", SEQUENCES[place]: [_step(place, random, depth + 1)] * count}
    kind = random.choice(list(STEPS))
    return {"type": kind, **{name: _parameter(name, random) for name in STEPS[kind]}}


def _parameter(name, random):
    if name in PARAMETERS:
        return PARAMETERS[name](random)
    if name in WORDED:
        return random.choice(TEXTS)
    return random.choice(NUMBERS if name in COUNTED else (True, False))


def _cutting(random):
    number = random.choice(NUMBERS)
    return {
        "truncation": {
            "direction": "Right",
            "max_length": random.choice(NUMBERS),
            "strategy": "LongestFirst",
            "stride": number,
        },
        "padding": {
            "strategy": random.choice(("BatchLongest", {"Fixed": number})),
            "direction": "Right",
            "pad_to_multiple_of": random.choice(NUMBERS),
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "<pad>",
        },
    }


def change(path, random):
    """Rewrite a tokenizer.json; return what was changed."""
    top = json.loads(path.read_bytes())
    what = random.choice((*SEQUENCES, *SEQUENCES, "cutting", "words", "added", "many words"))
    vocabulary = top["model"]["vocab"]
    match what:
        case "cutting":
            top |= _cutting(random)
        case "words":  # one becomes another text, or gets another number
            word = random.choice(list(vocabulary))
            number = vocabulary.pop(word)
            if random.random() < 0.5:
                vocabulary[random.choice(TEXTS)] = number
            else:
                vocabulary[word] = random.choice(NUMBERS)
        case "added":
            added = random.choice(top["added_tokens"])
            added[random.choice(list(added))] = random.choice((*NUMBERS, *TEXTS))
        case "many words":
            top["model"]["vocab"] |= {f"w{i}": i for i in range(12, random.choice((13, 10**5)))}
        case _:
            top[what] = _step(what, random)
    path.write_text(json.dumps(top))
    return what
