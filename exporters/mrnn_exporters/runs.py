"""A finished run: one folder that holds what the exporter needs and nothing that could run code.

``run.json`` (configuration and facts), ``weights.safetensors``, ``tokenizer.json``, and
``tail.safetensors`` where stages of the CNN were trained. The folder
``lightning`` beside them holds the trainer's own checkpoints and logs and serves only to resume.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from math import inf
from typing import TYPE_CHECKING, Any

from mrnn_exporters.features import check_view
from mrnn_runtime import UsageError
from mrnn_runtime.build import blaming, manager

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from mrnn_exporters.nets import Cell
    from mrnn_runtime import Backbone, Preprocess

_TAIL = "tail.safetensors"

_RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("epochs", "batch_size", "accumulate", "max_words"), (1, inf)),
    **dict.fromkeys(("learning_rate", "weight_decay", "finetune", "finetune_rate"), (0, inf)),
    **dict.fromkeys(("patience", "reward", "clip"), (0, inf)),
    **dict.fromkeys(("label_smoothing", "average"), (0, 1)),
}
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Everything that decides what a run learns; the same configuration gives the same weights.

    Attributes:
        datasets: (name, folder) of each data set; their splits are joined.
        backbone: name of a backbone plugin.
        weights: of the backbone: ``default``, ``random``, a file, or a name that it knows.
        cell: name of a cell plugin.
        sizes: sizes of the net that differ from :class:`mrnn_exporters.nets.NetConfig`'s.
        views: of a photo, that training draws from: ``plain``, ``mirror``, ``crop1``, ...
        resize: how photos become square, ``squash`` or ``crop``; as the backbone says where empty.
        min_count: a word seen less often in training is <unk>.
        max_words: a longer training caption is cut there.
        epochs: passes over the captions, in which the learning rate falls to zero.
        patience: epochs without a better dev perplexity after which training stops early.
        batch_size: captions a step, in each process.
        accumulate: steps whose gradients are added up before the weights change.
        precision: of the arithmetic: ``32-true``, ``bf16-mixed`` or ``16-mixed``.
        learning_rate: the highest learning rate of Adam.
        weight_decay: AdamW's, decoupled.
        label_smoothing: share of the target spread over the vocabulary.
        average: decay of the running average of the weights; 0 trains without.
        start: what this run has its first weights and its vocabulary from: folder of a finished
            run or of a bundle, or the name of an installed model; none starts afresh.
        sentences: file of sentences; the language half alone is trained, on them and on the
            captions of the data sets, and the image term is zero.
        reward: weight of the CIDEr-D of the net's own captions in the cost, beside the likelihood
            of people's; see ``rewards.py``. With it the last epoch is kept, not the best.
        samples: captions drawn for each photo of a step, for the reward.
        finetune: how many of the CNN's last stages are trained too; 0 leaves it frozen.
        finetune_rate: their learning rate, as a share of ``learning_rate``.
        clip: gradients are clipped to this norm.
        seed: of initial weights, order and dropout.
    """

    datasets: tuple[tuple[str, str], ...]
    backbone: str = "efficientnet-lite2"
    weights: str = "default"
    cell: str = "m-rnn"
    sizes: dict[str, int | float] = field(default_factory=dict)
    views: tuple[str, ...] = ("plain", "mirror")
    resize: str = ""
    min_count: int = 5
    max_words: int = 30
    epochs: int = 20
    patience: int = 3
    batch_size: int = 256
    accumulate: int = 1
    precision: str = "32-true"
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    average: float = 0.998
    start: str = ""
    sentences: str = ""
    reward: float = 0.0
    samples: int = 5
    finetune: int = 0
    finetune_rate: float = 0.1
    clip: float = 5.0
    seed: int = 1

    def __post_init__(self) -> None:
        """Refuse what no training can do, before a folder is claimed for it.

        Raises:
            UsageError: an unknown ``precision`` or view, a number out of its range, or settings
                that exclude each other.
        """
        if self.precision not in PRECISIONS:
            raise UsageError(
                f"unknown precision {self.precision!r}", hint=f"use {', '.join(PRECISIONS)}"
            )
        for name, (least, most) in _RANGES.items():
            if not least <= (value := getattr(self, name)) <= most:
                limits = f"at least {least}" if most == inf else f"{least} to {most}"
                raise UsageError(f"{name} must be {limits}, not {value}")
        if not self.views:
            raise UsageError("no view of a photo to train on", hint="use plain")
        for view in self.views:
            check_view(view)
        if self.reward and self.samples < 2:
            raise UsageError(
                "a reward compares captions: one for a photo is not enough", hint="--samples 5, say"
            )
        if self.sentences and self.finetune:
            raise UsageError(
                "sentences without photos train no CNN", hint="leave out --finetune or --sentences"
            )
        if self.sentences and self.reward:
            raise UsageError(
                "sentences without photos have no reward", hint="leave out --reward or --sentences"
            )

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainConfig:
        """Rebuild a configuration from run.json.

        Raises:
            UsageError: an unknown or missing setting.
        """
        lists = {"datasets": tuple(map(tuple, values["datasets"])), "views": tuple(values["views"])}
        try:
            return cls(**(values | lists))
        except TypeError as error:
            raise UsageError(
                f"the run's configuration does not fit this version: {error}"
            ) from error


