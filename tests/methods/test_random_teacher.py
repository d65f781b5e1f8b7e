import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ssl_vision.backbones.build import BackboneConfig, build_backbone
from ssl_vision.backbones.own import wrap
from ssl_vision.errors import ConfigError
from ssl_vision.methods.base import TrainPlan
from ssl_vision.methods.random_teacher import RandomTeacher, RandomTeacherConfig
from ssl_vision.optim import OptimConfig
from ssl_vision.types import Batch
from ssl_vision.views import ViewConfig

RECIPE = OptimConfig(
    base_lr=1e-3, lr_scaling="none", weight_decay=0.0, schedule="constant", warmup_epochs=0
)
PLAN = TrainPlan(steps_per_epoch=3, epochs=2, global_batch_size=6, input_size=32)
RESNET = {"layers": [1, 1, 1, 1], "channels": [4, 4, 8, 8], "zero_init_last": False}
VIT = {"patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 3}
HEAD = {"num_prototypes": 20, "hidden_dim": 16, "bottleneck_dim": 8}


def _backbone(name="resnet18", args=RESNET):
    torch.manual_seed(0)
    return build_backbone(BackboneConfig(name=name, args=args), input_size=32)


def _method(backbone=None, **settings):
    return RandomTeacher(
        RandomTeacherConfig(**{**HEAD, **settings}),
        backbone or _backbone(),
        optim=RECIPE,
        plan=PLAN,
    )


def _batches(num=3):
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(num, 6, 3, 32, 32, generator=generator).double()
    return [Batch(views={"view": each}, index=torch.arange(6)) for each in images]


# Written from the paper: one image to both, softmax at temperature 1, a mean over the batch -----


class _Textbook(nn.Module):
    def __init__(self, backbone, head, *, is_normalized):
        super().__init__()
        self.encoder, mlp = copy.deepcopy(backbone.model), copy.deepcopy(head.mlp)
        self.first, self.second, self.bottleneck = mlp[0], mlp[2], mlp[4]
        last = head.last_layer.weight_v if is_normalized else head.last_layer.weight
        self.last = nn.Parameter(last.detach().clone())
        self.is_normalized = is_normalized

    def forward(self, images):
        x = F.gelu(self.second(F.gelu(self.first(self.encoder(images)))))
        x = self.bottleneck(x)
        x = x / (x**2).sum(dim=1, keepdim=True).sqrt()
        last = self.last
        if self.is_normalized:
            last = last / (last**2).sum(dim=1, keepdim=True).sqrt()
        return torch.einsum("bd,kd->bk", x, last)


def _textbook_loss(student, teacher, loss):
    if loss == "mse":
        return sum(((s - t) ** 2).sum() for s, t in zip(student, teacher, strict=True)) / 6 / 20
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        p, log_q = t.exp() / t.exp().sum(), s - s.exp().sum().log()
        total = total - (p * log_q).sum()
        if loss == "kl":
            total = total + (p * p.log()).sum()
    return total / 6


@pytest.mark.parametrize("is_normalized", [True, False])
@pytest.mark.parametrize("loss", ["cross_entropy", "kl", "mse"])
def test_three_steps_equal_a_loop_written_from_the_paper(loss, is_normalized):
    method = _method(
        loss=loss, is_head_normalized=is_normalized, student_init="between", student_distance=0.5
    ).double()
    student = _Textbook(method.backbone, method.head, is_normalized=is_normalized).train()
    teacher = _Textbook(
        method.teacher.network, method.teacher_head.network, is_normalized=is_normalized
    ).eval()
    theirs = torch.optim.AdamW(student.parameters(), lr=1e-3, weight_decay=0.0)
    ours = method.make_optimizer()
    method.train()
    for batch in _batches():
        images = batch.views["view"]
        with torch.no_grad():
            answers = teacher(images)
        expected = _textbook_loss(student(images), answers, loss)
        theirs.zero_grad()
        expected.backward()
        gradients = [p.grad for p in student.encoder.parameters()]
        output = method(batch)
        output.loss.backward()
        assert output.loss.item() == pytest.approx(expected.item(), rel=1e-10)
        for ours_, gradient in zip(method.backbone.model.parameters(), gradients, strict=True):
            torch.testing.assert_close(ours_.grad, gradient, rtol=1e-7, atol=1e-12)
        method._losses.clear()
        method.begin_update(ours)
        ours.step()
        ours.zero_grad()
        theirs.step()
    for name, value in method.backbone.model.state_dict().items():  # buffers, too
        torch.testing.assert_close(value, student.encoder.state_dict()[name], rtol=1e-7, atol=1e-9)


def test_the_teacher_never_changes_and_its_batch_norms_scale_by_nothing():
    method = _method().double()
    before = {n: v.clone() for n, v in method.state_dict().items()}
    optimizer = method.make_optimizer()
    method.train()
    for batch in _batches():
        method.update(batch, optimizer)
    for name, value in method.state_dict().items():
        if name.startswith("teacher"):
            assert torch.equal(value, before[name]), name
        elif "num_batches" not in name and "weight_g" not in name:
            assert not torch.equal(value, before[name]), name
    bn = method.teacher.network.model.bn1
    x = torch.randn(2, bn.num_features, 3, 3).double()
    torch.testing.assert_close(bn(x), x / math.sqrt(1 + bn.eps))


def test_kl_differs_from_cross_entropy_by_the_teachers_entropy():
    (batch, *_) = _batches(1)
    losses = {}
    for loss in ("cross_entropy", "kl"):
        output = _method(loss=loss, is_head_normalized=False).double()(batch)
        losses[loss] = output.loss.item()
    assert losses["kl"] > 0
    assert losses["cross_entropy"] - losses["kl"] == pytest.approx(
        output.metrics["teacher_entropy"].item()
    )


# Where the student starts ---------------------------------------------------------------------


def _start(**settings):
    """Student, teacher and the other draw, as one vector each of the weights that train."""
    drawn = _method(**{**settings, "student_init": "independent", "student_distance": None,
                       "is_variance_preserved": False})  # fmt: skip
    method = _method(**settings)
    flat = lambda *parts: nn.utils.parameters_to_vector(  # noqa: E731
        [p for part in parts for n, p in part.named_parameters() if not n.endswith("weight_g")]
    ).detach()
    return (
        flat(method.backbone, method.head),
        flat(method.teacher.network, method.teacher_head.network),
        flat(drawn.backbone, drawn.head),
    )


@pytest.mark.parametrize("d", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("is_preserved", [False, True])
def test_students_start_where_the_formulas_say(d, is_preserved):
    student, t, f = _start(
        student_init="between", student_distance=d, is_variance_preserved=is_preserved
    )
    expected = ((1 - d) * t + d * f) / (math.sqrt(2 * d**2 - 2 * d + 1) if is_preserved else 1)
    torch.testing.assert_close(student, expected)
    student, t, f = _start(
        student_init="near", student_distance=d, is_variance_preserved=is_preserved
    )
    torch.testing.assert_close(student, (t + d * f) / (math.sqrt(d**2 + 1) if is_preserved else 1))


def test_students_start_at_the_teacher_or_unrelated_to_it():
    student, t, f = _start()
    assert torch.equal(student, t)
    assert not torch.equal(t, f)
    method = _method(student_init="independent")
    student, teacher = method.backbone.model, method.teacher.network.model
    ours_last, theirs_last = method.head.last_layer, method.teacher_head.network.last_layer
    pairs = [
        (student.layer1[0].conv1.weight, teacher.layer1[0].conv1.weight),
        (ours_last.weight_v, theirs_last.weight_v),
    ]
    for ours, theirs in pairs:
        correlation = torch.corrcoef(torch.stack([ours.flatten(), theirs.flatten()]))[0, 1]
        assert abs(correlation) < 5 / math.sqrt(ours.numel())
        assert ours.std().item() == pytest.approx(theirs.std().item(), rel=0.3)
    assert torch.equal(method.head.last_layer.weight_g, torch.ones(20, 1))


def test_given_weights_become_the_teacher_and_the_student_starts_from_them():
    method = _method(student_init="near", student_distance=0.25)
    other = _backbone()
    nn.init.constant_(other.model.conv1.weight, 0.5)
    method.backbone.load_state_dict(other.state_dict())
    method.on_weights_loaded()
    assert torch.equal(method.teacher.network.model.conv1.weight, other.model.conv1.weight)
    moved = method.backbone.model.conv1.weight - 0.5
    assert 0 < moved.std() < 0.25
    assert moved.mean().abs() < 0.1


def test_a_network_handed_over_cannot_be_drawn_anew():
    own = wrap(nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 12)), width=12)
    assert _method(own).teacher.network.width == 12
    with pytest.raises(ConfigError, match=r"student_init=independent .* student_init=teacher"):
        _method(own, student_init="independent")


