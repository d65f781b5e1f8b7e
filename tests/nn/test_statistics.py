import torch
from torch import nn

from ssl_vision.nn.statistics import RunningStatistics


def test_statistics_come_back_as_they_were():
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.LayerNorm(4))
    network(torch.randn(8, 3))
    before = {name: b.clone() for name, b in network.named_buffers()}
    statistics = RunningStatistics()
    statistics.remember(network)
    network(torch.full((8, 3), torch.nan))
    assert network[1].running_mean.isnan().all()
    statistics.restore()
    for name, buffer in network.named_buffers():
        assert torch.equal(buffer, before[name]), name


def test_the_latest_memory_counts_and_networks_without_norms_are_fine():
    network = nn.Sequential(nn.BatchNorm1d(2))
    statistics = RunningStatistics()
    statistics.restore()
    for value in (1.0, 2.0):
        network[0].running_mean.fill_(value)
        statistics.remember(network)
    network[0].running_mean.fill_(9.0)
    statistics.restore()
    assert (network[0].running_mean == 2.0).all()
    RunningStatistics().remember(nn.Linear(2, 2))
