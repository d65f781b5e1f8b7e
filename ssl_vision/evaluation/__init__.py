"""What was learned, measured: frozen features and the tasks on them."""

from importlib import import_module
from typing import TYPE_CHECKING

# Function and module share this name: importing the module would otherwise make the name the
# module for good, since a lazy look-up is never asked for an attribute that exists.
from ssl_vision.evaluation.linear_probe import linear_probe as linear_probe

if TYPE_CHECKING:  # what type checkers and editors read; `_PUBLIC` says the same
    from ssl_vision.evaluation.classification import classification_report as classification_report
    from ssl_vision.evaluation.clustering import cluster_scores as cluster_scores
    from ssl_vision.evaluation.clustering import kmeans as kmeans
    from ssl_vision.evaluation.features import extract_features as extract_features
    from ssl_vision.evaluation.knn import knn_accuracy as knn_accuracy
    from ssl_vision.evaluation.knn import knn_classify as knn_classify
    from ssl_vision.evaluation.logreg import fit_logistic as fit_logistic
    from ssl_vision.evaluation.logreg import logistic_probe as logistic_probe
    from ssl_vision.evaluation.neighbours import find_neighbours as find_neighbours
    from ssl_vision.evaluation.representation import alpha_req as alpha_req
    from ssl_vision.evaluation.representation import collapse_stats as collapse_stats
    from ssl_vision.evaluation.representation import lidar as lidar
    from ssl_vision.evaluation.representation import rankme as rankme
    from ssl_vision.evaluation.retrieval import retrieval_scores as retrieval_scores

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


if not TYPE_CHECKING:  # a type checker would take every misspelt name for something it returns

    def __getattr__(name: str) -> object:
        if name in _PUBLIC:
            return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
