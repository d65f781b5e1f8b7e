import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn

from ssl_vision.errors import ConfigError
from ssl_vision.optim import OptimConfig, apply_schedules, build_optimizer, split_parameters
from ssl_vision.optim.recipe import (
    AnnealConfig,
    InfiniteConfig,
    check_schedules,
    learning_rate,
    weight_decay,
)


@dataclass
class Plan:
    steps_per_epoch: int
    epochs: int | None
    global_batch_size: int = 256

    @property
    def total_steps(self) -> int | None:
        return None if self.epochs is None else self.steps_per_epoch * self.epochs


def _groups(config):
    model = nn.Linear(3, 2)
    groups = split_parameters(
        model.named_parameters(),
        config=config,
        decays=lambda name, p: p.ndim > 1,
        layer_id=lambda name: None,
        num_layers=1,
    )
    return groups


def test_rates_of_barlow_twins_equal_the_authors(golden):
    values = golden("barlow")
    config = OptimConfig(
        name="lars",
        base_lr=0.2,
        bias_base_lr=0.0048,
        warmup_epochs=10,
        end_lr_fraction=0.001,
        weight_decay=1e-6,
    )
    plan = Plan(
        int(values["lr_iters_per_epoch"]), int(values["lr_epochs"]), int(values["lr_batch"])
    )
    optimizer = build_optimizer(_groups(config), config)
    weight, bias = optimizer.param_groups
    for i, step in enumerate(values["lr_steps"]):
        apply_schedules(optimizer, config, plan=plan, step=int(step))
        assert weight["lr"] == pytest.approx(values["lr_weights"][i], rel=1e-9, abs=1e-15)
        assert bias["lr"] == pytest.approx(values["lr_biases"][i], rel=1e-9, abs=1e-15)
    assert (weight["weight_decay"], bias["weight_decay"]) == (1e-6, 0)
    assert (weight["is_adapted"], bias["is_adapted"]) == (True, False)


@pytest.mark.parametrize(
    ("curve", "scaling", "base_lr", "reference"),
    [("linear", "linear", 0.3, 256), ("sqrt", "sqrt", 0.1, 1)],
)
def test_rates_of_simclr_equal_the_authors(golden, curve, scaling, base_lr, reference):
    """31 updates of warm-up, and 313 in all: their count of updates, not of whole epochs."""
    values = golden("simclr_tf")
    config = OptimConfig(
        name="lars", base_lr=base_lr, lr_scaling=scaling, lr_reference_batch=reference,
        warmup_epochs=31 / 313,
    )  # fmt: skip
    plan = Plan(steps_per_epoch=int(values["train_steps"]), epochs=1, global_batch_size=64)
    found = [learning_rate(config, plan=plan, step=int(step)) for step in values["lr_steps"]]
    np.testing.assert_allclose(found, values[f"lr_{curve}"], rtol=1e-5, atol=1e-7)  # float32


def test_rates_of_mae_equal_the_authors(golden):
    values = golden("mae")
    config = OptimConfig(base_lr=1.5e-4, warmup_epochs=40)
    plan = Plan(steps_per_epoch=1000, epochs=800, global_batch_size=4096)
    for epoch, (plain, _) in zip(
        values["lr_epochs"], values["lr_plain_and_half_scale"], strict=True
    ):
        actual = learning_rate(config, plan=plan, step=round(epoch * 1000))
        assert actual == pytest.approx(plain, rel=1e-9, abs=1e-18)


@pytest.mark.parametrize(
    ("recipe", "steps", "epochs", "batch", "warmup_epochs", "scale"),
    [
        ("vit", 800, 346, 1600, 10, 0.78),
        ("swin", 625, 346, 2048, 30, 0.90),
        ("resnet", 1000, 692, 1280, 30, 1.0),
    ],
)
def test_stretched_schedules_equal_those_of_poa(
    golden, recipe, steps, epochs, batch, warmup_epochs, scale
):
    values = golden("poa_loss")
    config = OptimConfig(
        base_lr=0.004,
        lr_scaling="sqrt",
        lr_reference_batch=1024,
        warmup_epochs=warmup_epochs,
        is_peak_in_warmup=True,
        end_lr=2e-5,
        weight_decay=0.04,
        weight_decay_end=0.4,
        schedule_stretch=1 / scale,
    )
    plan = Plan(steps, epochs, batch)
    for i, step in enumerate(values[f"sched.{recipe}.iters"]):
        lr = learning_rate(config, plan=plan, step=int(step))
        decay = weight_decay(config, plan=plan, step=int(step))
        assert lr == pytest.approx(values[f"sched.{recipe}.lr"][i], rel=1e-9)
        assert decay == pytest.approx(values[f"sched.{recipe}.wd"][i], rel=1e-9)


