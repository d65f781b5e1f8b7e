"""Multinomial logistic regression by L-BFGS in float64: the optimum, not a training run.

The objective is scikit-learn's, C * sum of cross-entropies + |W|^2 / 2 with a free intercept, and
so are the results. DINOv2's protocol chooses C among 45 values on a tenth of the training images
and fits again on all. Regularisation falls along the path, each fit starting from the one before.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_vision.bounds import check_bounds, check_some
from ssl_vision.errors import DataError
from ssl_vision.evaluation.accuracy import Accuracy, score_ranking
from ssl_vision.evaluation.arrays import Array, as_tensor, check_finite
from ssl_vision.evaluation.features import parse_feature_set
from ssl_vision.evaluation.linear_probe import split_holdout


@dataclass(frozen=True, kw_only=True)
class LogregConfig:
    """Settings of logistic regression; the defaults are those of DINOv2's `log_regression.py`."""

    features: str = "pooled"  # see parse_feature_set
    cs: tuple[float, ...] = tuple(10 ** (-6 + 11 * i / 44) for i in range(45))  # 1e-6 to 1e5
    holdout: float = 0.1  # share of the training images that choose C
    max_iterations: int = 1000
    tolerance: float = 1e-6  # largest gradient entry of the mean objective at the end

    def __post_init__(self) -> None:
        parse_feature_set(self.features, depth=12)
        check_some("logreg.cs", self.cs)
        check_bounds("logreg.cs", self.cs, above=0)
        check_bounds("logreg.holdout", self.holdout, above=0, below=1)
        check_bounds("logreg.max_iterations", self.max_iterations, least=1)
        check_bounds("logreg.tolerance", self.tolerance, above=0)


class LinearClassifier(NamedTuple):
    """Logits x @ weight.T + bias.

    Attributes:
        weight: float64, (K, D).
        bias: float64, (K,); its mean is 0.
    """

    weight: Tensor
    bias: Tensor

    def logits(self, features: Array) -> Tensor:
        """Class scores of features (N, D) in float64, (N, K)."""
        rows = as_tensor(features).to(self.weight)
        return torch.addmm(self.bias, rows, self.weight.T)

    def rank(self, features: Array, *, top: int = 5) -> Tensor:
        """The first classes, int64, (N, min(top, K)); -1 in place of classes it never saw."""
        scores, classes = self.logits(features).sort(dim=1, descending=True, stable=True)
        return classes.masked_fill(scores == -torch.inf, -1)[:, :top].cpu()


class LogregResult(NamedTuple):
    """Outcome of `logistic_probe`.

    Attributes:
        accuracy: On the test images, of the fit on all training images with the chosen C.
        c: The chosen one.
        selection: C -> accuracy on the held-out images; empty where there was one C only.
        classifier: The fit.
    """

    accuracy: Accuracy
    c: float
    selection: dict[float, float]
    classifier: LinearClassifier


