"""Data sets of images: by path, or by name."""

from pathlib import Path

from ssl_vision.data.images.arrays import BUILTIN
from ssl_vision.data.images.beton import BetonSource
from ssl_vision.data.images.files import FilesSource
from ssl_vision.data.images.folder import EXTENSIONS, FolderSource, holds_images
from ssl_vision.data.images.table import SUFFIXES, read_table, table_source
from ssl_vision.data.images.torchvision_sets import NAMES, load_torchvision
from ssl_vision.data.levels import DEFAULT, DecodeConfig
from ssl_vision.data.names import no_images_at
from ssl_vision.data.source import Source, Split
from ssl_vision.data.splits import VAL_NAMES, NotSplitError, NoValSplitError, find_splits
from ssl_vision.errors import DataError

PACKED = ".beton"


def build_source(
    path: str, *, split: Split = "train", download: bool = False, decode: DecodeConfig = DEFAULT
) -> Source:
    """The data set at a path, or of a name.

    Args:
        path: `digits` or `mnist5k` (built in); a torchvision name (cifar10, cifar100, stl10,
            imagenette, flowers102); a .beton file; a table of paths (.csv, .tsv, .parquet), which
            start from its folder; one image; or a folder. A folder that holds `train` and `val`
            folders (or train.beton and val.beton) is entered by `split`; see `find_splits`.
        split: Which part.
        download: Whether a named data set may be fetched.
        decode: What image files mean where their format leaves it open; a .beton file holds what
            was decided when it was packed, and is refused if that is something else.

    Raises:
        DataError: If there is nothing of that name, or no such split; NoValSplitError if there is
            only a training split, NotSplitError if it holds one whole.
    """
    if path in BUILTIN:
        return BUILTIN[path](split)
    if path in NAMES:
        return load_torchvision(path, split=split, download=download, decode=decode)
    return _from_disk(Path(path).expanduser(), split, decode)


def _from_disk(path: Path, split: Split, decode: DecodeConfig) -> Source:
    if not path.exists():
        raise DataError(no_images_at(str(path)))
    if path.is_file():
        return _from_file(path, split, decode)
    splits = find_splits(path, holds=holds_images, suffixes=(PACKED,))
    part = splits.train if split == "train" else splits.val
    if part is None:
        kind = NotSplitError if splits.train == path else NoValSplitError
        others = "', '".join(VAL_NAMES[1:])
        raise kind(f"{path} has no folder '{VAL_NAMES[0]}' (or '{others}') or val{PACKED}.")
    is_file = part.is_file()
    source = _from_file(part, "train", decode) if is_file else FolderSource(part, decode=decode)
    if split == "train":
        source.notes = (*splits.notes, *source.notes)
    return source


def _from_file(path: Path, split: Split, decode: DecodeConfig) -> Source:
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        return table_source(
            read_table(path), split=split, what=str(path), root=path.parent, decode=decode
        )
    if suffix != PACKED and suffix not in EXTENSIONS:
        raise DataError(
            f"{path} is neither a folder of images nor a {PACKED} file nor a table "
            f"({', '.join(SUFFIXES)}). A list of pairs is for the method croco, and for prepare "
            "with modality=pairs."
        )
    if split != "train":
        raise NotSplitError(f"{path} is one split; give the other as data.val_path.")
    return (
        BetonSource(path, decode=decode)
        if suffix == PACKED
        else FilesSource([str(path)], decode=decode)
    )
