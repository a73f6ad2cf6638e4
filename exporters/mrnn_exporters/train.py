"""Training of a cell on CNN features, by PyTorch Lightning; the CNN's last stages may learn too.

The cost is the paper's: the mean over all words of -log P(w_n | w_<n, I), <eos> counted. A run
is a function of its configuration: order, views and dropout are drawn from (seed, epoch or step),
so one that was killed and resumed ends with the weights of one that was not.
"""

from __future__ import annotations

import csv
import json
import logging
import warnings
from array import array
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import lightning
import numpy as np
import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch import callbacks, loggers
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from mrnn_exporters import __version__, datasets, features, finetuning
from mrnn_exporters.nets import pack
from mrnn_exporters.rewards import CiderReward, reward_cost
from mrnn_exporters.runs import (
    Run,
    TrainConfig,
    build_backbone,
    build_cell,
    check_names,
    write_json,
)
from mrnn_exporters.shards import Rows
from mrnn_exporters.starts import open_start
from mrnn_exporters.tokenizer import SPECIALS, build_tokenizer, encode_caption, read_sentences
from mrnn_runtime import UsageError
from mrnn_runtime.build import blaming

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
    from torch.nn.utils.rnn import PackedSequence

    from mrnn_exporters.datasets import Example
    from mrnn_exporters.nets import Cell
    from mrnn_exporters.starts import Start
    from mrnn_runtime import Backbone


class Batch(NamedTuple):
    """Captions of one step, longest first.

    Attributes:
        tokens: int64 packed [s], <bos> and words.
        target: int64 [s], words and <eos>.
        features: float32 [b, d]; activations of the CNN's frozen part where the rest is trained.
        photos: which photo of the split each caption belongs to, b of them.
    """

    tokens: PackedSequence
    target: Tensor
    features: Tensor
    photos: tuple[int, ...]

    def to(self, device: torch.device) -> Batch:
        """Move to a device."""
        tokens = self.tokens.to(device)  # type: ignore[arg-type]
        return Batch(tokens, self.target.to(device), self.features.to(device), self.photos)


class CaptionDataset(Dataset[tuple[list[int], Tensor, int]]):
    """All captions of a split, each with one view of its photo: a different one each epoch."""

    def __init__(
        self,
        examples: Sequence[Example],
        views: Sequence[Rows],
        tokenizer: Tokenizer,
        max_words: int,
    ) -> None:
        """Encode the captions; a view has float16 [d] for each of the examples that can be read."""
        self.views = views
        lost = np.any([view.missing for view in views], axis=0)
        bos, eos = (SPECIALS.index(sign) for sign in ("<bos>", "<eos>"))
        # One array for all captions: as lists they would take ten times as much memory.
        self._tokens = array("H" if tokenizer.get_vocab_size() <= 2**16 else "i")
        self._ends, self._rows = array("q", [0]), array("i")
        for row, example in enumerate(examples):
            for caption in example.captions if not lost[row] else ():
                if ids := encode_caption(tokenizer, caption):
                    self._tokens.extend((bos, *ids[:max_words], eos))
                    self._ends.append(len(self._tokens))
                    self._rows.append(row)

    def __len__(self) -> int:
        """Count the captions."""
        return len(self._rows)

    def __getitem__(self, key: tuple[int, int]) -> tuple[list[int], Tensor, int]:
        """Return ids, feature float32 [d] and photo of (caption, epoch)."""
        index, epoch = key
        row = self._rows[index]
        view = self.views[(index + epoch) % len(self.views)]
        return self._sentence(index), torch.from_numpy(np.asarray(view[row], np.float32)), row

    def by_photo(self) -> list[list[list[int]]]:
        """Return the captions of each photo as word ids, without <bos> and <eos>."""
        groups: list[list[list[int]]] = [[] for _ in range(len(self.views[0]))]
        for index, row in enumerate(self._rows):
            groups[row].append(self._sentence(index)[1:-1])
        return groups

    def _sentence(self, index: int) -> list[int]:
        return self._tokens[self._ends[index] : self._ends[index + 1]].tolist()


