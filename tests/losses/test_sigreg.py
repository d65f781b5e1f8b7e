import cmath
import math

import numpy as np
import pytest
import torch
import torch.distributed as dist
from scipy.integrate import quad

from ssl_vision.losses import sigreg
from ssl_vision.losses.sigreg import LejepaTerms, lejepa_terms, random_directions


def _directions(width=5, num=6):
    return random_directions(3, width=width, num=num)


def _textbook(z, directions, *, num_points=17, t_max=3.0):
    """The statistic of one view over the whole axis, point by point with complex numbers."""
    statistics = []
    for direction in directions.T:
        x = [float(row @ direction) for row in z]
        points = [t_max * k / (num_points - 1) for k in range(1 - num_points, num_points)]

        def height(t, x=x):
            empirical = sum(cmath.exp(1j * t * value) for value in x) / len(x)
            return abs(empirical - math.exp(-t * t / 2)) ** 2 * math.exp(-t * t / 2)

        heights = [height(t) for t in points]
        step = t_max / (num_points - 1)
        area = step * (sum(heights) - (heights[0] + heights[-1]) / 2)
        statistics.append(len(x) * area)
    return sum(statistics) / len(statistics)


def test_equals_the_equation_written_with_loops():
    z, directions = torch.randn(9, 5).double(), _directions().double()
    found = sigreg(z, directions).item()
    assert found == pytest.approx(_textbook(z, directions), rel=1e-9)
    coarse = {"num_points": 5, "t_max": 2.0}
    assert sigreg(z, directions, **coarse).item() == pytest.approx(
        _textbook(z, directions, **coarse), rel=1e-9
    )


def test_the_gradient_is_that_of_finite_differences():
    z, directions = torch.randn(4, 5).double().requires_grad_(), _directions().double()
    assert torch.autograd.gradcheck(lambda z: sigreg(z, directions), (z,))


def test_the_rule_is_near_the_integral():
    """Against adaptive quadrature of the statistic's closed form (Epps, Pulley 1983)."""
    x = torch.randn(12, 1).double()
    values = x.flatten().tolist()

    def height(t):
        real = np.mean(np.cos(t * np.array(values))) - math.exp(-t * t / 2)
        return (real**2 + np.mean(np.sin(t * np.array(values))) ** 2) * math.exp(-t * t / 2)

    expected = 12 * quad(height, -8, 8)[0]
    found = sigreg(x, torch.ones(1, 1), num_points=400, t_max=8.0).item()
    assert found == pytest.approx(expected, rel=1e-5)


def test_views_have_a_statistic_each_and_are_not_thrown_together():
    """spt #413: one statistic of all views' rows is another number."""
    z, directions = torch.randn(3, 8, 5).double(), _directions()
    each = [sigreg(view, directions).item() for view in z]
    assert sigreg(z, directions).item() == pytest.approx(sum(each) / 3, rel=1e-9)
    flattened = sigreg(z.flatten(0, 1), directions).item()
    assert abs(flattened - sum(each) / 3) > 1e-3


def test_normal_embeddings_give_the_known_mean_for_any_batch_and_others_more():
    generator = torch.Generator().manual_seed(0)
    expected = math.sqrt(2 * math.pi) * (1 - 1 / math.sqrt(3))  # of E |ecf - cf|^2 N = 1 - cf^2
    directions = _directions(width=8, num=64)
    for num in (16, 256):
        z = torch.randn(64, num, 8, generator=generator)
        assert sigreg(z, directions, t_max=5.0, num_points=65).item() == pytest.approx(
            expected, rel=0.05
        )
    z = torch.randn(4, 256, 8, generator=generator)
    normal = sigreg(z, directions).item()
    for other in (2 * z, z + 1, z.sign() * 0.1, z[..., :1] * torch.ones(8) / math.sqrt(8)):
        assert sigreg(other, directions).item() > 5 * normal
    constant = sigreg(torch.zeros(256, 8), directions).item()
    assert constant > 100


def test_the_weights_are_one_minus_lambda_and_lambda():
    """spt adds lambda times SIGReg to the whole of the other."""
    terms = LejepaTerms(prediction=torch.tensor(2.0), sigreg=torch.tensor(10.0))
    assert terms.total(0.05).item() == pytest.approx(0.95 * 2 + 0.05 * 10)
    assert terms.total(0.0) == 2
    assert terms.total(1.0) == 10


@pytest.mark.parametrize("num_global", [1, 2, 4])
def test_the_centre_is_the_mean_of_the_global_views(num_global):
    """lightly #2023 took the mean of all views."""
    z, directions = torch.randn(4, 6, 5).double().requires_grad_(), _directions()
    terms = lejepa_terms(z, directions, num_global=num_global)
    total = 0.0
    for b in range(6):
        centre = sum(z[v, b] for v in range(num_global)) / num_global
        for v in range(4):
            total = total + (z[v, b] - centre).square().sum() / (4 * 6 * 5)
    torch.testing.assert_close(terms.prediction, total)
    expected = torch.autograd.grad(total, z)[0]
    torch.testing.assert_close(torch.autograd.grad(terms.prediction, z)[0], expected)
    torch.testing.assert_close(terms.sigreg, sigreg(z, directions))


def test_directions_are_unit_vectors_and_depend_on_the_key_alone():
    first, again, other = (random_directions(key, width=7, num=50) for key in (1, 1, 2))
    torch.testing.assert_close(first.norm(dim=0), torch.ones(50))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    many = random_directions(5, width=3, num=20_000)
    torch.testing.assert_close(many @ many.T / 20_000, torch.eye(3) / 3, atol=0.01, rtol=0)


def test_half_precision_inputs_are_computed_in_full():
    z = torch.randn(2, 8, 5).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = lejepa_terms(z, _directions(), num_global=1)
    assert terms.sigreg.dtype == terms.prediction.dtype == torch.float32
    torch.testing.assert_close(terms.sigreg, sigreg(z.float(), _directions()))


def _value_and_gradient(z):
    z = torch.as_tensor(z).clone().requires_grad_()
    loss = lejepa_terms(z, _directions(), num_global=2).total(0.3)
    loss.backward()
    return loss.item(), z.grad.numpy()


def _one_process_of_two(z):
    return _value_and_gradient(z[:, :4] if dist.get_rank() == 0 else z[:, 4:])


@pytest.mark.distributed
def test_two_processes_equal_one_on_the_joined_batch(run_distributed):
    z = torch.randn(3, 8, 5)
    loss, gradient = _value_and_gradient(z)
    results = run_distributed(_one_process_of_two, z.numpy())
    assert np.mean([r[0] for r in results]) == pytest.approx(loss, rel=1e-6)
    joined = np.concatenate([r[1] for r in results], axis=1) / 2
    np.testing.assert_allclose(joined, gradient, rtol=1e-5, atol=1e-7)
