"""Decoding: Pillow's bits, upright RGB of every kind of file, and reasons for bad ones."""

import contextlib
import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageOps

from ssl_vision.data import decode
from ssl_vision.data.decode import Decoder, exif_orientation, jpeg_components, upright
from ssl_vision.data.images.folder import EXTENSIONS
from ssl_vision.errors import DataError


def picture(height: int = 37, width: int = 53, seed: int = 0) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encode(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


JPEGS = {
    "4:4:4": encode(picture(), subsampling="4:4:4"),
    "4:2:2": encode(picture(), subsampling="4:2:2"),
    "4:2:0": encode(picture(), subsampling="4:2:0", quality=30),
    "progressive": encode(picture(), progressive=True),
    "gray": encode(picture().convert("L")),
    "CMYK": encode(picture().convert("CMYK")),
    "one pixel": encode(picture(1, 1)),
    "restart markers": encode(picture(), restart_marker_blocks=2),
}


@pytest.mark.parametrize("name", JPEGS)
@pytest.mark.parametrize("has_turbojpeg", [True, False])
def test_jpeg_has_pillows_bits(name, has_turbojpeg, monkeypatch) -> None:
    if has_turbojpeg and decode.turbojpeg() is None:
        pytest.skip("libturbojpeg is not installed: apt-get install libturbojpeg0")
    if not has_turbojpeg:
        monkeypatch.setattr(decode, "turbojpeg", lambda: None)
    with Image.open(io.BytesIO(JPEGS[name])) as image:
        expected = np.asarray(image.convert("RGB"))
    assert np.array_equal(Decoder().decode(JPEGS[name]), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_comes_out_upright(orientation) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(picture(), exif=exif)
    assert exif_orientation(data) == orientation
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    assert np.array_equal(Decoder().decode(data), expected)
    with Image.open(io.BytesIO(data)) as image:
        assert np.array_equal(upright(np.asarray(image), orientation), expected)


def test_one_decoder_serves_images_of_all_sizes_in_turn() -> None:
    decoder = Decoder()
    for height, width in ((9, 8), (120, 200), (3, 5), (64, 64)):
        data = encode(picture(height, width))
        with Image.open(io.BytesIO(data)) as image:
            assert np.array_equal(decoder.decode(data), np.asarray(image))


def test_sixteen_bit_is_scaled_and_not_cut() -> None:
    levels = np.array([[0, 257, 32896, 65535]], np.uint16)
    data = encode(Image.fromarray(levels), "PNG")
    assert Decoder().decode(data)[0, :, 0].tolist() == [0, 1, 128, 255]


def test_other_modes_become_rgb() -> None:
    rgb = np.asarray(picture())
    opaque = Image.fromarray(np.dstack([rgb, np.full(rgb.shape[:2], 255, np.uint8)]))
    assert np.array_equal(Decoder().decode(encode(opaque, "PNG")), rgb)
    palette = picture().quantize(16)
    expected = np.asarray(palette.convert("RGB"))
    assert np.array_equal(Decoder().decode(encode(palette, "PNG")), expected)

    gray = picture().convert("L")
    assert np.array_equal(Decoder().decode(encode(gray, "PNG"))[:, :, 2], np.asarray(gray))
    bilevel = picture().convert("1")
    assert set(np.unique(Decoder().decode(encode(bilevel, "PNG")))) <= {0, 255}


GOOD = JPEGS["4:2:0"]
BAD = {
    "truncated": (GOOD[: len(GOOD) // 2], "(?i)premature end|truncated"),
    "cut in the header": (GOOD[:40], ""),
    "empty": (b"", "empty"),
    "a web page": (b"<!DOCTYPE html><html><body>404</body></html>", "web page"),
    "wrong magic": (b"\x00\x01\x02\x03" * 50, "no image format"),
    "text": (b"hello\n", "no image format"),
    "truncated PNG": (encode(picture(), "PNG")[:200], ""),
    "floating point": (encode(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"), "mode F"),
    "damaged scan": (GOOD[:-120] + b"\xff\xc4" + GOOD[-118:], "Corrupt JPEG"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_bytes_give_a_reason(name) -> None:
    data, words = BAD[name]
    with pytest.raises(DataError, match=words or "."):
        Decoder().decode(data)
    good = Decoder()
    with pytest.raises(DataError):
        good.decode(data)
    assert good.decode(GOOD).shape == (37, 53, 3)  # a failure leaves the decoder usable


def test_too_large_an_image_is_refused_before_memory_is_taken() -> None:
    # A valid header that claims 60000 x 60000 pixels.
    data = bytearray(GOOD)
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = (60000).to_bytes(2, "big") * 2
    with pytest.raises(DataError, match="60000x60000"):
        Decoder().decode(bytes(data))


def test_header_readers() -> None:
    assert [jpeg_components(JPEGS[name]) for name in ("4:2:0", "gray", "CMYK")] == [3, 1, 4]
    assert jpeg_components(b"\xff\xd8\xff") == 0
    assert Decoder().size(GOOD) == (37, 53)
    assert exif_orientation(b"\xff\xd8Exif\x00\x00II*\x00") == 1  # cut off


def _without(data: bytes, marker: int) -> bytes:
    """A JPEG without its segments of one marker."""
    out, place = bytearray(data[:2]), 2
    while data[place + 1] != 0xDA:
        end = place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        out += b"" if data[place + 1] == marker else data[place:end]
        place = end
    return bytes(out + data[place:])


HALF = {
    "no scan": GOOD[: GOOD.index(b"\xff\xda")] + b"\xff\xd9",
    "cut before the scan": GOOD[: GOOD.index(b"\xff\xda")],
    "cut in the frame": GOOD[: GOOD.index(b"\xff\xc0") + 9],
    "no quantisation tables": _without(GOOD, 0xDB),
    "no Huffman tables": _without(GOOD, 0xC4),
    "no frame": _without(GOOD, 0xC0),
    "cut in the scan": GOOD[:-100],
    "tables only": GOOD[: GOOD.index(b"\xff\xc0")] + b"\xff\xd9",
}


@pytest.mark.parametrize("name", HALF)
@pytest.mark.skipif(decode.turbojpeg() is None, reason="libturbojpeg is not installed")
def test_a_damaged_jpeg_leaves_nothing_to_the_next_and_takes_nothing_from_the_last(name):
    def outcome(decoder: Decoder, data: bytes) -> bytes:
        try:
            return decoder.decode(data).tobytes()
        except DataError as error:
            return str(error).encode()

    larger = encode(picture(90, 130, seed=3), quality=10)  # other size, other tables
    alone = outcome(Decoder(), HALF[name])
    after = Decoder()
    for data in (larger, HALF[name], GOOD, HALF[name], HALF[name], larger):
        expected = alone if data is HALF[name] else outcome(Decoder(), data)
        assert outcome(after, data) == expected
    with Image.open(io.BytesIO(GOOD)) as image:
        assert outcome(after, GOOD) == np.asarray(image).tobytes()


class Guarded(Decoder):
    """As Decoder, with a known byte before and after the pixels."""

    def _reserve(self, size: int) -> np.ndarray:
        self.memory = np.full(size + 2 * 100_000, 0x5A, np.uint8)
        return self.memory[100_000:-100_000]

    @property
    def is_intact(self) -> bool:
        return bool(
            (self.memory[:100_000] == 0x5A).all() and (self.memory[-100_000:] == 0x5A).all()
        )


@pytest.mark.parametrize("name", HALF)
@pytest.mark.skipif(decode.turbojpeg() is None, reason="libturbojpeg is not installed")
def test_nothing_is_written_outside_a_pictures_memory(name) -> None:
    decoder = Guarded()
    with contextlib.suppress(DataError):
        decoder.decode(HALF[name])
    decoder.decode(encode(picture(8, 9)))
    assert decoder.is_intact


def odd_exif() -> dict[str, bytes]:
    """JPEGs whose orientation stands where, or as, few expect it."""
    plain = encode(picture())

    def with_segment(content: bytes) -> bytes:
        return plain[:2] + b"\xff\xe1" + (len(content) + 2).to_bytes(2, "big") + content + plain[2:]

    def tiff(kind: int, value: bytes, *, order: bytes = b"MM") -> bytes:
        way = "big" if order == b"MM" else "little"
        head = order + (42).to_bytes(2, way) + (8).to_bytes(4, way) + (1).to_bytes(2, way)
        entry = (0x0112).to_bytes(2, way) + kind.to_bytes(2, way) + (1).to_bytes(4, way)
        return b"Exif\0\0" + head + entry + value + bytes(4)

    def of_entries(*entries: tuple[int, int, int, int], spare: bytes = b"") -> bytes:
        """Little-endian EXIF: tag, type, count, value or offset."""
        head = b"II*\0" + (8).to_bytes(4, "little") + len(entries).to_bytes(2, "little")
        rows = (struct.pack("<HHII", *entry) for entry in entries)
        return b"Exif\0\0" + head + b"".join(rows) + bytes(4) + spare

    turned = (0x0112, 3, 1, 8)
    xmp = b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="%d"/>'
    return {
        "short": with_segment(tiff(3, b"\0\x06\0\0")),
        "long": with_segment(tiff(4, b"\0\0\0\x06")),
        "byte": with_segment(tiff(1, b"\x08\0\0\0")),
        "little-endian": with_segment(tiff(3, b"\x03\0\0\0", order=b"II")),
        "out of range": with_segment(tiff(3, b"\0\x09\0\0")),
        "text": with_segment(tiff(2, b"6\0\0\0")),
        "cut off": with_segment(tiff(3, b"\0\x06\0\0")[:20]),
        "no TIFF": with_segment(b"Exif\0\0" + bytes(30)),
        "Exif twice": with_segment(b"Exif\0\0" + tiff(3, b"\0\x06\0\0")),
        "XMP": with_segment(xmp % 6),
        "as cameras write": with_segment(
            of_entries((0x010F, 2, 8, 38), turned, (0x8769, 4, 1, 38), spare=bytes(8))),
        "an entry before it points outside": with_segment(of_entries((0x010F, 2, 99, 38), turned)),
        "an entry before it is huge": with_segment(of_entries((0x010F, 5, 1 << 31, 38), turned)),
        "an entry before it is of no known type": with_segment(
            of_entries((0x010F, 77, 1 << 31, 1 << 31), turned)),
        "an entry before it is empty": with_segment(of_entries((0x010F, 2, 0, 0), turned)),
        "an entry behind it points outside": with_segment(
            of_entries(turned, (0x0132, 2, 99, 1 << 30))),
        "stated twice": with_segment(of_entries((0x0112, 3, 1, 6), turned)),
        "two values": with_segment(of_entries((0x0112, 3, 2, 6))),
        "no orientation": with_segment(of_entries((0x0100, 3, 1, 6))),
        "more entries than there are": with_segment(of_entries(turned)[:-4]),
        "EXIF without it, XMP with it": with_segment(xmp % 5)[:2] + with_segment(
            of_entries((0x0100, 3, 1, 6)))[2:-len(plain) + 2] + with_segment(xmp % 5)[2:],
        "second segment": with_segment(xmp % 5)[:2] + with_segment(tiff(3, b"\0\x07\0\0"))[2:],
        "fill bytes": plain[:2] + b"\xff\xff\xff" + with_segment(tiff(3, b"\0\x06\0\0"))[2:],
    }  # fmt: skip


@pytest.mark.parametrize("name", odd_exif())
def test_odd_orientations_are_as_pillow_reads_them_with_and_without_libjpeg_turbo(
    name, monkeypatch
) -> None:
    data = odd_exif()[name]
    with Image.open(io.BytesIO(data)) as image:
        try:
            expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        except Exception:  # Pillow gives up; the picture is there all the same
            expected = np.asarray(image.convert("RGB"))
    assert np.array_equal(Decoder().decode(data), expected)
    monkeypatch.setattr(decode, "turbojpeg", lambda: None)
    assert np.array_equal(Decoder().decode(data), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_other_formats_come_out_upright_too(kind, orientation) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(picture(), kind, exif=exif, **options)
    expected = upright(np.asarray(picture()), orientation)
    assert np.array_equal(Decoder().decode(data), expected)


def many_scans(count: int) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    data = encode(picture(), progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * count + data[-2:]


@pytest.mark.parametrize("has_turbojpeg", [True, False])
def test_scans_are_limited_and_ordinary_progressive_files_are_read(has_turbojpeg, monkeypatch):
    if not has_turbojpeg:
        monkeypatch.setattr(decode, "turbojpeg", lambda: None)
    with pytest.raises(DataError, match="the scans of 53x37 pixels are more than the 100"):
        Decoder().decode(many_scans(200))
    assert Decoder().decode(encode(picture(), progressive=True)).shape == (37, 53, 3)
    monkeypatch.setattr(decode, "_MAX_SCANNED_PIXELS", 53 * 37 * 5)
    with pytest.raises(DataError, match="more than the 5"):
        Decoder().decode(encode(picture(), progressive=True))
    assert Decoder().decode(GOOD).shape == (37, 53, 3)


def test_only_listed_formats_are_opened() -> None:
    for kind in ("PDF", "EPS", "TGA", "ICO", "SGI", "PCX"):
        with pytest.raises(DataError, match=r"no image format starts with|web page|damaged"):
            Decoder().decode(encode(picture(), kind))
    extensions = Image.registered_extensions()
    assert {extensions[suffix] for suffix in EXTENSIONS} == set(decode.FORMATS)


def test_a_bomb_is_refused_by_its_header_in_every_format() -> None:
    from tests.fuzz import png_chunks, png_of

    chunks = png_chunks(encode(picture(), "PNG"))
    sides = (60000).to_bytes(4, "big") * 2
    chunks[0] = b"IHDR", sides + chunks[0][1][8:]
    for data in (png_of(chunks), b"P6 60000 60000 255\n" + bytes(9)):
        with pytest.raises(
            DataError, match=r"60000x60000|more than the [\d,]+ pixels that are read"
        ):
            Decoder().decode(data)
