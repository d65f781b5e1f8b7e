"""Bicubic resize: Pillow's antialiased fixed-point arithmetic, bit for bit."""

import numpy as np

from ssl_vision.data.kernels.compiling import Array, Number, jit, jit_inline
from ssl_vision.data.kernels.taps import (
    PRECISION,
    blend_pair_fixed,
    pair_places,
    pair_weights,
    tap_count,
    weigh,
)

Box = tuple[int, ...]


@jit_inline
def _to_fixed(weights: Array, fixed: Array) -> None:
    for i in range(fixed.shape[0]):
        for tap in range(fixed.shape[1]):
            weight = weights[i, tap] * (1 << PRECISION)
            fixed[i, tap] = np.int32(int(weight - 0.5 if weight < 0 else weight + 0.5))


@jit_inline
def _clip8(value: Number) -> Number:
    level = value >> np.int32(PRECISION)
    level = level if level > 0 else np.int32(0)
    return np.uint8(level if level < 255 else np.int32(255))


@jit
def _squeeze_row(
    row: Array, places: Array, weights: Array, line: Array, groups: Array, out: Array
) -> None:
    """Pillow's horizontal pass of one row of interleaved RGB.

    Args:
        row: uint8, (3 * W,).
        places: Of `pair_places`.
        weights: Of `pair_weights`, int32.
        line: Scratch, int32, at least 3 * (W + taps + 1), zero behind the row.
        groups: Scratch, int32, 4 * S rounded up to whole pairs.
        out: uint8, (3 * S,).
    """
    num_pairs, taps, _ = weights.shape
    for x in range(len(row)):
        line[x] = row[x]
    pixels, factors, target = line.ctypes.data, weights.ctypes.data, groups.ctypes.data
    if taps == 5:  # written out, so that the compiler unrolls the loop over taps
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


@jit
def _stretch_row(
    flat: Array, offset: int, stride: int, count: int, weights: Array, line: Array, out: Array
) -> None:
    """Pillow's vertical pass of one output row; rows of `flat` lie `stride` apart."""
    length = len(line)
    for x in range(length):
        line[x] = np.int32(1 << (PRECISION - 1))
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


@jit_inline
def _is_vertical_first(box: Box, full: Box) -> bool:
    """The order of passes Pillow 13 takes, found by experiment; 12 and older: never.

    It matters only where clipping after the first pass does: ringing at hard edges.
    """
    return box[2] > full[0] and box[2] - full[0] > 2 * (box[3] - full[1])


@jit
def _split_planes(row: Array, y: int, is_flipped: bool, out: Array) -> None:
    size = out.shape[1]
    for x in range(size):
        column = size - 1 - x if is_flipped else x
        out[0, y, column] = row[3 * x]
        out[1, y, column] = row[3 * x + 1]
        out[2, y, column] = row[3 * x + 2]


@jit
def resize_bicubic(
    flat: Array, width: int, box: Box, full: Box, shift: Box, is_flipped: bool, out: Array
) -> None:
    """Two passes, each rounded and clipped; see `resize_bilinear` for the arguments."""
    top, left, in_h, in_w = box
    size = out.shape[1]
    num_pairs = (size + 1) // 2
    starts_y, counts_y = np.empty(size, np.int64), np.empty(size, np.int64)
    starts_x, counts_x = np.empty(size, np.int64), np.empty(size, np.int64)
    taps_y = tap_count(in_h, full[0], True)
    exact_y = np.empty((size, taps_y), np.float64)
    exact_x = np.empty((size, tap_count(in_w, full[1], True)), np.float64)
    weigh(in_h, full[0], shift[0], True, starts_y, counts_y, exact_y)
    taps_x = weigh(in_w, full[1], shift[1], True, starts_x, counts_x, exact_x)
    weights_y, fixed_x = np.empty((size, taps_y), np.int32), np.empty((size, taps_x), np.int32)
    _to_fixed(exact_y, weights_y)
    _to_fixed(exact_x, fixed_x)
    weights_x = np.empty((num_pairs, taps_x, 8), np.int32)
    pair_weights(fixed_x, weights_x)
    places_x = np.empty((num_pairs, 2), np.int64)
    pair_places(starts_x, places_x)
    wide = np.empty((in_w + taps_x + 1) * 3, np.int32)
    for x in range(in_w * 3, len(wide)):
        wide[x] = 0
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
            twin = ring[slot + taps_y * stride :][:stride]
            for x in range(stride):
                twin[x] = row[x]
            done += 1
        slot = (starts_y[y] % taps_y) * stride
        _stretch_row(ring, slot, stride, counts_y[y], weights_y[y], line, squeezed)
        _split_planes(squeezed, y, is_flipped, out)
