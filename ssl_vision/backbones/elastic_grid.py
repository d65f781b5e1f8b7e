"""Sizes of sub-networks, which blocks they keep, and how often each is drawn.

Plain arithmetic: no network is touched here. A size is a tuple: the width, then the number of
blocks of each elastic stage. A ViT has one stage, (384, 12); Swin and ConvNeXt vary their third,
(96, 6); a ResNet varies its second and third, (64, 4, 6), and its width is timm's `base_width`.

Source: POA (Zhang et al. 2024, arXiv 2408.01031), section 3.2, equation 14 and appendix.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import torch

from ssl_vision.bounds import check_bounds
from ssl_vision.errors import ConfigError
from ssl_vision.randomness import keyed_generator

Size = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class ElasticConfig:
    """Which sub-networks of a parent exist, and how they are cut.

    None takes the family's own: a parent of the paper's scale then has the paper's grid, 143 sizes
    for ViT-L, 39 for Swin-B with heads of 16 channels, 465 for ResNet-152.
    """

    min_width: int | None = None
    width_step: int | None = None
    min_depth: tuple[int, ...] | None = None  # blocks per elastic stage
    depth_step: int = 1
    block_choice: Literal["stock", "paper"] = "stock"  # differs for Swin only, see `kept_blocks`
    is_rescaled: bool = True  # alpha: projections with fewer inputs are scaled up

    def __post_init__(self) -> None:
        for name in ("min_width", "width_step", "depth_step"):
            check_bounds(f"method.elastic.{name}", getattr(self, name), least=1)
        if self.min_depth is not None and min(self.min_depth, default=0) < 1:
            raise ConfigError(
                f"method.elastic.min_depth={list(self.min_depth)} must name 1 or more blocks "
                "for each elastic stage."
            )


@dataclass(frozen=True, kw_only=True)
class Extent:
    """Smallest and largest size of a parent, and the steps between."""

    min_size: Size
    max_size: Size
    width_step: int
    depth_step: int

    def __post_init__(self) -> None:
        if len(self.min_size) != len(self.max_size):
            raise ConfigError(
                f"method.elastic.min_depth={list(self.min_size[1:])} must have one number per "
                f"elastic stage; this network has {len(self.max_size) - 1}."
            )
        if any(low > high for low, high in zip(self.min_size, self.max_size, strict=True)):
            raise ConfigError(
                f"the smallest size {_text(self.min_size)} exceeds the network itself, "
                f"{_text(self.max_size)}; lower method.elastic.min_width or "
                "method.elastic.min_depth."
            )

    @property
    def widths(self) -> list[int]:
        """Rising widths from the smallest; the parent's own is always the last."""
        return _ladder(self.min_size[0], self.max_size[0], self.width_step)

    @property
    def depths(self) -> list[Size]:
        """Depths of the elastic stages, rising by their total."""
        ladders = [
            _ladder(low, high, self.depth_step)
            for low, high in zip(self.min_size[1:], self.max_size[1:], strict=True)
        ]
        return sorted(product(*ladders), key=lambda depths: (sum(depths), depths))

    @property
    def sizes(self) -> list[Size]:
        """Every width with every depth; the last is the parent itself."""
        return [(width, *depths) for width in self.widths for depths in self.depths]


def _ladder(low: int, high: int, step: int) -> list[int]:
    """Rising values from `low` in steps of `step`; `high` is always the last."""
    return [*range(low, high, step), high]


def _text(size: Sequence[int]) -> str:
    """A size as the command line writes it, such as 384,12."""
    return ",".join(str(number) for number in size)


def kept_blocks(num_blocks: int, num_kept: int, *, is_paired: bool) -> list[int]:
    """Blocks of a stage that a shallower network keeps, evenly spaced, rising.

    The paper keeps block floor((L - 1) * j / (l - 1)) for j = 0 ... l - 1: the first and the last,
    and the rest evenly between.

    Swin alternates plain and shifted windows. Keeping evenly spaced *pairs* gives block j the
    window of a stock network of l blocks, so that one computes the same; keeping single blocks
    does not (18 -> 6 would give plain, shifted, plain, plain, shifted, shifted). The first block
    is kept either way; the last one too, unless exactly one of the two numbers is odd.

    Args:
        num_blocks: Blocks of the parent's stage, L.
        num_kept: Blocks to keep, l.
        is_paired: Keep pairs (2k, 2k + 1); an odd count ends with half a pair.
    """
    if not is_paired:
        return [(num_blocks - 1) * j // max(num_kept - 1, 1) for j in range(num_kept)]
    is_odd = num_kept % 2
    # A last half pair may be the parent's own last half pair; a full one may not.
    num_pairs = (num_blocks + is_odd) // 2
    pairs = kept_blocks(num_pairs, (num_kept + is_odd) // 2, is_paired=False)
    return [2 * pair + side for pair in pairs for side in (0, 1)][:num_kept]


def candidates(extent: Extent, *, width_bias: float, depth_bias: float) -> list[Size]:
    """The multiset of sizes a run draws from: small networks stand in it several times.

    Size (i, j) has round(a_i * b_j) copies, where a falls linearly from `width_bias` at the
    smallest width to 1 at the largest and b likewise over depths (halves round to even). The
    parent itself is not drawn; it is trained on every step anyway.

    The paper's equation 14 gives probabilities; this is the official code's form of it, drawn
    without replacement. Its ViT-L multiset has 572 sizes, Swin-B (bias 2, 2) 88, ResNet-152
    (bias 1, 2) 698.

    Args:
        extent: Grid of the parent.
        width_bias: S of the paper for widths; 1 draws all alike.
        depth_bias: S of the paper for depths.
    """
    copies = [
        ((width, *depths), round(a * b))
        for width, a in zip(extent.widths, _falling(width_bias, len(extent.widths)), strict=True)
        for depths, b in zip(extent.depths, _falling(depth_bias, len(extent.depths)), strict=True)
    ]
    drawn = [size for size, count in copies for _ in range(count) if size != extent.max_size]
    return drawn or [extent.max_size]


def _falling(start: float, count: int) -> list[float]:
    """Numbers falling linearly from start to 1; [1] for a single one."""
    if count == 1:
        return [1.0]
    last = count - 1
    # In the order of equation 14: another one rounds 6.5 copies of (384, 17) down, not up.
    return [(start - 1) * (last - index) / last + 1 for index in range(count)]


def draw(sizes: Sequence[Size], *, step: int, key: Sequence[int | str]) -> Size:
    """Size of one step of an endless walk over the multiset, without replacement.

    Round after round every entry comes once, each round in an order of its own. The order follows
    from the key alone, so there is nothing to save: a resumed run continues the same walk.

    Args:
        sizes: The multiset, from `candidates`.
        step: Position in the walk, from 0.
        key: What the orders depend on, e.g. (seed, "size", rank): processes that differ in it
            train different sizes in the same step.
    """
    round_index, position = divmod(step, len(sizes))
    generator = keyed_generator(*key, round_index)
    return sizes[int(torch.randperm(len(sizes), generator=generator)[position])]
