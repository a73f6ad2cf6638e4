"""What mrnn-exporters adds to ``mrnn``: commands and the cells. Light: no torch here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mrnn_runtime import Component, hookimpl

if TYPE_CHECKING:
    import typer


_CELLS = (
    ("m-rnn", "m_rnn", "the paper's net: ReLU recurrence, image into the multimodal layer"),
    ("m-rnn-shared", "m_rnn_shared", "the paper's net, output tied to the word embedding"),
    ("rnn-base", "rnn_base", "the paper's net without the image"),
    ("simple-rnn", "simple_rnn", "Elman's net, language only"),
    ("m-rnn-no-emb-input", "no_emb_input", "ablation: no word input to the multimodal layer"),
    ("m-rnn-one-layer-emb", "one_layer_emb", "ablation: one embedding layer"),
    ("m-rnn-emb-one-input", "emb_one_input", "ablation: embedding I into the multimodal layer"),
    ("m-rnn-vis-in-rnn", "vis_in_rnn", "ablation: image into the recurrent layer only"),
    ("m-rnn-vis-in-rnn-both", "vis_in_rnn_both", "ablation: image into both layers"),
    ("m-rnn-vis-in-rnn-both-shared", "vis_in_rnn_both_shared", "ablation: the same, shared"),
    ("gru", "gru", "the paper's net with a gated recurrent unit"),
    ("lstm", "lstm", "the paper's net with an LSTM of 300 (MNLM's size)"),
    ("nic", "nic", "an LSTM of 512, the image as its first input"),
    ("lrcn", "lrcn", "four stacked LSTM of 1000, the image at every step"),
    ("rvr", "rvr", "two layers of 100, one of them a visual memory; the image at every step"),
    ("deepvs", "deepvs", "a plain RNN of 300, the image at the first step only"),
)


@hookimpl
def mrnn_cells() -> list[Component]:
    """Register the recurrent cells."""
    return [
        Component(name, f"mrnn_exporters.cells:{function}", summary)
        for name, function, summary in _CELLS
    ]


@hookimpl
def mrnn_commands(app: typer.Typer) -> None:
    """Register train, average, export, evaluate, calibrate, quantize, flatten and index."""
    import typer

    from mrnn_exporters.commands import (
        calibration,
        evaluation,
        flattening,
        quantization,
        references,
        training,
    )

    app.command()(training.train)
    app.command()(training.average)
    app.command()(training.export)
    app.command(epilog=evaluation.EXAMPLES)(evaluation.evaluate)
    app.command(epilog=calibration.EXAMPLES)(calibration.calibrate)
    app.command(epilog=quantization.EXAMPLES)(quantization.quantize)
    app.command(epilog=flattening.EXAMPLES)(flattening.flatten)
    index = typer.Typer(no_args_is_help=True, help="Build references from photos with captions.")
    index.command("build", epilog=references.EXAMPLES)(references.build)
    index.command("add", epilog=references.EXAMPLES)(references.add)
    app.add_typer(index, name="index")
