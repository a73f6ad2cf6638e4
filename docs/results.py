"""Write docs/results.md and its figures from the JSON in results/.

    python docs/results.py --add RUN...     first copy what finished runs of mrnn train say

``mrnn evaluate --json`` writes the other files there, but for ablations.md, retrieval.md and
everyday/notes.md, which a person writes. Needs matplotlib (the extra ``results``).
"""

from __future__ import annotations

import json
import sys
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results"
FIGURES = HERE / "figures"
MEASURES = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr")
# What mrnn train --start takes from the run before.
INHERITED = ("--backbone", "--resize", "--cell")
RANKS = ("R@1", "R@5", "R@10", "Med r")
# The order of the page. What is not here comes last.
SYSTEMS = (
    "flickr8k",
    "flickr8k-int8",
    "m-rnn-plain",
    "m-rnn",
    "m-rnn-2",
    "m-rnn-shared",
    "rnn-base",
    "rnn-base-2",
    "simple-rnn",
    "gru",
    "gru-joined-plain",
    "gru-joined",
    "lstm",
    "nic",
    "lrcn",
    "deepvs",
    "rvr",
)
# Table 9 of the paper, Flickr30K with VGG features: name there, BLEU-1 to 4.
ABLATIONS = {
    "m-rnn": ("m-RNN", ".600 .412 .278 .187"),
    "m-rnn-no-emb-input": ("NoEmbInput", ".592 .408 .277 .188"),
    "m-rnn-one-layer-emb": ("OneLayerEmb", ".594 .406 .274 .184"),
    "m-rnn-emb-one-input": ("EmbOneInput", ".590 .406 .274 .185"),
    "m-rnn-vis-in-rnn": ("visInRnn", ".466 .267 .157 .101"),
    "m-rnn-vis-in-rnn-both": ("visInRnn-both", ".546 .333 .191 .120"),
    "m-rnn-vis-in-rnn-both-shared": ("visInRnn-both-shared", ".478 .279 .171 .110"),
}
HEAD = """\
<!-- Written by docs/results.py; run it again after mrnn evaluate --json has written to results/.
-->

# Results

Flickr8k, the official test split: 1,000 photos, five captions each. Every row is one run of `mrnn
evaluate` on an exported bundle; the [commands](#commands) are below, the figures with commit and
versions in `results/`. Settings were chosen on the dev split. The CNN is EfficientNet-Lite2 for
every net but `gru-joined`, which has Lite1, 2 and 3 side by side. The paper's rows are beside ours
and are no like-for-like comparison: its CNN on Flickr8K was AlexNet, whose weights no package
carries.

`flickr8k` is the model that ships: the paper's net in the paper's sizes, trained by likelihood,
then finished with a reward for captions that agree with people's (`mrnn train --reward`).
`m-rnn-plain` is the same net before that finish. The other nets were trained for fewer epochs, the
same number for all but where a row says so, so they compare with each other and not with these two.
`lrcn` has two epochs because each takes 20 minutes of one core (5 s for 128 captions), fifty times
those of `rvr`. A number at the end of a name is the seed. `flickr8k-int8` is `flickr8k` in 8-bit
integers, made with dev photos by `mrnn quantize flickr8k --dataset flickr8k --root DIR`; these two
and `gru-joined` search with a length penalty of 0.7, the others with none. `gru-joined` is what a
larger encoder and a gated unit bring on the same photos; `gru-joined-plain` is the same net before
its reward, and `mrnn index build --model gru-joined --dataset flickr8k:DIR` made its references.
Perplexity is per word, the end sign counted and unknown words counted as one word.
"""
RERANKED = """
The oracle row is the best of the ten candidates by CIDEr-D against the photo's own captions: what
a perfect reranker could reach.
"""
RETRIEVAL = """
## Retrieval

A photo's rank is the best one among its own five sentences, of all {sentences:,}; sentences are
ranked by P(w | I) / P(w), where P(w) is the mean over {background} training photos (seed {seed}). A
sentence's rank is that of its photo, by P(w | I). R@K in percent, higher is better; Med r is the
median rank, lower is better. `rnn-base` and `simple-rnn` never see the photo and cannot rank. All
four LSTMs of `lrcn` would have to run for each photo and each beginning of a sentence; that is too
much for two cores, and it was not ranked.
"""
EVERYDAY = """
## Everyday photos

Another model, on other photos: `everyday` is trained on more than Flickr8k, so its rows are apart
from those above. "everyday" is a set of 500 COCO photos that no net was trained on, "flickr8k" the
test split from above.
"""
CURVES = """\
The perplexity is that of the averaged weights. `m-rnn-plain` is from before the average learned to
forget the first weights sooner, so its first epochs stand higher than its weights were. Runs of one
or two epochs are not drawn.
"""
MISSING = """
## What is not here

{absent}IAPR TC-12, Flickr30K and MS COCO are read in their own formats, and no net was trained on
them here: the corpora were not at hand. AlexNet and VGG-16 are there as backbones, without weights
in any package.
"""


