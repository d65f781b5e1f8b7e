"""Transparency, deep levels, bands: by the format and the settings, never by the picture."""

import io
import warnings
import zlib
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from ssl_vision.data.decode import Decoder
from ssl_vision.data.levels import DecodeConfig, compose
from ssl_vision.errors import ConfigError, DataError

BLACK = DecodeConfig(background=(0, 0, 0))


def encode(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def random_rgba(seed: int = 0) -> np.ndarray:
    rgba = np.random.default_rng(seed).integers(0, 256, (11, 13, 4), dtype=np.uint8)
    rgba[:4, :, 3], rgba[4:6, :, 3] = 0, 255
    return rgba


def over(rgba: np.ndarray, background: tuple[int, int, int]) -> np.ndarray:
    """One pixel after the other, in fractions."""
    out = np.empty((*rgba.shape[:2], 3), np.uint8)
    for place in np.ndindex(out.shape):
        share = Fraction(int(rgba[place[0], place[1], 3]), 255)
        level = int(rgba[place]) * share + background[place[2]] * (1 - share)
        out[place] = int(level + Fraction(1, 2))
    return out


@pytest.mark.parametrize("background", [(255, 255, 255), (0, 0, 0), (17, 130, 254)])
def test_pixels_are_composed_over_the_background(background) -> None:
    rgba = random_rgba()
    made = compose(rgba[..., :3].copy(), rgba[..., 3], background)
    assert np.array_equal(made, over(rgba, background))


RGBA = Image.fromarray(random_rgba())
GRAY = random_rgba()[..., 0]
PALETTE = Image.fromarray(GRAY // 64, "P")
PALETTE.putpalette([9, 8, 7, 200, 100, 0, 0, 0, 250, 3, 2, 1])


def with_alpha_of_palette(alpha: list[int]) -> np.ndarray:
    colours = np.array(PALETTE.getpalette()[:12], np.uint8).reshape(4, 3)
    table = np.concatenate([colours, np.array(alpha, np.uint8)[:, None]], axis=1)
    return table[GRAY // 64]


def keyed(rgb: np.ndarray, key: tuple[int, ...]) -> np.ndarray:
    alpha = np.where((rgb == np.array(key)).all(-1), 0, 255).astype(np.uint8)
    return np.dstack([rgb, alpha])


def gray_alpha() -> np.ndarray:
    return np.dstack([GRAY, GRAY, GRAY, random_rgba()[..., 3]])


FEW = np.repeat((GRAY // 64 * 60)[..., None], 3, axis=2)
FEW[..., 1] += 5
# Name -> file and its pixels, red, green, blue, alpha.
TRANSPARENT = {
    "RGBA png": (encode(RGBA, "PNG"), random_rgba()),
    "RGBA webp": (encode(RGBA, "WEBP", lossless=True, exact=True), random_rgba()),
    "RGBA tiff": (encode(RGBA, "TIFF"), random_rgba()),
    "LA png": (encode(Image.fromarray(gray_alpha()[..., 2:]), "PNG"), gray_alpha()),
    "LA tiff": (encode(Image.fromarray(gray_alpha()[..., 2:]), "TIFF"), gray_alpha()),
    "palette, one entry": (
        encode(PALETTE, "PNG", transparency=1), with_alpha_of_palette([255, 0, 255, 255])),
    "palette, shares": (
        encode(PALETTE, "PNG", transparency=bytes([0, 128, 255, 3])),
        with_alpha_of_palette([0, 128, 255, 3])),
    "palette gif": (
        encode(PALETTE, "GIF", transparency=2), with_alpha_of_palette([255, 255, 0, 255])),
    "tRNS of RGB": (
        encode(Image.fromarray(FEW), "PNG", transparency=(60, 65, 60)), keyed(FEW, (60, 65, 60))),
    "tRNS of L": (
        encode(Image.fromarray(FEW[..., 0]), "PNG", transparency=120),
        keyed(np.repeat(FEW[..., :1], 3, axis=2), (120, 120, 120))),
    "opaque": (
        encode(Image.fromarray(FEW).convert("RGBA"), "PNG"),
        np.dstack([FEW, np.full(FEW.shape[:2], 255, np.uint8)])),
}  # fmt: skip


@pytest.mark.parametrize("name", TRANSPARENT)
@pytest.mark.parametrize("config", [DecodeConfig(), BLACK, DecodeConfig(background=(10, 20, 30))])
def test_every_kind_of_transparency_shows_the_background(name, config) -> None:
    data, rgba = TRANSPARENT[name]
    decoder = Decoder()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = decoder.decode(data, config)
    assert np.array_equal(pixels, over(rgba, config.background))
    assert decoder.notes.counts == ({} if name == "opaque" else {"transparent": 1})


@pytest.mark.parametrize("background", [(0, 0, 0), (255, 255, 255)])
def test_colour_under_full_transparency_is_never_seen(background) -> None:
    seen = []
    for seed in range(2):
        hidden = random_rgba(seed)
        hidden[..., 3] = 0
        data = encode(Image.fromarray(hidden), "PNG")
        seen.append(Decoder().decode(data, DecodeConfig(background=background)))
    assert np.array_equal(*seen)
    assert (seen[0] == background[0]).all()


def png(color_type: int, bits: int, rows: bytes, size: tuple[int, int], key: bytes = b"") -> bytes:
    """A PNG that Pillow does not write."""
    import zlib

    from tests.fuzz import png_of

    header = size[0].to_bytes(4, "big") + size[1].to_bytes(4, "big")
    chunks = [(b"IHDR", header + bytes([bits, color_type, 0, 0, 0]))]
    chunks += [(b"tRNS", key)] if key else []
    return png_of([*chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")])


@pytest.mark.parametrize(
    ("bits", "row", "levels"), [(2, 0b00011011, 4), (4, 0x0F, 2), (1, 0x40, 2)]
)
def test_transparent_colours_are_in_the_files_own_depth(bits, row, levels) -> None:
    """Pillow compares 2- and 4-bit colours with levels that are scaled up."""
    top = 2**bits - 1
    data = png(0, bits, bytes([0, row]), (levels, 1), top.to_bytes(2, "big"))
    shown = Decoder().decode(data, DecodeConfig(background=(1, 2, 3)))[0]
    stored = [row >> (8 - bits * (i + 1)) & top for i in range(levels)]
    for pixel, value in zip(shown.tolist(), stored, strict=True):
        assert pixel == ([1, 2, 3] if value == top else [value * 255 // top] * 3)


def test_transparent_levels_of_sixteen_bits() -> None:
    rows = b"\x00" + np.array([300, 301, 65535], ">u2").tobytes()
    data = png(0, 16, rows, (3, 1), (301).to_bytes(2, "big"))
    assert Decoder().decode(data, BLACK)[0, :, 0].tolist() == [1, 0, 255]
    assert Decoder().decode(data)[0, :, 0].tolist() == [1, 255, 255]


# More than 8 bits --------------------------------------------------------------------------


def pgm(levels: np.ndarray, maximum: int, *, is_plain: bool = False) -> bytes:
    head = f"P{2 if is_plain else 5}\n{levels.shape[1]} {levels.shape[0]}\n{maximum}\n".encode()
    if is_plain:
        return head + b" ".join(b"%d" % level for level in levels.ravel())
    return head + levels.astype(">u2").tobytes()


def tiff(levels: np.ndarray, mode: str | None = None, **tags: int) -> bytes:
    info = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in tags.items():
        info[int(tag.removeprefix("t"))] = value
    image = Image.fromarray(levels)
    return encode(image if mode is None else image.convert(mode), "TIFF", tiffinfo=info)


def raw_tiff(levels: np.ndarray, bits: int, sample_format: int = 1, photometric: int = 1) -> bytes:
    """One gray strip with the tags given, little-endian."""
    data = levels.astype(levels.dtype.newbyteorder("<")).tobytes()
    height, width = levels.shape
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, photometric), (273, 8),
            (277, 1), (278, height), (279, len(data)), (339, sample_format)]  # fmt: skip
    entries = b"".join(
        tag.to_bytes(2, "little") + b"\x04\0\1\0\0\0" + value.to_bytes(4, "little")
        for tag, value in tags
    )
    place = (8 + len(data)).to_bytes(4, "little")
    return b"II*\0" + place + data + len(tags).to_bytes(2, "little") + entries + bytes(4)


def ramp(top: int) -> np.ndarray:
    """A level of 1000 in every picture, whatever its highest."""
    return np.array([[0, 1000, top]], np.uint16)


DEEP = {
    "PNG": lambda levels: encode(Image.fromarray(levels), "PNG"),
    "PGM": lambda levels: pgm(levels, 65535),
    "plain PGM": lambda levels: pgm(levels, 65535, is_plain=True),
    "TIFF 16": lambda levels: tiff(levels),
    "TIFF big-endian": lambda levels: encode(Image.fromarray(levels.astype(">u2")), "TIFF"),
    "TIFF 32": lambda levels: tiff(levels.astype(np.int32)),
    "TIFF unsigned 32": lambda levels: raw_tiff(levels.astype(np.uint32), 32),
}


@pytest.mark.parametrize("name", DEEP)
def test_the_same_level_is_the_same_gray_whatever_else_is_in_the_picture(name) -> None:
    for top in (1000, 1001, 4095, 4096, 65535):
        pixels = Decoder().decode(DEEP[name](ramp(top)))
        assert pixels[0, :, 0].tolist() == [0, 4, round(top / 257)]  # 1000 / 257 = 3.9
        assert (pixels == pixels[..., :1]).all()


@pytest.mark.parametrize("name", DEEP)
@pytest.mark.parametrize(("white", "gray"), [(1023, 249), (4095, 62)])  # 255 * 1000 / white
def test_ten_and_twelve_bits_in_files_of_sixteen(name, white, gray) -> None:
    config = DecodeConfig(white_level=white)
    assert Decoder().decode(DEEP[name](ramp(white)), config)[0, :, 0].tolist() == [0, gray, 255]
    with pytest.raises(DataError, match=f"to {white + 1} are not within 0 to {white}.*white_level"):
        Decoder().decode(DEEP[name](ramp(white + 1)), config)


def test_low_levels_of_sixteen_bits_are_counted() -> None:
    decoder = Decoder()
    for top in (1000, 4095, 4096, 65535):
        decoder.decode(DEEP["PNG"](ramp(top)))
    assert decoder.notes.counts == {"low": 2, "deep": 4}
    assert " data.decode.white_level" in decoder.notes.text()


@pytest.mark.parametrize("config", [DecodeConfig(), DecodeConfig(white_level=65535)])
@pytest.mark.parametrize("is_plain", [False, True])
def test_a_pgms_own_maximum_is_its_white(config, is_plain) -> None:
    data = pgm(np.array([[0, 300, 600, 1023]]), 1023, is_plain=is_plain)
    assert Decoder().decode(data, config)[0, :, 0].tolist() == [0, 75, 150, 255]


def test_formats_state_white_by_their_bits_sign_and_direction() -> None:
    signed = raw_tiff(np.array([[0, 16384, 32767]], np.int16), 16, sample_format=2)
    assert Decoder().decode(signed)[0, :, 0].tolist() == [0, 128, 255]  # 127.5, rounded up
    inverted = raw_tiff(np.array([[0, 257, 65535]], np.uint16), 16, photometric=0)
    assert Decoder().decode(inverted)[0, :, 0].tolist() == [255, 254, 0]
    twelve = raw_tiff(np.frombuffer(b"\x00\x0f\xff\x80\x0f\xff", np.uint8)[None], 12)
    twelve = twelve.replace(b"\x00\x01\x04\0\1\0\0\0\x06", b"\x00\x01\x04\0\1\0\0\0\x04")  # width
    assert Decoder().decode(twelve)[0, :, 0].tolist() == [0, 255, 128, 255]


def test_floating_point_needs_a_stated_white() -> None:
    data = tiff(np.array([[0.0, 0.25, 1.0]], np.float32))
    with pytest.raises(DataError, match=r"mode F.* data\.decode\.white_level"):
        Decoder().decode(data)
    made = Decoder().decode(data, DecodeConfig(white_level=1.0))
    assert made[0, :, 0].tolist() == [0, 64, 255]


@pytest.mark.parametrize("white", [0.5, 1.0])
def test_a_white_level_of_floating_point_is_said_to_be_none_of_integers(white) -> None:
    data = tiff(np.array([[0, 300]], np.uint16))
    with pytest.raises(DataError, match=rf"white_level={white:g} is of floating point.*integers"):
        Decoder().decode(data, DecodeConfig(white_level=white))
    assert Decoder().decode(tiff(np.array([[0, 1]], np.uint16)), DecodeConfig(white_level=1.0))[
        0, :, 0
    ].tolist() == [0, 255]  # a mask


@pytest.mark.parametrize("value", [-1.0, 1.5, np.nan, np.inf])
def test_levels_that_no_scale_holds_are_refused(value) -> None:
    data = tiff(np.array([[0.5, value]], np.float32))
    with pytest.raises(DataError, match="are not within 0 to 1"):
        Decoder().decode(data, DecodeConfig(white_level=1.0))


def test_negative_integers_are_refused() -> None:
    with pytest.raises(DataError, match="from -5 to 7"):
        Decoder().decode(tiff(np.array([[-5, 7]], np.int32)))


def test_a_band_of_no_stated_meaning_is_refused() -> None:
    data = encode(Image.fromarray(FEW).convert("RGBX"), "TIFF")
    with pytest.raises(DataError, match=r"4 bands.*ExtraSamples"):
        Decoder().decode(data)
    assert Decoder().decode(encode(Image.fromarray(FEW).convert("CMYK"), "TIFF")).shape == FEW.shape


@pytest.mark.parametrize(
    "wrong",
    [{"background": (0, 0, 256)}, {"background": (-1, 0, 0)}, {"white_level": 0.0},
     {"white_level": float("nan")}, {"white_level": float("inf")}],
)  # fmt: skip
def test_settings_out_of_range_are_refused(wrong) -> None:
    with pytest.raises(ConfigError, match="decode\\."):
        DecodeConfig(**wrong)


def test_settings_have_different_keys() -> None:
    configs = [
        DecodeConfig(),
        BLACK,
        DecodeConfig(white_level=4095),
        DecodeConfig(white_level=1023),
    ]
    assert len({config.key() for config in configs}) == 4


def animation(kind: str, num: int, **options) -> bytes:
    frames = [Image.fromarray(np.full((9, 8, 3), 40 * i, np.uint8)) for i in range(num)]
    return encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "WEBP", "PNG"])
def test_of_several_frames_the_first_is_used_and_that_is_counted(kind) -> None:
    decoder = Decoder()
    options = {"lossless": True} if kind == "WEBP" else {}
    single = decoder.decode(animation(kind, 1, **options)).copy()
    assert decoder.notes.text() == ""
    for _ in range(2):
        assert np.array_equal(decoder.decode(animation(kind, 3, **options)), single)
    assert decoder.notes.counts == {"frames": 2}
    assert decoder.notes.text().startswith("2 images have several pages or frames")


def test_frames_that_are_damaged_do_not_hinder_the_first() -> None:
    for kind in ("TIFF", "GIF"):
        whole = animation(kind, 3)
        cut = whole[: len(whole) - 12]
        assert np.array_equal(Decoder().decode(cut), Decoder().decode(whole))


def deep_colour(level: int, *, width: int = 4) -> bytes:
    """A PNG of 16-bit RGB: Pillow writes none."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        crc = zlib.crc32(kind + content).to_bytes(4, "big")
        return len(content).to_bytes(4, "big") + kind + content + crc

    head = width.to_bytes(4, "big") + (1).to_bytes(4, "big") + bytes([16, 2, 0, 0, 0])
    row = b"\0" + level.to_bytes(2, "big") * 3 * width
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(row))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("level", "white", "is_said"),
    [(4095, None, True), (4095, 4095, True), (65535, None, False), (65535, 4095, True),
     (0, None, False), (4096, None, False), (65535, 65535, False)],
)  # fmt: skip
def test_colour_of_sixteen_bits_that_a_white_level_does_not_reach_is_counted(
    level, white, is_said
) -> None:
    decoder = Decoder()
    pixels = decoder.decode(deep_colour(level), DecodeConfig(white_level=white))
    assert (pixels == level >> 8).all()
    assert ("1 colour images of 16 bits" in decoder.notes.text()) is is_said
