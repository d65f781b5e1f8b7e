"""Data sets of point clouds in folders: the public layouts, and any folder.

A layout's function gives None for a folder that is not laid out so; `any_folder` takes what none of
them does. Meshes become clouds of `SURFACE_POINTS` points of their surface, the same ones every
time.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from ssl_vision.data.clouds.mesh_files import READERS, check_is_upright, read_geometry, read_table
from ssl_vision.data.clouds.source import PartSource, PointSource
from ssl_vision.data.images.folder import class_name
from ssl_vision.data.source import Split
from ssl_vision.data.splits import (
    VAL_NAMES,
    NotSplitError,
    NoValSplitError,
    find_splits,
    named_parts,
)
from ssl_vision.errors import DataError
from ssl_vision.points.surface import sample_surface
from ssl_vision.randomness import derive_key, keyed_uniform

SURFACE_POINTS = 8192


def read_cloud(path: Path) -> np.ndarray:
    """Cloud of a file, float32, (M, 3); a mesh gives points of its surface, always the same.

    Raises:
        DataError: Naming the file.
    """
    vertices, faces = read_geometry(path)
    if len(faces) == 0:
        return vertices
    key = derive_key("surface", path.name)
    uniform = keyed_uniform(key, torch.arange(SURFACE_POINTS), 3)
    try:
        sampled = sample_surface(torch.from_numpy(vertices), torch.from_numpy(faces), uniform)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    return sampled.numpy()


def _check_present(files: Sequence[Path]) -> None:
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise DataError(f"{len(missing)} of {len(files)} files are missing, first {missing[0]}.")


def _from_files(
    files: Sequence[Path],
    labels: Sequence[int] | None = None,
    class_names: Sequence[str] = (),
    *,
    notes: tuple[str, ...] = (),
) -> PointSource:
    _check_present(files)
    source = PointSource(
        [str(file) for file in files],
        lambda row: read_cloud(files[row]),
        labels=labels,
        class_names=class_names,
        files=[str(file) for file in files],
    )
    source.has_files, source.notes = True, notes
    return source


def _clouds_in(folder: Path) -> list[Path]:
    """Files of known suffixes directly in a folder, sorted; text files of notes left out."""
    return [path for path in sorted(folder.iterdir()) if _is_cloud(path)]


def _is_cloud(path: Path) -> bool:
    is_note = path.name.lower().startswith(("readme", "license"))
    return path.suffix.lower() in READERS and not is_note and path.is_file()


def any_folder(folder: Path, split: Split) -> PointSource:
    """Class folders with splits above or below them or without, or one flat folder."""
    splits = find_splits(folder, holds=_holds_clouds, suffixes=())
    root = splits.train if split == "train" else splits.val or folder
    places = [p for p in sorted(root.iterdir()) if p.is_dir() and not p.name.startswith(".")]
    below = {place: named_parts(place)[:2] for place in places}
    has_splits_below = any(train or val for train, val in below.values())
    if split == "val" and splits.val is None and not has_splits_below:
        kind = NotSplitError if splits.train == folder else NoValSplitError
        names = ", ".join(VAL_NAMES)
        raise kind(f"{folder} has no val split (a folder {names}); set data.val_path.")
    found: dict[str, list[Path]] = {}
    for place in places:
        parts = below[place][split == "val"] if has_splits_below else [place]
        clouds = _clouds_in(parts[0]) if parts else []
        if clouds:
            found.setdefault(class_name(place.name), []).extend(clouds)
    flat = _clouds_in(root)
    if not found and not flat:
        raise DataError(
            f"{root} holds no clouds or meshes ({', '.join(READERS)}){_deeper(places)}."
        )
    if not found:
        return _from_files(flat, notes=splits.notes)
    kept = sorted(found)
    files = [file for name in kept for file in found[name]]
    labels = [label for label, name in enumerate(kept) for _ in found[name]]
    stray = f"{root}: {len(flat)} clouds beside the class folders are not read, first {flat[:1]}."
    notes = (*splits.notes, stray) if flat else splits.notes
    return _from_files(files, labels, kept, notes=notes)


def _holds_clouds(folder: Path) -> bool:
    """Whether there is a cloud in a folder, or two levels below it."""
    return any(_is_cloud(path) for depth in ("*", "*/*", "*/*/*") for path in folder.glob(depth))


def _deeper(places: Sequence[Path]) -> str:
    """The way out where class folders lie one level deeper."""
    for place in places:
        if any(_clouds_in(p) for p in place.iterdir() if p.is_dir()):
            return f"; the folders of {place} do: give its path"
    return ""


# Public layouts --------------------------------------------------------------------------


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in path.read_text().splitlines() if line.strip()]


def _modelnet_resampled(folder: Path, split: Split) -> PointSource | None:
    """ModelNet40 as text files of points and normals: CLASS/CLASS_0001.txt."""
    part = "train" if split == "train" else "test"
    for size in (40, 10):
        ids_file = folder / f"modelnet{size}_{part}.txt"
        if ids_file.is_file():
            break
    else:
        return None
    ids = _lines(ids_file)
    of_id = [name.rpartition("_")[0] for name in ids]
    names_file = folder / f"modelnet{size}_shape_names.txt"
    classes = _lines(names_file) if names_file.is_file() else sorted(set(of_id))
    files = [folder / kind / f"{name}.txt" for kind, name in zip(of_id, ids, strict=True)]
    return _from_files(files, [_class_of(kind, classes) for kind in of_id], classes)


def _shapenet55(folder: Path, split: Split) -> PointSource | None:
    """ShapeNet55: lists of `synset-model.npy`, clouds in shapenet_pc/."""
    part = "train" if split == "train" else "test"
    lists = [f for f in (folder / f"{part}.txt", folder / "ShapeNet-55" / f"{part}.txt")
             if f.is_file()]  # fmt: skip
    if not lists or not (folder / "shapenet_pc").is_dir():
        return None
    names = _lines(lists[0])
    # Both lists, so that a class has the same number in either split.
    every = [n for f in sorted(lists[0].parent.glob("t*.txt")) for n in _lines(f)]
    classes = sorted({name.partition("-")[0] for name in every})
    labels = [classes.index(name.partition("-")[0]) for name in names]
    return _from_files([folder / "shapenet_pc" / name for name in names], labels, classes)


def _shapenetpart(folder: Path, split: Split) -> PartSource | None:
    """ShapeNetPart: rows x y z nx ny nz part; training uses its train and val lists."""
    table = folder / "synsetoffset2category.txt"
    lists = folder / "train_test_split"
    if not table.is_file() or not lists.is_dir():
        return None
    folder_of = dict(line.split()[:2] for line in _lines(table))  # class name -> folder
    classes = sorted(folder_of)
    class_of_folder = {folder_of[name]: i for i, name in enumerate(classes)}
    parts = ("train", "val") if split == "train" else ("test",)
    files_of = [lists / f"shuffled_{part}_file_list.json" for part in parts]
    ids = [name for file in files_of for name in json.loads(file.read_text())]
    pairs = [tuple(i.split("/")[-2:]) for i in ids]
    files = [folder / kind / f"{name}.txt" for kind, name in pairs]
    _check_present(files)
    return PartSource(
        [str(file) for file in files],
        lambda row: _point_and_part(files[row]),
        labels=[class_of_folder[kind] for kind, _ in pairs],
        class_names=classes,
        # All 50, also where only some classes are there: the files number them so.
        part_names=[f"{c}/{p}" for c, parts_of in SHAPENET_PARTS.items() for p in parts_of],
        parts_of_class=_part_numbers(classes),
        files=[str(file) for file in files],
    )


def _point_and_part(path: Path) -> np.ndarray:
    try:
        table = read_table(path)
        check_is_upright(table.shape)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if table.shape[1] < 4:
        raise DataError(f"{path} has {table.shape[1]} columns; x, y, z, ..., part are needed.")
    return table[:, [0, 1, 2, -1]]


# ShapeNetPart numbers its 50 parts through its 16 classes in alphabetical order; it names none.
SHAPENET_PARTS: dict[str, tuple[str, ...]] = {
    name: tuple(f"part {i}" for i in range(count))
    for name, count in {
        **{"Airplane": 4, "Bag": 2, "Cap": 2, "Car": 4, "Chair": 4, "Earphone": 3, "Guitar": 3},
        **{"Knife": 2, "Lamp": 4, "Laptop": 2, "Motorbike": 6, "Mug": 2, "Pistol": 3, "Rocket": 3},
        **{"Skateboard": 3, "Table": 3},
    }.items()
}


def _part_numbers(classes: Iterable[str]) -> list[list[int]]:
    start, numbers = 0, {}
    for name, parts in SHAPENET_PARTS.items():
        numbers[name] = list(range(start, start + len(parts)))
        start += len(parts)
    unknown = [name for name in classes if name not in numbers]
    if unknown:
        raise DataError(f"ShapeNetPart has no class {unknown[0]!r}; known: {', '.join(numbers)}.")
    return [numbers[name] for name in classes]


def _class_of(name: str, classes: Sequence[str]) -> int:
    if name not in classes:
        raise DataError(f"class {name!r} is not in the list of classes: {', '.join(classes)}.")
    return list(classes).index(name)


def _scanobjectnn_folder(folder: Path, split: Split) -> PointSource | None:
    found = sorted(folder.glob("*_objectdataset*.h5"))
    return scanobjectnn(found, split) if found else None


def scanobjectnn(found: Sequence[Path], split: Split) -> PointSource:
    """ScanObjectNN: arrays `data` (n, 2048, 3) and `label` of one variant of its h5 files."""
    training = [f for f in found if f.name.startswith("training_")]
    if len(training) != 1:
        raise DataError(
            f"{len(training)} training files ({', '.join(f.name for f in training) or 'none'}): "
            "give the path of one of them as data.path; its test file must lie beside it."
        )
    path = training[0]
    if split == "val":
        path = path.with_name(path.name.replace("training_", "test_", 1))
    if not path.is_file():
        raise DataError(f"{path} does not exist.")
    points, labels = _read_h5(path)
    return PointSource(
        [f"{path}:{row}" for row in range(len(points))],
        lambda row: points[row, :, :3],
        labels=labels.tolist(),
        class_names=_SCAN_CLASSES,
        files=[str(path)],
    )


def _read_h5(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        import h5py  # type: ignore[import-untyped, unused-ignore]
    except ImportError as error:
        raise DataError(f"{path}: reading .h5 needs h5py: pip install 'ssl-vision[h5]'.") from error
    try:
        with h5py.File(path) as file:
            points, labels = np.asarray(file["data"], np.float32), np.asarray(file["label"])
    except (OSError, KeyError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if points.ndim != 3 or points.shape[2] < 3 or points.shape[1] == 3 < points.shape[2]:
        raise DataError(f"{path}: data of shape {points.shape} must be (clouds, points, 3).")
    return points, labels.astype(np.int64)


_SCAN_CLASSES = [
    *("bag", "bin", "box", "cabinet", "chair", "desk", "display", "door", "shelf", "table"),
    *("bed", "pillow", "sink", "sofa", "toilet"),
]

LAYOUTS = (_modelnet_resampled, _shapenet55, _scanobjectnn_folder, _shapenetpart)
"""Folder and split -> the data set, or None if the folder is laid out otherwise."""
