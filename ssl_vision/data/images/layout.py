"""Which axis of an array is which, and what its values are: arrays of images as 8-bit levels."""

from typing import Any, Literal

import numpy as np

from ssl_vision.errors import DataError

Layout = Literal["HW", "HWC", "CHW"]  # of one image

_BANDS = (1, 2, 3, 4)  # gray, gray with transparency, RGB, RGBA
_WORDS = {"HW": "H, W", "HWC": "H, W, C", "CHW": "C, H, W"}


def is_array(value: object) -> bool:
    """Whether it is a NumPy array or a torch tensor, or what passes for one (CuPy, JAX)."""
    return all(hasattr(value, name) for name in ("shape", "dtype", "ndim", "__array__"))


def as_numpy(value: Any) -> np.ndarray:
    """An array or tensor, on whatever device, as a NumPy array; shares memory where it can."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.float() if value.dtype.is_floating_point else value
    return np.asarray(value)


def layout_of(shape: tuple[int, ...], *, is_tensor: bool, what: str) -> Layout:
    """What the axes of one image are; where both readings fit, torch's tensors are channels first.

    Args:
        shape: Of one image.
        is_tensor: Whether it is a torch tensor.
        what: What a message calls it.

    Raises:
        DataError: No axis can be the channels.
    """
    if len(shape) == 2:
        return "HW"
    if len(shape) == 3:
        is_last, is_first = shape[2] in _BANDS, shape[0] in _BANDS
        if is_first and (is_tensor or not is_last):
            return "CHW"
        if is_last:
            return "HWC"
    raise DataError(
        f"{what} has the shape {shape}; an image is (H, W), (H, W, C) or (C, H, W) with 1 to 4 "
        "channels."
    )


def explained(layout: Layout, *, has_rows: bool = False) -> str:
    """A layout in words: "(N, H, W, C)"."""
    return f"({'N, ' if has_rows else ''}{_WORDS[layout]})"


def channels_last(array: np.ndarray, layout: Layout) -> np.ndarray:
    """An image, or a stack of images, with channels as the last axis; a view of the same memory."""
    if layout == "HW":
        return array[..., None]
    return np.moveaxis(array, -3, -1) if layout == "CHW" else array


def as_levels(array: np.ndarray, *, what: str) -> np.ndarray:
    """Values as 8-bit levels: uint8 as it is, truths as 0 and 255, floats of 0..1 rounded.

    What torchvision's `ToTensor` has made of an image comes back exactly.

    Raises:
        DataError: Other types, or floats outside 0..1 (images that are normalised already).
    """
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype.kind != "f":
        raise DataError(
            f"{what} has values of type {array.dtype}; give levels 0..255 as uint8, for example "
            "(array / array.max() * 255).astype('uint8')."
        )
    low, high = float(array.min(initial=0)), float(array.max(initial=0))
    if not (low >= 0 and high <= 1):  # also of NaN
        raise DataError(
            f"{what} has values from {low:.4g} to {high:.4g}; give levels 0..255 as uint8, or "
            "floats 0..1 that are not normalised: that is done later, by data.mean and data.std."
        )
    whole = array.astype(np.float32, copy=False)  # half precision cannot tell 254.5 from 254
    return np.floor(whole * np.float32(255) + np.float32(0.5)).astype(np.uint8)
