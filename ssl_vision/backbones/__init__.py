"""Networks: timm models, and any module, behind one interface."""

from ssl_vision.backbones import elastic
from ssl_vision.backbones.backbone import Backbone
from ssl_vision.backbones.build import BackboneConfig, build_backbone
from ssl_vision.backbones.own import wrap

__all__ = ["Backbone", "BackboneConfig", "build_backbone", "elastic", "wrap"]
