"""Masks of classes as files: palettes, ids and colours -> classes of a fixed list.

What a pixel's value means is a `LabelTable`: VOC's palette indices, ADE20K's and Cityscapes' ids,
or what the user's table says of ids or colours. A value that no table knows is an error, never a
class.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ssl_vision.bounds import check_bounds
from ssl_vision.data.decode import upright_size
from ssl_vision.data.images.partners import Kind, PartnerConfig, opened
from ssl_vision.data.images.table import SUFFIXES as TABLES
from ssl_vision.data.images.table import read_table
from ssl_vision.errors import ConfigError, DataError, did_you_mean
from ssl_vision.files import shown

IGNORED = -1  # class of pixels that count nowhere
Classes: TypeAlias = NDArray[np.int16]  # (H, W)

_FORMATS = ("PNG", "BMP", "TIFF", "GIF")  # without loss
MASKS = Kind(
    word="mask", key="masks", suffixes=(".png", ".bmp", ".tif", ".tiff", ".gif"), size=upright_size
)
_MAX_ID = 2**16 - 1
_IGNORED_NAMES = ("ignore", "ignored", "void", "unlabeled", "unlabelled")
_VOC = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair",
    "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
    "train", "tvmonitor",
)  # fmt: skip
_CITYSCAPES = {
    7: "road", 8: "sidewalk", 11: "building", 12: "wall", 13: "fence", 17: "pole",
    19: "traffic light", 20: "traffic sign", 21: "vegetation", 22: "terrain", 23: "sky",
    24: "person", 25: "rider", 26: "car", 27: "truck", 28: "bus", 31: "train", 32: "motorcycle",
    33: "bicycle",
}  # fmt: skip
_CITYSCAPES_IDS = 34  # 0 to 33, of which 19 are scored
_ADE20K = 150  # classes of the scene parsing benchmark; 0 is none of them
_ADE20K_NAMES = "objectInfo150.txt"
LAYOUTS = ("auto", "voc", "ade20k", "cityscapes", "cityscapes_train", "binary", "ids")


@dataclass(frozen=True, kw_only=True)
class MasksConfig(PartnerConfig):
    """Masks of classes, of `segment` and `dense_knn`."""

    labels: str = "auto"  # voc, ade20k, cityscapes, cityscapes_train, binary (0 and the rest), ids
    # (each value its own class), or a table (.csv) with the columns name and id, or name, r, g, b
    ignore: tuple[int, ...] = (255,)  # ids that count nowhere, where the layout does not say it

    def __post_init__(self) -> None:
        check_bounds("masks.ignore", self.ignore, least=0, most=_MAX_ID)
        if self.labels not in LAYOUTS and Path(self.labels).suffix.lower() not in TABLES:
            raise ConfigError(
                f"masks.labels={self.labels} must be {', '.join(LAYOUTS)}, or a table "
                f"({', '.join(TABLES)}).{did_you_mean(self.labels, LAYOUTS)}"
            )


@dataclass(frozen=True, kw_only=True)
class LabelTable:
    """What the values of masks mean.

    Attributes:
        layout: Its name, or the file it is from.
        names: Of the classes.
        values: Known values, int64, rising, (n,): ids, or colours as r * 65536 + g * 256 + b.
        classes: Class of each, int16, (n,); IGNORED for none.
        is_colors: Whether values are colours.
        rgb: Colour of each class, uint8, (C, 3); None where none is stated.
    """

    layout: str
    names: tuple[str, ...]
    values: NDArray[np.int64]
    classes: NDArray[np.int16]
    is_colors: bool = False
    rgb: NDArray[np.uint8] | None = None

    def classes_of(self, raw: NDArray[Any], *, name: str) -> Classes:
        """Class of each pixel, int16, of the shape of `raw`; IGNORED where it has none.

        Raises:
            DataError: A value that is not in the table.
        """
        places = np.minimum(np.searchsorted(self.values, raw), len(self.values) - 1)
        is_unknown = self.values[places] != raw
        if is_unknown.any():
            raise DataError(self._unknown(int(raw[is_unknown][0]), name))
        return self.classes[places]

    def _unknown(self, value: int, name: str) -> str:
        if self.is_colors:
            color = f"{value >> 16},{value >> 8 & 255},{value & 255}"
            return f"{shown(name)} has the colour {color}, which {self.layout} has not; add it."
        most = int(self.values[self.classes != IGNORED].max())
        return (
            f"{shown(name)} has the id {value}, beyond the {len(self.names)} classes of "
            f"masks.labels={self.layout} (ids up to {most}); set masks.labels, or masks.ignore for "
            "ids that count nowhere."
        )


def read_mask(path: Path, table: LabelTable) -> Classes:
    """Classes of a mask's pixels, int16, (H, W); IGNORED where they have none.

    Raises:
        DataError: It cannot be read, or has values that the table has not.
    """
    return table.classes_of(_read(path, is_colors=table.is_colors), name=str(path))


def _read(path: Path, *, is_colors: bool) -> NDArray[Any]:
    """Values as they are stored: ids of any integer type, or colours as one number, (H, W)."""
    with opened(path, formats=_FORMATS, wanted="a mask") as image:
        if is_colors:
            red, green, blue = np.asarray(image.convert("RGB")).astype(np.int64).T
            return ((red << 16) + (green << 8) + blue).T
        if image.mode in ("RGB", "RGBA", "LA", "CMYK", "F"):
            raise DataError(_not_ids(path, image.mode))
        return np.asarray(image, np.uint8 if image.mode == "1" else None)


def _not_ids(path: Path, mode: str) -> str:
    return (
        f"{shown(str(path))} has colours ({mode}), not ids; say what they mean by "
        "masks.labels=TABLE.csv with the columns name,r,g,b."
    )


def table_of(config: MasksConfig, masks: Sequence[Path]) -> tuple[LabelTable, str]:
    """The table that the settings name, and a line that says what was guessed; else empty.

    Args:
        config: `labels` decides; `auto` looks at the names of files and folders, and at values.
        masks: Of the training images.

    Raises:
        DataError: The table cannot be read, or masks hold one class alone.
    """
    layout, reason = config.labels, ""
    if layout == "auto":
        layout, reason = _guess(masks)
    if layout == "voc":
        table = _of_ids("voc", dict(enumerate(_VOC)), ignored=[255])
    elif layout == "ade20k":
        table = _of_ids("ade20k", _ade20k_names(masks), ignored=[0])
    elif layout == "cityscapes":
        others = {*range(_CITYSCAPES_IDS), 255} - _CITYSCAPES.keys()
        table = _of_ids("cityscapes", _CITYSCAPES, ignored=others)
    elif layout == "cityscapes_train":
        names = dict(enumerate(_CITYSCAPES.values()))
        table = _of_ids("cityscapes_train", names, ignored=[255])
    elif layout in ("ids", "binary"):
        table, why = _of_values(layout, config, masks)
        reason = f"{reason}{why}" if config.labels == "auto" else ""
    else:
        return _from_file(Path(layout).expanduser(), config.ignore)
    note = f"masks are read as {table.layout} ({len(table.names)} classes): {reason}"
    return table, f"{note}; masks.labels says otherwise." if reason else ""


def _guess(masks: Sequence[Path]) -> tuple[str, str]:
    """A layout, and what speaks for it."""
    first = masks[0]
    if first.stem.endswith("_labelIds"):
        return "cityscapes", "their names end in _labelIds"
    if first.stem.endswith("_labelTrainIds"):
        return "cityscapes_train", "their names end in _labelTrainIds"
    if "SegmentationClass" in first.parts:
        return "voc", "they lie in SegmentationClass"
    if any((folder / _ADE20K_NAMES).exists() for folder in first.parents[:4]):
        return "ade20k", f"{_ADE20K_NAMES} lies beside them"
    if any(part.startswith(("ADE20K", "ADEChallenge")) for part in first.parts):
        return "ade20k", "they lie in a folder of ADE20K"
    return "ids", ""


def _of_ids(layout: str, names: dict[int, str], *, ignored: Iterable[int]) -> LabelTable:
    """Ids with names, and ids that count nowhere."""
    number = {value: i for i, value in enumerate(sorted(names))}
    known = dict.fromkeys(ignored, IGNORED) | number
    values = sorted(known)
    return LabelTable(
        layout=layout,
        names=tuple(names[value] for value in sorted(names)),
        values=np.array(values, np.int64),
        classes=np.array([known[value] for value in values], np.int16),
    )


def _of_values(layout: str, config: MasksConfig, masks: Sequence[Path]) -> tuple[LabelTable, str]:
    """Classes that are the values themselves: all of them, or those that are 0 and the others."""
    found = _values(masks)
    if layout == "binary" or (config.labels == "auto" and found == {0, 255}):
        return _binary(found), "their values are 0 and 255"
    kept = sorted(found - {*config.ignore})
    if len(kept) < 2:
        raise DataError(
            f"the {len(masks)} training masks hold the ids {sorted(found)[:5]}, of which "
            f"{len(kept)} count (masks.ignore={list(config.ignore)}); segmentation needs two "
            "classes or more."
        )
    names = {value: str(value) for value in range(kept[-1] + 1) if value not in config.ignore}
    table = _of_ids("ids", names, ignored=config.ignore)
    return table, f"each value up to the largest in the training masks, {kept[-1]}, is a class"


def _binary(found: set[int]) -> LabelTable:
    values = np.arange(max(256, *(value + 1 for value in found)))
    return LabelTable(
        layout="binary",
        names=("background", "foreground"),
        values=values,
        classes=(values > 0).astype(np.int16),
    )


def _values(masks: Sequence[Path]) -> set[int]:
    """Every id in the masks."""
    found: set[int] = set()
    for path in masks:
        raw = _read(path, is_colors=False)
        if raw.min(initial=0) < 0 or raw.max(initial=0) > _MAX_ID:
            raise DataError(f"{shown(str(path))} has ids outside 0 to {_MAX_ID}.")
        found.update(np.flatnonzero(np.bincount(raw.ravel())).tolist())
    return found


def _ade20k_names(masks: Sequence[Path]) -> dict[int, str]:
    """Names from the file that comes with ADE20K; numbers where it is not there."""
    names = {value: str(value) for value in range(1, _ADE20K + 1)}
    for folder in masks[0].parents[:4]:
        file = folder / _ADE20K_NAMES
        if file.exists():
            rows = [line.split("\t") for line in file.read_text(errors="replace").splitlines()]
            named = {int(r[0]): r[-1].strip() for r in rows if len(r) > 1 and r[0].isdecimal()}
            return names | {value: name for value, name in named.items() if value in names}
    return names


def _from_file(path: Path, ignore: Sequence[int]) -> tuple[LabelTable, str]:
    """A table of the user's: name and id, or name, r, g, b; rows of one name are one class."""
    columns = {name.lower(): values for name, values in read_table(path).items()}
    named = next((columns[key] for key in ("name", "class", "label") if key in columns), None)
    colors = next(
        (keys for keys in (("r", "g", "b"), ("red", "green", "blue")) if {*keys} <= {*columns}),
        None,
    )
    ids = next((key for key in ("id", "value", "index") if key in columns), None)
    if named is None or (colors is None and ids is None):
        raise DataError(
            f"masks.labels={path} has the columns {', '.join(columns)}; wanted are name and id, or "
            "name, r, g and b."
        )
    most = 255 if colors else _MAX_ID
    numbers = [_numbers(columns[key], path, key, most=most) for key in colors or (str(ids),)]
    values = [
        sum(n << 8 * i for i, n in enumerate(reversed(row))) for row in zip(*numbers, strict=True)
    ]
    texts = [str(name).strip() for name in named]
    names = list(dict.fromkeys(name for name in texts if name.lower() not in _IGNORED_NAMES))
    known = {} if colors else dict.fromkeys(ignore, IGNORED)
    for value, name in zip(values, texts, strict=True):
        if value in known and known[value] != IGNORED:
            raise DataError(f"masks.labels={path} has two rows of the value of {name!r}.")
        known[value] = names.index(name) if name in names else IGNORED
    if len(names) < 2:
        raise DataError(f"masks.labels={path} names fewer than two classes.")
    order = sorted(known)
    table = LabelTable(
        layout=str(path),
        names=tuple(names),
        values=np.array(order, np.int64),
        classes=np.array([known[value] for value in order], np.int16),
        is_colors=colors is not None,
        rgb=_first_colors(values, texts, names) if colors else None,
    )
    left_out = sorted({name for name in texts if name.lower() in _IGNORED_NAMES})
    return table, f"{path}: {', '.join(left_out)} counts nowhere, by its name." if left_out else ""


def _numbers(cells: Sequence[Any], path: Path, key: str, *, most: int) -> list[int]:
    try:
        numbers = [int(cell) for cell in cells]
    except (TypeError, ValueError):
        numbers = [-1]
    if not numbers or min(numbers) < 0 or max(numbers) > most:
        raise DataError(f"masks.labels={path}: column {key} must hold whole numbers 0 to {most}.")
    return numbers


def _first_colors(
    values: Sequence[int], texts: Sequence[str], names: Sequence[str]
) -> NDArray[np.uint8]:
    firsts = [values[texts.index(name)] for name in names]
    return np.array([[v >> 16, v >> 8 & 255, v & 255] for v in firsts], np.uint8)
