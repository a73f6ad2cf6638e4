"""Write docs/results.md from the JSON that ``mrnn evaluate --json`` left in results/."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAPER = "*paper, m-RNN-AlexNet, greedy* | *24.39* | *.565* | *.386* | *.256* | *.170* | | | "
MEASURES = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr")
HEAD = """\
<!-- Written by docs/results.py; run it again after mrnn evaluate --json has written to results/.
-->

# Results

Flickr8k, the official test split: 1,000 photos, five captions each. Every row is one run of `mrnn
evaluate` on an exported bundle; the commands are below, the figures with versions in `results/`.
Settings were chosen on the dev split. The CNN is EfficientNet-Lite2, not the paper's AlexNet,
whose weights no package carries, so the paper's row is beside ours and is no like-for-like
comparison.

`flickr8k` is the model that ships: the paper's net in the paper's sizes, trained by likelihood,
then finished with a reward for captions that agree with people's (`mrnn train --reward`).
`m-rnn-plain` is the same net before that finish. Perplexity is per word, the end sign counted and
unknown words counted as one word.

| net and search | perplexity | B-1 | B-2 | B-3 | B-4 | METEOR | ROUGE-L | CIDEr |
|---|---|---|---|---|---|---|---|---|
"""
TAIL = """
The oracle row is the best of the ten candidates by CIDEr-D against the photo's own captions: what
a perfect reranker could reach. The other corpora of the paper, its other systems, and both
retrieval tasks have not been measured yet.

## Commands

"""


def rows(report: dict[str, Any]) -> list[str]:
    """Return the lines of one report."""
    search, name = report["search"], report["model"]["name"]
    how = "greedy" if search["decoder"] == "greedy" else f"beam {search['beam_size']}"
    lines = []
    for row in report["rows"]:
        chosen = "" if row["reranker"] == "none" else f" + {row['reranker']}"
        figures = " | ".join(f"{row['measures'][m]:.3f}".lstrip("0") for m in MEASURES)
        lines.append(f"| {name}, {how}{chosen} | {report['perplexity']['value']:.2f} | {figures} |")
    return lines


def page() -> str:
    """Return the text of the page."""
    files = sorted(HERE.parent.joinpath("results").glob("*-test-*.json"))
    reports = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    # Greedy first, then by width, each net for itself.
    reports.sort(
        key=lambda r: (
            r["model"]["name"],
            r["search"]["decoder"] != "greedy",
            r["search"]["beam_size"],
        )
    )
    table = [line for report in reports for line in rows(report)]
    commands = "\n".join(report["command"] for report in reports)
    return f"{HEAD}" + "\n".join([*table, f"| {PAPER}|"]) + f"\n{TAIL}```text\n{commands}\n```\n"


if __name__ == "__main__":
    HERE.joinpath("results.md").write_text(page(), encoding="utf-8")
