"""From levels, 0 to 255, to what a network takes."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

_CACHED_IMAGES = 4  # 224 px: 2.4 MB of floats


def normalize(images: Tensor, *, mean: Tensor, std: Tensor) -> Tensor:
    """uint8 levels to normalised float32: (x / 255 - mean) / std, in one multiply-add.

    Args:
        images: uint8, (B, 3, S, S).
        mean: Per channel, values 0..1, (3,).
        std: Per channel, (3,).
    """
    scale, shift = (1 / (255 * std)).view(-1, 1, 1), (-mean / std).view(-1, 1, 1)
    if images.device.type != "cpu":
        return torch.addcmul(shift, images.float(), scale)
    out = torch.empty(images.shape)
    # A few images at a time stay in the processor's cache between the two passes.
    for levels, values in zip(images.split(_CACHED_IMAGES), out.split(_CACHED_IMAGES), strict=True):
        torch.addcmul(shift, levels.float(), scale, out=values)
    return out


class Normalizer:
    """`normalize` with statistics that are copied to each device once: a copy would be a sync.

    Floats are taken as normalised.

    Args:
        mean: Per channel, values 0..1.
        std: Per channel.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self._mean, self._std = torch.tensor(mean), torch.tensor(std)
        self._on: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def __call__(self, views: Tensor) -> Tensor:
        """Normalised where they lie."""
        if views.dtype != torch.uint8:
            return views
        if views.device not in self._on:
            self._on[views.device] = self._mean.to(views.device), self._std.to(views.device)
        mean, std = self._on[views.device]
        return normalize(views, mean=mean, std=std)


def normalizer(mean: Sequence[float], std: Sequence[float]) -> Callable[[Tensor], Tensor]:
    """Function from uint8 images, or floats in 0..255, to normalised float32.

    Args:
        mean: Per channel, of images scaled to 0..1.
        std: Per channel.
    """

    def normalize(images: Tensor) -> Tensor:
        center = torch.tensor(mean, device=images.device).view(-1, 1, 1) * 255
        scale = torch.tensor(std, device=images.device).view(-1, 1, 1) * 255
        return (images.float() - center) / scale

    return normalize
