"""Chamfer distances against loops, the authors' values and gradients, and numerical gradients."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from ssl_vision.errors import DataError
from ssl_vision.losses.chamfer import chamfer_distance, nearest_squared

Golden = Callable[[str], dict[str, np.ndarray]]


def textbook(a: torch.Tensor, b: torch.Tensor, power: int) -> float:
    """The definition, point by point."""

    def one_way(x: torch.Tensor, y: torch.Tensor) -> float:
        distances = [
            min(math.dist(p, q) for q in y[i].tolist())
            for i in range(len(x))
            for p in x[i].tolist()
        ]
        return sum(d**power for d in distances) / len(distances)

    total = one_way(a, b) + one_way(b, a)
    return total / 2 if power == 1 else total


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("chunk_elements", [None, 1, 17, 40, 100])
def test_equals_the_definition_in_any_chunks(power: int, chunk_elements: int | None) -> None:
    a, b = torch.randn(3, 5, 3), torch.randn(3, 8, 3)
    value = chamfer_distance(a, b, power=power, chunk_elements=chunk_elements)
    assert value.item() == pytest.approx(textbook(a, b, power), rel=1e-5)


@pytest.mark.parametrize("power", [1, 2])
def test_value_and_gradients_equal_the_authors(golden: Golden, power: int) -> None:
    values = golden("point")
    a, b = (torch.from_numpy(values[f"chamfer_{k}"]).requires_grad_() for k in "ab")
    loss = chamfer_distance(a, b, power=power)
    loss.backward()
    assert loss.item() == pytest.approx(float(values[f"chamfer_l{power}"]), rel=1e-6)
    for tensor, name in ((a, "a"), (b, "b")):
        np.testing.assert_allclose(
            tensor.grad.numpy(), values[f"chamfer_l{power}_grad_{name}"], atol=1e-6
        )


def test_pairs_equal_the_authors(golden: Golden) -> None:
    values = golden("point")
    a, b = (torch.from_numpy(values[f"chamfer_{k}"]) for k in "ab")
    squared_a, squared_b, index_a, index_b = nearest_squared(a, b)
    np.testing.assert_allclose(squared_a.numpy(), values["chamfer_sqdist_a_to_b"], rtol=1e-5)
    np.testing.assert_allclose(squared_b.numpy(), values["chamfer_sqdist_b_to_a"], rtol=1e-5)
    assert np.array_equal(index_a.numpy(), values["chamfer_index_a_to_b"])
    assert np.array_equal(index_b.numpy(), values["chamfer_index_b_to_a"])


@pytest.mark.parametrize("power", [1, 2])
def test_gradient_is_the_slope(power: int) -> None:
    a = torch.randn(2, 4, 3).requires_grad_()
    direction = torch.randn(2, 4, 3)
    b = torch.randn(2, 6, 3)
    (slope,) = torch.autograd.grad(chamfer_distance(a, b, power=power), a)
    step = 1e-6  # small enough that no nearest point changes
    start, direction = a.detach().double(), direction.double()
    rise = textbook(start + step * direction, b, power) - textbook(
        start - step * direction, b, power
    )
    assert float((slope * direction).sum()) == pytest.approx(rise / (2 * step), rel=1e-4)


def test_is_symmetric_and_ignores_order_and_rigid_motion() -> None:
    a, b = torch.randn(2, 30, 3), torch.randn(2, 20, 3)
    rotation, _ = torch.linalg.qr(torch.randn(3, 3))
    value = chamfer_distance(a, b, power=2)
    for other in (
        chamfer_distance(b, a, power=2),
        chamfer_distance(a[:, torch.randperm(30)], b[:, torch.randperm(20)], power=2),
        chamfer_distance(a @ rotation + 1, b @ rotation + 1, power=2),
    ):
        assert other.item() == pytest.approx(value.item(), rel=1e-4)


@pytest.mark.parametrize("power", [1, 2])
def test_equal_clouds_have_distance_and_gradient_zero(power: int) -> None:
    a = torch.randn(1, 9, 3).requires_grad_()
    loss = chamfer_distance(a, a.detach()[:, torch.randperm(9)], power=power)
    loss.backward()
    assert loss == 0
    assert (a.grad == 0).all()


def test_duplicates_change_no_minimum() -> None:
    a, b = torch.randn(1, 6, 3), torch.randn(1, 6, 3)
    doubled = chamfer_distance(a.repeat(1, 2, 1), b, power=2)
    assert doubled.item() == pytest.approx(chamfer_distance(a, b, power=2).item(), rel=1e-6)
    _, _, index, _ = nearest_squared(a, a.repeat(1, 2, 1))
    assert torch.equal(index[0], torch.arange(6))  # of equal points the first


def test_half_precision_is_computed_in_single() -> None:
    a, b = torch.randn(1, 16, 3), torch.randn(1, 16, 3)
    low = chamfer_distance(a.bfloat16(), b.bfloat16(), power=2)
    assert low.dtype == torch.float32
    full = chamfer_distance(a.bfloat16().float(), b.bfloat16().float(), power=2)
    assert low.item() == pytest.approx(full.item(), rel=1e-6)


def test_unusable_clouds_are_refused() -> None:
    with pytest.raises(DataError, match="empty"):
        chamfer_distance(torch.zeros(1, 0, 3), torch.zeros(1, 2, 3), power=2)
    with pytest.raises(DataError, match=r"\(B, n, 3\)"):
        chamfer_distance(torch.zeros(2, 4, 3), torch.zeros(1, 4, 3), power=2)
    with pytest.raises(ValueError, match="power=3"):
        chamfer_distance(torch.zeros(1, 1, 3), torch.zeros(1, 1, 3), power=3)
