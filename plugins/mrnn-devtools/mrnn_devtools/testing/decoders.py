"""What every decoder promises, as checks; each takes the component's target, ``() -> Decoder``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from mrnn_runtime import Candidate, DecodeOptions, Decoder, UsageError
from mrnn_runtime.testing import TableModel, encoded_images, require

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mrnn_runtime import EncodedImages

    Make = Callable[[], Decoder]

# Sure and unsure ones, many equal scores, captions that end at once, and some that hardly ever do.
MODELS = (
    TableModel(),
    TableModel(vocabulary_size=30, seed=1, spread=12.0),
    TableModel(seed=2, levels=2),
    TableModel(seed=3, end_bias=6.0),
    TableModel(seed=4, end_bias=-6.0),
)
OPTIONS = DecodeOptions(beam_size=4, n_best=3, max_length=6)


def it_is_a_decoder(make: Make) -> None:
    """Its target takes no arguments and gives an object with ``decode``."""
    require(isinstance(make(), Decoder), f"{make()!r} has no method decode")


def every_image_gets_candidates(make: Make) -> None:
    """At least one, at most n_best, none of them empty, all numbers plain."""
    for n_best in (1, 3):
        options = DecodeOptions(beam_size=4, n_best=n_best, max_length=6)
        for _, row in _rows(make, options):
            require(1 <= len(row) <= n_best, f"{len(row)} candidates where n_best is {n_best}")
            for one in row:
                require(isinstance(one, Candidate), f"{one!r} is no Candidate")
                plain = isinstance(one.tokens, tuple) and {*map(type, one.tokens)} == {int}
                require(plain, f"{one.tokens!r} must be a tuple of int, not empty")
                require(type(one.finished) is bool, f"finished must be a bool: {one}")
                for value in (one.log_prob, one.score):
                    require(isinstance(value, float) and value <= 0, f"{value!r} in {one}")


def the_best_candidate_comes_first(make: Make) -> None:
    """Finished captions before cut ones, and among either the score falls."""
    for _, row in _rows(make, OPTIONS):
        ranks = [(not one.finished, -one.score) for one in row]
        require(ranks == sorted(ranks), f"not in order: {row}")


def log_probabilities_are_the_models_own(make: Make) -> None:
    """Of all words, the prefix among them, and of the end sign where the caption is finished."""
    for options in (OPTIONS, DecodeOptions(max_length=6, prefix=(4, 5), banned=(6,))):
        for model, images in _cases():
            for index, row in enumerate(make().decode(model, images, options)):
                for one in row:
                    log_prob = _log_prob(model, images.take(np.array([index])), one)
                    close = math.isclose(log_prob, one.log_prob, abs_tol=1e-3)
                    require(close, f"{one} has log-probability {log_prob}")


def the_same_input_gives_the_same_output(make: Make) -> None:
    """From the same decoder as from a new one."""
    decoder = make()
    for model, images in _cases():
        first = decoder.decode(model, images, OPTIONS)
        require(first == decoder.decode(model, images, OPTIONS), "a second call differs")
        require(first == make().decode(model, images, OPTIONS), "a new decoder differs")


def no_image_depends_on_its_neighbours(make: Make) -> None:
    """Alone, among others and in another order it gets the same candidates, bit for bit."""
    for model, images in _cases():
        together = make().decode(model, images, OPTIONS)
        for order in ([0], [3, 1], [2, 2, 0]):
            apart = make().decode(model, images.take(np.array(order)), OPTIONS)
            require(apart == [together[i] for i in order], f"images {order} by themselves differ")


def no_images_give_no_candidates(make: Make) -> None:
    """An empty batch is no error."""
    require(make().decode(MODELS[0], encoded_images(0), OPTIONS) == [], "must be []")


def captions_hold_words_only(make: Make) -> None:
    """Never pad, bos, eos or unk."""
    for model, row in _rows(make, OPTIONS):
        special = {*model.tokens.never, model.tokens.eos}
        for one in row:
            require(not special & set(one.tokens), f"{one.tokens} holds one of {special}")


def lengths_are_kept(make: Make) -> None:
    """min_length and max_length count words, without the end sign."""
    for least, most in ((1, 1), (3, 3), (2, 5)):
        options = DecodeOptions(n_best=3, min_length=least, max_length=most)
        for _, row in _rows(make, options):
            for one in row:
                require(least <= len(one.tokens) <= most, f"{one.tokens} has not {least}..{most}")


def banned_tokens_do_not_occur(make: Make) -> None:
    """Where the end sign is banned, every caption is cut at max_length."""
    for _, row in _rows(make, DecodeOptions(n_best=3, max_length=5, banned=(2, 4, 7))):
        for one in row:
            require(not {4, 7} & set(one.tokens), f"{one.tokens} holds 4 or 7")
            cut = not one.finished and len(one.tokens) == 5
            require(cut, f"the end sign is banned, and {one} is not cut at 5 words")


def every_caption_starts_with_the_prefix(make: Make) -> None:
    """Whatever the model thinks of it."""
    for _, row in _rows(make, DecodeOptions(n_best=3, max_length=5, prefix=(5, 4))):
        for one in row:
            require(one.tokens[:2] == (5, 4), f"{one.tokens} does not start with (5, 4)")


def no_ngram_occurs_twice(make: Make) -> None:
    """None of no_repeat_ngram words."""
    for size in (1, 2):
        for _, row in _rows(make, DecodeOptions(n_best=3, max_length=9, no_repeat_ngram=size)):
            for one in row:
                ngrams = [one.tokens[i : i + size] for i in range(len(one.tokens) - size + 1)]
                require(len(ngrams) == len(set(ngrams)), f"{one.tokens} repeats {size} words")


def what_cannot_be_done_is_a_usage_error(make: Make) -> None:
    """Ids that the vocabulary does not have, a prefix of signs, no word left."""
    for options in (
        DecodeOptions(banned=(10,)),
        DecodeOptions(prefix=(10,)),
        DecodeOptions(prefix=(3,)),
        DecodeOptions(banned=(4, 5, 6, 7, 8, 9)),
    ):
        try:
            make().decode(MODELS[0], encoded_images(1), options)
        except UsageError:
            continue
        raise AssertionError(f"no UsageError for {options}; mrnn_runtime.decoding.Constraints has")


CHECKS: tuple[Callable[[Make], None], ...] = (
    it_is_a_decoder,
    every_image_gets_candidates,
    the_best_candidate_comes_first,
    log_probabilities_are_the_models_own,
    the_same_input_gives_the_same_output,
    no_image_depends_on_its_neighbours,
    no_images_give_no_candidates,
    captions_hold_words_only,
    lengths_are_kept,
    banned_tokens_do_not_occur,
    every_caption_starts_with_the_prefix,
    no_ngram_occurs_twice,
    what_cannot_be_done_is_a_usage_error,
)


def _cases() -> Iterator[tuple[TableModel, EncodedImages]]:
    """Yield models, each with four images that cannot be written to."""
    for seed, model in enumerate(MODELS):
        images = encoded_images(4, seed=seed)
        for array in (*images.inputs.values(), images.reference_feature):
            array.setflags(write=False)
        yield model, images


def _rows(make: Make, options: DecodeOptions) -> Iterator[tuple[TableModel, list[Candidate]]]:
    """Yield the candidates of every image of every case."""
    for model, images in _cases():
        rows = make().decode(model, images, options)
        require(len(rows) == len(images), f"{len(rows)} lists for {len(images)} images")
        yield from ((model, row) for row in rows)


def _log_prob(model: TableModel, image: EncodedImages, candidate: Candidate) -> float:
    """Feed a candidate to the model word by word and return its log-probability."""
    state, total, last = model.start(image), 0.0, model.tokens.bos
    for token in (*candidate.tokens, *([model.tokens.eos] if candidate.finished else [])):
        scores, state = model.step(np.array([last]), state, model.vocabulary_size)
        total += float(scores.values[scores.ids == token][0])
        last = token
    return total
