"""Every system against its equations, written out in numpy."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mrnn_exporters import cells
from mrnn_exporters.nets import Cell, NetConfig, pack, unit_rms
from mrnn_runtime.errors import UsageError

Weights = dict[str, np.ndarray]
V, D = 11, 7
SIZES = {"embedding": 4, "word": 6, "recurrent": 6, "multimodal": 5}
SYSTEMS = [
    "m_rnn",
    "rnn_base",
    "m_rnn_shared",
    "simple_rnn",
    "no_emb_input",
    "one_layer_emb",
    "emb_one_input",
    "vis_in_rnn",
    "vis_in_rnn_both",
    "vis_in_rnn_both_shared",
    "gru",
    "lstm",
    "nic",
    "lrcn",
    "deepvs",
    "rvr",
]
LANGUAGE_ONLY = {"simple_rnn", "rnn_base"}


def make(system: str) -> Cell:
    torch.manual_seed(3)
    return getattr(cells, system)(NetConfig(vocabulary_size=V, feature_size=D, **SIZES)).eval()


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def g2(x: np.ndarray) -> np.ndarray:
    return 1.7159 * np.tanh(2 / 3 * x)


def lstm_layer(w: Weights, i: int, x: np.ndarray, h: np.ndarray, c: np.ndarray) -> tuple:
    total = w[f"recurrence.inputs.{i}.weight"] @ x + w[f"recurrence.inputs.{i}.bias"]
    total = total + w[f"recurrence.hiddens.{i}.weight"] @ h
    write, keep, new, read = np.split(total, 4)
    c = sigmoid(keep) * c + sigmoid(write) * np.tanh(new)
    return sigmoid(read) * np.tanh(c), c


def hidden_states(
    system: str, w: Weights, words: list[np.ndarray], image: np.ndarray
) -> Iterator[np.ndarray]:
    """r(1), r(2), ... of a sentence whose word vectors are w(1), w(2), ..."""
    r = np.zeros(6)
    if system in {"lstm", "nic", "lrcn"}:
        layers = 4 if system == "lrcn" else 1
        state = [(np.zeros(6), np.zeros(6))] * layers
        if system == "nic":
            state = [lstm_layer(w, 0, w["drive.weight"] @ image, *state[0])]
        for word in words:
            x = word + w["drive.weight"] @ image if system == "lrcn" else word
            for i in range(layers):
                state[i] = lstm_layer(w, i, x, *state[i])
                x = state[i][0]
            yield x
    elif system == "gru":
        for word in words:
            x = w["recurrence.input.weight"] @ word + w["recurrence.input.bias"]
            h = w["recurrence.hidden.weight"] @ r + w["recurrence.hidden.bias"]
            (xa, xz, xc), (ha, hz, hc) = np.split(x, 3), np.split(h, 3)
            z = sigmoid(xz + hz)
            r = (1 - z) * np.tanh(xc + sigmoid(xa + ha) * hc) + z * r
            yield r
    elif system in {"simple_rnn", "deepvs"}:
        for t, word in enumerate(words):
            x = word + w["drive.weight"] @ image if system == "deepvs" and t == 0 else word
            total = w["recurrence.input.weight"] @ x + w["recurrence.input.bias"]
            total = total + w["recurrence.hidden.weight"] @ r
            r = sigmoid(total) if system == "simple_rnn" else np.maximum(total, 0)
            yield r
    elif system == "rvr":
        seen = np.append(w["drive.weight"] @ image, np.zeros(5))
        s, u = np.zeros(3), np.zeros(3)
        for word in words:
            x = word + seen + w["recurrence.bias"]
            s = sigmoid(x[:3] + w["recurrence.language.weight"] @ s)
            u = np.maximum(x[3:] + w["recurrence.visual.weight"] @ u, 0)
            yield np.append(s, u)
    else:
        for word in words:
            x = word + w["drive.weight"] @ image if "vis_in_rnn" in system else word
            r = np.maximum(w["recurrence.weight"] @ r + x, 0)
            yield r


def multimodal(
    system: str, w: Weights, r: np.ndarray, word: np.ndarray, first: np.ndarray, image: np.ndarray
) -> np.ndarray:
    if system in {"simple_rnn", "nic", "lrcn", "deepvs", "rvr"}:
        return r
    total = w["from_recurrent.weight"] @ r
    if system == "no_emb_input":
        total = total + w["from_recurrent.bias"]
    else:
        seen = first if system == "emb_one_input" else word
        total = total + w["from_word.weight"] @ seen + w["from_word.bias"]
    if system == "vis_in_rnn_both_shared":
        total = total + w["from_image.weight"] @ (w["drive.weight"] @ image)
    elif system not in {"rnn_base", "vis_in_rnn"}:
        total = total + w["from_image.weight"] @ image
    return g2(total)


def by_hand(system: str, net: Cell, sentence: list[int], feature: np.ndarray) -> np.ndarray:
    """log P of each next word after each word of the sentence, float64 [l, V]."""
    w = {k: v.double().numpy() for k, v in net.state_dict().items()}
    image = feature / np.sqrt(np.mean(feature**2) + 1e-8)
    first = [w["embedding.weight"][token] for token in sentence]
    words = [w["word.weight"] @ e + w["word.bias"] for e in first] if "word.weight" in w else first
    rows = []
    for r, word, embedded in zip(hidden_states(system, w, words, image), words, first, strict=True):
        m = multimodal(system, w, r, word, embedded, image)
        if system == "m_rnn_shared":
            y = w["embedding.weight"] @ (w["output.weight"] @ m) + w["bias"]
        else:
            y = w["output.weight"] @ m + w["output.bias"]
        rows.append(y - np.log(np.exp(y).sum()))
    return np.array(rows)


sentences = st.lists(
    st.lists(st.integers(0, V - 1), min_size=1, max_size=6), min_size=1, max_size=4
)


@pytest.mark.parametrize("system", SYSTEMS)
@settings(deadline=None, max_examples=15)
@given(batch=sentences, seed=st.integers(0, 999))
def test_packed_forward_is_the_equation(system: str, batch: list[list[int]], seed: int) -> None:
    net = make(system)
    batch = sorted(batch, key=len, reverse=True)
    features = np.random.default_rng(seed).normal(size=(len(batch), D))
    with torch.no_grad():
        logits = net(pack(batch), torch.tensor(features, dtype=torch.float32))
    ours = torch.log_softmax(logits, dim=1).numpy()
    expected = [by_hand(system, net, s, f) for s, f in zip(batch, features, strict=True)]
    longest = range(len(batch[0]))
    packed = [expected[b][t] for t in longest for b in range(len(batch)) if t < len(batch[b])]
    np.testing.assert_allclose(ours, packed, atol=3e-5)


@pytest.mark.parametrize("system", SYSTEMS)
def test_folded_step_is_the_equation(system: str) -> None:
    net = make(system)
    feature = np.random.default_rng(5).normal(size=(1, D))
    sentence = [1, 4, 9, 4, 2]
    with torch.no_grad():
        encoded = list(net.encode(torch.tensor(feature, dtype=torch.float32)))
        images = [encoded.pop(0) for _ in net.image_inputs]
        state = [torch.zeros(1, t.size) if t.init == "zeros" else encoded.pop(0) for t in net.state]
        step, rows = net.step(), []
        for token in sentence:
            logits, *state = step(torch.tensor([token]), *images, *state)
            rows.append(torch.log_softmax(logits, dim=1)[0].numpy())
    assert not encoded
    np.testing.assert_allclose(rows, by_hand(system, net, sentence, feature[0]), atol=3e-5)


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_image_matters_where_it_should(system: str) -> None:
    net = make(system)
    with torch.no_grad():
        one, other = (net(pack([[1, 4]]), torch.randn(1, D)) for _ in range(2))
    assert torch.equal(one, other) == (system in LANGUAGE_ONLY)


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_word_matters_before_training(system: str) -> None:
    """What does not come through at first, as through four LSTMs, is hardly learnt."""
    torch.manual_seed(3)
    sizes = {"embedding": 32, "word": 64, "recurrent": 64, "multimodal": 64}
    net = getattr(cells, system)(NetConfig(vocabulary_size=30, feature_size=50, **sizes)).eval()
    with torch.no_grad():
        logits = net(pack([[word] for word in range(30)]), torch.randn(1, 50).expand(30, 50))
    assert logits.std(dim=0).mean() > 2e-3


@pytest.mark.parametrize("system", ["nic", "lrcn", "deepvs", "rvr"])
def test_word_and_image_enter_at_one_scale_before_training(system: str) -> None:
    """Where both go into the recurrence and one drowns the other, that one is hardly learnt."""
    torch.manual_seed(3)
    net = getattr(cells, system)(NetConfig(vocabulary_size=30, feature_size=50)).eval()
    with torch.no_grad():
        word = net.word(net.embedding.weight).std()
        drive = net.drive(unit_rms(torch.randn(30, 50)))
        image = drive[drive != 0].std()  # the visual layers of rvr see no image
    assert 0.5 < word / image < 2


def own(builder: Callable[[NetConfig], Cell]) -> tuple[int, int, int, int]:
    config = builder(NetConfig(vocabulary_size=100, feature_size=64)).config
    return config.embedding, config.word, config.recurrent, config.multimodal


def test_the_sizes_are_the_papers() -> None:
    assert own(cells.m_rnn) == (128, 256, 256, 512)
    assert own(cells.m_rnn_shared)[3] == 1024
    assert own(cells.nic)[2] == 512
    assert own(cells.lstm)[2] == 300
    assert own(cells.rvr)[2] == 2 * 100
    assert [t.size for t in cells.lrcn(NetConfig(vocabulary_size=9, feature_size=3)).state] == (
        [1000] * 8
    )


def test_plain_recurrence_wants_equal_sizes() -> None:
    with pytest.raises(UsageError, match="word 6 equal to recurrent 7"):
        cells.m_rnn(NetConfig(vocabulary_size=9, feature_size=3, word=6, recurrent=7))


def test_a_visual_memory_wants_one_even_size() -> None:
    for word, recurrent in ((6, 8), (7, 7)):
        with pytest.raises(UsageError, match=f"word {word} and recurrent {recurrent}"):
            cells.rvr(NetConfig(vocabulary_size=9, feature_size=3, word=word, recurrent=recurrent))


def test_reference_is_g2_of_the_image_projection() -> None:
    net = make("m_rnn")
    feature = torch.randn(3, D)
    with torch.no_grad():
        (term,) = net.encode(feature)
        expected = 1.7159 * torch.tanh(term)  # the 2/3 lies in the term already
        torch.testing.assert_close(net.reference(feature), expected)
