"""Data sets of point clouds: by their public folder layouts, any folder, or built in.

| layout | recognised by |
|---|---|
| ModelNet40 (resampled text files) | modelnet40_train.txt and modelnet40_test.txt (or 10) |
| ShapeNet55 | train.txt (or ShapeNet-55/train.txt) and shapenet_pc/ |
| ScanObjectNN | training_objectdataset*.h5 and test_objectdataset*.h5 (needs h5py) |
| ShapeNetPart | synsetoffset2category.txt and train_test_split/; points know their parts |
| class folders | CLASS/*.off ..., train/ and test/ above, below (ModelNet's meshes) or absent |
| one folder | files of `mesh_files.READERS`, without labels |
"""

from pathlib import Path

import numpy as np

from ssl_vision.data.clouds.layouts import LAYOUTS, any_folder, scanobjectnn
from ssl_vision.data.clouds.shapes import (
    PART_NAMES,
    PART_OBJECTS,
    SHAPES,
    make_parts,
    make_shape,
)
from ssl_vision.data.clouds.source import PartSource, PointSource
from ssl_vision.data.source import Split
from ssl_vision.errors import DataError
from ssl_vision.files import shown

_PER_CLASS = {"train": 100, "val": 30}  # clouds of a class of the built-in sets


def build_point_source(path: str, *, split: Split = "train") -> PointSource:
    """The clouds at a path, or of a name.

    Args:
        path: `shapes` or `shape_parts` (built in), or a folder or file; see the module's table. Of
            ScanObjectNN a path to one training file chooses its variant.
        split: train, or val (the test set where a data set has no other).

    Raises:
        DataError: Nothing there, no such split (NotSplitError if there is one whole), or no
            clouds.
    """
    if path == "shapes":
        return _builtin_shapes(split)
    if path == "shape_parts":
        return _builtin_parts(split)
    folder = Path(path).expanduser()
    if not folder.exists():
        raise DataError(
            f"data path {path!r} does not exist; give a folder of clouds or meshes, or shapes or "
            "shape_parts (built in)."
        )
    try:
        return _source_of(folder, split)
    except OSError as error:
        raise DataError(f"{shown(folder)} cannot be read: {error.strerror or error}.") from error


def _source_of(folder: Path, split: Split) -> PointSource:
    if folder.suffix == ".h5":
        return scanobjectnn([folder], split)
    if not folder.is_dir():
        raise DataError(f"{shown(folder)} is one file; give the folder of the data set.")
    for build in LAYOUTS:
        source = build(folder, split)
        if source is not None:
            return source
    return any_folder(folder, split)


def _builtin_shapes(split: Split) -> PointSource:
    classes, per_class = sorted(SHAPES), _PER_CLASS[split]
    rows = [(kind, i) for i in range(per_class) for kind in classes]
    return PointSource(
        [f"shapes/{split}/{kind}_{i}" for kind, i in rows],
        lambda row: make_shape(rows[row][0], split=split, index=rows[row][1]),
        labels=[classes.index(kind) for kind, _ in rows],
        class_names=classes,
    )


def _builtin_parts(split: Split) -> PartSource:
    classes, per_class = sorted(PART_OBJECTS), _PER_CLASS[split]
    rows = [(kind, i) for i in range(per_class) for kind in classes]

    def read(row: int) -> np.ndarray:
        points, parts = make_parts(rows[row][0], split=split, index=rows[row][1])
        return np.concatenate([points, parts[:, None].astype(np.float32)], axis=1)

    owned = [[i for i, n in enumerate(PART_NAMES) if n.startswith(f"{c}/")] for c in classes]
    return PartSource(
        [f"shape_parts/{split}/{kind}_{i}" for kind, i in rows],
        read,
        labels=[classes.index(kind) for kind, _ in rows],
        class_names=classes,
        part_names=PART_NAMES,
        parts_of_class=owned,
    )
