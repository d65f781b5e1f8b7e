"""Compiled CPU kernels: keyed draws, random resized crop, flip, colour, blur, solarize.

Everything here is serial, releases the GIL and keeps no state: the loader runs it on plain Python
threads, so no threading layer of numba is involved. A draw is a hash of (stream, epoch, sample id,
drawing, slot); a view therefore depends on nothing but its key, whatever the batch or thread.

Semantics:
    crop        torchvision's RandomResizedCrop.get_params, then Pillow's antialiased resize.
                Bicubic is Pillow's fixed-point arithmetic bit for bit; bilinear runs the vertical
                pass first in float32 and is within one level of Pillow.
    colour      torchvision's float functionals (values 0..255 here), to 1e-4 of the full range.
    blur        Gaussian with reflected borders, cut at 4 sigma.
Floats are strict IEEE (no fast-math), so pixels do not depend on the vector width of the CPU.

Compiled code is cached on disk by numba: beside this file, else in the user's cache folder, else in
NUMBA_CACHE_DIR. Set the latter where both are read-only; without any the kernels are compiled
anew in each process (about ten seconds).
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.numpy_support import carray

from ssl_vision.randomness import derive_key
from ssl_vision.views import ViewConfig

Array = np.ndarray[Any, Any]
Number = Any  # a NumPy scalar inside compiled code
Box = tuple[int, ...]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_SHIFT_30, _SHIFT_27, _SHIFT_31 = np.uint64(30), np.uint64(27), np.uint64(31)
_SHIFT_11 = np.uint64(11)

# Slots of the draws of one view; fixed, so that no operation shifts the draws of another.
_TRIES = 10
FLIP, JITTER, ORDER, BRIGHTNESS, CONTRAST, SATURATION, HUE = 40, 41, 42, 43, 44, 45, 46
GRAY, BLUR, SIGMA, SOLARIZE = 47, 48, 49, 50

# Columns of the table `view_table` makes of a ViewConfig.
_IS_RANDOM, _AREA_0, _AREA_1, _RATIO_0, _RATIO_1, _FRACTION, _IS_CUBIC, _FLIP_PROB = range(8)
_JITTER_PROB, _B, _C, _S, _H, _GRAY_PROB, _BLUR_PROB, _SIGMA_0, _SIGMA_1 = range(8, 17)
_SOLARIZE_PROB, _THRESHOLD, _NUM_COLUMNS = range(17, 20)

_PRECISION = 22  # bits after the point of Pillow's 8-bit resampling weights
_HALF = np.float32(0.5)
_ZERO = np.float32(0.0)
_ONE = np.float32(1.0)
_FULL = np.float32(255.0)
# ITU-R 601 weights as torchvision rounds them.
_RED, _GREEN, _BLUE = np.float32(0.2989), np.float32(0.587), np.float32(0.114)


def _jit(function: Callable[..., Any], **options: Any) -> Any:
    """Compile without the GIL, cached on disk where any cache folder can be written.

    Fast-math is off in so many words: a function that leaves it open inherits it from a caller,
    and ffcv compiles its pipelines with it.
    """
    options |= {"nogil": True, "error_model": "numpy", "fastmath": False}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # numba found no writable cache folder
        return njit(**options)(function)


def _jit_inline(function: Callable[..., Any]) -> Any:
    """Compile as part of each caller.

    Every level of compiled calls is optimised anew with all that lies below it: the thin layers
    above the kernels would otherwise double the time of the first batch.
    """
    return _jit(function, inline="always")


def view_table(view: ViewConfig) -> np.ndarray:
    """Numbers of a view as the kernels read them, float64, (20,)."""
    table = np.zeros(_NUM_COLUMNS)
    table[_IS_RANDOM] = view.crop == "random"
    table[[_AREA_0, _AREA_1]] = view.crop_area
    table[[_RATIO_0, _RATIO_1]] = view.crop_ratio
    table[_FRACTION] = view.center_fraction
    table[_IS_CUBIC] = view.interpolation == "bicubic"
    table[_FLIP_PROB] = view.flip_prob
    if view.jitter is not None:
        jitter = view.jitter
        table[_JITTER_PROB] = jitter.prob
        table[[_B, _C, _S, _H]] = jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue
    table[_GRAY_PROB] = view.gray_prob
    if view.blur is not None:
        table[_BLUR_PROB] = view.blur.prob
        table[[_SIGMA_0, _SIGMA_1]] = view.blur.sigma_px
    if view.solarize is not None:
        table[_SOLARIZE_PROB] = view.solarize.prob
        table[_THRESHOLD] = view.solarize.threshold
    return table


def view_stream(seed: int, name: str) -> np.uint64:
    """Key of a view's draws; independent of the other views of a recipe."""
    return np.uint64(derive_key(seed, "view", name))


