from dataclasses import replace

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_vision.backbones.build import BackboneConfig, build_backbone
from ssl_vision.backbones.classifier import add_classifier, add_head_layers
from ssl_vision.data.config import InputSpec
from ssl_vision.errors import CheckpointError, ConfigError
from ssl_vision.methods.base import TrainPlan
from ssl_vision.methods.distill import Distill, DistillConfig, TeacherConfig
from ssl_vision.optim import OptimConfig
from ssl_vision.types import Batch
from ssl_vision.views import ViewConfig
from ssl_vision.zoo.export import export_backbone

MEAN, STD = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
SHOWN = InputSpec(16, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), "bicubic", 1.0)
SMALL = {"patch_size": 4, "embed_dim": 24, "depth": 1, "num_heads": 2}
OPTIM = OptimConfig(base_lr=0.1, warmup_epochs=0, weight_decay=0.0)


def _network(*, size_px=16, name="vit_tiny_patch16_224", seed=0, num_classes=0, **args):
    torch.manual_seed(seed)
    given = {**SMALL, **args} if name.startswith("vit") else args
    backbone = build_backbone(BackboneConfig(name=name, args=given), input_size=size_px)
    for parameter in backbone.parameters():
        nn.init.normal_(parameter, std=0.2)
    if num_classes:
        add_classifier(backbone, num_classes=num_classes, std=0.5)
    return backbone.eval()


def _export(network, folder, *, size_px=16, names=()):
    shown = {"mean": MEAN, "std": STD, "interpolation": "bicubic", "size_px": size_px}
    export_backbone(network, folder, **shown, class_names=names)
    return str(folder)


@pytest.fixture
def exported(tmp_path):
    """`exported("name", size_px=24, num_classes=5)` -> the network and its export's folder."""

    def write(folder, *, size_px=16, names=(), **settings):
        network = _network(size_px=size_px, **settings)
        return network, _export(network, tmp_path / folder, size_px=size_px, names=names)

    return write


def _method(teachers, *, student=None, plan_spec=SHOWN, **settings):
    if not isinstance(teachers, dict):
        teachers = {"one": teachers}
    teachers = {
        name: TeacherConfig(weights=each) if isinstance(each, str) else each
        for name, each in teachers.items()
    }
    plan = TrainPlan(
        steps_per_epoch=2, epochs=2, global_batch_size=256, input_size=16, input_spec=plan_spec
    )
    student = student or _network(seed=7)
    config = DistillConfig(teachers=teachers, **settings)
    return Distill(config, student, optim=OPTIM, plan=plan)


def _batch(num=3, count=1, size_px=16):
    return Batch(
        views={"view": torch.randn(num * count, 3, size_px, size_px)}, index=torch.arange(num)
    )


def _as_teacher(images: Tensor) -> Tensor:
    """Undo the student's normalisation by hand, and apply the teacher's."""
    channels = []
    for c in range(3):
        pixels = images[:, c] * SHOWN.std[c] + SHOWN.mean[c]
        channels.append((pixels - MEAN[c]) / STD[c])
    return torch.stack(channels, dim=1)


def test_classes_are_learned_from_where_the_teacher_has_them(exported):
    teacher, folder = exported("t", num_classes=5)
    method = _method(folder, temperature=2.0)
    batch = _batch(count=2)
    images = batch.views["view"]
    with torch.no_grad():
        theirs = teacher.model(_as_teacher(images)) / 2.0
        ours = method.backbone.model(images) / 2.0
    expected = -4 * (theirs.softmax(-1) * ours.log_softmax(-1)).sum(-1).mean()
    output = method.compute_loss(batch)
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert 0 <= output.metrics["agreement_one"] <= 1
    assert not len(method.projections)
    assert method.backbone.model.num_classes == 5


@pytest.mark.parametrize("kind", ["cosine", "smooth_l1"])
def test_features_are_compared_pooled_and_patch_by_patch_at_the_teachers_own_size(exported, kind):
    teacher, folder = exported("t", size_px=24, embed_dim=32)
    method = _method(folder, feature_loss=kind, patch_weight=0.5)
    center = torch.randn(1, 32)
    method.centers["one_pooled"].center.copy_(center)
    batch = _batch()
    images = batch.views["view"]
    with torch.no_grad():
        larger = F.interpolate(_as_teacher(images), size=(24, 24), mode="bicubic", antialias=True)
        theirs, ours = teacher(larger), method.backbone(images)
        grid = theirs.patches.transpose(1, 2).view(3, 32, 6, 6)
        grid = F.interpolate(grid, size=(4, 4), mode="bilinear", antialias=True)
        patches = grid.flatten(2).transpose(1, 2)
        pairs = [
            (method.projections["one_pooled"](ours.pooled), theirs.pooled - center),
            (method.projections["one_patches"](ours.patches), patches),
        ]
        if kind == "cosine":
            terms = [(1 - F.cosine_similarity(a, b, dim=-1)).mean() for a, b in pairs]
        else:
            terms = [F.smooth_l1_loss(a, F.layer_norm(b, (32,))) for a, b in pairs]
    expected = terms[0] + 0.5 * terms[1]
    assert method.compute_loss(batch).loss.item() == pytest.approx(expected.item(), rel=1e-4)


