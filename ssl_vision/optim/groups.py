"""Parameters by role: what is decayed, what LARS rescales, and how deep it sits."""

from collections.abc import Callable, Iterable
from typing import Protocol, TypedDict

from torch import nn


class ParamGroup(TypedDict):
    """One group of an optimizer.

    The factors stay fixed; `apply_schedules` multiplies them with the schedule at every step.
    """

    params: list[nn.Parameter]
    names: list[str]
    lr_scale: float
    weight_decay_scale: float
    is_adapted: bool  # LARS rescales it; biases and norms are exempt


class GroupConfig(Protocol):
    """What grouping needs to know of an optimizer's recipe."""

    @property
    def base_lr(self) -> float:
        """Learning rate of weights."""

    @property
    def bias_base_lr(self) -> float | None:
        """Learning rate of biases and norms, where it differs."""

    @property
    def layer_decay(self) -> float:
        """Factor of the learning rate per layer below the top."""


def split_parameters(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    *,
    config: GroupConfig,
    decays: Callable[[str, nn.Parameter], bool],
    layer_id: Callable[[str], int | None],
    num_layers: int,
    lr_factor: Callable[[str], float] = lambda name: 1.0,
) -> list[ParamGroup]:
    """Groups of parameters that share their factors; decayed ones first.

    The learning rate of a parameter is the schedule's, times layer_decay^(num_layers - layer_id),
    times bias_base_lr / base_lr for tensors of at most one dimension, times `lr_factor`.

    Args:
        named_parameters: Names and parameters; those without `requires_grad` are left out.
        config: Recipe; its base rates and layer decay are read.
        decays: Whether a parameter is decayed.
        layer_id: Depth of a parameter, 0 the input; None for heads, which are not slowed.
        num_layers: Depth at which the factor is 1 (blocks + 1 for a ViT).
        lr_factor: Further factor by name.
    """
    groups: dict[tuple[bool, bool, float], ParamGroup] = {}
    for name, parameter in named_parameters:
        if not parameter.requires_grad:
            continue
        is_adapted = parameter.ndim > 1
        scale = lr_factor(name)
        depth = layer_id(name)
        if depth is not None:
            scale *= config.layer_decay ** (num_layers - depth)
        if not is_adapted and config.bias_base_lr is not None:
            scale *= config.bias_base_lr / config.base_lr
        is_decayed = decays(name, parameter)
        group = groups.setdefault(
            (not is_decayed, not is_adapted, scale),
            ParamGroup(
                params=[],
                names=[],
                lr_scale=scale,
                weight_decay_scale=float(is_decayed),
                is_adapted=is_adapted,
            ),
        )
        group["params"].append(parameter)
        group["names"].append(name)
    return [groups[key] for key in sorted(groups)]
