"""The kinds of file that `fuzz.py` damages: valid ones to begin with, and how each is read."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from tests.fuzz import Kind, Mutate, mutate_bytes, mutate_png


def _pictures(save: Callable[[Image.Image, io.BytesIO, int], None], count: int) -> list[bytes]:
    """Encoded small pictures of several sizes."""
    files = []
    for number in range(count):
        generator = np.random.default_rng(number)
        height, width = generator.integers(8, 48, 2)
        small = generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        image = Image.fromarray(small).resize((int(width), int(height)), Image.Resampling.BICUBIC)
        buffer = io.BytesIO()
        save(image, buffer, number)
        files.append(buffer.getvalue())
    return files


def _jpeg(image: Image.Image, buffer: io.BytesIO, number: int) -> None:
    mode = ("RGB", "RGB", "RGB", "L", "CMYK")[number % 5]
    exif = Image.Exif()
    if number % 2:
        exif[0x0112] = number % 8 + 1
    image.convert(mode).save(
        buffer, "JPEG", quality=(30, 75, 95)[number % 3], progressive=number % 4 == 1, exif=exif,
        subsampling=("4:4:4", "4:2:2", "4:2:0")[number % 3] if mode == "RGB" else -1,
        restart_marker_blocks=2 * (number % 7 == 3),
    )  # fmt: skip


def _png(image: Image.Image, buffer: io.BytesIO, number: int) -> None:
    mode = ("RGB", "RGBA", "L", "LA", "P", "1", "I;16")[number % 7]
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    else:
        image = image.convert(mode)
    extra = {"transparency": number % 3} if mode in ("L", "P") and number % 2 else {}
    exif = Image.Exif()
    exif[0x0112] = number % 8 + 1
    image.save(buffer, "PNG", exif=exif, **extra)


def _other(image: Image.Image, buffer: io.BytesIO, number: int) -> None:
    kind, options = (
        ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("WEBP", {}), ("GIF", {}),
        ("BMP", {}), ("PPM", {}), ("TIFF", {"compression": "jpeg"}), ("WEBP", {"lossless": True}),
        ("TIFF", {"compression": "tiff_deflate"}),
    )[number % 9]  # fmt: skip
    if number % 2 and kind in ("TIFF", "WEBP") and "jpeg" not in options.values():
        image = image.convert("RGBA")
    image.save(buffer, kind, **options)


def _decode(data: bytes, folder: Path) -> object:
    """Decode a damaged file, then a whole one: the first must leave nothing behind."""
    from ssl_vision.data.decode import Decoder

    decoder = _kept.setdefault("decoder", Decoder())
    assert isinstance(decoder, Decoder)
    if "whole" not in _kept:
        _kept["whole"] = _pictures(_jpeg, 3)[0]
        _kept["pixels"] = Decoder().decode(_kept["whole"]).copy()
    try:
        pixels = decoder.decode(data)
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise AssertionError(f"decoded to {pixels.dtype} {pixels.shape}")
        int(pixels.sum())  # touches all of it
    finally:
        if not np.array_equal(decoder.decode(_kept["whole"]), _kept["pixels"]):
            raise AssertionError("the next picture came out otherwise")
    return None


_kept: dict[str, object] = {}


def _images(
    save: Callable[[Image.Image, io.BytesIO, int], None], count: int, mutate: Mutate = mutate_bytes
) -> Kind:
    def seeds(folder: Path) -> Sequence[bytes]:
        return _pictures(save, count)

    return Kind(seeds, _decode, mutate)


KINDS: dict[str, Kind] = {
    "jpeg": _images(_jpeg, 20),
    "png": _images(_png, 21, mutate_png),
    "images": _images(_other, 18),  # TIFF, WebP, GIF, BMP, PPM
}
