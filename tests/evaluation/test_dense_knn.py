"""Shares of classes by the nearest patches of a memory, against loops."""

import math

import numpy as np
import pytest
import torch

from ssl_vision.data.images.masks import IGNORED
from ssl_vision.errors import ConfigError
from ssl_vision.evaluation.dense import PatchMaps
from ssl_vision.evaluation.dense_knn import DenseKnnConfig, Memory, remember, vote_shares


@pytest.fixture
def example() -> tuple[PatchMaps, np.ndarray]:
    rng = np.random.default_rng(0)
    targets = rng.integers(-1, 3, (70, 8, 8)).astype(np.int16)
    targets[3, :4, :4] = IGNORED  # a whole patch
    return PatchMaps(torch.randn(70, 2 * 2 * 5), side=2), targets


def test_a_memory_has_the_shares_of_a_loop(example):
    maps, targets = example
    memory = remember(maps, targets, 3, max_patches=10_000, seed=0)
    patches, shares = [], []
    for image in range(70):
        for row in range(2):
            for column in range(2):
                cells = targets[image, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
                known = cells[cells != IGNORED]
                if known.size:
                    patches.append(maps.take(torch.tensor([image]))[0, :, row, column])
                    shares.append([(known == c).mean() for c in range(3)])
    assert len(shares) == 70 * 4 - 1
    torch.testing.assert_close(memory.patches, torch.stack(patches))
    np.testing.assert_allclose(memory.shares.numpy(), np.array(shares), atol=1e-6)


def test_a_smaller_memory_is_a_fixed_draw_of_it(example):
    maps, targets = example
    whole = remember(maps, targets, 3, max_patches=10_000, seed=0)
    part = remember(maps, targets, 3, max_patches=50, seed=0)
    assert len(part.patches) == len(part.shares) == 50
    rows = [int((whole.patches == patch).all(dim=1).nonzero()) for patch in part.patches]
    assert rows == sorted(rows)
    assert rows[-1] > 200
    torch.testing.assert_close(part.shares, whole.shares[rows])
    again = remember(maps, targets, 3, max_patches=50, seed=1)
    assert not torch.equal(again.patches, part.patches)


def test_votes_are_those_of_a_loop():
    torch.manual_seed(0)
    memory = Memory(torch.randn(40, 6), torch.rand(40, 4).softmax(dim=1))
    queries = torch.randn(9, 6)
    found = vote_shares(memory, queries, config=DenseKnnConfig(k=5, temperature=0.1))
    for query, shares in zip(queries, found, strict=True):
        cosines = [float(query @ patch / query.norm() / patch.norm()) for patch in memory.patches]
        nearest = sorted(range(40), key=lambda i: -cosines[i])[:5]
        weights = [math.exp(cosines[i] / 0.1) for i in nearest]
        expected = sum(w * memory.shares[i] for w, i in zip(weights, nearest, strict=True))
        torch.testing.assert_close(shares, expected / sum(weights), atol=1e-5, rtol=1e-5)


def test_a_memory_smaller_than_k_votes_as_a_whole():
    memory = Memory(torch.eye(2), torch.eye(2))
    found = vote_shares(memory, torch.tensor([[1.0, 1.0]]), config=DenseKnnConfig())
    torch.testing.assert_close(found, torch.tensor([[0.5, 0.5]]))


@pytest.mark.parametrize("setting", [{"k": 0}, {"temperature": 0.0}, {"max_patches": 0}])
def test_settings_out_of_range_are_named(setting):
    with pytest.raises(ConfigError, match=f"dense_knn.{next(iter(setting))}="):
        DenseKnnConfig(**setting)