@dataclass(frozen=True, slots=True)
class _Resizing:
    """A backbone whose photos become square in another way."""

    module: Any
    feature_size: int
    preprocess: Preprocess
    weights_id: str


def build_backbone(config: TrainConfig) -> Backbone:
    """Build the backbone that the configuration names.

    Raises:
        UsageError: no plugin provides it, or an unknown ``resize``.
        PluginError: it cannot be loaded or built.
    """
    target = manager().load("backbones", config.backbone)
    with blaming(f"backbone {config.backbone!r}"):
        backbone: Backbone = target(config.weights)
    if not config.resize:
        return backbone
    preprocess = replace(backbone.preprocess, resize=config.resize)
    return _Resizing(backbone.module, backbone.feature_size, preprocess, backbone.weights_id)


def build_cell(config: TrainConfig, *, vocabulary_size: int, feature_size: int) -> Cell:
    """Build the cell that the configuration names, with fresh weights.

    Raises:
        UsageError: no plugin provides it, or a size is unknown.
        PluginError: it cannot be loaded or built.
    """
    from mrnn_exporters.nets import NetConfig

    try:
        sizes = NetConfig(
            vocabulary_size=vocabulary_size,
            feature_size=feature_size,
            **config.sizes,  # type: ignore[arg-type]
        )
    except TypeError as error:
        known = ", ".join(NetConfig.__dataclass_fields__)
        raise UsageError(
            f"unknown size of a net: {error}", hint=f"the sizes are {known}"
        ) from error
    target = manager().load("cells", config.cell)
    with blaming(f"cell {config.cell!r}"):
        cell: Cell = target(sizes)
    return cell


def check_names(config: TrainConfig) -> None:
    """Refuse a backbone or a cell that is unknown, before anything takes time.

    Raises:
        UsageError: no plugin provides it.
        PluginError: it cannot be loaded.
    """
    manager().load("backbones", config.backbone)
    manager().load("cells", config.cell)


def write_json(path: Path, value: object) -> None:
    """Write JSON so that a reader sees the old file or the new one, never half of it."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run as it lies on disk.

    Attributes:
        folder: where.
        config: how it was trained.
        facts: vocabulary size, feature size, epochs, dev perplexity, versions.
    """

    folder: Path
    config: TrainConfig
    facts: dict[str, Any]

    @classmethod
    def open(cls, folder: Path) -> Run:
        """Read run.json.

        Raises:
            UsageError: the folder holds no finished run.
        """
        path = folder / "run.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return cls(folder, TrainConfig.from_dict(content["config"]), content["facts"])
        except FileNotFoundError:
            raise UsageError(
                f"{folder} holds no finished run: run.json is missing",
                hint="give the folder that mrnn train --output named, or finish it with --resume",
            ) from None
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{path} is damaged: {error}", hint="train again") from error

    def cell(self) -> Cell:
        """The trained net, in eval mode."""
        from safetensors.torch import load_file

        net = build_cell(
            self.config,
            vocabulary_size=self.facts["vocabulary_size"],
            feature_size=self.facts["feature_size"],
        )
        weights = load_file(self.folder / "weights.safetensors")
        with blaming(f"cell {self.config.cell!r}"):
            net.load_state_dict(weights)
            return net.eval()

    def backbone(self) -> Backbone:
        """The CNN, with its last stages as they were trained.

        Raises:
            UsageError: it has other weights than the run's.
        """
        backbone = build_backbone(self.config)
        if backbone.weights_id != self.facts["weights_id"]:
            raise UsageError(
                f"{self.folder} was trained on features of {self.facts['weights_id']}, the backbone"
                f" has {backbone.weights_id}",
                hint="install the version of the backbone's package that the run was trained with",
            )
        if self.config.finetune:
            from mrnn_exporters.finetuning import split

            _, tail = split(backbone, self.config.finetune, name=self.config.backbone)
            self.fill_tail(tail)  # which has the backbone's weights
        return backbone

    def fill_tail(self, tail: nn.Module) -> None:
        """Give the CNN's last stages the weights that they were trained to."""
        from safetensors.torch import load_file

        tail.load_state_dict(load_file(self.folder / _TAIL))

    def save(self, net: Cell, tail: nn.Module | None = None) -> None:
        """Write the weights, then run.json: a folder that has run.json is complete."""
        from safetensors.torch import save_file

        for module, file in ((net, "weights.safetensors"), (tail, _TAIL)):
            if module is not None:
                weights = {name: value.contiguous() for name, value in module.state_dict().items()}
                save_file(weights, self.folder / file)
        write_json(self.folder / "run.json", {"config": asdict(self.config), "facts": self.facts})
