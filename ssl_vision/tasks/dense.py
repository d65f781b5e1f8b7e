"""What the dense tasks share: images shown whole with a file each, their patches, pictures."""

from dataclasses import dataclass, replace
from math import isqrt
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssl_vision.data.images.partners import Kind, PartnerConfig, check_sizes, find_partners
from ssl_vision.data.source import Source, SubsetSource
from ssl_vision.data.subsets import held_out_rows, rows_of_list
from ssl_vision.distributed import world_size
from ssl_vision.errors import ConfigError, DataError
from ssl_vision.evaluation.dense import PatchMaps
from ssl_vision.evaluation.features import try_patches
from ssl_vision.evaluation.plots import PICTURE_PX
from ssl_vision.randomness import derive_key
from ssl_vision.tasks.run import EvalRun, Split, first_of

SPLITS: tuple[Split, ...] = ("train", "val")
_HELD_OUT_SHARE = 0.2  # of the images, where no test images are told apart
_NUM_PICTURES = 6


@dataclass(frozen=True, kw_only=True)
class Dense:
    """Images with a file each, and a run that shows them whole.

    Attributes:
        run: Whose images are those that have a file, each scaled to a square.
        files: Path of an image -> its file, of both splits.
        warnings: What makes scores doubtful, a line each.
    """

    run: EvalRun
    files: dict[str, Path]
    warnings: tuple[str, ...] = ()

    def partners(self, split: Split) -> list[Path]:
        """The file of each image that is left in a split, in their order."""
        source = self.run.source(split)
        return [self.files[source.name(row)] for row in range(len(source))]


def open_dense(run: EvalRun, config: PartnerConfig, kind: Kind, *, task: str) -> Dense:
    """The images of a run with a file each; found and looked at once for all tasks.

    Raises:
        ConfigError: No folder is named, or the network has no map.
        DataError: An image has no file, or one of another size.
    """
    if kind.key not in run.made:
        run.made[kind.key] = _open(run, config, kind, task)
    dense: Dense = run.made[kind.key]
    return dense


def _open(run: EvalRun, config: PartnerConfig, kind: Kind, task: str) -> Dense:
    if config.path is None:
        raise ConfigError(
            f"tasks={task} needs {kind.key}.path=FOLDER, with a {kind.word} for each image."
        )
    folder, val_folder = config.path, config.val_path or config.path
    whole = shown_whole(run, task=task)
    config = _with_lists_beside(whole, config)
    _split(whole, config, kind)
    train = _found(whole, "train", folder, kind)
    val = _found(whole, "val", val_folder, kind)
    shared = sorted(train.keys() & val.keys())
    warning = f"{len(shared)} test images are training images, {shared[:1]} first."
    return Dense(run=whole, files={**train, **val}, warnings=(warning,) if shared else ())


def shown_whole(run: EvalRun, *, task: str) -> EvalRun:
    """The same network on the same images, each shown whole, its sides scaled to a square.

    Raises:
        ConfigError: The network takes no images, or gives no square map of them; or there are
            several processes.
    """
    if run.modality.name != "images":
        raise ConfigError(
            f"tasks={task} is of images; {run.loaded.source} takes {run.modality.name}."
        )
    if world_size() > 1:
        raise ConfigError(f"tasks={task} runs on one process; start it without torchrun.")
    whole = EvalRun(run.config, run.loaded, say=run.say, like=run)
    size_px = run.view.size_px
    whole.shown = replace(run.shown, view=replace(run.view, crop="whole"), mark=f"-whole{size_px}")
    num = try_patches(run.loaded.backbone, size_px, device=run.device)
    whole.patch_side = isqrt(num)
    if num == 0 or whole.patch_side**2 != num:
        raise ConfigError(
            f"tasks={task} needs a network with a square map of patches; "
            f"{run.loaded.backbone.architecture} gives {num} patches of {size_px} px."
        )
    return whole


def patch_maps(run: EvalRun, split: Split, *, num_layers: int = 1) -> PatchMaps:
    """Patches of a split's images; what cannot be read has left the split afterwards."""
    assert run.patch_side is not None
    parts = run.maps(split, num_layers=num_layers)
    return PatchMaps(*parts, side=run.patch_side, device=run.device)


