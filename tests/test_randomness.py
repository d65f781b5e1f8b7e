import random

import numpy as np
import pytest
import torch

from ssl_vision.randomness import derive_key, keyed_uniform, seeded

MASK = 2**64 - 1


def splitmix(value: int) -> int:
    """splitmix64's finaliser in Python's unbounded integers."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


def test_keyed_uniform_is_splitmix64_in_plain_integers() -> None:
    key, ids = derive_key(7, "mask", 3), [0, 1, 123_456_789]
    drawn = keyed_uniform(key, torch.tensor(ids), 5)
    golden_step = 0x9E3779B97F4A7C15
    for row, sample in enumerate(ids):
        stream = splitmix((sample * golden_step + key) & MASK)
        for column in range(5):
            bits = splitmix((stream + (column + 1) * golden_step) & MASK)
            assert drawn[row, column].item() == (bits >> 40) * 2.0**-24


def test_a_sample_draws_the_same_in_any_batch() -> None:
    together = keyed_uniform(9, torch.arange(64), 7)
    alone = torch.cat([keyed_uniform(9, torch.tensor([i]), 7) for i in range(64)])
    assert torch.equal(together, alone)
    assert not torch.equal(together, keyed_uniform(10, torch.arange(64), 7))


def test_draws_are_uniform_and_uncorrelated() -> None:
    drawn = keyed_uniform(derive_key(0), torch.arange(2000), 50).double().numpy()
    counts, _ = np.histogram(drawn, bins=100, range=(0, 1))
    chi_square = ((counts - 1000) ** 2 / 1000).sum()
    assert 60 < chi_square < 150  # 99 degrees of freedom: 1e-3 quantiles are 58 and 149
    assert drawn.min() >= 0
    assert drawn.max() < 1
    correlation = np.corrcoef(drawn, rowvar=False)
    assert np.abs(correlation - np.eye(50)).max() < 0.1


def test_seeded_puts_the_global_generators_back() -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    expected = (torch.rand(1).item(), np.random.rand(), random.random())
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    with seeded(5):
        inside = (torch.rand(1).item(), np.random.rand(), random.random())
    with seeded(5):
        assert inside == (torch.rand(1).item(), np.random.rand(), random.random())
    assert expected == (torch.rand(1).item(), np.random.rand(), random.random())


def test_seeded_draws_are_those_of_a_fresh_seed_also_when_nested() -> None:
    with seeded(5):
        first = np.random.rand()
        with seeded(6):
            inner = np.random.rand()
        second = np.random.rand()
    by_hand = np.random.RandomState(5)
    assert (first, second) == (by_hand.rand(), by_hand.rand())
    assert inner == np.random.RandomState(6).rand()


def test_seeded_puts_the_generators_back_after_an_error() -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    expected = (torch.rand(1).item(), np.random.rand(), random.random())
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    with pytest.raises(ZeroDivisionError), seeded(5):
        _ = 1 / 0
    assert expected == (torch.rand(1).item(), np.random.rand(), random.random())
