"""Barlow Twins' loss (Zbontar et al. 2021, equations 1 and 2), over the batch of all processes."""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_vision.distributed import all_reduce_sum, is_distributed, shared_sum, world_size
from ssl_vision.errors import DataError
from ssl_vision.types import at_least_float32

_EPS = 1e-5  # batch norm's

GradientRule = Literal["true", "authors"]


class BarlowTwinsTerms(NamedTuple):
    """Unweighted terms of the loss.

    Attributes:
        invariance: Sum over the diagonal of (C_ii - 1)^2.
        redundancy: Sum over the rest of C_ij^2.
    """

    invariance: Tensor
    redundancy: Tensor

    def total(self, redundancy_weight: float) -> Tensor:
        """The loss: invariance plus lambda times redundancy."""
        return self.invariance + redundancy_weight * self.redundancy


def barlow_twins_loss(
    z_a: Tensor, z_b: Tensor, *, redundancy_weight: float, gradient: GradientRule = "true"
) -> Tensor:
    """Invariance plus weighted redundancy of two views' projections.

    A sum, not a mean: its size grows with the projection width, and the weight must be retuned
    with it.

    Args:
        z_a: Projections of view a, (B, E).
        z_b: Projections of view b, (B, E).
        redundancy_weight: lambda; 0.0051 in the authors' code.
        gradient: See `barlow_twins_terms`.
    """
    return barlow_twins_terms(z_a, z_b, gradient=gradient).total(redundancy_weight)


def barlow_twins_terms(
    z_a: Tensor, z_b: Tensor, *, gradient: GradientRule = "true"
) -> BarlowTwinsTerms:
    """Terms of the loss from the cross-correlation matrix of the global batch.

    The matrix is divided by the number of rows there are. The authors divide by the configured
    batch size, which differs in a last, shorter batch.

    Args:
        z_a: Projections of view a, (B, E); B of this process.
        z_b: Projections of view b, (B, E).
        gradient: What DDP's average over W processes comes to. `true`: the gradient of this loss.
            `authors`: 1/W of it, as in the authors' code, whose all-reduce is outside autograd.
            Equal on one process. LARS hides the factor for weights, not for biases and norms.

    Raises:
        DataError: One sample: nothing to correlate.
    """
    with torch.autocast(z_a.device.type, enabled=False):
        z_a, z_b = (_standardise(at_least_float32(z)) for z in (z_a, z_b))
        num_rows = len(z_a) * world_size()
        corr = shared_sum(z_a.T @ z_b, is_true=gradient == "true") / num_rows  # (E, E)
        diagonal = corr.diagonal()
        return BarlowTwinsTerms(
            invariance=(diagonal - 1).square().sum(),
            redundancy=cross_terms(corr).square().sum(),
        )


def cross_terms(matrix: Tensor) -> Tensor:
    """Correlations of different components, row by row, as a view: (E, E) -> (E - 1, E).

    Behind the first entry, every (E + 1)-th one lies on the diagonal: the last of each row here.
    """
    size = len(matrix)
    return matrix.reshape(-1)[1:].unflatten(0, (size - 1, size + 1))[:, :size]


def _standardise(z: Tensor) -> Tensor:
    """Columns to mean 0 and variance 1 over the batch of all processes.

    Biased variance, as batch norm uses: with the unbiased one identical views never reach 1.
    """
    if len(z) * world_size() < 2:
        raise DataError(
            "Barlow Twins standardises over the batch and got 1 sample; use a batch of 2 or more."
        )
    if not is_distributed():
        return F.batch_norm(z, None, None, training=True, eps=_EPS)
    num_rows = len(z) * world_size()
    centred = z - all_reduce_sum(z.sum(dim=0)) / num_rows
    variance = all_reduce_sum(centred.square().sum(dim=0)) / num_rows
    return centred * (variance + _EPS).rsqrt()
