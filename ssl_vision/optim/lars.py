"""LARS as Barlow Twins, DINO and MAE's linear probe compute it (You et al. 2017, adapted)."""

from collections.abc import Callable
from typing import TypedDict, cast, overload

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT


class _Settings(TypedDict):
    """Settings of a parameter group."""

    lr: float
    momentum: float
    weight_decay: float
    trust_coefficient: float
    is_lr_in_momentum: bool
    is_adapted: bool | None


class LARS(Optimizer):
    """Layer-wise adaptive rate scaling with momentum.

    Per tensor, with gradient g, parameter p, momentum buffer mu:

        g  <- g + weight_decay * p                               (not for excluded tensors)
        g  <- g * trust_coefficient * ||p|| / ||g||              (not for excluded tensors;
                                                                  factor 1 if a norm is 0)
        mu <- momentum * mu + g
        p  <- p - lr * mu

    The ratio comes before the momentum and the learning rate after it; no Nesterov, no clipping.
    With `is_lr_in_momentum` the last two lines read mu <- momentum * mu + lr * g, p <- p - mu
    (SimCLR's "classic momentum"); the two differ while the learning rate changes.

    Args:
        params: Parameters or groups. A group's `is_adapted` says whether its tensors are decayed
            and rescaled; without the key, tensors of at most one dimension (biases, norms) are not.
        lr: Learning rate.
        momentum: Factor of the momentum buffer.
        weight_decay: Factor of the parameter in its gradient.
        trust_coefficient: eta, the fraction of a tensor's norm that one unit of lr moves it by.
        is_lr_in_momentum: Whether the learning rate enters the momentum buffer.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 0.001,
        is_lr_in_momentum: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "trust_coefficient": trust_coefficient,
            "is_lr_in_momentum": is_lr_in_momentum,
            "is_adapted": None,
        }
        super().__init__(params, defaults)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for each in self.param_groups:
            group = cast(_Settings, each)
            with_gradient = [p for p in each["params"] if p.grad is not None]
            adapted = [p for p in with_gradient if _is_adapted(p, group)]
            plain = [p for p in with_gradient if not _is_adapted(p, group)]
            if adapted:
                self._move(adapted, _adapted_gradients(adapted, group), group)
            if plain:
                self._move(plain, [p.grad for p in plain if p.grad is not None], group)
        return loss

    def _move(self, params: list[Tensor], updates: list[Tensor], group: _Settings) -> None:
        """Add the updates to the momenta, then move the parameters along them."""
        for param in params:
            if "momentum_buffer" not in self.state[param]:
                self.state[param]["momentum_buffer"] = torch.zeros_like(param)
        buffers = [self.state[param]["momentum_buffer"] for param in params]
        lr, is_inside = group["lr"], group["is_lr_in_momentum"]
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, updates, alpha=lr if is_inside else 1.0)
        torch._foreach_add_(params, buffers, alpha=-1.0 if is_inside else -lr)


def _is_adapted(param: Tensor, group: _Settings) -> bool:
    """Whether a tensor is decayed and rescaled: what its group says, else by its dimensions."""
    return param.ndim > 1 if group["is_adapted"] is None else bool(group["is_adapted"])


def _adapted_gradients(params: list[Tensor], group: _Settings) -> list[Tensor]:
    """Decayed gradients, rescaled to a fraction of their parameter's norm; new tensors."""
    gradients = [p.grad for p in params if p.grad is not None]
    if group["weight_decay"]:
        gradients = list(torch._foreach_add(gradients, params, alpha=group["weight_decay"]))
    param_norms = torch.stack(list(torch._foreach_norm(params)))
    grad_norms = torch.stack(list(torch._foreach_norm(gradients)))
    has_ratio = (param_norms > 0) & (grad_norms > 0)
    ratios = torch.where(has_ratio, group["trust_coefficient"] * param_norms / grad_norms, 1.0)
    return list(torch._foreach_mul(gradients, list(ratios.unbind())))
