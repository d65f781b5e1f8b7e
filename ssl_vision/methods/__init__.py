"""The table of methods: add one line here to add a method."""

from dataclasses import dataclass

from ssl_vision.methods.base import Method, MethodConfig
from ssl_vision.methods.supervised import Supervised, SupervisedConfig


@dataclass(frozen=True)
class MethodEntry:
    """A method's settings and its module."""

    config: type[MethodConfig]
    module: type[Method]


METHODS: dict[str, MethodEntry] = {
    "supervised": MethodEntry(SupervisedConfig, Supervised),
}
