"""SIGReg and the loss of LeJEPA (Balestriero, LeCun 2025, arXiv 2511.08544), from its formulas.

SIGReg asks that embeddings be distributed as an isotropic normal law. It projects them onto random
directions and holds each projection's characteristic function against the normal one's:
Epps and Pulley's statistic,

    N * integral of |mean_n exp(i t x_n) - exp(-t^2 / 2)|^2 exp(-t^2 / 2) dt.

Three things others got wrong, and which tests hold here: the statistic is one per view, then
averaged (the views of an image are no independent draws); the weights are 1 - lambda and lambda;
views are held against the mean of the global ones, not of all.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_vision.distributed import shared_sum, world_size
from ssl_vision.randomness import keyed_generator
from ssl_vision.types import at_least_float32


class LejepaTerms(NamedTuple):
    """Unweighted terms of the loss.

    Attributes:
        prediction: Mean squared distance of all views from the mean of the global ones.
        sigreg: Distance of the embeddings from an isotropic normal law; see `sigreg`.
    """

    prediction: Tensor
    sigreg: Tensor

    def total(self, sigreg_weight: float) -> Tensor:
        """The loss: (1 - lambda) prediction + lambda SIGReg."""
        return (1 - sigreg_weight) * self.prediction + sigreg_weight * self.sigreg


def lejepa_terms(
    z: Tensor, directions: Tensor, *, num_global: int, num_points: int = 17, t_max: float = 3.0
) -> LejepaTerms:
    """Terms of LeJEPA's loss.

    Args:
        z: Projections, view by view, the global ones first, (V, B, E).
        directions: Of `random_directions`, (E, S); the same on all processes.
        num_global: Views that make the centre, 1 to V.
        num_points: See `sigreg`.
        t_max: See `sigreg`.
    """
    with torch.autocast(z.device.type, enabled=False):
        z = at_least_float32(z)
        centre = z[:num_global].mean(dim=0)  # (B, E); it has a gradient: nothing is a teacher
        return LejepaTerms(
            prediction=(z - centre).square().mean(),
            sigreg=sigreg(z, directions, num_points=num_points, t_max=t_max),
        )


def sigreg(z: Tensor, directions: Tensor, *, num_points: int = 17, t_max: float = 3.0) -> Tensor:
    """Epps-Pulley statistics over the batch of all processes, averaged over directions and views.

    For normal embeddings it is about 1.06, sqrt(2 pi) (1 - 1 / sqrt(3)), whatever the batch size;
    for others it grows with the batch.

    Args:
        z: Embeddings, (B, E), or of several views, (V, B, E): one statistic per view.
        directions: Unit columns, (E, S).
        num_points: Of the trapezoid rule on [0, t_max]; the other half is equal by symmetry.
        t_max: Where the integral is cut off.
    """
    with torch.autocast(z.device.type, enabled=False):
        z = at_least_float32(z)
        projected = z @ directions.to(z)  # (..., B, S)
        num_rows = projected.shape[-2] * world_size()
        t = torch.linspace(0, t_max, num_points, device=z.device, dtype=z.dtype)
        angles = projected.unsqueeze(-1) * t  # (..., B, S, T)
        sums = torch.stack([angles.cos().sum(dim=-3), angles.sin().sum(dim=-3)])
        real, imaginary = shared_sum(sums) / num_rows  # (..., S, T) each
        normal = (-t.square() / 2).exp()  # the law's own function, and the integral's weight
        distance = ((real - normal).square() + imaginary.square()) * normal
        return num_rows * 2 * torch.trapezoid(distance, t, dim=-1).mean()


def random_directions(key: int, *, width: int, num: int) -> Tensor:
    """Unit vectors drawn uniformly from the sphere, float32, (width, num), on the CPU.

    Args:
        key: Of `derive_key`; equal on all processes, as the statistic is one of all of them.
        width: E.
        num: S.
    """
    drawn = torch.randn(width, num, generator=keyed_generator(key))
    return F.normalize(drawn, dim=0)
