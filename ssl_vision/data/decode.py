"""Encoded image bytes -> RGB pixels; one `Decoder` per thread.

JPEG goes through libjpeg-turbo's C interface (ctypes, which releases the GIL) with the accurate
integer DCT: the same bits as Pillow and torchvision. Where the library is absent, and for every
other format, Pillow decodes. Images come out upright (EXIF orientation applied, which
torchvision's ImageFolder, and with it most authors' code, does not) as 8-bit RGB.
"""

import ctypes
import io
import os
import re
import struct
from functools import cache
from itertools import islice
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image

from ssl_vision.data.levels import DEFAULT, DecodeConfig, Notes, to_rgb
from ssl_vision.errors import DataError

# Names of the formats that are opened, in Pillow's words: those of the extensions that folders are
# searched for. Its others include readers that start programs (EPS) or are little tried.
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "PPM")
_MAGIC = {b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG", b"II*\0": "TIFF", b"MM\0*": "TIFF",
          b"GIF8": "GIF", b"RIFF": "WebP", b"BM": "BMP"}  # fmt: skip
# Pixels beyond which a file is refused, whatever its format: 537 MB of RGB; Pillow's own limit.
MAX_PIXELS = 178_956_970
_MAX_SCANS = 100  # of a JPEG; encoders write up to 20
_MAX_SCANNED_PIXELS = 1 << 32  # scans times pixels: some 40 s
_KEEP_BYTES = 64 << 20  # scratch larger than this is given back after the image

RGB = 0  # TJPFRGB
ACCURATE_DCT = 4096  # TJFLAG_ACCURATEDCT
_STOP_ON_WARNING = 8192  # TJFLAG_STOPONWARNING
_LIMIT_SCANS = 32768  # TJFLAG_LIMITSCANS: 500, in the library itself
_FLAGS = ACCURATE_DCT | _LIMIT_SCANS
_CMYK_SPACES = (3, 4)  # TJCS_CMYK, TJCS_YCCK: left to Pillow
# Warnings of libjpeg after which every pixel is there all the same.
_HARMLESS = (
    "extraneous bytes before marker 0xd9",  # filler between the picture and the end mark
    "Invalid SOS parameters for sequential JPEG",
    "Unknown Adobe color transform code",
)
_ORIENTATION_TAG = 0x0112
_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
_SCAN = re.compile(b"\xff\xda")
_APP1, _START_OF_SCAN = 0xE1, 0xDA  # markers
_BYTE_ORDERS: dict[bytes, Literal["little", "big"]] = {b"II*\0": "little", b"MM\0*": "big"}  # TIFF
_ENTRY = {"little": struct.Struct("<HHIHH"), "big": struct.Struct(">HHIHH")}
_SHORT = 3  # a type of TIFF; bytes of each:
_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}


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


class JpegHeader(NamedTuple):
    """What a JPEG's markers say up to its first scan.

    Attributes:
        components: Colour components of the frame: 1 gray, 3 colour, 4 CMYK; 0 if none was found.
        is_multi_scan: Whether more scans than one may follow.
        application: Contents of its APP1 segments (EXIF, XMP); None if the markers led astray.
    """

    components: int
    is_multi_scan: bool
    application: tuple[bytes, ...] | None


def jpeg_header(data: bytes) -> JpegHeader:
    """Walk the markers of JPEG bytes, which is faster than searching."""
    position, components, is_progressive = 2, 0, False
    application: tuple[bytes, ...] = ()
    last = len(data) - 4
    while position <= last and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker == _START_OF_SCAN:
            is_multi = is_progressive or position == last or data[position + 4] != components
            return JpegHeader(components, is_multi, application)
        end = position + 2 + (data[position + 2] << 8 | data[position + 3])
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            components = data[position + 9] if position + 9 < len(data) else 0
            is_progressive = marker & 3 == 2
        elif marker == _APP1:
            application += (data[position + 4 : end],)
        position = end
    return JpegHeader(components, True, None)


def exif_orientation(data: bytes, header: JpegHeader | None = None) -> int:
    """EXIF orientation of JPEG bytes as Pillow reads it, 1 (upright) to 8; 1 if none is stated.

    Args:
        data: The file.
        header: `jpeg_header` of it, where that is known already.
    """
    application = (header or jpeg_header(data)).application
    if application is not None:
        return _stated_orientation(application) if application else 1
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            return _orientation(image)
    except Exception:  # what Pillow cannot open states nothing
        return 1


