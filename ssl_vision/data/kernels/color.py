"""Jitter, grayscale, blur and solarize of a rendered view.

Planes are float32, (3, S * S), values 0..255; levels are rounded once, at the end. Operations equal
torchvision's float functionals to 1e-4 of the full range; the blur is a Gaussian with reflected
borders, cut at 4 sigma or at the side of kernel a recipe asks for.
"""

import math
from collections.abc import Callable
from dataclasses import astuple
from functools import cache
from types import NoneType
from typing import Any, NamedTuple, get_args, get_type_hints

import numpy as np

from ssl_vision.data.kernels.compiling import Array, Number, jit, jit_inline
from ssl_vision.data.kernels.draws import (
    BLUR,
    BRIGHTNESS,
    CONTRAST,
    GRAY,
    HUE,
    JITTER,
    ORDER,
    SATURATION,
    SIGMA,
    SOLARIZE,
    between,
    draw,
    view_key,
)
from ssl_vision.views import ViewConfig

# Numbers of an operation as its kernel reads them: fields of its settings in order, pairs flat.
_B, _C, _S, _H = range(1, 5)
_SIGMA_0, _SIGMA_1, _KERNEL_PX = range(1, 4)
_THRESHOLD = 1

_HALF = np.float32(0.5)
_ZERO = np.float32(0.0)
_ONE = np.float32(1.0)
_FULL = np.float32(255.0)
# ITU-R 601 weights as torchvision rounds them.
_RED, _GREEN, _BLUE = np.float32(0.2989), np.float32(0.587), np.float32(0.114)


def scratch_size(size_px: int) -> int:
    """float32 values `recolor_rows` needs as scratch for views of `size_px`: four planes."""
    return 4 * size_px * size_px


@jit_inline
def _clip(value: Number) -> Number:
    value = value if value > _ZERO else _ZERO
    return value if value < _FULL else _FULL


@jit
def adjust_brightness(planes: Array, factor: Number) -> None:
    """Multiply by the factor, in place."""
    factor = np.float32(factor)
    for channel in range(3):
        plane = planes[channel]
        for i in range(len(plane)):
            plane[i] = _clip(factor * plane[i])


@jit_inline
def _mean_gray(planes: Array, size: int) -> float:
    # Summed by columns first: a fixed order that still fills the vector lanes.
    sums = np.empty(size, np.float32)
    for x in range(size):
        sums[x] = 0.0
    red, green, blue = planes[0], planes[1], planes[2]
    for y in range(size):
        r, g, b = red[y * size :][:size], green[y * size :][:size], blue[y * size :][:size]
        for x in range(size):
            sums[x] += _RED * r[x] + _GREEN * g[x] + _BLUE * b[x]
    total = 0.0
    for x in range(size):
        total += np.float64(sums[x])
    return total / (size * size)


@jit
def adjust_contrast(planes: Array, factor: Number, size: int) -> None:
    """Blend with the mean of the grayscale image, in place."""
    shift = np.float32((1.0 - factor) * _mean_gray(planes, size))
    factor = np.float32(factor)
    for channel in range(3):
        plane = planes[channel]
        for i in range(len(plane)):
            plane[i] = _clip(factor * plane[i] + shift)


@jit
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


@jit_inline
def _hue_channel(value: Number, chroma: Number, position: Number) -> Number:
    # HSV to RGB without cases: value - chroma * clamp(min(k, 4 - k), 0, 1), k = position mod 6.
    k = position - np.float32(6.0) * np.float32(math.floor(position * np.float32(1.0 / 6.0)))
    edge = np.float32(4.0) - k
    edge = k if k < edge else edge
    edge = edge if edge > _ZERO else _ZERO
    edge = edge if edge < _ONE else _ONE
    return value - chroma * edge


@jit
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


@jit
def to_gray(planes: Array) -> None:
    """Replace every channel by the grayscale image, in place."""
    red, green, blue = planes[0], planes[1], planes[2]
    for i in range(len(red)):
        gray = _RED * red[i] + _GREEN * green[i] + _BLUE * blue[i]
        red[i] = gray
        green[i] = gray
        blue[i] = gray


@jit_inline
def _add(out: Array, weight: Number, a: Array, b: Array) -> None:
    """Add weight * (a + b), both at least as long as `out`."""
    for x in range(len(out)):
        out[x] += weight * (a[x] + b[x])


@jit_inline
def _add_two(
    out: Array, weight: Number, a: Array, b: Array, weight_2: Number, c: Array, d: Array
) -> None:
    """`_add` twice at half the traffic of `out`."""
    for x in range(len(out)):
        out[x] += weight * (a[x] + b[x]) + weight_2 * (c[x] + d[x])