class EpochSampler(DistributedSampler[tuple[int, int]]):
    """Shuffles by (seed, epoch) and tells the data set which epoch it is.

    In order, each caption is there once: processes may have one more or one less than others.
    """

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yield (caption, epoch)."""
        count = len(self.dataset)  # type: ignore[arg-type]
        if not self.shuffle:
            yield from ((i, self.epoch) for i in range(self.rank, count, self.num_replicas))
            return
        # The base's order, but as an array: its lists take ten times as much memory.
        drawn = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(count, generator=drawn)
        for place in range(self.rank, self.total_size, self.num_replicas):
            yield int(order[place % count]), self.epoch

    def __len__(self) -> int:
        """Count the captions of this process."""
        if self.shuffle:
            return super().__len__()
        return len(range(self.rank, len(self.dataset), self.num_replicas))  # type: ignore[arg-type]


def collate(items: list[tuple[list[int], Tensor, int]]) -> Batch:
    """Make a batch of what ``CaptionDataset`` gives."""
    items = sorted(items, key=lambda item: -len(item[0]))
    return Batch(
        tokens=pack([sentence[:-1] for sentence, _, _ in items]),
        target=pack([sentence[1:] for sentence, _, _ in items]).data,
        features=torch.stack([feature for _, feature, _ in items]),
        photos=tuple(photo for _, _, photo in items),
    )


class Data(lightning.LightningDataModule):
    """The two splits that training looks at."""

    def __init__(self, config: TrainConfig, train: CaptionDataset, dev: CaptionDataset) -> None:
        """Keep the captions of both."""
        super().__init__()
        self.config, self.train, self.dev = config, train, dev

    def train_dataloader(self) -> DataLoader[tuple[list[int], Tensor, int]]:
        """Shuffled, one share a process."""
        return self._loader(self.train, shuffle=True)

    def val_dataloader(self) -> DataLoader[tuple[list[int], Tensor, int]]:
        """In order."""
        return self._loader(self.dev, shuffle=False)

    def _loader(
        self, captions: CaptionDataset, *, shuffle: bool
    ) -> DataLoader[tuple[list[int], Tensor, int]]:
        trainer = self.trainer
        assert trainer is not None
        sampler = EpochSampler(
            captions,
            num_replicas=trainer.world_size,
            rank=trainer.global_rank,
            shuffle=shuffle,
            seed=self.config.seed,
        )
        return DataLoader(
            captions, self.config.batch_size, sampler=sampler, collate_fn=collate, drop_last=shuffle
        )


class Trainee(lightning.LightningModule):
    """The net, its cost and its optimiser."""

    def __init__(
        self,
        config: TrainConfig,
        net: Cell,
        reward: CiderReward | None,
        tail: torch.nn.Module | None = None,
    ) -> None:
        """Keep the net under ``net``, the stages of the CNN to be trained under ``tail``."""
        super().__init__()
        self.config = config
        self.net = net
        self.tail = tail
        self.reward = reward
        self.curve: list[float] = []  # dev perplexity after each epoch

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Let a resumed run know of the epochs before."""
        checkpoint["curve"] = self.curve

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the curve."""
        self.curve = checkpoint["curve"]

    def train(self, mode: bool = True) -> Self:
        """As torch has it, but that batch norm of the CNN goes by its own statistics."""
        super().train(mode)
        if self.tail is not None:
            self.tail.eval()
        return self

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Draw dropout from (seed, step), whatever happened before."""
        part = 7919 * (batch_idx % self.config.accumulate)
        step = self.config.seed * 1_000_003 + self.global_step * 1009
        torch.manual_seed(step + part + self.global_rank)

    def _features(self, batch: Batch) -> Tensor:
        if self.tail is None:
            return batch.features
        seen: Tensor = self.tail(batch.features)
        return seen

    def _logits(self, batch: Batch, seen: Tensor) -> Tensor:
        with blaming(f"cell {self.config.cell!r}"):
            return self.net(batch.tokens, seen)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mean over words of -ln P(w_n | w_<n, I), and the cost of low reward if that is wanted."""
        seen = self._features(batch)
        logits = self._logits(batch, seen)
        loss = functional.cross_entropy(
            logits, batch.target, label_smoothing=self.config.label_smoothing
        )
        loss = loss * self._share(len(batch.target))
        if self.reward is not None:
            self.eval()
            with blaming(f"cell {self.config.cell!r}"):
                cost = reward_cost(
                    self.net,
                    seen,
                    batch.photos,
                    self.reward,
                    samples=self.config.samples,
                    max_words=self.config.max_words,
                )
            self.train()
            loss = loss + self.config.reward * cost
        self.log("loss", loss, on_step=False, on_epoch=True, batch_size=len(batch.target))
        return loss

    def _share(self, words: int) -> float | Tensor:
        """Return by how much this process has more words than the mean of all processes.

        Their gradients are averaged; so weighted, that is the mean over all words of the step.
        """
        if self.trainer.world_size == 1:
            return 1.0
        every = self.all_gather(torch.tensor(float(words), device=self.device))
        assert isinstance(every, Tensor)
        return words / every.mean()

    def on_validation_epoch_start(self) -> None:
        """Forget the words of the last epoch."""
        self._cost = torch.zeros(2, dtype=torch.float64, device=self.device)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Sum up words and their cost."""
        logits = self._logits(batch, self._features(batch))
        cost = functional.cross_entropy(logits, batch.target, reduction="sum")
        self._cost += torch.stack([cost.double(), cost.new_tensor(len(batch.target)).double()])

    def on_validation_epoch_end(self) -> None:
        """PPL = 2 ** (-(1/L) sum log2 P), over all words of the split."""
        every = self.all_gather(self._cost)
        assert isinstance(every, Tensor)
        cost, words = every.reshape(-1, 2).sum(dim=0)
        perplexity = torch.exp(cost / words).float()
        self.curve.append(round(perplexity.item(), 4))
        self.log("dev_perplexity", perplexity, prog_bar=True, rank_zero_only=True)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW under one cosine cycle."""
        config = self.config
        assert isinstance(self.net, torch.nn.Module)
        weights, rates = [self.net.parameters()], [config.learning_rate]
        if self.tail is not None:
            weights.append(weight for weight in self.tail.parameters() if weight.requires_grad)
            rates.append(config.finetune_rate * config.learning_rate)
        optimizer = torch.optim.AdamW(
            [{"params": group} for group in weights], weight_decay=config.weight_decay
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            rates,
            total_steps=max(2, int(self.trainer.estimated_stepping_batches)),
            pct_start=0.05,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def run(
    config: TrainConfig,
    output: Path,
    *,
    cache: Path,
    resume: bool = False,
    devices: int | str = "auto",
    num_nodes: int = 1,
) -> Run:
    """Train a cell and write the run to ``output``.

    Args:
        config: what to train, on what.
        output: the run's folder; must be new or empty unless ``resume``.
        cache: where CNN features are kept between runs.
        resume: go on from the last epoch that ``output`` holds.
        devices: processes of this machine; ``auto`` is one a GPU, and one without.
        num_nodes: machines, each of which runs this with the environment of ``torchrun``.

    Raises:
        UsageError: the folder is in use, or holds a run with another configuration; the captions do
            not fill a batch; or the run to start from is of another net. The folder is untouched.
        PluginError: the backbone or the cell fails.
    """
    check_names(config)
    examples = {split: datasets.read_several(config.datasets, split) for split in ("train", "dev")}
    if not examples["dev"]:
        raise UsageError(
            "no photo is held out to choose by", hint="give a --dataset without /all as well"
        )
    said = {split: [c for e in part for c in e.captions] for split, part in examples.items()}
    if config.sentences:
        said["train"] += read_sentences(Path(config.sentences))
    start = open_start(config.start) if config.start else None
    if start:
        tokenizer = Tokenizer.from_file(str(start.tokenizer))
    else:
        tokenizer = build_tokenizer(said["train"], config.min_count)
    # Each process has batches of its own, of its share of the captions.
    local = devices if isinstance(devices, int) else torch.cuda.device_count() or 1
    processes = num_nodes * local
    count = len(said["train"])
    if -(-count // processes) < config.batch_size:
        each = f" in each of {processes} processes" if processes > 1 else ""
        raise UsageError(
            f"{count} training captions do not fill one batch of {config.batch_size}{each}",
            hint=f"--batch-size {max(1, count // processes // 10)}, say",
        )
    backbone = build_backbone(config)
    torch.manual_seed(config.seed)
    net = build_cell(
        config, vocabulary_size=tokenizer.get_vocab_size(), feature_size=backbone.feature_size
    )
    seen: Backbone = backbone
    tail = None
    if config.finetune:
        seen, tail = finetuning.split(backbone, config.finetune, name=config.backbone)
        finetuning.make_trainable(tail)
    if start:
        _expect(start, config, backbone)
        start.fill(net, tail)
    # Whatever can be refused has been: a folder that is claimed is worth resuming.
    if _is_main():
        _claim(config, output, resume=resume)
        tokenizer.save(str(output / "tokenizer.json"))

    def captions(split: str, views: Sequence[str]) -> CaptionDataset:
        if config.sentences:  # all are said of one image of zeros, whose image term is zero
            zeros = np.zeros((1, backbone.feature_size), np.float16)
            view = Rows([zeros], np.zeros(1, np.int64))
            sayings = [datasets.Example(Path(), tuple(said[split]))]
            return CaptionDataset(sayings, [view], tokenizer, config.max_words)
        paths = [example.path for example in examples[split]]
        arrays = [
            features.features(seen, paths, view, cache, name=config.backbone) for view in views
        ]
        return CaptionDataset(examples[split], arrays, tokenizer, config.max_words)

    data = Data(config, captions("train", config.views), captions("dev", ("plain",)))
    photos = {split: len(part) for split, part in examples.items()}
    for texts in (examples, said):  # which take several times the memory that words as numbers do
        texts.clear()
    reward = None
    if config.reward:
        reward = CiderReward(data.train.by_photo(), tokenizer.get_vocab_size())
    with _quick_products():
        trainee = Trainee(config, net, reward, tail)
        hardware = {"devices": devices, "num_nodes": num_nodes}
        trainee, best = _fit(config, data, trainee, output, hardware, resume=resume)
    facts = {
        "vocabulary_size": tokenizer.get_vocab_size(),
        "feature_size": backbone.feature_size,
        "weights_id": backbone.weights_id,
        "parameters": sum(p.numel() for p in trainee.parameters()),
        "photos": photos,
        "captions": {"train": len(data.train), "dev": len(data.dev)},
        **best,
        "versions": {
            "mrnn-exporters": __version__,
            "torch": torch.__version__,
            "lightning": lightning.__version__,
        },
    }
    finished = Run(output, config, facts)
    if _is_main():
        finished.save(trainee.net, trainee.tail)
    return finished


def _expect(start: Start, config: TrainConfig, backbone: Backbone) -> None:
    """Refuse to start from another net.

    Raises:
        UsageError: that one has another cell, other sizes or features.
    """
    what = start.differs(config.cell, config.sizes, backbone.weights_id)
    if not what and start.config["finetune"] not in (0, config.finetune):
        what = "CNN's trained stages"
    if what:
        raise UsageError(
            f"{start.name} cannot be started from: its {what} differ from this run's",
            hint="leave out --cell, --size, --backbone, --weights and --finetune: they are its own"
            " then",
        )


def _is_main() -> bool:
    """Whether this is the process that writes, where Lightning started several."""
    return bool(rank_zero_only.rank == 0)  # type: ignore[attr-defined]


@contextmanager
def _quick_products() -> Iterator[None]:
    """Let matrix products take bfloat16 inputs where the processor has them."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _claim(config: TrainConfig, output: Path, *, resume: bool) -> None:
    """Take the folder for this configuration, or refuse."""
    claim = output / "config.json"
    wanted = TrainConfig.from_dict(asdict(config))
    if resume:
        if not claim.is_file():
            raise UsageError(
                f"{output} holds no run to resume", hint="leave --resume out to start one"
            )
        before = TrainConfig.from_dict(json.loads(claim.read_text(encoding="utf-8")))
        if before != wanted:
            raise UsageError(
                f"{output} was started with another configuration",
                hint="use the settings in its config.json, or another --output",
            )
        return
    if output.exists() and any(output.iterdir()):
        raise UsageError(f"{output} is not empty", hint="choose another --output, or --resume it")
    output.mkdir(parents=True, exist_ok=True)
    write_json(claim, asdict(config))


