"""Arrays as users have them: tensors, NumPy arrays, memory maps."""

import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_vision.errors import DataError

Array = Tensor | NDArray[np.generic]  # also a memory map


def as_tensor(array: Array) -> Tensor:
    """Tensor over the same memory, detached; a memory map is not read."""
    if isinstance(array, Tensor):
        return array.detach()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # read-only arrays: nothing here writes to its input
        return torch.from_numpy(np.asarray(array))


_CHECKED_VALUES = 2**24  # looked at in one go: 64 MiB of float32


def check_finite(features: Array, *, what: str = "features") -> None:
    """Refuse features that no score means anything for.

    Args:
        features: (N, ...); a memory map is read once, in blocks.
        what: Their name in the message.

    Raises:
        DataError: A row holds NaN or infinity.
    """
    rows = as_tensor(features)
    size = max(1, _CHECKED_VALUES // max(1, rows[:1].numel()))
    # The sum of a block is finite unless a value is not (or the values are near the type's end).
    if all(bool(block.sum(dtype=torch.float64).isfinite()) for block in rows.split(size)):
        return
    is_bad = torch.cat([~block.isfinite().flatten(1).all(dim=1) for block in rows.split(size)])
    if bool(is_bad.any()):
        raise DataError(
            f"{int(is_bad.sum())} of {len(rows)} rows of {what} are not finite (NaN or infinite); "
            "the weights are broken, or precision=16 is too coarse: try precision=32."
        )


class FeatureRows:
    """Rows of one or several matrices side by side, read when asked for.

    Attributes:
        width: Columns of all parts together, D.
    """

    def __init__(self, *parts: Array, device: torch.device | str = "cpu") -> None:
        """Columns in the order of the parts, each (N, D_i); rows are delivered on the device."""
        self.parts = [as_tensor(part) for part in parts]
        self.width = sum(part.shape[1] for part in self.parts)
        self.device = torch.device(device)

    def __len__(self) -> int:
        return len(self.parts[0])

    def take(self, rows: Tensor) -> Tensor:
        """Float32 rows on the device, (len(rows), D)."""
        picked = [part[rows.to(part.device)].to(self.device).float() for part in self.parts]
        return picked[0] if len(picked) == 1 else torch.cat(picked, dim=1)
