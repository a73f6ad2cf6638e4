"""``mrnn evaluate``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mrnn_exporters.commands import DATASETS, data_sets

if TYPE_CHECKING:
    from mrnn_exporters.evaluate import Report, Row
    from mrnn_exporters.retrieval import RetrievalReport

# The \b keeps the lines apart.
EXAMPLES = """\b
mrnn evaluate flickr8k --dataset flickr8k:DIR
mrnn evaluate BUNDLE --dataset folder --root DIR --decoder greedy --json greedy.json
mrnn evaluate BUNDLE --dataset flickr8k --root DIR --beam-size 10 --reranker none \\
  --reranker consensus-cider --oracle
mrnn evaluate BUNDLE --dataset flickr8k --root DIR --task retrieval
mrnn evaluate BUNDLE --dataset flickr8k --root DIR --split dev --tokeniser plain \\
  --reranker consensus-cider \\
  --neighbours 30 --neighbours 60 --votes 75 --votes 125
"""


def evaluate(
    bundle: Annotated[
        str, typer.Argument(metavar="BUNDLE", help="A bundle's folder, or an installed model.")
    ],
    dataset: Annotated[
        str,
        typer.Option(metavar="NAME:DIR", help=f"{DATASETS}, and the folder of its own files."),
    ],
    root: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The folder of a --dataset that is a NAME alone."),
    ] = None,
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
        str,
        typer.Option(
            metavar="auto|cpu|cuda|tensorrt", help="Where to run. Only auto may fall back."
        ),
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
    from mrnn_runtime import UsageError

    if json_file is not None and not json_file.parent.is_dir():
        raise UsageError(f"{json_file.parent}: no such folder", hint="choose another --json")
    ((dataset, folder),) = data_sets([dataset], [root] if root else [])
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
        from mrnn_exporters.retrieval import BACKGROUND
        from mrnn_exporters.retrieval import run as retrieve
        from mrnn_runtime.build import cache_folder

        report = retrieve(
            bundle,
            dataset=dataset,
            root=Path(folder),
            cache=cache or cache_folder(),
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
        from mrnn_exporters.evaluate import SearchOptions, run

        if tokeniser is None and metrics.java() is None:
            note = "no Java here: plain tokeniser instead of PTB's, and no METEOR"
            typer.echo(f"mrnn: {note}", err=True)
        report = run(
            bundle,
            dataset=dataset,
            root=Path(folder),
            split=split,
            search=SearchOptions(
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
    for task, recalls in (
        ("photo to sentence", report.sentence_retrieval),
        ("sentence to photo", report.image_retrieval),
    ):
        table.add_row(task, *(f"{value:.1f}" for value in recalls.values()))
    console.print(table)


def _title(row: Row) -> str:
    sizes = [f"{name} {value}" for name, value in (("k", row.k), ("m", row.m)) if value]
    return " ".join([row.reranker, *sizes])
