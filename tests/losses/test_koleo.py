import math

import numpy as np
import pytest
import torch

from ssl_vision.losses import koleo


def test_equals_the_equation_written_with_loops():
    torch.manual_seed(0)
    x = torch.randn(6, 4, dtype=torch.float64)
    unit = x / x.norm(dim=1, keepdim=True)
    logs = []
    for i in range(6):
        distances = [float((unit[i] - unit[j]).norm()) for j in range(6) if j != i]
        logs.append(-math.log(min(distances)))
    assert koleo(x.float()).item() == pytest.approx(sum(logs) / 6, rel=1e-5)


def test_equals_the_authors_of_poa(golden):
    values = golden("poa_loss")
    keys = [k for k in values if "koleo." in k and k.endswith(".in")]
    assert len(keys) == 9
    for key in keys:
        expected = values[key.removesuffix("in") + "out"]
        np.testing.assert_allclose(koleo(torch.tensor(values[key])), expected, rtol=1e-5)


def test_falls_when_features_spread():
    near = torch.tensor([[1.0, 0.0], [1.0, 0.01]])
    far = torch.tensor([[1.0, 0.0], [-1.0, 0.01]])
    assert koleo(far) < koleo(near)


def test_is_finite_for_equal_features():
    x = torch.ones(3, 4, requires_grad=True)
    koleo(x).backward()
    assert x.grad.isfinite().all()
