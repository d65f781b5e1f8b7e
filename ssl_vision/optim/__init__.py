"""Optimizers, parameter groups, gradient clipping and the recipe that ties them together."""

from ssl_vision.optim.clip import clip_gradients
from ssl_vision.optim.groups import ParamGroup, split_parameters
from ssl_vision.optim.lars import LARS
from ssl_vision.optim.recipe import OptimConfig, apply_schedules, build_optimizer

__all__ = [
    "LARS",
    "OptimConfig",
    "ParamGroup",
    "apply_schedules",
    "build_optimizer",
    "clip_gradients",
    "split_parameters",
]
