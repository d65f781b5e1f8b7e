"""The running centre of teacher outputs (DINO, equation 4)."""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ssl_vision.distributed import is_distributed


class Center(nn.Module):
    """Running mean of teacher logits, moved once per optimizer update.

    Targets of a batch are made with the centre of earlier updates; its logits are collected, and
    `update` moves the centre by all rows collected since, of all processes. Under gradient
    accumulation it ends where one large batch would have taken it. `discard` forgets the rows
    (a skipped update).

    Attributes:
        center: (1, K), 0 at the start.
    """

    center: Tensor

    def __init__(self, num_prototypes: int, *, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("center", torch.zeros(1, num_prototypes))
        self._collected: Tensor | None = None  # (1, K + 1): sums of logits, number of rows

    @torch.no_grad()
    def collect(self, logits: Tensor) -> None:
        """Remember rows of logits for the next update, (M, K)."""
        sums = torch.sum(logits, dim=0, keepdim=True, dtype=self.center.dtype)
        rows = torch.cat([sums, sums.new_tensor([[float(len(logits))]])], dim=1)
        self._collected = rows if self._collected is None else self._collected + rows

    @torch.no_grad()
    def update(self) -> None:
        """Move the centre towards the mean of the collected rows; a collective.

        Every process must call it; processes that collected nothing add nothing.
        """
        num_prototypes = self.center.shape[1]
        collected = self._collected
        if collected is None:
            collected = self.center.new_zeros(1, num_prototypes + 1)
        if is_distributed():
            dist.all_reduce(collected)
        sums, num_rows = collected[:, :num_prototypes], collected[:, num_prototypes:]
        moved = self.center * self.momentum + sums / num_rows.clamp(min=1) * (1 - self.momentum)
        self.center.copy_(torch.where(num_rows > 0, moved, self.center))
        self.discard()

    def discard(self) -> None:
        """Forget the collected rows."""
        self._collected = None
