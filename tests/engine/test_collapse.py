import math

import pytest

from ssl_vision.engine.collapse import diagnose
from ssl_vision.engine.train import train

BEFORE = {"feature_std": 0.3, "rankme": 20.0, "dead_share": 0.0, "knn_top1": 0.3}
GOOD = {"feature_std": 0.6, "rankme": 60.0, "dead_share": 0.0, "knn_top1": 0.8}
LN_K = {"ln_k": math.log(4096)}


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({}, "healthy"),
        ({"feature_std": 0.01}, "complete collapse"),
        ({"feature_std": math.nan}, "diverged"),
        ({"loss": math.inf}, "diverged"),
        ({"rankme": 1.2}, "dimensional collapse"),
        ({"rankme": 4.0}, "dimensional collapse"),
        ({"dead_share": 0.8}, "dead dimensions"),
        ({"knn_top1": 0.2}, "worse than untrained"),
        ({"knn_top1": 0.28}, "healthy"),
        # The constants people post in issues: ln 4096 = 8.3178.
        (LN_K | {"loss": 8.3178}, "loss at ln K"),
        (LN_K | {"loss": 6.0, "teacher_entropy": 8.317}, "uniform teacher"),
        (LN_K | {"teacher_entropy": 0.05, "teacher_marginal_entropy": 0.05}, "few prototypes"),
        # Sharp answers, different for different images, are what is wanted.
        (LN_K | {"teacher_entropy": 0.05, "teacher_marginal_entropy": 6.0}, "healthy"),
        (LN_K | {"teacher_entropy": 5.0, "teacher_marginal_entropy": 7.0}, "healthy"),
    ],
)
def test_numbers_have_names(values, name):
    verdict = diagnose(GOOD | values, untrained=BEFORE)
    assert verdict.name == name
    assert verdict.is_problem == (name != "healthy")
    assert bool(verdict.advice) == verdict.is_problem


def test_an_untrained_network_is_not_judged():
    verdict = diagnose({"feature_std": 0.01, "rankme": 1.1, "dead_share": 0.9})
    assert verdict.name == "untrained"
    assert not verdict.is_problem


def test_features_that_never_were_diverse_are_no_collapse():
    start = {"feature_std": 0.03, "rankme": 1.6, "dead_share": 0.6}
    assert diagnose(start | {"rankme": 2.0}, untrained=start).name == "healthy"


COLLAPSING = {
    # Without sharpening the teacher becomes uniform.
    "uniform teacher": (
        "dino",
        "method.teacher_temperature=1.0",
        "method.teacher_temperature_start=1.0",
        "method.teacher_momentum=0.5",
        "method.freeze_last_layer_epochs=0",
        "optim.base_lr=5e-3",
    ),
    # Without centring one prototype takes all.
    "few prototypes": (
        "dino",
        "method.center_momentum=1.0",
        "method.teacher_momentum=0.5",
        "method.freeze_last_layer_epochs=0",
        "optim.base_lr=5e-3",
    ),
    # A rate a thousand times too high throws the features into a corner.
    "collapse": ("mae", "optim.base_lr=1.0", "optim.warmup_epochs=0"),
}


@pytest.mark.parametrize("verdict", COLLAPSING)
def test_runs_that_really_collapse_are_noticed(recipe, verdict, capsys):
    method, *overrides = COLLAPSING[verdict]
    config = recipe(
        method,
        *overrides,
        "trainer.epochs=2",
        "data.global_batch_size=128",
        "online_eval.every_epochs=2",
        "trainer.log_every_steps=1",
    )
    train(config)
    shown = " ".join(capsys.readouterr().out.split())
    assert verdict in shown.rpartition("warning: update 22:")[2]
    assert verdict in (config.run_path / "metrics.jsonl").read_text().splitlines()[-1]
    assert '<p class="verdict problem">' in (config.run_path / "report.html").read_text()


def test_a_sound_run_is_called_healthy(recipe, capsys):
    train(recipe("mae", "online_eval.every_epochs=2"))
    assert "healthy" in capsys.readouterr().out
