"""Self-supervised pretraining of vision backbones, for images and point clouds."""

from importlib import import_module
from typing import Any

__version__ = "0.2.0"

# Public names are looked up on first use: `import ssl_vision` must not cost the seconds that
# importing torch and Lightning takes, and must work where an optional part is missing.
_PUBLIC = {  # name -> where it is
    "train": "ssl_vision.engine.api",
    "Callbacks": "ssl_vision.engine.callbacks",
    "evaluate": "ssl_vision.tasks.evaluate",
    "compare": "ssl_vision.tasks.comparison",
    "embed": "ssl_vision.tasks.embedder",
    "Embedder": "ssl_vision.tasks.embedder",
    "encode_pair": "ssl_vision.tasks.pair_features",
    "predict": "ssl_vision.commands.predict",
    "ImageIndex": "ssl_vision.tasks.image_index",
    "duplicates": "ssl_vision.tasks.image_index",
    "load_backbone": "ssl_vision.zoo.weights",
    "export": "ssl_vision.commands.export",
    "extract": "ssl_vision.commands.extract",
    "visualize": "ssl_vision.commands.visualize",
    "Batch": "ssl_vision.types",
}
_ROOMS = (
    "backbones",
    "config",
    "errors",
    "evaluation",
    "losses",
    "methods",
    "mixing",
    "optim",
    "points",
    "recipes",
    "views",
    "zoo",
)
__all__ = ["__version__", *_PUBLIC, *_ROOMS]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    if name in _ROOMS:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module 'ssl_vision' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
