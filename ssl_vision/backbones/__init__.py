"""Networks: timm models behind one interface."""

from ssl_vision.backbones import elastic

__all__ = ["elastic"]
