"""Self-supervised pretraining of vision backbones, for images and point clouds."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Public names are looked up on first use: `import ssl_vision` must not cost the seconds that
# importing torch and Lightning takes, and must work where an optional part is missing.
_PUBLIC = {
    "compare": "ssl_vision.tasks.comparison",
    "duplicates": "ssl_vision.tasks.image_index",
    "ImageIndex": "ssl_vision.tasks.image_index",
    "train": "ssl_vision.engine.train",
    "evaluate": "ssl_vision.tasks.evaluate",
    "load_backbone": "ssl_vision.zoo.weights",
    "predict": "ssl_vision.commands.predict",
}
_ROOMS = (
    "backbones",
    "config",
    "evaluation",
    "losses",
    "methods",
    "mixing",
    "optim",
    "points",
    "zoo",
)
__all__ = [
    "ImageIndex",
    "__version__",
    "compare",
    "duplicates",
    "evaluate",
    "load_backbone",
    "predict",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    if name in _ROOMS:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module 'ssl_vision' has no attribute {name!r}")