@dataclass
class System:
    """What is known of one net.

    Attributes:
        training: the facts of its run, by name.
        generation: the reports of ``mrnn evaluate``, greedy first.
        retrieval: the report of the retrieval task, or None.
    """

    training: dict[str, Any] = field(default_factory=dict)
    generation: list[dict[str, Any]] = field(default_factory=list)
    retrieval: dict[str, Any] | None = None


def add(run: Path) -> None:
    """Copy the facts of a finished run to results/, without this machine's folders."""
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    config = record["config"]
    for name in ("start", "weights"):
        config[name] = Path(config.get(name) or "").name
    config["datasets"] = [name for name, _ in config["datasets"]]
    target = RESULTS / f"{run.name}-training.json"
    target.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def load() -> dict[str, System]:
    """Return all systems by name, in the order of the page."""
    systems: dict[str, System] = {}
    for file in sorted(RESULTS.glob("*.json")):
        record = json.loads(file.read_text(encoding="utf-8"))
        name, _, kind = file.stem.rpartition("-")
        system = systems.setdefault(name.removesuffix("-test"), System())
        if kind == "training":
            system.training = record
        elif kind == "retrieval":
            system.retrieval = record
        else:
            system.generation.append(record)
    for system in systems.values():
        system.generation.sort(
            key=lambda r: (r["search"]["decoder"] != "greedy", r["search"]["beam_size"])
        )
    order = {name: place for place, name in enumerate(dict.fromkeys((*SYSTEMS, *ABLATIONS)))}
    return dict(sorted(systems.items(), key=lambda item: order.get(item[0], len(order))))


def number(value: float) -> str:
    """Write a share as the paper does, without the zero before the point."""
    return f"{value:.3f}".removeprefix("0")


def table(head: tuple[str, ...], lines: list[list[str]]) -> str:
    """Return a table of Markdown."""
    rule = "|---" * len(head) + "|"
    return "\n".join(f"| {' | '.join(line)} |" for line in [list(head), *lines]).replace(
        "\n", f"\n{rule}\n", 1
    )


def generation(systems: dict[str, System], *, paper: list[list[str]]) -> str:
    """Return the table of captions: plain searches only."""
    lines = []
    for name, system in systems.items():
        for report in system.generation:
            search = report["search"]
            greedy = search["decoder"] == "greedy"
            if search["beam_size"] == 10:
                continue
            figures = [number(report["rows"][0]["measures"][m]) for m in MEASURES]
            perplexity = f"{report['perplexity']['value']:.2f}"
            how = "greedy" if greedy else f"beam {search['beam_size']}"
            lines.append([name, epochs(system, systems), how, perplexity, *figures])
    head = ("net", "epochs", "search", "perplexity", *(m.replace("BLEU", "B") for m in MEASURES))
    return table(head, lines + paper)


def epochs(system: System, systems: dict[str, System]) -> str:
    """Return the number of epochs, those of the run that it started from included."""
    if not system.training:
        return "as above"
    config, count = system.training["config"], system.training["facts"]["epochs"]
    if not config.get("reward"):
        return str(count)
    before = systems[config["start"]].training["facts"]["epochs"]
    return f"{before} + {count} with reward"


def reranked(systems: dict[str, System]) -> str:
    """Return the table of what rerankers choose among ten candidates."""
    lines = []
    for name, system in systems.items():
        for report in system.generation:
            if report["search"]["beam_size"] != 10 or report["search"]["decoder"] == "greedy":
                continue
            for row in report["rows"]:
                figures = [number(row["measures"][m]) for m in MEASURES]
                lines.append([name, row["reranker"].replace("none", "the beam itself"), *figures])
    return table(("net", "chosen by", *(m.replace("BLEU", "B") for m in MEASURES)), lines)


