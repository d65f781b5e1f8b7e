import math

import pytest
import torch

from ssl_vision.engine.collapse import diagnose
from ssl_vision.engine.online_eval import _signs
from ssl_vision.engine.train import train

BEFORE = {"feature_std": 0.3, "centred_rank": 20.0, "dead_share": 0.0, "knn_top1": 0.3}
GOOD = {"feature_std": 0.6, "centred_rank": 60.0, "dead_share": 0.0, "knn_top1": 0.31}
LN_K = {"ln_k": math.log(4096)}


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({}, "healthy"),
        ({"feature_std": 0.01, "centred_rank": 6.0}, "complete collapse"),
        ({"feature_std": 1e-6}, "complete collapse"),
        ({"feature_std": math.nan}, "diverged"),
        ({"loss": math.inf}, "diverged"),
        ({"centred_rank": 1.2}, "dimensional collapse"),
        ({"centred_rank": 4.0}, "dimensional collapse"),
        ({"dead_share": 0.8}, "dead dimensions"),
        ({"knn_top1": 0.2}, "worse than untrained"),
        ({"knn_top1": 0.28}, "healthy"),
        # The constants people post in issues: ln 4096 = 8.3178.
        (LN_K | {"loss": 8.3178, "cross_view": 8.3178}, "loss at ln K"),
        # Terms on patches and KoLeo move the total, not what crops say of each other.
        (LN_K | {"loss": 16.6, "cross_view": 8.3178}, "loss at ln K"),
        (LN_K | {"loss": 8.3178, "cross_view": 5.1}, "healthy"),
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
    verdict = diagnose({"feature_std": 0.01, "centred_rank": 1.1, "dead_share": 0.9})
    assert verdict.name == "untrained"
    assert not verdict.is_problem


def test_features_that_never_were_diverse_are_no_collapse():
    start = {"feature_std": 0.03, "centred_rank": 1.6, "dead_share": 0.6}
    assert diagnose(start | {"centred_rank": 2.0}, untrained=start).name == "healthy"


# Measured on runs: before training, and later.
CLOUDS = (  # Point-MAE on the built-in solids, 45 updates: a narrow cone, and sound
    {"feature_std": 0.789, "centred_rank": 27.3, "dead_share": 0.0, "knn_top1": 0.203},
    {"feature_std": 0.0032, "centred_rank": 57.6, "dead_share": 0.0, "knn_top1": 0.613},
)
LOST_CLOUDS = (  # the same at a rate a thousand times too high: narrower, and nothing gained
    CLOUDS[0],
    {"feature_std": 0.00019, "centred_rank": 25.8, "dead_share": 0.0, "knn_top1": 0.200},
)
CORNER = (  # MAE on digits at a rate a thousand times too high, 22 updates: as narrow, and lost
    {"feature_std": 0.301, "centred_rank": 12.8, "dead_share": 0.0, "knn_top1": 0.550},
    {"feature_std": 0.0040, "centred_rank": 3.5, "dead_share": 0.0, "knn_top1": 0.247},
)


@pytest.mark.parametrize("has_labels", [True, False])
@pytest.mark.parametrize(
    ("run", "name"),
    [
        (CLOUDS, "healthy"),
        (CORNER, "complete collapse"),
        (LOST_CLOUDS, "complete collapse"),
    ],
)
def test_a_narrow_cone_is_a_collapse_only_where_directions_are_lost_too(run, name, has_labels):
    before, after = ({k: v for k, v in d.items() if has_labels or k != "knn_top1"} for d in run)
    assert diagnose(after, untrained=before).name == name


@pytest.mark.parametrize("signs", [{"feature_std": 0.01, "centred_rank": 6.0}, {"centred_rank": 3}])
@pytest.mark.parametrize(("knn", "is_spared"), [(0.8, True), (0.38, True), (0.36, False)])
def test_accuracy_that_has_clearly_risen_outweighs_spread_and_rank(signs, knn, is_spared):
    verdict = diagnose(GOOD | signs | {"knn_top1": knn}, untrained=BEFORE)
    assert (verdict.name == "healthy") == is_spared  # 0.37: a tenth of the errors before are gone


def test_runs_begun_before_directions_were_counted_are_judged_by_what_they_have():
    before = {name: value for name, value in BEFORE.items() if name != "centred_rank"}
    assert diagnose(GOOD | {"feature_std": 0.01}, untrained=before).name == "healthy"
    assert diagnose(GOOD | {"centred_rank": 1.2}, untrained=before).name == "dimensional collapse"


def test_a_shared_direction_changes_no_verdict_and_copies_of_one_direction_do():
    rows = torch.randn(512, 32, generator=torch.Generator().manual_seed(0))
    far = torch.full((32,), 100.0)
    copies = rows[:, :1] * torch.ones(32) + 0.01 * rows
    before = _signs(rows)
    assert diagnose(_signs(rows + far), untrained=before).name == "healthy"
    assert diagnose(_signs(far + copies), untrained=before).name == "complete collapse"
    assert diagnose(_signs(copies), untrained=before).name == "dimensional collapse"
    assert diagnose(_signs(far + 1e-5 * rows), untrained=before).name == "complete collapse"


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
