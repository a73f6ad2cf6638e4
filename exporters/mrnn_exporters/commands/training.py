"""``mrnn train`` and ``mrnn export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mrnn_exporters.commands import DATASETS, data_sets


def train(
    dataset: Annotated[
        list[str],
        typer.Option(
            metavar="NAME:DIR",
            help=f"{DATASETS}, and the folder of its own files; may be repeated. NAME/all trains on"
            " all of its photos and holds none out.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="RUN", help="The new run.")],
    root: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="The folder of a --dataset that is a NAME alone."),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The CNN; see mrnn plugins. Else efficientnet-lite2."),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(metavar="NAME|FILE", help="The CNN's weights. Else default.")
    ] = None,
    cell: Annotated[
        str | None, typer.Option(metavar="NAME", help="The net; see mrnn plugins. Else m-rnn.")
    ] = None,
    size: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=N", help="A size of the net, such as recurrent=512; repeated."),
    ] = None,
    view: Annotated[
        list[str] | None,
        typer.Option(
            metavar="VIEW",
            help="plain, mirror, crop1, crop2, ...; may be repeated. Else plain and mirror.",
        ),
    ] = None,
    resize: Annotated[
        str | None,
        typer.Option(
            metavar="squash|crop", help="How photos become square. Else as the CNN was trained."
        ),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(metavar="N", help="Passes over the data. Else 20.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(metavar="B", help="Captions a step. Else 256.")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(metavar="R", help="Adam's. Else 0.001.")
    ] = None,
    weight_decay: Annotated[
        float | None, typer.Option(metavar="D", help="AdamW's. Else 0.")
    ] = None,
    label_smoothing: Annotated[
        float | None, typer.Option(metavar="S", help="Share of the target that is spread. Else 0.")
    ] = None,
    average: Annotated[
        float | None,
        typer.Option(metavar="D", help="Decay of the weights' average; 0: none. Else 0.998."),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            metavar="RUN|BUNDLE|NAME",
            help="Start from the weights and the words of another run, of a bundle or of an"
            " installed model. CNN, net and sizes are its own.",
        ),
    ] = None,
    sentences: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Train the language half alone, on these sentences too, one a line; photos are"
            " not looked at.",
        ),
    ] = None,
    reward: Annotated[
        float | None,
        typer.Option(metavar="W", help="Reward own captions by CIDEr; 0: do not. Else 0."),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(metavar="N", help="Captions drawn for each, for the reward. Else 5."),
    ] = None,
    finetune: Annotated[
        int | None,
        typer.Option(
            metavar="STAGES",
            help="Train so many of the CNN's last stages too; best from a trained --start."
            " Else 0, or as many as --start did.",
        ),
    ] = None,
    finetune_rate: Annotated[
        float | None,
        typer.Option(metavar="S", help="Their learning rate, as a share of the net's. Else 0.1."),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(metavar="N", help="Epochs without gain before an early stop. Else 3."),
    ] = None,
    min_count: Annotated[
        int | None, typer.Option(metavar="N", help="Words seen less often are <unk>. Else 5.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Of all that is random. Else 1.")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where CNN features are kept.")
    ] = None,
    devices: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Processes of this machine, each on a GPU where there are some, and each with a"
            " --batch-size of its own. Else one a GPU, and one without.",
        ),
    ] = None,
    num_nodes: Annotated[
        int, typer.Option(metavar="N", min=1, help="Machines; start it on each with torchrun.")
    ] = 1,
    precision: Annotated[
        str | None,
        typer.Option(
            metavar="32-true|bf16-mixed|16-mixed", help="Of the arithmetic. Else 32-true."
        ),
    ] = None,
    accumulate: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Steps added up before the weights change. Else 1."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run.")] = False,
) -> None:
    """Train a captioner on images and captions."""
    from mrnn_exporters import train as trainer
    from mrnn_exporters.runs import TrainConfig
    from mrnn_exporters.starts import INHERITED, open_start
    from mrnn_runtime.build import cache_folder

    given: dict[str, Any] = {
        "epochs": epochs,
        "batch_size": batch_size,
        "precision": precision,
        "accumulate": accumulate,
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "label_smoothing": label_smoothing,
        "average": average,
        "patience": patience,
        "start": (str(Path(start).resolve()) if Path(start).is_dir() else start) if start else None,
        "sentences": str(sentences.resolve()) if sentences else None,
        "reward": reward,
        "samples": samples,
        "finetune": finetune,
        "finetune_rate": finetune_rate,
        "min_count": min_count,
        "seed": seed,
        "views": tuple(view) if view else None,
        "resize": resize,
        "backbone": backbone,
        "weights": weights,
        "cell": cell,
        "sizes": dict(map(_size, size)) if size else None,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    if start:
        old = open_start(changes["start"]).config
        sizes = old["sizes"] | changes.pop("sizes", {})
        changes = {name: old[name] for name in INHERITED} | {"sizes": sizes} | changes
    config = TrainConfig(datasets=data_sets(dataset, root or ()), **changes)
    trainer.run(
        config,
        output,
        cache=cache or cache_folder(),
        resume=resume,
        devices=devices or "auto",
        num_nodes=num_nodes,
    )


def average(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run of mrnn train.")],
    others: Annotated[
        list[str],
        typer.Argument(metavar="OTHER...", help="Runs, bundles or installed models of its net."),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="The new run's folder.")
    ],
) -> None:
    """Take the mean of the weights of a run and of others, such as what it started from.

    The new run is exported as any other. Nets that were trained apart from the first step on have
    no mean worth having.
    """
    from mrnn_exporters import averaging

    averaged = averaging.average(run, others, output)
    typer.echo(f"{averaged.folder}: the mean of {1 + len(others)} nets")


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run of mrnn train.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="BUNDLE", help="The new bundle's folder.")
    ],
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="What users call it; else the folder's name.")
    ] = None,
    licence: Annotated[str, typer.Option(metavar="TEXT", help="Of the weights.")] = "not stated",
    summary: Annotated[str, typer.Option(metavar="TEXT", help="One line for mrnn models.")] = "",
    card: Annotated[
        Path | None, typer.Option(metavar="FILE", help="MODEL_CARD.md; else one of bare facts.")
    ] = None,
    version: Annotated[str, typer.Option(metavar="V", help="Of the model.")] = "0.1.0",
    beam_size: Annotated[int, typer.Option(metavar="K", help="The bundle's default.")] = 5,
    length_penalty: Annotated[float, typer.Option(metavar="A", help="The bundle's default.")] = 0.0,
    max_length: Annotated[int, typer.Option(metavar="N", help="The bundle's default.")] = 20,
    resize: Annotated[
        str | None,
        typer.Option(
            metavar="squash|crop",
            help="How photos become square: try both on photos as they are taken. Else as in"
            " training.",
        ),
    ] = None,
    reference_feature: Annotated[
        str,
        typer.Option(
            metavar="refined|cnn", help="Where a consensus looks for neighbours: g2(V_I I), or I."
        ),
    ] = "refined",
) -> None:
    """Turn a run into a bundle, and prove that both are the same net."""
    from mrnn_exporters import export as exporter
    from mrnn_runtime import DecodeOptions, UsageError

    try:
        text = card.read_text(encoding="utf-8") if card else None
    except OSError as error:
        raise UsageError(f"{card}: cannot be read: {error.strerror}") from error
    decode = DecodeOptions(
        beam_size=beam_size, length_penalty=length_penalty, max_length=max_length
    )
    bundle, parity = exporter.run(
        run,
        output,
        name=name or output.resolve().name,
        version=version,
        licence=licence,
        summary=summary,
        card=text,
        decode=decode,
        reference=reference_feature,
        resize=resize,
    )
    typer.echo(
        f"{bundle.folder}: equals the run on {parity.photos} photos, log-probabilities within"
        f" {parity.log_prob:.1e}"
    )


def _size(text: str) -> tuple[str, int | float]:
    from mrnn_runtime import UsageError

    name, _, number = text.partition("=")
    try:
        return name, int(number) if number.isdecimal() else float(number)
    except ValueError:
        raise UsageError(
            f"--size {text}: expected NAME=NUMBER", hint="recurrent=512, say"
        ) from None
