"""Equal to scikit-learn's logistic regression at the optimum."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from ssl_vision.errors import ConfigError, DataError
from ssl_vision.evaluation.accuracy import Accuracy
from ssl_vision.evaluation.logreg import (
    LogregConfig,
    LogregResult,
    edge_warning,
    fit_logistic,
    fit_path,
    logistic_probe,
)

TIGHT = LogregConfig(tolerance=1e-9, max_iterations=5000)


def digits(num_classes: int, num: int = 500) -> tuple[np.ndarray, np.ndarray]:
    images, labels = load_digits(return_X_y=True)
    kept = labels < num_classes
    return images[kept][:num] / 16, labels[kept][:num]


@pytest.mark.parametrize("num_classes", [2, 3, 10])
@pytest.mark.parametrize("c", [1e-3, 1.0])
def test_equals_scikit_learn(num_classes: int, c: float) -> None:
    x, y = digits(num_classes)
    # Newton steps: scikit-learn's own L-BFGS stops where the loss no longer moves, 1e-6 away.
    theirs = LogisticRegression(C=c, tol=1e-10, max_iter=500, solver="newton-cg").fit(x, y)
    ours = fit_logistic(x, y, c=c, config=TIGHT)
    expected = theirs.predict_proba(x)
    np.testing.assert_allclose(ours.logits(x).softmax(dim=1).numpy(), expected, atol=1e-6)
    if num_classes > 2:
        np.testing.assert_allclose(ours.weight.numpy(), theirs.coef_, atol=1e-5)


def test_warm_starts_along_the_path_end_where_cold_starts_do() -> None:
    x, y = digits(4, 200)
    config = replace(TIGHT, cs=(1.0, 1e-4, 1e-2))
    rows, labels = torch.from_numpy(x), torch.from_numpy(y)
    for c, warm in fit_path(rows, labels, config=config, num_classes=4).items():
        cold = fit_logistic(x, y, c=c, config=TIGHT)
        torch.testing.assert_close(warm.weight, cold.weight, rtol=0, atol=1e-5)


def test_classes_without_images_are_never_predicted() -> None:
    x, y = digits(3, 100)
    found = fit_logistic(x, y * 3, c=1.0, num_classes=12)
    assert set(found.logits(x).argmax(dim=1).tolist()) <= {0, 3, 6}
    same = fit_logistic(x, y, c=1.0)
    torch.testing.assert_close(found.logits(x)[:, [0, 3, 6]], same.logits(x))


def test_the_protocol_chooses_c_without_the_test_images() -> None:
    x, y = digits(10)
    config = LogregConfig(cs=(1e-6, 1e-1))
    found = logistic_probe(x[:400], y[:400], x[400:], y[400:], config=config)
    assert found.c == 1e-1
    assert set(found.selection) == {1e-6, 1e-1}
    expected = LogisticRegression(C=0.1, tol=1e-8, max_iter=2000).fit(x[:400], y[:400])
    assert found.accuracy.top1 == pytest.approx(expected.score(x[400:], y[400:]))
    shuffled = logistic_probe(x[:400], y[:400], x[400:], 9 - y[400:], config=config)
    assert shuffled.c == found.c
    assert len(LogregConfig().cs) == 45
    np.testing.assert_allclose(LogregConfig().cs, np.logspace(-6, 5, 45))


def test_wrong_settings_are_named() -> None:
    with pytest.raises(ConfigError, match=r"logreg\.cs"):
        LogregConfig(cs=(0.0,))
    with pytest.raises(DataError, match="do not go together"):
        fit_logistic(torch.zeros(3, 2), torch.zeros(4), c=1.0)


def test_classes_that_were_never_seen_are_not_among_the_first_five() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(60, 5, generator=generator), torch.arange(60) % 2 * 7
    truth = torch.arange(60) % 9  # classes 0 to 8, of which 0 and 7 were seen
    found = logistic_probe(x, y, x, truth, config=LogregConfig(cs=(1.0,)), num_classes=9)
    assert found.accuracy.top5 == pytest.approx(
        float(((truth == 0) | (truth == 7)).double().mean())
    )
    assert set(found.classifier.rank(x)[:, 2:].flatten().tolist()) == {-1}


def test_features_that_are_not_finite_are_refused() -> None:
    x, y = torch.ones(6, 2), torch.arange(6) % 2
    x[3, 0] = torch.nan
    for train, test, side in ((x, x[:2], "training"), (x[:2], x, "test")):
        with pytest.raises(DataError, match=f"1 of 6 rows of {side} features"):
            logistic_probe(train, y[: len(train)], test, y[: len(test)])


@pytest.mark.parametrize(
    ("selection", "said"),
    [
        ({0.1: 0.5, 1.0: 0.6, 10.0: 0.7}, "larger"),
        ({0.1: 0.7, 1.0: 0.6, 10.0: 0.5}, "smaller"),
        ({0.1: 0.5, 1.0: 0.7, 10.0: 0.6}, None),
        ({0.1: 0.7, 1.0: 0.7, 10.0: 0.5}, None),  # as good inside the grid
        ({1.0: 0.7}, None),
        ({}, None),
    ],
)
def test_a_best_c_at_the_edge_of_the_grid_is_said(selection, said) -> None:
    c = max(selection, key=lambda each: selection[each]) if selection else 1.0
    found = LogregResult(Accuracy(0.7, 1.0, 0.7, 10), c, selection, None)  # type: ignore[arg-type]
    (line,) = edge_warning(found) or (None,)
    assert (line is not None) == (said is not None)
    assert said is None or f"a {said} one" in line
