"""What the dense tasks share: images shown whole with a file each, their patches, pictures."""

from dataclasses import dataclass, replace
from math import isqrt
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssl_vision.data.images.paired import Images, Paired, pair_up
from ssl_vision.data.images.partners import Kind, PartnerConfig
from ssl_vision.errors import ConfigError
from ssl_vision.evaluation.dense import PatchMaps
from ssl_vision.evaluation.features import try_patches
from ssl_vision.evaluation.plots import PICTURE_PX
from ssl_vision.tasks.run import EvalRun, Split, first_of

SPLITS: tuple[Split, ...] = ("train", "val")
_NUM_PICTURES = 6


@dataclass(frozen=True, kw_only=True)
class Dense:
    """Images with a file each, and a run that shows them whole.

    Attributes:
        run: Whose images are those that have a file, each scaled to a square.
        paired: Whose file is which.
    """

    run: EvalRun
    paired: Paired

    @property
    def warnings(self) -> tuple[str, ...]:
        """What makes scores doubtful, a line each."""
        return self.paired.warnings

    def partners(self, split: Split) -> list[Path]:
        """The file of each image that is left in a split, in their order."""
        return self.paired.of(self.run.source(split))


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
    whole, data = shown_whole(run, task=task), run.config.data
    most = {"train": data.max_train, "val": data.max_val}
    names = {"train": "bank", "val": "val"}  # of the draws
    images = Images(
        path=data.path,
        val_path=data.val_path,
        train=run.bank_source,
        whole=run.train_source,
        val=run.val_source,
        has_val_split=run.has_val_split,
        keep=lambda part, split: first_of(part, most[split], run.config.seed, names[split]),
    )
    paired = pair_up(images, config, kind)
    for note in paired.notes:
        run.say(note)
    whole.bank_source, whole.val_source = paired.train, paired.val
    return Dense(run=whole, paired=paired)


def shown_whole(run: EvalRun, *, task: str) -> EvalRun:
    """The same network on the same images, each shown whole, its sides scaled to a square.

    Raises:
        ConfigError: The network takes no images, or gives no square map of them.
    """
    if not run.modality.has_pixels:
        raise ConfigError(
            f"tasks={task} is of images; {run.loaded.source} takes {run.modality.name}."
        )
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
