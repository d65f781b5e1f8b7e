"""Pixels of any kind as 8-bit RGB: transparency over a background, deep levels by their format.

What a value means follows from the file's format and the settings, never from the other values of
the picture: equal values of two files of a kind come out equal.
"""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image, PpmImagePlugin, TiffImagePlugin

from ssl_vision.errors import ConfigError, DataError

_RULE = 2  # of reading pixels; counted up when the same file comes out otherwise
_BLOCK_PIXELS = 1 << 20  # composed or scaled at a time
_ALPHA_MODES = ("LA", "La", "PA", "RGBA", "RGBa")
_EXTRA_SAMPLES, _BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 338, 258, 262, 339  # TIFF tags
_UNSPECIFIED, _WHITE_IS_ZERO, _SIGNED = 0, 0, 2  # values of these


@dataclass(frozen=True, kw_only=True)
class DecodeConfig:
    """What image files mean where their format leaves it open."""

    background: tuple[int, int, int] = (255, 255, 255)  # behind transparent pixels, RGB 0..255
    # Default: what the format states, 65535 where it states nothing; 1.0 for floating point.
    # Not of colour: its 16 bits are read by the upper 8.
    white_level: float | None = None  # of gray files above 8 bits; 4095 for 12 bits in 16

    def __post_init__(self) -> None:
        if not all(0 <= level <= 255 for level in self.background):
            raise ConfigError(f"decode.background={list(self.background)} must be from 0 to 255.")
        if self.white_level is not None and not 0 < self.white_level < float("inf"):
            raise ConfigError(f"decode.white_level={self.white_level} must be above 0.")

    def text(self) -> str:
        """The settings by their names."""
        white = "null" if self.white_level is None else f"{self.white_level:g}"
        return f"data.decode.background={list(self.background)} data.decode.white_level={white}"

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {"background": list(self.background), "white_level": self.white_level}

    @classmethod
    def of_json(cls, values: Any) -> "DecodeConfig":
        """From `to_json`.

        Raises:
            ValueError: It is something else.
        """
        try:
            red, green, blue = (int(level) for level in values["background"])
            white = values["white_level"]
            white_level = None if white is None else float(white)
            return cls(background=(red, green, blue), white_level=white_level)
        except (KeyError, TypeError, ConfigError, OverflowError) as error:
            raise ValueError(str(error)) from error

    def key(self) -> str:
        """What decides, beside a file's bytes, about its pixels; part of fingerprints."""
        return f"pixels {_RULE} {sorted(asdict(self).items())}"


DEFAULT = DecodeConfig()


@dataclass(frozen=True, kw_only=True)
class Decided:
    """What was decided about pixels that are stored decoded.

    Attributes:
        decode: The settings.
        transparent: Images that show its background.
        deep: Images whose white level it may have decided.
    """

    decode: DecodeConfig
    transparent: int = 0
    deep: int = 0

    def conflict(self, asked: DecodeConfig) -> str:
        """Settings to give instead, and the number of images they decide; empty if none."""
        own, found = self.decode, []
        if self.transparent and own.background != asked.background:
            levels = str(list(own.background)).replace(" ", "")
            found.append(f"data.decode.background={levels} (which {self.transparent} images show)")
        if self.deep and own.white_level != asked.white_level:
            level = "null" if own.white_level is None else f"{own.white_level:g}"
            found.append(f"data.decode.white_level={level} (of which {self.deep} images are)")
        return " and ".join(found)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    @classmethod
    def of_json(cls, values: Any) -> "Decided":
        """From `to_json`.

        Raises:
            ValueError: It is something else.
        """
        try:
            return cls(
                decode=DecodeConfig.of_json(values["decode"]),
                transparent=int(values["transparent"]),
                deep=int(values["deep"]),
            )
        except (KeyError, TypeError, OverflowError) as error:
            raise ValueError(str(error)) from error


@dataclass(frozen=True, kw_only=True)
class AskedDecode:
    """What an evaluation asks of decoding; None is as the weights were trained."""

    background: tuple[int, int, int] | None = None  # behind transparent pixels, RGB 0..255
    white_level: float | None = None  # of gray files above 8 bits; 65535 is that of 16 bits

    def __post_init__(self) -> None:
        self.over(DEFAULT)  # checks the values

    def over(self, own: DecodeConfig) -> DecodeConfig:
        """The settings, completed by those of the weights."""
        return DecodeConfig(
            background=own.background if self.background is None else self.background,
            white_level=own.white_level if self.white_level is None else self.white_level,
        )

    def note(self, own: DecodeConfig) -> str:
        """A line on what was taken over, or is other than in training; empty for the defaults."""
        used = self.over(own)
        if used != own:
            return f"images are read with {used.text()}; the weights were trained with {own.text()}"
        return f"images are read as in training, with {own.text()}" if own != DEFAULT else ""


