"""Jitter, grayscale, blur and solarize on the device: the kernels' meaning as batched torch.

For machines with few cores per GPU (`data.augment_on=device`): crops and flips stay on the CPU. The
draws are those of the kernels, so the views are, up to the rounding of one level.

No value is read back from the device, and no operation runs in more forms than it has places:
brightness, contrast and saturation are all x' = a x + b gray(x) + c mean(gray(x)), clamped, so any
order of the four operations is three affine places, hue, three affine places.
"""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from ssl_vision.data.kernels import draws as k
from ssl_vision.data.kernels.color import OPERATIONS
from ssl_vision.randomness import absorb, shift_right
from ssl_vision.views import BlurConfig, JitterConfig, SolarizeConfig, ViewConfig

_HUE_OPERATION = 3
_RADIX = (6, 2, 1)


def crops_only(view: ViewConfig) -> ViewConfig:
    """The part of a view that stays on the CPU."""
    off: dict[str, Any] = {field.name: field.default for field in fields(view)}
    return replace(view, **{operation.field: off[operation.field] for operation in OPERATIONS})


def _signed(value: int) -> int:
    """A 64-bit key as the int64 of the same bits."""
    return value - (1 << 64) if value >= 1 << 63 else value


def view_keys(stream: int, *, epoch: int, index: Tensor, count: int) -> Tensor:
    """Keys of all drawings of a view, the drawing outermost, int64, (count * B,).

    Args:
        stream: Of `draws.view_stream`.
        epoch: Epoch.
        index: Sample ids, int64, (B,).
        count: Drawings per sample.
    """
    start = torch.full_like(index, _signed(stream))
    keys = absorb(absorb(start, epoch), index)
    return torch.cat([absorb(keys, drawing) for drawing in range(count)])


def _draw(keys: Tensor, slot: int | np.int64) -> Tensor:
    return shift_right(absorb(keys, int(slot)), 11).to(torch.float64) * 2.0**-53


def _between(keys: Tensor, slot: int | np.int64, low: float, high: float) -> Tensor:
    return low + (high - low) * _draw(keys, slot)


def recolor(images: Tensor, view: ViewConfig, keys: Tensor) -> Tensor:
    """The colour operations of a view on cropped images, as their keys draw them.

    Args:
        images: uint8, (N, 3, S, S).
        view: Settings.
        keys: One per image, int64, (N,).

    Returns:
        uint8, (N, 3, S, S).
    """
    values = images.float()
    for operation in OPERATIONS:
        if operation.is_on(view):
            is_drawn = _draw(keys, operation.slot) < operation.numbers(view)[0]
            changed = BATCHED[operation.field](values, getattr(view, operation.field), keys)
            values = torch.where(_column(is_drawn), changed, values)
    return (values + 0.5).to(torch.uint8)


Batched = Callable[[Tensor, Any, Tensor], Tensor]  # images, the field's settings, keys
BATCHED: dict[str, Batched] = {}  # the batched form of each row of `OPERATIONS`, by its field


def batched(field: str) -> Callable[[Batched], Batched]:
    """Enters the batched form of an operation; whether an image has it is asked by `recolor`."""

    def enter(form: Batched) -> Batched:
        BATCHED[field] = form
        return form

    return enter


@batched("gray_prob")
def _to_gray(images: Tensor, _: float, keys: Tensor) -> Tensor:
    return _gray(images)


@batched("solarize")
def _solarize(images: Tensor, solarize: SolarizeConfig, keys: Tensor) -> Tensor:
    return torch.where(images >= solarize.threshold, 255.0 - images, images)


