import numpy as np
import pytest
import torch
from torch import nn

from ssl_vision.optim import LARS


def _run(values, prefix, names, rates, **settings):
    params = {n: nn.Parameter(torch.tensor(values[f"{prefix}{n}_init"])) for n in names}
    optimizer = LARS([{"params": [p]} for p in params.values()], lr=0.0, **settings)
    for step in range(3):
        for group, name in zip(optimizer.param_groups, names, strict=True):
            group["lr"] = rates(name)[step]
            params[name].grad = torch.tensor(values[f"{prefix}{name}_grad{step}"])
        optimizer.step()
        for name in names:
            expected = values[f"{prefix}{name}_after{step}"]
            np.testing.assert_allclose(
                params[name].detach().numpy(), expected, rtol=2e-6, atol=1e-7
            )


@pytest.mark.parametrize("decay", ["1e-6", "1e-1"])
def test_lars_equals_barlow_twins(golden, decay):
    values = golden("barlow")
    prefix = f"lars_wd{decay}_"

    def rates(name):
        return values[prefix + ("lrs_1d" if name == "p_b" else "lrs_weights")]

    names = ["p_w", "p_conv", "p_zero", "p_b"]
    _run(values, prefix, names, rates, weight_decay=float(decay))


def test_lars_equals_maes_linear_probe(golden):
    _run(golden("mae"), "lars_", ["p0", "p1"], lambda name: [6.4] * 3)


def test_momentum_forms_agree_at_a_constant_rate_only():
    torch.manual_seed(0)
    start, grads = torch.randn(4, 3), torch.randn(3, 4, 3)

    def run(rates, is_lr_in_momentum):
        param = nn.Parameter(start.clone())
        optimizer = LARS([param], lr=0.1, is_lr_in_momentum=is_lr_in_momentum)
        for lr, grad in zip(rates, grads, strict=True):
            optimizer.param_groups[0]["lr"] = lr
            param.grad = grad.clone()
            optimizer.step()
        return param.detach()

    constant = [1.0, 1.0, 1.0]
    torch.testing.assert_close(run(constant, False), run(constant, True))
    falling = [1.0, 0.5, 0.1]
    assert not torch.allclose(run(falling, False), run(falling, True))


def test_classic_momentum_equals_simclr(golden):
    values = golden("simclr_tf")
    names = ["conv.kernel", "batch_normalization.gamma", "head_supervised.kernel"]
    settings = [True, False, False]  # norms and the supervised head are exempt
    params = [nn.Parameter(torch.tensor(values[f"lars_init_{n}"])) for n in names]
    groups = [{"params": [p], "is_adapted": s} for p, s in zip(params, settings, strict=True)]
    optimizer = LARS(groups, lr=0.5, weight_decay=0.01, is_lr_in_momentum=True)
    for step in range(3):
        for name, param in zip(names, params, strict=True):
            param.grad = torch.tensor(values[f"lars_grad_{name}_{step}"])
        optimizer.step()
        for name, param in zip(names, params, strict=True):
            expected = values[f"lars_classic_{name}_step{step}"]
            np.testing.assert_allclose(param.detach().numpy(), expected, rtol=2e-6, atol=1e-7)


def test_gradients_are_left_as_they_are_and_missing_ones_skipped():
    param, frozen = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    param.grad = torch.full((2, 2), 0.5)
    LARS([param, frozen], lr=0.1, weight_decay=0.1).step()
    assert torch.equal(param.grad, torch.full((2, 2), 0.5))
    assert torch.equal(frozen, torch.ones(2, 2))
