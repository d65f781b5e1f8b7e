"""Principal components of unit rows, the same at every call."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from ssl_vision.errors import ConfigError
from ssl_vision.evaluation.projection import project


def test_components_equal_scikit_learn_up_to_sign() -> None:
    rows = torch.randn(60, 10, generator=torch.Generator().manual_seed(0)).double()
    rows = rows * torch.arange(1, 11)
    places, name = project(rows, kind="pca")
    unit = (rows / rows.norm(dim=1, keepdim=True)).numpy()
    theirs = PCA(2, svd_solver="full").fit(unit)
    np.testing.assert_allclose(np.abs(places), np.abs(theirs.transform(unit)), atol=1e-5)
    assert name == f"PCA, {100 * theirs.explained_variance_ratio_.sum():.0f} % of the variance"
    np.testing.assert_array_equal(project(rows, kind="pca")[0], places)


def test_umap_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "umap", None)
    rows = torch.eye(5)
    with pytest.raises(ConfigError, match="umap-learn"):
        project(rows, kind="umap")
    assert project(rows, kind="auto")[1].startswith("PCA")