def _column(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


def _gray(images: Tensor) -> Tensor:
    red, green, blue = images.unbind(1)
    return (0.2989 * red + 0.587 * green + 0.114 * blue).unsqueeze(1)


def _orders(keys: Tensor) -> Tensor:
    """Operation at each of the four places, (N, 4): the kernels' permutation of rank r."""
    rank = (_draw(keys, k.ORDER) * 24).long()
    left = torch.arange(4, device=keys.device).repeat(len(keys), 1)
    places = []
    for place, radix in enumerate(_RADIX):
        pick = (rank // radix)[:, None]
        rank = rank % radix
        places.append(left.gather(1, pick)[:, 0])
        columns = torch.arange(3 - place, device=keys.device)
        left = left.gather(1, columns + (columns >= pick))  # without the one picked
    return torch.stack([*places, left[:, 0]], dim=1)


def _affine_terms(jitter: JitterConfig, keys: Tensor) -> Tensor:
    """(a, b, c) of brightness, contrast, saturation and of no change, (N, 4, 3)."""
    spans = (jitter.brightness, jitter.contrast, jitter.saturation)
    slots = (k.BRIGHTNESS, k.CONTRAST, k.SATURATION)
    factors = [
        _between(keys, slot, max(0.0, 1 - span), 1 + span)
        for slot, span in zip(slots, spans, strict=True)
    ]
    zero, one = torch.zeros_like(factors[0]), torch.ones_like(factors[0])
    brightness, contrast, saturation = factors
    terms = [
        torch.stack([brightness, zero, zero], 1),
        torch.stack([contrast, zero, 1 - contrast], 1),
        torch.stack([saturation, 1 - saturation, zero], 1),
        torch.stack([one, zero, zero], 1),
    ]
    return torch.stack(terms, 1).float()


@batched("jitter")
def _jitter(images: Tensor, jitter: JitterConfig, keys: Tensor) -> Tensor:
    order, terms = _orders(keys), _affine_terms(jitter, keys)
    is_before = (order == _HUE_OPERATION).cumsum(1) == 0
    neutral = torch.full_like(order, _HUE_OPERATION)
    values = images
    for place in range(3):
        operation = torch.where(is_before, order, neutral)[:, place]
        values = _affine(values, terms, operation)
    if jitter.hue > 0:
        values = _turn_hue(values, _between(keys, k.HUE, -jitter.hue, jitter.hue))
    for place in range(1, 4):
        operation = torch.where(is_before, neutral, order)[:, place]
        values = _affine(values, terms, operation)
    return values


def _affine(images: Tensor, terms: Tensor, operation: Tensor) -> Tensor:
    chosen = terms[torch.arange(len(images), device=images.device), operation]  # (N, 3)
    a, b, c = (_column(term) for term in chosen.unbind(1))
    gray = _gray(images)
    mean = gray.mean(dim=(2, 3), keepdim=True)
    return (a * images + b * gray + c * mean).clamp(0, 255)


def _turn_hue(images: Tensor, turn: Tensor) -> Tensor:
    """Hue as the kernels turn it: value - chroma * clamp(min(p, 4 - p), 0, 1), p mod 6."""
    red, green, blue = images.unbind(1)
    high, low = images.amax(1), images.amin(1)
    chroma = high - low
    scale = 1 / torch.where(chroma > 0, chroma, 1.0)
    hue = 4 + (red - green) * scale
    hue = torch.where(high == green, 2 + (blue - red) * scale, hue)
    hue = torch.where(high == red, (green - blue) * scale, hue)
    hue = hue + (6 * turn).float().view(-1, 1, 1)
    position = torch.stack([hue + 5, hue + 3, hue + 1], 1)
    position = position - 6 * torch.floor(position / 6)
    edge = torch.minimum(position, 4 - position).clamp(0, 1)
    return high.unsqueeze(1) - chroma.unsqueeze(1) * edge


@batched("blur")
def _blur(images: Tensor, blur: BlurConfig, keys: Tensor) -> Tensor:
    num, _, size, _ = images.shape
    reach = -int(-4 * blur.sigma_px[1] // 1)
    radius = min(reach if blur.kernel_px is None else blur.kernel_px // 2, size - 1)
    if radius == 0:
        return images
    sigma = _between(keys, k.SIGMA, *blur.sigma_px)[:, None]
    distance = torch.arange(-radius, radius + 1, device=images.device).abs()
    weights = torch.exp(-0.5 * (distance / sigma) ** 2)
    if blur.kernel_px is None:
        weights = torch.where(distance <= torch.ceil(4 * sigma), weights, 0.0)
    weights = (weights / weights.sum(1, keepdim=True)).float()
    taps = weights.repeat_interleave(3, 0)[:, None, None, :]  # (N * 3, 1, 1, 2 * radius + 1)
    planes = images.reshape(1, num * 3, size, size)
    planes = pad(planes, (radius, radius, 0, 0), mode="reflect")
    planes = conv2d(planes, taps, groups=num * 3)
    planes = pad(planes, (0, 0, radius, radius), mode="reflect")
    return conv2d(planes, taps.transpose(2, 3), groups=num * 3).reshape(images.shape)
