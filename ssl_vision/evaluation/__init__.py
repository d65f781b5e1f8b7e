"""What was learned, measured: frozen features and the tasks on them."""

from importlib import import_module
from typing import Any

# Function and module share this name: importing the module would otherwise make the name the
# module for good, since a lazy look-up is never asked for an attribute that exists.
from ssl_vision.evaluation.linear_probe import linear_probe as linear_probe

# Looked up on first use: the package must import where an optional part is missing.
_PUBLIC = {
    "alpha_req": "representation",
    "classification_report": "classification",
    "cluster_scores": "clustering",
    "collapse_stats": "representation",
    "extract_features": "features",
    "find_neighbours": "neighbours",
    "fit_logistic": "logreg",
    "kmeans": "clustering",
    "knn_accuracy": "knn",
    "knn_classify": "knn",
    "lidar": "representation",
    "logistic_probe": "logreg",
    "rankme": "representation",
    "retrieval_scores": "retrieval",
}
__all__ = sorted([*_PUBLIC, "linear_probe"])


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
