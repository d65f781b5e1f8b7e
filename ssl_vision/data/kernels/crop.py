"""Random resized crop, centre crop, whole image, and flip.

Boxes are those of torchvision's RandomResizedCrop.get_params, centre crops round as torchvision's
Resize and CenterCrop; pixels are Pillow's (see `bilinear` and `bicubic`).
"""

import math
from collections.abc import Callable

import numpy as np
from numba.np.numpy_support import carray

from ssl_vision.data.kernels.bicubic import resize_bicubic
from ssl_vision.data.kernels.bilinear import resize_bilinear
from ssl_vision.data.kernels.compiling import Array, Number, jit, jit_inline, pointer
from ssl_vision.data.kernels.draws import FLIP, between, draw, view_key
from ssl_vision.views import ViewConfig

Box = tuple[int, int, int, int]
Pair = tuple[int, int]

_TRIES = 10

# Columns of the table `crop_table` makes of a ViewConfig.
_CROP, _AREA_0, _AREA_1, _RATIO_0, _RATIO_1, _FRACTION, _FLIP_PROB = range(7)
_NUM_COLUMNS = 7
_CENTER, _RANDOM, _WHOLE = range(3)  # values of the first
_CROPS = {"center": _CENTER, "random": _RANDOM, "whole": _WHOLE}


def crop_table(view: ViewConfig) -> np.ndarray:
    """Numbers of a view as the kernels read them, float64, (7,)."""
    table = np.zeros(_NUM_COLUMNS)
    table[_CROP] = _CROPS[view.crop]
    table[[_AREA_0, _AREA_1]] = view.crop_area
    table[[_RATIO_0, _RATIO_1]] = view.crop_ratio
    table[_FRACTION] = view.center_fraction
    table[_FLIP_PROB] = view.flip_prob
    return table


def crop_kernel(view: ViewConfig) -> Callable[..., None]:
    """The entry point for a view's interpolation: `crop_rows_bilinear` or `crop_rows_bicubic`."""
    return crop_rows_bicubic if view.interpolation == "bicubic" else crop_rows_bilinear


@jit
def random_box(height: int, width: int, table: Array, key: Number) -> Box:
    """Box (top, left, height, width) of torchvision's RandomResizedCrop.get_params."""
    log_low, log_high = math.log(table[_RATIO_0]), math.log(table[_RATIO_1])
    for attempt in range(_TRIES):
        slot = 4 * attempt
        area = height * width * between(key, slot, table[_AREA_0], table[_AREA_1])
        ratio = math.exp(between(key, slot + 1, log_low, log_high))
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


@jit_inline
def _frame(
    height: int, width: int, size: int, table: Array, key: Number
) -> tuple[Box, Pair, Pair, bool]:
    """Box, full size, shift and flip of a view, as `resize_bilinear` takes them."""
    if table[_CROP] == _RANDOM:
        box = random_box(height, width, table, key)
        full, shift = (size, size), (0, 0)
    elif table[_CROP] == _WHOLE:
        box, full, shift = (0, 0, height, width), (size, size), (0, 0)
    else:
        # Shorter side to size / fraction, as torchvision's Resize and CenterCrop round.
        box = (0, 0, height, width)
        short = int(size / table[_FRACTION])
        if height <= width:
            full = (short, int(short * width / height))
        else:
            full = (int(short * height / width), short)
        shift = (round((full[0] - size) / 2.0), round((full[1] - size) / 2.0))
    return box, full, shift, draw(key, FLIP) < table[_FLIP_PROB]


@jit_inline
def crop_bilinear(
    flat: Array, height: int, width: int, table: Array, key: Number, out: Array
) -> None:
    """Cut, resize and flip one view.

    Args:
        flat: Image, uint8, (H * W * 3,), interleaved RGB.
        height: H.
        width: W.
        table: Of `crop_table`.
        key: Of `view_key`.
        out: Result, uint8, (3, S, S).
    """
    box, full, shift, is_flipped = _frame(height, width, out.shape[1], table, key)
    resize_bilinear(flat, width, box, full, shift, is_flipped, out)


@jit_inline
def crop_bicubic(
    flat: Array, height: int, width: int, table: Array, key: Number, out: Array
) -> None:
    """Cut, resize and flip one view; see `crop_bilinear`."""
    box, full, shift, is_flipped = _frame(height, width, out.shape[1], table, key)
    resize_bicubic(flat, width, box, full, shift, is_flipped, out)


@jit
def crop_rows_bilinear(
    addresses: Array,
    heights: Array,
    widths: Array,
    samples: Array,
    out: Array,
    first_row: int,
    table: Array,
    stream: Number,
    epoch: int,
) -> None:
    """Cut, resize and flip every drawing of one view for some images.

    Args:
        addresses: Where each image lies, int64, (n,): interleaved RGB, uint8, H * W * 3.
        heights: H of each, int64, (n,).
        widths: W of each, int64, (n,).
        samples: Sample ids, int64, (n,).
        out: Result, uint8, (k, B, 3, S, S); rows first_row ... first_row + n - 1 are written.
        first_row: Row of the first image.
        table: Of `crop_table`.
        stream: Of `view_stream`.
        epoch: Epoch, int64.
    """
    for i in range(len(addresses)):
        height, width = heights[i], widths[i]
        flat = carray(pointer(addresses[i]), (height * width * 3,))
        for drawing in range(out.shape[0]):
            key = view_key(stream, epoch, samples[i], drawing)
            crop_bilinear(flat, height, width, table, key, out[drawing, first_row + i])


@jit
def crop_rows_bicubic(
    addresses: Array,
    heights: Array,
    widths: Array,
    samples: Array,
    out: Array,
    first_row: int,
    table: Array,
    stream: Number,
    epoch: int,
) -> None:
    """Cut, resize and flip every drawing of one view; see `crop_rows_bilinear`."""
    for i in range(len(addresses)):
        height, width = heights[i], widths[i]
        flat = carray(pointer(addresses[i]), (height * width * 3,))
        for drawing in range(out.shape[0]):
            key = view_key(stream, epoch, samples[i], drawing)
            crop_bicubic(flat, height, width, table, key, out[drawing, first_row + i])
