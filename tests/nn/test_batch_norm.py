import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from ssl_vision.distributed import rank
from ssl_vision.nn.batch_norm import synchronize_batch_norm

BATCH = torch.randn(8, 5, 3, 3, generator=torch.Generator().manual_seed(0)) * 3 + 1
TARGET = torch.randn(8, 5, 3, 3, generator=torch.Generator().manual_seed(1))


def network() -> nn.Sequential:
    torch.manual_seed(2)
    return nn.Sequential(nn.Conv2d(5, 5, 1), nn.BatchNorm2d(5), BatchNormAct2d(5))


def step(layers: nn.Module, images: torch.Tensor, target: torch.Tensor):
    output = layers(images)
    (output - target).square().mean().backward()
    gradients = [p.grad.clone() for p in layers.parameters()]
    return gradients, [b.clone() for b in layers.buffers()]


def share():
    layers = network()
    names = list(layers.state_dict())
    synchronize_batch_norm(layers, device_type="cpu")
    synchronize_batch_norm(layers, device_type="cpu")  # twice is once
    assert list(layers.state_dict()) == names
    rows = slice(4 * rank(), 4 * rank() + 4)
    gradients, buffers = step(layers, BATCH[rows], TARGET[rows])
    return [g.numpy() for g in gradients], [b.numpy() for b in buffers]


def test_one_process_is_plain_batch_norm() -> None:
    plain, synced = network(), network()
    synchronize_batch_norm(synced, device_type="cpu")
    for a, b in zip(step(plain, BATCH, TARGET), step(synced, BATCH, TARGET), strict=True):
        for x, y in zip(a, b, strict=True):
            torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(plain.eval()(BATCH), synced.eval()(BATCH), rtol=1e-5, atol=1e-6)


@pytest.mark.distributed
def test_two_processes_are_one_batch(run_distributed) -> None:
    """Mean of the processes' gradients, as DDP takes it, is the gradient on the joined batch."""
    gradients, buffers = step(network(), BATCH, TARGET)
    parts = run_distributed(share)
    for i, expected in enumerate(gradients):
        mean = torch.stack([torch.from_numpy(part[0][i]) for part in parts]).mean(dim=0)
        torch.testing.assert_close(mean, expected, rtol=1e-4, atol=1e-6)
    for i, expected in enumerate(buffers):
        for part in parts:
            torch.testing.assert_close(torch.as_tensor(part[1][i]), expected, rtol=1e-5, atol=1e-6)
