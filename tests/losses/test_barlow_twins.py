import numpy as np
import pytest
import torch
import torch.distributed as dist

from ssl_vision.errors import DataError
from ssl_vision.losses import barlow_twins_loss
from ssl_vision.losses.barlow_twins import barlow_twins_terms, cross_terms


def _value_and_gradients(z_a, z_b, **settings):
    z_a, z_b = (torch.as_tensor(z).clone().requires_grad_() for z in (z_a, z_b))
    loss = barlow_twins_loss(z_a, z_b, redundancy_weight=0.0051, **settings)
    loss.backward()
    return loss.item(), z_a.grad.numpy(), z_b.grad.numpy()


@pytest.mark.parametrize("case", ["n16_d8", "n32_d24"])
def test_value_and_gradient_equal_the_authors(golden, case):
    values = golden("barlow")
    prefix = f"loss_{case}_"
    loss, grad_a, grad_b = _value_and_gradients(values[prefix + "z1"], values[prefix + "z2"])
    assert loss == pytest.approx(float(values[prefix + "loss"]), rel=1e-6)
    np.testing.assert_allclose(grad_a, values[prefix + "grad_z1"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(grad_b, values[prefix + "grad_z2"], rtol=1e-4, atol=1e-6)


def _textbook(z_a, z_b, redundancy_weight):
    """Equations 1 and 2, entry by entry, in float64."""
    total = torch.zeros((), dtype=torch.float64)
    for i in range(z_a.shape[1]):
        for j in range(z_a.shape[1]):
            a, b = z_a[:, i] - z_a[:, i].mean(), z_b[:, j] - z_b[:, j].mean()
            c = (a * b).mean() / ((a.square().mean() + 1e-5) * (b.square().mean() + 1e-5)).sqrt()
            total = total + ((1 - c) ** 2 if i == j else redundancy_weight * c**2)
    return total


def test_equals_the_equation_written_with_loops():
    torch.manual_seed(0)
    z_a, z_b = torch.randn(9, 5), torch.randn(9, 5)
    loss, grad_a, _ = _value_and_gradients(z_a, z_b)
    z_a, z_b = z_a.double().requires_grad_(), z_b.double()
    expected = _textbook(z_a, z_b, 0.0051)
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-6)
    np.testing.assert_allclose(grad_a, z_a.grad.numpy(), rtol=1e-4, atol=1e-7)


def test_identical_decorrelated_views_have_no_loss():
    z = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
    terms = barlow_twins_terms(z, z)
    assert terms.invariance < 1e-8
    assert terms.redundancy < 1e-8


def test_scale_and_shift_of_a_dimension_do_not_matter():
    torch.manual_seed(0)
    z_a, z_b = torch.randn(8, 4), torch.randn(8, 4)
    plain = barlow_twins_loss(z_a, z_b, redundancy_weight=0.1)
    moved = barlow_twins_loss(z_a * 100 + 3, z_b, redundancy_weight=0.1)
    torch.testing.assert_close(plain, moved, rtol=1e-4, atol=1e-5)


def test_cross_terms_are_in_the_authors_order(golden):
    values = golden("barlow")
    picked = cross_terms(torch.tensor(values["off_diagonal_in"])).flatten()
    assert torch.equal(picked, torch.tensor(values["off_diagonal_out"]))


def test_half_precision_inputs_are_computed_in_full():
    torch.manual_seed(0)
    z = torch.randn(8, 4).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = barlow_twins_loss(z, z, redundancy_weight=0.1)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, barlow_twins_loss(z.float(), z.float(), redundancy_weight=0.1))


def test_one_sample_is_refused_with_the_way_out():
    with pytest.raises(DataError, match="batch of 2 or more"):
        barlow_twins_loss(torch.randn(1, 4), torch.randn(1, 4), redundancy_weight=0.1)


def _one_process_of_two(z_a, z_b, gradient):
    half = slice(0, 4) if dist.get_rank() == 0 else slice(4, 8)
    loss, grad_a, grad_b = _value_and_gradients(z_a[half], z_b[half], gradient=gradient)
    return loss, grad_a, grad_b


@pytest.mark.distributed
@pytest.mark.parametrize(("gradient", "share"), [("true", 1.0), ("authors", 0.5)])
def test_two_processes_equal_one_on_the_joined_batch(run_distributed, gradient, share):
    torch.manual_seed(0)
    z_a, z_b = torch.randn(8, 5).numpy(), torch.randn(8, 5).numpy()
    loss, grad_a, grad_b = _value_and_gradients(z_a, z_b)
    results = run_distributed(_one_process_of_two, z_a, z_b, gradient)
    for process_loss, _, _ in results:
        assert process_loss == pytest.approx(loss, rel=1e-5)
    # DDP averages the processes' parameter gradients, so each process must carry W times its part.
    for k, expected in ((1, grad_a), (2, grad_b)):
        joined = np.concatenate([r[k] for r in results]) / 2
        np.testing.assert_allclose(joined, share * expected, rtol=1e-4, atol=1e-6)
