"""Bilinear resize: vertical pass into one line, horizontal pass out of it.

float32, rounded once: within one level of Pillow's antialiased resize.
"""

import numpy as np

from ssl_vision.data.kernels.compiling import Array, jit
from ssl_vision.data.kernels.taps import blend_pair, pair_places, pair_weights, tap_count, weigh

Box = tuple[int, ...]


@jit
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


@jit
def _squeeze_line(line: Array, places: Array, weights: Array, out: Array) -> None:
    """Horizontal pass of one row into groups of four lanes.

    The common numbers of taps are written out: with a constant count the compiler unrolls the
    loop over taps, which makes this pass twice as fast.

    Args:
        line: float32, interleaved RGB.
        places: Of `pair_places`.
        weights: Of `pair_weights`.
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


@jit
def resize_bilinear(
    flat: Array, width: int, box: Box, full: Box, shift: Box, is_flipped: bool, out: Array
) -> None:
    """Resize a box of an image and cut a square out of the result.

    Args:
        flat: Image, uint8, (H * W * 3,), interleaved RGB.
        width: W.
        box: Part of the image that is resized (top, left, height, width).
        full: What it is resized to (height, width).
        shift: Where in that the square begins (top, left).
        is_flipped: Whether to mirror it.
        out: The square, uint8, (3, S, S).
    """
    top, left, in_h, in_w = box
    size = out.shape[1]
    num_pairs = (size + 1) // 2
    starts_y, counts_y = np.empty(size, np.int64), np.empty(size, np.int64)
    starts_x, counts_x = np.empty(size, np.int64), np.empty(size, np.int64)
    weights_y = np.empty((size, tap_count(in_h, full[0], False)), np.float32)
    loose_x = np.empty((size, tap_count(in_w, full[1], False)), np.float32)
    weigh(in_h, full[0], shift[0], False, starts_y, counts_y, weights_y)
    taps_x = weigh(in_w, full[1], shift[1], False, starts_x, counts_x, loose_x)
    # Equal tap counts in the inner loop: the processor then predicts its end.
    weights_x = np.empty((num_pairs, taps_x, 8), np.float32)
    pair_weights(loose_x, weights_x)
    places_x = np.empty((num_pairs, 2), np.int64)
    pair_places(starts_x, places_x)
    line = np.empty((in_w + taps_x + 1) * 3, np.float32)
    for x in range(in_w * 3, len(line)):
        line[x] = 0.0  # weighs nothing, but must be a number
    row = line[: in_w * 3]
    squeezed = np.empty(size * 4 + 4, np.float32)
    for y in range(size):
        offset = ((top + starts_y[y]) * width + left) * 3
        _blend_rows(flat, offset, width * 3, counts_y[y], weights_y[y], row)
        _squeeze_line(line, places_x, weights_x, squeezed)
        for x in range(size):
            column = size - 1 - x if is_flipped else x
            out[0, y, column] = np.uint8(squeezed[4 * x])
            out[1, y, column] = np.uint8(squeezed[4 * x + 1])
            out[2, y, column] = np.uint8(squeezed[4 * x + 2])
