import math

import numpy as np
import pytest
import torch
import torch.distributed as dist

from ssl_vision.backbones.build import BackboneConfig, build_backbone
from ssl_vision.errors import ConfigError
from ssl_vision.masking import MultiBlockConfig
from ssl_vision.methods.barlow_twins import BarlowTwins, BarlowTwinsConfig
from ssl_vision.methods.base import TrainPlan, feature_std
from ssl_vision.methods.checks import check_view_names
from ssl_vision.methods.croco import Croco, CrocoConfig
from ssl_vision.methods.dino import Dino, DinoConfig
from ssl_vision.methods.distill import Distill, DistillConfig, TeacherConfig
from ssl_vision.methods.ijepa import Ijepa, IjepaConfig
from ssl_vision.methods.lejepa import Lejepa, LejepaConfig
from ssl_vision.methods.mae import Mae, MaeConfig
from ssl_vision.methods.random_teacher import RandomTeacher, RandomTeacherConfig
from ssl_vision.methods.simclr import Simclr, SimclrConfig
from ssl_vision.methods.vicreg import Vicreg, VicregConfig
from ssl_vision.nn.batch_norm import synchronize_batch_norm
from ssl_vision.nn.centering import Center
from ssl_vision.optim import OptimConfig
from ssl_vision.types import Batch
from ssl_vision.views import ViewConfig

