"""Keyed draws: the key of a drawing, and the uniform number in each of its slots."""

import numpy as np

from ssl_vision.data.kernels.compiling import Number, jit
from ssl_vision.randomness import derive_key

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_SHIFT_30, _SHIFT_27, _SHIFT_31 = np.uint64(30), np.uint64(27), np.uint64(31)
_SHIFT_11 = np.uint64(11)

# Slots of the draws of one view; fixed, so that no operation shifts the draws of another.
# 0 to 39 are the box's, 100 and up those of `policy`. A plain int would be a type of its own each,
# for which numba compiles `draw` anew.
FLIP, JITTER, ORDER, BRIGHTNESS, CONTRAST, SATURATION, HUE = map(np.int64, range(40, 47))
GRAY, BLUR, SIGMA, SOLARIZE = map(np.int64, range(47, 51))


def view_stream(seed: int, name: str) -> np.uint64:
    """Key of a view's draws; independent of the other views of a recipe."""
    return np.uint64(derive_key(seed, "view", name))


@jit
def _absorb(key: Number, number: int) -> Number:
    """Key of (key, number) by splitmix64 (Steele et al. 2014)."""
    value = key + _GOLDEN * (np.uint64(number) + np.uint64(1))
    value = (value ^ (value >> _SHIFT_30)) * _MIX_1
    value = (value ^ (value >> _SHIFT_27)) * _MIX_2
    return value ^ (value >> _SHIFT_31)


@jit
def view_key(stream: Number, epoch: int, sample: int, drawing: int) -> Number:
    """Key of one drawing of one view of one sample in one epoch, uint64."""
    return _absorb(_absorb(_absorb(np.uint64(stream), epoch), sample), drawing)


@jit
def draw(key: Number, slot: int) -> float:
    """Uniform number in [0, 1) of a slot, float64 with 53 random bits."""
    return np.float64(_absorb(key, slot) >> _SHIFT_11) * 2.0**-53


@jit
def between(key: Number, slot: int, low: Number, high: Number) -> float:
    """Uniform number in [low, high) of a slot."""
    return low + (high - low) * draw(key, slot)
