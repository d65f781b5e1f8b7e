"""Encoded image bytes -> RGB pixels; one `Decoder` per thread.

JPEG goes through libjpeg-turbo's C interface (ctypes, which releases the GIL) with the accurate
integer DCT: the same bits as Pillow and torchvision. Where the library is absent, and for every
other format, Pillow decodes. Images come out upright (EXIF orientation applied, which
torchvision's ImageFolder, and with it most authors' code, does not) as 8-bit RGB.
"""

import ctypes
import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from ssl_vision.errors import DataError

MAX_PIXELS = 1 << 28  # 268 megapixels, 805 MB of RGB: beyond it a file is refused
_KEEP_BYTES = 64 << 20  # scratch larger than this is given back after the image

RGB = 0  # TJPFRGB
ACCURATE_DCT = 4096  # TJFLAG_ACCURATEDCT
_STOP_ON_WARNING = 8192  # TJFLAG_STOPONWARNING
_CMYK_SPACES = (3, 4)  # TJCS_CMYK, TJCS_YCCK: left to Pillow
# Warnings of libjpeg after which every pixel is there all the same.
_HARMLESS = (
    "extraneous bytes before marker 0xd9",  # filler between the picture and the end mark
    "Invalid SOS parameters for sequential JPEG",
    "Unknown Adobe color transform code",
)
_ORIENTATION_TAG = 0x0112
_APP1, _START_OF_SCAN = 0xE1, 0xDA  # markers


@cache
def turbojpeg() -> Any:
    """The libturbojpeg library, or None where it is not installed."""
    for name in ("libturbojpeg.so.0", "libturbojpeg.so", "libturbojpeg.dylib"):
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        pointer: Any = ctypes.c_void_p
        integer: Any = ctypes.c_int
        size: Any = ctypes.c_ulong
        integers: Any = ctypes.POINTER(ctypes.c_int)
        library.tjInitDecompress.argtypes = []
        library.tjInitDecompress.restype = pointer
        library.tjDestroy.argtypes = [pointer]
        library.tjDecompressHeader3.argtypes = [pointer, pointer, size, *[integers] * 4]
        library.tjDecompress2.argtypes = [pointer, pointer, size, pointer, *[integer] * 5]
        library.tjGetErrorStr2.argtypes = [pointer]
        library.tjGetErrorStr2.restype = ctypes.c_char_p
        return library
    return None


def is_jpeg(data: bytes) -> bool:
    """Whether the bytes start like a JPEG file."""
    return data[:3] == b"\xff\xd8\xff"


def _segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Marker and position of each JPEG segment up to the start of the scan.

    The position is that of the segment's length; walking is faster than searching, and looks at
    headers only.
    """
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        yield marker, position + 2
        if marker == _START_OF_SCAN:
            return
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")


def exif_orientation(data: bytes) -> int:
    """EXIF orientation of JPEG bytes, 1 (upright) to 8; 1 where none is stated."""
    for marker, start in _segments(data):
        if marker == _APP1 and data[start + 2 : start + 8] == b"Exif\x00\x00":
            end = start + int.from_bytes(data[start : start + 2], "big")
            return _tiff_orientation(data[start + 8 : end])
    return 1


def _tiff_orientation(tiff: bytes) -> int:
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 1
    try:
        (directory,) = struct.unpack_from(f"{order}I", tiff, 4)
        (num_entries,) = struct.unpack_from(f"{order}H", tiff, directory)
        for entry in range(num_entries):
            tag, kind, _, value = struct.unpack_from(
                f"{order}HHIH", tiff, directory + 2 + 12 * entry
            )
            if tag == _ORIENTATION_TAG:
                return value if kind == 3 and 1 <= value <= 8 else 1
    except struct.error:  # a damaged EXIF block says nothing about the picture
        return 1
    return 1


def jpeg_components(data: bytes) -> int:
    """Colour components a JPEG's frame header states: 1 gray, 3 colour, 4 CMYK; 0 if none found."""
    for marker, start in _segments(data):
        is_frame = 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)
        if is_frame and start + 7 < len(data):
            return data[start + 7]
    return 0


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels turned and mirrored as the EXIF orientation asks, (H, W, 3), contiguous."""
    if orientation == 1:
        return pixels
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1] if orientation in (2, 3) else pixels[::-1]
    if orientation in (3, 4):
        pixels = pixels[::-1]
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
        if orientation in (7, 8):
            pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def to_rgb(image: Image.Image) -> np.ndarray:
    """8-bit RGB pixels of any Pillow image, (H, W, 3).

    Alpha is dropped as by Pillow's own conversion; 16-bit values are scaled to 8 bits, which
    Pillow's conversion would cut off at 255.
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.float64)
        low, high = float(values.min()), float(values.max())
        if not (low >= 0 and high <= 65535) or image.mode == "F":
            raise DataError(f"mode {image.mode} with values {low:g} to {high:g} is no picture")
        scale = 1.0 if image.mode == "I" and high <= 255 else 1 / 257
        gray = np.floor(values * scale + 0.5).astype(np.uint8)
        return np.repeat(gray[:, :, None], 3, axis=2)
    if image.mode == "P" and isinstance(image.info.get("transparency"), bytes):
        image = image.convert("RGBA")  # the same colours; straight to RGB, Pillow warns of alpha
    if image.mode != "RGB":
        image = image.convert("RGB")
    return np.array(image)  # a copy: Pillow's own buffer is read-only


