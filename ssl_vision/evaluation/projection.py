"""Features in the plane: principal components, or UMAP where it is installed."""

import importlib.util
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ssl_vision.errors import ConfigError
from ssl_vision.evaluation.arrays import Array
from ssl_vision.evaluation.representation import as_matrix

Projection = Literal["auto", "pca", "umap"]


def project(
    features: Array, *, kind: Projection = "auto", seed: int = 0
) -> tuple[NDArray[np.float64], str]:
    """Positions in the plane, and the name of what made them.

    Args:
        features: (N, D), N >= 3; brought to length 1 first, as kNN sees them.
        kind: pca, umap, or auto: umap where it can be imported.
        seed: Of UMAP.

    Returns:
        Positions (N, 2), and "PCA ..." with the share of variance shown, or "UMAP".

    Raises:
        ConfigError: umap is asked for and not installed.
    """
    matrix = torch.nn.functional.normalize(as_matrix(features), dim=1)
    check_projection(kind)
    if kind != "pca" and _has_umap():
        import umap

        neighbours = min(15, len(matrix) - 1)
        reducer = umap.UMAP(n_neighbors=neighbours, metric="cosine", random_state=seed, n_jobs=1)
        return np.asarray(reducer.fit_transform(matrix.numpy()), dtype=np.float64), "UMAP"
    centred = matrix - matrix.mean(dim=0)
    _, values, directions = torch.linalg.svd(centred, full_matrices=False)
    # Signs are arbitrary: fix them, so that two runs give one picture.
    largest = directions[:2].abs().argmax(dim=1, keepdim=True)
    directions = directions[:2] * directions[:2].gather(1, largest).sign()
    share = float(values[:2].square().sum() / values.square().sum().clamp(min=1e-300))
    return (centred @ directions.T).numpy(), f"PCA, {100 * share:.0f} % of the variance"


def check_projection(kind: str) -> None:
    """Raise ConfigError where UMAP is asked for and not installed."""
    if kind == "umap" and not _has_umap():
        raise ConfigError("map.projection=umap needs UMAP; pip install umap-learn, or use pca.")


def _has_umap() -> bool:
    return importlib.util.find_spec("umap") is not None
