"""Weights of a resize against their definition, the paired inner loop against a plain one."""

import numpy as np
import pytest

from ssl_vision.data.kernels.compiling import jit
from ssl_vision.data.kernels.taps import (
    PRECISION,
    blend_pair,
    blend_pair_fixed,
    pair_places,
    pair_weights,
    tap_count,
    weigh,
)


@pytest.mark.parametrize("is_cubic", [False, True])
@pytest.mark.parametrize(("in_size", "full", "offset", "size"), [(50, 20, 3, 11), (9, 40, 0, 40)])
def test_weights_sum_to_one_are_centred_and_stay_inside(in_size, full, offset, size, is_cubic):
    starts, counts = np.empty(size, np.int64), np.empty(size, np.int64)
    weights = np.full((size, tap_count(in_size, full, is_cubic)), np.nan)
    most = weigh(in_size, full, offset, is_cubic, starts, counts, weights)
    assert most == counts.max() <= weights.shape[1]
    assert starts.min() >= 0
    assert (starts + counts).max() <= in_size
    assert weights.sum(1) == pytest.approx(1)
    taps = np.arange(weights.shape[1])
    assert not weights[taps >= counts[:, None]].any()
    centers = ((starts[:, None] + taps + 0.5) * weights).sum(1)
    expected = (np.arange(size) + offset + 0.5) * in_size / full
    is_inner = (starts > 0) & (starts + counts < in_size)
    assert centers[is_inner] == pytest.approx(expected[is_inner], abs=0.25)


@jit
def _blend_floats(line, places, pairs, out):
    for i in range(len(pairs)):
        near, far = line.ctypes.data + places[i, 0], line.ctypes.data + places[i, 1]
        weights, taps = pairs.ctypes.data + i * pairs.shape[1] * 32, pairs.shape[1]
        blend_pair(near, far, weights, taps, out.ctypes.data + i * 32)


@jit
def _blend_levels(line, places, pairs, out):
    for i in range(len(pairs)):
        near, far = line.ctypes.data + places[i, 0], line.ctypes.data + places[i, 1]
        weights, taps = pairs.ctypes.data + i * pairs.shape[1] * 32, pairs.shape[1]
        blend_pair_fixed(near, far, weights, taps, out.ctypes.data + i * 32)


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_a_blended_pair_is_two_weighted_sums(kind) -> None:
    generator = np.random.default_rng(0)
    size, taps, width = 5, 3, 12
    line = np.zeros((width + 1, 3), kind)  # one pixel more: four lanes are read of each
    line[:width] = generator.integers(0, 256, (width, 3))
    weights = generator.integers(-9, 10, (size, taps)).astype(kind)
    starts = np.array([0, 2, 4, 7, 9])
    places, pairs = np.empty((3, 2), np.int64), np.empty((3, taps, 8), kind)
    pair_places(starts, places)
    pair_weights(weights, pairs)
    out = np.empty((6, 4), kind)
    (_blend_floats if kind is np.float32 else _blend_levels)(line, places, pairs, out)
    half = 0.5 if kind is np.float32 else 1 << (PRECISION - 1)
    for i, start in enumerate(starts):
        expected = sum(weights[i, tap] * line[start + tap] for tap in range(taps))
        assert np.array_equal(out[i, :3], expected + half)
    assert np.array_equal(out[5, :3], out[4, :3])  # an odd last output is its own partner
