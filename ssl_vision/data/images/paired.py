"""Training and test images with a file each: which images take part, and whose file is which."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ssl_vision.data.images.partners import Kind, PartnerConfig, check_sizes, find_partners
from ssl_vision.data.source import Source, Split, SubsetSource
from ssl_vision.data.subsets import held_out_rows, rows_of_list
from ssl_vision.errors import ConfigError, DataError
from ssl_vision.randomness import derive_key

_HELD_OUT_SHARE = 0.2  # of the images, where no test images are told apart


@dataclass(frozen=True, kw_only=True)
class Images:
    """The images of a data set, as it was opened.

    Attributes:
        path: Where they are: what settings say.
        val_path: Where the test images are, if elsewhere.
        train: Those to learn from.
        whole: All that `train` was chosen from.
        val: Those to be scored; None where they are not told apart.
        has_val_split: Whether `val` is no part of `whole`.
        keep: Takes fewer images of a split, as settings ask for.
    """

    path: str
    val_path: str | None
    train: Source
    whole: Source
    val: Source | None
    has_val_split: bool
    keep: Callable[[Source, Split], Source]


@dataclass(frozen=True, kw_only=True)
class Paired:
    """Images that have a file each.

    Attributes:
        train: To learn from.
        val: To be scored.
        files: Path of an image -> its file, of both splits.
        notes: What was chosen, a line each.
        warnings: What makes scores doubtful, a line each.
    """

    train: Source
    val: Source
    files: dict[str, Path]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = field(default=())

    def of(self, source: Source) -> list[Path]:
        """The file of each image of a source of these images."""
        return [self.files[source.name(row)] for row in range(len(source))]


def pair_up(images: Images, config: PartnerConfig, kind: Kind) -> Paired:
    """The images that take part, and the file of each.

    Lists decide which images; else VOC's `ImageSets` beside the folder of files, where nothing
    tells test images apart; else the splits of the data, or a fixed fifth of its images.

    Args:
        images: As the data set has them.
        config: Where the files are; its `path` is set.
        kind: What they are.

    Raises:
        ConfigError: One list is missing.
        DataError: An image has no file, or one of another size.
    """
    assert config.path is not None
    folder, val_folder = config.path, config.val_path or config.path
    config, note = _with_lists_beside(images, config)
    train, val, said = _chosen(images, config, kind)
    files = _found(train, images.path, images.path, folder, kind)
    of_val = _found(val, images.path, images.val_path or images.path, val_folder, kind)
    shared = sorted(files.keys() & of_val.keys())
    warning = f"{len(shared)} test images are training images, {shared[:1]} first."
    return Paired(
        train=train,
        val=val,
        files={**files, **of_val},
        notes=tuple(line for line in (note, said) if line),
        warnings=(warning,) if shared else (),
    )


def _with_lists_beside(images: Images, config: PartnerConfig) -> tuple[PartnerConfig, str]:
    """The settings, with VOC's lists where nothing else tells test images apart, and a note."""
    if images.has_val_split or config.train_list or config.val_list or config.path is None:
        return config, ""
    lists = Path(config.path).expanduser().parent / "ImageSets" / "Segmentation"
    train, val = lists / "train.txt", lists / "val.txt"
    if not (train.is_file() and val.is_file()):
        return config, ""
    listed = replace(config, train_list=str(train), val_list=str(val))
    return listed, f"training and test images are those of {train} and {val}"


def _chosen(images: Images, config: PartnerConfig, kind: Kind) -> tuple[Source, Source, str]:
    """Training and test images, and a note where some had to be held out."""
    train, val = images.train, images.val
    if config.train_list is not None:
        rows = _listed(images.whole, config.train_list, f"{kind.key}.train_list")
        train = images.keep(rows, "train")
    if config.val_list is not None:
        whole = images.val if images.has_val_split and images.val else images.whole
        rows = _listed(whole, config.val_list, f"{kind.key}.val_list")
        return train, images.keep(rows, "val"), ""
    if config.train_list is not None and not images.has_val_split:
        raise ConfigError(
            f"{kind.key}.train_list={config.train_list}: {images.path} has no test images of its "
            f"own; give {kind.key}.val_list, too."
        )
    return (train, val, "") if val is not None else _held_out(images, train)


def _listed(source: Source, path: str, key: str) -> Source:
    """The images a list names, of all that the source was made of."""
    while isinstance(source, SubsetSource):
        source = source.source
    return SubsetSource(source, rows_of_list(source, Path(path).expanduser(), key=key))


def _held_out(images: Images, source: Source) -> tuple[Source, Source, str]:
    key = derive_key("held out")
    kept, held = held_out_rows(np.zeros(len(source), np.int64), share=_HELD_OUT_SHARE, key=key)
    if len(held) == 0:
        raise DataError(f"{images.path} has one image; give test images, too.")
    note = (
        f"{images.path} has no val split: {len(held)} of {len(source)} images, a fixed fifth, are "
        "held out to be scored"
    )
    return SubsetSource(source, kept), images.keep(SubsetSource(source, held), "val"), note


def _found(source: Source, path: str, root: str, folder: str, kind: Kind) -> dict[str, Path]:
    """The file of each image of a split, of the right size."""
    images = [source.file(row) for row in range(len(source))]
    named = [image for image in images if image is not None]
    if len(named) < len(images):
        raise DataError(
            f"{path}: its images are no files of their own, so that no {kind.word} can be found by "
            "their names; give a folder of images."
        )
    place = Path(root).expanduser()
    place = place if place.is_dir() else place.parent
    found = find_partners(named, root=place, folder=Path(folder).expanduser(), kind=kind)
    check_sizes(found, kind)
    return found