def test_a_first_gradient_of_rounding_errors_is_said():
    vit = lambda: _backbone("vit_tiny_patch16_224", VIT)  # noqa: E731
    (note,) = _method(vit()).notes()
    assert "rounding errors" in note
    assert "student_init=near" in note
    loss = _method(vit()).double()(_batches(1)[0]).metrics["kl"]
    assert abs(loss.item()) < 1e-12
    assert _method(vit(), student_init="near", student_distance=0.1).notes() == ()
    assert _method().notes() == ()  # batch norms


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"student_init": "near"}, "student_distance=null"),
        ({"student_init": "between", "student_distance": 1.1}, "student_distance=1.1"),
        ({"student_init": "near", "student_distance": -0.1}, "student_distance=-0.1"),
        ({"student_init": "near", "student_distance": math.nan}, "student_distance=nan"),
        ({"student_init": "independent", "student_distance": 0.5}, "student_distance=0.5"),
        ({"is_variance_preserved": True}, "is_variance_preserved=true"),
        ({"student_temperature": 0.0}, "student_temperature=0.0"),
        ({"num_prototypes": 0}, "num_prototypes=0"),
    ],
)
def test_wrong_settings_are_refused_by_name(settings, key):
    with pytest.raises(ConfigError, match=rf"method\.{key}"):
        RandomTeacherConfig(**settings)


def test_it_takes_one_view():
    view = ViewConfig(size_px=32)
    RandomTeacherConfig().check_views({"view": view})
    with pytest.raises(ConfigError, match=r"data\.views\.view is missing"):
        RandomTeacherConfig().check_views({"global_1": view})