# Which images, and their files ------------------------------------------------------------------


def _with_lists_beside(run: EvalRun, config: PartnerConfig) -> PartnerConfig:
    """The settings, with VOC's lists where nothing else tells test images apart."""
    if run.has_val_split or config.train_list or config.val_list or config.path is None:
        return config
    lists = Path(config.path).expanduser().parent / "ImageSets" / "Segmentation"
    train, val = lists / "train.txt", lists / "val.txt"
    if not (train.is_file() and val.is_file()):
        return config
    run.say(f"training and test images are those of {train} and {val}")
    return replace(config, train_list=str(train), val_list=str(val))


def _split(run: EvalRun, config: PartnerConfig, kind: Kind) -> None:
    """Give a run the images that lists name, or hold some out where there are no test images."""
    data, seed = run.config.data, run.config.seed
    if config.train_list is not None:
        run.bank_source = first_of(
            _listed(run.train_source, config.train_list, f"{kind.key}.train_list"),
            data.max_train, seed, "bank",
        )  # fmt: skip
    if config.val_list is not None:
        whole = run.val_source if run.has_val_split and run.val_source else run.train_source
        rows = _listed(whole, config.val_list, f"{kind.key}.val_list")
        run.val_source = first_of(rows, data.max_val, seed, "val")
    elif config.train_list is not None and not run.has_val_split:
        raise ConfigError(
            f"{kind.key}.train_list={config.train_list}: {data.path} has no test images of its "
            f"own; give {kind.key}.val_list, too."
        )
    if run.val_source is None:
        _hold_out(run)


def _listed(source: Source, path: str, key: str) -> Source:
    """The images a list names, of all that the source was made of."""
    while isinstance(source, SubsetSource):
        source = source.source
    return SubsetSource(source, rows_of_list(source, Path(path).expanduser(), key=key))


def _hold_out(run: EvalRun) -> None:
    source, data = run.bank_source, run.config.data
    key = derive_key("held out")
    kept, held = held_out_rows(np.zeros(len(source), np.int64), share=_HELD_OUT_SHARE, key=key)
    if len(held) == 0:
        raise DataError(f"data.path={data.path} has one image; give test images, data.val_path=.")
    run.say(
        f"{data.path} has no val split: {len(held)} of {len(source)} images, a fixed fifth, are "
        "held out to be scored"
    )
    run.bank_source = SubsetSource(source, kept)
    run.val_source = first_of(SubsetSource(source, held), data.max_val, run.config.seed, "val")


def _found(run: EvalRun, split: Split, folder: str, kind: Kind) -> dict[str, Path]:
    """The file of each image of a split, of the right size."""
    source, data = run.source(split), run.config.data
    images = [source.file(row) for row in range(len(source))]
    named = [image for image in images if image is not None]
    if len(named) < len(images):
        raise DataError(
            f"data.path={data.path}: its images are no files of their own, so that no {kind.word} "
            "can be found by their names; give a folder of images."
        )
    root = Path((data.val_path if split == "val" else None) or data.path).expanduser()
    root = root if root.is_dir() else root.parent
    found = find_partners(named, root=root, folder=Path(folder).expanduser(), kind=kind)
    check_sizes(found, kind)
    return found


# Pictures ---------------------------------------------------------------------------------------


def picture_rows(num: int) -> list[int]:
    """Test images that are shown, evenly over all."""
    return np.unique(np.linspace(0, num - 1, min(num, _NUM_PICTURES)).astype(int)).tolist()


def small_picture(pixels: NDArray[np.uint8], *, is_painted: bool = False) -> NDArray[np.uint8]:
    """A picture whose longer side is `PICTURE_PX`; painted ones keep their colours.

    Args:
        pixels: (H, W, 3).
        is_painted: Whether colours are classes, which no mean of two may turn into a third.
    """
    height, width = pixels.shape[:2]
    scale = PICTURE_PX / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    way = Image.Resampling.NEAREST if is_painted else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(pixels).resize(size, way))
