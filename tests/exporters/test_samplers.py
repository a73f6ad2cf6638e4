"""Which process sees which caption when."""

from itertools import chain

import pytest
from torch.utils.data import DistributedSampler

from mrnn_exporters.train import EpochSampler


@pytest.mark.parametrize(("count", "processes"), [(10, 1), (10, 3), (2, 5), (12, 4)])
def test_captions_are_shuffled_as_torch_does(count: int, processes: int) -> None:
    for rank in range(processes):
        options = {"num_replicas": processes, "rank": rank, "seed": 7}
        sampler = EpochSampler(range(count), **options)
        theirs = DistributedSampler(range(count), **options)
        for epoch in (0, 3):
            sampler.set_epoch(epoch)
            theirs.set_epoch(epoch)
            assert list(sampler) == [(index, epoch) for index in theirs]
            assert len(list(sampler)) == len(sampler)


@pytest.mark.parametrize("processes", [1, 3])
def test_in_order_each_caption_is_there_once(processes: int) -> None:
    samplers = [
        EpochSampler(range(10), num_replicas=processes, rank=rank, shuffle=False)
        for rank in range(processes)
    ]
    assert [len(sampler) for sampler in samplers] == [len(list(sampler)) for sampler in samplers]
    assert sorted(chain(*samplers)) == [(i, 0) for i in range(10)]