def _stated_orientation(application: tuple[bytes, ...]) -> int:
    """Orientation in APP1 segments: put where Pillow puts them, then read by it.

    A tenth of the time of opening the file with Pillow; what cameras write takes a tenth of that.
    """
    exif = [content for content in application if content.startswith(_EXIF)]
    has_xmp = any(content.startswith(_XMP) for content in application)
    found = _plain_orientation(exif[0]) if len(exif) == 1 else None if exif else 0
    if found is not None and (found or not has_xmp):
        return found or 1
    image = Image.new("1", (1, 1))
    for content in application:
        if content.startswith(_EXIF):
            before = image.info.get("exif")
            image.info["exif"] = content if before is None else before + content[len(_EXIF) :]
        elif content.startswith(_XMP):
            image.info["xmp"] = content.split(b"\0", 1)[1]
    return _orientation(image)


def _plain_orientation(content: bytes) -> int | None:
    """Orientation in an EXIF segment, 0 if none is stated; None if anything in it is unusual.

    Up to the orientation every entry must be whole: at a damaged one Pillow stops reading.
    """
    start, num_bytes = len(_EXIF), len(content)
    order = _BYTE_ORDERS.get(content[start : start + 4])
    if order is None or num_bytes < start + 8:
        return None
    first = start + int.from_bytes(content[start + 4 : start + 8], order)
    num_entries = int.from_bytes(content[first : first + 2], order)
    end = first + 2 + 12 * num_entries
    if end + 4 > num_bytes:
        return None
    entries = _ENTRY[order].iter_unpack(content[first + 2 : end])
    for tag, kind, count, value, rest in entries:
        if tag == _ORIENTATION_TAG:
            return value if (kind, count) == (_SHORT, 1) and 1 <= value <= 8 else None
        size = _TYPE_BYTES.get(kind, num_bytes) * count
        offset = value | rest << 16 if order == "little" else value << 16 | rest
        if size > 4 and start + offset + size > num_bytes:
            return None
    return 0


def _orientation(image: Image.Image) -> int:
    """Orientation in an image's EXIF or XMP data; damaged data say nothing about the picture."""
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
        return int(value) if value in range(1, 9) else 1
    except Exception:  # Pillow raises nearly everything here
        return 1


def upright_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Height and width of an image file as its pixels come out, from its header alone.

    Raises:
        DataError: With the reason, if that cannot be read.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            return (width, height) if _orientation(image) >= 5 else (height, width)
    except Exception as error:  # Pillow's plugins raise nearly everything on damaged files
        raise DataError(f"{path} cannot be read as an image: {error}") from error


def jpeg_components(data: bytes) -> int:
    """Colour components a JPEG's frame header states: 1 gray, 3 colour, 4 CMYK; 0 if none found."""
    return jpeg_header(data).components


