"""Which patches of a cloud are hidden; chance enters as numbers drawn by the caller."""

import torch
from torch import Tensor


def random_mask(noise: Tensor, *, num_masked: int) -> Tensor:
    """Hide the patches of smallest noise: exactly `num_masked` per cloud, uniformly chosen.

    Args:
        noise: Independent uniform numbers, (B, G).
        num_masked: Patches to hide.

    Returns:
        True where hidden, bool, (B, G).
    """
    order = noise.argsort(dim=1, stable=True)
    mask = torch.zeros_like(noise, dtype=torch.bool)
    return mask.scatter_(1, order[:, :num_masked], True)


def block_mask(centers: Tensor, seed_index: Tensor, *, num_masked: int) -> Tensor:
    """Hide one seed patch and its nearest ones: a connected hole of `num_masked` patches.

    Args:
        centers: Patch centres, (B, G, 3).
        seed_index: The seed patch of each cloud, int64, (B,).
        num_masked: Patches to hide, the seed among them.

    Returns:
        True where hidden, bool, (B, G).
    """
    seed = centers.gather(1, seed_index[:, None, None].expand(-1, 1, 3))  # (B, 1, 3)
    return random_mask((centers - seed).square().sum(dim=-1), num_masked=num_masked)


def draw_seed_index(noise: Tensor, num_groups: int) -> Tensor:
    """Uniform numbers (B,) in [0, 1) -> uniform patch indices, int64, (B,)."""
    # float32 just below 1 times G may round up to G.
    return (noise * num_groups).long().clamp_(max=num_groups - 1)


def split_indices(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Indices of the visible and of the hidden patches, each rising.

    Args:
        mask: bool, (B, G), with equally many hidden patches in every row.

    Returns:
        int64, (B, visible) and (B, hidden).
    """
    num_masked = int(mask[0].sum()) if len(mask) else 0
    return split_indices_at(mask, num_masked=num_masked)


def split_indices_at(mask: Tensor, *, num_masked: int) -> tuple[Tensor, Tensor]:
    """`split_indices` for a known number of hidden patches: no wait for the device."""
    order = mask.to(torch.uint8).argsort(dim=1, stable=True)
    num_visible = mask.shape[1] - num_masked
    return order[:, :num_visible], order[:, num_visible:]