def test_teachers_are_added_up_by_weight(exported):
    _, first = exported("a", num_classes=4)
    _, second = exported("b", seed=1)
    teachers = {"a": TeacherConfig(weights=first, weight=2.0), "b": second}
    output = _method(teachers).compute_loss(_batch())
    expected = 2 * output.metrics["loss_a"] + output.metrics["loss_b"]
    torch.testing.assert_close(output.loss.detach(), expected)


def test_a_teacher_never_changes_and_is_in_no_checkpoint_nor_optimizer(exported):
    _, folder = exported("t", name="resnet18", layers=(1, 1, 1, 1), channels=(8, 8, 8, 8))
    method = _method(folder, patch_weight=0.0).train()
    teacher = method.teachers["one"].backbone
    before = {n: v.clone() for n, v in teacher.state_dict().items()}
    optimizer = method.make_optimizer()
    for _ in range(2):
        method.begin_update(optimizer)
        method(_batch()).loss.backward()
        outcome = method.judge_update(optimizer)
        optimizer.step()
        method.end_update(outcome)
    assert not teacher.training
    for name, value in teacher.state_dict().items():  # batch statistics among them
        assert torch.equal(value, before[name]), name
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert not held & {id(p) for p in teacher.parameters()}
    names = {name.split(".")[0] for name in method.state_dict()}
    assert names == {"backbone", "projections", "centers"}
    moved = method.centers["one_pooled"].center
    assert moved.abs().sum() > 0


def test_the_mean_of_features_moves_with_updates_and_not_with_skipped_ones(exported):
    teacher, folder = exported("t")
    method = _method(folder, center_momentum=0.9, plan_spec=None)
    batch = _batch()
    method.compute_loss(batch)
    method.after_skip(0)
    method.after_update(0)
    assert not method.centers["one_pooled"].center.any()
    method.compute_loss(batch)
    method.after_update(0)
    with torch.no_grad():
        expected = 0.1 * teacher(batch.views["view"]).pooled.mean(dim=0, keepdim=True)
    torch.testing.assert_close(method.centers["one_pooled"].center, expected)


def test_it_resumes_with_the_same_teachers_only(exported):
    _, folder = exported("t")
    method = _method(folder)
    checkpoint: dict[str, object] = {}
    method.on_save_checkpoint(checkpoint)
    assert set(checkpoint["teachers"]) == {"one"}
    _method(folder).on_load_checkpoint(checkpoint)
    _, other = exported("other", seed=3)
    with pytest.raises(CheckpointError, match=r"teachers\.one\.weights=.*other weights"):
        _method(other).on_load_checkpoint(checkpoint)


def test_a_change_in_the_layers_below_a_teachers_classifier_is_seen(tmp_path):
    network = _network(num_classes=5)
    add_head_layers(network, num_layers=1)
    checkpoint: dict[str, object] = {}
    method = _method(_export(network, tmp_path / "t"))
    method.on_save_checkpoint(checkpoint)
    _method(_export(network, tmp_path / "same")).on_load_checkpoint(checkpoint)
    for value in (next(network.head_layers.parameters()), network.model.get_classifier().bias):
        with torch.no_grad():
            value.view(-1)[0] += 0.5
        changed = _method(_export(network, tmp_path / "changed"))
        with pytest.raises(CheckpointError, match="other weights"):
            changed.on_load_checkpoint(checkpoint)
        with torch.no_grad():
            value.view(-1)[0] -= 0.5


def test_classes_of_two_teachers_meet_by_name(exported):
    names, other = ("ant", "bee", "cat"), ("cat", "ant", "bee")
    first, a = exported("a", num_classes=3, names=names)
    second, b = exported("b", seed=1, num_classes=3, names=other)
    method, batch = _method({"a": a, "b": b}), _batch()
    images = batch.views["view"]
    with torch.no_grad():
        seen = _as_teacher(images)
        ours = method.backbone.model(images).log_softmax(-1)
        expected = 0.0
        for teacher, order in ((first, names), (second, other)):
            shares = teacher.model(seen).softmax(-1)
            for column, name in enumerate(order):
                expected -= (shares[:, column] * ours[:, names.index(name)]).mean()
    assert method.compute_loss(batch).loss.item() == pytest.approx(float(expected), rel=1e-5)
    assert method.class_names == names
    assert len(method.notes()) == 2