def _check_scans(data: bytes, header: JpegHeader, width: int, height: int) -> None:
    """Refuse a JPEG of so many scans that its few bytes keep a thread busy for minutes."""
    if not header.is_multi_scan:
        return
    limit = min(_MAX_SCANS, max(1, _MAX_SCANNED_PIXELS // (width * height)))
    # A regular expression finds them six times as fast as `bytes.count`.
    scans = sum(1 for _ in islice(_SCAN.finditer(data), limit + 1))
    if scans > limit:
        raise DataError(
            f"the scans of {width}x{height} pixels are more than the {limit} that are decoded; "
            "encode the image anew"
        )


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


def decode_with_pillow(
    data: bytes, config: DecodeConfig = DEFAULT, notes: Notes | None = None
) -> np.ndarray:
    """Upright RGB pixels of a file in one of `FORMATS`, (H, W, 3), contiguous.

    Raises:
        DataError: With the reason, if the bytes are no complete image.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(*image.size)
            if is_jpeg(data):
                _check_scans(data, jpeg_header(data), *image.size)
            return pixels_of(image, config, notes)
    except DataError:
        raise
    except Exception as error:  # Pillow's plugins raise nearly everything on damaged files
        raise DataError(_reason(data, error)) from error


def pixels_of(
    image: Image.Image, config: DecodeConfig = DEFAULT, notes: Notes | None = None
) -> np.ndarray:
    """Upright RGB pixels of an image that Pillow has opened, (H, W, 3), contiguous.

    Raises:
        DataError: Its levels or bands have no stated meaning.
    """
    pixels = to_rgb(image, config, notes)  # loads; orientation may follow the pixels
    return upright(pixels, _orientation(image))


def _reason(data: bytes, error: Exception) -> str:
    if not data:
        return "the file is empty"
    if data.lstrip()[:5].lower() in (b"<!doc", b"<html", b"<?xml"):
        return "the file is a web page, not an image"
    if isinstance(error, Image.DecompressionBombError):
        return f"it has more than the {MAX_PIXELS:,} pixels that are read; scale the image down"
    text = str(error)
    if "cannot identify image file" in text:
        known = next((name for start, name in _MAGIC.items() if data.startswith(start)), None)
        if known is not None:
            return f"a {known} file that is damaged, or of a kind that Pillow does not read"
        return f"no image format starts with {data[:8]!r}"
    return text or type(error).__name__


def _check_size(width: int, height: int) -> None:
    if min(width, height) < 1:
        raise DataError(f"{width}x{height} pixels are no picture")
    if width * height > MAX_PIXELS:
        raise DataError(
            f"{width}x{height} pixels are more than the {MAX_PIXELS:,} that are read; "
            "scale the image down"
        )


def _size_by_pillow(data: bytes) -> tuple[int, int]:
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            _check_size(*image.size)
            return image.height, image.width
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"the JPEG header is damaged ({error})") from error


class Decoder:
    """Decodes one image at a time into memory it keeps; not to be shared between threads.

    Args:
        notes: Where it counts what it met; several decoders may share them.
    """

    def __init__(self, notes: Notes | None = None) -> None:
        self.notes = notes or Notes()
        self._library = turbojpeg()
        self._scratch = np.empty(0, np.uint8)
        self._handle = 0  # of the picture under way
        self._stated = [ctypes.c_int() for _ in range(4)]  # width, height, subsampling, colours
        self._places = [ctypes.byref(value) for value in self._stated]

    def decode(self, data: bytes, config: DecodeConfig = DEFAULT) -> np.ndarray:
        """Upright RGB pixels, uint8, (H, W, 3), contiguous; overwritten by the next call.

        Args:
            data: Content of the file.
            config: What it means where its format leaves it open.

        Raises:
            DataError: With the reason, if the bytes are no complete image.
        """
        if self._library is None or not is_jpeg(data):
            return decode_with_pillow(data, config, self.notes)
        pixels = self._decode_jpeg(data)
        return decode_with_pillow(data, config, self.notes) if pixels is None else pixels

    def size(self, data: bytes) -> tuple[int, int]:
        """Height and width of JPEG bytes as stored, without decoding them.

        Raises:
            DataError: If the header is damaged.
        """
        if self._library is None:
            return _size_by_pillow(data)
        with _Handle(self._library) as self._handle:
            header = self._read_header(data)
        if header is None:
            raise DataError("the JPEG header is damaged")
        _check_size(*header[:2])
        return header[1], header[0]

    def _read_header(self, data: bytes) -> tuple[int, int, int] | None:
        """Width, height and colour space; None if the header cannot be read."""
        for value in self._stated:  # a file of tables only states nothing
            value.value = 0
        library = self._library
        if library.tjDecompressHeader3(self._handle, data, len(data), *self._places) != 0:
            return None
        width, height, _, space = self._stated
        return width.value, height.value, space.value

    def _decode_jpeg(self, data: bytes) -> np.ndarray | None:
        """Pixels, or None where Pillow has to do it (CMYK, or not understood here)."""
        with _Handle(self._library) as self._handle:
            found = self._read_header(data)
            if found is None or found[2] in _CMYK_SPACES:
                return None
            w, h = found[:2]
            _check_size(w, h)
            header = jpeg_header(data)
            _check_scans(data, header, w, h)
            pixels = self._reserve(w * h * 3)
            # The first warning decides, later ones hide it; so decoding stops there, and is done
            # again to the end if it was a harmless one.
            problem = self._decompress(data, pixels, w, h, _FLAGS | _STOP_ON_WARNING)
        if problem is not None and problem.endswith(_HARMLESS):
            with _Handle(self._library) as self._handle:
                problem = self._decompress(data, pixels, w, h, _FLAGS)
        if problem is not None and not problem.endswith(_HARMLESS):
            raise DataError(problem)
        return upright(pixels.reshape(h, w, 3), exif_orientation(data, header))

    def _decompress(self, data: bytes, out: np.ndarray, w: int, h: int, flags: int) -> str | None:
        """Decode into `out`; what libjpeg complains about."""
        library = self._library
        status = library.tjDecompress2(
            self._handle, data, len(data), out.ctypes.data, w, w * 3, h, RGB, flags
        )
        if status == 0:
            return None
        message: str = library.tjGetErrorStr2(self._handle).decode(errors="replace")
        return message

    def _reserve(self, size: int) -> np.ndarray:
        if size > _KEEP_BYTES:
            return np.empty(size, np.uint8)
        if len(self._scratch) < size:
            self._scratch = np.empty(size, np.uint8)
        return self._scratch[:size]


class _Handle:
    """A libjpeg decompressor for one picture (a microsecond).

    Never for two pictures: one that failed half-way goes on with the sizes of the damaged picture,
    and even after success it lends its tables to a picture that lacks its own.
    """

    __slots__ = ("_handle", "_library")

    def __init__(self, library: Any) -> None:
        self._library = library

    def __enter__(self) -> int:
        self._handle: int = self._library.tjInitDecompress()
        if not self._handle:
            raise MemoryError("libjpeg-turbo has no memory for a decompressor")
        return self._handle

    def __exit__(self, *error: object) -> None:
        self._library.tjDestroy(self._handle)
