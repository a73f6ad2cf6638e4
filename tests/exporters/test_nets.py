"""The nets against their equations, written out in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mrnn_exporters.nets import Cell, NetConfig, gru, m_rnn, pack
from mrnn_runtime.errors import UsageError

BUILDERS = {"m-rnn": m_rnn, "gru": gru}


def make(kind: str, **sizes: int) -> Cell:
    torch.manual_seed(3)
    config = NetConfig(
        vocabulary_size=11, feature_size=7, embedding=4, word=6, recurrent=6, multimodal=5, **sizes
    )
    return BUILDERS[kind](config).eval()


def weights(net: Cell) -> dict[str, np.ndarray]:
    return {k: v.double().numpy() for k, v in net.state_dict().items()}


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def advance(kind: str, w: dict[str, np.ndarray], word: np.ndarray, r: np.ndarray) -> np.ndarray:
    if kind == "m-rnn":
        return np.maximum(w["recurrence.weight"] @ r + word, 0)
    x = w["recurrence.input.weight"] @ word + w["recurrence.input.bias"]
    h = w["recurrence.hidden.weight"] @ r + w["recurrence.hidden.bias"]
    (xa, xz, xc), (ha, hz, hc) = np.split(x, 3), np.split(h, 3)
    z = sigmoid(xz + hz)
    return (1 - z) * np.tanh(xc + sigmoid(xa + ha) * hc) + z * r


def by_hand(kind: str, net: Cell, sentence: list[int], feature: np.ndarray) -> np.ndarray:
    """log P of each next word after each word of the sentence, float64 [l, V]."""
    w = weights(net)
    image = feature / np.sqrt(np.mean(feature**2) + 1e-8)
    r = np.zeros(6)
    rows = []
    for token in sentence:
        word = w["word.weight"] @ w["embedding.weight"][token] + w["word.bias"]
        r = advance(kind, w, word, r)
        m = 1.7159 * np.tanh(
            (2 / 3)
            * (
                w["from_word.weight"] @ word
                + w["from_word.bias"]
                + w["from_recurrent.weight"] @ r
                + w["from_image.weight"] @ image
            )
        )
        y = w["output.weight"] @ m + w["output.bias"]
        rows.append(y - np.log(np.exp(y).sum()))
    return np.array(rows)


sentences = st.lists(st.lists(st.integers(0, 10), min_size=1, max_size=6), min_size=1, max_size=4)


@pytest.mark.parametrize("kind", BUILDERS)
@settings(deadline=None, max_examples=30)
@given(batch=sentences, seed=st.integers(0, 999))
def test_packed_forward_is_the_equation(kind: str, batch: list[list[int]], seed: int) -> None:
    net = make(kind)
    batch = sorted(batch, key=len, reverse=True)
    features = np.random.default_rng(seed).normal(size=(len(batch), 7))
    with torch.no_grad():
        logits = net(pack(batch), torch.tensor(features, dtype=torch.float32))
    ours = torch.log_softmax(logits, dim=1).numpy()
    expected = [by_hand(kind, net, s, f) for s, f in zip(batch, features, strict=True)]
    packed = np.array(
        [
            expected[b][t]
            for t in range(len(batch[0]))
            for b in range(len(batch))
            if t < len(batch[b])
        ]
    )
    np.testing.assert_allclose(ours, packed, atol=2e-5)


@pytest.mark.parametrize("kind", BUILDERS)
def test_folded_step_is_the_equation(kind: str) -> None:
    net = make(kind)
    feature = np.random.default_rng(5).normal(size=(1, 7))
    sentence = [1, 4, 9, 4, 2]
    step = net.step()
    with torch.no_grad():
        images = net.encode(torch.tensor(feature, dtype=torch.float32))
        state = [torch.zeros(1, tensor.size) for tensor in net.state]
        rows = []
        for token in sentence:
            logits, *state = step(torch.tensor([token]), *images, *state)
            rows.append(torch.log_softmax(logits, dim=1)[0].numpy())
    np.testing.assert_allclose(rows, by_hand(kind, net, sentence, feature[0]), atol=2e-5)


def test_the_defaults_are_the_papers_sizes() -> None:
    config = NetConfig(vocabulary_size=100, feature_size=4096)
    sizes = (config.embedding, config.word, config.recurrent, config.multimodal)
    assert sizes == (128, 256, 256, 512)


def test_plain_recurrence_wants_equal_sizes() -> None:
    with pytest.raises(UsageError, match="word 6 equal to recurrent 7"):
        m_rnn(NetConfig(vocabulary_size=9, feature_size=3, word=6, recurrent=7))


def test_reference_is_g2_of_the_image_projection() -> None:
    net = make("m-rnn")
    feature = torch.randn(3, 7)
    with torch.no_grad():
        (term,) = net.encode(feature)
        expected = 1.7159 * torch.tanh(term)  # the 2/3 lies in the term already
        torch.testing.assert_close(net.reference(feature), expected)