def test_teachers_of_other_classes_are_refused_and_nameless_ones_said(exported):
    _, a = exported("a", num_classes=3, names=("ant", "bee", "cat"))
    _, b = exported("b", num_classes=3, names=("ant", "bee", "dog"))
    _, twice = exported("c", num_classes=3, names=("ant", "ant", "cat"))
    _, turned = exported("d", num_classes=3, names=("cat", "ant", "ant"))
    _, nameless = exported("e", num_classes=3)
    with pytest.raises(ConfigError, match=r"a and b have other classes.*cat, dog.*b\.match=feat"):
        _method({"a": a, "b": b})
    with pytest.raises(ConfigError, match=r"several of one name.*d\.match=features"):
        _method({"c": twice, "d": turned})
    assert len(_method({"a": a, "b": TeacherConfig(weights=b, match="features")}).notes()) == 2
    (*_, line) = _method({"a": a, "e": nameless}).notes()
    assert "teacher e: no names of classes" in line


@pytest.mark.parametrize("num_classes", [0, 5])
def test_the_student_leaves_as_a_plain_timm_model(exported, tmp_path, num_classes):
    _, folder = exported("t", num_classes=num_classes)
    method = _method(folder)
    export_backbone(
        method.export_backbone(),
        tmp_path / "s",
        mean=MEAN,
        std=STD,
        interpolation="bicubic",
        size_px=16,
    )
    model = timm.create_model(f"local-dir:{tmp_path / 's'}", pretrained=True).eval()
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        wanted = method.backbone.eval().model(images)
    torch.testing.assert_close(model(images), wanted)
    assert model.num_classes == num_classes


def test_students_may_be_of_another_family():
    teacher = "timm:vit_tiny_patch16_224?pretrained=false&img_size=32&patch_size=8&depth=1"
    student = _network(name="resnet18", layers=(1, 1, 1, 1), channels=(8, 8, 8, 8))
    output = _method(teacher, student=student).compute_loss(_batch(size_px=64))
    output.loss.backward()
    assert output.loss.isfinite()


def test_a_student_comes_to_agree_with_its_teacher(exported):
    _, folder = exported("t", num_classes=3)
    method = _method(folder, student=_network(seed=9, embed_dim=16)).train()
    method.optim = replace(OPTIM, base_lr=1e-2, schedule="constant")
    optimizer = method.make_optimizer()
    batch, losses = _batch(num=32), []
    for _ in range(40):
        method.begin_update(optimizer)
        output = method(batch)
        output.loss.backward()
        outcome = method.judge_update(optimizer)
        optimizer.step()
        optimizer.zero_grad()
        method.end_update(outcome)
        losses.append(output.loss.item())
    assert output.metrics["agreement_one"] > 0.9
    assert losses[-1] < losses[0]


def test_what_auto_chose_is_said(exported):
    _, classes = exported("classes", num_classes=5)
    _, features = exported("features", size_px=24)
    first, second = _method({"a": classes, "b": features}).notes()
    assert "teacher a" in first
    assert "16 px: its 5 classes are learned" in first
    assert "24 px: its features are learned" in second


def test_what_cannot_be_is_refused_in_one_line(exported):
    _, five = exported("five", num_classes=5)
    _, four = exported("four", num_classes=4)
    _, none = exported("none")
    with pytest.raises(ConfigError, match=r"different numbers of classes.*match=features"):
        _method({"a": five, "b": four})
    with pytest.raises(ConfigError, match=r"teachers\.one\.match=classes: .* has no classifier"):
        _method({"one": TeacherConfig(weights=none, match="classes")})
    with pytest.raises(ConfigError, match="neither a folder nor"):
        _method("nowhere")
    with pytest.raises(ConfigError, match=r"teachers is empty.*weights=runs/dino"):
        DistillConfig()
    for name, value in (("temperature", 0.0), ("patch_weight", -1.0), ("center_momentum", 2.0)):
        with pytest.raises(ConfigError, match=f"method.{name}={value}"):
            DistillConfig(teachers={"a": TeacherConfig(weights="x")}, **{name: value})
    for name, value in (("weight", 0.0), ("size_px", 0)):
        with pytest.raises(ConfigError, match=f"{name}={value}"):
            TeacherConfig(weights="x", **{name: value})
    with pytest.raises(ConfigError, match="exactly one view"):
        DistillConfig(teachers={"a": TeacherConfig(weights="x")}).check_views(
            {"a": ViewConfig(), "b": ViewConfig()}
        )
    features_only = TeacherConfig(weights=five, match="features")
    assert not _method({"a": features_only}).teachers["a"].has_classes


@pytest.mark.parametrize(
    ("weights", "size_px"),
    [
        ("timm:test_vit?pretrained=false", 42),  # of one fixed size
        ("timm:test_vit?pretrained=false&dynamic_img_size=true", 30),  # patches of 16 px
        ("timm:swin_tiny_patch4_window7_224?pretrained=false", 30),
    ],
)
def test_a_size_a_teacher_does_not_take_is_refused_before_training(weights, size_px):
    teacher = TeacherConfig(weights=weights, size_px=size_px, match="features")
    with pytest.raises(ConfigError, match=rf"method\.teachers\.one\.size_px={size_px}: .*null"):
        _method(teacher)
