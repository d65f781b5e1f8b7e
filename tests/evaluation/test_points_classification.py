"""Fine-tuned and few-shot classification: the authors' logits, honest scores, fixed folds."""

import zlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from ssl_vision.backbones.build import BackboneConfig, build_backbone
from ssl_vision.backbones.point_vit import PointViT
from ssl_vision.data.clouds.source import PointSource
from ssl_vision.errors import ConfigError, DataError
from ssl_vision.evaluation.points_classification import (
    POINT_FINETUNE_PRESETS,
    PointClassifier,
    PointFewShotConfig,
    PointFinetuneConfig,
    few_shot_finetune,
    few_shot_folds,
    few_shot_svm,
    finetune_classifier,
)
from ssl_vision.evaluation.points_training import TuningConfig, with_class_token

SIZES = {"embed_dim": 24, "depth": 3, "num_heads": 3, "num_groups": 16, "group_size": 8,
         "patch_hidden": 512}  # fmt: skip


def make(**changes: object) -> PointViT:
    args = {**SIZES, "patch_hidden": 32, "depth": 1, "num_groups": 8, **changes}
    backbone = build_backbone(BackboneConfig(name="point_vit_small", args=args), input_size=64)
    assert isinstance(backbone, PointViT)
    return backbone


def balls_and_rods(num: int, *, seed: int) -> PointSource:
    """Two classes that are easy to tell: round and long clouds."""
    random = np.random.default_rng(seed)
    sizes = [np.ones(3), np.array([0.1, 1.0, 0.1])]
    clouds = [random.normal(size=(80, 3)) * sizes[i % 2] for i in range(num)]
    return PointSource(
        [f"cloud {i}" for i in range(num)], lambda i: clouds[i],
        labels=[i % 2 for i in range(num)], class_names=["ball", "rod"],
    )  # fmt: skip


def drawn(name: str, shape: tuple[int, ...], factor: float = 1.0) -> torch.Tensor:
    """The golden files' rule for weights."""
    random = np.random.RandomState(zlib.crc32(name.encode()))
    values = 0.06 * random.standard_normal(int(np.prod(shape)))
    if len(shape) == 1 and name.endswith("weight"):
        values += 1
    return torch.from_numpy((values * factor).astype(np.float32)).view(shape)


def test_logits_and_loss_equal_the_authors(
    golden: Callable[[str], dict[str, np.ndarray]], official_weights: Callable[..., object]
) -> None:
    values = golden("point_downstream")
    backbone = make(patch_hidden=512, depth=3, num_groups=16, skips_near_origin=True)
    model = PointClassifier(with_class_token(backbone), 7, head="full")
    names = [str(n) for n in values["cls_param_names"]]
    official_weights(model.network, [n for n in names if "head" not in n])
    for name, parameter in model.head.named_parameters():
        official = f"cls_head_finetune.{name}"
        assert official in names
        parameter.data.copy_(drawn(official, tuple(parameter.shape)))
    model.eval()
    with torch.no_grad():
        logits = model(torch.from_numpy(values["cls_points"]))
    np.testing.assert_allclose(logits.numpy(), values["cls_logits"], atol=2e-5)
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(values["cls_labels"]))
    assert loss.item() == pytest.approx(float(values["cls_loss"]), rel=1e-5)


def test_easy_classes_are_learned_and_the_backbone_is_left_alone() -> None:
    backbone = make()
    # As after pre-training, batch statistics are those of data: from their start of (0, 1) they
    # would need a hundred updates.
    for layer in backbone.modules():
        if isinstance(layer, torch.nn.BatchNorm1d):
            layer.momentum = None
    backbone.train()(torch.randn(16, 64, 3))
    backbone.eval()
    before = {n: v.clone() for n, v in backbone.state_dict().items()}
    config = PointFinetuneConfig(
        votes=3, farthest_pool=None, tuning=TuningConfig(epochs=10, batch_size=8, lr=2e-3)
    )
    train, test = balls_and_rods(32, seed=0), balls_and_rods(16, seed=1)
    result = finetune_classifier(backbone, train, test, config=config, num_classes=2, seed=0)
    assert result.top1 >= 0.9
    assert result.voted_top1 is not None
    assert result.voted_top1 >= 0.9
    assert result.num_test == 16
    assert all(torch.equal(backbone.state_dict()[n], v) for n, v in before.items())