def scratch_size(size_px: int) -> int:
    """float32 values `render_rows` needs as scratch for views of `size_px`: four planes."""
    return 4 * size_px * size_px


# Keyed draws ------------------------------------------------------------------------------


@_jit
def _mix(value: Number) -> Number:
    value = (value ^ (value >> _SHIFT_30)) * _MIX_1
    value = (value ^ (value >> _SHIFT_27)) * _MIX_2
    return value ^ (value >> _SHIFT_31)


@_jit
def _absorb(key: Number, number: int) -> Number:
    return _mix(key + _GOLDEN * (np.uint64(number) + np.uint64(1)))


@_jit
def view_key(stream: Number, epoch: int, sample: int, drawing: int) -> Number:
    """Key of one drawing of one view of one sample in one epoch, uint64."""
    return _absorb(_absorb(_absorb(np.uint64(stream), epoch), sample), drawing)


@_jit
def draw(key: Number, slot: int) -> float:
    """Uniform number in [0, 1) of a slot, float64 with 53 random bits."""
    return np.float64(_absorb(key, slot) >> _SHIFT_11) * 2.0**-53


@_jit
def _between(key: Number, slot: int, low: Number, high: Number) -> float:
    return low + (high - low) * draw(key, slot)


# Access to memory ---------------------------------------------------------------------------


def _to_pointer(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))


def _pointer(typing_context: Any, address: Any) -> Any:
    """Address (int64) as a pointer to uint8."""
    return types.CPointer(types.uint8)(types.int64), _to_pointer


def _pointer64(typing_context: Any, address: Any) -> Any:
    """Address (int64) as a pointer to int64."""
    return types.CPointer(types.int64)(types.int64), _to_pointer


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
_generate_fixed = _blend_generator(ir.IntType(32), 1 << (_PRECISION - 1), "mul", "add")


def _blend_pair(
    typing_context: Any, near: Any, far: Any, weights: Any, count: Any, out: Any
) -> Any:
    """Two outputs at once: a half + sum over taps of weight * pixel, eight lanes into `out`.

    Arguments are addresses of float32 (int32 for `blend_pair_fixed`) and the number of taps:
    first pixel of the one and of the other output, interleaved RGB; weights (taps, 8) of
    `_pair_weights`. Lanes 0 to 2 and 4 to 6 are colours, 3 and 7 to be ignored. One vector
    operation per tap, where the compiler finds six scalar ones.
    """
    return _BLEND_TYPE, _generate_float


def _blend_pair_fixed(
    typing_context: Any, near: Any, far: Any, weights: Any, count: Any, out: Any
) -> Any:
    return _BLEND_TYPE, _generate_fixed


pointer: Any = intrinsic(_pointer)
pointer64: Any = intrinsic(_pointer64)
blend_pair: Any = intrinsic(_blend_pair)
blend_pair_fixed: Any = intrinsic(_blend_pair_fixed)


# Crop and resize --------------------------------------------------------------------------


@_jit
def random_box(height: int, width: int, table: Array, key: Number) -> tuple[int, int, int, int]:
    """Box (top, left, height, width) of torchvision's RandomResizedCrop.get_params."""
    log_low, log_high = math.log(table[_RATIO_0]), math.log(table[_RATIO_1])
    for attempt in range(_TRIES):
        slot = 4 * attempt
        area = height * width * _between(key, slot, table[_AREA_0], table[_AREA_1])
        ratio = math.exp(_between(key, slot + 1, log_low, log_high))
        w = round(math.sqrt(area * ratio))
        h = round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top = int(draw(key, slot + 2) * (height - h + 1))
            left = int(draw(key, slot + 3) * (width - w + 1))
            return top, left, h, w
    w, h = width, height
    if width / height < table[_RATIO_0]:
        h = max(1, round(w / table[_RATIO_0]))
    elif width / height > table[_RATIO_1]:
        w = max(1, round(h * table[_RATIO_1]))
    return (height - h) // 2, (width - w) // 2, h, w


@_jit
def _tap_count(in_size: int, full_size: int, is_cubic: bool) -> int:
    support = (2.0 if is_cubic else 1.0) * max(in_size / full_size, 1.0)
    return math.ceil(support) * 2 + 1