@jit
def _blur_rows(plane: Array, target: Array, size: int, weights: Array) -> None:
    radius = len(weights) - 1
    padded = np.empty(size + 2 * radius, np.float32)
    for y in range(size):
        row, out = plane[y * size :][:size], target[y * size :][:size]
        for x in range(size):
            padded[radius + x] = row[x]
            out[x] = weights[0] * row[x]
        for x in range(radius):  # reflected, the border itself not repeated
            padded[radius - 1 - x] = row[1 + x]
            padded[radius + size + x] = row[size - 2 - x]
        for k in range(1, radius, 2):
            near, far = radius - k, radius + k
            _add_two(
                out, weights[k], padded[near:], padded[far:],
                weights[k + 1], padded[near - 1 :], padded[far + 1 :],
            )  # fmt: skip
        if radius % 2:
            _add(out, weights[radius], padded, padded[2 * radius :])


@jit
def _mirrored(plane: Array, y: int, size: int) -> Array:
    """Row y of a plane; rows outside are reflected at the border row."""
    inside = abs(y)
    inside = inside if inside < size else 2 * size - 2 - inside
    return plane[inside * size :][:size]


@jit
def _blur_columns(plane: Array, target: Array, size: int, weights: Array) -> None:
    radius = len(weights) - 1
    for y in range(size):
        out, row = target[y * size :][:size], plane[y * size :][:size]
        for x in range(size):
            out[x] = weights[0] * row[x]
        for k in range(1, radius, 2):
            _add_two(
                out, weights[k], _mirrored(plane, y - k, size), _mirrored(plane, y + k, size),
                weights[k + 1], _mirrored(plane, y - k - 1, size),
                _mirrored(plane, y + k + 1, size),
            )  # fmt: skip
        if radius % 2:
            above, below = _mirrored(plane, y - radius, size), _mirrored(plane, y + radius, size)
            _add(out, weights[radius], above, below)


@jit_inline
def blur(planes: Array, sigma: Number, size: int, spare: Array, kernel: int) -> None:
    """Gaussian blur with reflected borders, in place.

    Args:
        planes: (3, S * S).
        sigma: Standard deviation in pixels.
        size: S.
        spare: Scratch, (S * S,).
        kernel: Side of the kernel, odd; 0 for one that reaches to 4 sigma.
    """
    radius = (kernel - 1) // 2 if kernel > 0 else math.ceil(4.0 * sigma)
    radius = min(radius, size - 1)
    exact = np.empty(radius + 1, np.float64)
    total = 0.0
    for k in range(radius + 1):
        exact[k] = math.exp(-0.5 * (k / sigma) ** 2)
        total += exact[k]
    weights = np.empty(radius + 1, np.float32)
    for k in range(radius + 1):
        weights[k] = np.float32(exact[k] / (2.0 * total - exact[0]))
    for channel in range(3):
        _blur_rows(planes[channel], spare, size, weights)
        _blur_columns(spare, planes[channel], size, weights)


@jit
def solarize(planes: Array, threshold: Number) -> None:
    """Invert values at or above the threshold, in place."""
    threshold = np.float32(threshold)
    for channel in range(3):
        plane = planes[channel]
        for i in range(len(plane)):
            plane[i] = _FULL - plane[i] if plane[i] >= threshold else plane[i]


@jit_inline
def _jitter(planes: Array, size: int, numbers: Array, key: Number, spare: Array) -> None:
    """Brightness, contrast, saturation, hue in an order drawn per sample."""
    rank = int(draw(key, ORDER) * 24.0)
    order = np.empty(4, np.int64)
    for place in range(4):
        order[place] = place
    for place in range(3):  # the rank's digits in the factorial base pick without replacement
        radix = (6, 2, 1)[place]
        pick = place + rank // radix
        rank %= radix
        chosen = order[pick]
        for i in range(pick, place, -1):
            order[i] = order[i - 1]
        order[place] = chosen
    for place in range(4):
        operation = order[place]
        if operation == 0 and numbers[_B] > 0:
            low, high = max(0.0, 1 - numbers[_B]), 1 + numbers[_B]
            adjust_brightness(planes, between(key, BRIGHTNESS, low, high))
        elif operation == 1 and numbers[_C] > 0:
            low, high = max(0.0, 1 - numbers[_C]), 1 + numbers[_C]
            adjust_contrast(planes, between(key, CONTRAST, low, high), size)
        elif operation == 2 and numbers[_S] > 0:
            low, high = max(0.0, 1 - numbers[_S]), 1 + numbers[_S]
            adjust_saturation(planes, between(key, SATURATION, low, high))
        elif operation == 3 and numbers[_H] > 0:
            adjust_hue(planes, between(key, HUE, -numbers[_H], numbers[_H]))


@jit_inline
def _gray(planes: Array, size: int, numbers: Array, key: Number, spare: Array) -> None:
    to_gray(planes)


@jit_inline
def _blur(planes: Array, size: int, numbers: Array, key: Number, spare: Array) -> None:
    sigma = between(key, SIGMA, numbers[_SIGMA_0], numbers[_SIGMA_1])
    blur(planes, sigma, size, spare, int(numbers[_KERNEL_PX]))


@jit_inline
def _solarize(planes: Array, size: int, numbers: Array, key: Number, spare: Array) -> None:
    solarize(planes, numbers[_THRESHOLD])


