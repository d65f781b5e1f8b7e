"""Linear SVM on frozen features: the check of pre-training on point clouds.

The released code of Point-MAE and Point-CMAE has no working version of it, so the protocol is ours:
scikit-learn's `LinearSVC` (squared hinge, one against all) on features scaled to unit variance per
dimension, C chosen on a fixed fifth of the training samples unless given.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssl_vision.bounds import check_bounds, check_some
from ssl_vision.data.subsets import held_out_rows
from ssl_vision.errors import DataError
from ssl_vision.evaluation.accuracy import Interval, wilson_interval
from ssl_vision.randomness import derive_key

_HELD_OUT_SHARE = 0.2


@dataclass(frozen=True, kw_only=True)
class SvmConfig:
    """Settings of the linear SVM."""

    cs: tuple[float, ...] = (0.001, 0.01, 0.1, 1.0)  # inverse strengths of regularisation to try
    is_standardized: bool = True  # mean 0 and variance 1 per dimension, of the training features
    max_iterations: int = 5000

    def __post_init__(self) -> None:
        check_some("svm.cs", self.cs)
        check_bounds("svm.cs", self.cs, above=0)
        check_bounds("svm.max_iterations", self.max_iterations, least=1)


class SvmResult(NamedTuple):
    """Accuracy of the SVM on the test features, and how it came about."""

    top1: float
    c: float
    held_out: dict[float, float]  # C -> accuracy on held-out training samples; empty for one C
    predictions: NDArray[np.int64]  # class of each test sample

    @property
    def interval(self) -> Interval:
        """95 % Wilson interval of `top1`."""
        return wilson_interval(self.top1, len(self.predictions))


def linear_svm(
    train: NDArray[np.float32],
    train_labels: NDArray[np.int64],
    test: NDArray[np.float32],
    test_labels: NDArray[np.int64],
    *,
    config: SvmConfig | None = None,
    seed: int = 0,
) -> SvmResult:
    """Train on one set of features, score on the other.

    Args:
        train: Features, (n, D).
        train_labels: Classes, (n,).
        test: Features, (m, D).
        test_labels: Classes, (m,).
        config: Settings.
        seed: Of the held-out samples and the solver.

    Raises:
        DataError: Fewer than two classes, or features that are not finite.
    """
    config = config or SvmConfig()
    if len(np.unique(train_labels)) < 2:
        raise DataError("a linear SVM needs training samples of two or more classes.")
    if not (np.isfinite(train).all() and np.isfinite(test).all()):
        raise DataError("features have NaN or infinite values; the weights are broken.")
    if config.is_standardized:
        mean, std = train.mean(axis=0), train.std(axis=0)
        std[std == 0] = 1
        train, test = (train - mean) / std, (test - mean) / std
    held_out = (
        _held_out_scores(train, train_labels, config=config, seed=seed)
        if len(config.cs) > 1
        else {}
    )
    # Of equally good values the strongest regularisation.
    c = max(sorted(held_out), key=held_out.__getitem__) if held_out else config.cs[0]
    guess = _fit(train, train_labels, c, config=config, seed=seed).predict(test)
    return SvmResult(float((guess == test_labels).mean()), c, held_out, guess.astype(np.int64))


def mean_and_std(values: Sequence[float]) -> tuple[float, float]:
    """Mean and (population) standard deviation over folds or seeds."""
    return float(np.mean(values)), float(np.std(values))


def _held_out_scores(
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    *,
    config: SvmConfig,
    seed: int,
) -> dict[float, float]:
    fit, score = held_out_rows(labels, share=_HELD_OUT_SHARE, key=derive_key(seed, "svm"))
    if len(score) == 0:
        return {}
    scores = {}
    for c in config.cs:
        machine = _fit(features[fit], labels[fit], c, config=config, seed=seed)
        scores[c] = float((machine.predict(features[score]) == labels[score]).mean())
    return scores


def _fit(
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    c: float,
    *,
    config: SvmConfig,
    seed: int,
) -> Any:
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.svm import LinearSVC

    # The primal problem is the smaller one with more samples than dimensions.
    machine = LinearSVC(
        C=c,
        dual=bool(len(features) < features.shape[1]),
        max_iter=config.max_iterations,
        random_state=seed,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # C at the edge of the grid
        return machine.fit(features, labels)