def retrieval(systems: dict[str, System]) -> str:
    """Return the section of both retrieval tasks."""
    reports = {name: s.retrieval for name, s in systems.items() if s.retrieval}
    lines = []
    for name, report in reports.items():
        tasks = [report[task] for task in ("sentence_retrieval", "image_retrieval")]
        lines.append([name, *(f"{task[rank]:.1f}" for task in tasks for rank in RANKS)])
    paper = "14.5 37.2 48.5 11 11.5 31.0 42.4 15"
    lines.append(["*paper, m-RNN-AlexNet*", *(f"*{value}*" for value in paper.split())])
    head = ("net", *(f"to sentence {r}" for r in RANKS), *(f"to photo {r}" for r in RANKS))
    first = next(iter(reports.values()))
    notes = (RESULTS / "retrieval.md").read_text(encoding="utf-8")
    return f"{RETRIEVAL.format(**first)}\n{table(head, lines)}\n\n{notes}"


def everyday() -> str:
    """Return the section of the model for everyday photos: reports in results/everyday."""
    lines = []
    reports = [json.loads(p.read_text()) for p in sorted((RESULTS / "everyday").glob("*-test-*"))]
    for report in sorted(reports, key=lambda r: (r["dataset"], r["model"]["name"] == "everyday")):
        search = report["search"]
        photos = "everyday" if report["dataset"] == "coco" else report["dataset"]
        for row in report["rows"]:
            by = "" if row["reranker"] == "none" else f", {row['reranker']}"
            figures = [number(row["measures"][m]) for m in MEASURES]
            how = f"beam {search['beam_size']}{by}"
            lines.append([photos, report["model"]["name"], how, *figures])
    head = ("photos", "model", "search", *(m.replace("BLEU", "B") for m in MEASURES))
    notes = (RESULTS / "everyday" / "notes.md").read_text(encoding="utf-8")
    typed = "\n".join(dict.fromkeys(report["command"] for report in reports))
    return f"{EVERYDAY}\n{table(head, lines)}\n\n{notes}\n```text\n{typed}\n```\n"


def ablations(systems: dict[str, System]) -> str:
    """Return the table of the paper's ablations, greedy."""
    lines = []
    for name, (there, paper) in ABLATIONS.items():
        if name not in systems or not systems[name].generation:
            continue
        report = systems[name].generation[0]
        figures = [number(report["rows"][0]["measures"][m]) for m in MEASURES[:4]]
        cider = number(report["rows"][0]["measures"]["CIDEr"])
        perplexity = f"{report['perplexity']['value']:.2f}"
        lines.append(
            [f"{name} ({there})", perplexity, *figures, cider, *(f"*{v}*" for v in paper.split())]
        )
    blue = [f"B-{n}" for n in range(1, 5)]
    return table(("net", "perplexity", *blue, "CIDEr", *(f"*paper {b}*" for b in blue)), lines)


