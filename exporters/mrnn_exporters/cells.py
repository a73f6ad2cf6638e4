"""The systems of the paper, one function each: what ``mrnn train --cell`` names.

Unless a function says otherwise: w(t) = W E[token] + b; r(t) = ReLU(U_r r(t-1) + w(t));
m(t) = g2(V_w w(t) + V_r r(t) + V_I I); y(t) = softmax(V m(t) + b).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional

from mrnn_exporters.nets import CaptionNet
from mrnn_exporters.recurrences import (
    ElmanRecurrence,
    GatedRecurrence,
    LongShortTerm,
    PlainRecurrence,
    VisualMemory,
)

if TYPE_CHECKING:
    from mrnn_exporters.nets import NetConfig


def _unit_embedding(net: CaptionNet) -> CaptionNet:
    """Initialise E with unit variance, that of P I: the recurrence alone takes in the word."""
    nn.init.normal_(net.embedding.weight)
    return net


def _plain(config: NetConfig) -> tuple[NetConfig, PlainRecurrence]:
    sized = config.sized()
    return sized, PlainRecurrence(sized.word, sized.recurrent)


def m_rnn(config: NetConfig) -> CaptionNet:
    """Build the paper's m-RNN."""
    return CaptionNet(*_plain(config), image=("multimodal",))


def rnn_base(config: NetConfig) -> CaptionNet:
    """Build the m-RNN without the image: m(t) = g2(V_w w(t) + V_r r(t))."""
    return CaptionNet(*_plain(config))


def m_rnn_shared(config: NetConfig) -> CaptionNet:
    """Build the m-RNN whose output is tied to the embedding: y(t) = softmax(E A m(t) + b)."""
    sized = config.sized(multimodal=1024)
    recurrence = PlainRecurrence(sized.word, sized.recurrent)
    return CaptionNet(sized, recurrence, image=("multimodal",), tied=True)


def simple_rnn(config: NetConfig) -> CaptionNet:
    """Build Elman's net, language only: r = sigmoid(U [w; r(t-1)] + b), y = softmax(V r + b)."""
    sized = config.sized()
    recurrence = ElmanRecurrence(sized.word, sized.recurrent)
    return _unit_embedding(CaptionNet(sized, recurrence, multimodal=False, layers=1))


def no_emb_input(config: NetConfig) -> CaptionNet:
    """Build the ablation NoEmbInput: m(t) = g2(V_r r(t) + V_I I)."""
    return CaptionNet(*_plain(config), image=("multimodal",), word_input=0)


def one_layer_emb(config: NetConfig) -> CaptionNet:
    """Build the ablation OneLayerEmb: w(t) = E[token]."""
    return CaptionNet(*_plain(config), image=("multimodal",), layers=1)


def emb_one_input(config: NetConfig) -> CaptionNet:
    """Build the ablation EmbOneInput: embedding I enters the multimodal layer in place of II."""
    return CaptionNet(*_plain(config), image=("multimodal",), word_input=1)


def vis_in_rnn(config: NetConfig) -> CaptionNet:
    """Build the ablation visInRnn: r = ReLU(U_r r(t-1) + w + P I), m = g2(V_w w + V_r r)."""
    return CaptionNet(*_plain(config), image=("every",))


def vis_in_rnn_both(config: NetConfig) -> CaptionNet:
    """Build the ablation visInRnn-both: P I in the recurrence, V_I I in the multimodal layer."""
    return CaptionNet(*_plain(config), image=("every", "multimodal"))


def vis_in_rnn_both_shared(config: NetConfig) -> CaptionNet:
    """Build the ablation visInRnn-both-shared: P I in the recurrence, V_P P I in the multimodal.

    The paper says that the projection is shared and not how the widths are made to fit; here a
    matrix V_P does that.
    """
    return CaptionNet(*_plain(config), image=("every", "multimodal"), shared=True)


def gru(config: NetConfig) -> CaptionNet:
    """Build the m-RNN with a gated recurrent unit, as the authors' later code has."""
    sized = config.sized()
    recurrence = GatedRecurrence(sized.word, sized.recurrent)
    return CaptionNet(sized, recurrence, image=("multimodal",))


def lstm(config: NetConfig) -> CaptionNet:
    """Build the m-RNN with an LSTM of 300, the recurrent layer of MNLM."""
    sized = config.sized(recurrent=300)
    recurrence = LongShortTerm(sized.word, sized.recurrent)
    return CaptionNet(sized, recurrence, image=("multimodal",))


def nic(config: NetConfig) -> CaptionNet:
    """Build NIC's net: an LSTM of 512 whose first input, before <bos>, is P I."""
    sized = config.sized(word=512, recurrent=512)
    recurrence = LongShortTerm(sized.word, sized.recurrent)
    return _unit_embedding(
        CaptionNet(sized, recurrence, image=("before",), multimodal=False, layers=1)
    )


def lrcn(config: NetConfig) -> CaptionNet:
    """Build LRCN's net: four stacked LSTM of 1000; the lowest one takes w(t) + P I at each step."""
    sized = config.sized(word=1000, recurrent=1000)
    recurrence = LongShortTerm(sized.word, sized.recurrent, layers=4)
    return _unit_embedding(
        CaptionNet(sized, recurrence, image=("every",), multimodal=False, layers=1)
    )


def deepvs(config: NetConfig) -> CaptionNet:
    """Build DeepVS's net: h(t) = ReLU(W_x (w(t) + [t = 1] P I) + W_h h(t-1) + b)."""
    sized = config.sized(word=300, recurrent=300)
    recurrence = ElmanRecurrence(sized.word, sized.recurrent, relu=True)
    return _unit_embedding(
        CaptionNet(sized, recurrence, image=("start",), multimodal=False, layers=1)
    )


class _PartialDrive(nn.Linear):
    """P I into the first units of an input, zero into the others."""

    def __init__(self, feature: int, units: int, width: int) -> None:
        super().__init__(feature, units, bias=False)
        self.spare = width - units

    def forward(self, image: Tensor) -> Tensor:
        """Map float32 [b, feature] to [b, width]."""
        return functional.pad(super().forward(image), (0, self.spare))


def rvr(config: NetConfig) -> CaptionNet:
    """Build the recurrent visual representation of Chen and Zitnick (2015), 100 units a layer.

    s(t) = sigmoid(E_s[token] + [P I; 0] + W_s s(t-1) + b_s): Mikolov's net, whose first half sees
    the image at each step; u(t) = ReLU(E_u[token] + W_u u(t-1) + b_u): the visual memory of what
    has been said; y(t) = softmax(V [s(t); u(t)] + b). Kept are both layers and their ways to the
    next word. Left out are the reconstruction of the image feature from u, which their sentence
    retrieval and image retrieval use, so that here u learns from the next word alone; the classes
    of words; and the n-gram features beside the softmax.
    """
    sized = config.sized(word=200, recurrent=200)
    recurrence = VisualMemory(sized.word, sized.recurrent)
    net = CaptionNet(sized, recurrence, image=("every",), multimodal=False, layers=1)
    net.drive = _PartialDrive(sized.feature_size, sized.recurrent // 4, sized.word)
    return _unit_embedding(net)
