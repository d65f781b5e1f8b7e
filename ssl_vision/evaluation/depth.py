"""Monocular depth from frozen patches: a linear head, or a small one in the manner of DPT.

As DINOv2's linear protocol, depth is the mean of 256 bins between the least and the largest depth,
weighted by what the head says, and the loss is the scale-invariant one (Eigen et al. 2014, 0.85 of
the squared mean taken off). Where we differ: weights are a softmax, nothing is augmented, and no
class token is read. Measures are means over images of each image's own (as BTS, AdaBins and DINOv2
count), over its pixels with a depth within the range.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ssl_vision.bounds import check_bounds
from ssl_vision.data.images.partners import PartnerConfig
from ssl_vision.errors import ConfigError
from ssl_vision.evaluation.dense import HeadConfig, PatchMaps, Standardize, fit_head, linear_head
from ssl_vision.randomness import derive_key, seeded

_MEAN_OFF = 0.85  # of the squared mean in the loss
_CLOSE = 1.25  # a ratio of depths below it is right
_DPT_WIDTH = 32
_DPT_SCALES = (4.0, 2.0, 1.0, 0.5)  # of the grid of patches, oldest block first
DPT_LAYERS = len(_DPT_SCALES)


@dataclass(frozen=True, kw_only=True)
class DepthConfig(HeadConfig, PartnerConfig):
    """Depth of each pixel."""

    section: ClassVar[str] = "depth"
    scale: float = 0.001  # metres of a unit of 16-bit pictures; NYU 0.001, KITTI 1/256, TUM 1/5000
    min_m: float = 0.001  # depths below count nowhere
    max_m: float | None = None  # depths above count nowhere; None: the largest of training
    head: Literal["linear", "dpt"] = "linear"  # dpt: of the last four blocks, convolutional
    bins: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bounds("depth.scale", self.scale, above=0)
        check_bounds("depth.min_m", self.min_m, above=0)
        check_bounds("depth.bins", self.bins, least=2)
        if self.max_m is not None and self.max_m <= self.min_m:
            raise ConfigError(
                f"depth.max_m={self.max_m:g} must be above depth.min_m={self.min_m:g}."
            )

    @property
    def num_layers(self) -> int:
        """Blocks whose patches the head reads."""
        return DPT_LAYERS if self.head == "dpt" else 1


class DepthErrors(NamedTuple):
    """Of one image, over its pixels with a depth.

    Attributes:
        delta1: Share of pixels whose depth is right up to a factor of 1.25.
        rmse: Root of the mean squared error, in metres.
        abs_rel: Mean of the error as a share of the depth.
    """

    delta1: float
    rmse: float
    abs_rel: float


def depth_errors(truth: NDArray[np.floating], found: NDArray[np.floating]) -> DepthErrors:
    """Errors of an image's depth.

    Args:
        truth: Depth, (H, W); NaN where a pixel counts nowhere, but not everywhere.
        found: Predicted depth, (H, W), above 0.
    """
    known = ~np.isnan(truth)
    t, p = truth[known].astype(np.float64), found[known].astype(np.float64)
    return DepthErrors(
        delta1=float((np.maximum(t / p, p / t) < _CLOSE).mean()),
        rmse=float(np.sqrt(np.square(p - t).mean())),
        abs_rel=float((np.abs(p - t) / t).mean()),
    )


def within(depth: NDArray[np.float32], low: float, high: float) -> NDArray[np.float32]:
    """Depth, with NaN where it is out of a range."""
    with np.errstate(invalid="ignore"):
        found: NDArray[np.float32] = np.where((depth >= low) & (depth <= high), depth, np.nan)
    return found.astype(np.float32)


class BinnedDepth(nn.Module):
    """Scores of bins -> depth: the mean of the bins, weighted by a softmax of the scores."""

    bins: Tensor

    def __init__(self, low: float, high: float, num: int) -> None:
        super().__init__()
        self.register_buffer("bins", torch.linspace(low, high, num).view(1, -1, 1, 1))

    def forward(self, scores: Tensor) -> Tensor:
        """(B, bins, h, w) -> (B, 1, h, w), in metres."""
        return (scores.softmax(dim=1) * self.bins).sum(dim=1, keepdim=True)


class _Residual(nn.Module):
    """Two convolutions beside their input (RefineNet's unit)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ReLU(), nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(), nn.Conv2d(width, width, 3, padding=1),
        )  # fmt: skip

    def forward(self, maps: Tensor) -> Tensor:
        found: Tensor = maps + self.layers(maps)
        return found


