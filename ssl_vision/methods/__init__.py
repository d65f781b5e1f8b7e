"""The table of methods: add one line here to add a method."""

from dataclasses import dataclass

from ssl_vision.methods.barlow_twins import BarlowTwins, BarlowTwinsConfig
from ssl_vision.methods.base import Method, MethodConfig
from ssl_vision.methods.dino import Dino, DinoConfig
from ssl_vision.methods.mae import Mae, MaeConfig
from ssl_vision.methods.poa import Poa, PoaConfig
from ssl_vision.methods.point_cmae import PointCmae, PointCmaeConfig
from ssl_vision.methods.point_mae import PointMae, PointMaeConfig
from ssl_vision.methods.supervised import Supervised, SupervisedConfig


@dataclass(frozen=True)
class MethodEntry:
    """A method's settings and its module."""

    config: type[MethodConfig]
    module: type[Method]


METHODS: dict[str, MethodEntry] = {
    "point_cmae": MethodEntry(PointCmaeConfig, PointCmae),
    "point_mae": MethodEntry(PointMaeConfig, PointMae),
    "barlow_twins": MethodEntry(BarlowTwinsConfig, BarlowTwins),
    "mae": MethodEntry(MaeConfig, Mae),
    "dino": MethodEntry(DinoConfig, Dino),
    "poa": MethodEntry(PoaConfig, Poa),
    "supervised": MethodEntry(SupervisedConfig, Supervised),
}
