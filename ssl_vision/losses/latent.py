"""Prediction of hidden patches in the space of features (I-JEPA, Assran et al. 2023, section 3)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_vision.types import at_least_float32


@torch.no_grad()
def latent_targets(tokens: Tensor) -> Tensor:
    """What is to be predicted: the target network's tokens, each normed over its channels.

    The norm has no weights and PyTorch's own eps of 1e-5.

    Args:
        tokens: (..., D).
    """
    return F.layer_norm(at_least_float32(tokens), tokens.shape[-1:])


def latent_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Smooth L1 with its bend at 1, averaged over everything.

    Args:
        predicted: (..., D).
        target: Of the same shape.
    """
    return F.smooth_l1_loss(at_least_float32(predicted), at_least_float32(target))
