"""Running statistics of batch norms, kept safe from batches that turn out not to be finite."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase


class RunningStatistics:
    """Copies of what batch norms remember, to go back to.

    A forward pass moves running means before anybody knows that its loss is not finite; one NaN
    stays in them for good.
    """

    def __init__(self) -> None:
        self._norms: list[_NormBase] | None = None
        self._copies: list[Tensor] = []

    @torch.no_grad()
    def remember(self, module: nn.Module) -> None:
        """Copy the statistics of every batch norm of a network; the same network at every call."""
        if self._norms is None:
            self._norms = [norm for norm in module.modules() if isinstance(norm, _NormBase)]
        buffers = self._buffers()
        if not self._copies:
            self._copies = [torch.empty_like(buffer) for buffer in buffers]
        if buffers:
            torch._foreach_copy_(self._copies, buffers)

    @torch.no_grad()
    def restore(self) -> None:
        """Put the remembered statistics back."""
        if self._copies:
            torch._foreach_copy_(self._buffers(), self._copies)

    def _buffers(self) -> list[Tensor]:
        # Looked up anew, as moving a network replaces them; `norm.buffers()` is far slower.
        buffers = (b for norm in self._norms or () for b in norm._buffers.values())
        return [buffer for buffer in buffers if buffer is not None]
