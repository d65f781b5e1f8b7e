"""A folder of image files, with or without class folders."""

import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ssl_vision.data.images.files import FilesSource
from ssl_vision.data.levels import DEFAULT, DecodeConfig
from ssl_vision.data.source import class_name, digest
from ssl_vision.errors import DataError

_COMMON = [".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif"]
EXTENSIONS = frozenset([*_COMMON, ".ppm", ".pgm", ".pbm", ".pnm"])
_MAX_STATS = 10_000  # files whose sizes enter the former fingerprint


class FolderSource(FilesSource):
    """Every image file below a folder, in sorted order.

    Labels are the names of the first-level folders if there are at least two of them with images
    and no image lies beside them; otherwise the data set is unlabelled. Classes are numbered by
    name, names in Unicode's composed form (NFC): file systems write accents in two ways. Names that
    start with a dot are skipped. Links are followed, each real folder is read once: under its own
    name, or under that of the first link where it lies elsewhere.

    Args:
        root: The folder.
        decode: What files mean where their format leaves it open; part of the fingerprint.
    """

    def __init__(self, root: str | Path, *, decode: DecodeConfig = DEFAULT) -> None:
        found, skipped = _walk(Path(root), EXTENSIONS)
        super().__init__(found, root=root, decode=decode)
        if not self.paths:
            raise DataError(
                f"{self.root} holds no image files ({', '.join(sorted(EXTENSIONS))}); "
                f"check data.path."
            )
        folders = class_folders(self.paths)
        self.class_names, self.labels, self.only_class = folders.names, folders.labels, folders.only
        problem = [f"{self.root}: {folders.problem}"] if folders.problem else []
        if self.labels is None:
            self.no_labels_because = "".join(problem)
        self.notes = tuple(skipped if self.labels is None else problem + skipped)

    def fingerprint(self, *, num_threads: int | None = None) -> str:
        """Digest of names, of the bytes of every file, and of what they are taken to mean."""
        return self.digest_of_files(num_threads)

    def former_fingerprint(self) -> str:
        """Digest of names, and of file sizes (of evenly spaced files where there are many)."""
        step = -(-len(self.paths) // _MAX_STATS)
        sizes = [_size(os.path.join(self.root, path)) for path in self.paths[::step]]
        return digest("\n".join(self.paths), np.array(sizes, np.int64))


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:  # a dangling link, say; reading it will name it
        return -1


def list_images(root: Path) -> list[str]:
    """Paths of the image files below a folder, relative to it, sorted.

    Raises:
        DataError: A folder cannot be read.
    """
    return list_files(root, EXTENSIONS)


def list_files(root: Path, suffixes: Collection[str]) -> list[str]:
    """Paths of the files of some suffixes (".npy") below a folder, relative to it, sorted.

    Raises:
        DataError: A folder cannot be read.
    """
    return _walk(root, suffixes)[0]


def holds_images(root: Path) -> bool:
    """Whether there is an image file anywhere below a folder; stops at the first."""
    pending, seen = [str(root)], set[str]()
    while pending:
        folder = pending.pop()
        real = os.path.realpath(folder)
        if real in seen:
            continue
        seen.add(real)
        for entry in _entries(folder):
            if _is_folder(entry):
                pending.append(entry.path)
            elif _is_image(entry.name):
                return True
    return False


def _walk(root: Path, suffixes: Collection[str]) -> tuple[list[str], list[str]]:
    """Relative paths of files, sorted, and a line for each link that was not followed.

    Real folders come before links, and links in order of their names: what is read does not depend
    on the order of a file system, nor on how the root is named.
    """
    found: list[str] = []
    skipped: list[str] = []
    read: dict[str, str] = {}  # real path of a folder -> name under which it is read
    links = [("", os.path.realpath(root))]
    while links:
        name, real = links.pop(0)
        if real in read:
            if not f"{name}/".startswith(f"{read[real]}/") and read[real]:  # not a loop
                skipped.append(f"{root}: {name} is a link to what is read as {read[real]}.")
            continue
        new: list[tuple[str, str]] = []
        pending = [(name, real)]
        while pending:
            name, real = pending.pop()
            if real in read:
                continue
            read[real] = name
            for entry in _entries(real):
                path = f"{name}/{entry.name}" if name else entry.name
                if _is_folder(entry):
                    if entry.is_symlink():
                        new.append((path, os.path.realpath(entry.path)))
                    else:
                        pending.append((path, f"{real.rstrip('/')}/{entry.name}"))
                elif _suffix(entry.name) in suffixes:
                    found.append(path)
        links = sorted([*links, *new])
    return sorted(found), skipped


def _entries(folder: str) -> list[os.DirEntry[str]]:
    """What a folder holds, hidden names left out."""
    try:
        return [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(f"{folder} cannot be read as a folder: {error.strerror}.") from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself: reading it will say so
        return False


def _is_image(name: str) -> bool:
    return _suffix(name) in EXTENSIONS


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


# Classes ---------------------------------------------------------------------------------


class ClassFolders(NamedTuple):
    """What the folders of a data set say about its classes.

    Attributes:
        names: Of the classes, sorted; empty where the folders are none.
        labels: Class of each path, int64, (n,); None likewise.
        only: Name of the one first-level folder, where all images lie in it.
        problem: What speaks against this reading, with the way out; else empty.
    """

    names: list[str]
    labels: np.ndarray | None
    only: str | None = None
    problem: str = ""


def class_folders(paths: Sequence[str]) -> ClassFolders:
    """The classes of sorted relative paths, by their first-level folders."""
    tops = [path.split("/", 1)[0] if "/" in path else "" for path in paths]
    name_of = {top: class_name(top) for top in set(tops)}
    names = sorted(set(name_of.values()) - {""})
    if "" in name_of:
        return ClassFolders([], None, problem=_strays(paths, names))
    if len(names) == 1:
        return ClassFolders([], None, only=names[0], problem=_deeper(paths, names[0]))
    number = {name: label for label, name in enumerate(names)}
    labels = np.array([number[name_of[top]] for top in tops], np.int64)
    return ClassFolders(names, labels, problem=_repeated(paths, tops))


def _strays(paths: Sequence[str], folders: Sequence[str]) -> str:
    """Images beside two or more folders of images: these would be classes."""
    if len(folders) < 2:
        return ""
    strays = [path for path in paths if "/" not in path]
    return (
        f"{strays[0]}{_more(strays)} beside the folders {_listed(folders)} leaves all images "
        "without labels; move it into a class folder or away to have classes."
    )


def _deeper(paths: Sequence[str], folder: str) -> str:
    """Two or more folders of images in the only folder: these may be the classes."""
    below = {parts[1] for path in paths if len(parts := path.split("/", 2)) > 2}
    if len(below) < 2 or any(path.count("/") == 1 for path in paths):
        return ""
    return (
        f"all images lie in {folder}/, which leaves them without labels; its folders are "
        f"{_listed(sorted(below))}: if these are classes, give the path of {folder}/."
    )


def _repeated(paths: Sequence[str], tops: Sequence[str]) -> str:
    """The first two classes hold folders of the same names: these may be the classes, or splits."""
    if not any(path.count("/") > 1 for path in paths):  # the usual case of flat class folders
        return ""
    first, second = sorted(set(tops))[:2]
    inner: dict[str, set[str]] = {first: set(), second: set()}
    for path, top in zip(paths, tops, strict=True):
        if top in inner and path.count("/") > 1:
            inner[top].add(path.split("/", 2)[1])
    common = sorted(inner[first] & inner[second])
    if len(common) < 2:
        return ""
    return (
        f"the classes are the folders {first}, {second}, ..., each with the same folders "
        f"{_listed(common)} in it; if those are the classes, or splits, put them above."
    )


def _more(names: Sequence[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def _listed(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