def test_the_protocol_of_scans_shows_raw_clouds_in_128_patches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What reaches the network: the clouds as they are, scaled and shifted only in training."""
    random = np.random.default_rng(0)
    clouds = [5 + 3 * random.normal(size=(2048, 3)).astype(np.float32) for _ in range(4)]
    source = PointSource(
        [f"scan {i}" for i in range(4)], lambda i: clouds[i],
        labels=[0, 1, 0, 1], class_names=["a", "b"],
    )  # fmt: skip
    seen: list[tuple[bool, torch.Tensor, int]] = []
    forward = PointClassifier.forward

    def spy(self: PointClassifier, points: torch.Tensor) -> torch.Tensor:
        seen.append((self.training, points, self.network.num_groups))
        return forward(self, points)

    monkeypatch.setattr(PointClassifier, "forward", spy)
    for preset, num_groups in (("scanobjectnn", 128), ("modelnet40", 8)):
        seen.clear()
        config = replace(
            POINT_FINETUNE_PRESETS[preset],
            num_points=2048, votes=0, tuning=TuningConfig(epochs=1, batch_size=4),
        )  # fmt: skip
        finetune_classifier(make(), source, source, config=config, num_classes=2, seed=0)
        assert {groups for _, _, groups in seen} == {num_groups}
        shown = next(points for is_training, points, _ in seen if not is_training)[0]
        if preset == "scanobjectnn":
            rows = {tuple(row) for row in shown.tolist()}
            assert rows == {tuple(row) for row in clouds[0].tolist()}
        else:
            assert shown.norm(dim=1).max().item() == pytest.approx(1, abs=1e-5)
        assert [is_training for is_training, _, _ in seen] == [True, False]


@pytest.mark.parametrize("head", ["linear", "mlp3"])
def test_frozen_protocols_train_head_and_class_token_only(head: str) -> None:
    model = PointClassifier(with_class_token(make()), 2, head=head).train()  # type: ignore[arg-type]
    before = {n: v.clone() for n, v in model.network.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    model(torch.randn(4, 64, 3)).square().sum().backward()
    optimizer.step()
    changed = {n for n, v in model.network.state_dict().items() if not torch.equal(v, before[n])}
    assert changed == {"cls_token", "cls_pos"}  # batch statistics neither


def test_folds_are_fixed_disjoint_and_balanced() -> None:
    labels = np.repeat(np.arange(6), 15)
    config = PointFewShotConfig(ways=4, shots=3, num_queries=5, num_folds=3)
    folds = few_shot_folds(labels, config=config)
    again = few_shot_folds(labels, config=config)
    for fold, same in zip(folds, again, strict=True):
        assert np.array_equal(fold.train, same.train)
        assert not set(fold.train) & set(fold.test)
        assert np.bincount(fold.train_labels).tolist() == [3] * 4
        assert np.bincount(fold.test_labels).tolist() == [5] * 4
        for way in range(4):  # a way is one class throughout
            own = [*fold.train[fold.train_labels == way], *fold.test[fold.test_labels == way]]
            assert len(set(labels[own])) == 1
    assert not np.array_equal(folds[0].train, folds[1].train)
    assert not np.array_equal(
        folds[0].train, few_shot_folds(labels, config=config, seed=1)[0].train
    )


def test_few_shots_by_svm_know_separable_features() -> None:
    labels = np.repeat(np.arange(6), 15)
    features = np.eye(6, dtype=np.float32)[labels]
    config = PointFewShotConfig(ways=4, shots=3, num_queries=5, num_folds=3)
    result = few_shot_svm(features, labels, config=config)
    assert result.mean == 1.0
    assert result.std == 0.0
    assert len(result.folds) == 3


def test_few_shots_by_fine_tuning_run_the_whole_protocol() -> None:
    source = balls_and_rods(40, seed=2)
    finetune = PointFinetuneConfig(
        head="linear", farthest_pool=None, tuning=TuningConfig(epochs=4, batch_size=8, lr=5e-3)
    )
    config = PointFewShotConfig(
        ways=2, shots=4, num_queries=4, num_folds=2, by="finetune", finetune=finetune
    )
    result = few_shot_finetune(make(), source, config=config)
    assert len(result.folds) == 2
    assert 0 <= result.mean <= 1


def test_unusable_problems_are_explained() -> None:
    labels = np.repeat(np.arange(3), 5)
    config = PointFewShotConfig(ways=2, shots=3, num_queries=5)
    with pytest.raises(DataError, match="0 classes have the 8 clouds"):
        few_shot_folds(labels, config=config)
    unlabelled = balls_and_rods(4, seed=0)
    unlabelled.labels = None
    for source in (unlabelled,):
        with pytest.raises(DataError, match="labelled"):
            finetune_classifier(
                make(), source, source, config=PointFinetuneConfig(), num_classes=2, seed=0
            )
    with pytest.raises(ConfigError, match="head="):
        PointFinetuneConfig(head="big")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="ways=1"):
        replace(config, ways=1)
