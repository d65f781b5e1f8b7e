"""What was learned, measured: frozen features and the tasks on them."""

from importlib import import_module
from typing import Any

# Looked up on first use: the package must import where an optional part is missing.
_PUBLIC = {
    "alpha_req": "representation",
    "collapse_stats": "representation",
    "extract_features": "features",
    "find_neighbours": "neighbours",
    "knn_accuracy": "knn",
    "knn_classify": "knn",
    "lidar": "representation",
    "rankme": "representation",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
