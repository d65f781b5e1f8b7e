"""Optimizers, clipping and teachers on parameters that FSDP2 spreads over processes."""

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from ssl_vision.nn.ema import EmaTeacher
from ssl_vision.optim import LARS, clip_gradients


def _network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7), nn.Linear(7, 3))


def _train(network, teacher, *, mode, name):
    parameters = list(network.parameters())
    optimizer = (
        LARS(parameters, lr=0.5, weight_decay=0.1)
        if name == "lars"
        else torch.optim.AdamW(parameters, lr=0.1)
    )
    for step in range(3):
        images = torch.randn(4, 5, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        network(images).square().sum().backward()
        clip_gradients([parameters], max_norm=0.3, mode=mode)
        optimizer.step()
        teacher.update(network, momentum=0.9)


def _largest_difference():
    mesh = init_device_mesh("cpu", (2,))
    worst = 0.0
    for mode, name in (("global", "lars"), ("per_tensor", "adamw"), ("per_module", "lars")):
        whole, sharded = _network(), _network()
        teachers = EmaTeacher(whole), EmaTeacher(sharded)
        fully_shard(sharded, mesh=mesh)
        fully_shard(teachers[1], mesh=mesh)
        _train(whole, teachers[0], mode=mode, name=name)
        _train(sharded, teachers[1], mode=mode, name=name)
        expected = [*whole.parameters(), *teachers[0].parameters()]
        found = [*sharded.parameters(), *teachers[1].parameters()]
        for a, b in zip(expected, found, strict=True):
            worst = max(worst, (a - b.full_tensor()).abs().max().item())
    return worst


@pytest.mark.distributed
def test_sharded_training_equals_whole_training(run_distributed):
    assert max(run_distributed(_largest_difference)) < 1e-6
