import numpy as np
import pytest
import torch
import torch.distributed as dist

from ssl_vision.errors import DataError
from ssl_vision.losses import vicreg_loss
from ssl_vision.losses.vicreg import vicreg_terms


def _value_and_gradients(z_a, z_b):
    z_a, z_b = (torch.as_tensor(z).clone().requires_grad_() for z in (z_a, z_b))
    loss = vicreg_loss(z_a, z_b)
    loss.backward()
    return loss.item(), z_a.grad.numpy(), z_b.grad.numpy()


def _textbook(z_a, z_b):
    """Equations 1 to 6 in the code's form, entry by entry, in float64."""
    num, width = z_a.shape
    invariance = sum((z_a[n] - z_b[n]).square().sum() for n in range(num)) / (num * width)
    variance = covariance = 0.0
    for z in (z_a, z_b):
        means = [sum(z[n, j] for n in range(num)) / num for j in range(width)]
        for i in range(width):
            for j in range(width):
                c = sum((z[n, i] - means[i]) * (z[n, j] - means[j]) for n in range(num)) / (num - 1)
                if i == j:
                    deviation = (c + 1e-4).sqrt()
                    variance = variance + max(0.0, 1 - deviation) / (2 * width)
                else:
                    covariance = covariance + c**2 / width
    return 25 * invariance + 25 * variance + covariance


@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])  # below, around and above the hinge
def test_equals_the_equations_written_with_loops(scale):
    z_a, z_b = scale * torch.randn(7, 4), scale * torch.randn(7, 4)
    loss, grad_a, grad_b = _value_and_gradients(z_a, z_b)
    z_a, z_b = (z.double().requires_grad_() for z in (z_a, z_b))
    expected = _textbook(z_a, z_b)
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    np.testing.assert_allclose(grad_a, z_a.grad.numpy(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(grad_b, z_b.grad.numpy(), rtol=1e-5, atol=1e-5)


def test_covariance_is_numpys():
    z = torch.randn(9, 5).double()
    matrix = np.cov(z.numpy(), rowvar=False)
    off = (matrix**2).sum() - (np.diag(matrix) ** 2).sum()
    terms = vicreg_terms(z, z)
    assert terms.covariance.item() == pytest.approx(2 * off / 5, rel=1e-9)
    assert terms.invariance == 0


def test_the_constant_solution_is_what_costs():
    constant = torch.ones(8, 4)
    terms = vicreg_terms(constant, constant)
    assert terms.variance.item() == pytest.approx(0.99)  # 1 - sqrt(1e-4)
    assert terms.covariance == 0
    spread = 2 * torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
    assert sum(vicreg_terms(spread, spread)) < 1e-10


def test_a_shift_does_not_matter_to_variance_and_covariance():
    z_a, z_b = torch.randn(8, 4).double(), torch.randn(8, 4).double()
    plain, moved = vicreg_terms(z_a, z_b), vicreg_terms(z_a + 7, z_b)
    torch.testing.assert_close(plain.variance, moved.variance)
    torch.testing.assert_close(plain.covariance, moved.covariance)
    assert not torch.isclose(plain.invariance, moved.invariance)


def test_half_precision_inputs_are_computed_in_full():
    z = torch.randn(8, 4).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = vicreg_loss(z, z)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, vicreg_loss(z.float(), z.float()))


def test_one_sample_is_refused_with_the_way_out():
    with pytest.raises(DataError, match="batch of 2 or more"):
        vicreg_loss(torch.randn(1, 4), torch.randn(1, 4))


def _one_process_of_two(z_a, z_b):
    half = slice(0, 4) if dist.get_rank() == 0 else slice(4, 8)
    return _value_and_gradients(z_a[half], z_b[half])


@pytest.mark.distributed
def test_two_processes_equal_one_on_the_joined_batch(run_distributed):
    z_a, z_b = 0.8 * torch.randn(8, 5), 0.8 * torch.randn(8, 5)
    loss, grad_a, grad_b = _value_and_gradients(z_a, z_b)
    results = run_distributed(_one_process_of_two, z_a.numpy(), z_b.numpy())
    assert np.mean([r[0] for r in results]) == pytest.approx(loss, rel=1e-6)
    for k, expected in ((1, grad_a), (2, grad_b)):
        joined = np.concatenate([r[k] for r in results]) / 2
        np.testing.assert_allclose(joined, expected, rtol=1e-5, atol=1e-6)
