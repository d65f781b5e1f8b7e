"""The table of methods: add one line here to add a method."""

from dataclasses import dataclass

from ssl_vision.methods.base import Method, MethodConfig
from ssl_vision.methods.point_cmae import PointCmae, PointCmaeConfig
from ssl_vision.methods.point_mae import PointMae, PointMaeConfig


@dataclass(frozen=True)
class MethodEntry:
    """A method's settings and its module."""

    config: type[MethodConfig]
    module: type[Method]


METHODS: dict[str, MethodEntry] = {
    "point_cmae": MethodEntry(PointCmaeConfig, PointCmae),
    "point_mae": MethodEntry(PointMaeConfig, PointMae),
}
