"""Views of point clouds: WHAT happens to a cloud, as data, and its rendering in torch.

Operations happen in the order of the fields: choose points, normalise, rotate, scale, shift,
jitter. Every number is drawn from (key, sample id): a cloud gets the same view in any batch, on any
process, after any resume.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ssl_vision.bounds import check_bounds
from ssl_vision.errors import ConfigError
from ssl_vision.points.clouds import check_clouds, unit_sphere
from ssl_vision.points.sampling import farthest_point_sample, take_points
from ssl_vision.randomness import derive_key, keyed_uniform

_FEW_POINTS = 16  # of a view; fewer are said
_KEPT_SIGMAS = 2.5  # jitter beyond this many standard deviations is cut: no stray outliers


@dataclass(frozen=True, kw_only=True)
class PointViewConfig:
    """One view of a cloud; the defaults are the pre-training view of Point-MAE."""

    num_points: int = 1024  # a smaller cloud repeats points
    count: int = 1  # drawings of this view per cloud
    choose: Literal["random", "farthest"] = "random"  # how num_points are taken from the cloud
    farthest_pool: int | None = None  # random choice among this many farthest points first
    is_normalized: bool = True  # mean to the origin, farthest point to radius 1
    rotate: Literal["none", "vertical", "any"] = "none"  # vertical: about y, the up axis
    scale: tuple[float, float] = (2 / 3, 3 / 2)  # factor drawn uniformly
    is_scale_per_axis: bool = True  # False: one factor for the three axes
    shift: float = 0.2  # drawn from [-shift, shift] per axis
    jitter_sigma: float = 0.0  # of normal noise on each coordinate, cut at 2.5 sigma

    size_key: ClassVar[str] = "num_points"

    def __post_init__(self) -> None:
        check_bounds("num_points", self.num_points, least=1)
        check_bounds("count", self.count, least=1)
        if self.farthest_pool is not None and self.farthest_pool < self.num_points:
            raise ConfigError(
                f"farthest_pool={self.farthest_pool} must be at least the {self.num_points} of "
                "num_points, or null."
            )
        if self.farthest_pool is not None and self.choose == "farthest":
            raise ConfigError("farthest_pool belongs to choose=random; set it to null.")
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ConfigError(f"scale={list(self.scale)} must be two rising positive numbers.")
        for name in ("shift", "jitter_sigma"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name}={getattr(self, name)} must be 0 or more, and finite.")

    def __str__(self) -> str:
        return f"{self.count} x {self.num_points} points"

    def doubts(self, prefix: str) -> list[str]:
        """What is allowed and shows next to nothing of a cloud, a line each.

        Args:
            prefix: Of the view's keys, as "data.views.cloud.".
        """
        if self.num_points >= _FEW_POINTS:
            return []
        return [
            f"{prefix}num_points={self.num_points}: so few points show next to nothing of a shape."
        ]


def evaluation_point_view(*, num_points: int, is_normalized: bool = True) -> PointViewConfig:
    """The view of frozen evaluation: farthest points, into the unit sphere, nothing random."""
    return PointViewConfig(
        num_points=num_points,
        choose="farthest",
        is_normalized=is_normalized,
        scale=(1.0, 1.0),
        shift=0.0,
    )


def render_view(
    clouds: Sequence[Tensor], config: PointViewConfig, *, key: int, ids: Tensor
) -> Tensor:
    """One drawing of a view of several clouds, which may differ in size.

    Args:
        clouds: B clouds, each (M_i, 3), finite.
        config: What to do.
        key: From `derive_key`; holds everything that must change the draw (seed, epoch, view ...).
        ids: Sample id of each cloud, int64, (B,).

    Returns:
        float32, (B, num_points, 3).

    Raises:
        DataError: An empty cloud, or not finite ones.
    """
    points = choose_points(clouds, config, key=key, ids=ids)
    if config.is_normalized:
        points = unit_sphere(points)
    return augment(points, config, key=key, ids=ids)


def choose_points(
    clouds: Sequence[Tensor], config: PointViewConfig, *, key: int, ids: Tensor
) -> Tensor:
    """`num_points` points of each cloud, (M_i, 3) each -> (B, num_points, 3).

    Random choice is without replacement; a cloud of fewer points gives each of them either
    floor(num_points / M) or one more times.
    """
    for cloud, i in zip(clouds, ids, strict=True):
        check_clouds(cloud, name=f"cloud {int(i)}")
    clouds = [cloud.to(torch.float32) for cloud in clouds]
    if config.choose == "farthest":
        return torch.stack(_take_farthest(clouds, config.num_points))
    pool = config.farthest_pool
    if pool is not None:
        large = [i for i, cloud in enumerate(clouds) if len(cloud) > pool]
        pooled = _take_farthest([clouds[i] for i in large], pool)
        for i, cloud in zip(large, pooled, strict=True):
            clouds[i] = cloud
    chosen = []
    for cloud, i in zip(clouds, ids, strict=True):
        noise = keyed_uniform(derive_key(key, "choose"), i[None], len(cloud))[0]
        order = noise.argsort(stable=True)
        repeats = -(-config.num_points // len(cloud))
        chosen.append(cloud[order.repeat(repeats)[: config.num_points]])
    return torch.stack(chosen)


def augment(points: Tensor, config: PointViewConfig, *, key: int, ids: Tensor) -> Tensor:
    """Rotate, scale, shift and jitter clouds (B, M, 3), each by numbers of its own."""
    # Numbers 0-2 rotate, 3-5 scale, 6-8 shift.
    draw = keyed_uniform(derive_key(key, "augment"), ids, 9).to(points.device)
    if config.rotate == "vertical":
        points = rotate_about_y(points, angle=2 * math.pi * draw[:, 0])
    elif config.rotate == "any":
        points = points @ random_rotation(draw[:, :3]).to(points.dtype).transpose(1, 2)
    low, high = config.scale
    fraction = draw[:, 3:6] if config.is_scale_per_axis else draw[:, 3:4].expand(-1, 3)
    points = scale_and_shift(
        points,
        scale=low + (high - low) * fraction,
        shift=config.shift * (2 * draw[:, 6:9] - 1),
    )
    if config.jitter_sigma:
        uniform = keyed_uniform(derive_key(key, "jitter"), ids, 2 * points[0].numel())
        noise = _normal(uniform.to(points.device)).view_as(points)
        points = points + config.jitter_sigma * noise.clamp(-_KEPT_SIGMAS, _KEPT_SIGMAS)
    return points


def scale_and_shift(points: Tensor, *, scale: Tensor, shift: Tensor) -> Tensor:
    """Scale, then shift each cloud, by one (B, 3) of each: equal for all its points."""
    return points * scale[:, None].to(points.dtype) + shift[:, None].to(points.dtype)


def rotate_about_y(points: Tensor, *, angle: Tensor) -> Tensor:
    """Turn clouds (B, M, 3) about the vertical axis y by `angle` radians, (B,).

    Row vectors times [[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]], the convention of the official
    Point-CMAE code.
    """
    cos, sin = angle.cos().to(points.dtype), angle.sin().to(points.dtype)
    zero, one = torch.zeros_like(cos), torch.ones_like(cos)
    rows = [cos, zero, sin, zero, one, zero, -sin, zero, cos]
    return points @ torch.stack(rows, dim=-1).view(-1, 3, 3)


def random_rotation(uniform: Tensor) -> Tensor:
    """Uniform rotation matrices from uniform numbers (Shoemake 1992), (B, 3) -> (B, 3, 3)."""
    u, v, w = uniform.double().unbind(dim=1)
    v, w = 2 * math.pi * v, 2 * math.pi * w
    low, high = (1 - u).sqrt(), u.sqrt()
    x, y, z, q = low * v.sin(), low * v.cos(), high * w.sin(), high * w.cos()
    entries = [
        *(1 - 2 * (y * y + z * z), 2 * (x * y - z * q), 2 * (x * z + y * q)),
        *(2 * (x * y + z * q), 1 - 2 * (x * x + z * z), 2 * (y * z - x * q)),
        *(2 * (x * z - y * q), 2 * (y * z + x * q), 1 - 2 * (x * x + y * y)),
    ]
    return torch.stack(entries, dim=-1).view(-1, 3, 3)


def _take_farthest(clouds: Sequence[Tensor], num_points: int) -> list[Tensor]:
    """Farthest points of each cloud; clouds of equal size share the steps of the search."""
    chosen: dict[int, Tensor] = {}
    for size in {len(cloud) for cloud in clouds}:
        rows = [i for i, cloud in enumerate(clouds) if len(cloud) == size]
        stacked = torch.stack([clouds[i] for i in rows])
        found = take_points(stacked, farthest_point_sample(stacked, num_points))
        chosen.update(zip(rows, found, strict=True))
    return [chosen[i] for i in range(len(clouds))]


def _normal(uniform: Tensor) -> Tensor:
    """Standard normal numbers from twice as many uniform ones (Box and Muller 1958)."""
    first, second = uniform.chunk(2, dim=1)
    return (-2 * (1 - first).log()).sqrt() * (2 * math.pi * second).cos()
