"""Gradient clipping by norm: over all tensors, per tensor, or per sub-module."""

from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

ClipMode = Literal["global", "per_tensor", "per_module"]


def clip_gradients(
    modules: Iterable[Iterable[nn.Parameter]], *, max_norm: float, mode: ClipMode
) -> None:
    """Scale gradients in place by min(1, max_norm / (norm + 1e-6)).

    Args:
        modules: Parameters by sub-module; a single group will do unless mode is `per_module`.
        max_norm: Largest norm left as it is.
        mode: What one norm is taken over. `global`: all gradients. `per_tensor`: each tensor by
            itself (DINO's official code). `per_module`: each entry of `modules` (DINOv2, POA).
    """
    gradients = [[p.grad for p in params if p.grad is not None] for params in modules]
    if mode != "per_module":
        gradients = [[g for group in gradients for g in group]]
    for group in gradients:
        if group:
            _clip(group, max_norm=max_norm, is_per_tensor=mode == "per_tensor")


def _clip(gradients: Sequence[Tensor], *, max_norm: float, is_per_tensor: bool) -> None:
    norms = torch.stack(list(torch._foreach_norm(list(gradients))))  # one per tensor
    if not is_per_tensor:
        norms = torch.linalg.vector_norm(norms)
    factors = (max_norm / (norms + 1e-6)).clamp(max=1.0)
    if is_per_tensor:
        torch._foreach_mul_(list(gradients), list(factors.unbind()))
    else:
        torch._foreach_mul_(list(gradients), factors)