def decode_with_pillow(data: bytes) -> np.ndarray:
    """Upright RGB pixels of any format Pillow reads, (H, W, 3).

    Raises:
        DataError: With the reason, if the bytes are no complete image.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            _check_size(*image.size)
            image.load()
            return np.ascontiguousarray(to_rgb(ImageOps.exif_transpose(image)))
    except DataError:
        raise
    except Exception as error:  # Pillow's plugins raise nearly everything on damaged files
        raise DataError(_reason(data, error)) from error


def _reason(data: bytes, error: Exception) -> str:
    if not data:
        return "the file is empty"
    if data.lstrip()[:5].lower() in (b"<!doc", b"<html", b"<?xml"):
        return "the file is a web page, not an image"
    text = str(error)
    if "cannot identify image file" in text:
        return f"no image format starts with {data[:8]!r}"
    return text or type(error).__name__


def _check_size(width: int, height: int) -> None:
    if min(width, height) < 1:
        raise DataError(f"{width}x{height} pixels are no picture")
    if width * height > MAX_PIXELS:
        raise DataError(
            f"{width}x{height} pixels are more than {MAX_PIXELS >> 20} Mi; scale the image down"
        )


class Decoder:
    """Decodes one image at a time into memory it keeps; not to be shared between threads."""

    def __init__(self) -> None:
        self._library = turbojpeg()
        self._scratch = np.empty(0, np.uint8)

    def decode(self, data: bytes) -> np.ndarray:
        """Upright RGB pixels, uint8, (H, W, 3), contiguous; overwritten by the next call.

        Raises:
            DataError: With the reason, if the bytes are no complete image.
        """
        if self._library is None or not is_jpeg(data):
            return decode_with_pillow(data)
        with _handle(self._library) as handle:
            pixels = self._decode_jpeg(handle, data)
        return decode_with_pillow(data) if pixels is None else pixels

    def size(self, data: bytes) -> tuple[int, int]:
        """Height and width of JPEG bytes as stored, without decoding them.

        Raises:
            DataError: If the header is damaged.
        """
        if self._library is None:
            with Image.open(io.BytesIO(data)) as image:
                return image.height, image.width
        with _handle(self._library) as handle:
            header = self._read_header(handle, data)
        if header is None:
            raise DataError("the JPEG header is damaged")
        return header[1], header[0]

    def _read_header(self, handle: int, data: bytes) -> tuple[int, int, int] | None:
        """Width, height and colour space; None if the header cannot be read."""
        values = [ctypes.c_int() for _ in range(4)]
        pointers = [ctypes.byref(value) for value in values]
        if self._library.tjDecompressHeader3(handle, data, len(data), *pointers) != 0:
            return None
        return values[0].value, values[1].value, values[3].value

    def _decode_jpeg(self, handle: int, data: bytes) -> np.ndarray | None:
        """Pixels, or None where Pillow has to do it (CMYK, or not understood here)."""
        header = self._read_header(handle, data)
        if header is None or header[2] in _CMYK_SPACES:
            return None
        w, h = header[:2]
        _check_size(w, h)
        pixels = self._reserve(w * h * 3)
        # The first warning decides, later ones hide it; so decoding stops there, and is done
        # again to the end if it was a harmless one.
        problem = self._decompress(handle, data, pixels, w, h, ACCURATE_DCT | _STOP_ON_WARNING)
        if problem is not None and problem.endswith(_HARMLESS):
            with _handle(self._library) as fresh:
                problem = self._decompress(fresh, data, pixels, w, h, ACCURATE_DCT)
        if problem is not None and not problem.endswith(_HARMLESS):
            raise DataError(problem)
        return upright(pixels.reshape(h, w, 3), exif_orientation(data))

    def _decompress(
        self, handle: int, data: bytes, out: np.ndarray, w: int, h: int, flags: int
    ) -> str | None:
        """Decode into `out`; what libjpeg complains about."""
        library = self._library
        status = library.tjDecompress2(
            handle, data, len(data), out.ctypes.data, w, w * 3, h, RGB, flags
        )
        if status == 0:
            return None
        message: str = library.tjGetErrorStr2(handle).decode(errors="replace")
        return message

    def _reserve(self, size: int) -> np.ndarray:
        if size > _KEEP_BYTES:
            return np.empty(size, np.uint8)
        if len(self._scratch) < size:
            self._scratch = np.empty(size, np.uint8)
        return self._scratch[:size]


@contextmanager
def _handle(library: Any) -> Iterator[int]:
    """A libjpeg decompressor for one picture (4 microseconds).

    Never for two: one that failed half-way goes on with the sizes of the damaged picture, and
    even after success it lends its tables to a picture that lacks its own.
    """
    handle = library.tjInitDecompress()
    if not handle:
        raise MemoryError("libjpeg-turbo has no memory for a decompressor")
    try:
        yield handle
    finally:
        library.tjDestroy(handle)
