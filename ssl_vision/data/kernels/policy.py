"""RandAugment and random erasing of rendered views, compiled and keyed like the other operations.

The operations are Pillow's, at the strengths timm gives them in its "increasing" list; geometry
is bilinear or bicubic as the view says. Erasing happens on uint8 levels: the noise of
timm's `pixel` mode, N(mean, std) per channel, is cut to the levels an image can have.
"""

import math

import numpy as np

from ssl_vision.data.kernels.compiling import Array, Number, jit
from ssl_vision.data.kernels.draws import draw, view_key
from ssl_vision.views import ViewConfig

NAMES = (
    "auto_contrast", "equalize", "invert", "rotate", "posterize", "solarize", "solarize_add",
    "color", "contrast", "brightness", "sharpness", "shear_x", "shear_y", "translate_x",
    "translate_y",
)  # fmt: skip
(
    AUTO_CONTRAST, EQUALIZE, INVERT, ROTATE, POSTERIZE, SOLARIZE, SOLARIZE_ADD, COLOR, CONTRAST,
    BRIGHTNESS, SHARPNESS, SHEAR_X, SHEAR_Y, TRANSLATE_X, TRANSLATE_Y,
) = range(15)  # fmt: skip

# Slots of the draws, behind those of `draws`.
_FIRST_OP, _SLOTS_PER_OP = 100, 5
_ERASE, _FIRST_TRY, _NUM_TRIES, _FIRST_NOISE = 200, 201, 10, 1000

# Columns of the table `policy_table` makes of a ViewConfig.
_NUM_OPS, _OP_PROB, _MAGNITUDE, _MAGNITUDE_STD, _FILL, _IS_CUBIC = 0, 1, 2, 3, 4, 7
_ERASE_PROB, _AREA_0, _AREA_1, _RATIO_0, _RATIO_1, _MEAN, _STD = 8, 9, 10, 11, 12, 13, 16
_NUM_COLUMNS = 19


# Fields of ViewConfig rendered here, after the colours: on the CPU only, and not by ffcv.
POLICIES = ("rand_augment", "erase")


def policies_of(view: ViewConfig) -> list[str]:
    """Policies of the table `POLICIES` that a view has."""
    return [name for name in POLICIES if getattr(view, name) is not None]


def policy_table(view: ViewConfig) -> np.ndarray | None:
    """Numbers of a view as the kernels read them, float64, (19,); None if both are off."""
    if not policies_of(view):
        return None
    table = np.zeros(_NUM_COLUMNS)
    table[_IS_CUBIC] = view.interpolation == "bicubic"
    if view.rand_augment is not None:
        policy = view.rand_augment
        table[[_NUM_OPS, _OP_PROB]] = policy.num_ops, policy.op_prob
        table[[_MAGNITUDE, _MAGNITUDE_STD]] = policy.magnitude, policy.magnitude_std
        table[_FILL : _FILL + 3] = policy.fill
    if view.erase is not None:
        erase = view.erase
        table[_ERASE_PROB] = erase.prob
        table[[_AREA_0, _AREA_1]], table[[_RATIO_0, _RATIO_1]] = erase.area, erase.ratio
        table[_MEAN : _MEAN + 3], table[_STD : _STD + 3] = erase.noise_mean, erase.noise_std
    return table


# Levels ------------------------------------------------------------------------------------


@jit
def _truncated(value: Number) -> Number:
    """Float to level as Pillow's blend does: cut to 0..255, fraction dropped."""
    if value <= 0.0:
        return np.uint8(0)
    return np.uint8(255) if value >= 255.0 else np.uint8(value)


@jit
def _gray_levels(image: Array, x: Number) -> Number:
    """Pillow's integer luma of pixel x of flattened channels."""
    red, green, blue = int(image[0, x]), int(image[1, x]), int(image[2, x])
    return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16


