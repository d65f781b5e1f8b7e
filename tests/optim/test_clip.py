import math

import numpy as np
import pytest
import torch
from torch import nn

from ssl_vision.optim import clip_gradients


def _params(*gradients):
    params = [nn.Parameter(torch.zeros_like(g)) for g in gradients]
    for param, gradient in zip(params, gradients, strict=True):
        param.grad = gradient.clone()
    return params


def test_per_tensor_clip_equals_dinos(golden):
    values = golden("dino")
    params = _params(*(torch.tensor(values[f"clip_{n}_grad_before"]) for n in "ab"))
    clip_gradients([params], max_norm=float(values["clip_value"]), mode="per_tensor")
    for name, param in zip("ab", params, strict=True):
        np.testing.assert_allclose(param.grad, values[f"clip_{name}_grad_after"], rtol=1e-6)


def test_global_clip_equals_torchs():
    torch.manual_seed(0)
    gradients = [torch.randn(3, 4), torch.randn(5) * 4]
    ours, torchs = _params(*gradients), _params(*gradients)
    clip_gradients([ours], max_norm=1.5, mode="global")
    nn.utils.clip_grad_norm_(torchs, 1.5)
    for a, b in zip(ours, torchs, strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_per_module_clip_takes_one_norm_per_module():
    small, large = _params(torch.tensor([0.3, 0.4])), _params(torch.tensor([3.0]), torch.ones(1))
    clip_gradients([small, large], max_norm=1.0, mode="per_module")
    torch.testing.assert_close(small[0].grad, torch.tensor([0.3, 0.4]))
    norm = math.sqrt(sum(float(p.grad.square().sum()) for p in large))
    assert norm == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("mode", ["global", "per_tensor", "per_module"])
def test_parameters_without_gradient_are_passed_over(mode):
    clip_gradients([[nn.Parameter(torch.ones(2))], []], max_norm=1.0, mode=mode)