PATCHES_ONLY = {
    "class_token": False, "global_pool": "avg", "fc_norm": False, "patch_size": 4,
}  # fmt: skip
VIT = {"patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 3}


def _methods():
    plan = TrainPlan(steps_per_epoch=2, epochs=2, global_batch_size=8, input_size=16)
    configs = [
        (BarlowTwins, BarlowTwinsConfig(projector_dims=(8,))),  # one layer: no batch norm to sync
        (Simclr, SimclrConfig(projection_dim=8, num_head_layers=1)),
        (Vicreg, VicregConfig(projector_dims=(8,))),
        (Lejepa, LejepaConfig(projector_dims=(8,), num_directions=4)),
        (Mae, MaeConfig(decoder_width=16, decoder_depth=1, decoder_num_heads=2)),
        (Dino, DinoConfig(num_prototypes=12, hidden_dim=16, bottleneck_dim=8)),
        (
            Dino,
            DinoConfig(num_prototypes=12, hidden_dim=16, bottleneck_dim=8, centering="sinkhorn"),
        ),
    ]
    heads = {"num_prototypes": 12, "hidden_dim": 16, "bottleneck_dim": 8}
    near = RandomTeacherConfig(student_init="near", student_distance=0.5, **heads)
    configs.append((RandomTeacher, near))
    masks = MultiBlockConfig(min_keep=5)  # of 4 x 4 patches 8 may be left beside the targets
    configs.append((Ijepa, IjepaConfig(predictor_width=24, predictor_depth=1, blocks=masks)))
    teacher = "timm:vit_tiny_patch16_224?pretrained=false&img_size=16&patch_size=4&depth=1"
    configs.append((Distill, DistillConfig(teachers={"one": TeacherConfig(weights=teacher)})))
    vit = "vit_tiny_patch16_224"
    croco = CrocoConfig(mask_ratio=0.5, decoder_width=16, decoder_depth=1, decoder_num_heads=2)
    networks = [*((*each, vit) for each in configs), (Croco, croco, vit),
                (Croco, croco, "rotary_vit_tiny")]  # fmt: skip
    for module, config, name in networks:
        torch.manual_seed(0)
        args = VIT | (PATCHES_ONLY if module in (Ijepa, Croco) and name == vit else {})
        backbone = build_backbone(BackboneConfig(name=name, args=args), input_size=16)
        method = module(config, backbone, optim=OptimConfig(), plan=plan).double()
        if module is Simclr:  # its head has a batch norm at the least; the others have none here
            synchronize_batch_norm(method, device_type="cpu")
        yield method


def _views(rows, method):
    generator = torch.Generator().manual_seed(1)
    names = ("a", "b", "view", "global", "global_1", "global_2", "local",
             "first", "second")  # fmt: skip
    views = {n: torch.randn(8, 3, 16, 16, generator=generator).double()[rows] for n in names}
    if isinstance(method, Distill):
        views = {"view": views["view"]}
    return Batch(views=views, index=torch.arange(8)[rows])


def _gradients(rows):
    results = []
    for method in _methods():
        loss = method.compute_loss(_views(rows, method)).loss
        loss.backward()
        method.after_update(0)
        gradients = [p.grad for p in method.parameters() if p.grad is not None]
        centers = [m.center for m in method.modules() if isinstance(m, Center)]
        center = torch.cat(centers, dim=1).flatten().tolist() if centers else []
        results.append((loss.item(), torch.cat([g.flatten() for g in gradients]).numpy(), center))
    return results


def _one_process_of_two():
    return _gradients(slice(0, 4) if dist.get_rank() == 0 else slice(4, 8))


@pytest.mark.distributed
def test_two_processes_train_as_one_on_the_joined_batch(run_distributed):
    """DDP averages gradients; their average must be the gradient of one process."""
    expected = _gradients(slice(0, 8))
    first, second = run_distributed(_one_process_of_two)
    for (loss, gradient, center), a, b in zip(expected, first, second, strict=True):
        assert (a[0] + b[0]) / 2 == pytest.approx(loss, rel=1e-9)
        np.testing.assert_allclose((a[1] + b[1]) / 2, gradient, rtol=1e-6, atol=1e-10)
        np.testing.assert_allclose(a[2], center, rtol=1e-6, atol=1e-12)
        np.testing.assert_allclose(b[2], center, rtol=1e-6, atol=1e-12)


def test_feature_std_is_one_on_the_sphere_and_zero_when_collapsed():
    torch.manual_seed(0)
    assert feature_std(torch.randn(4000, 16)).item() == pytest.approx(1.0, abs=0.02)
    assert feature_std(torch.ones(10, 16)).item() == pytest.approx(0.0, abs=1e-6)
    line = torch.randn(1000, 1) @ torch.randn(1, 16)
    assert 0.5 < feature_std(line).item() < 1.01  # two points: spread, though of rank one
    assert not math.isnan(feature_std(torch.randn(1, 4)).item())


@pytest.mark.parametrize("bad", [(), (math.nan,), (math.inf,), (-math.inf,), (math.inf, -math.inf)])
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_an_update_is_left_out_exactly_if_a_loss_or_gradient_is_not_finite(where, bad):
    method = next(iter(_methods()))
    optimizer = method.make_optimizer()
    parameters = dict(method.trainable_parameters())
    for parameter in parameters.values():
        parameter.grad = torch.full_like(parameter, -1e12)  # large, and as good as any
    named = list(parameters)[1 : 1 + len(bad)] if where == "gradient" else []
    for name, value in zip(named, bad, strict=False):
        parameters[name].grad.view(-1)[-1] = value
    losses = bad if where == "loss" else ()
    method._losses += [torch.tensor(loss, dtype=torch.float64) for loss in (-3.0, *losses)]
    outcome = method.judge_update(optimizer)
    assert outcome.is_skipped == bool(bad)
    assert outcome.bad_gradients == tuple(named)
    assert all((p.grad is None) == bool(bad) for p in parameters.values())


def test_draws_depend_on_seed_purpose_and_update():
    method = next(iter(_methods()))
    key = method.key("mask")
    assert method.key("mask") == key
    assert method.key("other") != key
    method.micro_step += 1  # another batch of the same update
    assert method.key("mask") == key
    method.step += 1
    assert method.key("mask") != key


def test_view_names_suggest_the_nearest():
    views = {"view": ViewConfig(), "vieww": ViewConfig()}
    with pytest.raises(ConfigError, match=r"vieww is not used.*Did you mean 'view'"):
        check_view_names(views, required=("view",), method="mae")