@jit
def _histogram(channel: Array) -> Array:
    counts = np.zeros(256, np.int64)
    for level in channel:
        counts[level] += 1
    return counts


@jit
def _auto_contrast_levels(counts: Array, levels: Array) -> None:
    low, high = 0, 255
    while low < 255 and counts[low] == 0:
        low += 1
    while high > 0 and counts[high] == 0:
        high -= 1
    scale = 255.0 / (high - low) if high > low else 1.0
    shift = -low * scale if high > low else 0.0
    for level in range(256):
        value = int(level * scale + shift)
        levels[level] = min(max(value, 0), 255)


@jit
def _equalize_levels(counts: Array, levels: Array) -> None:
    last, num_used, total = 0, 0, 0
    for level in range(256):
        if counts[level]:
            last = counts[level]
            num_used += 1
            total += counts[level]
    step = (total - last) // 255
    seen = step // 2
    for level in range(256):
        levels[level] = level
        if num_used > 1 and step:
            levels[level] = min(seen // step, 255)
            seen += counts[level]


@jit
def _map_levels(image: Array, operation: int, argument: Number) -> None:
    """Operations that send each level of a channel to another, in place on (3, S * S)."""
    levels = np.empty(256, np.int64)
    for channel in range(3):
        if operation == AUTO_CONTRAST:
            _auto_contrast_levels(_histogram(image[channel]), levels)
        elif operation == EQUALIZE:
            _equalize_levels(_histogram(image[channel]), levels)
        else:
            for level in range(256):
                value = level
                if operation == INVERT:
                    value = 255 - level
                elif operation == POSTERIZE:
                    value = level & ~((1 << (8 - int(argument))) - 1)
                elif operation == SOLARIZE:
                    value = level if level < argument else 255 - level
                elif operation == SOLARIZE_ADD:
                    value = min(255, level + int(argument)) if level < 128 else level
                levels[level] = value
        row = image[channel]
        for x in range(len(row)):
            row[x] = np.uint8(levels[row[x]])


@jit
def _enhance(image: Array, operation: int, factor: Number) -> None:
    """Colour, contrast and brightness: blend with gray, its mean, or black; on (3, S * S)."""
    area = image.shape[1]
    mean = 0
    if operation == CONTRAST:
        for x in range(area):
            mean += _gray_levels(image, x)
        mean = int(mean / area + 0.5)
    factor = np.float32(factor)
    for x in range(area):
        base = np.float32(0.0)
        if operation == COLOR:
            base = np.float32(_gray_levels(image, x))
        elif operation == CONTRAST:
            base = np.float32(mean)
        for channel in range(3):
            image[channel, x] = _truncated(base + factor * (np.float32(image[channel, x]) - base))


@jit
def _sharpen(image: Array, factor: Number) -> None:
    """Blend with the image smoothed by (1 1 1; 1 5 1; 1 1 1) / 13, borders kept; (3, S, S)."""
    size = image.shape[1]
    factor = np.float32(factor)
    for channel in range(3):
        old = image[channel].copy()
        for y in range(1, size - 1):
            for x in range(1, size - 1):
                total = 4 * np.int64(old[y, x])
                for dy in range(-1, 2):
                    for dx in range(-1, 2):
                        total += np.int64(old[y + dy, x + dx])
                smooth = np.float32(int(np.float32(total) / np.float32(13.0) + np.float32(0.5)))
                image[channel, y, x] = _truncated(
                    smooth + factor * (np.float32(old[y, x]) - smooth)
                )


# Geometry ----------------------------------------------------------------------------------


@jit
def _cubic(a: Number, b: Number, c: Number, d: Number, t: Number) -> Number:
    """Pillow's cubic through four values (a = -1), between b and c."""
    p2, p3, p4 = c - a, 2.0 * (a - b) + c - d, b - a - c + d
    return b + t * (p2 + t * (p3 + t * p4))


@jit
def _across(row: Array, column: int, t: Number, is_cubic: Number) -> Number:
    """Value of a row at column + t, borders repeated."""
    last = len(row) - 1
    left, right = float(row[max(column, 0)]), float(row[min(column + 1, last)])
    if not is_cubic:
        return left + (right - left) * t
    before, after = float(row[max(column - 1, 0)]), float(row[min(column + 2, last)])
    return _cubic(before, left, right, after, t)


@jit
def _sample(plane: Array, x: Number, y: Number, is_cubic: Number) -> Number:
    """Value of a plane at a point within it, pixel centres at whole numbers, borders repeated."""
    column, row = math.floor(x), math.floor(y)
    t, last = x - column, plane.shape[0] - 1
    above = _across(plane[max(row, 0)], column, t, is_cubic)
    below = _across(plane[min(row + 1, last)], column, t, is_cubic)
    if not is_cubic:
        return above + (below - above) * (y - row)
    before = _across(plane[max(row - 1, 0)], column, t, is_cubic)
    after = _across(plane[min(row + 2, last)], column, t, is_cubic)
    return _cubic(before, above, below, after, y - row)


@jit
def _warp(image: Array, matrix: Array, table: Array) -> None:
    """Each pixel becomes the one the affine matrix (2, 3) points at, the fill beyond the image."""
    size = image.shape[1]
    old = image.copy()
    for y in range(size):
        for x in range(size):
            from_x = matrix[0, 0] * (x + 0.5) + matrix[0, 1] * (y + 0.5) + matrix[0, 2]
            from_y = matrix[1, 0] * (x + 0.5) + matrix[1, 1] * (y + 0.5) + matrix[1, 2]
            is_inside = 0.0 <= from_x < size and 0.0 <= from_y < size
            for channel in range(3):
                if is_inside:
                    value = _sample(old[channel], from_x - 0.5, from_y - 0.5, table[_IS_CUBIC])
                    image[channel, y, x] = _truncated(value)
                else:
                    image[channel, y, x] = np.uint8(table[_FILL + channel])


@jit
def _matrix(operation: int, argument: Number, size: int) -> Array:
    """Affine matrix of rotate (degrees), shear (factor) or translate (fraction of the side)."""
    matrix = np.zeros((2, 3))
    matrix[0, 0] = matrix[1, 1] = 1.0
    if operation == ROTATE:
        angle = -math.radians(argument)
        matrix[0, 0] = matrix[1, 1] = math.cos(angle)
        matrix[0, 1], matrix[1, 0] = math.sin(angle), -math.sin(angle)
        center = size / 2.0
        matrix[0, 2] = center - matrix[0, 0] * center - matrix[0, 1] * center
        matrix[1, 2] = center - matrix[1, 0] * center - matrix[1, 1] * center
    elif operation == SHEAR_X:
        matrix[0, 1] = argument
    elif operation == SHEAR_Y:
        matrix[1, 0] = argument
    elif operation == TRANSLATE_X:
        matrix[0, 2] = argument * size
    elif operation == TRANSLATE_Y:
        matrix[1, 2] = argument * size
    return matrix


# The policy --------------------------------------------------------------------------------


@jit
def argument_of(operation: int, magnitude: Number, is_negative: Number) -> Number:
    """Strength of an operation at a magnitude of 0..10; half of the signed ones are negative."""
    level = magnitude / 10.0
    sign = -1.0 if is_negative else 1.0
    if operation == ROTATE:
        return sign * 30.0 * level  # degrees
    if operation in (SHEAR_X, SHEAR_Y):
        return sign * 0.3 * level
    if operation in (TRANSLATE_X, TRANSLATE_Y):
        return sign * 0.45 * level  # of the side
    if operation == POSTERIZE:
        return 4.0 - int(4.0 * level)  # bits kept
    if operation == SOLARIZE:
        return 256.0 - min(256, int(256.0 * level))  # threshold
    if operation == SOLARIZE_ADD:
        return min(128.0, float(int(110.0 * level)))
    return max(0.1, 1.0 + sign * 0.9 * level)  # factor of the enhancements


@jit
def apply_operation(image: Array, operation: int, argument: Number, table: Array) -> None:
    """One operation of `NAMES` in place.

    Args:
        image: uint8, (3, S, S).
        operation: Place in `NAMES`.
        argument: From `argument_of`.
        table: Of `policy_table`; fill and interpolation are read.
    """
    size = image.shape[1]
    flat = image.reshape((3, size * size))
    if operation in (COLOR, CONTRAST, BRIGHTNESS):
        _enhance(flat, operation, argument)
    elif operation == SHARPNESS:
        _sharpen(image, argument)
    elif operation == ROTATE or operation >= SHEAR_X:
        _warp(image, _matrix(operation, argument, size), table)
    else:
        _map_levels(flat, operation, argument)


@jit
def _normal(key: Number, slot: int) -> Number:
    """Standard normal number of two slots (Box and Muller 1958)."""
    radius = math.sqrt(-2.0 * math.log(1.0 - draw(key, slot)))
    return radius * math.cos(2.0 * math.pi * draw(key, slot + 1))


@jit
def rand_augment(image: Array, table: Array, key: Number) -> None:
    """Draw and apply operations to one view in place."""
    for place in range(int(table[_NUM_OPS])):
        slot = _FIRST_OP + _SLOTS_PER_OP * place
        operation = int(draw(key, slot) * 15.0)
        if draw(key, slot + 1) >= table[_OP_PROB]:
            continue
        magnitude = table[_MAGNITUDE] + table[_MAGNITUDE_STD] * _normal(key, slot + 2)
        magnitude = min(max(magnitude, 0.0), 10.0)
        argument = argument_of(operation, magnitude, draw(key, slot + 4) < 0.5)
        apply_operation(image, operation, argument, table)


@jit
def erase(image: Array, table: Array, key: Number) -> None:
    """Fill a drawn rectangle of one view with noise, in place."""
    if draw(key, _ERASE) >= table[_ERASE_PROB]:
        return
    size = image.shape[1]
    log_0, log_1 = math.log(table[_RATIO_0]), math.log(table[_RATIO_1])
    for attempt in range(_NUM_TRIES):
        slot = _FIRST_TRY + 4 * attempt
        share = table[_AREA_0] + (table[_AREA_1] - table[_AREA_0]) * draw(key, slot)
        ratio = math.exp(log_0 + (log_1 - log_0) * draw(key, slot + 1))
        height = round(math.sqrt(share * size * size * ratio))
        width = round(math.sqrt(share * size * size / ratio))
        if height >= size or width >= size:
            continue
        top = int(draw(key, slot + 2) * (size - height + 1))
        left = int(draw(key, slot + 3) * (size - width + 1))
        noise = _FIRST_NOISE
        for channel in range(3):
            mean, std = 255.0 * table[_MEAN + channel], 255.0 * table[_STD + channel]
            for y in range(top, top + height):
                for x in range(left, left + width):
                    image[channel, y, x] = _truncated(mean + std * _normal(key, noise) + 0.5)
                    noise += 2
        return


@jit
def policy_rows(
    out: Array,
    first_row: int,
    samples: Array,
    table: Array,
    stream: Number,
    epoch: int,
) -> None:
    """Augment every drawing of some rendered samples in place.

    Args:
        out: Rendered views, uint8, (k, B, 3, S, S); rows first_row ... first_row + n - 1 change.
        first_row: Row of the first sample.
        samples: Sample ids, int64, (n,).
        table: Of `policy_table`.
        stream: Of `view_stream`.
        epoch: Epoch, int64.
    """
    for drawing in range(out.shape[0]):
        for i in range(len(samples)):
            key = view_key(stream, epoch, samples[i], drawing)
            image = out[drawing, first_row + i]
            rand_augment(image, table, key)
            erase(image, table, key)
