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


def test_statistics_come_back_into_a_network_whose_buffers_are_others_by_now():
    network = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2, track_running_stats=False))
    statistics = RunningStatistics()
    statistics.remember(network)
    network.double()  # new tensors, as after a move to a device
    network(torch.arange(6, dtype=torch.float64).view(3, 2))
    statistics.remember(network)
    network(torch.full((3, 2), torch.nan, dtype=torch.float64))
    statistics.restore()
    torch.testing.assert_close(network[0].running_mean, 0.1 * torch.tensor([2.0, 3.0]).double())
    assert network[0].num_batches_tracked == 1