def test_a_cosine_of_800_epochs_stopped_at_400_equals_crocos(golden):
    values = golden("croco")
    config = OptimConfig(base_lr=1.0, warmup_epochs=40, schedule_stretch=2.0)
    plan = Plan(steps_per_epoch=1000, epochs=400)
    for epoch, expected in zip(values["lr_epochs"], values["lr_values"], strict=True):
        if epoch < 400:
            actual = learning_rate(config, plan=plan, step=round(epoch * 1000))
            assert actual == pytest.approx(expected, rel=1e-9)


def test_point_mae_trains_301_epochs_of_a_300_epoch_schedule(golden):
    expected = golden("point")["lr_per_epoch_used_301"]
    config = OptimConfig(
        base_lr=1e-3,
        lr_scaling="none",
        schedule="timm_cosine",
        warmup_start_lr=1e-6,
        end_lr=1e-6,
        schedule_stretch=300 / 301,
    )
    plan = Plan(steps_per_epoch=5, epochs=301)
    actual = [learning_rate(config, plan=plan, step=5 * epoch + 3) for epoch in range(301)]
    np.testing.assert_allclose(actual, expected, rtol=1e-9)


def _four_phases(n, *, num, w, c, k, peak, constant, end, style, is_first):
    """The paper's equations, update by update; w, c, k are ends, in fractions of num updates."""
    warm, cool, hold = (int(num * share) for share in (w, c, k))
    if is_first and n < warm:
        return peak * n / warm
    if is_first and n < cool:
        t = (n - warm) / (cool - warm)
        if style == "cosine":
            return constant + (peak - constant) / 2 * (1 + math.cos(math.pi * t))
        if style == "linear":
            return peak - (peak - constant) * t
        root = lambda x: 1 / math.sqrt(1 + 10 * x) - 1  # noqa: E731
        return peak + (constant - peak) / root(1) * root(t)
    if n <= hold:
        return constant
    return constant * math.exp(math.log(end / constant) * (n - hold) / (num - hold))


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("style", ["cosine", "linear", "inverse_sqrt"])
@pytest.mark.parametrize(
    ("c", "constant", "end", "peak"),
    [(0.3, 0.25, 0.1, 7.5e-5), (0.4, 0.5, 0.01, 1.5e-4), (0.5, 0.75, 0.01, 3e-4)],
)
def test_infinite_rates_equal_a_loop_over_the_equations(c, constant, end, peak, style, is_first):
    plan = Plan(steps_per_epoch=7, epochs=40, global_batch_size=512)  # 280 updates, 14 of warm-up
    config = OptimConfig(
        base_lr=peak / 2, schedule="infinite", warmup_epochs=2,
        infinite=InfiniteConfig(
            constant_lr=constant, end_lr=end, cooldown_end=c, cooldown=style,
            is_continued=not is_first,
        ),
    )  # fmt: skip
    found = [learning_rate(config, plan=plan, step=n) for n in range(281)]
    expected = [
        _four_phases(
            n, num=280, w=0.05, c=c, k=0.8, peak=peak, constant=constant * peak, end=end * peak,
            style=style, is_first=is_first,
        )
        for n in range(281)
    ]  # fmt: skip
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert found[280] == pytest.approx(end * peak)


OPEN = Plan(steps_per_epoch=10, epochs=None)


def _open(**infinite):
    return OptimConfig(
        base_lr=1.0, schedule="infinite", warmup_epochs=1,
        infinite=InfiniteConfig(cooldown_end_epochs=3, **infinite),
    )  # fmt: skip


