import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from ssl_vision.distributed import rank
from ssl_vision.nn.batch_norm import synchronize_batch_norm, with_fitted_batch_norms

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


def test_fitted_batch_norms_average_the_statistics_of_full_batches() -> None:
    """Layer after layer, in training mode, written as a loop; the odd last batch is left out."""
    drawn = network()
    state = {name: value.clone() for name, value in drawn.state_dict().items()}
    batches = [BATCH[:4], BATCH[4:], BATCH[:3]]
    fitted = with_fitted_batch_norms(drawn, batches)
    conv, first, second = drawn.train()
    means: list[list[torch.Tensor]] = [[], []]
    variances: list[list[torch.Tensor]] = [[], []]
    for batch in batches[:2]:
        x = conv(batch)
        for i, norm in enumerate((first, second)):
            means[i].append(x.mean(dim=(0, 2, 3)))
            variances[i].append(x.var(dim=(0, 2, 3)))  # unbiased, as running statistics are
            x = norm(x)
    for i in range(2):
        norm = fitted[i + 1]
        torch.testing.assert_close(norm.running_mean, torch.stack(means[i]).mean(dim=0))
        torch.testing.assert_close(norm.running_var, torch.stack(variances[i]).mean(dim=0))
    drawn.load_state_dict(state)
    assert all(
        torch.equal(value, fitted.state_dict()[name])
        for name, value in state.items()
        if name.endswith(("weight", "bias"))
    )
    assert not fitted.training


def test_a_network_without_batch_norm_comes_back() -> None:
    plain = nn.Linear(3, 2)
    assert with_fitted_batch_norms(plain, [torch.zeros(2, 3)]) is plain


def fit_share():
    rows = slice(4 * rank(), 4 * rank() + 4)
    fitted = with_fitted_batch_norms(network(), [BATCH[rows]])
    return [buffer.numpy() for buffer in fitted.buffers()]


@pytest.mark.distributed
def test_two_processes_fit_to_the_joined_batch(run_distributed) -> None:
    expected = list(with_fitted_batch_norms(network(), [BATCH]).buffers())
    for part in run_distributed(fit_share):
        for found, wanted in zip(part, expected, strict=True):
            torch.testing.assert_close(torch.as_tensor(found), wanted, rtol=1e-5, atol=1e-6)
