"""Losses: pure functions of tensors."""

from ssl_vision.losses.barlow_twins import barlow_twins_loss
from ssl_vision.losses.distillation import dino_loss, sinkhorn
from ssl_vision.losses.koleo import koleo
from ssl_vision.losses.reconstruction import masked_patch_loss

__all__ = ["barlow_twins_loss", "dino_loss", "koleo", "masked_patch_loss", "sinkhorn"]
