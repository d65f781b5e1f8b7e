"""Two views of one scene with known geometry: which place of the first is where in the second.

Places are in pixels from the upper left corner of an image, so that the centre of its first pixel
is (0.5, 0.5). Files of homographies, flows and points count from that centre, as OpenCV does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ssl_vision.data.decode import Decoder, upright_size
from ssl_vision.data.images.depth import read_depth
from ssl_vision.data.images.folder import list_images
from ssl_vision.data.images.table import SUFFIXES as TABLES
from ssl_vision.data.images.table import read_table
from ssl_vision.data.source import Source, digest
from ssl_vision.errors import DataError
from ssl_vision.files import open_regular, read_text, shown
from ssl_vision.randomness import keyed_uniform

Points = NDArray[np.float64]  # (n, 2), x and y

_FLO_MAGIC = 202021.25
_FLO_UNKNOWN = 1e9  # of .flo files: larger values are none
_DISPARITIES = (".png", ".tif", ".tiff")
_DISPARITY_PX = 1 / 256  # of a unit of such pictures, as of KITTI
_COLUMNS = ("first", "second", "geometry")
_FORMS = (
    "a homography (9 numbers of a text, or .npy of (3, 3)), a flow (.flo, or .npy of (H, W, 2)), a "
    "disparity (.npy of (H, W), or a picture of 16 bits in 1/256 px), "
    "or points (.csv with x_first, y_first, x_second, y_second, or .npy of (n, 4))"
)


class Pair(NamedTuple):
    """Two images and the file that says how they belong together."""

    first: str
    second: str
    geometry: str


class Correspondence(NamedTuple):
    """Places of the first view, and where they are in the second; NaN where that is not known."""

    first: Points
    second: Points


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """How two views belong together: one of the three.

    Attributes:
        homography: (3, 3), of places.
        flow: Displacement at each pixel of the first view, (H, W, 2), x and y; NaN for none.
        points: Some places in both views.
    """

    homography: NDArray[np.float64] | None = None
    flow: NDArray[np.float64] | None = None
    points: Correspondence | None = None

    def at(self, places: Points) -> Correspondence:
        """These places of the first view in the second; of given points, those instead."""
        if self.points is not None:
            return self.points
        if self.homography is not None:
            return Correspondence(places, apply_homography(self.homography, places))
        assert self.flow is not None
        height, width = self.flow.shape[:2]
        x, y = places.astype(int).T
        moved = self.flow[y.clip(0, height - 1), x.clip(0, width - 1)]
        return Correspondence(places, places + moved)


def apply_homography(matrix: NDArray[np.float64], places: Points) -> Points:
    """Places (n, 2) -> where a homography takes them; NaN beyond its horizon."""
    mapped = np.c_[places, np.ones(len(places))] @ matrix.T
    depth = np.where(mapped[:, 2:] > 0, mapped[:, 2:], np.nan)
    found: Points = mapped[:, :2] / depth
    return found


def homography_of(first: Points, second: Points) -> NDArray[np.float64]:
    """The homography that takes four places to four others, (3, 3), its last number 1."""
    rows = []
    for (x, y), (u, v) in zip(first, second, strict=True):
        rows.append([x, y, 1, 0, 0, 0, -u * x, -u * y])
        rows.append([0, 0, 0, x, y, 1, -v * x, -v * y])
    solved = np.linalg.solve(np.array(rows), second.reshape(-1))
    return np.append(solved, 1.0).reshape(3, 3)


# Files ------------------------------------------------------------------------------------------


def read_pairs(path: Path) -> list[Pair]:
    """Pairs that a table names, or those of a folder in HPatches' layout.

    Args:
        path: A table with the columns first, second and geometry, whose paths start from its
            folder; or a folder of folders with images 1, 2, ... and files H_1_2, H_1_3, ...

    Raises:
        DataError: It is neither, a file is not there, or an image is paired with itself.
    """
    if path.is_dir():
        pairs = _hpatches(path)
    elif path.suffix.lower() in TABLES:
        columns = {name.lower(): values for name, values in read_table(path).items()}
        if not {*_COLUMNS} <= {*columns}:
            raise DataError(
                f"correspond.pairs={path} has the columns {', '.join(columns)}; wanted are "
                f"{', '.join(_COLUMNS)}."
            )
        rows = zip(*(columns[name] for name in _COLUMNS), strict=True)
        pairs = [Pair(*(str(path.parent / str(each)) for each in row)) for row in rows]
    else:
        raise DataError(
            f"correspond.pairs={path} is neither a table ({', '.join(TABLES)}) nor a folder."
        )
    if not pairs:
        raise DataError(f"correspond.pairs={path} names no pair.")
    for pair in pairs:
        gone = next((each for each in pair if not Path(each).is_file()), None)
        if gone is not None:
            raise DataError(f"correspond.pairs={path}: {shown(gone)} is not there.")
        if Path(pair.first).samefile(pair.second):
            raise DataError(f"correspond.pairs={path}: {shown(pair.first)} is paired with itself.")
    return pairs


def _hpatches(root: Path) -> list[Pair]:
    images = {str(Path(path).with_suffix("")): str(root / path) for path in list_images(root)}
    pairs = []
    for file in sorted(root.glob("*/H_*_*")):
        _, first, second = file.stem.split("_")[:3]
        found = [images.get(f"{file.parent.name}/{each}") for each in (first, second)]
        if None in found:
            raise DataError(f"{shown(str(file))} belongs to images that are not beside it.")
        pairs.append(Pair(str(found[0]), str(found[1]), str(file)))
    if not pairs:
        raise DataError(
            f"correspond.pairs={root} has no folders in HPatches' layout (1.ppm, 2.ppm, H_1_2); "
            f"give a table (.csv) with the columns {', '.join(_COLUMNS)}."
        )
    return pairs


def read_geometry(pair: Pair) -> Geometry:
    """How the views of a pair belong together.

    Raises:
        DataError: The file cannot be read, is of no known form, or does not fit the first image.
    """
    path = Path(pair.geometry)
    try:
        if path.suffix.lower() == ".flo":
            return _as_geometry(_read_flo(path), pair)
        if path.suffix.lower() == ".npy":
            with open_regular(path) as file:
                return _as_geometry(np.load(file, allow_pickle=False), pair)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{shown(str(path))} cannot be read ({error}).") from error
    if path.suffix.lower() in _DISPARITIES:
        return _as_geometry(read_depth(path, scale=_DISPARITY_PX), pair)
    if path.suffix.lower() in TABLES:
        columns = read_table(path)
        names = ("x_first", "y_first", "x_second", "y_second")
        if not {*names} <= {*columns}:
            raise DataError(f"{shown(str(path))} has not the columns {', '.join(names)}.")
        try:
            table = np.array([columns[name] for name in names], np.float64).T
        except ValueError as error:
            raise DataError(f"{shown(str(path))} holds what is no number ({error}).") from error
        return _as_geometry(table, pair)
    try:
        numbers = [float(word) for word in read_text(path, error=DataError).split()]
    except ValueError:
        numbers = []
    if len(numbers) != 9:
        raise DataError(f"{shown(str(path))} is none of these: {_FORMS}.")
    return _as_geometry(np.array(numbers).reshape(3, 3), pair)


def _read_flo(path: Path) -> NDArray[np.float64]:
    with open_regular(path) as file:
        content = file.read()
    if len(content) < 12 or np.frombuffer(content, "<f4", 1)[0] != np.float32(_FLO_MAGIC):
        raise ValueError("it does not begin as a .flo file")
    width, height = np.frombuffer(content, "<i4", 2, offset=4).tolist()
    if min(width, height) < 1 or len(content) != 12 + 8 * width * height:
        raise ValueError(f"it says {width}x{height} and has {len(content)} bytes")
    flow = np.frombuffer(content, "<f4", offset=12).reshape(height, width, 2).astype(np.float64)
    return np.where(np.abs(flow) > _FLO_UNKNOWN, np.nan, flow)


def _as_geometry(array: NDArray[np.generic], pair: Pair) -> Geometry:
    name = shown(pair.geometry)
    if array.dtype.kind not in "fiu":
        raise DataError(f"{name} holds no numbers, but {array.dtype}.")
    values = array.astype(np.float64)
    if values.shape == (3, 3):
        if not np.isfinite(values).all() or abs(np.linalg.det(values)) < 1e-12:
            raise DataError(f"{name} is no homography: its matrix cannot be inverted.")
        shift = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
        return Geometry(homography=shift @ values @ np.linalg.inv(shift))
    if values.ndim == 3 and values.shape[2] == 2:
        if values.shape[:2] != (size := upright_size(pair.first)):
            raise DataError(
                f"{name} is a flow of {values.shape[1]}x{values.shape[0]} pixels, its image "
                f"{shown(pair.first)} has {size[1]}x{size[0]}."
            )
        return Geometry(flow=values)
    if values.ndim == 2 and values.shape == upright_size(pair.first):
        left = np.where(values > 0, -values, np.nan)  # 0 stands for none
        return Geometry(flow=np.stack([left, np.zeros_like(left)], axis=2))
    if values.ndim == 2 and values.shape[1] == 4 and len(values):
        return Geometry(points=Correspondence(values[:, :2] + 0.5, values[:, 2:] + 0.5))
    raise DataError(f"{name} has the shape {array.shape}; wanted is {_FORMS}.")


def size_of(source: Source, row: int) -> tuple[int, int]:
    """Height and width of an image."""
    file = source.file(row)
    if file is not None:
        return upright_size(file)
    height, width = source.sample(row).shape[:2]
    return height, width


# Views that are made ----------------------------------------------------------------------------


class WarpedSource(Source):
    """Each image of a source as seen from elsewhere: a random four-cornered part, filling the view.

    Args:
        source: The images.
        strength: How far each corner of the view may lie inside the image, as a share of its sides.
        key: Of the draws; a sample's depends on it and on the sample alone.
    """

    def __init__(self, source: Source, *, strength: float, key: int) -> None:
        self.source, self.strength, self.key = source, strength, key
        self.modality, self.class_names = source.modality, []
        self.is_identified, self.decided = source.is_identified, source.decided
        self._draws = keyed_uniform(key, torch.arange(len(source)), 8).double().numpy()

    def __len__(self) -> int:
        return len(self.source)

    def name(self, index: int) -> str:
        """That of the image, and that it is warped."""
        return f"{self.source.name(index)} (warped)"

    def fingerprint(self, *, num_threads: int | None = None) -> str:
        """Of the source, and of the draws."""
        own = self.source.fingerprint(num_threads=num_threads)
        return digest(own, f"warped {self.key} {self.strength}")

    def corners(self, index: int, size: tuple[int, int]) -> Points:
        """Where the view's corners lie in an image of a size (H, W), from upper left around."""
        height, width = size
        inset = self._draws[index].reshape(4, 2) * self.strength
        ends = np.array([[0, 0], [1, 0], [1, 1], [0, 1]])
        found: Points = np.abs(ends - inset) * [width, height]
        return found

    def geometry(self, index: int, size: tuple[int, int]) -> Geometry:
        """Image of a size (H, W) -> its warped view, which has the same size."""
        to_image = self._to_image(index, size)
        return Geometry(homography=np.linalg.inv(to_image).astype(np.float64))

    def _to_image(self, index: int, size: tuple[int, int]) -> NDArray[np.float64]:
        height, width = size
        whole = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64)
        return homography_of(whole, self.corners(index, size))

    def sample(self, index: int, decoder: Decoder | None = None) -> NDArray[np.uint8]:
        """The warped image, uint8, (H, W, 3)."""
        pixels = self.source.sample(index, decoder)
        height, width = pixels.shape[:2]
        matrix: Sequence[float] = self._to_image(index, (height, width)).reshape(-1)[:8].tolist()
        image = Image.fromarray(pixels).transform(
            (width, height), Image.Transform.PERSPECTIVE, matrix, Image.Resampling.BILINEAR
        )
        return np.ascontiguousarray(np.asarray(image))
