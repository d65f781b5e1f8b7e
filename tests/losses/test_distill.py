import math

import numpy as np
import pytest
import torch

from ssl_vision.losses.distill import class_distillation, cosine_distance, normed_distance


@pytest.mark.parametrize("temperature", [0.1, 1.0, 2.0])
def test_class_distillation_equals_simclrs(golden, temperature):
    values = golden("simclr_tf")
    student = torch.tensor(values["kd_student"], requires_grad=True)
    teacher = torch.tensor(values["kd_teacher"], requires_grad=True)
    loss = class_distillation(student, teacher, temperature=temperature)
    loss.backward()
    assert loss.item() == pytest.approx(float(values[f"kd_loss_T{temperature}"]), rel=1e-5)
    np.testing.assert_allclose(
        student.grad, values[f"kd_grad_T{temperature}"], rtol=1e-4, atol=1e-6
    )
    assert teacher.grad is None


def test_class_distillation_is_the_equations_loop():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 4, 5, dtype=torch.float64)
    tau, total = 0.7, 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        above, below = sum(math.exp(x / tau) for x in t), sum(math.exp(x / tau) for x in s)
        for a, b in zip(t, s, strict=True):
            total -= math.exp(a / tau) / above * (b / tau - math.log(below))
    expected = tau**2 * total / 4
    loss = class_distillation(student, teacher, temperature=tau)
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_the_cosine_distance_knows_directions_only():
    rows = torch.randn(6, 3, 8)
    assert cosine_distance(3 * rows, rows).item() == pytest.approx(0, abs=1e-6)
    assert cosine_distance(-rows, rows).item() == pytest.approx(2, abs=1e-6)
    right = torch.tensor([[1.0, 0.0]])
    up = torch.tensor([[1.0, 1.0]])
    assert cosine_distance(right, up).item() == pytest.approx(1 - math.sqrt(0.5), abs=1e-6)


def test_the_normed_distance_is_smooth_l1_from_rows_of_mean_0_and_deviation_1():
    target = torch.randn(5, 16, dtype=torch.float64)
    normed = (target - target.mean(1, keepdim=True)) / target.std(1, correction=0, keepdim=True)
    assert normed_distance(normed, 9 * target + 2).item() == pytest.approx(0, abs=1e-9)
    assert normed_distance(normed + 0.5, target).item() == pytest.approx(0.125, rel=1e-3)
    assert normed_distance(normed + 4, target).item() == pytest.approx(3.5, rel=1e-3)
