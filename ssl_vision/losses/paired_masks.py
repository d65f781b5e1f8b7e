"""Agreement of patches hidden twice: the contrast term of Point-CMAE (arXiv 2407.05862)."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_vision.distributed import all_reduce_sum, world_size

PairForm = Literal["matched", "all"]


def paired_mask_contrast(
    features_1: Tensor, features_2: Tensor, is_hidden_twice: Tensor, *, pairs: PairForm
) -> Tensor:
    """Mean of 1 - cosine over pairs of reconstructed tokens of the two branches.

    pairs="matched" compares each token hidden by both masks with its twin in the other branch, as
    the paper's equation does. pairs="all" compares it with every token of the other branch, as
    the authors' code does; with unit vectors f the mean over columns is a product of means, so
    that form costs no (G, G) map: mean_j f_i . g_j = f_i . mean_j g_j.

    There are no negatives, no temperature and no stopped gradient. The mean runs over the pairs of
    the joined batch of all processes, so that processes with few such tokens do not weigh more.

    Args:
        features_1: Decoder 1's tokens in patch order, (B, G, D).
        features_2: Decoder 2's tokens in patch order, (B, G, D).
        is_hidden_twice: Hidden by both masks, bool, (B, G). None at all gives 0.
        pairs: Which pairs, see above.

    Returns:
        Scalar from 0 to 2. Over several processes its mean over them is the loss.
    """
    unit_1 = F.normalize(features_1.float(), dim=-1)
    unit_2 = F.normalize(features_2.float(), dim=-1)
    if pairs == "all":
        unit_2 = unit_2.mean(dim=1, keepdim=True)
    agreement = (unit_1 * unit_2).sum(dim=-1)  # (B, G)
    weight = is_hidden_twice.to(agreement.dtype)
    with torch.no_grad():
        num_pairs = (all_reduce_sum(weight.sum()) / world_size()).clamp_min(1e-8)
    # The authors' 1e-8 inside the mean is below the resolution of float32 next to 1.
    return ((1.0 - agreement) * weight).sum() / num_pairs
