"""Losses: pure functions of tensors."""

from ssl_vision.losses.barlow_twins import barlow_twins_loss
from ssl_vision.losses.chamfer import chamfer_distance
from ssl_vision.losses.distill import class_distillation
from ssl_vision.losses.distillation import dino_loss, sinkhorn
from ssl_vision.losses.koleo import koleo
from ssl_vision.losses.latent import latent_loss
from ssl_vision.losses.ntxent import nt_xent_loss
from ssl_vision.losses.paired_masks import paired_mask_contrast
from ssl_vision.losses.reconstruction import masked_patch_loss
from ssl_vision.losses.sigreg import sigreg
from ssl_vision.losses.smmix import smmix_loss
from ssl_vision.losses.vicreg import vicreg_loss

__all__ = [
    "barlow_twins_loss",
    "chamfer_distance",
    "class_distillation",
    "dino_loss",
    "koleo",
    "latent_loss",
    "masked_patch_loss",
    "nt_xent_loss",
    "paired_mask_contrast",
    "sigreg",
    "sinkhorn",
    "smmix_loss",
    "vicreg_loss",
]
