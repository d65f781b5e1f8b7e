"""Where each place of a first view lies in a second: its flow, a head's settings, its errors.

Flow is a displacement in pixels, x and y; stereo is flow without y. Measures are means over images
of each image's own, over its pixels of known flow that stay within the view.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate, smooth_l1_loss

from ssl_vision.bounds import check_bounds
from ssl_vision.data.images.two_views import Geometry
from ssl_vision.errors import ConfigError
from ssl_vision.evaluation.dense import HeadConfig

Flow = NDArray[np.float32]  # (H, W, 2), x and y; NaN where it is not known


@dataclass(frozen=True, kw_only=True)
class BinocularConfig(HeadConfig):
    """Flow of each pixel from two views, by a network that was trained on pairs."""

    section: ClassVar[str] = "binocular"
    train: str | None = None  # table (.csv) with first,second,geometry, or folder (HPatches)
    val: str | None = None  # likewise, to be scored
    tune: Literal["all", "head"] = "all"  # head: encoder and decoder stay as they are
    batch_size: int = 8  # pairs of an update
    lr: float = 3e-4
    weight_decay: float = 0.05
    warmup_updates: int = 100
    within_px: tuple[float, ...] = (1.0, 3.0, 5.0)  # px of the image
    reported_px: float | None = None  # the one that is quoted; None: 3, or the first

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bounds("binocular.warmup_updates", self.warmup_updates, least=0)
        for limit in self.within_px:
            check_bounds("binocular.within_px", limit, above=0)
        if not self.within_px or self.reported_px not in (None, *self.within_px):
            raise ConfigError(
                f"binocular.reported_px={self.reported_px} is not in binocular.within_px="
                f"{list(self.within_px)}."
            )

    @property
    def quoted_px(self) -> float:
        """The distance that is quoted."""
        return self.reported_px or (3.0 if 3 in self.within_px else self.within_px[0])


class FlowErrors(NamedTuple):
    """Of one image, over its pixels of known flow.

    Attributes:
        end_point: Mean distance between the found and the true place, px.
        within: Share of pixels at most so far off, for each distance.
    """

    end_point: float
    within: tuple[float, ...]


def flow_of(geometry: Geometry, size: tuple[int, int], other: tuple[int, int]) -> Flow:
    """Flow of every pixel of a first view that is known and stays within the second.

    Args:
        geometry: How the views belong together.
        size: Height and width of the first.
        other: Of the second.
    """
    height, width = size
    rows, columns = np.mgrid[:height, :width]
    places = np.stack([columns.ravel(), rows.ravel()], axis=1) + 0.5
    first, second = geometry.at(places)
    with np.errstate(invalid="ignore"):  # NaN is nowhere
        is_seen = ((second >= 0) & (second <= [other[1], other[0]])).all(axis=1)
        is_seen &= ((first >= 0) & (first < [width, height])).all(axis=1)
    x, y = first[is_seen].astype(int).T
    flow = np.full((height, width, 2), np.nan, np.float32)
    flow[y, x] = (second - first)[is_seen]
    return flow


def flow_at_input(flow: Flow, side: int) -> Flow:
    """Flow of an image as of the same one scaled to a square, in its pixels, (side, side, 2)."""
    height, width = flow.shape[:2]
    rows, columns = (((np.arange(side) + 0.5) * n / side).astype(int) for n in (height, width))
    scaled: Flow = flow[rows[:, None], columns] * np.array(
        [side / width, side / height], np.float32
    )
    return scaled


def flow_of_image(found: Tensor, size: tuple[int, int]) -> Flow:
    """Flow found at a square input, (2, S, S), as that of an image of a size (H, W), (H, W, 2)."""
    (height, width), side = size, found.shape[-1]
    enlarged = interpolate(found[None].float(), size, mode="bilinear", align_corners=False)[0]
    scale = np.array([width / side, height / side], np.float32)
    moved: Flow = enlarged.permute(1, 2, 0).cpu().numpy() * scale
    return moved


def flow_errors(truth: Flow, found: Flow, within_px: tuple[float, ...]) -> FlowErrors:
    """Errors of an image's flow; the truth must be known somewhere."""
    known = ~np.isnan(truth[..., 0])
    distance = np.linalg.norm(found[known].astype(np.float64) - truth[known], axis=1)
    return FlowErrors(
        end_point=float(distance.mean()),
        within=tuple(float((distance <= limit).mean()) for limit in within_px),
    )


def flow_loss(found: Tensor, truth: Tensor, scale: Tensor) -> Tensor:
    """Smooth L1 loss over the known pixels, in units of the targets' spread.

    Squared within one of them: of two places that are as likely, the plain absolute error tells a
    head nothing until it prefers one.

    Args:
        found: (B, 2, S, S).
        truth: (B, S, S, 2); NaN where it is not known.
        scale: Spread of each channel, (2,).
    """
    gap = (found.permute(0, 2, 3, 1) - truth) / scale
    known = ~truth[..., 0].isnan()
    if not bool(known.any()):
        return found.sum() * 0
    left = gap[known]
    return smooth_l1_loss(left, torch.zeros_like(left))
