"""What passes between the rooms: batches, features, losses.

Shape letters, one meaning in the whole package:
    B images (or point clouds) of a batch, C channels, S side in pixels, N patches,
    D backbone width, E projection width, P values of a patch, K prototypes,
    M points of a cloud, G groups (patches of a cloud).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Views of B samples, as a loader yields them.

    Attributes:
        views: Name of the view -> images, uint8 or float, (k*B, C, S, S), or clouds, (k*B, M, 3).
            A view with `count: k` is stacked with the view axis outermost:
            rows [j*B, (j+1)*B) are the j-th drawing of it.
        index: Row of each sample in its data set, int64, (B,).
        label: Class of each sample, int64, (B,); None where the data has no labels.
        epoch: Epoch the views were drawn in.
    """

    views: dict[str, Tensor]
    index: Tensor
    label: Tensor | None = None
    epoch: int = 0

    @property
    def num_samples(self) -> int:
        """Number of samples B (not of views)."""
        return len(self.index)

    @classmethod
    def collate(cls, samples: Sequence[Sequence[Any]]) -> Self:
        """A batch of samples of any torch data set: `DataLoader(..., collate_fn=Batch.collate)`.

        Args:
            samples: `(index, views)` or `(index, views, label)` each. `views` maps names to a
                tensor, float and normalised, or to a list of them where a view is drawn several
                times; `index` is the sample's row in the data set.
        """
        indices, views, *labels = zip(*samples, strict=True)
        return cls(
            views={name: _stacked([sample[name] for sample in views]) for name in views[0]},
            index=torch.tensor(indices, dtype=torch.int64),
            label=torch.tensor(labels[0], dtype=torch.int64) if labels else None,
        )

    def pin_memory(self) -> Self:
        """Copy in page-locked memory; the name `DataLoader(pin_memory=True)` looks for."""
        return replace(
            self,
            views={name: view.pin_memory() for name, view in self.views.items()},
            index=self.index.pin_memory(),
            label=None if self.label is None else self.label.pin_memory(),
        )

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """Copy of the batch on `device`; the name and arguments Lightning's transfer looks for."""
        return replace(
            self,
            views={k: v.to(device, non_blocking=non_blocking) for k, v in self.views.items()},
            index=self.index.to(device, non_blocking=non_blocking),
            label=None if self.label is None else self.label.to(device, non_blocking=non_blocking),
        )


def _stacked(drawings: Sequence[Tensor | Sequence[Tensor]]) -> Tensor:
    """A view of B samples, (k*B, ...), all of the first drawing first."""
    if isinstance(drawings[0], Tensor):
        return torch.stack([drawing for drawing in drawings if isinstance(drawing, Tensor)])
    return torch.stack([sample[j] for j in range(len(drawings[0])) for sample in drawings])


class Features(NamedTuple):
    """What a backbone makes of B images.

    Attributes:
        pooled: One vector per image, (B, D): the class token after the last norm for a ViT,
            the spatial mean otherwise.
        patches: Patch tokens after the last norm, row-major, (B, N, D); None without tokens.
        attention: Attention received by each patch in the last block, (B, N); only on request.
    """

    pooled: Tensor
    patches: Tensor | None = None
    attention: Tensor | None = None


class LossOutput(NamedTuple):
    """Scalar to minimise, and scalars to log (detached, unweighted terms)."""

    loss: Tensor
    metrics: dict[str, Tensor]


def at_least_float32(tensor: Tensor) -> Tensor:
    """Half-precision tensors as float32, others as they are; for sums, softmax and logarithms."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
