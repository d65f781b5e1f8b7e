"""KoLeo: spread features by the distance to the nearest neighbour (Sablayrolles et al. 2019)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_vision.types import at_least_float32

_EPS = 1e-8


def koleo(features: Tensor) -> Tensor:
    """-mean log distance of each unit-length feature to its nearest neighbour in the batch.

    In float32 or more, and over this process's rows, as DINOv2 and POA; one crop at a time, or two
    crops of an image would be each other's neighbours.

    Args:
        features: (B, D).
    """
    with torch.autocast(features.device.type, enabled=False):
        unit = F.normalize(at_least_float32(features), eps=_EPS)
        with torch.no_grad():
            similarity = unit @ unit.T
            similarity.fill_diagonal_(-1)
            nearest = similarity.argmax(dim=1)
        distance = F.pairwise_distance(unit, unit[nearest], eps=_EPS)
        return -(distance + _EPS).log().mean()
