"""Beam search as ONNX text: ``mrnn_runtime.decoding.beam``, rule by rule and tie by tie.

Standard operators only; a beam of 1 is greedy search. ``flat_graph`` puts a model around it.

Letters in shapes: n images, k beams, r rows (live hypotheses of all images), b best of a row,
c continuations of an image, m captions of an image, t places of a caption, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

from mrnn_runtime.build import SIGNALS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mrnn_runtime import Bundle, DecodeOptions
    from mrnn_runtime.build import Calibration

# Made once, in front of the loop.
SETUP = """
setup (uint8[n, h, w, 3] image) => () {
    n = Shape <start = 0, end = 1> (image)
    beam_shape = Concat <axis = 0> (n, k)
    pool_shape = Concat <axis = 0> (n, m)
    beam_words_shape = Concat <axis = 0> (beam_shape, t)
    pool_words_shape = Concat <axis = 0> (pool_shape, t)
    row_count = Mul (n, k)
    best_shape = Concat <axis = 0> (row_count, b)
    no_gains = Expand (minus_inf, best_shape)
    no_ids = Expand (zero, best_shape)
    first_token = Expand (bos, n)
    first_log_prob = Expand (begin, beam_shape)
    first_words = Expand (pad, beam_words_shape)
    first_rank = Expand (beams, beam_shape)
    no_ended = Expand (minus_inf, beam_shape)
    no_pool = Expand (minus_inf, pool_shape)
    no_lengths = Expand (zero, pool_shape)
    no_pool_words = Expand (pad, pool_words_shape)
    ones = Expand (one, n)
    image_number_table = NonZero (ones)
    image_numbers = Reshape (image_number_table, flat)
    first_row = Mul (image_numbers, k)
}
"""
# One step of the search of all images, in front of the cell and behind it.
#
# Hypotheses that are dead have a log_prob of -inf. row: int64 [r], the places of the live ones
# among n * k. rank: int64 [n, k], the place of a hypothesis among those of its image by token ids,
# which decides between equal scores; by_rank: its inverse. pool_*: the captions that ended, best
# first. best_ended: the log-probabilities of the k most probable of them. cut_*: the hypotheses as
# they stood before this step, where it was the last one.
BEFORE = """
before (int64 step, int64[r] row) => () {
    owner = Div (row, k)
    can_end = GreaterOrEqual (step, min_length)
    mask_row = Cast <to = 7> (can_end)
    mask = Gather (masks, mask_row)
}
"""
AFTER = """
after (float[r, v] log_probs) => () {
    allowed = Add (log_probs, mask)
    values, ids = TopK (allowed, b)
    gains = Cast <to = 11> (values)
    row_column = Unsqueeze (row, last_axis)
    gain_rows = ScatterND (no_gains, row_column, gains)
    id_rows = ScatterND (no_ids, row_column, ids)
    gain_table = Reshape (gain_rows, beams_by_best)
    log_prob_column = Unsqueeze (log_prob, last_axis)
    sum_table = Add (gain_table, log_prob_column)
    sums = Reshape (sum_table, beam_best)
    id_list = Reshape (id_rows, beam_best)
    best, place = TopK (sums, c)
    parent = Div (place, b)
    chosen = GatherElements <axis = 1> (id_list, place)

    possible = Greater (best, minus_inf)
    is_eos = Equal (chosen, eos)
    ends_anywhere = And (possible, is_eos)
    ends = And (ends_anywhere, among_first)
    parent_column = Unsqueeze (parent, last_axis)
    of_parent = Equal (parent_column, beams)
    ends_column = Unsqueeze (ends, last_axis)
    ends_parent = And (of_parent, ends_column)
    best_column = Unsqueeze (best, last_axis)
    ended_table = Where (ends_parent, best_column, minus_inf)
    ended_most, ended_place = TopK <axis = 1> (ended_table, one)
    ended = Squeeze (ended_most, middle_axis)

    next_length = Add (step, one_scalar)
    penalty = Gather (penalties, next_length)
    ended_ranked = GatherElements <axis = 1> (ended, by_rank)
    score_ranked = Div (ended_ranked, penalty)
    by_rank_column = Unsqueeze (by_rank, last_axis)
    words_ranked = GatherND <batch_dims = 1> (words, by_rank_column)
    step_table = Expand (step, beam_shape)
    all_scores = Concat <axis = 1> (pool_score, score_ranked)
    all_log_probs = Concat <axis = 1> (pool_log_prob, ended_ranked)
    all_lengths = Concat <axis = 1> (pool_length, step_table)
    all_words = Concat <axis = 1> (pool_words, words_ranked)
    next_pool_score, kept = TopK (all_scores, m)
    next_pool_log_prob = GatherElements <axis = 1> (all_log_probs, kept)
    next_pool_length = GatherElements <axis = 1> (all_lengths, kept)
    kept_column = Unsqueeze (kept, last_axis)
    next_pool_words = GatherND <batch_dims = 1> (all_words, kept_column)
    all_ended = Concat <axis = 1> (best_ended, ended)
    next_best_ended, ended_order = TopK (all_ended, k)

    is_last = Equal (step, max_length)
    no_end = Equal (ended, minus_inf)
    is_cut = And (no_end, is_last)
    next_cut_log_prob = Where (is_cut, log_prob, minus_inf)
    next_cut_words = Identity (words)
    next_cut_by_rank = Identity (by_rank)

    is_word_or_none = Not (is_eos)
    not_last = Not (is_last)
    may_grow = And (is_word_or_none, not_last)
    growing = Where (may_grow, best, minus_inf)
    live_log_prob, which = TopK (growing, k)
    best_live = Slice (live_log_prob, zero, one, one)
    limit = Div (best_live, last_penalty)
    worst_kept = Slice (next_pool_score, minus_one, end, one)
    worst_ended = Slice (next_best_ended, minus_one, end, one)
    may_enter = Less (worst_kept, limit)
    has_place = Less (worst_ended, best_live)
    is_open = And (may_enter, has_place)
    next_log_prob = Where (is_open, live_log_prob, minus_inf)
    word_parent = GatherElements <axis = 1> (parent, which)
    word = GatherElements <axis = 1> (chosen, which)

    word_parent_column = Unsqueeze (word_parent, last_axis)
    parent_words = GatherND <batch_dims = 1> (words, word_parent_column)
    word_column = Unsqueeze (word, last_axis)
    is_place = Equal (places, step)
    next_words = Where (is_place, word_column, parent_words)
    parent_rank = GatherElements <axis = 1> (rank, word_parent)
    parent_key = Mul (parent_rank, vocabulary)
    key = Add (parent_key, word)
    keys, next_by_rank = TopK <largest = 0> (key, k)
    ranks, next_rank = TopK <largest = 0> (next_by_rank, k)

    next_alive = Greater (next_log_prob, minus_inf)
    next_alive_list = Reshape (next_alive, flat)
    next_row_table = NonZero (next_alive_list)
    next_row = Reshape (next_row_table, flat)
    word_list = Reshape (word, flat)
    next_token = Gather (word_list, next_row)
    next_owner = Div (next_row, k)
    owner_start = Mul (next_owner, k)
    word_parent_list = Reshape (word_parent, flat)
    next_row_parent = Gather (word_parent_list, next_row)
    parent_row = Add (owner_start, next_row_parent)
    alive = Greater (log_prob, minus_inf)
    alive_list = Reshape (alive, flat)
    alive_number = Cast <to = 7> (alive_list)
    alive_count = CumSum (alive_number, zero_scalar)
    alive_place = Sub (alive_count, one_scalar)
    state_row = Gather (alive_place, parent_row)
    rows_left = Size (next_row)
    next_going = Greater (rows_left, zero_scalar)
}
"""
# Captions that were cut stand behind those that ended.
END = """
end (double[n, m] pool_score) => () {
    cut_ranked = GatherElements <axis = 1> (cut_log_prob, cut_by_rank)
    cut_by_rank_column = Unsqueeze (cut_by_rank, last_axis)
    cut_words_ranked = GatherND <batch_dims = 1> (cut_words, cut_by_rank_column)
    cut_scores = Div (cut_ranked, cut_penalty)
    cut_score, cut_order = TopK (cut_scores, k)
    cut_order_column = Unsqueeze (cut_order, last_axis)
    cut_words_best = GatherND <batch_dims = 1> (cut_words_ranked, cut_order_column)
    cut_log_probs = GatherElements <axis = 1> (cut_ranked, cut_order)
    cut_lengths = Expand (max_length, beam_shape)
    every_score = Concat <axis = 1> (pool_score, cut_score)
    every_log_prob = Concat <axis = 1> (pool_log_prob, cut_log_probs)
    every_length = Concat <axis = 1> (pool_length, cut_lengths)
    every_words = Concat <axis = 1> (pool_words, cut_words_best)
    is_there = Greater (every_score, minus_inf)
    place_if_none = Add (caption_places, m_and_k)
    caption_place = Where (is_there, caption_places, place_if_none)
    caption_order, from = TopK <largest = 0> (caption_place, m)
    from_column = Unsqueeze (from, last_axis)
    score_double = GatherElements <axis = 1> (every_score, from)
    log_prob_double = GatherElements <axis = 1> (every_log_prob, from)
    length_if_any = GatherElements <axis = 1> (every_length, from)
    tokens_if_any = GatherND <batch_dims = 1> (every_words, from_column)
    score = Cast <to = 1> (score_double)
    log_prob = Cast <to = 1> (log_prob_double)
    is_any = Greater (score_double, minus_inf)
    is_any_column = Unsqueeze (is_any, last_axis)
    length = Where (is_any, length_if_any, zero)
    token = Where (is_any_column, tokens_if_any, pad)
    of_pool = Less (from, m)
    finished = And (of_pool, is_any)
    text_place = Add (token, text_start)
    caption = Gather (texts, text_place)
}
"""
# How probable it is that a caption is a good one; see mrnn_runtime.decoding.confidence.
CONFIDENCE = """
confidence (float[n, d] reference_feature) => () {
    feature = Cast <to = 11> (reference_feature)
    squares = Mul (feature, feature)
    energy = ReduceSum (squares, last_axis)
    image_sum = Mul (energy, image_weight)
    end_signs = Cast <to = 7> (finished)
    steps_taken = Add (length, end_signs)
    steps_or_one = Max (steps_taken, one)
    steps_exact = Cast <to = 11> (steps_or_one)
    per_word = Div (log_prob_double, steps_exact)
    per_word_sum = Mul (per_word, per_word_weight)
    length_exact = Cast <to = 11> (length)
    length_sum = Mul (length_exact, length_weight)
    image_and_bias = Add (image_sum, bias)
    words_sum = Add (per_word_sum, length_sum)
    logit_exact = Add (words_sum, image_and_bias)
    logit = Cast <to = 1> (logit_exact)
    likely = Sigmoid (logit)
    confidence = Where (is_any, likely, not_likely)
}
"""
# What the loop carries beside the states: name, type, shape, and what it starts from. The number of
# rows, and of images, is left open.
CARRIED = (
    ("row", TensorProto.INT64, "r", "first_row"),
    ("token", TensorProto.INT64, "r", "first_token"),
    ("log_prob", TensorProto.DOUBLE, "nk", "first_log_prob"),
    ("words", TensorProto.INT64, "nkt", "first_words"),
    ("rank", TensorProto.INT64, "nk", "first_rank"),
    ("by_rank", TensorProto.INT64, "nk", "first_rank"),
    ("pool_score", TensorProto.DOUBLE, "nm", "no_pool"),
    ("pool_log_prob", TensorProto.DOUBLE, "nm", "no_pool"),
    ("pool_length", TensorProto.INT64, "nm", "no_lengths"),
    ("pool_words", TensorProto.INT64, "nmt", "no_pool_words"),
    ("best_ended", TensorProto.DOUBLE, "nk", "no_ended"),
    ("cut_log_prob", TensorProto.DOUBLE, "nk", "no_ended"),
    ("cut_words", TensorProto.INT64, "nkt", "first_words"),
    ("cut_by_rank", TensorProto.INT64, "nk", "first_rank"),
)
OUTPUTS = (
    ("caption", TensorProto.STRING, "nmt"),
    ("token", TensorProto.INT64, "nmt"),
    ("length", TensorProto.INT64, "nm"),
    ("log_prob", TensorProto.FLOAT, "nm"),
    ("score", TensorProto.FLOAT, "nm"),
    ("finished", TensorProto.BOOL, "nm"),
)
CONFIDENCE_OUTPUT = ("confidence", TensorProto.FLOAT, "nm")


def constants(bundle: Bundle, options: DecodeOptions) -> dict[str, NDArray[np.generic]]:
    """Return the numbers that the search is made of, by the names of the text above."""
    size, k, m, t = (
        bundle.vocabulary_size,
        options.beam_size,
        options.n_best,
        options.max_length,
    )
    best = min(size, k + 1)  # a row gives one end sign at most, so this holds its k best words
    most = min(2 * k, k * best)
    masks = np.zeros((2, size), np.float32)
    masks[:, [*bundle.tokens.never, *options.banned]] = -np.inf
    masks[0, bundle.tokens.eos] = -np.inf
    penalties = [float(length) ** options.length_penalty for length in range(t + 2)]
    whole: dict[str, object] = {
        "zero": [0], "one": [1], "minus_one": [-1], "end": [2**31],
        "zero_scalar": 0, "one_scalar": 1,
        "last_axis": [-1], "middle_axis": [1], "flat": [-1],
        "k": [k], "m": [m], "t": [t], "b": [best], "c": [most], "m_and_k": [m + k],
        "steps": t + 1, "min_length": options.min_length, "max_length": t,
        "bos": [bundle.tokens.bos], "eos": [bundle.tokens.eos], "pad": [bundle.tokens.pad],
        "vocabulary": [size],
        "beams": range(k), "places": range(t), "caption_places": range(m + k),
        "beams_by_best": [-1, k, best], "beam_best": [-1, k * best],
        "text_start": [0, *[size] * (t - 1)],
    }  # fmt: skip
    return {
        **{name: np.array(value, np.int64) for name, value in whole.items()},
        "true": np.array(True),
        "minus_inf": np.array([-np.inf]),
        "begin": np.where(np.arange(k) == 0, 0.0, -np.inf),
        "among_first": np.arange(most) < k,
        "masks": masks,
        "penalties": np.array(penalties),
        "cut_penalty": np.array([penalties[t]]),
        "last_penalty": np.array([penalties[t + 1]]),
    }


def confidence_constants(calibration: Calibration, size: int) -> dict[str, NDArray[np.generic]]:
    """Return the numbers that a confidence is made of; ``size`` is that of the feature."""
    weights = {name: calibration.weights.get(name, 0.0) for name in SIGNALS}
    return {
        "bias": np.array([calibration.bias]),
        "per_word_weight": np.array([weights["per_word"]]),
        "length_weight": np.array([weights["length"]]),
        "image_weight": np.array([weights["image"] / size]),  # of the sum of squares
        "not_likely": np.zeros(1, np.float32),
    }
