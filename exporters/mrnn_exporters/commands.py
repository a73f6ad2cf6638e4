"""The commands of mrnn-exporters. Each imports what it needs inside its function."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from mrnn_exporters.evaluate import Report, Row
    from mrnn_exporters.retrieval import RetrievalReport

# The \b keeps the lines apart.
EVALUATE_EXAMPLES = """\b
mrnn evaluate flickr8k --dataset flickr8k --root DIR
mrnn evaluate BUNDLE --dataset folder --root DIR --decoder greedy --json greedy.json
mrnn evaluate BUNDLE --dataset flickr8k --root DIR --beam-size 10 --reranker none \\
  --reranker consensus-cider --oracle
mrnn evaluate BUNDLE --dataset flickr8k --root DIR --task retrieval
mrnn evaluate BUNDLE --dataset flickr8k --root DIR --split dev --tokeniser plain \\
  --reranker consensus-cider \\
  --neighbours 30 --neighbours 60 --votes 75 --votes 125
"""
INDEX_EXAMPLES = """\b
mrnn index build --model BUNDLE --dataset flickr8k --root DIR --output REFERENCES
mrnn index add REFERENCES BUNDLE --reranker consensus-cider --neighbours 60 --votes 125 --default
"""
QUANTIZE_EXAMPLES = """\b
mrnn quantize flickr8k -o flickr8k-int8 --dataset flickr8k --root DIR
mrnn quantize BUNDLE -o DIR --calibration photos/
"""
_DATASETS = "flickr8k, flickr30k, iapr-tc12, coco, karpathy or folder"


def train(
    dataset: Annotated[
        list[str],
        typer.Option(metavar="NAME", help=f"{_DATASETS}; may be repeated, each with its --root."),
    ],
    root: Annotated[
        list[Path], typer.Option(metavar="DIR", help="The folder of the data set's own files.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="RUN", help="The new run.")],
    backbone: Annotated[
        str, typer.Option(metavar="NAME", help="The CNN; see mrnn plugins.")
    ] = "efficientnet-lite2",
    weights: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="The CNN's weights.")
    ] = "default",
    cell: Annotated[str, typer.Option(metavar="NAME", help="The net; see mrnn plugins.")] = "m-rnn",
    size: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=N", help="A size of the net, such as recurrent=512; repeated."),
    ] = None,
    view: Annotated[
        list[str] | None,
        typer.Option(metavar="VIEW", help="plain, mirror, crop1, crop2, ...; may be repeated."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(metavar="N", help="Passes over the data.")] = None,
    batch_size: Annotated[int | None, typer.Option(metavar="B", help="Captions a step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(metavar="R", help="Adam's.")] = None,
    weight_decay: Annotated[float | None, typer.Option(metavar="D", help="AdamW's.")] = None,
    label_smoothing: Annotated[
        float | None, typer.Option(metavar="S", help="Share of the target that is spread.")
    ] = None,
    average: Annotated[
        float | None, typer.Option(metavar="D", help="Decay of the weights' average; 0: none.")
    ] = None,
    start: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Start from the weights of another run.")
    ] = None,
    reward: Annotated[
        float | None, typer.Option(metavar="W", help="Reward own captions by CIDEr; 0: do not.")
    ] = None,
    patience: Annotated[
        int | None, typer.Option(metavar="N", help="Epochs without gain before an early stop.")
    ] = None,
    min_count: Annotated[
        int | None, typer.Option(metavar="N", help="Words seen less often are <unk>.")
    ] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Of all that is random.")] = None,
    cache: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where CNN features are kept.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run.")] = False,
) -> None:
    """Train a captioner on images and captions."""
    from mrnn_exporters import train as trainer
    from mrnn_exporters.features import default_cache
    from mrnn_exporters.runs import TrainConfig
    from mrnn_runtime.errors import UsageError

    if len(dataset) != len(root):
        raise UsageError(
            f"{len(dataset)} data sets and {len(root)} roots", hint="give each --dataset a --root"
        )
    given: dict[str, Any] = {
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "label_smoothing": label_smoothing,
        "average": average,
        "patience": patience,
        "start": str(start.resolve()) if start else None,
        "reward": reward,
        "min_count": min_count,
        "seed": seed,
        "views": tuple(view) if view else None,
        "sizes": dict(map(_size, size)) if size else None,
    }
    config = TrainConfig(
        datasets=tuple((n, str(r.resolve())) for n, r in zip(dataset, root, strict=True)),
        backbone=backbone,
        weights=weights,
        cell=cell,
        **{name: value for name, value in given.items() if value is not None},
    )
    trainer.run(config, output, cache=cache or default_cache(), resume=resume)


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
    reference_feature: Annotated[
        str,
        typer.Option(
            metavar="refined|cnn", help="Where a consensus looks for neighbours: g2(V_I I), or I."
        ),
    ] = "refined",
) -> None:
    """Turn a training run into a bundle, and prove that both are the same net."""
    from mrnn_exporters import export as exporter
    from mrnn_runtime.errors import UsageError
    from mrnn_runtime.types import DecodeOptions

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
    )
    typer.echo(
        f"{bundle.folder}: equals the run on {parity.photos} photos, log-probabilities within"
        f" {parity.log_prob:.1e}"
    )


def evaluate(
    bundle: Annotated[
        str, typer.Argument(metavar="BUNDLE", help="A bundle's folder, or an installed model.")
    ],
    dataset: Annotated[str, typer.Option(metavar="NAME", help=f"{_DATASETS}.")],
    root: Annotated[
        Path, typer.Option(metavar="DIR", help="The folder of the data set's own files.")
    ],
    split: Annotated[str, typer.Option(metavar="train|dev|test", help="Which part.")] = "test",
    task: Annotated[
        str,
        typer.Option(
            metavar="generation|retrieval",
            help="Captions, or the ranks of photos and sentences.",
        ),
    ] = "generation",
    decoder: Annotated[str | None, typer.Option(metavar="NAME", help="How to search.")] = None,
    beam_size: Annotated[
        int | None, typer.Option(metavar="K", help="Hypotheses kept per image.")
    ] = None,
    reranker: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Who chooses among the candidates; or none. May be repeated: a row each.",
        ),
    ] = None,
    k: Annotated[
        list[int] | None,
        typer.Option(
            "--neighbours",
            metavar="K",
            help="Reference images that vote. May be repeated: a row each.",
        ),
    ] = None,
    m: Annotated[
        list[int] | None,
        typer.Option(
            "--votes", metavar="M", help="Similarities that count. May be repeated: a row each."
        ),
    ] = None,
    references: Annotated[
        Path | None, typer.Option(metavar="DIR", help="References other than the bundle's.")
    ] = None,
    leave_one_out: Annotated[
        bool, typer.Option("--leave-one-out", help="A reference that is the photo has no vote.")
    ] = False,
    oracle: Annotated[
        bool, typer.Option("--oracle", help="Add what a perfect reranker would reach.")
    ] = False,
    length_penalty: Annotated[
        float | None,
        typer.Option(metavar="A", help="Rank by log_prob / length ** A; 0 is the plain sum."),
    ] = None,
    coco_results: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Write captions_SPLIT_NAME_results.json for COCO's server."
        ),
    ] = None,
    background: Annotated[
        int | None,
        typer.Option(metavar="N", help="Retrieval: training photos that make P(sentence)."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Retrieval: of the choice of these photos.")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Retrieval: where unfinished work is kept.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(metavar="N", help="Take the first N photos only.")
    ] = None,
    tokeniser: Annotated[
        str | None,
        typer.Option(metavar="ptb|plain", help="Without it ptb, or plain where Java is missing."),
    ] = None,
    provider: Annotated[
        str, typer.Option(metavar="auto|cpu|cuda", help="Where to run. Only auto may fall back.")
    ] = "auto",
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the figures as JSON too.")
    ] = None,
) -> None:
    """Measure a bundle on a data set.

    Generation: perplexity, BLEU, METEOR, ROUGE-L and CIDEr; options of the search that are not
    given are the bundle's. Retrieval: R@1, R@5, R@10 and the median rank, of sentences for a photo
    and of photos for a sentence.
    """
    from mrnn_runtime.errors import UsageError

    if json_file is not None and not json_file.parent.is_dir():
        raise UsageError(f"{json_file.parent}: no such folder", hint="choose another --json")
    name = Path(bundle).resolve().name
    shared = {"--split": split, "--task": task if task == "retrieval" else None, "--limit": limit}
    generation = {
        "--decoder": decoder,
        "--beam-size": beam_size,
        "--reranker": reranker,
        "--neighbours": k,
        "--votes": m,
        "--references": references and "DIR",
        "--leave-one-out": leave_one_out or None,
        "--oracle": oracle or None,
        "--length-penalty": length_penalty,
        "--tokeniser": tokeniser,
    }
    retrieval = {"--background": background, "--seed": seed}
    tasks: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "generation": (generation, {**retrieval, "--cache": cache}),
        "retrieval": (retrieval, {**generation, "--coco-results": coco_results}),
    }
    if task not in tasks:
        raise UsageError(f"unknown task {task!r}", hint=f"use {' or '.join(tasks)}")
    own, others = tasks[task]
    if strange := [option for option, value in others.items() if value is not None]:
        raise UsageError(f"--task {task} does not know {', '.join(strange)}", hint="leave them out")
    typed = "".join(_typed(option, value) for option, value in {**shared, **own}.items())
    command = f"mrnn evaluate {name} --dataset {dataset} --root DIR{typed}"
    report: Report | RetrievalReport
    if task == "retrieval":
        from mrnn_exporters.features import default_cache
        from mrnn_exporters.retrieval import BACKGROUND
        from mrnn_exporters.retrieval import run as retrieve

        report = retrieve(
            bundle,
            dataset=dataset,
            root=root,
            cache=cache or default_cache(),
            split=split,
            background=BACKGROUND if background is None else background,
            seed=seed or 0,
            limit=limit,
            provider=provider,
            command=command,
        )
        _show_ranks(report)
    else:
        from mrnn_exporters import metrics
        from mrnn_exporters.evaluate import Search, run

        if tokeniser is None and metrics.java() is None:
            note = "no Java here: plain tokeniser instead of PTB's, and no METEOR"
            typer.echo(f"mrnn: {note}", err=True)
        report = run(
            bundle,
            dataset=dataset,
            root=root,
            split=split,
            search=Search(
                decoder=decoder,
                beam_size=beam_size,
                rerankers=tuple(reranker or ()),
                length_penalty=length_penalty,
                k=tuple(k or ()),
                m=tuple(m or ()),
                references=references,
                leave_one_out=leave_one_out,
                oracle=oracle,
            ),
            limit=limit,
            tokeniser=tokeniser,
            provider=provider,
            coco_results=coco_results,
            command=command,
        )
        _show(report)
    if json_file is not None:
        json_file.write_text(json.dumps(asdict(report), indent=1) + "\n", encoding="utf-8")


def quantize(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="An installed model, or a bundle's folder.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="The new bundle's folder.")
    ],
    calibration: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Photos of the kind that it will see.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(metavar="NAME", help=f"Or those of a data set: {_DATASETS}.")
    ] = None,
    root: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The folder of the data set's own files.")
    ] = None,
    split: Annotated[str, typer.Option(metavar="train|dev|test", help="Which part.")] = "dev",
    limit: Annotated[int, typer.Option(metavar="N", help="Take so many of the photos.")] = 200,
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="What users call it; else the old with -int8."),
    ] = None,
    agreement: Annotated[
        float,
        typer.Option(metavar="S", help="Share of likeliest words that must stay, at least."),
    ] = 0.9,
) -> None:
    """Make an int8 bundle: smaller, faster on a CPU, and held against the model it is made of.

    The encoder's convolutions and the product with the vocabulary become int8. Both models caption
    the photos; where they agree too little, nothing is written.
    """
    from mrnn_exporters import datasets, quantize
    from mrnn_exporters.datasets import Example
    from mrnn_runtime.errors import UsageError
    from mrnn_runtime.images import find_images

    if (calibration is None) == (dataset is None) or (dataset is None) != (root is None):
        raise UsageError(
            "photos are needed, of one source",
            hint="give --calibration DIR, or --dataset NAME and --root DIR",
        )
    if limit < 1:
        raise UsageError(f"limit must be at least 1, not {limit}")
    if dataset is not None and root is not None:
        examples = datasets.read(dataset, root, split)
    else:
        examples = [Example(path, ()) for path in find_images([calibration or Path()])]
    examples = examples[:: max(1, len(examples) // limit)][:limit]
    bundle, found, kept = quantize.run(model, output, examples, name=name, agreement=agreement)
    figures = [
        *(("still fp32", part) for part in kept),
        ("size", f"{found.size:.0%} of the graphs' bytes"),
        ("speed", f"{found.speed:.2f} times, encoding and decoding on one thread"),
        ("agreement", f"{found.agreement:.1%} of the likeliest words, {found.photos} photos"),
        ("captions", f"{found.same:.1%} word by word the same"),
    ]
    if found.cider:
        before, after = found.cider
        figures.append(("CIDEr", f"{after:.3f}, before {before:.3f}"))
    typer.echo(f"{bundle.folder}: {bundle.name}")
    for label, value in figures:
        typer.echo(f"{label:12}{value}")


def index_build(
    model: Annotated[
        str, typer.Option(metavar="NAME|DIR", help="An installed model, or a bundle's folder.")
    ],
    dataset: Annotated[str, typer.Option(metavar="NAME", help=f"{_DATASETS}.")],
    root: Annotated[
        Path, typer.Option(metavar="DIR", help="The folder of the data set's own files.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="REFERENCES", help="The new folder.")
    ],
    split: Annotated[str, typer.Option(metavar="train|dev|test", help="Which part.")] = "train",
    dtype: Annotated[
        str, typer.Option(metavar="int8|float16", help="How features are kept.")
    ] = "int8",
    keep_captions: Annotated[
        bool, typer.Option("--keep-captions", help="Keep the captions as text too.")
    ] = False,
    provider: Annotated[
        str, typer.Option(metavar="auto|cpu|cuda", help="Where to run. Only auto may fall back.")
    ] = "auto",
) -> None:
    """Build the references that consensus reranking needs, of photos with captions.

    They are features of the photos, the captions as n-grams, and how many photos each n-gram
    belongs to. Never build them of photos that you will measure on.
    """
    from mrnn_exporters import index

    built = index.build(
        model,
        output,
        dataset=dataset,
        root=root,
        split=split,
        dtype=dtype,
        keep_captions=keep_captions,
        provider=provider,
    )
    size = sum(path.stat().st_size for path in output.iterdir()) / 1e6
    typer.echo(f"{output}: {len(built)} photos, {len(built.lengths)} captions, {size:.1f} MB")


def index_add(
    references: Annotated[
        Path, typer.Argument(metavar="REFERENCES", help="A folder that mrnn index build made.")
    ],
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The bundle that gets them.")],
    reranker: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The reranker that --neighbours and --votes are for."),
    ] = None,
    k: Annotated[
        int | None,
        typer.Option("--neighbours", metavar="K", help="Its default number of reference images."),
    ] = None,
    m: Annotated[
        int | None,
        typer.Option("--votes", metavar="M", help="Its default number of similarities."),
    ] = None,
    default: Annotated[
        bool, typer.Option("--default", help="Rerank by it unless told otherwise.")
    ] = False,
) -> None:
    """Put references into a bundle, in place of those that it has."""
    from mrnn_exporters import index

    index.add(references, bundle, reranker=reranker, k=k, m=m, default=default)


def _typed(option: str, value: object) -> str:
    """Return an option as it was typed, with a blank before it."""
    if value is None:
        return ""
    if value is True:
        return f" {option}"
    return "".join(f" {option} {one}" for one in (value if isinstance(value, list) else [value]))


def _show(report: Report) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    search, perplexity = report.search, report.perplexity
    decoding = f"{search['decoder']}, beam size {search['beam_size']}"
    if search["decoder"] == "greedy":
        decoding = "greedy"
    threshold = "" if perplexity.min_count is None else f", words seen {perplexity.min_count} times"
    console = Console(highlight=False)
    for line in (
        f"{report.model['name']} {report.model['version']} on {report.dataset} {report.split},"
        f" {report.images} photos",
        f"decoding    {decoding}, length penalty {search['length_penalty']:g}",
        f"provider    {report.provider}",
        f"tokeniser   {report.tokeniser}",
        f"perplexity  {perplexity.value:.2f}, vocabulary {perplexity.vocabulary_size}{threshold}",
    ):
        console.print(line)
    table = Table(box=box.SIMPLE)
    table.add_column("chosen by", no_wrap=True)
    for name in report.measures:
        table.add_column(name.replace("BLEU-", "B-"), justify="right")
    for row in report.rows:
        table.add_row(_title(row), *(f"{value:.3f}" for value in row.measures.values()))
    console.print(table)


def _show_ranks(report: RetrievalReport) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    console.print(
        f"{report.model['name']} {report.model['version']} on {report.dataset} {report.split},"
        f" {report.images} photos, {report.sentences} sentences"
    )
    console.print(f"P(sentence) over {report.background} training photos, seed {report.seed}")
    console.print(f"provider    {report.provider}")
    table = Table(box=box.SIMPLE)
    table.add_column("task", no_wrap=True)
    for name in report.sentence_retrieval:
        table.add_column(name, justify="right")
    for task, found in (
        ("photo to sentence", report.sentence_retrieval),
        ("sentence to photo", report.image_retrieval),
    ):
        table.add_row(task, *(f"{value:.1f}" for value in found.values()))
    console.print(table)


def _title(row: Row) -> str:
    sizes = [f"{name} {value}" for name, value in (("k", row.k), ("m", row.m)) if value]
    return " ".join([row.reranker, *sizes])


def _size(text: str) -> tuple[str, int | float]:
    from mrnn_runtime.errors import UsageError

    name, _, number = text.partition("=")
    try:
        return name, int(number) if number.isdecimal() else float(number)
    except ValueError:
        raise UsageError(
            f"--size {text}: expected NAME=NUMBER", hint="recurrent=512, say"
        ) from None
