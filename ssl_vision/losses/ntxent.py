"""NT-Xent, the contrastive loss of SimCLR (Chen et al. 2020, arXiv 2002.05709, equation 1).

Of every view, the other view of the same sample has to be found among all other views of all
samples, of all processes. The gradient is that of the loss on the joined batch: negatives of other
processes carry theirs, too.

The authors' code adds the two directions, each a mean over N samples: twice the paper's mean over
2N views. LARS hides the factor in weights but for their decay, not in biases and norms.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_vision.distributed import all_gather, rank, world_size
from ssl_vision.errors import DataError
from ssl_vision.types import at_least_float32


class NtXent(NamedTuple):
    """The loss and how often it is right.

    Attributes:
        loss: Mean over the 2B views of this process; half of the authors' sum.
        accuracy: Share of these views whose other view is nearer than all else; no gradient.
    """

    loss: Tensor
    accuracy: Tensor


def nt_xent_loss(
    z_a: Tensor,
    z_b: Tensor,
    *,
    temperature: float | Tensor,
    negatives: Tensor | None = None,
    is_negative: Tensor | None = None,
) -> NtXent:
    """NT-Xent of two views' projections, which are brought to unit length here.

    Args:
        z_a: Projections of view a, (B, E); every process has equally many.
        z_b: Projections of view b, (B, E).
        temperature: tau; as a tensor of no dimension it may be learned.
        negatives: Further negatives for every view, unit length, (Q, E): a memory. No gradient.
        is_negative: Which of them count, bool, (Q,); all by default.

    Raises:
        DataError: One sample and no memory: nothing to be told apart from.
    """
    with torch.autocast(z_a.device.type, enabled=False):
        unit_a, unit_b = (F.normalize(at_least_float32(z), dim=-1) for z in (z_a, z_b))
        return contrast(
            unit_a,
            unit_b,
            temperature=temperature,
            negatives=negatives,
            is_negative=is_negative,
        )


def contrast(
    z_a: Tensor,
    z_b: Tensor,
    *,
    temperature: float | Tensor,
    negatives: Tensor | None = None,
    is_negative: Tensor | None = None,
) -> NtXent:
    """`nt_xent_loss` of projections as they are, whatever their length."""
    num, num_all = len(z_a), len(z_a) * world_size()
    if num_all < 2 and negatives is None:
        raise DataError(
            "SimCLR tells samples of a batch apart and got 1 sample; use a batch of 2 or more."
        )
    everyone = all_gather(torch.stack([z_a, z_b], dim=1))  # (W * B, 2, E): one collective
    rows = torch.cat([z_a, z_b])  # (2B, E)
    columns = torch.cat([everyone[:, 0], everyone[:, 1]])  # (2 * W * B, E)
    own = rank() * num + torch.arange(num, device=z_a.device)
    itself, other = torch.cat([own, own + num_all]), torch.cat([own + num_all, own])
    logits = (rows @ columns.T) / temperature
    logits = logits.scatter(1, itself[:, None], -torch.inf)
    if negatives is not None:
        further = (rows @ negatives.detach().to(rows.dtype).T) / temperature  # (2B, Q)
        if is_negative is not None:
            further = further.masked_fill(~is_negative, -torch.inf)
        logits = torch.cat([logits, further], dim=1)
    return NtXent(
        loss=F.cross_entropy(logits, other),
        accuracy=(logits.detach().argmax(dim=1) == other).float().mean(),
    )
