"""``mrnn caption``."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from mrnn_runtime.cli import output as speech
from mrnn_runtime.cli import results
from mrnn_runtime.errors import UsageError

EXAMPLES = """\b
mrnn caption dog.jpg
mrnn caption photos/ --format jsonl --output captions.jsonl
mrnn caption photos/ --decoder greedy --ban man --ban woman
mrnn caption dog.jpg --beam-size 10 --n-best 3
mrnn caption dog.jpg --decoder sample --n-best 5 --seed 7
mrnn caption photos/ --beam-size 10 --reranker consensus-cider --report report.html
"""


def caption(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH",
            help="Images, and folders that are walked recursively.",
            show_default=False,
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|DIR",
            help="An installed model, or the folder of a bundle. Without it: the only installed "
            "model, else the one that MRNN_MODEL names, else flickr8k.",
            rich_help_panel="Model",
        ),
    ] = None,
    provider: Annotated[
        str,
        typer.Option(
            metavar="auto|cpu|cuda", help="Where to run. Only auto may fall back, and it says so."
        ),
    ] = "auto",
    threads: Annotated[
        int, typer.Option(metavar="N", help="CPU threads of each graph; 0 chooses.")
    ] = 0,
    batch_size: Annotated[
        int, typer.Option(metavar="B", help="Images per call of the encoder; changes no caption.")
    ] = 4,
    decoder: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="How to search; mrnn plugins lists decoders and rerankers.",
            rich_help_panel="Search (what a decoder does not use, it ignores)",
        ),
    ] = None,
    beam_size: Annotated[
        int | None, typer.Option(metavar="K", help="Hypotheses kept per image.")
    ] = None,
    n_best: Annotated[
        int | None,
        typer.Option(metavar="N", help="Candidates per image, at most; the number of samples."),
    ] = None,
    prefix: Annotated[
        str, typer.Option(metavar="TEXT", help="How every caption starts.", show_default=False)
    ] = "",
    ban: Annotated[
        list[str] | None,
        typer.Option(metavar="WORD", help="A word that no caption contains; may be repeated."),
    ] = None,
    min_length: Annotated[
        int | None, typer.Option(metavar="N", help="Words per caption, at least.")
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(metavar="N", help="Words per caption, at most.")
    ] = None,
    length_penalty: Annotated[
        float | None,
        typer.Option(metavar="A", help="Rank by log_prob / length ** A; 0 is the plain sum."),
    ] = None,
    no_repeat_ngram: Annotated[
        int | None, typer.Option(metavar="N", help="No n-gram of this size twice; 0 allows all.")
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            metavar="T",
            help="Below 1 sharper, above 1 flatter.",
            rich_help_panel="Sampling (decoder sample)",
        ),
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(metavar="K", help="Among the K best words only; 0 is all.")
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(metavar="P", help="Among the fewest words that hold this probability."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Another seed, other samples.")
    ] = None,
    reranker: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Who chooses among all that the beam holds; or none.",
            rich_help_panel="Reranking",
        ),
    ] = None,
    references: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Captioned photos to ask, instead of the model's own."),
    ] = None,
    neighbours: Annotated[
        int | None, typer.Option(metavar="K", help="How many of the nearest of them vote.")
    ] = None,
    votes: Annotated[
        int | None, typer.Option(metavar="M", help="How many of their most similar captions count.")
    ] = None,
    leave_one_out: Annotated[
        bool, typer.Option("--leave-one-out", help="The photo itself has no vote.")
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say which reference photos voted (jsonl, report).")
    ] = False,
    form: Annotated[
        results.Format,
        typer.Option(
            "--format",
            help="text: path, tab, caption. jsonl: one object an image.",
            rich_help_panel="Output",
        ),
    ] = results.Format.TEXT,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the results to a file.")
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.html", help="Also write a page with photos, candidates and ranks."
        ),
    ] = None,
) -> None:
    """Caption images, in order, one result an image.

    An image that cannot be read is named on stderr (jsonl: gets an error record), the others go
    on, and the exit code is 1. Options that are not given are those of the model.
    """
    from mrnn_runtime.captioner import load
    from mrnn_runtime.images import find_images
    from mrnn_runtime.report import write_report
    from mrnn_runtime.types import RerankOptions

    images = find_images(paths)
    rerank = RerankOptions(
        k=neighbours, m=votes, references=references, leave_one_out=leave_one_out
    )
    captioner = load(model, provider=provider, threads=threads)
    sampling = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
    given: dict[str, Any] = {name: value for name, value in sampling.items() if value is not None}
    options = captioner.options(
        replace(captioner.bundle.decode_options, **given),
        beam_size=beam_size,
        n_best=n_best,
        min_length=min_length,
        max_length=max_length,
        length_penalty=length_penalty,
        no_repeat_ngram=no_repeat_ngram,
        banned_words=ban or (),
        prefix=prefix,
    )
    shown = options.n_best
    if (reranker or captioner.bundle.reranker or "none") == "none":
        if explain or rerank != RerankOptions():
            raise UsageError(
                "there is no reranker to take --references, --neighbours, --votes, --leave-one-out"
                " or --explain",
                hint="name one, for example --reranker consensus-cider",
            )
    elif report is not None:  # which shows all that the reranker chose among
        options = replace(options, n_best=max(options.n_best, options.beam_size))
    captions = captioner.caption(
        images,
        batch_size=batch_size,
        decoder=decoder,
        reranker=reranker,
        rerank=rerank,
        explain=explain,
        options=options,
    )
    show = results.show_json if form is results.Format.JSONL else results.show_text
    failed = 0
    with (
        write_report(report) if report else nullcontext() as add,
        results.lines_to(output) as write,
    ):
        for result in results.watched(captions, len(images)):
            if add:
                add(result)
            show(replace(result, candidates=result.candidates[:shown]), write)
            failed += result.error is not None
    if failed:
        speech.note(f"{failed} of {len(images)} images failed")
        raise typer.Exit(speech.SOME_IMAGES_FAILED)
