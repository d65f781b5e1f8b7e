"""Networks: timm models, and any module, behind one interface."""

from ssl_vision.backbones import elastic
from ssl_vision.backbones.own import wrap

__all__ = ["elastic", "wrap"]
