import math

import numpy as np
import pytest

from ssl_vision.schedules import (
    cosine,
    infinite,
    linear,
    ramp,
    scaled_lr,
    timm_cosine,
    warmup,
    warmup_cosine,
)


def test_lr_scaling_rules():
    assert scaled_lr(0.1, rule="linear", batch_size=1024, reference_batch=256) == pytest.approx(0.4)
    assert scaled_lr(0.1, rule="sqrt", batch_size=1024, reference_batch=256) == pytest.approx(0.2)
    assert scaled_lr(0.1, rule="none", batch_size=1024, reference_batch=256) == 0.1


def test_schedules_of_dino_equal_the_authors(golden):
    values = golden("dino")  # warm-up 2 of 6 epochs, 7 steps per epoch
    for step in range(42):
        lr = warmup_cosine(
            step,
            start=0.0,
            peak=1e-3,
            end=1e-6,
            warmup_steps=14,
            total_steps=42,
            is_peak_included=True,
        )
        decay = cosine(step, start=0.04, end=0.4, total_steps=42)
        momentum = cosine(step, start=0.996, end=1.0, total_steps=42)
        assert lr == pytest.approx(values["sched_lr_full"][step], rel=1e-12)
        assert decay == pytest.approx(values["sched_wd_full"][step], rel=1e-12)
        assert momentum == pytest.approx(values["sched_ema_full"][step], rel=1e-12)


def test_teacher_temperature_equals_the_authors(golden):
    expected = golden("dino")["loss_teacher_temp_schedule"]
    actual = [ramp(epoch, start=0.04, end=0.07, num=3) for epoch in range(5)]
    np.testing.assert_allclose(actual, expected, rtol=1e-12)


@pytest.mark.parametrize("num", [0, 1, 2, 7])
def test_ramp_is_numpys_linspace_then_constant(num):
    expected = np.concatenate([np.linspace(0.04, 0.07, num), np.full(3, 0.07)])
    actual = [ramp(epoch, start=0.04, end=0.07, num=num) for epoch in range(num + 3)]
    np.testing.assert_allclose(actual, expected, rtol=1e-12)


@pytest.mark.parametrize("num", [1, 2, 5])
def test_warmup_conventions(num):
    rising = dict(start=0.1, peak=2.0, warmup_steps=num)
    included = [warmup(i, **rising, is_peak_included=True) for i in range(num)]
    excluded = [warmup(i, **rising, is_peak_included=False) for i in range(num)]
    np.testing.assert_allclose(included, np.linspace(0.1, 2.0, num))
    np.testing.assert_allclose(excluded, np.linspace(0.1, 2.0, num + 1)[:-1])


def test_linear_falls_on_a_line_and_stays():
    actual = [linear(i, start=1.0, end=0.0, total_steps=4) for i in range(6)]
    np.testing.assert_allclose(actual, [1, 0.75, 0.5, 0.25, 0, 0])


@pytest.mark.parametrize(
    ("name", "key", "warmup_epochs", "start", "end", "total"),
    [
        ("point", "lr_per_epoch_used_301", 10, 1e-6, 1e-6, 300),
        ("smmix", "lr_per_epoch_used_300", 5, 1e-6, 1e-5, 300),
    ],
)
def test_timm_cosine_equals_what_the_authors_used(
    golden, name, key, warmup_epochs, start, end, total
):
    expected = golden(name)[key]
    actual = [
        timm_cosine(
            epoch, start=start, peak=1e-3, end=end, warmup_epochs=warmup_epochs, total_epochs=total
        )
        for epoch in range(len(expected))
    ]
    np.testing.assert_allclose(actual, expected, rtol=1e-9)


def _infinite(step, **changes):
    settings = dict(
        start=0.0,
        peak=1.0,
        constant=0.5,
        end=0.01,
        warmup_steps=10,
        cooldown_end=40,
        anneal_start=80,
        anneal_end=100,
    )
    return infinite(step, **{**settings, **changes})


@pytest.mark.parametrize("cooldown", ["cosine", "linear", "inverse_sqrt"])
def test_infinite_passes_through_its_corners(cooldown):
    corners = {0: 0.0, 5: 0.5, 10: 1.0, 40: 0.5, 60: 0.5, 80: 0.5, 100: 0.01, 120: 0.01}
    for step, expected in corners.items():
        assert _infinite(step, cooldown=cooldown) == pytest.approx(expected)


def test_infinite_shapes_between_the_corners():
    assert _infinite(25, cooldown="linear") == pytest.approx(0.75)
    assert _infinite(25, cooldown="cosine") == pytest.approx(0.75)
    scale = 1 / math.sqrt(11) - 1
    expected = 1.0 + (0.5 - 1.0) / scale * (1 / math.sqrt(6) - 1)
    assert _infinite(25, cooldown="inverse_sqrt") == pytest.approx(expected)
    # Exponential: equal ratios over equal spans.
    assert _infinite(90) == pytest.approx(math.sqrt(0.5 * 0.01))


def test_infinite_goes_on_until_annealing_is_called_for():
    assert _infinite(10_000, anneal_start=None) == 0.5


def test_infinite_continues_at_the_constant():
    assert _infinite(0, warmup_steps=0, cooldown_end=0) == 0.5