def test_a_rate_without_horizon_stays_until_a_branch_is_annealed():
    config, whole = _open(), Plan(steps_per_epoch=10, epochs=10)
    fractions = OptimConfig(
        base_lr=1.0, schedule="infinite", warmup_epochs=1, infinite=InfiniteConfig(cooldown_end=0.3)
    )
    for step in range(80):  # the phases of a run with an end, and then no end
        expected = learning_rate(fractions, plan=whole, step=step)
        assert learning_rate(config, plan=OPEN, step=step) == expected
    assert learning_rate(config, plan=OPEN, step=10**9) == 0.5
    branch = replace(config, anneal=AnnealConfig(start_step=80, steps=20))
    for step in range(101):  # as if the end had been known from the start
        expected = learning_rate(fractions, plan=whole, step=step)
        assert learning_rate(branch, plan=OPEN, step=step) == pytest.approx(expected, rel=1e-12)
    assert branch.anneal.end_step == 100


@pytest.mark.parametrize("schedule", ["constant", "infinite", "cosine", "linear"])
def test_a_branch_falls_by_equal_factors_from_the_rate_it_finds(schedule):
    config = OptimConfig(
        base_lr=1.0, schedule=schedule, warmup_epochs=0, infinite=InfiniteConfig(end_lr=0.001)
    )
    plan = Plan(steps_per_epoch=10, epochs=10)
    branch = replace(config, anneal=AnnealConfig(start_step=70, steps=5))
    check_schedules(branch, plan=plan)
    rates = [learning_rate(branch, plan=plan, step=step) for step in range(70, 76)]
    assert rates[0] == learning_rate(config, plan=plan, step=70)
    assert rates[-1] == pytest.approx(0.001)
    factors = np.divide(rates[1:], rates[:-1])
    np.testing.assert_allclose(factors, factors[0])
    assert learning_rate(branch, plan=plan, step=40) == learning_rate(config, plan=plan, step=40)


def test_a_branch_whose_rate_is_at_its_end_already_is_refused():
    plan = Plan(steps_per_epoch=10, epochs=10)
    cosine = OptimConfig(base_lr=1.0, warmup_epochs=1, anneal=AnnealConfig(start_step=100, steps=5))
    with pytest.raises(ConfigError, match=r"anneal\.start_step=100: the rate is 0 there"):
        check_schedules(cosine, plan=plan)
    check_schedules(replace(cosine, anneal=AnnealConfig(start_step=50, steps=5)), plan=plan)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"schedule": "cosine"}, r"optim\.schedule=cosine is laid out.* use infinite or constant"),
        ({"schedule": "linear"}, r"optim\.schedule=linear"),
        ({"schedule": "timm_cosine"}, r"optim\.schedule=timm_cosine"),
        ({"schedule": "infinite"}, r"optim\.infinite\.cooldown_end=0\.4.*cooldown_end_epochs"),
        ({"schedule": "constant", "weight_decay_end": 0.4}, r"optim\.weight_decay_end=0\.4"),
    ],
)
def test_what_needs_the_end_of_a_run_says_so_where_there_is_none(settings, words):
    with pytest.raises(ConfigError, match=words) as refused:
        check_schedules(OptimConfig(**settings), plan=OPEN)
    assert "trainer.epochs=null has no end" in str(refused.value)
    check_schedules(OptimConfig(**settings), plan=Plan(steps_per_epoch=10, epochs=10))


def test_infinite_schedule_in_fractions_of_the_run():
    config = OptimConfig(
        base_lr=1.0, schedule="infinite", warmup_epochs=1, infinite=InfiniteConfig()
    )
    plan = Plan(steps_per_epoch=10, epochs=10)
    actual = [learning_rate(config, plan=plan, step=s) for s in (0, 10, 25, 40, 79, 100)]
    np.testing.assert_allclose(actual, [0, 1, 0.75, 0.5, 0.5, 0.01])
    later_task = OptimConfig(
        base_lr=1.0, schedule="infinite", infinite=InfiniteConfig(is_continued=True)
    )
    assert learning_rate(later_task, plan=plan, step=0) == 0.5


