"""A file for each image in another folder: its mask, or its depth."""

import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from PIL import Image

from ssl_vision.data.decode import MAX_PIXELS, upright_size
from ssl_vision.data.images.folder import list_files
from ssl_vision.data.splits import TRAIN_NAMES, VAL_NAMES
from ssl_vision.errors import DataError
from ssl_vision.files import MAX_IMAGE_BYTES, read_regular, shown

# What data sets write behind the name that an image and its partner share: Cityscapes, CamVid, ...
_IMAGE_ENDS = ("_leftImg8bit", "_image", "_img", "_rgb", "_color")
_PARTNER_ENDS = (
    "", "_gtFine_labelIds", "_gtFine_labelTrainIds", "_mask", "_masks", "_label", "_labels", "_seg",
    "_L", "_depth",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PartnerConfig:
    """Where the files that belong to the images are, and which images take part."""

    path: str | None = None  # folder with a file for each image, found by the image's name
    val_path: str | None = None  # that of the test images; None: the same
    train_list: str | None = None  # text file of the training images, a name a line; None: the
    # splits of the data, or VOC's ImageSets beside the folder
    val_list: str | None = None  # of the test images


class Kind(NamedTuple):
    """What is looked for.

    Attributes:
        word: What messages call one.
        key: Section of the settings.
        suffixes: Of its files.
        size: Height and width of one, from its header.
    """

    word: str
    key: str
    suffixes: tuple[str, ...]
    size: Callable[[Path], tuple[int, int]]


def find_partners(
    images: Sequence[str], *, root: Path, folder: Path, kind: Kind
) -> dict[str, Path]:
    """The file of each image, by the image's path.

    It has the image's path below the folder, up to the suffix and to ends such as Cityscapes'
    `_leftImg8bit` and `_gtFine_labelIds`. Where no image has one there, bare names decide.

    Args:
        images: Their paths.
        root: Folder their relative paths start from.
        folder: Where the files are.
        kind: What they are.

    Raises:
        DataError: An image has none, or several of one name; or the folder has none at all.
    """
    if not folder.is_dir():
        raise DataError(f"{kind.key}.path={shown(str(folder))} is not a folder.")
    found = [PurePosixPath(path) for path in list_files(folder, kind.suffixes)]
    if not found:
        raise DataError(
            f"{kind.key}.path={shown(str(folder))} holds no {kind.word} "
            f"({', '.join(kind.suffixes)})."
        )
    by_path = {str(path.with_suffix("")): path for path in reversed(found)}
    by_name: dict[str, list[PurePosixPath]] = {}
    for path in found:
        by_name.setdefault(path.stem, []).append(path)
    below = {image: PurePosixPath(os.path.relpath(image, root)) for image in images}
    partners = {image: _by_path(path, by_path) for image, path in below.items()}
    if not any(partners.values()):  # the folders are others: names have to do
        partners = {image: _by_name(path, by_name, kind) for image, path in below.items()}
    missing = [image for image, partner in partners.items() if partner is None]
    if missing:
        raise DataError(_missing(missing, images, folder, kind))
    return {image: folder / partner for image, partner in partners.items() if partner is not None}


def _names(image: PurePosixPath) -> list[str]:
    """What the file of an image may be called, without suffix."""
    stems = [image.stem, *(image.stem.removesuffix(end) for end in _IMAGE_ENDS)]
    return [stem + end for stem in dict.fromkeys(stems) for end in _PARTNER_ENDS]


def _by_path(image: PurePosixPath, by_path: Mapping[str, PurePosixPath]) -> PurePosixPath | None:
    paths = (by_path.get(str(image.with_name(name))) for name in _names(image))
    return next((path for path in paths if path is not None), None)


def _by_name(
    image: PurePosixPath, by_name: Mapping[str, Sequence[PurePosixPath]], kind: Kind
) -> PurePosixPath | None:
    """The one file of the image's name, if it is not of the other split."""
    for name in _names(image):
        same = [path for path in by_name.get(name, ()) if _may_meet(path, image)]
        if len(same) > 1:
            raise DataError(
                f"{shown(str(image))} has several {kind.word}s by its name, {same[0]} and "
                f"{same[1]}; let the folders of {kind.key}.path be those of the images."
            )
        if same:
            return same[0]
    return None


def _may_meet(path: PurePosixPath, image: PurePosixPath) -> bool:
    """Whether two paths name no different splits: `training/x.png` and `train/x.jpg` may meet."""
    known = [{_is_train(part) for part in each.parts} - {None} for each in (path, image)]
    return not known[0] or not known[1] or bool(known[0] & known[1])


def _is_train(part: str) -> bool | None:
    name = part.lower()
    return True if name in TRAIN_NAMES else False if name in VAL_NAMES else None


def _missing(missing: Sequence[str], images: Sequence[str], folder: Path, kind: Kind) -> str:
    name, suffix = Path(missing[0]).stem, kind.suffixes[0]
    others = f" (nor have {len(missing) - 1} others of {len(images)})" if len(missing) > 1 else ""
    return (
        f"{shown(missing[0])} has no {kind.word} in {shown(str(folder))}{others}: looked for "
        f"{name}{suffix}, {name}{_PARTNER_ENDS[3]}{suffix} and the like; name them so, or list the "
        f"images that have one in {kind.key}.train_list and {kind.key}.val_list."
    )


def check_sizes(partners: dict[str, Path], kind: Kind) -> None:
    """Refuse a file of another size than its image; images that cannot be read are not judged.

    Raises:
        DataError: It names both, with their sizes.
    """
    for image, partner in partners.items():
        own = kind.size(partner)
        try:
            wanted = upright_size(image)
        except DataError:
            continue  # the pass over the images says so, or leaves it out
        if own != wanted:
            raise DataError(
                f"{shown(str(partner))} has {own[1]}x{own[0]} pixels, its image {shown(image)} "
                f"{wanted[1]}x{wanted[0]}; a {kind.word} has the size of its image."
            )


@contextmanager
def opened(path: Path, *, formats: tuple[str, ...], wanted: str) -> Iterator[Image.Image]:
    """A partner that is a picture, loaded as it is stored.

    Args:
        path: The file.
        formats: Pillow's names of what may be read.
        wanted: What it should be, for messages.

    Raises:
        DataError: It cannot be read, here or by what is done with it, or is too large.
    """
    try:
        data = read_regular(path, max_bytes=MAX_IMAGE_BYTES)
        with Image.open(io.BytesIO(data), formats=formats) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DataError(f"{shown(str(path))} has more than {MAX_PIXELS:,} pixels.")
            image.load()
            yield image
    except DataError:
        raise
    except Exception as error:  # Pillow's plugins raise nearly everything on damaged files
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise DataError(f"{shown(str(path))} cannot be read as {wanted}: {reason}.") from error