class Operation(NamedTuple):
    """A row of the table of colour operations.

    Attributes:
        field: Of ViewConfig: a probability, or settings whose first field is one.
        slot: Of the draw that decides whether it happens.
        kernel: `kernel(planes, size, numbers, key, spare)`, in place.
    """

    field: str
    slot: np.int64
    kernel: Callable[..., None]

    def is_on(self, view: ViewConfig) -> bool:
        """Whether a view may have it at all."""
        return bool(getattr(view, self.field))

    def numbers(self, view: ViewConfig) -> list[float]:
        """What the kernel reads: its settings, flat; the probability first."""
        settings = getattr(view, self.field) or _off(self.field)
        if isinstance(settings, float | int):
            return [float(settings)]
        return [
            float(number or 0)
            for value in astuple(settings)
            for number in (value if isinstance(value, tuple) else (value,))
        ]


@cache
def _off(field: str) -> Any:
    """Value of a field of ViewConfig with which its operation never happens."""
    kinds = [kind for kind in get_args(get_type_hints(ViewConfig)[field]) if kind is not NoneType]
    return kinds[0](prob=0) if kinds else 0.0


# In the order in which they happen. A new one needs: its settings and field in `views`, a slot in
# `draws`, a row here with its kernel, its batched form in `data.images.recolor`.
OPERATIONS = (
    Operation("jitter", JITTER, _jitter),
    Operation("gray_prob", GRAY, _gray),
    Operation("blur", BLUR, _blur),
    Operation("solarize", SOLARIZE, _solarize),
)
_SLOTS = np.array([operation.slot for operation in OPERATIONS])
_BOUNDS = np.cumsum([0, *(len(op.numbers(ViewConfig())) for op in OPERATIONS)])


def color_table(view: ViewConfig) -> np.ndarray:
    """Numbers of a view as the kernels read them, operation by operation, float64."""
    return np.array([number for op in OPERATIONS for number in op.numbers(view)])


def has_color(view: ViewConfig) -> bool:
    """Whether `recolor` can change the view at all."""
    return any(operation.is_on(view) for operation in OPERATIONS)


@jit_inline
def _is_any_drawn(table: Array, key: Number) -> bool:
    is_drawn = False
    for i in range(len(_SLOTS)):
        is_drawn |= draw(key, _SLOTS[i]) < table[_BOUNDS[i]]
    return is_drawn


@jit_inline
def _nothing(planes: Array, size: int, table: Array, key: Number, spare: Array) -> None:
    pass


def _before(place: int, then: Callable[..., None]) -> Callable[..., None]:
    """The operation at a place where its draw says so, then the rest: a kernel made of kernels."""
    kernel, slot = OPERATIONS[place].kernel, OPERATIONS[place].slot
    first, last = int(_BOUNDS[place]), int(_BOUNDS[place + 1])

    def run(planes: Array, size: int, table: Array, key: Number, spare: Array) -> None:
        if draw(key, slot) < table[first]:
            kernel(planes, size, table[first:last], key, spare)
        then(planes, size, table, key, spare)

    chained: Callable[..., None] = jit_inline(run, is_cached=False)
    return chained


def _chain() -> Callable[..., None]:
    chained: Callable[..., None] = _nothing
    for place in reversed(range(len(OPERATIONS))):
        chained = _before(place, chained)
    return chained


_operate = _chain()


@jit_inline
def recolor(image: Array, table: Array, key: Number, scratch: Array) -> None:
    """Jitter, grayscale, blur and solarize one view in place, as its key draws them.

    Args:
        image: uint8, (3, S, S).
        table: Of `color_table`.
        key: Of `view_key`.
        scratch: float32, at least `scratch_size(S)` long.
    """
    if not _is_any_drawn(table, key):
        return
    size = image.shape[1]
    area = size * size
    flat = image.reshape(3 * area)
    values = scratch[: 3 * area]
    for i in range(3 * area):
        values[i] = np.float32(flat[i])
    planes = values.reshape((3, area))
    _operate(planes, size, table, key, scratch[3 * area : 4 * area])
    for i in range(3 * area):
        flat[i] = np.uint8(values[i] + _HALF)


@jit
def recolor_rows(
    out: Array,
    first_row: int,
    samples: Array,
    table: Array,
    stream: Number,
    epoch: int,
    scratch: Array,
) -> None:
    """Recolour every drawing of some rendered samples in place.

    Args:
        out: Rendered views, uint8, (k, B, 3, S, S); rows first_row ... first_row + n - 1 change.
        first_row: Row of the first sample.
        samples: Sample ids, int64, (n,).
        table: Of `color_table`.
        stream: Of `view_stream`.
        epoch: Epoch, int64.
        scratch: float32, at least `scratch_size(S)` long; one per thread.
    """
    for drawing in range(out.shape[0]):
        for i in range(len(samples)):
            key = view_key(stream, epoch, samples[i], drawing)
            recolor(out[drawing, first_row + i], table, key, scratch)
