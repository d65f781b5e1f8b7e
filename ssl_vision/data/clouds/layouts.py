"""Data sets of point clouds in folders: the public layouts, and any folder.

A layout's function gives None for a folder that is not laid out so; `any_folder` takes what none of
them does. Meshes become clouds of `SURFACE_POINTS` points of their surface, the same ones every
time.
"""

from collections.abc import Container, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssl_vision.data.clouds.mesh_files import READERS, read_remarked, read_table, table_remarks
from ssl_vision.data.clouds.source import Cloud, PartSource, PointSource
from ssl_vision.data.source import Split, class_name
from ssl_vision.data.splits import (
    VAL_NAMES,
    NotSplitError,
    NoValSplitError,
    find_splits,
    named_parts,
)
from ssl_vision.errors import DataError
from ssl_vision.files import MAX_CLOUD_BYTES, open_regular, read_json, read_text, shown
from ssl_vision.points.surface import sample_surface
from ssl_vision.randomness import derive_key, keyed_uniform

SURFACE_POINTS = 8192


def read_cloud(path: Path) -> np.ndarray:
    """Cloud of a file, float32, (M, 3); a mesh gives points of its surface, always the same.

    Raises:
        DataError: Naming the file.
    """
    return read_cloud_remarked(path).points


def read_cloud_remarked(path: Path) -> Cloud:
    """As `read_cloud`, with what the user should hear of it."""
    (vertices, faces), remarks = read_remarked(path)
    if len(faces) == 0:
        return Cloud(vertices, remarks)
    key = derive_key("surface", path.name)
    uniform = keyed_uniform(key, torch.arange(SURFACE_POINTS), 3)
    try:
        sampled = sample_surface(torch.from_numpy(vertices), torch.from_numpy(faces), uniform)
    except DataError as error:
        raise DataError(f"{shown(path)}: {error}") from error
    return Cloud(sampled.numpy(), remarks)


def _check_present(files: Sequence[Path]) -> None:
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(files)} files are missing, first {shown(missing[0])}."
        )


def _from_files(
    files: Sequence[Path],
    labels: Sequence[int] | None = None,
    class_names: Sequence[str] = (),
    *,
    notes: tuple[str, ...] = (),
) -> PointSource:
    source = PointSource(
        [str(file) for file in files],
        lambda row: read_cloud_remarked(files[row]),
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
    return path.suffix.lower() in READERS and not is_note and not path.is_dir()


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
    """Lines of a list, without blank ones."""
    lines = read_text(path, error=DataError).split("\n")
    return [line.strip() for line in lines if line.strip()]


def _listed(folder: Path, places: Iterable[str], listed_in: Path) -> list[Path]:
    """Files that a list names; all are there, in the folder.

    Raises:
        DataError: Some are missing, or a name leads out of the folder.
    """
    files = []
    for place in places:
        name = Path(place)
        if name.is_absolute() or ".." in name.parts or "\0" in place:
            raise DataError(
                f"{shown(listed_in)} names {place[:80]!r}, which leads out of {folder}."
            )
        files.append(folder / name)
    _check_present(files)
    return files


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
    places = [f"{kind}/{name}.txt" for kind, name in zip(of_id, ids, strict=True)]
    files = _listed(folder, places, ids_file)
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
    files = _listed(folder / "shapenet_pc", names, lists[0])
    return _from_files(files, labels, classes)


def _shapenetpart(folder: Path, split: Split) -> PartSource | None:
    """ShapeNetPart: rows x y z nx ny nz part; training uses its train and val lists."""
    table = folder / "synsetoffset2category.txt"
    lists = folder / "train_test_split"
    if not table.is_file() or not lists.is_dir():
        return None
    rows = [line.split() for line in _lines(table)]  # class name, folder
    if bad := [row for row in rows if len(row) < 2]:
        raise DataError(f"{shown(table)}: {bad[0]} must be the name of a class and its folder.")
    folder_of = {row[0]: row[1] for row in rows}
    classes = sorted(folder_of)
    class_of_folder = {folder_of[name]: i for i, name in enumerate(classes)}
    parts = ("train", "val") if split == "train" else ("test",)
    files_of = [lists / f"shuffled_{part}_file_list.json" for part in parts]
    pairs = [pair for file in files_of for pair in _shapenetpart_list(file, class_of_folder)]
    files = _listed(folder, [f"{kind}/{name}.txt" for kind, name in pairs], lists)
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


def _shapenetpart_list(path: Path, folders: Container[str]) -> list[tuple[str, str]]:
    """Folder and name of each object in a list, whose entries are `shape_data/FOLDER/NAME`."""
    entries = read_json(path, error=DataError)
    if not isinstance(entries, list):
        raise DataError(f"{shown(path)} is no list of names.")
    pairs = []
    for entry in entries:
        parts = entry.split("/")[-2:] if isinstance(entry, str) else []
        if len(parts) < 2 or parts[0] not in folders:
            raise DataError(f"{shown(path)}: {str(entry)[:80]!r} lies in the folder of no class.")
        pairs.append((parts[0], parts[1]))
    return pairs


def _point_and_part(path: Path) -> np.ndarray:
    table = read_table(path)
    if table.shape[1] < 4:
        columns = table.shape[1]
        raise DataError(f"{shown(path)} has {columns} columns; x, y, z, ..., part are needed.")
    parts, most = table[:, -1], sum(map(len, SHAPENET_PARTS.values()))
    bad = parts[~((parts >= 0) & (parts < most) & (parts % 1 == 0))]
    if len(bad):
        raise DataError(f"{shown(path)}: part {bad[0]:g} is none of 0..{most - 1}.")
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
        lambda row: Cloud(points[row, :, :3], table_remarks(points.shape[1:])),
        labels=labels.tolist(),
        class_names=_SCAN_CLASSES,
        files=[str(path)],
    )


