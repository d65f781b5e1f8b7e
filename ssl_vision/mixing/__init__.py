"""Mixing of images and labels."""

from ssl_vision.mixing.smmix import max_min_regions, paste_regions

__all__ = ["max_min_regions", "paste_regions"]