@_jit
def _weigh(
    in_size: int,
    full_size: int,
    offset: int,
    is_cubic: bool,
    starts: Array,
    counts: Array,
    weights: Array,
) -> None:
    """Pillow's precompute_coeffs for the outputs offset, offset + 1, ... of `full_size`."""
    scale = in_size / full_size
    stretch = max(scale, 1.0)
    support = (2.0 if is_cubic else 1.0) * stretch
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
        starts[i] = low
        counts[i] = high - low


@_jit
def _blend_rows(
    flat: Array, offset: int, stride: int, count: int, weights: Array, line: Array
) -> None:
    """Weighted sum of `count` rows into `line`, in float32; rows lie `stride` apart in `flat`."""
    length = len(line)
    tap = 0
    if count >= 2:
        row_a, row_b = flat[offset : offset + length], flat[offset + stride :][:length]
        a, b = weights[0], weights[1]
        for x in range(length):
            line[x] = a * np.float32(row_a[x]) + b * np.float32(row_b[x])
        tap = 2
    else:
        row_a = flat[offset : offset + length]
        for x in range(length):
            line[x] = weights[0] * np.float32(row_a[x])
        tap = 1
    while tap + 1 < count:
        start = offset + tap * stride
        row_a, row_b = flat[start : start + length], flat[start + stride :][:length]
        a, b = weights[tap], weights[tap + 1]
        for x in range(length):
            line[x] += a * np.float32(row_a[x]) + b * np.float32(row_b[x])
        tap += 2
    if tap < count:
        start = offset + tap * stride
        row_a = flat[start : start + length]
        a = weights[tap]
        for x in range(length):
            line[x] += a * np.float32(row_a[x])


