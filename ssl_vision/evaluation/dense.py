"""What the dense tasks share: patches of frozen maps, and a head that is trained on them.

Nothing is augmented and the network is frozen, so its patches are read once; a head then sees the
same numbers in every epoch.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ssl_vision.bounds import check_bounds
from ssl_vision.errors import ConfigError
from ssl_vision.evaluation.accuracy import Interval
from ssl_vision.evaluation.arrays import Array, as_tensor
from ssl_vision.evaluation.tuning import tune
from ssl_vision.randomness import derive_key, keyed_generator
from ssl_vision.schedules import cosine
from ssl_vision.types import Batch

CELLS = 4  # targets of training along a side of a patch: 16 values of each, by nearest pixel
BLOCK = 64  # images whose patches are read at once
_DRAWS = 1000  # of the images, for an interval


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """How a head is trained on frozen patches: AdamW, its rate falling by a cosine."""

    section: ClassVar[str]  # of the settings, for messages
    updates: int = 2000
    batch_size: int = 16  # images of an update
    lr: float = 5e-3
    weight_decay: float = 1e-4

    def __post_init__(self) -> None:
        for name in ("updates", "batch_size"):
            check_bounds(f"{self.section}.{name}", getattr(self, name), least=1)
        check_bounds(f"{self.section}.lr", self.lr, above=0)
        check_bounds(f"{self.section}.weight_decay", self.weight_decay, least=0)


class PatchMaps:
    """Patches of images as maps, read when asked for.

    Attributes:
        side: Patches along a side of an image.
        widths: D_i of each part.
        width: D, of all parts together.
    """

    def __init__(self, *parts: Array, side: int, device: torch.device | str = "cpu") -> None:
        """Of several blocks, (n, side^2 * D_i) each, patches row-major one behind the other."""
        self.parts = [as_tensor(part) for part in parts]
        self.side, self.device = side, torch.device(device)
        self.widths = [part.shape[1] // side**2 for part in self.parts]
        self.width = sum(self.widths)

    def __len__(self) -> int:
        return len(self.parts[0])

    def patches(self, rows: Tensor) -> Tensor:
        """Patches of some images, float32, (len(rows), side^2, D)."""
        picked = [part[rows].to(self.device).float() for part in self.parts]
        return torch.cat([each.unflatten(1, (self.side**2, -1)) for each in picked], dim=2)

    def take(self, rows: Tensor) -> Tensor:
        """Maps of some images, float32, (len(rows), D, side, side)."""
        return self.patches(rows).transpose(1, 2).unflatten(2, (self.side, self.side))

    def blocks(self) -> Iterator[Tensor]:
        """Rows of all images, some at a time."""
        yield from torch.arange(len(self)).split(BLOCK)


class Standardize(nn.Module):
    """Channels of maps to mean 0 and variance 1 of the training patches; nothing is learned."""

    mean: Tensor
    std: Tensor

    def __init__(self, maps: PatchMaps) -> None:
        super().__init__()
        total = torch.zeros(2, maps.width, dtype=torch.float64)
        for rows in maps.blocks():
            patches = maps.patches(rows).flatten(0, 1).double().cpu()
            total += torch.stack([patches.sum(dim=0), patches.square().sum(dim=0)])
        mean, square = total / (len(maps) * maps.side**2)
        std = (square - mean.square()).clamp(min=0).sqrt()
        std[std <= 1e-6 * mean.abs().clamp(min=1e-6)] = 1  # constant channels say nothing
        self.register_buffer("mean", mean.float().view(1, -1, 1, 1))
        self.register_buffer("std", std.float().view(1, -1, 1, 1))

    def forward(self, maps: Tensor) -> Tensor:
        """(B, D, h, w) -> the same shape."""
        return (maps - self.mean) / self.std


def linear_head(maps: PatchMaps, num_outputs: int, *, seed: int) -> nn.Sequential:
    """One linear map of each standardised patch, (B, D, h, w) -> (B, num_outputs, h, w)."""
    layer = nn.Conv2d(maps.width, num_outputs, 1)
    with torch.no_grad():
        layer.weight.normal_(std=0.01, generator=keyed_generator(seed, "linear head"))
        layer.bias.zero_()  # type: ignore[union-attr]
    return nn.Sequential(Standardize(maps), layer).to(maps.device)


def fit_head(
    head: nn.Module,
    maps: PatchMaps,
    loss_of: Callable[[Tensor, Tensor], Tensor],
    *,
    config: HeadConfig,
    seed: int,
) -> list[float]:
    """Train a head in place; the loss of every update.

    Args:
        head: (B, D, h, w) -> outputs.
        maps: Of the training images.
        loss_of: Outputs and the images' rows -> loss.
        config: How long, and at what rate.
        seed: Of the order of the images.

    Raises:
        ConfigError: The loss is not finite in the end.
    """
    optimizer = torch.optim.AdamW(head.parameters(), lr=config.lr, weight_decay=config.weight_decay)

    def set_rates(step: int) -> None:
        lr = cosine(step, start=config.lr, end=0.0, total_steps=config.updates)
        optimizer.param_groups[0]["lr"] = lr

    head.train()
    (losses,) = tune(
        head,
        lambda _: _batches(maps, config, seed),
        lambda batch, _: loss_of(head(batch.views["map"]), batch.index),
        optimizer=optimizer,
        set_rates=set_rates,
        epochs=1,
        key_of=lambda step: derive_key(seed, "head", step),
        way_out=f"use {config.section}.batch_size above 1",
    )
    head.eval()
    if not bool(losses[-1].isfinite()):
        raise ConfigError(
            f"{config.section}.lr={config.lr:g}: the loss of the head is not finite after "
            f"{config.updates} updates; lower it."
        )
    return losses.tolist()


def _batches(maps: PatchMaps, config: HeadConfig, seed: int) -> Iterator[Batch]:
    """Maps of shuffled images, as many batches as there are updates."""
    step, epoch = 0, 0
    while True:
        order = torch.randperm(len(maps), generator=keyed_generator(seed, "head batches", epoch))
        for rows in order.split(config.batch_size):
            if step == config.updates:
                return
            yield Batch(views={"map": maps.take(rows)}, index=rows)
            step += 1
        epoch += 1


def sample_nearest(values: NDArray[np.generic], side: int) -> NDArray[np.generic]:
    """Values of an image at the centres of a grid of cells, (H, W) -> (side, side)."""
    rows, columns = (((np.arange(side) + 0.5) * n / side).astype(int) for n in values.shape)
    return values[rows[:, None], columns]


def bootstrap(
    score: Callable[[NDArray[np.float64]], NDArray[np.float64]], num_images: int, *, seed: int
) -> Interval:
    """95 % interval of a score over images that are drawn again.

    Args:
        score: How often each image counts, (draws, num_images) -> scores, (draws,).
        num_images: How many there are.
        seed: Of the draws.
    """
    rng = np.random.default_rng(derive_key(seed, "bootstrap"))
    counts = rng.multinomial(num_images, np.full(num_images, 1 / num_images), size=_DRAWS)
    scores = score(counts.astype(np.float64))
    low, high = np.nanpercentile(scores, [2.5, 97.5])
    return Interval(float(low), float(high))