def _read_h5(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        import h5py  # type: ignore[import-untyped, unused-ignore]
    except ImportError as error:
        raise DataError(f"{path}: reading .h5 needs h5py: pip install 'ssl-vision[h5]'.") from error
    open_regular(path, max_bytes=MAX_CLOUD_BYTES, error=DataError).close()
    try:
        with h5py.File(path) as file:
            points = _h5_array(file, "data", kinds="fiu")
            labels = _h5_array(file, "label", kinds="iu").reshape(-1)
    except Exception as error:  # a stranger's file brings HDF5 to any of Python's errors
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"{shown(path)} cannot be read: {reason}") from error
    if points.ndim != 3 or points.shape[2] < 3 or points.shape[1] == 3 < points.shape[2]:
        raise DataError(f"{shown(path)}: data of shape {points.shape} must be (clouds, points, 3).")
    if len(labels) != len(points) or not ((labels >= 0) & (labels < len(_SCAN_CLASSES))).all():
        raise DataError(
            f"{shown(path)}: {len(points)} clouds need as many labels from 0 to "
            f"{len(_SCAN_CLASSES) - 1}; it has {len(labels)}, {np.unique(labels)[:20].tolist()}."
        )
    with np.errstate(over="ignore"):
        return points.astype(np.float32), labels.astype(np.int64)


def _h5_array(file: Any, name: str, *, kinds: str) -> np.ndarray:
    """An array that lies in the file itself: HDF5 can point to other files, and to nothing."""
    import h5py

    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise ValueError(f"it holds no array {name!r} of its own")
    found = file[name]
    if not isinstance(found, h5py.Dataset) or found.is_virtual or found.external:
        raise ValueError(f"it holds no array {name!r} of its own")
    if found.dtype.kind not in kinds or found.ndim == 0:
        raise ValueError(f"{name} is of {found.dtype} {found.shape}")
    if found.nbytes > MAX_CLOUD_BYTES:
        raise ValueError(f"{name} takes {found.nbytes:,} bytes, more than {MAX_CLOUD_BYTES:,}")
    return np.asarray(found[()])


_SCAN_CLASSES = [
    *("bag", "bin", "box", "cabinet", "chair", "desk", "display", "door", "shelf", "table"),
    *("bed", "pillow", "sink", "sofa", "toilet"),
]

LAYOUTS = (_modelnet_resampled, _shapenet55, _scanobjectnn_folder, _shapenetpart)
"""Folder and split -> the data set, or None if the folder is laid out otherwise."""
