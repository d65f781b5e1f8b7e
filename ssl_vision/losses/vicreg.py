"""VICReg's loss (Bardes, Ponce, LeCun 2021, arXiv 2105.04906), over the batch of all processes.

Where paper and code disagree, the code: the invariance is a mean over dimensions, too (equation 5
sums over them), and the variance the mean of the two views' (equation 6 adds them). The weights
25, 25, 1 belong to the code's form.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_vision.distributed import all_reduce_sum, shared_sum, world_size
from ssl_vision.errors import DataError
from ssl_vision.losses.barlow_twins import cross_terms
from ssl_vision.types import at_least_float32

_EPS = 1e-4  # of variances, equation 2


class VicregTerms(NamedTuple):
    """Unweighted terms of the loss.

    Attributes:
        invariance: Mean squared difference of the two views.
        variance: Mean over dimensions, and views, of how far the standard deviation is below 1.
        covariance: Sum over views of squared covariances of different dimensions, over E.
    """

    invariance: Tensor
    variance: Tensor
    covariance: Tensor

    def total(
        self, *, invariance_weight: float, variance_weight: float, covariance_weight: float
    ) -> Tensor:
        """The loss: lambda, mu and nu times the terms (equation 6)."""
        return (
            invariance_weight * self.invariance
            + variance_weight * self.variance
            + covariance_weight * self.covariance
        )


def vicreg_terms(z_a: Tensor, z_b: Tensor) -> VicregTerms:
    """Terms of the loss; variances and covariances are those of the global batch.

    The averages over processes of the invariance and of all gradients are those of one process on
    the joined batch.

    Args:
        z_a: Projections of view a, (B, E); B of this process.
        z_b: Projections of view b, (B, E).

    Raises:
        DataError: One sample: no variance.
    """
    if len(z_a) * world_size() < 2:
        raise DataError(
            "VICReg takes variances over the batch and got 1 sample; use a batch of 2 or more."
        )
    with torch.autocast(z_a.device.type, enabled=False):
        z_a, z_b = at_least_float32(z_a), at_least_float32(z_b)
        covariances = [_covariance(z) for z in (z_a, z_b)]
        hinges = [F.relu(1 - (c.diagonal() + _EPS).sqrt()).mean() for c in covariances]
        return VicregTerms(
            invariance=F.mse_loss(z_a, z_b),
            variance=(hinges[0] + hinges[1]) / 2,
            covariance=_off_diagonal(covariances) / z_a.shape[1],
        )


def vicreg_loss(
    z_a: Tensor,
    z_b: Tensor,
    *,
    invariance_weight: float = 25.0,
    variance_weight: float = 25.0,
    covariance_weight: float = 1.0,
) -> Tensor:
    """The weighted sum of `vicreg_terms`; its arguments."""
    return vicreg_terms(z_a, z_b).total(
        invariance_weight=invariance_weight,
        variance_weight=variance_weight,
        covariance_weight=covariance_weight,
    )


def _off_diagonal(covariances: list[Tensor]) -> Tensor:
    """Sum of the squared entries off the diagonals of matrices, (E, E) each."""
    return torch.stack([cross_terms(c).square().sum() for c in covariances]).sum()


def _covariance(z: Tensor) -> Tensor:
    """Unbiased covariance matrix over the rows of all processes, (B, E) -> (E, E)."""
    num_rows = len(z) * world_size()
    centred = z - all_reduce_sum(z.sum(dim=0)) / num_rows
    return shared_sum(centred.T @ centred) / (num_rows - 1)