@_jit
def _pair_weights(weights: Array) -> Array:
    """Horizontal weights (S, taps) as `blend_pair` reads them, (ceil(S / 2), taps, 8).

    Each weight stands in four lanes; the last output of an odd S is its own partner.
    """
    size, taps = weights.shape
    pairs = np.empty(((size + 1) // 2, taps, 8), weights.dtype)
    for pair in range(pairs.shape[0]):
        far = min(2 * pair + 1, size - 1)
        for tap in range(taps):
            for lane in range(4):
                pairs[pair, tap, lane] = weights[2 * pair, tap]
                pairs[pair, tap, 4 + lane] = weights[far, tap]
    return pairs


@_jit
def _pair_places(starts: Array) -> Array:
    """Byte offsets of the first pixel of each pair of outputs, (ceil(S / 2), 2)."""
    size = len(starts)
    places = np.empty(((size + 1) // 2, 2), np.int64)
    for pair in range(len(places)):
        places[pair, 0] = starts[2 * pair] * 12  # three values of four bytes a pixel
        places[pair, 1] = starts[min(2 * pair + 1, size - 1)] * 12
    return places


@_jit
def _squeeze_line(line: Array, places: Array, weights: Array, out: Array) -> None:
    """Horizontal pass of one row into groups of four lanes.

    The common numbers of taps are written out: with a constant count the compiler unrolls the
    loop over taps, which makes this pass twice as fast.

    Args:
        line: float32, interleaved RGB.
        places: Of `_pair_places`.
        weights: Of `_pair_weights`.
        out: float32, 4 * S rounded up to whole pairs.
    """
    num_pairs, taps, _ = weights.shape
    pixels, factors, target = line.ctypes.data, weights.ctypes.data, out.ctypes.data
    if taps == 2:
        for i in range(num_pairs):
            near, far = pixels + places[i, 0], pixels + places[i, 1]
            blend_pair(near, far, factors + i * 64, 2, target + i * 32)
    elif taps == 3:
        for i in range(num_pairs):
            near, far = pixels + places[i, 0], pixels + places[i, 1]
            blend_pair(near, far, factors + i * 96, 3, target + i * 32)
    elif taps == 4:
        for i in range(num_pairs):
            near, far = pixels + places[i, 0], pixels + places[i, 1]
            blend_pair(near, far, factors + i * 128, 4, target + i * 32)
    elif taps == 5:
        for i in range(num_pairs):
            near, far = pixels + places[i, 0], pixels + places[i, 1]
            blend_pair(near, far, factors + i * 160, 5, target + i * 32)
    elif taps == 6:
        for i in range(num_pairs):
            near, far = pixels + places[i, 0], pixels + places[i, 1]
            blend_pair(near, far, factors + i * 192, 6, target + i * 32)
    else:
        for i in range(num_pairs):
            near, far = pixels + places[i, 0], pixels + places[i, 1]
            blend_pair(near, far, factors + i * taps * 32, taps, target + i * 32)


@_jit
def _resize_bilinear(
    flat: Array, width: int, box: Box, full: Box, shift: Box, is_flipped: bool, out: Array
) -> None:
    """Vertical pass into one line, horizontal pass out of it; float32, rounded once."""
    top, left, in_h, in_w = box
    size = out.shape[1]
    starts_y, counts_y = np.empty(size, np.int64), np.empty(size, np.int64)
    starts_x, counts_x = np.empty(size, np.int64), np.empty(size, np.int64)
    weights_y = np.empty((size, _tap_count(in_h, full[0], False)), np.float32)
    loose_x = np.zeros((size, _tap_count(in_w, full[1], False)), np.float32)
    _weigh(in_h, full[0], shift[0], False, starts_y, counts_y, weights_y)
    _weigh(in_w, full[1], shift[1], False, starts_x, counts_x, loose_x)
    # Equal tap counts in the inner loop: the processor then predicts its end.
    taps_x = counts_x.max()
    weights_x, places_x = _pair_weights(loose_x[:, :taps_x]), _pair_places(starts_x)
    line = np.zeros((in_w + taps_x + 1) * 3, np.float32)  # what lies behind the row weighs 0
    squeezed = np.empty(size * 4 + 4, np.float32)
    for y in range(size):
        offset = ((top + starts_y[y]) * width + left) * 3
        _blend_rows(flat, offset, width * 3, counts_y[y], weights_y[y], line[: in_w * 3])
        _squeeze_line(line, places_x, weights_x, squeezed)
        for x in range(size):
            column = size - 1 - x if is_flipped else x
            out[0, y, column] = np.uint8(squeezed[4 * x])
            out[1, y, column] = np.uint8(squeezed[4 * x + 1])
            out[2, y, column] = np.uint8(squeezed[4 * x + 2])


@_jit
def _to_fixed(weights: Array, fixed: Array) -> None:
    for i in range(weights.shape[0]):
        for tap in range(weights.shape[1]):
            weight = weights[i, tap] * (1 << _PRECISION)
            fixed[i, tap] = np.int32(int(weight - 0.5 if weight < 0 else weight + 0.5))


@_jit
def _clip8(value: Number) -> Number:
    level = value >> np.int32(_PRECISION)
    level = level if level > 0 else np.int32(0)
    return np.uint8(level if level < 255 else np.int32(255))


@_jit
def _squeeze_row(
    row: Array, places: Array, weights: Array, line: Array, groups: Array, out: Array
) -> None:
    """Pillow's horizontal pass of one row of interleaved RGB.

    Args:
        row: uint8, (3 * W,).
        places: Of `_pair_places`.
        weights: Of `_pair_weights`, int32.
        line: Scratch, int32, at least 3 * (W + taps + 1), zero behind the row.
        groups: Scratch, int32, 4 * S rounded up to whole pairs.
        out: uint8, (3 * S,).
    """
    num_pairs, taps, _ = weights.shape
    for x in range(len(row)):
        line[x] = row[x]
    pixels, factors, target = line.ctypes.data, weights.ctypes.data, groups.ctypes.data
    if taps == 5:  # written out as in `_squeeze_line`
        for i in range(num_pairs):
            near, far = pixels + places[i, 0], pixels + places[i, 1]
            blend_pair_fixed(near, far, factors + i * 160, 5, target + i * 32)
    elif taps == 6:
        for i in range(num_pairs):
            near, far = pixels + places[i, 0], pixels + places[i, 1]
            blend_pair_fixed(near, far, factors + i * 192, 6, target + i * 32)
    elif taps == 7:
        for i in range(num_pairs):
            near, far = pixels + places[i, 0], pixels + places[i, 1]
            blend_pair_fixed(near, far, factors + i * 224, 7, target + i * 32)
    else:
        for i in range(num_pairs):
            near, far = pixels + places[i, 0], pixels + places[i, 1]
            blend_pair_fixed(near, far, factors + i * taps * 32, taps, target + i * 32)
    for x in range(len(out) // 3):
        out[3 * x] = _clip8(groups[4 * x])
        out[3 * x + 1] = _clip8(groups[4 * x + 1])
        out[3 * x + 2] = _clip8(groups[4 * x + 2])


@_jit
def _stretch_row(
    flat: Array, offset: int, stride: int, count: int, weights: Array, line: Array, out: Array
) -> None:
    """Pillow's vertical pass of one output row; rows of `flat` lie `stride` apart."""
    length = len(line)
    line[:] = np.int32(1 << (_PRECISION - 1))
    tap = 0
    while tap + 1 < count:
        start = offset + tap * stride
        row_a, row_b = flat[start : start + length], flat[start + stride :][:length]
        a, b = weights[tap], weights[tap + 1]
        for x in range(length):
            line[x] += a * np.int32(row_a[x]) + b * np.int32(row_b[x])
        tap += 2
    if tap < count:
        start = offset + tap * stride
        row_a, a = flat[start : start + length], weights[tap]
        for x in range(length):
            line[x] += a * np.int32(row_a[x])
    for x in range(length):
        out[x] = _clip8(line[x])


@_jit
def _is_vertical_first(box: Box, full: Box) -> bool:
    """The order of passes Pillow 13 takes, found by experiment; 12 and older: never.

    It matters only where clipping after the first pass does: ringing at hard edges.
    """
    return box[2] > full[0] and box[2] - full[0] > 2 * (box[3] - full[1])


@_jit
def _split_planes(row: Array, y: int, is_flipped: bool, out: Array) -> None:
    size = out.shape[1]
    for x in range(size):
        column = size - 1 - x if is_flipped else x
        out[0, y, column] = row[3 * x]
        out[1, y, column] = row[3 * x + 1]
        out[2, y, column] = row[3 * x + 2]


@_jit
def _resize_bicubic(
    flat: Array, width: int, box: Box, full: Box, shift: Box, is_flipped: bool, out: Array
) -> None:
    """Pillow's two passes, each rounded and clipped; a ring holds the rows squeezed first."""
    top, left, in_h, in_w = box
    size = out.shape[1]
    starts_y, counts_y = np.empty(size, np.int64), np.empty(size, np.int64)
    starts_x, counts_x = np.empty(size, np.int64), np.empty(size, np.int64)
    taps_y, taps_x = _tap_count(in_h, full[0], True), _tap_count(in_w, full[1], True)
    exact_y, exact_x = np.zeros((size, taps_y)), np.zeros((size, taps_x))
    _weigh(in_h, full[0], shift[0], True, starts_y, counts_y, exact_y)
    _weigh(in_w, full[1], shift[1], True, starts_x, counts_x, exact_x)
    taps_x = counts_x.max()
    weights_y, fixed_x = np.empty((size, taps_y), np.int32), np.empty((size, taps_x), np.int32)
    _to_fixed(exact_y, weights_y)
    _to_fixed(exact_x[:, :taps_x], fixed_x)
    weights_x, places_x = _pair_weights(fixed_x), _pair_places(starts_x)
    wide = np.zeros((in_w + taps_x + 1) * 3, np.int32)
    groups = np.empty(size * 4 + 4, np.int32)
    squeezed = np.empty(size * 3, np.uint8)
    if _is_vertical_first(box, full):
        wide_line, wide_row = np.empty(in_w * 3, np.int32), np.empty(in_w * 3, np.uint8)
        for y in range(size):
            start = ((top + starts_y[y]) * width + left) * 3
            _stretch_row(flat, start, width * 3, counts_y[y], weights_y[y], wide_line, wide_row)
            _squeeze_row(wide_row, places_x, weights_x, wide, groups, squeezed)
            _split_planes(squeezed, y, is_flipped, out)
        return
    # Rows are stored twice, `taps_y` apart, so that any window of the ring is contiguous.
    stride = size * 3
    ring = np.empty(2 * taps_y * stride, np.uint8)
    line = np.empty(stride, np.int32)
    done = starts_y[0]  # source rows below are in the ring or no longer needed
    for y in range(size):
        while done < starts_y[y] + counts_y[y]:
            begin = ((top + done) * width + left) * 3
            slot = (done % taps_y) * stride
            row = ring[slot : slot + stride]
            _squeeze_row(flat[begin : begin + in_w * 3], places_x, weights_x, wide, groups, row)
            ring[slot + taps_y * stride :][:stride] = row
            done += 1
        slot = (starts_y[y] % taps_y) * stride
        _stretch_row(ring, slot, stride, counts_y[y], weights_y[y], line, squeezed)
        _split_planes(squeezed, y, is_flipped, out)


@_jit_inline
def crop(flat: Array, height: int, width: int, table: Array, key: Number, out: Array) -> None:
    """Cut, resize and flip one view.

    Args:
        flat: Image, uint8, (H * W * 3,), interleaved RGB.
        height: H.
        width: W.
        table: Of `view_table`.
        key: Of `view_key`.
        out: Result, uint8, (3, S, S).
    """
    size = out.shape[1]
    if table[_IS_RANDOM] != 0:
        box = random_box(height, width, table, key)
        full, shift = (size, size), (0, 0)
    else:
        # Shorter side to size / fraction, as torchvision's Resize and CenterCrop round.
        box = (0, 0, height, width)
        short = int(size / table[_FRACTION])
        if height <= width:
            full = (short, int(short * width / height))
        else:
            full = (int(short * height / width), short)
        shift = (round((full[0] - size) / 2.0), round((full[1] - size) / 2.0))
    is_flipped = draw(key, FLIP) < table[_FLIP_PROB]
    if table[_IS_CUBIC] != 0:
        _resize_bicubic(flat, width, box, full, shift, is_flipped, out)
    else:
        _resize_bilinear(flat, width, box, full, shift, is_flipped, out)


# Colour; planes are float32 (3, S * S), values 0..255 --------------------------------------


@_jit
def _clip(value: Number) -> Number:
    value = value if value > _ZERO else _ZERO
    return value if value < _FULL else _FULL


@_jit
def adjust_brightness(planes: Array, factor: Number) -> None:
    """Multiply by the factor, in place."""
    factor = np.float32(factor)
    for channel in range(3):
        plane = planes[channel]
        for i in range(len(plane)):
            plane[i] = _clip(factor * plane[i])


@_jit
def _mean_gray(planes: Array, size: int) -> float:
    # Summed by columns first: a fixed order that still fills the vector lanes.
    sums = np.zeros(size, np.float32)
    red, green, blue = planes[0], planes[1], planes[2]
    for y in range(size):
        r, g, b = red[y * size :][:size], green[y * size :][:size], blue[y * size :][:size]
        for x in range(size):
            sums[x] += _RED * r[x] + _GREEN * g[x] + _BLUE * b[x]
    return sums.astype(np.float64).sum() / (size * size)


@_jit
def adjust_contrast(planes: Array, factor: Number, size: int) -> None:
    """Blend with the mean of the grayscale image, in place."""
    shift = np.float32((1.0 - factor) * _mean_gray(planes, size))
    factor = np.float32(factor)
    for channel in range(3):
        plane = planes[channel]
        for i in range(len(plane)):
            plane[i] = _clip(factor * plane[i] + shift)


@_jit
def adjust_saturation(planes: Array, factor: Number) -> None:
    """Blend with the grayscale image, in place; factor 0 leaves gray."""
    factor, rest = np.float32(factor), np.float32(1.0 - factor)
    red, green, blue = planes[0], planes[1], planes[2]
    for i in range(len(red)):
        r, g, b = red[i], green[i], blue[i]
        gray = rest * (_RED * r + _GREEN * g + _BLUE * b)
        red[i] = _clip(factor * r + gray)
        green[i] = _clip(factor * g + gray)
        blue[i] = _clip(factor * b + gray)


@_jit
def _hue_channel(value: Number, chroma: Number, position: Number) -> Number:
    # HSV to RGB without cases: value - chroma * clamp(min(k, 4 - k), 0, 1), k = position mod 6.
    k = position - np.float32(6.0) * np.float32(math.floor(position * np.float32(1.0 / 6.0)))
    edge = np.float32(4.0) - k
    edge = k if k < edge else edge
    edge = edge if edge > _ZERO else _ZERO
    edge = edge if edge < _ONE else _ONE
    return value - chroma * edge


@_jit
def adjust_hue(planes: Array, turn: Number) -> None:
    """Turn the hue by `turn` full circles, in place."""
    shift = np.float32(6.0 * turn)
    red, green, blue = planes[0], planes[1], planes[2]
    for i in range(len(red)):
        r, g, b = red[i], green[i], blue[i]
        high = r if r > g else g
        high = high if high > b else b
        low = r if r < g else g
        low = low if low < b else b
        chroma = high - low
        scale = _ONE / (chroma if chroma > _ZERO else _ONE)
        is_red = high == r
        is_green = high == g
        hue = np.float32(4.0) + (r - g) * scale
        hue = np.float32(2.0) + (b - r) * scale if is_green else hue
        hue = (g - b) * scale if is_red else hue
        hue += shift
        red[i] = _hue_channel(high, chroma, hue + np.float32(5.0))
        green[i] = _hue_channel(high, chroma, hue + np.float32(3.0))
        blue[i] = _hue_channel(high, chroma, hue + np.float32(1.0))


@_jit
def to_gray(planes: Array) -> None:
    """Replace every channel by the grayscale image, in place."""
    red, green, blue = planes[0], planes[1], planes[2]
    for i in range(len(red)):
        gray = _RED * red[i] + _GREEN * green[i] + _BLUE * blue[i]
        red[i] = gray
        green[i] = gray
        blue[i] = gray


@_jit
def _blur_rows(plane: Array, target: Array, size: int, weights: Array) -> None:
    radius = len(weights) - 1
    padded = np.empty(size + 2 * radius, np.float32)
    for y in range(size):
        row, out = plane[y * size :][:size], target[y * size :][:size]
        padded[radius : radius + size] = row
        for x in range(radius):  # reflected, the border itself not repeated
            padded[radius - 1 - x] = row[1 + x]
            padded[radius + size + x] = row[size - 2 - x]
        middle = padded[radius:]
        for x in range(size):
            out[x] = weights[0] * middle[x]
        for k in range(1, radius, 2):  # two taps each side a time: half the traffic of `out`
            l1, r1, w1 = padded[radius - k :], padded[radius + k :], weights[k]
            l2, r2, w2 = padded[radius - k - 1 :], padded[radius + k + 1 :], weights[k + 1]
            for x in range(size):
                out[x] += w1 * (l1[x] + r1[x]) + w2 * (l2[x] + r2[x])
        if radius % 2:
            l1, r1, w1 = padded, padded[2 * radius :], weights[radius]
            for x in range(size):
                out[x] += w1 * (l1[x] + r1[x])


@_jit
def _mirrored(plane: Array, y: int, size: int) -> Array:
    """Row y of a plane; rows outside are reflected at the border row."""
    inside = abs(y)
    inside = inside if inside < size else 2 * size - 2 - inside
    return plane[inside * size :][:size]


@_jit
def _blur_columns(plane: Array, target: Array, size: int, weights: Array) -> None:
    radius = len(weights) - 1
    for y in range(size):
        out = target[y * size :][:size]
        row = plane[y * size :][:size]
        for x in range(size):
            out[x] = weights[0] * row[x]
        for k in range(1, radius, 2):
            u1, d1, w1 = _mirrored(plane, y - k, size), _mirrored(plane, y + k, size), weights[k]
            u2, d2 = _mirrored(plane, y - k - 1, size), _mirrored(plane, y + k + 1, size)
            w2 = weights[k + 1]
            for x in range(size):
                out[x] += w1 * (u1[x] + d1[x]) + w2 * (u2[x] + d2[x])
        if radius % 2:
            u1, d1 = _mirrored(plane, y - radius, size), _mirrored(plane, y + radius, size)
            w1 = weights[radius]
            for x in range(size):
                out[x] += w1 * (u1[x] + d1[x])


@_jit
def blur(planes: Array, sigma: Number, size: int, spare: Array) -> None:
    """Gaussian blur with reflected borders, taps up to 4 sigma, in place.

    Args:
        planes: (3, S * S).
        sigma: Standard deviation in pixels.
        size: S.
        spare: Scratch, (S * S,).
    """
    radius = min(math.ceil(4.0 * sigma), size - 1)
    exact = np.empty(radius + 1)
    for k in range(radius + 1):
        exact[k] = math.exp(-0.5 * (k / sigma) ** 2)
    weights = (exact / (2.0 * exact.sum() - exact[0])).astype(np.float32)
    for channel in range(3):
        _blur_rows(planes[channel], spare, size, weights)
        _blur_columns(spare, planes[channel], size, weights)


@_jit
def solarize(planes: Array, threshold: Number) -> None:
    """Invert values at or above the threshold, in place."""
    threshold = np.float32(threshold)
    for channel in range(3):
        plane = planes[channel]
        for i in range(len(plane)):
            plane[i] = _FULL - plane[i] if plane[i] >= threshold else plane[i]


@_jit_inline
def _jitter(planes: Array, size: int, table: Array, key: Number) -> None:
    """Brightness, contrast, saturation, hue in an order drawn per sample."""
    rank = int(draw(key, ORDER) * 24.0)
    order = np.array([0, 1, 2, 3])
    for place in range(3):  # the rank's digits in the factorial base pick without replacement
        radix = (6, 2, 1)[place]
        pick = place + rank // radix
        rank %= radix
        chosen = order[pick]
        for i in range(pick, place, -1):
            order[i] = order[i - 1]
        order[place] = chosen
    for operation in order:
        if operation == 0 and table[_B] > 0:
            low, high = max(0.0, 1 - table[_B]), 1 + table[_B]
            adjust_brightness(planes, _between(key, BRIGHTNESS, low, high))
        elif operation == 1 and table[_C] > 0:
            low, high = max(0.0, 1 - table[_C]), 1 + table[_C]
            adjust_contrast(planes, _between(key, CONTRAST, low, high), size)
        elif operation == 2 and table[_S] > 0:
            low, high = max(0.0, 1 - table[_S]), 1 + table[_S]
            adjust_saturation(planes, _between(key, SATURATION, low, high))
        elif operation == 3 and table[_H] > 0:
            adjust_hue(planes, _between(key, HUE, -table[_H], table[_H]))


@_jit_inline
def recolor(image: Array, table: Array, key: Number, scratch: Array) -> None:
    """Jitter, grayscale, blur and solarize one view in place, as its key draws them.

    Args:
        image: uint8, (3, S, S).
        table: Of `view_table`.
        key: Of `view_key`.
        scratch: float32, at least `scratch_size(S)` long.
    """
    is_jittered = draw(key, JITTER) < table[_JITTER_PROB]
    is_gray = draw(key, GRAY) < table[_GRAY_PROB]
    is_blurred = draw(key, BLUR) < table[_BLUR_PROB]
    is_solarized = draw(key, SOLARIZE) < table[_SOLARIZE_PROB]
    if not (is_jittered or is_gray or is_blurred or is_solarized):
        return
    size = image.shape[1]
    area = size * size
    flat = image.reshape(3 * area)
    values = scratch[: 3 * area]
    for i in range(3 * area):
        values[i] = np.float32(flat[i])
    planes = values.reshape((3, area))
    if is_jittered:
        _jitter(planes, size, table, key)
    if is_gray:
        to_gray(planes)
    if is_blurred:
        sigma = _between(key, SIGMA, table[_SIGMA_0], table[_SIGMA_1])
        blur(planes, sigma, size, scratch[3 * area : 4 * area])
    if is_solarized:
        solarize(planes, table[_THRESHOLD])
    for i in range(3 * area):
        flat[i] = np.uint8(values[i] + _HALF)


# What the loader calls --------------------------------------------------------------------


@_jit_inline
def render_image(
    flat: Array,
    height: int,
    width: int,
    sample: int,
    out: Array,
    row: int,
    table: Array,
    stream: Number,
    epoch: int,
    scratch: Array,
) -> None:
    """Render every drawing of one view of one image; see `render_rows`.

    Args:
        flat: Interleaved RGB, uint8, (H * W * 3,).
        height: H.
        width: W.
        sample: Sample id.
        out: Result, uint8, (k, B, 3, S, S); row `row` is written.
        row: Row.
        table: Of `view_table`.
        stream: Of `view_stream`.
        epoch: Epoch, int64.
        scratch: float32, at least `scratch_size(S)` long; one per thread.
    """
    for drawing in range(out.shape[0]):
        image = out[drawing, row]
        key = view_key(stream, epoch, sample, drawing)
        crop(flat, height, width, table, key, image)
        recolor(image, table, key, scratch)


@_jit
def render_rows(
    addresses: Array,
    heights: Array,
    widths: Array,
    samples: Array,
    out: Array,
    first_row: int,
    table: Array,
    stream: Number,
    epoch: int,
    scratch: Array,
) -> None:
    """Render every drawing of one view for some images.

    Args:
        addresses: Where each image lies, int64, (n,): interleaved RGB, uint8, H * W * 3.
        heights: H of each, int64, (n,).
        widths: W of each, int64, (n,).
        samples: Sample ids, int64, (n,).
        out: Result, uint8, (k, B, 3, S, S); rows first_row ... first_row + n - 1 are written.
        first_row: Row of the first image.
        table: Of `view_table`.
        stream: Of `view_stream`.
        epoch: Epoch, int64.
        scratch: float32, at least `scratch_size(S)` long; one per thread.
    """
    for i in range(len(addresses)):
        flat = carray(pointer(addresses[i]), (heights[i] * widths[i] * 3,))
        render_image(
            flat, heights[i], widths[i], samples[i], out, first_row + i,
            table, stream, epoch, scratch,
        )  # fmt: skip