class SmallDpt(nn.Module):
    """Four blocks' patches at four scales, fused from coarse to fine (Ranftl et al. 2021, small).

    Networks with one map give it to all four scales.
    """

    def __init__(self, maps: PatchMaps, num_outputs: int) -> None:
        super().__init__()
        self.standardize = Standardize(maps)
        self._widths = maps.widths
        widths = [maps.widths[min(i, len(maps.widths) - 1)] for i in range(DPT_LAYERS)]
        self.project = nn.ModuleList(nn.Conv2d(width, _DPT_WIDTH, 1) for width in widths)
        self.fuse = nn.ModuleList(_Residual(_DPT_WIDTH) for _ in widths)
        self.read = nn.Sequential(
            nn.Conv2d(_DPT_WIDTH, _DPT_WIDTH, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(_DPT_WIDTH, num_outputs, 1),
        )

    def forward(self, maps: Tensor) -> Tensor:
        """(B, D, h, w) -> (B, num_outputs, 4 h, 4 w)."""
        parts = self.standardize(maps).split(self._widths, dim=1)
        fused: Tensor | None = None
        for i in reversed(range(DPT_LAYERS)):
            part = parts[min(i, len(parts) - 1)]
            size = [max(1, int(n * _DPT_SCALES[i])) for n in part.shape[2:]]
            own = _resized(self.project[i](part), size)
            fused = self.fuse[i](own if fused is None else own + _resized(fused, size))
        scores: Tensor = self.read(fused)
        return scores


def _resized(maps: Tensor, size: list[int]) -> Tensor:
    return interpolate(maps, size, mode="bilinear", align_corners=False)


def scale_invariant_loss(found: Tensor, truth: Tensor) -> Tensor:
    """Root of the mean squared difference of logarithms, less most of a common factor's.

    Args:
        found: Depth, (B, 1, h, w).
        truth: (B, T, T); NaN where there is none.
    """
    enlarged = _resized(found, list(truth.shape[1:]))[:, 0]
    known = ~truth.isnan()
    if not bool(known.any()):
        return found.sum() * 0
    gap = enlarged[known].log() - truth[known].log()
    return (gap.square().mean() - _MEAN_OFF * gap.mean().square()).clamp(min=1e-12).sqrt()


def train_depth(
    maps: PatchMaps,
    targets: NDArray[np.float32],
    *,
    low: float,
    high: float,
    config: DepthConfig,
    seed: int,
) -> tuple[nn.Module, list[float]]:
    """A head of training patches, and the loss of every update.

    Args:
        maps: Of the training images.
        targets: Depth at a grid of each image, (n, T, T); NaN where there is none.
        low: Least depth that can be said.
        high: Largest.
        config: Which head, and how it is trained.
        seed: Of its start and of the order of the images.
    """
    if config.head == "dpt":
        with seeded(derive_key(seed, "dpt head")):
            scores: nn.Module = SmallDpt(maps, config.bins)
    else:
        scores = linear_head(maps, config.bins, seed=seed)
    head = nn.Sequential(scores, BinnedDepth(low, high, config.bins)).to(maps.device)
    truth = torch.from_numpy(targets)

    def loss_of(found: Tensor, rows: Tensor) -> Tensor:
        return scale_invariant_loss(found, truth[rows].to(found.device))

    return head, fit_head(head, maps, loss_of, config=config, seed=seed)


def depth_at(found: Tensor, size: tuple[int, int]) -> NDArray[np.float32]:
    """Depth of every pixel, (H, W), of an image's, (1, h, w)."""
    return _resized(found[None], list(size))[0, 0].cpu().numpy()
