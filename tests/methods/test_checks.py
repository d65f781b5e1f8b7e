"""What settings of methods are checked for: every number has bounds, and some go together."""

from dataclasses import fields, is_dataclass
from types import NoneType
from typing import get_args, get_type_hints

import pytest

from ssl_vision.backbones.build import BackboneConfig, build_backbone
from ssl_vision.errors import ConfigError
from ssl_vision.methods import METHODS
from ssl_vision.methods.base import TrainPlan
from ssl_vision.methods.checks import check_prototype_head, check_weights
from ssl_vision.methods.dino import DinoConfig
from ssl_vision.methods.distill import TeacherConfig
from ssl_vision.methods.lejepa import LejepaConfig
from ssl_vision.methods.poa import PoaConfig
from ssl_vision.methods.random_teacher import RandomTeacherConfig
from ssl_vision.methods.vicreg import VicregConfig
from ssl_vision.optim import OptimConfig

TINY = {"layers": [1, 1, 1, 1], "channels": [4, 4, 4, 4]}

_NEEDED = {
    "DistillConfig": {"teachers": {"one": TeacherConfig(weights="w")}},
    "TeacherConfig": {"weights": "w"},
}


def _numbers(kind: type) -> list[tuple[type, str, tuple[type, ...]]]:
    """Owner, name and types of each numeric setting, those of nested settings too."""
    found = []
    for name, wanted in get_type_hints(kind).items():
        if name not in {field.name for field in fields(kind)}:
            continue
        parts = tuple(each for each in get_args(wanted) if each is not NoneType) or (wanted,)
        if any(get_args(part) for part in parts):  # a list or nothing
            parts = tuple(each for part in parts for each in get_args(part))
        if is_dataclass(parts[-1]):
            found += _numbers(parts[-1])
        elif parts[0] in (int, float):
            found.append((kind, name, parts))
    return found


NUMBERS = [each for entry in METHODS.values() for each in _numbers(entry.config)]


def test_the_numbers_of_all_methods_are_found():
    found = {(kind.__name__, name) for kind, name, _ in NUMBERS}
    assert len(found) > 110
    assert {
        ("DinoConfig", "mask_ratio"), ("PoaConfig", "num_prototypes"), ("TeacherConfig", "weight"),
        ("ElasticConfig", "min_depth"), ("MultiBlockConfig", "min_keep"),
        ("MixingConfig", "cutmix_alpha"), ("RandomTeacherConfig", "student_distance"),
        ("SupervisedConfig", "ema_momentum"), ("LejepaConfig", "projector_dims"),
    } <= found  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "name", "parts"), NUMBERS, ids=[f"{kind.__name__}.{name}" for kind, name, _ in NUMBERS]
)
def test_no_number_of_a_method_may_be_negative_or_none_at_all(kind, name, parts):
    for wrong in (-1, float("nan")) if parts[0] is float else (-1,):
        num = 1 if parts[-1] is ... else len(parts)
        value = (wrong,) * num if len(parts) > 1 else wrong
        with pytest.raises(ConfigError, match=name) as refused:
            kind(**_NEEDED.get(kind.__name__, {}), **{name: value})
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        (DinoConfig, {"num_prototypes": 1}, "num_prototypes=1 must be 2 or more"),
        (PoaConfig, {"num_prototypes": (8, 1)}, "num_prototypes=.*must be 2 or more"),
        (DinoConfig, {"sinkhorn_iterations": 0}, "sinkhorn_iterations=0 must be 1 or more"),
        (DinoConfig, {"bottleneck_dim": 1}, "bottleneck_dim=1 must be 2 or more"),
        (DinoConfig, {"num_head_layers": 100_000}, "num_head_layers=100000 .* 1,000 or less"),
        (DinoConfig, {"patch_weight": 1.0, "mask_fraction": 0.0}, r"mask nothing.*patch_weight=0"),
        (DinoConfig, {"patch_weight": 1.0, "mask_ratio": (0.0, 0.0)}, "mask nothing"),
        (PoaConfig, {"mask_fraction": 0.0}, "has_patch_loss=false"),
        (RandomTeacherConfig, {"num_prototypes": 1}, "num_prototypes=1 must be 2 or more"),
        (
            VicregConfig,
            {"invariance_weight": 0.0, "variance_weight": 0.0, "covariance_weight": 0.0},
            "nothing is left of the loss",
        ),
        (LejepaConfig, {"t_max": 1e4}, r"t_max=10000.0 with .*num_points=17.* 16 or less"),
        (LejepaConfig, {"t_max": 1e-6}, "t_max=1e-06 must be 0.1 or more"),
        *(
            (METHODS[name].config, {"decoder_depth": 0}, "decoder_depth=0 must be 1 or more")
            for name in ("mae", "croco", "point_mae", "point_cmae")
        ),
        *(
            (METHODS[name].config, {f"decoder_{what}": 0}, f"decoder_{what}=0 must be 1 or more")
            for name in ("mae", "croco")
            for what in ("width", "num_heads")
        ),
    ],
)
def test_settings_with_which_nothing_is_learned_are_refused(kind, settings, words):
    with pytest.raises(ConfigError, match=words):
        kind(**settings)


def test_what_is_at_the_edge_of_its_range_is_taken():
    DinoConfig(mask_fraction=0.0)  # nothing is learned from masks
    PoaConfig(mask_fraction=0.0, has_patch_loss=False)
    RandomTeacherConfig(num_prototypes=1, loss="mse")
    LejepaConfig(t_max=16.0)
    check_weights(VicregConfig(invariance_weight=0.0, covariance_weight=0.0), "variance_weight")
    check_prototype_head(DinoConfig(bottleneck_dim=2, num_head_layers=1, hidden_dim=1))


@pytest.mark.parametrize("name", ["simclr", "barlow_twins", "vicreg", "lejepa"])
def test_a_micro_batch_of_one_is_refused_before_training(name: str) -> None:
    def build(num: int, accumulate: int, **settings: int) -> None:
        backbone = build_backbone(BackboneConfig(name="resnet18", args=TINY), input_size=32)
        plan = TrainPlan(steps_per_epoch=3, epochs=20, global_batch_size=num, accumulate=accumulate)
        config = METHODS[name].config(name=name, **settings)
        METHODS[name].module(config, backbone, optim=OptimConfig(), plan=plan)

    words = r"global_batch_size=9 in trainer\.accumulate=9 .*trainer\.devices.*accumulate=3 or .*18"
    with pytest.raises(ConfigError, match=words):
        build(9, 9)
    build(9, 3)  # what the message offers
    build(18, 9)
    if name == "simclr":  # the memory has the others
        build(9, 9, memory_size=64)
