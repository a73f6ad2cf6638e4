"""What a training may start from: a run, a bundle's folder, or the name of an installed model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrnn_exporters.runs import Run
from mrnn_runtime import UsageError, load_bundle
from mrnn_runtime.build import find_model

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from mrnn_exporters.nets import Cell
    from mrnn_runtime import Bundle

_NET = ("backbone", "weights", "cell", "sizes")
# What the new training has from the old one unless it says otherwise.
INHERITED = (*_NET, "resize", "finetune")


@dataclass(frozen=True, slots=True)
class Start:
    """A trained net, and what it was trained as.

    Attributes:
        name: as the caller named it.
        config: at least what is in INHERITED.
        weights_id: of the backbone's weights.
        tokenizer: file of the vocabulary.
        source: where the weights are.
    """

    name: str
    config: Mapping[str, Any]
    weights_id: str
    tokenizer: Path
    source: Run | Bundle

    def differs(self, cell: str, sizes: Mapping[str, Any], weights_id: str) -> str:
        """Name what another net has otherwise: cell, sizes (but dropout) or features; else ""."""
        sized = [dict(one) | {"dropout": 0} for one in (self.config["sizes"], sizes)]
        pairs = {
            "cell": (self.config["cell"], cell),
            "sizes": sized,
            "features": (self.weights_id, weights_id),
        }
        return next((what for what, (ours, theirs) in pairs.items() if ours != theirs), "")

    def fill(self, net: Cell, tail: nn.Module | None = None) -> None:
        """Give a net of the same cell and sizes the weights, and the CNN's last stages theirs.

        Raises:
            UsageError: they are in a bundle, and the cell is none that can be had back from one, or
                stages of its CNN were trained.
        """
        tuned = bool(self.config["finetune"])
        if isinstance(self.source, Run):
            net.load_state_dict(self.source.cell().state_dict())
            if tail is not None and tuned:
                self.source.fill_tail(tail)
            return
        if tuned:
            raise UsageError(
                f"{self.name} cannot be trained further: stages of its CNN were trained",
                hint="start from the run that it was exported from",
            )
        from mrnn_exporters.unfolding import unfold

        unfold(self.source, net)


def open_start(name: str) -> Start:
    """Open a run, a bundle or an installed model.

    Raises:
        UsageError: there is none of that name, or a bundle does not say how it was trained.
        BundleError: the bundle is damaged.
    """
    if (Path(name) / "run.json").is_file():
        run = Run.open(Path(name))
        config = {key: getattr(run.config, key) for key in INHERITED}
        return Start(name, config, run.facts["weights_id"], run.folder / "tokenizer.json", run)
    bundle = load_bundle(find_model(name))
    match bundle.training:
        case {"config": dict(config), "weights_id": str(weights_id)} if config.keys() >= set(_NET):
            config = {"finetune": 0} | config | {"resize": bundle.preprocess.resize}
            return Start(name, config, weights_id, bundle.file("tokenizer.json"), bundle)
    raise UsageError(
        f"{name} does not say how it was trained", hint="start from a bundle that mrnn export wrote"
    )
