"""Supervised training: the authors' SMMix step, fine-tuning's groups, heads and averages."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from timm.models import VisionTransformer
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ssl_vision.backbones.build import BackboneConfig, build_backbone, wrap_model
from ssl_vision.backbones.classifier import classify
from ssl_vision.backbones.transfer import transfer_weights
from ssl_vision.errors import CheckpointError, ConfigError
from ssl_vision.methods import supervised
from ssl_vision.methods.base import TrainPlan
from ssl_vision.methods.mae import Mae, MaeConfig
from ssl_vision.methods.simclr import Simclr, SimclrConfig
from ssl_vision.methods.supervised import MixingConfig, Supervised, SupervisedConfig
from ssl_vision.optim.recipe import OptimConfig
from ssl_vision.types import Batch
from ssl_vision.views import ViewConfig
from ssl_vision.zoo.export import export_backbone
from ssl_vision.zoo.exported import read_export
from ssl_vision.zoo.weights import heads_of, resolve_weights

Golden = Callable[[str], dict[str, np.ndarray]]
TINY = {"patch_size": 4, "depth": 2, "embed_dim": 24, "num_heads": 3}
MIXINGS = ["none", "mixup", "cutmix", "mixup_cutmix", "smmix"]


def _method(
    *,
    name: str = "vit_tiny_patch16_224",
    args: dict[str, Any] | None = None,
    size_px: int = 16,
    layer_decay: float = 1.0,
    seed: int = 0,
    **settings: Any,
) -> Supervised:
    torch.manual_seed(0)
    is_vit = name.startswith("vit")
    config = BackboneConfig(name=name, args=(TINY if is_vit else {}) | (args or {}))
    return Supervised(
        SupervisedConfig(**settings),
        build_backbone(config, input_size=size_px),
        optim=OptimConfig(base_lr=1e-3, layer_decay=layer_decay, warmup_epochs=0),
        plan=TrainPlan(steps_per_epoch=10, epochs=2, global_batch_size=8, num_classes=5, seed=seed),
    )


def _batch(num_images: int = 8, *, count: int = 1, size_px: int = 16) -> Batch:
    generator = torch.Generator().manual_seed(1)
    shape = (count * num_images, 3, size_px, size_px)
    return Batch(
        views={"train": torch.randn(shape, generator=generator)},
        index=torch.arange(num_images),
        label=torch.arange(num_images) % 5,
    )


def _update(method: Supervised, batch: Batch) -> float:
    """One optimizer update without a trainer."""
    optimizer = method.configure_optimizers()
    loss = method.compute_loss(batch).loss
    loss.backward()
    optimizer.step()
    method.after_update(method.step)
    method.step += 1
    return loss.item()


def _smmix(**settings: Any) -> MixingConfig:
    return MixingConfig(name="smmix", **{"switch_prob": 1.0} | settings)


def test_smmix_step_is_the_authors_training_step(
    golden: Golden, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = golden("smmix")
    model = VisionTransformer(
        img_size=28, patch_size=4, embed_dim=18, depth=2, num_heads=3, mlp_ratio=2, num_classes=5
    )
    model.norm.eps = 1e-6
    method = Supervised(
        SupervisedConfig(mixing=_smmix()),
        wrap_model(model, architecture="vit"),
        optim=OptimConfig(),
        plan=TrainPlan(steps_per_epoch=1, epochs=1, global_batch_size=4, num_classes=5),
    )
    state = {
        key.removeprefix("step_state_"): torch.from_numpy(value)
        for key, value in values.items()
        if key.startswith("step_state_")
    }
    token_head = method.token_head
    assert token_head is not None
    token_head.weight.data = state.pop("token_head.weight")
    token_head.bias.data = state.pop("token_head.bias")
    method.backbone.model.load_state_dict(state)
    side = int(values["step_rectangle"][0])
    monkeypatch.setattr(supervised, "draw_region_side", lambda *args, **kwargs: side)
    batch = Batch(
        views={"train": torch.from_numpy(values["step_images"])},
        index=torch.arange(4),
        label=torch.from_numpy(values["step_targets"]),
    )
    output = method.compute_loss(batch)
    output.loss.backward()
    assert output.loss.item() == pytest.approx(values["engine_loss_total"], abs=4e-6)
    for name, key in (
        ("classification", "cls"),
        ("fine_grained", "fine"),
        ("consistency", "con"),
    ):
        assert output.metrics[name].item() == pytest.approx(values[f"step_loss_{key}"], abs=2e-6)
    np.testing.assert_allclose(token_head.weight.grad, values["engine_grad_token_head"], atol=5e-6)
    np.testing.assert_allclose(
        model.patch_embed.proj.weight.grad, values["engine_grad_patch"], atol=5e-6
    )


@pytest.mark.parametrize("mixing", MIXINGS)
def test_every_parameter_learns_in_every_step(mixing: Any) -> None:
    method = _method(mixing=MixingConfig(name=mixing), ema_momentum=0.9)
    for step in range(4):  # SMMix's coin falls on both sides
        method.step = step
        method.zero_grad()
        method.compute_loss(_batch()).loss.backward()
        lacking = [n for n, p in method.trainable_parameters() if p.grad is None]
        assert lacking == []
    assert all(p.grad is None for p in method.teacher.parameters())


def test_coin_side_and_lambda_depend_on_seed_and_step_alone() -> None:
    def losses(seed: int) -> list[float]:
        method = _method(mixing=MixingConfig(name="smmix"), seed=seed)
        found = []
        for step in range(6):
            method.step = step
            torch.rand(3)  # whatever else ran
            found.append(method.compute_loss(_batch()).loss.item())
        return found

    assert losses(0) == losses(0)
    assert losses(0) != losses(1)


@pytest.mark.parametrize("name", ["mixup", "mixup_cutmix", "smmix"])
def test_mixup_is_drawn_per_process_and_batch_unless_it_belongs_to_smmix(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DeiT's and MAE's processes, and batches of one update, mix each by its own lambda."""
    method = _method(mixing=MixingConfig(name=name, switch_prob=0.001), args={"depth": 1})
    shares: dict[tuple[int, int], tuple[float, ...]] = {}
    mix = supervised.mix_batch  # type: ignore[attr-defined]

    def spy(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        images, targets = mix(*args, **kwargs)
        shares[process, batch] = tuple(targets[0].tolist())
        return images, targets

    monkeypatch.setattr(supervised, "mix_batch", spy)
    for process in range(2):
        monkeypatch.setattr(supervised, "rank", lambda process=process: process)
        for batch in range(3):
            method.micro_step = batch
            method.compute_loss(_batch())
    assert len(shares) == 6
    assert len(set(shares.values())) == (1 if name == "smmix" else 6)


def test_coin_falls_on_smmix_as_often_as_asked() -> None:
    method = _method(mixing=MixingConfig(name="smmix", switch_prob=0.25), args={"depth": 1})
    count = 0
    for step in range(200):
        method.step = step
        count += "fine_grained" in method.compute_loss(_batch(2)).metrics
    assert 30 <= count <= 70  # 50 +- 6.1


def test_unmixed_pass_is_in_evaluation_mode_and_leaves_the_network_in_training() -> None:
    method = _method(mixing=_smmix())
    seen = []
    method.backbone.register_forward_hook(
        lambda module, args, out: seen.append((module.training, torch.is_grad_enabled()))
    )
    method.compute_loss(_batch())
    assert seen == [(False, False), (True, True)]
    assert all(module.training for module in method.backbone.modules())


@pytest.mark.parametrize("settings", [{"map_from": "teacher"}, {"queries": "class"}])
def test_options_beyond_the_paper_change_the_regions(settings: dict[str, Any]) -> None:
    plain = _method(mixing=_smmix(), ema_momentum=0.5)
    other = _method(mixing=_smmix(**settings), ema_momentum=0.5)
    for method in (plain, other):
        for block in (*method.backbone.model.blocks, *method.teacher.network.model.blocks):
            block.attn.qkv.weight.data *= 30  # maps of fresh networks are almost flat
        with torch.no_grad():
            for parameter in method.teacher.parameters():
                parameter.mul_(-1)
    assert plain.compute_loss(_batch()).loss != other.compute_loss(_batch()).loss


def test_four_images_are_learned_by_heart() -> None:
    method = _method(label_smoothing=0.0)
    batch = _batch(4)
    optimizer = method.configure_optimizers()
    for _ in range(60):
        optimizer.zero_grad()
        method.compute_loss(batch).loss.backward()
        optimizer.step()
    assert method.predict(batch.views["train"]).argmax(dim=1).tolist() == batch.label.tolist()


def test_layer_decay_groups_are_the_authors(golden: Golden) -> None:
    values = golden("mae")
    method = _method(args={"depth": 12, "global_pool": "avg"}, layer_decay=0.65, tune="all")
    scales = {n: g["lr_scale"] for g in method.param_groups() for n in g["names"]}
    decays = {n: g["weight_decay_scale"] for g in method.param_groups() for n in g["names"]}
    names = values["layer_decay_names"].tolist()
    expected = values["layer_decay_rederived_scales_0.65_depth12"]
    ids = values["layer_decay_ids_depth12"]
    for name, layer, scale in zip(names, ids, expected, strict=True):
        full = f"backbone.model.{name}"
        if full in scales:  # `norm` stands before the pooling, `fc_norm` after: one of the two
            assert scales[full] == pytest.approx(scale), name
            assert scales[full] == pytest.approx(0.65 ** (13 - int(layer))), name
    assert sum(f"backbone.model.{name}" in scales for name in names) == len(names) - 1
    assert decays["backbone.model.pos_embed"] == decays["backbone.model.cls_token"] == 0
    assert decays["backbone.model.head.weight"] == 1
    assert decays["backbone.model.head.bias"] == decays["backbone.model.fc_norm.weight"] == 0


def test_layer_decay_of_a_pyramid_rises_to_one_at_the_head() -> None:
    method = _method(name="resnet10t", layer_decay=0.5)
    scales = {n: g["lr_scale"] for g in method.param_groups() for n in g["names"]}
    assert scales["backbone.model.fc.weight"] == 1.0
    assert scales["backbone.model.conv1.0.weight"] == min(scales.values()) < 0.1


def test_head_learns_faster_if_asked() -> None:
    method = _method(head_lr_factor=100.0)
    scales = {n: g["lr_scale"] for g in method.param_groups() for n in g["names"]}
    fast = {n for n, scale in scales.items() if scale == 100.0}
    assert fast == {"backbone.model.head.weight", "backbone.model.head.bias"}


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "resnet10t"])
def test_head_only_leaves_every_other_tensor_bit_for_bit(name: str) -> None:
    method = _method(name=name, size_px=32, tune="head")
    before = {k: v.clone() for k, v in method.state_dict().items()}
    method.train()
    for _ in range(2):
        _update(method, _batch(size_px=32))
    changed = {k for k, v in method.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {f"backbone.{n}" for n in method._head_names}


def test_average_is_the_geometric_mean_of_the_weights_and_is_what_leaves() -> None:
    method = _method(name="resnet10t", size_px=32, ema_momentum=0.75)
    weight = method.backbone.model.fc.weight
    expected = weight.detach().clone()
    for _ in range(3):
        _update(method, _batch(size_px=32))
        expected = 0.75 * expected + 0.25 * weight.detach()
    exported = method.export_backbone()
    torch.testing.assert_close(exported.model.fc.weight, expected)
    assert torch.equal(exported.model.bn1.running_mean, method.backbone.model.bn1.running_mean)
    images = _batch(size_px=32).views["train"]
    with torch.no_grad():
        torch.testing.assert_close(method.predict(images), exported.eval().model(images))


def test_average_starts_from_loaded_weights() -> None:
    method, source = _method(ema_momentum=0.9), _method()
    transfer_weights(source.backbone, method.backbone)
    method.on_weights_loaded()
    for average, weight in zip(
        method.teacher.parameters(), method.backbone.parameters(), strict=True
    ):
        assert torch.equal(average, weight)


def test_fine_tuning_starts_at_timms_own_logits() -> None:
    pretrained = build_backbone(
        BackboneConfig(name="vit_tiny_patch16_224", args=TINY), input_size=16
    )
    method = _method(ema_momentum=0.9)
    transfer_weights(pretrained, method.backbone)
    method.on_weights_loaded()
    plain = timm.create_model(
        "vit_tiny_patch16_224", num_classes=5, img_size=16, dynamic_img_size=True, **TINY
    ).eval()
    plain.load_state_dict(pretrained.model.state_dict(), strict=False)
    plain.head.load_state_dict(method.backbone.model.head.state_dict())
    images = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(method.predict(images), plain(images), rtol=0, atol=0)


def test_repeated_images_carry_their_labels() -> None:
    method = _method(mixing=MixingConfig(name="none"), label_smoothing=0.0)
    batch = _batch(4, count=3)
    logits = method.logits(batch.views["train"])
    expected = nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 3] * 3))
    torch.testing.assert_close(method.compute_loss(batch).loss, expected)


