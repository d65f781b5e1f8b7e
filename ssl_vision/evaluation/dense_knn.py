"""Segmentation by the nearest patches of a memory, without training (Hummingbird's evaluation).

Balazevic et al. 2023 (arXiv 2306.01667), section 3: patches of training images are kept with the
shares of classes among their pixels; a test patch takes the mean of its nearest ones' shares,
weighted by exp(cosine / T), and shares are enlarged bilinearly to the pixels. Where we differ: the
search is exact, images are not augmented, and the memory is a fixed draw of patches.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_vision.bounds import MAX_NEIGHBOURS, check_bounds
from ssl_vision.data.images.masks import IGNORED
from ssl_vision.evaluation.dense import PatchMaps
from ssl_vision.evaluation.neighbours import Search, find_neighbours
from ssl_vision.randomness import keyed_generator

_CHUNK_VALUES = 2**24  # shares held at once: 64 MiB


@dataclass(frozen=True, kw_only=True)
class DenseKnnConfig:
    """Segmentation by nearest patches."""

    k: int = 30
    temperature: float = 0.02
    max_patches: int = 100_000  # of the memory, a fixed draw of the training patches
    search: Search = "auto"  # auto | faiss | torch

    def __post_init__(self) -> None:
        check_bounds("dense_knn.k", self.k, least=1, most=MAX_NEIGHBOURS)
        check_bounds("dense_knn.temperature", self.temperature, above=0)
        check_bounds("dense_knn.max_patches", self.max_patches, least=1)


class Memory(NamedTuple):
    """Patches with known classes.

    Attributes:
        patches: (M, D).
        shares: Of each class among a patch's pixels that count, (M, C); rows sum to one.
    """

    patches: Tensor
    shares: Tensor


def remember(
    maps: PatchMaps, targets: NDArray[np.int16], num_classes: int, *, max_patches: int, seed: int
) -> Memory:
    """A memory of training patches; those without any class are left out.

    Args:
        maps: Of n training images.
        targets: Classes at a grid of each image, (n, T, T), T a multiple of `maps.side`; IGNORED
            where there is none.
        num_classes: C.
        max_patches: At most so many.
        seed: Of the draw.
    """
    side = maps.side
    cells = targets.reshape(len(maps), side, targets.shape[1] // side, side, -1)
    cells = cells.transpose(0, 1, 3, 2, 4).reshape(len(maps) * side**2, -1)
    known = torch.from_numpy(np.flatnonzero((cells != IGNORED).any(axis=1)))
    if len(known) > max_patches:
        order = torch.randperm(len(known), generator=keyed_generator(seed, "memory"))
        known = known[order[:max_patches]].sort().values
    classes = torch.from_numpy(cells[known.numpy()]).long()
    shares = torch.zeros(len(known), num_classes + 1)
    shares.scatter_add_(
        1, classes.where(classes != IGNORED, num_classes), torch.ones(classes.shape)
    )
    shares = shares[:, :num_classes]
    return Memory(_take(maps, known), shares / shares.sum(dim=1, keepdim=True))


def _take(maps: PatchMaps, patches: Tensor) -> Tensor:
    """Some patches by their rising number among those of all images, (M, D)."""
    found = torch.empty(len(patches), maps.width)
    image, place = patches // maps.side**2, patches % maps.side**2
    for rows in maps.blocks():
        start, stop = (int(torch.searchsorted(image, end)) for end in (rows[0], rows[-1] + 1))
        own = slice(start, stop)
        if stop > start:
            found[own] = maps.patches(rows)[image[own] - rows[0], place[own]].cpu()
    return found


def vote_shares(
    memory: Memory, queries: Tensor, *, config: DenseKnnConfig, device: torch.device | str = "cpu"
) -> Tensor:
    """Shares of classes that the nearest patches of a memory say of each query, (Q, C).

    Args:
        memory: Patches with known classes.
        queries: (Q, D).
        config: How many neighbours, and the temperature of their weights.
        device: Where to search.
    """
    found = find_neighbours(
        memory.patches,
        queries,
        k=min(config.k, len(memory.patches)),
        search=config.search,
        ties="mixed",
        device=device,
    )
    weights = (found.scores.double() / config.temperature).softmax(dim=1).float()
    chunk = max(1, _CHUNK_VALUES // (weights.shape[1] * memory.shares.shape[1]))
    pairs = zip(weights.split(chunk), found.rows.split(chunk), strict=True)
    return torch.cat([torch.einsum("qk,qkc->qc", w, memory.shares[rows]) for w, rows in pairs])


def nearest_scores(
    memory: Memory, *, config: DenseKnnConfig, device: torch.device | str = "cpu"
) -> Callable[[Tensor], Tensor]:
    """A function of maps (B, D, h, w) -> shares of classes, (B, C, h, w); see `vote_shares`."""

    def scores_of(maps: Tensor) -> Tensor:
        queries = maps.flatten(2).transpose(1, 2).flatten(0, 1)
        shares = vote_shares(memory, queries, config=config, device=device)
        return shares.unflatten(0, (len(maps), *maps.shape[2:])).permute(0, 3, 1, 2)

    return scores_of
