"""A memory of earlier outputs: first in, first out (MoCo, He et al. 2019)."""

import torch
from torch import Tensor, nn

from ssl_vision.distributed import all_gather


class FeatureQueue(nn.Module):
    """The newest rows of earlier updates, of all processes, moved on once per optimizer update.

    Rows of a batch are collected, and `update` takes them in; `discard` forgets them (a skipped
    update). Part of the state dict, so that a resumed run has the same memory.

    Attributes:
        rows: Newest first, (Q, E).
        num_filled: Of the rows that hold something, int64.
    """

    rows: Tensor
    num_filled: Tensor

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(size, width))
        self.register_buffer("num_filled", torch.zeros((), dtype=torch.int64))
        self._collected: list[Tensor] = []

    @property
    def is_filled(self) -> Tensor:
        """Which rows hold something, bool, (Q,)."""
        return torch.arange(len(self.rows), device=self.rows.device) < self.num_filled

    @torch.no_grad()
    def collect(self, rows: Tensor) -> None:
        """Remember rows for the next update, (B, E); equally many on every process."""
        self._collected.append(rows.detach().to(self.rows.dtype))

    @torch.no_grad()
    def update(self) -> None:
        """Take the collected rows in and let the oldest go; a collective."""
        if not self._collected:
            return
        new = all_gather(torch.cat(self._collected))
        self.rows.copy_(torch.cat([new, self.rows])[: len(self.rows)])
        self.num_filled.add_(len(new)).clamp_(max=len(self.rows))
        self.discard()

    def discard(self) -> None:
        """Forget the collected rows."""
        self._collected = []
