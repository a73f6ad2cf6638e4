"""Fine-tuning with a CIDEr-D reward, beside the likelihood of the reference captions.

For each photo several captions are drawn from the net; each is worth what it has in common with
the captions that people wrote (Vedantam et al., 2015), and those that are worth more than their
mean become more probable: the policy gradient of Rennie et al. (2017), with the mean of the other
samples for a baseline. <eos> counts as a word, so that a caption is not cut in mid-air.

Letters in shapes: b photos, r rows (photos times samples), s tokens of a packed batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mrnn_exporters.nets import pack
from mrnn_exporters.tokenizer import SPECIALS
from mrnn_runtime.build import build_references, cider_d

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mrnn_exporters.nets import Cell

_PAD, _BOS, _EOS, _UNK = (SPECIALS.index(f"<{sign}>") for sign in ("pad", "bos", "eos", "unk"))


class CiderReward:
    """What captions of the training photos are worth: their mean CIDEr-D with people's captions.

    Document frequencies are those of the training photos.
    """

    def __init__(self, captions: Sequence[Sequence[Sequence[int]]], vocabulary_size: int) -> None:
        """Take the captions of each photo as word ids, each without <bos> and <eos>.

        A photo that could not be read has none; the others keep their numbers.
        """
        ended = [[[*caption, _EOS] for caption in group] for group in captions if group]
        kept = (photo for photo, group in enumerate(captions) if group)
        self._places = {photo: place for place, photo in enumerate(kept)}
        self._references = build_references(
            [str(i) for i in range(len(ended))],
            np.zeros((len(ended), 1), np.float32),
            ended,
            vocabulary_size,
        )

    def __call__(self, photo: int, sampled: Sequence[Sequence[int]]) -> NDArray[np.float64]:
        """Return what each caption of a photo is worth, float64, 0..10."""
        captions = self._references.captions_of(np.array([self._places[photo]]))
        worth = cider_d(sampled, captions, self._references.frequencies)
        mean: NDArray[np.float64] = worth.mean(axis=1)
        return mean


def sample(net: Cell, features: Tensor, *, max_words: int) -> list[list[int]]:
    """Draw one caption for each row of features, float32 [r, d]; <eos> is its last token.

    A caption that reaches ``max_words`` words has no <eos>. None is empty.
    """
    with torch.no_grad():
        step = net.step()
        encoded = list(net.encode(features))
        images = [encoded.pop(0) for _ in net.image_inputs]
        state = [
            features.new_zeros(len(features), tensor.size)
            if tensor.init == "zeros"
            else encoded.pop(0)
            for tensor in net.state
        ]
        token = torch.full((len(features),), _BOS, device=features.device)
        drawn = []
        for place in range(max_words):
            logits, *state = step(token, *images, *state)
            logits[:, [_PAD, _BOS, _UNK, *([_EOS] if place == 0 else [])]] = -torch.inf
            chosen = torch.multinomial(torch.softmax(logits, dim=1), 1)[:, 0]
            token = torch.where(token == _EOS, _EOS, chosen)
            drawn.append(token)
            if bool((token == _EOS).all()):
                break
        rows = torch.stack(drawn, dim=1).tolist()
    return [row[: row.index(_EOS) + 1] if _EOS in row else row for row in rows]


def reward_cost(
    net: Cell,
    features: Tensor,
    photos: Sequence[int],
    reward: CiderReward,
    *,
    samples: int,
    max_words: int,
) -> Tensor:
    """Return the cost whose gradient makes captions worth more: a scalar.

    The mean over words of -advantage ln P(w_n | w_<n, I), advantage = worth minus the mean worth of
    the photo's other samples.

    Args:
        net: in eval mode, so that the samples come from the distribution that is changed.
        features: float32 [b, d].
        photos: the b photos, as ``reward`` counts them.
        reward: what captions are worth.
        samples: drawn for each photo, two or more.
        max_words: words of a sample, at most.
    """
    rows = features.repeat_interleave(samples, dim=0)
    drawn = sample(net, rows, max_words=max_words)
    worth = np.array(
        [reward(p, drawn[i * samples : (i + 1) * samples]) for i, p in enumerate(photos)]
    )
    mean_of_others = (worth.sum(axis=1, keepdims=True) - worth) / (samples - 1)
    advantage = (worth - mean_of_others).reshape(-1)
    order = sorted(range(len(drawn)), key=lambda i: -len(drawn[i]))
    targets = pack([drawn[i] for i in order])
    inputs = pack([[_BOS, *drawn[i][:-1]] for i in order]).to(features.device)  # type: ignore[arg-type]
    weights = torch.tensor(advantage[order], dtype=torch.float32)
    spread = torch.cat([weights[:size] for size in targets.batch_sizes.tolist()])
    logits = net(inputs, rows[order])
    cost = functional.cross_entropy(logits, targets.data.to(features.device), reduction="none")
    return (cost * spread.to(features.device)).mean()
