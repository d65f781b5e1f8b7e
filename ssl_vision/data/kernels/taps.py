"""Weights of a resize, and the inner loop that applies them to two outputs at once."""

import math
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ssl_vision.data.kernels.compiling import Array, jit

PRECISION = 22  # bits after the point of Pillow's 8-bit resampling weights


@jit
def tap_count(in_size: int, full_size: int, is_cubic: bool) -> int:
    """Most taps an output can have."""
    support = (2.0 if is_cubic else 1.0) * max(in_size / full_size, 1.0)
    return math.ceil(support) * 2 + 1


@jit
def weigh(
    in_size: int,
    full_size: int,
    offset: int,
    is_cubic: bool,
    starts: Array,
    counts: Array,
    weights: Array,
) -> int:
    """Pillow's precompute_coeffs for the outputs offset, offset + 1, ... of `full_size`.

    Args:
        in_size: Length of the input.
        full_size: Length the whole input would be resized to.
        offset: First output.
        is_cubic: Whether bicubic, else bilinear.
        starts: First tap of each output, int64, (S,); filled in.
        counts: Number of taps of each output, int64, (S,); filled in.
        weights: (S, tap_count(...)); filled in, 0 behind an output's taps.

    Returns:
        The largest of `counts`.
    """
    scale = in_size / full_size
    stretch = max(scale, 1.0)
    support = (2.0 if is_cubic else 1.0) * stretch
    most = 0
    for i in range(len(starts)):
        center = (i + offset + 0.5) * scale
        low = max(int(center - support + 0.5), 0)
        high = min(int(center + support + 0.5), in_size)
        total = 0.0
        for tap in range(high - low):
            x = abs((tap + low - center + 0.5) * (1.0 / stretch))
            weight = 0.0
            if is_cubic:  # Keys' kernel with a = -1/2
                if x < 1.0:
                    weight = (1.5 * x - 2.5) * x * x + 1.0
                elif x < 2.0:
                    weight = ((x - 5.0) * x + 8.0) * x * -0.5 + 2.0
            elif x < 1.0:
                weight = 1.0 - x
            weights[i, tap] = weight
            total += weight
        for tap in range(high - low):
            weights[i, tap] /= total
        for tap in range(high - low, weights.shape[1]):
            weights[i, tap] = 0
        starts[i] = low
        counts[i] = high - low
        most = max(most, high - low)
    return most


@jit
def pair_weights(weights: Array, pairs: Array) -> None:
    """Horizontal weights as `blend_pair` reads them.

    Args:
        weights: (S, taps or more).
        pairs: (ceil(S / 2), taps, 8); filled in. Each weight stands in four lanes; the last
            output of an odd S is its own partner.
    """
    last = len(weights) - 1
    for pair in range(pairs.shape[0]):
        far = min(2 * pair + 1, last)
        for tap in range(pairs.shape[1]):
            for lane in range(4):
                pairs[pair, tap, lane] = weights[2 * pair, tap]
                pairs[pair, tap, 4 + lane] = weights[far, tap]


@jit
def pair_places(starts: Array, places: Array) -> None:
    """Byte offsets of the first pixel of each pair of outputs, into (ceil(S / 2), 2)."""
    last = len(starts) - 1
    for pair in range(len(places)):
        places[pair, 0] = starts[2 * pair] * 12  # three values of four bytes a pixel
        places[pair, 1] = starts[min(2 * pair + 1, last)] * 12


def _blend_generator(scalar: Any, start: Any, multiply: str, add: str) -> Any:
    """Code of `blend_pair` for one type of lane."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        index = ir.IntType(32)
        quad, lanes = ir.VectorType(scalar, 4), ir.VectorType(scalar, 8)
        near, far, weights, count, out = arguments
        near = builder.inttoptr(near, scalar.as_pointer())
        far = builder.inttoptr(far, scalar.as_pointer())
        weights = builder.inttoptr(weights, lanes.as_pointer())
        joined = ir.Constant(ir.VectorType(index, 8), list(range(8)))
        total = cgutils.alloca_once(builder, lanes)
        builder.store(ir.Constant(lanes, [start] * 8), total)
        with cgutils.for_range(builder, count) as loop:
            place = builder.mul(loop.index, loop.index.type(3))
            halves = [
                builder.load(
                    builder.bitcast(builder.gep(pixel, [place]), quad.as_pointer()), align=4
                )
                for pixel in (near, far)
            ]
            value = builder.shuffle_vector(*halves, joined)
            weight = builder.load(builder.gep(weights, [loop.index]), align=4)
            product = getattr(builder, multiply)(weight, value)
            builder.store(getattr(builder, add)(builder.load(total), product), total)
        target = builder.inttoptr(out, lanes.as_pointer())
        builder.store(builder.load(total), target, align=4)
        return context.get_dummy_value()

    return generate


_BLEND_TYPE = types.void(*[types.int64] * 5)
_generate_float = _blend_generator(ir.FloatType(), 0.5, "fmul", "fadd")
_generate_fixed = _blend_generator(ir.IntType(32), 1 << (PRECISION - 1), "mul", "add")


def _blend_pair(
    typing_context: Any, near: Any, far: Any, weights: Any, count: Any, out: Any
) -> Any:
    """Two outputs at once: a half + sum over taps of weight * pixel, eight lanes into `out`.

    Arguments are addresses of float32 (int32 for `blend_pair_fixed`) and the number of taps:
    first pixel of the one and of the other output, interleaved RGB; weights (taps, 8) of
    `pair_weights`. Lanes 0 to 2 and 4 to 6 are colours, 3 and 7 to be ignored. One vector
    operation per tap, where the compiler finds six scalar ones.
    """
    return _BLEND_TYPE, _generate_float


def _blend_pair_fixed(
    typing_context: Any, near: Any, far: Any, weights: Any, count: Any, out: Any
) -> Any:
    return _BLEND_TYPE, _generate_fixed


blend_pair: Any = intrinsic(_blend_pair)
blend_pair_fixed: Any = intrinsic(_blend_pair_fixed)
