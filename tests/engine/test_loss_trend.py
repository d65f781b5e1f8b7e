"""A trend is seen where there is one, and noise is not taken for one."""

import numpy as np
import pytest

from ssl_vision.engine.loss_trend import loss_sentence, loss_trend


@pytest.mark.parametrize("slope", [-1.0, 1.0])
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_slopes_are_seen(slope: float, noise: float) -> None:
    random = np.random.default_rng(0)
    values = 5 + slope * np.linspace(0, 1, 60) + noise * random.normal(size=60)
    found = loss_trend(values.tolist())
    assert found is not None
    assert found.direction == ("falling" if slope < 0 else "rising")
    assert abs(found.start - values[:6].mean()) < 1e-9


def test_noise_is_flat_nearly_always() -> None:
    random = np.random.default_rng(1)
    found = [loss_trend((3 + random.normal(size=40)).tolist()) for _ in range(300)]
    assert sum(each is not None and each.direction == "flat" for each in found) > 285


def test_a_fall_that_ended_is_flat() -> None:
    values = [3.0, 2.0, 1.5, 1.2, *[1.0] * 20]
    found = loss_trend(values)
    assert found is not None
    assert found.direction == "flat"
    assert _said(values).startswith("loss flat (2.5 at first, 1 now); more epochs will change")


def test_where_the_rate_ran_out_a_flat_loss_says_nothing_of_more_epochs() -> None:
    values = [3.0, 2.0, 1.5, 1.2, *[1.0] * 20]
    cosine = (1 + np.cos(np.linspace(0, np.pi, 24))) / 2
    assert "rate has run out" in _said(values, rates=cosine.tolist())
    assert "more epochs will change little" in _said(values, rates=[0.1] * 24)


def test_a_rise_after_a_fall_is_called_late() -> None:
    values = [*np.linspace(5, 1, 20).tolist(), *np.linspace(1, 1.5, 20).tolist()]
    assert _said(values).startswith("loss rising lately (")
    assert _said(np.linspace(1, 2, 30).tolist()).startswith("loss rising (")


def _said(values: list[float], *, method: str = "mae", rates: list[float] | None = None) -> str:
    rates = rates or [0.1] * len(values)
    pairs = zip(values, rates, strict=True)
    return str(loss_sentence([{"train/loss": v, "optim/lr": r} for v, r in pairs], method=method))


def test_a_short_curve_that_slows_down_is_falling() -> None:
    """Of a run of 100 updates, whose first steps are no noise."""
    assert _said([42.1, 20.0, 16.9, 13.6, 11.7, 11.4]).startswith("loss falling (42.1 at first")


def test_too_little_to_say() -> None:
    assert loss_trend([1.0] * 5) is None
    assert loss_trend([float("nan")] * 50) is None
    assert loss_sentence([], method="dino") is None


def test_moving_targets_are_not_judged_by_their_loss() -> None:
    assert "judge by kNN" in _said([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], method="dino")
    assert "do not" in _said([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