def _fit(
    config: TrainConfig,
    data: Data,
    trainee: Trainee,
    output: Path,
    hardware: Mapping[str, Any],
    *,
    resume: bool,
) -> tuple[Trainee, dict[str, object]]:
    """Run Lightning's loop; return the best epoch's weights and its facts."""
    folder = output / "lightning"
    last = folder / "last.ckpt"
    if resume and not last.is_file():
        resume = False  # killed before the first epoch ended: start over, the result is the same
    keep = callbacks.ModelCheckpoint(
        folder,
        filename="best",
        monitor=None if config.reward else "dev_perplexity",
        save_last=True,
        enable_version_counter=False,
    )
    used: list[callbacks.Callback] = [
        keep,
        callbacks.RichProgressBar(console_kwargs={"stderr": True}),
    ]
    if not config.reward:  # which is paid for in perplexity
        used.append(callbacks.EarlyStopping("dev_perplexity", patience=config.patience))
    if config.average:
        used.append(callbacks.WeightAveraging(avg_fn=partial(_average, config.average)))
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        # One process reads from memory; Lightning would rather have worker processes.
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        warnings.filterwarnings("ignore", ".*exists and is not empty.*")  # checked by _claim
        warnings.filterwarnings("ignore", ".*in eval mode at the start.*")  # Trainee.train
        warnings.filterwarnings("ignore", ".*LeafSpec.* is deprecated")  # Lightning's own use
        trainer = lightning.Trainer(
            **hardware,
            precision=config.precision,  # type: ignore[arg-type]
            accumulate_grad_batches=config.accumulate,
            max_epochs=config.epochs,
            gradient_clip_val=config.clip,
            callbacks=used,
            logger=[loggers.CSVLogger(folder, "", ""), loggers.TensorBoardLogger(folder, "", "")],
            log_every_n_steps=1,
            num_sanity_val_steps=0,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        if resume:
            _keep_metrics(trainer, last)
        trainer.fit(trainee, data, ckpt_path=last if resume else None, weights_only=True)
        curve = tuple(trainee.curve)
        if not _is_main():
            return trainee, {}
        checkpoint = torch.load(keep.best_model_path, map_location="cpu", weights_only=True)
        trainee.load_state_dict(checkpoint["state_dict"])
        # A trainer of its own: the other one would swap in its average of the weights.
        judge = lightning.Trainer(
            logger=False, enable_progress_bar=False, enable_model_summary=False, devices=1
        )
        (scores,) = judge.validate(trainee, data, verbose=False)
    facts: dict[str, object] = {
        "epochs": trainer.current_epoch,
        "best_epoch": int(checkpoint["epoch"]) + 1,
        "dev_perplexity": round(scores["dev_perplexity"], 4),
        "curve": curve,
    }
    return trainee, facts


def _keep_metrics(trainer: lightning.Trainer, checkpoint: Path) -> None:
    """Give metrics.csv the rows of the epochs that are not run again; its logger starts it anew."""
    table = checkpoint.with_name("metrics.csv")
    if not (trainer.is_global_zero and table.is_file()):
        return
    epochs = torch.load(checkpoint, map_location="cpu", weights_only=True)["epoch"]
    with table.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if int(row["epoch"]) <= epochs]
    for logger in trainer.loggers:
        if isinstance(logger, loggers.CSVLogger):
            logger.experiment.metrics += rows
            logger.experiment.save()


def _average(decay: float, average: Tensor, weight: Tensor, count: Tensor) -> Tensor:
    """One step of the weights' exponential average, which forgets the first ones sooner.

    With the decay from the first step on, a short run would end with much of what it began with.
    """
    kept = torch.clamp((1 + count) / (10 + count), max=decay)
    return average + (1 - kept) * (weight - average)