def draw_curves(systems: dict[str, System]) -> None:
    """Draw the perplexity of the dev split after each epoch."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5))
    for place, (name, system) in enumerate(systems.items()):
        curve = system.training.get("facts", {}).get("curve", [])
        if len(curve) > 2:
            style = ("-", "--", ":")[place // 10]
            axes.plot(range(1, len(curve) + 1), curve, style, label=name, linewidth=1.4)
    axes.set(xlabel="epoch", ylabel="perplexity, dev split", yscale="log")
    ticks = [15, 18, 20, 25, 30, 40, 60, 100]
    axes.set(ylim=(15, 100), yticks=ticks, yticklabels=[str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", ncols=2)
    save(figure, "learning-curves")


def draw_bars(systems: dict[str, System]) -> None:
    """Draw BLEU-4 and CIDEr of each net, greedy and beam 5."""
    from matplotlib import pyplot

    shown = {
        name: [r for r in s.generation if r["search"]["beam_size"] == 5 or r is s.generation[0]]
        for name, s in systems.items()
        if len(s.generation) > 1
    }
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 0.36 * len(shown) + 1), sharey=True)
    for axes, measure in ((left, "BLEU-4"), (right, "CIDEr")):
        for shift, place, label in ((0.2, 0, "greedy"), (-0.2, 1, "beam 5")):
            values = [reports[place]["rows"][0]["measures"][measure] for reports in shown.values()]
            rows = [len(shown) - 1 - row + shift for row in range(len(shown))]
            axes.barh(rows, values, height=0.38, label=label)
        axes.set_title(measure)
        axes.grid(axis="x", alpha=0.3)
    left.set_yticks(range(len(shown) - 1, -1, -1), list(shown))
    right.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize="small")
    save(figure, "systems")


def save(figure: Any, name: str) -> None:  # noqa: ANN401 - matplotlib has types that come and go
    """Write a figure as SVG, always the same bytes for the same figures."""
    import matplotlib as mpl

    figure.tight_layout()
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(FIGURES / f"{name}.svg", metadata={"Date": None})


def absent(systems: dict[str, System]) -> str:
    """Return what has not been measured yet, as a paragraph, or nothing."""
    nets = [name for name in (*SYSTEMS, *ABLATIONS) if name not in systems]
    # Two never see the photo, lrcn has a reason of its own, and int8 is flickr8k over again.
    blind = ("flickr8k-int8", "rnn-base", "rnn-base-2", "simple-rnn", "lrcn")
    unranked = [n for n, s in systems.items() if not s.retrieval and n not in blind]
    parts = []
    if nets:
        parts.append(f"Not trained yet: {', '.join(nets)}.")
    if unranked:
        parts.append(f"Retrieval not measured yet: {', '.join(unranked)}.")
    return textwrap.fill(" ".join(parts), 99, break_on_hyphens=False) + "\n\n" if parts else ""


def commands(systems: dict[str, System]) -> str:
    """Return what was typed."""
    lines = [training(name, s.training["config"]) for name, s in systems.items() if s.training]
    lines += [r["command"] for s in systems.values() for r in [*s.generation, s.retrieval] if r]
    return "\n".join(dict.fromkeys(lines))


def training(name: str, config: dict[str, Any]) -> str:
    """Return the command that trained a net, as far as it differs from the defaults."""
    given = {
        "--backbone": (config["backbone"], "efficientnet-lite2"),
        "--resize": (config.get("resize") or "", ""),
        "--cell": (config["cell"], "m-rnn"),
        "--seed": (config["seed"], 1),
        "--epochs": (config["epochs"], None),
        "--batch-size": (config["batch_size"], 256),
        "--learning-rate": (config["learning_rate"], 1e-3),
        "--average": (config["average"], 0.998),
        "--start": (config.get("start") or "", ""),
        "--reward": (config.get("reward", 0.0), 0.0),
        "--samples": (config.get("samples", 5), 5),
    }
    if config.get("start"):  # CNN, net and sizes are those of the run before
        given = {name: given[name] for name in given if name not in INHERITED}
    options = [f" {option} {value}" for option, (value, usual) in given.items() if value != usual]
    if not config.get("start"):
        options += [f" --size {size}={value}" for size, value in config["sizes"].items()]
    views = "".join(f" --view {view}" for view in config["views"])
    command = "mrnn train --dataset flickr8k --root DIR"
    return f"{command}{views}{''.join(options)} --output {name}"


def page(systems: dict[str, System]) -> str:
    """Return the text of the page."""
    paper = ["*paper, m-RNN-AlexNet*", "", "*greedy*", "*24.39*"]
    row = [*paper, *("*.565*", "*.386*", "*.256*", "*.170*"), "", "", ""]
    notes = (RESULTS / "ablations.md").read_text(encoding="utf-8")
    return "\n".join(
        [
            HEAD,
            "## Captions\n",
            generation(systems, paper=[row]),
            "\n![BLEU-4 and CIDEr of each net](figures/systems.svg)\n",
            "## Consensus reranking\n",
            reranked(systems),
            RERANKED,
            retrieval(systems),
            "## Ablations\n",
            ablations(systems),
            f"\n{notes}",
            everyday(),
            "## Learning curves\n",
            "![Perplexity of the dev split after each epoch](figures/learning-curves.svg)\n",
            CURVES,
            f"{MISSING.format(absent=absent(systems)).strip()}\n",
            f"## Commands\n\n```text\n{commands(systems)}\n```\n",
        ]
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--add"]:
        for argument in sys.argv[2:]:
            add(Path(argument))
    known = load()
    draw_curves(known)
    draw_bars(known)
    (HERE / "results.md").write_text(page(known), encoding="utf-8")
