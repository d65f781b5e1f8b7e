"""Arrays as users have them: tensors, NumPy arrays, memory maps."""

import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = Tensor | NDArray[np.generic]  # also a memory map


def as_tensor(array: Array) -> Tensor:
    """Tensor over the same memory, detached; a memory map is not read."""
    if isinstance(array, Tensor):
        return array.detach()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # read-only arrays: nothing here writes to its input
        return torch.from_numpy(np.asarray(array))


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