def logistic_probe(
    train: Array,
    train_labels: Array,
    test: Array,
    test_labels: Array,
    *,
    config: LogregConfig | None = None,
    num_classes: int | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> LogregResult:
    """Choose C on held-out training images, fit on all, test once.

    Args:
        train: (N, D).
        train_labels: int64, (N,).
        test: (Q, D).
        test_labels: int64, (Q,).
        config: DINOv2's protocol by default.
        num_classes: K; by default from the union of the labels.
        seed: Of the held-out images.
        device: Where the fit runs.

    Raises:
        DataError: Features that are not finite.
    """
    config = config or LogregConfig()
    check_finite(train, what="training features")
    check_finite(test, what="test features")
    rows = as_tensor(train).to(device, torch.float64)
    labels = as_tensor(train_labels).long().to(device)
    truth = as_tensor(test_labels).long()
    num_classes = num_classes or int(max(labels.max(), truth.max())) + 1
    selection: dict[float, float] = {}
    if len(config.cs) > 1:
        held, kept = (part.to(device) for part in split_holdout(len(labels), config.holdout, seed))
        path = fit_path(rows[kept], labels[kept], config=config, num_classes=num_classes)
        for c, classifier in path.items():
            guess = classifier.logits(rows[held]).argmax(dim=1)
            selection[c] = float((guess == labels[held]).double().mean())
    c = max(selection, key=lambda each: selection[each]) if selection else config.cs[0]
    classifier = fit_logistic(rows, labels, c=c, config=config, num_classes=num_classes)
    accuracy = score_ranking(classifier.rank(test), truth.cpu())
    return LogregResult(accuracy, c, selection, classifier)


def edge_warning(found: LogregResult) -> tuple[str, ...]:
    """A line where the best C is the grid's last and better than the one beside it."""
    rising = sorted(found.selection)
    for order, way in ((rising, "smaller"), (rising[::-1], "larger")):
        edge, *others = order or [math.nan]
        if others and found.c == edge and found.selection[others[0]] < found.selection[edge]:
            return (
                f"the best C, {edge:g}, stands at the edge of logreg.cs: a {way} one may be "
                "better; widen the grid.",
            )
    return ()


def fit_path(
    features: Tensor, labels: Tensor, *, config: LogregConfig, num_classes: int
) -> dict[float, LinearClassifier]:
    """Fits for every C, from the strongest regularisation on, each starting from the last."""
    path: dict[float, LinearClassifier] = {}
    last = None
    for c in sorted(config.cs):
        last = fit_logistic(
            features, labels, c=c, config=config, num_classes=num_classes, start=last
        )
        path[c] = last
    return path


def fit_logistic(
    features: Array,
    labels: Array,
    *,
    c: float,
    config: LogregConfig | None = None,
    num_classes: int | None = None,
    start: LinearClassifier | None = None,
) -> LinearClassifier:
    """The minimiser of C * sum of cross-entropies + |W|^2 / 2.

    With two classes scikit-learn penalises the one difference vector, half of what two opposite
    vectors would cost; the same is done here.

    Args:
        features: (N, D).
        labels: int64, (N,).
        c: C; small values regularise more.
        config: Tolerance and iterations.
        num_classes: K; by default one more than the largest label.
        start: Where to begin; zeros by default.

    Raises:
        DataError: Features and labels differ in number.
    """
    config = config or LogregConfig()
    rows = as_tensor(features).double()
    target = as_tensor(labels).long().to(rows.device)
    if len(rows) != len(target) or len(rows) == 0:
        raise DataError(f"{len(rows)} features and {len(target)} labels do not go together.")
    num_classes = num_classes or int(target.max()) + 1
    # Classes without images take no part: their bias would fall without end.
    present, compact = target.unique(return_inverse=True)
    penalty = (2.0 if len(present) == 2 else 1.0) / (c * len(rows))
    begin = torch.zeros(len(present), rows.shape[1] + 1, dtype=torch.float64)
    if start is not None:
        begin = torch.cat([start.weight[present], start.bias[present, None]], dim=1).cpu()
    found = _minimize(begin, rows, compact, penalty, config).to(rows.device)
    weight, bias = found[:, :-1], found[:, -1]
    full_weight = rows.new_zeros((num_classes, rows.shape[1]))
    full_bias = rows.new_full((num_classes,), -torch.inf)
    full_weight[present], full_bias[present] = weight, bias - bias.mean()
    return LinearClassifier(full_weight, full_bias)


def _minimize(
    begin: Tensor, rows: Tensor, target: Tensor, penalty: float, config: LogregConfig
) -> Tensor:
    """Weight and bias side by side, (K, D + 1), at the minimum.

    L-BFGS takes its steps on the CPU; loss and gradient are computed where the rows are.
    """
    from scipy.optimize import minimize

    each = torch.arange(len(rows), device=rows.device)

    def loss_and_gradient(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        both = torch.from_numpy(flat).view(begin.shape).to(rows.device)
        weight, bias = both[:, :-1], both[:, -1]
        log_probs = torch.addmm(bias, rows, weight.T).log_softmax(dim=1)
        loss = -log_probs[each, target].mean() + 0.5 * penalty * weight.square().sum()
        gradient = log_probs.exp_()
        gradient[each, target] -= 1.0
        gradient /= len(rows)
        weight_gradient = torch.addmm(weight * penalty, gradient.T, rows)
        stacked = torch.cat([weight_gradient, gradient.sum(dim=0)[:, None]], dim=1)
        return float(loss), stacked.cpu().flatten().numpy()

    options = {
        "maxiter": config.max_iterations,
        "gtol": config.tolerance,
        "ftol": 0.0,  # the gradient decides
        "maxls": 50,
    }
    found = minimize(
        loss_and_gradient, begin.flatten().numpy(), method="L-BFGS-B", jac=True, options=options
    )
    return torch.from_numpy(found.x).view(begin.shape)
