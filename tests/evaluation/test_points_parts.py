"""Part segmentation: the authors' predictions, scores by hand, and that it learns."""

import zlib
from collections.abc import Callable

import numpy as np
import pytest
import torch

from ssl_vision.backbones.build import BackboneConfig, build_backbone
from ssl_vision.backbones.point_vit import PointTransformer, PointViT
from ssl_vision.data.clouds.source import PartSource
from ssl_vision.evaluation.points_parts import (
    PartsConfig,
    PartSegmenter,
    finetune_parts,
    part_scores,
)
from ssl_vision.evaluation.points_training import TuningConfig
from ssl_vision.zoo.convert_points import rename_encoder, squeeze_convolution

# Our layer of the heads -> the authors'.
HEADS = {
    "label_embed.0": "label_conv.0",
    "label_embed.1": "label_conv.1",
    "propagate.0": "propagation_0.mlp_convs.0",
    "propagate.1": "propagation_0.mlp_bns.0",
    "propagate.3": "propagation_0.mlp_convs.1",
    "propagate.4": "propagation_0.mlp_bns.1",
    "head.0": "convs1",
    "head.1": "bns1",
    "head.4": "convs2",
    "head.5": "bns2",
    "head.7": "convs3",
}


def test_predictions_equal_the_authors(golden: Callable[[str], dict[str, np.ndarray]]) -> None:
    values = golden("point_downstream")
    network = PointTransformer(num_groups=128, skips_near_origin=True)
    model = PartSegmenter(network, num_classes=16, num_parts=50).eval()
    ours = {f"network.{n}": p for n, p in network.named_parameters()}
    others = {n: p for n, p in model.named_parameters() if not n.startswith("network.")}
    official_of = {
        name: f"{HEADS[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}" for name in others
    }
    shapes = dict(
        zip(values["seg_param_names"].tolist(), values["seg_param_shapes"].tolist(), strict=True)
    )
    for name, shape_text in shapes.items():
        shape = tuple(int(n) for n in shape_text.strip("(),").split(",") if n.strip())
        random = np.random.RandomState(zlib.crc32(name.encode()))
        drawn = 0.06 * random.standard_normal(int(np.prod(shape))).reshape(shape)
        if len(shape) == 1 and name.endswith("weight"):
            drawn += 1
        tensor = torch.from_numpy((drawn * (0.5 if len(shape) > 1 else 1)).astype(np.float32))
        found = [n for n, official in official_of.items() if official == name]
        if found:
            others.pop(found[0]).data.copy_(tensor)
        else:
            target = ours.pop(f"network.{rename_encoder(name)}")
            target.data.copy_(squeeze_convolution(tensor))
    assert not ours
    assert not others
    points = torch.from_numpy(values["seg_points"])
    one_hot = torch.from_numpy(values["seg_class_onehot"])[:, 0]
    with torch.no_grad():
        predicted = model(points, one_hot)
    np.testing.assert_allclose(predicted.numpy(), values["seg_logprob"], atol=1e-4)
    target = torch.from_numpy(values["seg_target"])
    loss = torch.nn.functional.nll_loss(predicted.flatten(0, 1), target.flatten())
    assert loss.item() == pytest.approx(float(values["seg_nll"]), rel=1e-5)


def test_scores_by_hand() -> None:
    truth = [np.array([0, 0, 1, 1]), np.array([2, 2, 2, 3]), np.array([2, 2, 2, 2])]
    predicted = [np.array([0, 1, 1, 1]), np.array([2, 2, 2, 3]), np.array([2, 2, 2, 2])]
    scores = part_scores(predicted, truth, [0, 1, 1], parts_of_class=[[0, 1], [2, 3]])
    first = (1 / 2 + 2 / 3) / 2
    # The third object has no part 3 and none is predicted: that part counts 1.
    assert scores.by_class == {0: pytest.approx(first), 1: 1.0}
    assert scores.instance_miou == pytest.approx((first + 1 + 1) / 3)
    assert scores.class_miou == pytest.approx((first + 1) / 2)
    assert scores.accuracy == pytest.approx(11 / 12)


def test_a_wrongly_predicted_absent_part_counts_zero() -> None:
    scores = part_scores([np.array([0, 1])], [np.array([0, 0])], [0], parts_of_class=[[0, 1]])
    assert scores.instance_miou == pytest.approx((1 / 2 + 0) / 2)


def two_halves(num: int, *, seed: int) -> PartSource:
    """Balls of two parts: below and above their equator."""

    def read(row: int) -> np.ndarray:
        points = np.random.default_rng((seed, row)).normal(size=(60, 3))
        return np.concatenate([points, points[:, 1:2] > 0], axis=1)

    return PartSource(
        [f"ball {i}" for i in range(num)], read, labels=[0] * num, class_names=["ball"],
        part_names=["ball/low", "ball/high"], parts_of_class=[[0, 1]],
    )  # fmt: skip


def test_parts_can_be_learned() -> None:
    args = {"embed_dim": 24, "depth": 3, "num_heads": 3, "num_groups": 8, "group_size": 8,
            "patch_hidden": 32}  # fmt: skip
    backbone = build_backbone(BackboneConfig(name="point_vit_tiny", args=args), input_size=64)
    assert isinstance(backbone, PointViT)
    config = PartsConfig(num_points=48, tuning=TuningConfig(epochs=8, batch_size=8, lr=2e-3))
    scores = finetune_parts(
        backbone, two_halves(24, seed=0), two_halves(8, seed=1), config=config, seed=0
    )
    assert scores.accuracy > 0.75
    assert scores.instance_miou == pytest.approx(scores.class_miou)