@pytest.mark.parametrize("mixing", ["mixup", "smmix"])
@pytest.mark.parametrize("num_images", [1, 3])
def test_odd_batches_are_trained_on(mixing: Any, num_images: int) -> None:
    method = _method(mixing=MixingConfig(name=mixing))
    for step in range(4):
        method.step = step
        assert method.compute_loss(_batch(num_images)).loss.isfinite()


@pytest.mark.parametrize("name", ["cait_xxs24_224", "pvt_v2_b0", "swin_tiny_patch4_window7_224"])
def test_smmix_trains_the_papers_other_families(name: str) -> None:
    args = {
        "cait_xxs24_224": {"depth": 2, "embed_dim": 48},
        "pvt_v2_b0": {"depths": (1, 1, 1, 1)},
        "swin_tiny_patch4_window7_224": {"depths": (1, 1, 1, 1), "embed_dim": 24},
    }[name]
    method = _method(name=name, args=args, size_px=128, mixing=_smmix())
    output = method.compute_loss(_batch(2, size_px=128))
    output.loss.backward()
    assert output.loss.isfinite()
    assert [n for n, p in method.trainable_parameters() if p.grad is None] == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"label_smoothing": 1.0}, "label_smoothing=1.0"),
        ({"ema_momentum": 1.0}, "ema_momentum=1.0"),
        ({"tune": "head", "mixing": MixingConfig(name="smmix")}, "which method.tune=head freezes"),
        ({"mixing": MixingConfig(name="smmix", map_from="teacher")}, "set method.ema_momentum"),
    ],
)
def test_contradictions_are_named(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        SupervisedConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"prob": 1.5}, r"mixing\.prob=1\.5"),
        ({"mixup_alpha": 0.0}, "mixup_alpha=0.0"),
        ({"min_side": 0.8}, r"min_side=0\.8 and max_side=0\.75"),
    ],
)
def test_mixing_out_of_range_is_named(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        MixingConfig(**settings)


def test_one_view_is_expected() -> None:
    SupervisedConfig().check_views({"any": ViewConfig()})
    with pytest.raises(ConfigError, match="exactly one view"):
        SupervisedConfig().check_views({"a": ViewConfig(), "b": ViewConfig()})


def test_data_without_labels_are_refused() -> None:
    config = BackboneConfig(name="vit_tiny_patch16_224", args=TINY)
    plan = TrainPlan(steps_per_epoch=1, epochs=1, global_batch_size=8)
    with pytest.raises(ConfigError, match="needs labels"):
        Supervised(
            SupervisedConfig(),
            build_backbone(config, input_size=16),
            optim=OptimConfig(),
            plan=plan,
        )


@pytest.mark.parametrize(
    ("name", "size_px", "words"),
    [
        ("resnet10t", 32, "no attention between tokens"),
        (
            "pvt_v2_b0",
            110,
            "size_px=110 does not divide by it; use data.views.NAME.size_px=108",
        ),
    ],
)
def test_smmix_without_map_or_whole_cells_is_refused(name: str, size_px: int, words: str) -> None:
    config = BackboneConfig(name=name)
    plan = TrainPlan(
        steps_per_epoch=1, epochs=1, global_batch_size=8, num_classes=5, input_size=size_px
    )
    with pytest.raises(ConfigError, match=words):
        Supervised(
            SupervisedConfig(mixing=_smmix()),
            build_backbone(config, input_size=size_px),
            optim=OptimConfig(),
            plan=plan,
        )


def test_networks_with_two_classifiers_are_refused() -> None:
    with pytest.raises(ConfigError, match="two classifiers"):
        _method(name="deit_tiny_distilled_patch16_224", args={"depth": 1}, size_px=32)


class _Step(nn.Module):
    """What DDP wraps: a loss as a forward pass."""

    def __init__(self, method: Supervised) -> None:
        super().__init__()
        self.method = method

    def forward(self, batch: Batch) -> Tensor:
        return self.method.compute_loss(batch).loss


def _distributed_steps() -> list[list[float]]:
    method = _method(mixing=MixingConfig(name="smmix"))
    wrapped = DistributedDataParallel(_Step(method))
    seen = []
    for step in range(4):
        method.step = step
        wrapped.zero_grad()
        wrapped(_batch()).backward()
        gradient = method.backbone.model.patch_embed.proj.weight.grad
        seen.append([float(gradient.abs().sum()), float(method.token_head.weight.grad.abs().sum())])
    return seen


@pytest.mark.distributed
def test_processes_flip_the_same_coin_and_miss_no_parameter(
    run_distributed: Callable[..., list[Any]],
) -> None:
    first, second = run_distributed(_distributed_steps)
    assert first == second
    is_smmix = [token > 0 for _, token in first]
    assert set(is_smmix) == {True, False}
    method = _method(mixing=MixingConfig(name="smmix"))
    for step, (expected, _) in enumerate(first):  # both processes saw the same batch
        method.step = step
        method.zero_grad()
        method.compute_loss(_batch()).loss.backward()
        gradient = method.backbone.model.patch_embed.proj.weight.grad
        assert float(gradient.abs().sum()) == pytest.approx(expected, rel=1e-5)


def test_regions_of_averaging_networks_are_normed_like_the_whole() -> None:
    method = _method(mixing=_smmix(), args={"global_pool": "avg"})
    seen = []
    method.token_head.register_forward_hook(lambda module, args, out: seen.append(args[0]))
    method.compute_loss(_batch()).loss.backward()
    for tokens in seen:  # the fresh norm's weight is 1 and its bias 0
        torch.testing.assert_close(tokens.mean(dim=1), torch.zeros(8), rtol=0, atol=1e-5)
        torch.testing.assert_close(
            tokens.var(dim=1, correction=0), torch.ones(8), rtol=0, atol=0.05
        )


def test_a_mae_export_is_fine_tuned_from_timms_own_logits(tmp_path: Path) -> None:
    plan = TrainPlan(steps_per_epoch=1, epochs=1, global_batch_size=8, num_classes=5, input_size=16)
    torch.manual_seed(0)
    config = BackboneConfig(name="vit_tiny_patch16_224", args=TINY)
    mae = Mae(
        MaeConfig(decoder_width=16, decoder_depth=1, decoder_num_heads=2),
        build_backbone(config, input_size=16),
        optim=OptimConfig(),
        plan=plan,
    )
    half = (0.5, 0.5, 0.5)
    export_backbone(
        mae.export_backbone(), tmp_path / "mae", mean=half, std=half, interpolation="bicubic",
        size_px=16,
    )  # fmt: skip
    method = _method()
    transfer_weights(resolve_weights(tmp_path / "mae").backbone, method.backbone)
    theirs = timm.create_model(f"local-dir:{tmp_path}/mae", pretrained=True, num_classes=5).eval()
    theirs.head.load_state_dict(method.backbone.model.head.state_dict())
    images = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(method.predict(images), theirs(images))


def test_half_precision_reaches_every_parameter_although_two_passes_share_the_weights() -> None:
    method = _method(mixing=_smmix())
    with torch.autocast("cpu", torch.bfloat16):
        loss = method.compute_loss(_batch()).loss
    loss.backward()
    assert loss.isfinite()
    assert [n for n, p in method.trainable_parameters() if p.grad is None] == []


# From inside a pretraining's head -------------------------------------------------------------

INPUT: dict[str, Any] = {
    "mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bicubic", "size_px": 16,
}  # fmt: skip


def _pretrained(folder: Path) -> Simclr:
    """SimCLR with batch norms that have seen something, and its export."""
    torch.manual_seed(1)
    backbone = build_backbone(BackboneConfig(name="vit_tiny_patch16_224", args=TINY), input_size=16)
    method = Simclr(
        SimclrConfig(projection_dim=7),
        backbone,
        optim=OptimConfig(),
        plan=TrainPlan(steps_per_epoch=1, epochs=1, global_batch_size=8, input_size=16),
    )
    images = torch.randn(8, 3, 16, 16)
    method.compute_loss(Batch(views={"a": images, "b": images}, index=torch.arange(8)))
    export_backbone(method.export_backbone(), folder, **INPUT, heads=method.export_heads())
    return method.eval()


def _started(folder: Path, **settings: Any) -> Supervised:
    """A fine-tuning that starts from an export, as the engine does it."""
    loaded = resolve_weights(folder)
    method = _method(**settings)
    transfer_weights(loaded.backbone, method.backbone)
    method.take_heads(heads_of(loaded), source=loaded.source)
    method.on_weights_loaded()
    return method.eval()


@pytest.mark.parametrize("num_layers", [1, 2])
def test_fine_tuning_starts_behind_layers_of_simclrs_head(tmp_path: Path, num_layers: int) -> None:
    simclr = _pretrained(tmp_path / "export")
    method = _started(tmp_path / "export", from_head_layer=num_layers, ema_momentum=0.9)
    images = torch.randn(4, 3, 16, 16)
    hidden = simclr.backbone(images).pooled
    for layer in list(simclr.projector.layers)[:num_layers]:
        linear, norm, _ = list(layer.children())
        z = (hidden @ linear.weight.T - norm.running_mean) / (norm.running_var + 1e-5).sqrt()
        hidden = (norm.weight * z + norm.bias).clamp(min=0)
    head = method.backbone.model.get_classifier()
    expected = hidden @ head.weight.T + head.bias
    torch.testing.assert_close(method.logits(images), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(method.predict(images), expected, rtol=1e-5, atol=1e-6)


def test_layers_of_the_head_are_trained_and_layer_decay_leaves_them_alone(tmp_path: Path) -> None:
    _pretrained(tmp_path / "export")
    method = _started(tmp_path / "export", from_head_layer=1, layer_decay=0.5).train()
    method.compute_loss(_batch()).loss.backward()
    names = [n for n, p in method.named_parameters() if ".head_layers." in n]
    assert len(names) == 3
    groups = {n: g["lr_scale"] for g in method.param_groups() for n in g["names"]}
    assert {groups[name] for name in names} == {1.0}
    assert all(dict(method.named_parameters())[name].grad.abs().sum() > 0 for name in names)
    frozen = _started(tmp_path / "export", from_head_layer=1, tune="head")
    assert [n for n, p in frozen.named_parameters() if p.requires_grad] == [
        "backbone.model.head.weight", "backbone.model.head.bias",
    ]  # fmt: skip


def test_what_was_fine_tuned_so_leaves_with_its_scores_and_as_a_plain_network(
    tmp_path: Path,
) -> None:
    _pretrained(tmp_path / "export")
    method = _started(tmp_path / "export", from_head_layer=1, head_init_std=1.0)
    images = torch.randn(4, 3, 16, 16)
    export_backbone(method.export_backbone(), tmp_path / "tuned", **INPUT)
    read, _ = read_export(tmp_path / "tuned", with_classifier=True)
    with torch.no_grad():
        torch.testing.assert_close(classify(read, read(images).pooled), method.predict(images))
        plain = timm.create_model(f"local-dir:{tmp_path / 'tuned'}", pretrained=True).eval()
        torch.testing.assert_close(plain(images), method.backbone(images).pooled)
    assert method.backbone.model.get_classifier().weight.shape == (5, 24)  # left as it was


def test_weights_without_such_a_head_are_refused(tmp_path: Path) -> None:
    _pretrained(tmp_path / "export")
    with pytest.raises(CheckpointError, match=r"from_head_layer=3.*simclr"):
        _started(tmp_path / "export", from_head_layer=3)  # the last layer is the projection
    (tmp_path / "export" / "heads.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"from_head_layer=1.*no head of SimCLR"):
        _started(tmp_path / "export", from_head_layer=1)
    assert _started(tmp_path / "export").backbone.head_layers is None
    with pytest.raises(ConfigError, match=r"method\.from_head_layer=-1"):
        SupervisedConfig(from_head_layer=-1)
