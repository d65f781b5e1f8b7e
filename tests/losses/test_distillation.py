import math

import numpy as np
import pytest
import torch
import torch.distributed as dist

from ssl_vision.losses import dino_loss, sinkhorn
from ssl_vision.losses.distillation import (
    cross_entropy_rows,
    cross_view_entropy,
    entropy,
    masked_patch_entropy,
)
from ssl_vision.masking import patch_weights
from ssl_vision.nn.centering import Center


def test_losses_gradients_and_centres_equal_the_authors(golden):
    values = golden("dino")
    num_prototypes, num_images, num_views = values["loss_config"]
    center = Center(int(num_prototypes), momentum=0.9)
    for step, epoch in enumerate(values["loss_epochs"]):
        student = torch.tensor(values[f"loss_step{step}_student"], requires_grad=True)
        teacher = torch.tensor(values[f"loss_step{step}_teacher"])
        assert len(student) == num_images * num_views
        loss = dino_loss(
            student,
            teacher,
            center=center.center,
            student_temperature=0.1,
            teacher_temperature=float(values["loss_teacher_temp_schedule"][epoch]),
            num_views=int(num_views),
        )
        loss.backward()
        center.collect(teacher)
        center.update()
        expected = values[f"loss_step{step}_grad_student"]
        assert loss.item() == pytest.approx(float(values[f"loss_step{step}_loss"]), rel=1e-6)
        np.testing.assert_allclose(student.grad, expected, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(
            center.center, values[f"loss_step{step}_center_after"], rtol=1e-5, atol=1e-8
        )


def _textbook_dino(student, teacher, center, student_temperature, teacher_temperature):
    """Algorithm 1, pair by pair; student (V, B, K), teacher (2, B, K)."""
    terms = []
    for i in range(2):
        targets = torch.softmax((teacher[i] - center) / teacher_temperature, dim=-1)
        for v in range(len(student)):
            if v != i:
                log_p = torch.log_softmax(student[v] / student_temperature, dim=-1)
                terms.append(-(targets * log_p).sum(dim=-1).mean())
    return sum(terms) / len(terms)


@pytest.mark.parametrize("num_views", [2, 3, 10])
def test_equals_the_equation_written_with_loops(num_views):
    torch.manual_seed(0)
    student = torch.randn(num_views, 3, 7, dtype=torch.float64, requires_grad=True)
    teacher, center = torch.randn(2, 3, 7).double(), torch.randn(1, 7).double()
    expected = _textbook_dino(student, teacher, center, 0.1, 0.05)
    (gradient,) = torch.autograd.grad(expected, student)
    ours = student.detach().float().flatten(0, 1).requires_grad_()
    loss = dino_loss(
        ours,
        teacher.float().flatten(0, 1),
        center=center.float(),
        student_temperature=0.1,
        teacher_temperature=0.05,
        num_views=num_views,
    )
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    np.testing.assert_allclose(ours.grad.view(student.shape), gradient, rtol=1e-3, atol=1e-6)


def test_uniform_outputs_cost_ln_k():
    logits = torch.zeros(6, 11)
    loss = dino_loss(logits, logits[:4], center=0.0, student_temperature=0.1,
                     teacher_temperature=0.04, num_views=3)  # fmt: skip
    assert loss.item() == pytest.approx(math.log(11), rel=1e-6)
    assert entropy(torch.full((4, 11), 1 / 11)).item() == pytest.approx(math.log(11))


def test_no_gradient_reaches_the_teacher():
    teacher = torch.randn(4, 5, requires_grad=True)
    student = torch.randn(4, 5, requires_grad=True)
    dino_loss(student, teacher, center=0.0, student_temperature=0.1, teacher_temperature=0.04,
              num_views=2).backward()  # fmt: skip
    assert teacher.grad is None
    assert student.grad is not None


def test_half_precision_logits_are_computed_in_full():
    torch.manual_seed(0)
    student, targets = torch.randn(3, 2, 8).bfloat16(), torch.rand(2, 2, 8).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = cross_view_entropy(student, targets, temperature=0.1)
    torch.testing.assert_close(
        loss, cross_view_entropy(student.float(), targets.float(), temperature=0.1)
    )


def test_patches_are_averaged_per_image_then_over_all_images():
    torch.manual_seed(0)
    mask = torch.tensor([[1, 1, 0, 1], [0, 0, 0, 0], [0, 1, 0, 0]]).bool()
    student, targets = torch.randn(4, 5), torch.softmax(torch.randn(4, 5), dim=-1)
    rows = [-(targets[i] * torch.log_softmax(student[i] / 0.1, -1)).sum().item() for i in range(4)]
    expected = (sum(rows[:3]) / 3 + 0 + rows[3]) / 3
    loss = masked_patch_entropy(
        student, targets, temperature=0.1, weight=patch_weights(mask), num_images=3
    )
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(
        cross_entropy_rows(student, targets, temperature=0.1), rows, rtol=1e-5
    )


def _textbook_sinkhorn(logits, temperature, iterations):
    """Algorithm 1 of SwAV's appendix, with its factors of M and K, in float64."""
    q = torch.exp(logits.double() / temperature).T  # prototypes x samples
    q = q / q.sum()
    for _ in range(iterations):
        q = q / q.sum(dim=1, keepdim=True) / q.shape[0]
        q = q / q.sum(dim=0, keepdim=True) / q.shape[1]
    return (q * q.shape[1]).T


def test_sinkhorn_equals_swavs_algorithm():
    torch.manual_seed(0)
    logits = torch.randn(6, 9).clamp(-2, 2)
    expected = _textbook_sinkhorn(logits, 0.07, 3)
    np.testing.assert_allclose(
        sinkhorn(logits, temperature=0.07, iterations=3), expected, rtol=1e-4, atol=1e-9
    )


@pytest.mark.parametrize("key", ["sk.out_t0.07", "sk.patch_out_t0.07"])
def test_sinkhorn_equals_the_authors_of_poa(golden, key):
    values = golden("poa_loss")
    q = sinkhorn(torch.tensor(values["sk.logits"]), temperature=0.07)
    np.testing.assert_allclose(q, values[key], rtol=1e-5, atol=1e-9)


def test_sinkhorn_does_not_overflow():
    q = sinkhorn(torch.tensor([[1000.0, 999.0], [998.0, 1000.0]]), temperature=0.04)
    assert q.isfinite().all()
    torch.testing.assert_close(q.sum(dim=1), torch.ones(2))


def _one_process_of_two(logits, sizes):
    rank = dist.get_rank()
    part = torch.tensor(logits).split(sizes)[rank]
    center = Center(part.shape[1], momentum=0.9)
    center.collect(part)
    center.update()
    return sinkhorn(part, temperature=0.1).numpy(), center.center.numpy()


@pytest.mark.distributed
def test_two_processes_equal_one_on_the_joined_rows(run_distributed):
    torch.manual_seed(0)
    logits = torch.randn(8, 5)
    center = Center(5, momentum=0.9)
    center.collect(logits)
    center.update()
    expected = sinkhorn(logits, temperature=0.1).numpy()
    # Also with unequal numbers of rows, as masked patches have.
    results = run_distributed(_one_process_of_two, logits.numpy(), [3, 5])
    np.testing.assert_allclose(np.concatenate([r[0] for r in results]), expected, rtol=1e-5)
    for _, moved in results:
        np.testing.assert_allclose(moved, center.center.numpy(), rtol=1e-5, atol=1e-8)