class Notes:
    """Counts of what readers of one data set met and the user should hear of; for many threads."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.background = DEFAULT.background  # behind the transparent images
        self._lock = threading.Lock()

    def add(self, what: str) -> None:
        """Count one image or cloud."""
        with self._lock:
            self.counts[what] += 1

    def text(self) -> str:
        """The counts as a sentence; empty where there is nothing to say."""
        is_white = self.background == DEFAULT.background
        colour = "white" if is_white else str(list(self.background)).replace(" ", "")
        found = (
            (number, _SENTENCES[what].format(colour=colour))
            for what, number in self.counts.items()
            if _TOLD is None or what not in _TOLD
        )
        return " ".join(f"{number:,} {sentence}" for number, sentence in found if sentence)

    def told(self) -> None:
        """Keep in mind what was said, within `each_told_once`."""
        if _TOLD is not None:
            _TOLD.update(self.counts)


_TOLD: set[str] | None = None  # what was said within `each_told_once`


@contextmanager
def each_told_once() -> Iterator[None]:
    """Within it `Notes` of all data sets and passes say each thing once: that of one command."""
    global _TOLD
    if _TOLD is not None:  # the outer one, of the whole command, counts
        yield
        return
    _TOLD = set()
    try:
        yield
    finally:
        _TOLD = None


_SENTENCES = {
    "deep": "",  # counted for packed files only
    "transparent": "images have transparent pixels, shown over {colour}; "
    "data.decode.background=[R,G,B] shows another colour there, and nothing need be done if this "
    "one fits.",
    "frames": "images have several pages or frames, of which the first is used.",
    "deep colour": "colour images of 16 bits are read by the upper 8, which "
    "data.decode.white_level does not change; scale them to 16 bits if they hold 10 or 12.",
    "low": "images of 16 bits hold no level above 4095 and come out nearly black; if they hold "
    "10 or 12 bits, set data.decode.white_level to 1023 or 4095.",
    "columns": "clouds have further columns (normals, colours), which are not used: x, y and z are "
    "the first three.",
    "square": "clouds are tables of 3 rows and 3 columns, of which each row is taken for a point.",
    "few points": "clouds have fewer points than are drawn of each, so that points are repeated.",
}


def to_rgb(
    image: Image.Image, config: DecodeConfig = DEFAULT, notes: Notes | None = None
) -> np.ndarray:
    """8-bit RGB pixels of any Pillow image, (H, W, 3), contiguous.

    Args:
        image: Opened, not yet loaded: after that PNG and PGM no longer tell how they are stored.
        config: Background and white level.
        notes: Where transparency and low levels are counted.

    Raises:
        DataError: If values are outside what the format or the setting allows, or bands have no
            stated meaning.
    """
    notes = notes or Notes()
    _check_bands(image)
    raw_mode, maximum = _stored(image)
    if _has_frames(image):
        notes.add("frames")
    image.load()
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        pixels, alpha = _deep(image, config, notes, maximum)
    else:
        pixels, alpha = _shallow(image, raw_mode)
        if ";16" in raw_mode:
            _note_deep_colour(pixels, config, notes)
    if alpha is None or int(alpha.min(initial=255)) == 255:
        return pixels
    notes.background = config.background
    notes.add("transparent")
    return compose(pixels, alpha, config.background)


def compose(pixels: np.ndarray, alpha: np.ndarray, background: tuple[int, int, int]) -> np.ndarray:
    """Pixels over a background, rounded: (c a + b (255 - a)) / 255.

    Args:
        pixels: uint8, (H, W, 3).
        alpha: uint8, (H, W); 0 is transparent.
        background: RGB levels.
    """
    out = np.empty_like(pixels)
    behind = np.array(background, np.uint16)
    for rows in _blocks(alpha):
        a = alpha[rows, :, None].astype(np.uint16)
        out[rows] = (pixels[rows] * a + behind * (255 - a) + 127) // 255  # at most 65152
    return out


def _blocks(image: np.ndarray) -> list[slice]:
    """Rows in pieces that keep intermediate arrays small."""
    step = max(1, _BLOCK_PIXELS // max(1, image.shape[1]))
    return [slice(start, start + step) for start in range(0, len(image), step)]


def _stored(image: Image.Image) -> tuple[str, int]:
    """How a file stores its levels: Pillow's name of it, and a PGM's maximum (else 65535)."""
    tiles = getattr(image, "tile", None)
    given = _numbers(tiles[0][3]) if tiles else ()
    is_pgm = isinstance(image, PpmImagePlugin.PpmImageFile) and len(given) == 2
    return str(given[0]) if given else "", int(str(given[1])) if is_pgm else 65535


def _has_frames(image: Image.Image) -> bool:
    """Whether a file holds more than one picture; damage behind the first is no matter."""
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # Pillow's plugins raise nearly everything on damaged files
        return False


def _note_deep_colour(pixels: np.ndarray, config: DecodeConfig, notes: Notes) -> None:
    """Count colour of 16 bits a band that a white level is meant for, or seems to lack one.

    Pillow has no such mode: it keeps the upper byte of each level.
    """
    is_low = 0 < int(pixels.max(initial=0)) <= 4095 >> 8
    if config.white_level not in (None, 65535) or is_low:
        notes.add("deep colour")


def _check_bands(image: Image.Image) -> None:
    """Refuse bands of no stated meaning, which Pillow would drop without a word."""
    if image.mode == "LAB":
        raise DataError("colours are in CIELAB, which is not read; save the image as RGB")
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return
    tags = image.tag_v2
    if _UNSPECIFIED in _numbers(tags.get(_EXTRA_SAMPLES)):
        bands = len(_numbers(tags.get(_BITS_PER_SAMPLE)))
        raise DataError(
            f"the TIFF has {bands} bands, of which some are neither colour nor transparency "
            "(ExtraSamples 0); save it as RGB or RGBA"
        )
    if _SIGNED in _numbers(tags.get(_SAMPLE_FORMAT)) and image.mode == "L":
        raise DataError("the TIFF has signed 8-bit levels; save it as unsigned")


def _numbers(value: object) -> tuple[object, ...]:
    return value if isinstance(value, tuple) else (value,)


def _shallow(image: Image.Image, raw_mode: str) -> tuple[np.ndarray, np.ndarray | None]:
    """RGB, (H, W, 3), and alpha, (H, W), of an image of 8 bits a band or fewer."""
    key = image.info.get("transparency")
    has_palette_alpha = image.mode == "P" and (
        key is not None or (image.palette is not None and image.palette.mode.endswith("A"))
    )
    if image.mode in _ALPHA_MODES or has_palette_alpha:
        if image.mode == "La":
            image = image.convert("LA")
        rgba = np.asarray(image.convert("RGBA"))
        return np.ascontiguousarray(rgba[..., :3]), rgba[..., 3]
    if key is not None and image.mode in ("1", "L", "RGB"):
        image.info.pop("transparency")  # Pillow would convert it again, and warn
        values = np.asarray(image.convert("RGB"))
        return np.array(values), _keyed(values, _as_levels(raw_mode, key))
    return np.array(image if image.mode == "RGB" else image.convert("RGB")), None


def _as_levels(raw_mode: str, key: object) -> np.ndarray:
    """A PNG's transparent colour on the scale of the decoded levels, (1,) or (3,).

    The file states it in its own depth: of 2 and 4 bits it is scaled up as the levels are, of 16
    its upper byte is compared, as only that is kept of the colours.
    """
    values = np.atleast_1d(np.array(key, np.int64))
    if ";16" in raw_mode:
        return values >> 8
    return values * {"L;2": 85, "L;4": 17}.get(raw_mode, 1)


def _keyed(values: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Alpha of pixels that are transparent where they equal a colour."""
    return np.where((values == key).all(axis=-1), 0, 255).astype(np.uint8)


