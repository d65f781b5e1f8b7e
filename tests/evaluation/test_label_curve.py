import math

import numpy as np
import pytest
from scipy.stats import bootstrap

from ssl_vision.errors import ConfigError
from ssl_vision.evaluation.accuracy import wilson_interval
from ssl_vision.evaluation.label_curve import CurvePoint, LabelCurveConfig, labels_needed

ENDLESS = 10**12  # test images, where only the draws are to matter


def _points(*pairs):
    return [CurvePoint(labels, (mean, mean), ENDLESS) for labels, mean in pairs]


def test_labels_needed_is_a_line_over_the_logarithm():
    curve = _points((1, 0.2), (10, 0.6), (100, 0.8))
    assert labels_needed(curve, 0.6) == pytest.approx(10)
    assert labels_needed(curve, 0.4) == pytest.approx(math.sqrt(10))
    assert labels_needed(curve, 0.7) == pytest.approx(10 * math.sqrt(10))
    assert labels_needed(curve, 0.1) == 1
    assert labels_needed(curve, 0.9) == math.inf


def test_a_curve_that_dips_counts_where_it_first_gets_there():
    curve = _points((1, 0.2), (10, 0.6), (20, 0.5), (40, 0.7))
    assert labels_needed(curve, 0.55) < 10


def test_needing_labels_undoes_reading_the_curve():
    curve = _points((1, 0.1), (4, 0.3), (32, 0.9))
    logs = np.log([1, 4, 32])
    for accuracy in np.linspace(0.11, 0.89, 9):
        found = labels_needed(curve, float(accuracy))
        read = np.interp(math.log(found), logs, [0.1, 0.3, 0.9])
        assert read == pytest.approx(accuracy)


def test_the_interval_holds_the_true_mean_nineteen_times_in_twenty():
    rng = np.random.default_rng(0)
    draws = rng.normal(0.6, 0.05, (4000, 5))
    intervals = [CurvePoint(1, tuple(row), ENDLESS).interval for row in draws]
    share = np.mean([low <= 0.6 <= high for low, high in intervals])
    assert share == pytest.approx(0.95, abs=0.012)


def test_many_draws_give_the_bootstraps_interval():
    values = np.random.default_rng(1).normal(0.5, 0.1, 400)
    point = CurvePoint(1, tuple(values), ENDLESS)
    found = bootstrap((values,), np.mean, random_state=0).confidence_interval
    assert point.interval == pytest.approx((found.low, found.high), abs=1e-3)
    assert point.mean == pytest.approx(values.mean())


@pytest.mark.parametrize("share", [0.0, 0.5, 31 / 32, 1.0])
def test_draws_that_agree_leave_the_interval_of_the_test_images(share):
    point = CurvePoint(5, (share,) * 4, 32)
    assert point.interval == pytest.approx(wilson_interval(share, 32), abs=1e-12)
    assert point.interval.high - point.interval.low > 0.1


def test_the_interval_holds_what_other_draws_and_other_test_images_would_give():
    """Simulated: a draw's classifier has a share of its own; all draws meet the same images."""
    rng, num_test, num_draws, mean, spread = np.random.default_rng(2), 200, 5, 0.7, 0.06
    held = 0
    for _ in range(3000):
        shift = rng.normal(0, spread, num_draws)
        ease = rng.random(num_test)  # an image is right where a draw's share is above this
        shares = tuple((ease[None] < mean + shift[:, None]).mean(axis=1))
        low, high = CurvePoint(1, shares, num_test).interval
        held += low <= mean <= high
    assert 0.94 <= held / 3000 <= 0.99


@pytest.mark.parametrize(
    "settings",
    [{"labels_per_class": ()}, {"labels_per_class": (0, 1)}, {"labels_per_class": (5, 5)},
     {"draws": 1}, {"c": 0.0}],
)  # fmt: skip
def test_impossible_settings_name_the_key(settings):
    with pytest.raises(ConfigError, match=f"label_curve.{next(iter(settings))}"):
        LabelCurveConfig(**settings)
