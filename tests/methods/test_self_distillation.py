"""What DINO and POA share, on a method that is nothing else."""

import itertools
import math

import pytest
import torch

from ssl_vision.backbones.build import BackboneConfig, build_backbone
from ssl_vision.errors import ConfigError
from ssl_vision.methods.base import TrainPlan
from ssl_vision.methods.dino import DinoConfig
from ssl_vision.methods.poa import PoaConfig
from ssl_vision.methods.self_distillation import SelfDistillation, SelfDistillationConfig
from ssl_vision.nn.centering import Center
from ssl_vision.nn.ema import EmaTeacher
from ssl_vision.nn.heads import PrototypeHead
from ssl_vision.optim.recipe import OptimConfig
from ssl_vision.types import Batch
from ssl_vision.views import ViewConfig

PLAN = TrainPlan(steps_per_epoch=4, epochs=3, global_batch_size=2, input_size=32)


class Smallest(SelfDistillation):
    """A backbone, a head, a centre."""

    def __init__(self, config: SelfDistillationConfig) -> None:
        torch.manual_seed(0)
        args = {"patch_size": 8, "embed_dim": 12, "depth": 1, "num_heads": 2}
        backbone = build_backbone(
            BackboneConfig(name="vit_tiny_patch16_224", args=args), input_size=32
        )
        super().__init__(config, backbone, optim=OptimConfig(), plan=PLAN)
        self.has_patch_loss = True
        self.head = PrototypeHead(12, 5, hidden_dim=6, bottleneck_dim=4, num_layers=2)
        self.teacher, self.teacher_head = EmaTeacher(backbone), EmaTeacher(self.head)
        self.center = Center(5, momentum=0.5)

    def _teachers(self):
        return [(self.teacher, self.backbone), (self.teacher_head, self.head)]

    def _heads(self):
        return [self.head]

    def _centers(self):
        return [self.center]


def smallest(**settings) -> Smallest:
    return Smallest(SelfDistillationConfig(name="smallest", **settings))


def test_teachers_follow_by_the_momentum_of_the_update_and_restart_as_copies() -> None:
    method = smallest(teacher_momentum=0.6, teacher_momentum_end=0.9)
    before = [p.clone() for t in (method.teacher, method.teacher_head) for p in t.parameters()]
    for parameter in (*method.backbone.parameters(), *method.head.parameters()):
        parameter.data += 1.0
    method.after_update(3)
    # A quarter of half a cosine from 0.6 to 0.9, over 12 updates.
    momentum = 0.9 - 0.3 * (1 + math.cos(math.pi * 3 / 12)) / 2
    students = [*method.backbone.parameters(), *method.head.parameters()]
    teachers = [*method.teacher.parameters(), *method.teacher_head.parameters()]
    for old, now, student in zip(before, teachers, students, strict=True):
        torch.testing.assert_close(now, momentum * old + (1 - momentum) * student)
    method.on_weights_loaded()
    assert all(map(torch.equal, teachers, students))
    assert method.export_backbone() is method.teacher.network


def test_temperature_warms_up_by_update_and_stays() -> None:
    method = smallest(
        teacher_temperature=0.07, teacher_temperature_start=0.04, teacher_temperature_epochs=1.5
    )
    found = [method.teacher_temperature(step) for step in range(8)]
    assert found[0] == pytest.approx(0.04)
    assert found[6:] == pytest.approx([0.07, 0.07])
    rises = [after - before for before, after in itertools.pairwise(found[:6])]
    assert min(rises) > 0
    assert max(rises) == pytest.approx(min(rises))


@pytest.mark.parametrize(("step", "is_frozen"), [(0, True), (5, True), (6, False)])
def test_last_layers_get_no_gradient_in_the_first_epochs(step, is_frozen) -> None:
    method = smallest(freeze_last_layer_epochs=1.5)
    method.head(torch.ones(2, 12)).sum().backward()
    method.before_update(step)
    assert all((p.grad is None) == is_frozen for p in method.head.last_layer.parameters()
               if p.requires_grad)  # fmt: skip
    assert method.head.mlp[0].weight.grad is not None


def test_centres_move_with_an_update_and_forget_a_skipped_one() -> None:
    method = smallest()
    method.center.collect(torch.full((3, 5), 2.0))
    method.after_skip(0)
    method.after_update(1)
    assert not method.center.center.any()
    method.center.collect(torch.full((3, 5), 2.0))
    method.after_update(2)
    assert torch.equal(method.center.center, torch.ones(1, 5))


def test_masks_set_in_with_the_patch_loss() -> None:
    method = smallest(patch_start_epochs=0.5, mask_fraction=1.0, mask_ratio=(0.4, 0.5))
    images = torch.zeros(2, 3, 32, 32)
    batch = Batch(views={"global_1": images, "global_2": images + 1}, index=torch.tensor([3, 8]))
    assert torch.equal(method.global_crops(batch), torch.cat([images, images + 1]))
    method.step = 1
    assert not method.masks(batch, size_px=32).mask.any()
    method.step = 2
    mask = method.masks(batch, size_px=32).mask
    assert mask.shape == (4, 16)
    assert mask.any(dim=1).all()
    assert int(mask.sum(dim=1).max()) <= 8


IMPOSSIBLE = {
    "teacher_momentum": 1.1,
    "teacher_momentum_end": -0.1,
    "mask_fraction": 1.5,
    "hidden_dim": 0,
    "bottleneck_dim": 0,
    "num_head_layers": 0,
    "student_temperature": 0.0,
    "teacher_temperature": -1.0,
    "teacher_temperature_start": 0.0,
    "mask_ratio": (0.5, 0.1),
}


@pytest.mark.parametrize("kind", [DinoConfig, PoaConfig])
@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_every_method_refuses_what_is_impossible(kind, name) -> None:
    with pytest.raises(ConfigError, match=rf"method\.{name}="):
        kind(**{name: IMPOSSIBLE[name]})


@pytest.mark.parametrize("kind", [DinoConfig, PoaConfig])
def test_global_crops_have_one_size(kind) -> None:
    views = {"global_1": ViewConfig(size_px=32), "global_2": ViewConfig(size_px=24)}
    with pytest.raises(ConfigError, match="global_2"):
        kind().check_views(views)


def test_what_is_set_for_after_the_end_of_the_run_is_said() -> None:
    late = smallest(
        patch_start_epochs=3.0, freeze_last_layer_epochs=3, teacher_temperature_epochs=9
    )
    assert len(late.notes()) == 1 + 1  # start and end of the temperature are equal: no warm-up
    assert "method.patch_start_epochs=3, and the run has 3" in late.notes()[0]
    assert "never trained" in late.notes()[1]
    assert (
        "temperature"
        in smallest(teacher_temperature_epochs=3, teacher_temperature_start=0.02).notes()[0]
    )
    assert not smallest(patch_start_epochs=2.9, freeze_last_layer_epochs=2.9).notes()
    never = smallest(patch_start_epochs=3.0)
    never.step = PLAN.total_steps - 1
    assert not never.is_patch_loss_on  # in the last update neither