@pytest.mark.parametrize("name", ["adamw", "lars", "sgd"])
def test_every_optimizer_moves_with_the_recipes_rates(name):
    config = OptimConfig(name=name, base_lr=0.1, lr_scaling="none", schedule="constant",
                         warmup_epochs=0, weight_decay=0.0)  # fmt: skip
    groups = _groups(config)
    optimizer = build_optimizer(groups, config)
    before = [p.detach().clone() for g in groups for p in g["params"]]
    for group in groups:
        for p in group["params"]:
            p.grad = torch.ones_like(p)
    apply_schedules(optimizer, config, plan=Plan(1, 1), step=0)
    optimizer.step()
    after = [p for g in groups for p in g["params"]]
    assert all(not torch.equal(a, b) for a, b in zip(after, before, strict=True))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (dict(base_lr=0), "optim.base_lr=0"),
        (dict(clip_norm=0.0), "null switches clipping off"),
        (dict(betas=(0.9, 1.0)), "optim.betas"),
        (dict(end_lr=1e-6, end_lr_fraction=0.1), "twice"),
        (dict(layer_decay=0), "optim.layer_decay"),
        (dict(lr_reference_batch=0), "lr_reference_batch"),
        (dict(weight_decay=-1), "optim.weight_decay=-1"),
    ],
)
def test_impossible_recipes_name_the_key(settings, words):
    with pytest.raises(ConfigError, match=words):
        OptimConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [(dict(end_lr=0), "infinite.end_lr"), (dict(cooldown_end=0.9, anneal_start=0.8), "rise")],
)
def test_impossible_phases_name_the_key(settings, words):
    with pytest.raises(ConfigError, match=words):
        InfiniteConfig(**settings)


def test_nothing_to_train_is_a_config_error():
    with pytest.raises(ConfigError, match="trainable"):
        build_optimizer([], OptimConfig())


def _train(optimizer, parameters, config, num_steps=5):
    generator = torch.Generator().manual_seed(1)
    for step in range(num_steps):
        for p in parameters:
            p.grad = torch.randn(p.shape, generator=generator).to(p)
        apply_schedules(optimizer, config, plan=Plan(1, num_steps), step=step)
        optimizer.step()
    return [p.detach().cpu().clone() for p in parameters]


def _two_groups(config, device):
    generator = torch.Generator().manual_seed(0)
    shapes = {"weight": (7, 5), "bias": (7,), "other.weight": (3, 3, 2)}
    named = [
        (name, torch.nn.Parameter(torch.randn(shape, generator=generator).to(device)))
        for name, shape in shapes.items()
    ]
    groups = split_parameters(
        named,
        config=config,
        decays=lambda name, p: p.ndim > 1,
        layer_id=lambda name: None,
        num_layers=1,
    )
    return groups, [p for _, p in named]


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_on_a_cpu_optimizers_are_torchs_defaults_bit_for_bit(name):
    config = OptimConfig(name=name, base_lr=0.01, warmup_epochs=0, weight_decay=0.1)
    groups, parameters = _two_groups(config, "cpu")
    optimizer = build_optimizer(groups, config)
    assert [group["fused"] for group in optimizer.param_groups] == [None, None]
    found = _train(optimizer, parameters, config)
    groups, parameters = _two_groups(config, "cpu")
    plain = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[name]
    options = {"betas": config.betas} if name == "adamw" else {"momentum": config.momentum}
    expected = _train(plain([dict(group) for group in groups], **options), parameters, config)
    assert all(map(torch.equal, found, expected))


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_on_a_gpu_the_fused_form_is_taken_and_equals_the_other(name):
    config = OptimConfig(name=name, base_lr=0.01, warmup_epochs=0, weight_decay=0.1)
    results = []
    for is_loss_scaled in (False, True):
        groups, parameters = _two_groups(config, "cuda")
        optimizer = build_optimizer(groups, config, is_loss_scaled=is_loss_scaled)
        is_fused = [group["fused"] for group in optimizer.param_groups]
        assert is_fused == [None if is_loss_scaled else True] * 2
        results.append(_train(optimizer, parameters, config))
    for fused, other in zip(*results, strict=True):
        torch.testing.assert_close(fused, other, rtol=1e-5, atol=1e-6)
