"""The CPU time of a training step: forward, backward and AdamW, on one core.

    python benchmarks/training_step.py [--vocabulary 10000] [--batch-size 256] [--json FILE]

CPU time, not the clock's, so that a busy machine says nearly the same as an idle one.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from torch.nn import functional

from mrnn_exporters.nets import pack
from mrnn_exporters.runs import TrainConfig, build_cell

WORDS = 11  # of a caption, and the sign at its end


def main() -> None:
    """Time five steps behind a first one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vocabulary", type=int, default=10_000)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--feature", type=int, default=1408)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = TrainConfig(datasets=())
    net = build_cell(config, vocabulary_size=given.vocabulary, feature_size=given.feature)
    optimizer = torch.optim.AdamW(net.parameters())
    tokens = pack([[5] * WORDS] * given.batch_size)
    target = torch.randint(4, given.vocabulary, (WORDS * given.batch_size,))
    features = torch.randn(given.batch_size, given.feature)
    taken = []
    for _ in range(6):
        began = time.process_time()
        functional.cross_entropy(net(tokens, features), target).backward()
        optimizer.step()
        optimizer.zero_grad()
        taken.append(time.process_time() - began)
    figures = {
        "vocabulary": given.vocabulary,
        "batch_size": given.batch_size,
        "core_seconds": round(sorted(taken[1:])[2], 3),
        "parameters": sum(p.numel() for p in net.parameters()),
    }
    print(json.dumps(figures))
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
