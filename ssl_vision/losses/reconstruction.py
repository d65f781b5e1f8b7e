"""Masked reconstruction of patches (MAE, He et al. 2021, section 3)."""

from torch import Tensor

from ssl_vision.types import at_least_float32

_EPS = 1e-6


def masked_patch_loss(pred: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error over hidden patches only.

    Args:
        pred: Predicted patches, (B, N, P).
        target: True patches, (B, N, P).
        mask: Which patches were hidden from the encoder, (B, N): bool, or 1 and 0.
    """
    per_patch = (at_least_float32(pred) - at_least_float32(target)).square().mean(dim=-1)  # (B, N)
    weight = mask.to(per_patch.dtype)
    return (per_patch * weight).sum() / weight.sum()


def normalize_patches(patches: Tensor) -> Tensor:
    """Each patch to mean 0 and variance 1 over its values (MAE's best target).

    Unbiased variance, epsilon 1e-6: needed for agreement with released weights.

    Args:
        patches: (B, N, P).
    """
    mean = patches.mean(dim=-1, keepdim=True)
    variance = patches.var(dim=-1, keepdim=True)
    return (patches - mean) / (variance + _EPS).sqrt()


def denormalize_patches(prediction: Tensor, patches: Tensor) -> Tensor:
    """Undo `normalize_patches` with the statistics of the true patches, for pictures.

    Args:
        prediction: Predicted normalised patches, (B, N, P).
        patches: True patches, (B, N, P).
    """
    mean = patches.mean(dim=-1, keepdim=True)
    variance = patches.var(dim=-1, keepdim=True)
    return prediction * (variance + _EPS).sqrt() + mean
