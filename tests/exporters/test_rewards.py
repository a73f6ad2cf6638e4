"""The reward for own captions: worth what CIDEr-D says, and a gradient that follows it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mrnn_exporters.cells import m_rnn, nic
from mrnn_exporters.nets import NetConfig
from mrnn_exporters.rewards import CiderReward, reward_cost, sample

BOS, EOS = 1, 2
# The photo without captions could not be read.
CAPTIONS = [[[4, 5, 6, 7], [4, 5, 8]], [], [[9, 10, 6, 7]], [[11, 4, 12]]]


def make(builder=m_rnn, seed: int = 1):
    torch.manual_seed(seed)
    sizes = {"embedding": 4, "word": 8, "recurrent": 8, "multimodal": 8}
    return builder(NetConfig(vocabulary_size=13, feature_size=5, **sizes)).eval()


def test_what_people_said_is_worth_most() -> None:
    reward = CiderReward(CAPTIONS, 13)
    said, other, cut = reward(2, [[9, 10, 6, 7, EOS], [11, 4, 12, EOS], [9, 10, 6, 7]])
    assert said > cut > other == 0
    assert said == pytest.approx(10)


@pytest.mark.parametrize("builder", [m_rnn, nic])
def test_samples_follow_the_net(builder) -> None:
    net = make(builder)
    torch.manual_seed(7)
    drawn = sample(net, torch.randn(1, 5).expand(4000, 5), max_words=3)
    assert all(1 <= len(row) <= 3 and EOS not in row[:-1] for row in drawn)
    assert not {0, 1, 3} & {token for row in drawn for token in row}
    torch.manual_seed(7)
    assert drawn == sample(net, torch.randn(1, 5).expand(4000, 5), max_words=3)
    torch.manual_seed(7)
    feature = torch.randn(1, 5)
    with torch.no_grad():
        encoded = list(net.encode(feature))
        images = [encoded.pop(0) for _ in net.image_inputs]
        state = [torch.zeros(1, t.size) if t.init == "zeros" else encoded.pop(0) for t in net.state]
        logits = net.step()(torch.tensor([BOS]), *images, *state)[0][0]
    logits[[0, 1, 2, 3]] = -torch.inf
    expected = torch.softmax(logits, 0).numpy() * 4000
    actual = np.bincount([row[0] for row in drawn], minlength=13)
    kept = expected > 0
    chi = ((actual - expected)[kept] ** 2 / expected[kept]).sum()
    assert chi < 33  # 8 degrees of freedom: p < .0001


def test_the_cost_teaches_what_is_worth_more() -> None:
    net, reward = make(), CiderReward(CAPTIONS, 13)
    photos, features = (0, 2, 3), torch.eye(3, 5) * 3
    optimiser = torch.optim.Adam(net.parameters(), lr=0.02)

    def worth() -> float:
        torch.manual_seed(0)
        drawn = [sample(net, features[[i]].expand(100, 5), max_words=6) for i in range(3)]
        return float(np.mean([reward(*one) for one in zip(photos, drawn, strict=True)]))

    before = worth()
    for _ in range(60):
        cost = reward_cost(net, features, photos, reward, samples=8, max_words=6)
        optimiser.zero_grad()
        cost.backward()
        optimiser.step()
    assert worth() > before + 1
