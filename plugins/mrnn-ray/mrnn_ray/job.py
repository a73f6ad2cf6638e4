"""A run over many photos: parts go out to the workers of a cluster, a file a part comes back.

Ray schedules, restarts workers and repeats what was lost. That nothing is there twice does not rest
on it: whoever does a part again finds its file, or replaces it by the same one.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import ray
from ray.data import DataContext
from ray.exceptions import RayError

from mrnn_ray.operator import pool
from mrnn_ray.worker import Done, Worker
from mrnn_runtime import MrnnError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mrnn_ray.outputs import Output
    from mrnn_ray.parts import Part, Source
    from mrnn_ray.recipe import Recipe

# Blocks that Ray keeps track of; more parts than that share one.
_BLOCKS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What Ray is asked for.

    Attributes:
        concurrency: workers, or the bounds between which Ray chooses.
        num_cpus: cores of a worker.
        num_gpus: share of a GPU of a worker.
    """

    concurrency: int | tuple[int, int] | None = None
    num_cpus: int = 1
    num_gpus: float = 0


def run(
    parts: Sequence[Part], *, recipe: Recipe, source: Source, output: Output, resources: Resources
) -> Iterator[Done]:
    """Caption parts on the cluster that Ray is connected to; yield each that is done.

    Raises:
        MrnnError: a worker fails, and none that takes its place does better.
    """
    context = DataContext.get_current()
    context.enable_progress_bars = context.enable_operator_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    parts_of = ray.data.from_items(
        [{"part": part.to_json()} for part in parts], override_num_blocks=min(len(parts), _BLOCKS)
    )
    done = parts_of.map_batches(
        Worker,
        fn_constructor_kwargs={"recipe": recipe, "source": source, "output": output},
        batch_size=1,
        batch_format="numpy",
        compute=pool(resources.concurrency),
        num_cpus=resources.num_cpus,
        num_gpus=resources.num_gpus,
    )
    try:
        for row in done.iter_rows():
            yield Done(int(row["photos"]), int(row["failed"]))
    except RayError as error:
        said = " ".join(str(error).split())
        raise MrnnError(f"a worker failed: ...{said[-500:]}", hint="--resume goes on") from error


def connect(address: str | None) -> None:
    """Connect to a cluster, or start one on this machine.

    Raises:
        UsageError: there is none at that address.
    """
    if ray.is_initialized():
        return
    # What Ray has to say goes to its log files; stderr is ours.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # its advice for GPUs
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    # On a busy machine, what Ray starts beside a node takes longer than it waits for.
    os.environ.setdefault("RAY_agent_register_timeout_ms", "120000")
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            include_dashboard=False if address is None else None,
        )
    except (ConnectionError, ValueError) as error:
        raise UsageError(
            f"no cluster answers: {error}", hint="start one with ray start --head"
        ) from error
