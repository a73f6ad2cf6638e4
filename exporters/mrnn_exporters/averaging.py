"""The mean of the weights of nets that were trained on from one another, or from a common start.

Such nets lie close together, and their mean is a net as well: often one that captions as the best
of them does and keeps more of what the start knew (Wortsman et al., 2022).
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from mrnn_exporters.folders import new_folder
from mrnn_exporters.runs import Run, build_cell
from mrnn_exporters.starts import open_start
from mrnn_runtime import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mrnn_exporters.starts import Start


def average(source: Path, others: Sequence[str], output: Path) -> Run:
    """Write a run whose weights are the mean of those of several nets.

    Args:
        source: the folder of a run; the new run has its configuration.
        others: runs, bundles or installed models of the same net.
        output: the new run's folder.

    Returns:
        The new run. Its facts are those of ``source`` with ``averaged``, the names of the others,
        and without what was measured in training.

    Raises:
        UsageError: ``source`` is no finished run, another net has other features, layers or words,
            the last stages of a CNN were trained, or ``output`` is in use.
        BundleError: a bundle is damaged.
    """
    run = Run.open(source)
    first = open_start(str(source))
    parts = [open_start(name) for name in others]
    for part in parts:
        _expect(part, first)
    net = build_cell(
        run.config,
        vocabulary_size=run.facts["vocabulary_size"],
        feature_size=run.facts["feature_size"],
    )
    total: dict[str, Any] = {}
    for part in (first, *parts):
        part.fill(net)
        for name, weights in net.state_dict().items():
            total[name] = weights / (1 + len(parts)) + total.get(name, 0)
    net.load_state_dict(total)
    trained = ("epochs", "best_epoch", "dev_perplexity", "curve")
    facts = {name: fact for name, fact in run.facts.items() if name not in trained}
    facts["averaged"] = [Path(name).name for name in others]
    with new_folder(output) as folder:
        shutil.copyfile(first.tokenizer, folder / "tokenizer.json")
        Run(folder, run.config, facts).save(net)
    return Run(output, run.config, facts)


def _expect(part: Start, first: Start) -> None:
    """Refuse a net whose weights are not those of the same places.

    Raises:
        UsageError: that.
    """
    config = first.config
    what = part.differs(config["cell"], config["sizes"], first.weights_id)
    words = [Tokenizer.from_file(str(one.tokenizer)).get_vocab() for one in (part, first)]
    if not what and words[0] != words[1]:
        what = "words"
    if what:
        raise UsageError(
            f"{part.name} cannot be averaged with {first.name}: its {what} differ",
            hint="average nets that were trained on from one another",
        )
    if part.config["finetune"] or config["finetune"]:
        raise UsageError(
            "nets with trained stages of a CNN cannot be averaged",
            hint="average those that were trained without --finetune",
        )