# More than 8 bits --------------------------------------------------------------------------


def _deep(
    image: Image.Image, config: DecodeConfig, notes: Notes, maximum: int
) -> tuple[np.ndarray, np.ndarray | None]:
    white, is_inverted = _white(image, config, maximum), _is_inverted(image)
    values = np.asarray(image)
    low, high = float(values.min(initial=0)), float(values.max(initial=0))
    if not (low >= 0 and high <= white):  # also of NaN
        raise DataError(
            f"levels from {low:g} to {high:g} are not within 0 to {white:g}, which is white here; "
            f"{_way_to_white(image, config)}"
        )
    if maximum == 65535:
        notes.add("deep")
    if white == 65535 and config.white_level is None and 255 < high <= 4095:
        notes.add("low")
    gray = np.empty(values.shape, np.uint8)
    for rows in _blocks(values):
        share = values[rows].astype(np.float64) / white
        gray[rows] = np.floor((1 - share if is_inverted else share) * 255 + 0.5)
    key = image.info.get("transparency")
    alpha = None if key is None else _keyed(values[..., None], np.array([key]))
    return np.repeat(gray[:, :, None], 3, axis=2), alpha


def _white(image: Image.Image, config: DecodeConfig, maximum: int) -> float:
    """The level that is white, by the format, else by the setting."""
    if maximum != 65535:  # a PGM's own, which Pillow has brought to 65535
        return 65535.0
    if config.white_level is not None:
        return config.white_level
    if image.mode == "F":
        raise DataError(
            "mode F: floating point has no stated white; set data.decode.white_level, for instance "
            "1.0"
        )
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        bits = _numbers(image.tag_v2.get(_BITS_PER_SAMPLE))[0]
        if bits == 12:
            return 4095.0
        if bits == 16 and _SIGNED in _numbers(image.tag_v2.get(_SAMPLE_FORMAT)):
            return 32767.0
    return 65535.0


def _way_to_white(image: Image.Image, config: DecodeConfig) -> str:
    """What to do about levels that the white level does not hold."""
    if config.white_level is not None and config.white_level <= 1 and image.mode != "F":
        return (
            f"data.decode.white_level={config.white_level:g} is of floating point, and this file "
            "holds integers; the setting is of all gray files above 8 bits, so scale one kind to "
            "the levels of the other, or keep the kinds in folders of their own"
        )
    return "set data.decode.white_level to the level that is white in these files"


def _is_inverted(image: Image.Image) -> bool:
    """Whether 0 is white; of deep TIFF files Pillow leaves it to the reader."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return False
    return bool(image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO)
