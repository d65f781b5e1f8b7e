"""The modality of pairs of images."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssl_vision.data.config import DataConfig
from ssl_vision.data.images.find import PACKED
from ssl_vision.data.images.folder import holds_images
from ssl_vision.data.images.modality import Images
from ssl_vision.data.images.pack import PackConfig, PackReport, Progress
from ssl_vision.data.modality import Modality
from ssl_vision.data.pairs.config import FIRST, SECOND, PairData
from ssl_vision.data.pairs.layouts import LISTS, pairs_of_folder, pairs_of_list
from ssl_vision.data.pairs.loader import PairLoader
from ssl_vision.data.pairs.packed import pack_pairs, packed_pairs
from ssl_vision.data.pairs.scenes import blocks
from ssl_vision.data.pairs.source import PairSource, warped_pairs
from ssl_vision.data.source import Source, Split
from ssl_vision.data.splits import VAL_NAMES, NotSplitError, NoValSplitError, find_splits
from ssl_vision.errors import DataError
from ssl_vision.files import shown

BUILTIN = {"blocks": blocks}


class Pairs(Images):
    """Two RGB images of one scene; views are uint8, (B, 3, S, S), of the first or the second.

    A network that is trained on pairs takes single images: what is shown to it, and all that an
    evaluation does, is that of images, of the first one of a pair.
    """

    name = "pairs"
    settings = PairData
    loader = PairLoader
    asked_to_pack = ("decode", "frame_distance")

    def open(self, path: str, *, split: Split, config: DataConfig) -> Source:
        """A built-in set, a list of pairs, packed ones, or a folder; see `layouts`."""
        assert isinstance(config, PairData)
        if config.smoke_test_warp is not None:
            images = super().open(path, split=split, config=config)
            return warped_pairs(images, warp=config.smoke_test_warp)
        if path in BUILTIN:
            return BUILTIN[path](split)
        place = Path(path).expanduser()
        if not place.exists():
            raise DataError(
                f"data path {path!r} does not exist; give a list of pairs (.txt), a folder of "
                f"pairs, a {PACKED} file of them, or {', '.join(BUILTIN)} (built in)."
            )
        if place.is_file():
            return _of_file(place, split, config)
        splits = find_splits(place, holds=holds_images, suffixes=(*LISTS, PACKED))
        part = splits.train if split == "train" else splits.val
        if part is None:
            kind = NotSplitError if splits.train == place else NoValSplitError
            raise kind(f"{shown(place)} has no folder '{VAL_NAMES[0]}' or list {VAL_NAMES[0]}.txt.")
        if part.is_file():
            return _of_file(part, "train", config)
        source = pairs_of_folder(
            part,
            frame_distance=config.frame_distance,
            decode=config.decode,
            on_fault=config.on_error,
        )
        source.notes = (*splits.notes, *source.notes) if split == "train" else source.notes
        return source

    def to_pack(self, path: str, asked: Mapping[str, Any]) -> DataConfig:
        """Images without partner are bad ones, of which the packer decides."""
        return PairData(path=path, on_error="substitute", **asked)

    def pack(
        self, source: Source, out: str | Path, config: PackConfig, *, progress: Progress | None
    ) -> PackReport:
        """See `packed.pack_pairs`."""
        assert isinstance(source, PairSource)
        return pack_pairs(source, out, config, progress=progress)

    def single(self, path: Path, config: DataConfig) -> Source | None:
        """None: a file is a list of pairs, one image is no pair."""
        return None

    def pictured(self, view: Any) -> dict[str, Any]:
        """Both images of a pair."""
        return {FIRST: view, SECOND: view}

    def open_object(self, data: Any, *, split: Split, config: DataConfig) -> Source:
        """Not read.

        Raises:
            ConfigError: Pairs are given by path.
        """
        return Modality.open_object(self, data, split=split, config=config)


def _of_file(path: Path, split: Split, config: PairData) -> Source:
    suffix = path.suffix.lower()
    if suffix not in (*LISTS, PACKED):
        raise DataError(
            f"{shown(path)} is no list of pairs ({', '.join(LISTS)}: a line `path_a path_b` for "
            f"each) and no {PACKED} file, and a single image is no pair."
        )
    if split != "train":
        raise NotSplitError(f"{shown(path)} is one split; give the other as data.val_path.")
    if suffix == PACKED:
        return packed_pairs(path, decode=config.decode)
    return pairs_of_list(path, decode=config.decode, on_fault=config.on_error)
