"""Part segmentation of point clouds (Point-MAE, section 4.4): which part each point belongs to.

Where we differ from the authors' code: one optimizer step per batch (theirs steps twice on the same
gradient), scores of the last epoch (theirs are the best on the test set), and the network's own
number of patches unless `num_groups` asks for the authors' 128.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ssl_vision.backbones.point_vit import PointTransformer, PointViT
from ssl_vision.bounds import check_bounds, check_range
from ssl_vision.data.clouds.source import PartSource
from ssl_vision.data.loader import epoch_order
from ssl_vision.errors import DataError
from ssl_vision.evaluation.points_training import TuningConfig, device_of, tune_points, tuned_copy
from ssl_vision.points.clouds import unit_sphere
from ssl_vision.points.grouping import interpolation_weights
from ssl_vision.points.sampling import take_points
from ssl_vision.points.views import scale_and_shift
from ssl_vision.randomness import derive_key, keyed_uniform, seeded
from ssl_vision.types import Batch


@dataclass(frozen=True, kw_only=True)
class PartsConfig:
    """Part segmentation; defaults are those of ShapeNetPart."""

    num_points: int = 2048  # drawn with replacement
    num_groups: int | None = None  # patches of a cloud, the authors' 128; None: the network's
    scale: tuple[float, float] = (0.8, 1.25)  # one factor for all axes
    shift: float = 0.1
    tuning: TuningConfig = field(
        default_factory=lambda: TuningConfig(lr=2e-4, batch_size=16, epochs=300)
    )

    def __post_init__(self) -> None:
        for name in ("num_points", "num_groups"):
            check_bounds(f"parts.{name}", getattr(self, name), least=1)
        check_range("parts.scale", self.scale, low=0.01, high=100.0)
        check_bounds("parts.shift", self.shift, least=0)


class PartScores(NamedTuple):
    """Intersection over union, averaged two ways."""

    instance_miou: float  # mean over objects of the mean over the object's parts
    class_miou: float  # mean over classes of the mean over its objects
    by_class: dict[int, float]
    accuracy: float  # of points


class PartSegmenter(nn.Module):
    """Features of three depths, spread from patches to points, and the object's class -> parts.

    Args:
        network: Without a class token; three of its blocks, evenly spaced and the last among them,
            are read.
        num_classes: Object classes.
        num_parts: Parts of all classes.
    """

    def __init__(self, network: PointTransformer, *, num_classes: int, num_parts: int) -> None:
        super().__init__()
        self.network = network
        depth = len(network.blocks)
        self.layers = tuple(sorted({max(0, depth * i // 3 - 1) for i in (1, 2, 3)}))
        width = len(self.layers) * network.embed_dim
        self.label_embed = nn.Sequential(
            nn.Conv1d(num_classes, 64, 1, bias=False), nn.BatchNorm1d(64), nn.LeakyReLU(0.2)
        )
        self.propagate = nn.Sequential(
            *(nn.Conv1d(3 + width, 1536, 1), nn.BatchNorm1d(1536), nn.ReLU()),
            *(nn.Conv1d(1536, 1024, 1), nn.BatchNorm1d(1024), nn.ReLU()),
        )
        self.head = nn.Sequential(
            *(nn.Conv1d(1024 + 2 * width + 64, 512, 1), nn.BatchNorm1d(512), nn.ReLU()),
            nn.Dropout(0.5),
            *(nn.Conv1d(512, 256, 1), nn.BatchNorm1d(256), nn.ReLU()),
            nn.Conv1d(256, num_parts, 1),
        )

    def forward(self, points: Tensor, object_class: Tensor) -> Tensor:
        """Log-probabilities of the parts.

        Args:
            points: Clouds in the unit sphere, (B, M, 3).
            object_class: Class of each object, one-hot, float, (B, K).

        Returns:
            (B, M, P).
        """
        patches = self.network.group(points)
        depths = self.network.encode_layers(*self.network.embed(patches), layers=self.layers)
        features = torch.cat(depths, dim=2)  # (B, G, 3D)
        whole = torch.cat([features.amax(dim=1), features.mean(dim=1)], dim=1)
        label = self.label_embed(object_class[:, :, None])  # (B, 64, 1)
        index, weights = interpolation_weights(points, patches.centers)
        spread = (take_points(features, index) * weights[..., None]).sum(dim=2)  # (B, M, 3D)
        local = self.propagate(torch.cat([points, spread], dim=2).transpose(1, 2))
        num_points = points.shape[1]
        joined = [
            local,
            whole[:, :, None].expand(-1, -1, num_points),
            label.expand(-1, -1, num_points),
        ]
        return self.head(torch.cat(joined, dim=1)).log_softmax(dim=1).transpose(1, 2)


def part_scores(
    predicted: Sequence[NDArray[np.int64]],
    truth: Sequence[NDArray[np.int64]],
    object_class: Sequence[int],
    *,
    parts_of_class: Sequence[Sequence[int]],
) -> PartScores:
    """Mean intersection over union of parts.

    A part that is absent in both prediction and truth counts 1, as everybody counts it.

    Args:
        predicted: Part of each point, per object.
        truth: Likewise.
        object_class: Class of each object.
        parts_of_class: Parts that objects of each class can have.
    """
    by_class: dict[int, list[float]] = {}
    correct = total = 0
    for guess, target, kind in zip(predicted, truth, object_class, strict=True):
        overlaps = []
        for part in parts_of_class[kind]:
            union = int(((guess == part) | (target == part)).sum())
            both = int(((guess == part) & (target == part)).sum())
            overlaps.append(both / union if union else 1.0)
        by_class.setdefault(int(kind), []).append(float(np.mean(overlaps)))
        correct += int((guess == target).sum())
        total += len(target)
    of_class = {kind: float(np.mean(values)) for kind, values in sorted(by_class.items())}
    every = [value for values in by_class.values() for value in values]
    return PartScores(
        instance_miou=float(np.mean(every)),
        class_miou=float(np.mean(list(of_class.values()))),
        by_class=of_class,
        accuracy=correct / total,
    )


def finetune_parts(
    backbone: PointViT,
    train: PartSource,
    test: PartSource,
    *,
    config: PartsConfig,
    seed: int,
) -> PartScores:
    """Fine-tune on the parts of one set of objects, score on another.

    The object's class is given, and a point's part chosen among that class's, as published.

    Raises:
        DataError: Fewer than two training objects.
    """
    if len(train) < 2:
        raise DataError(
            f"{len(train)} training object is too few for batch norm; give two or more."
        )
    num_classes, num_parts = len(train.class_names), len(train.part_names)
    with seeded(derive_key(seed, "part segmenter")):
        network = tuned_copy(
            backbone, drop_path=config.tuning.drop_path, num_groups=config.num_groups
        )
        model = PartSegmenter(network, num_classes=num_classes, num_parts=num_parts)
    model.to(device_of(backbone)).train()
    size = min(config.tuning.batch_size, len(train))
    steps = len(train) // size

    def batches(epoch: int) -> "list[Batch]":
        order = epoch_order(len(train), seed=seed, epoch=epoch)
        chunks = (order[i * size : (i + 1) * size] for i in range(steps))
        return [
            _batch(train, rows, config, key=derive_key(seed, "parts", epoch)) for rows in chunks
        ]

    def loss_of(batch: Batch) -> Tensor:
        points, kinds, target = _inputs(batch, num_classes, device_of(model))
        return nn.functional.nll_loss(model(points, kinds).flatten(0, 1), target.flatten())

    tune_points(model, batches, loss_of, config=config.tuning, steps_per_epoch=steps, seed=seed)
    return score_parts(model, test, config=config, seed=seed)


@torch.no_grad()
def score_parts(
    model: PartSegmenter, test: PartSource, *, config: PartsConfig, seed: int = 0
) -> PartScores:
    """Scores of a trained segmenter on un-augmented objects."""
    model.eval()
    still = PartsConfig(num_points=config.num_points, scale=(1.0, 1.0), shift=0.0)
    predicted: list[NDArray[np.int64]] = []
    truth: list[NDArray[np.int64]] = []
    kinds: list[int] = []
    for start in range(0, len(test), 16):
        rows = np.arange(start, min(start + 16, len(test)))
        batch = _batch(test, rows, still, key=derive_key(seed, "parts test"))
        points, one_hot, target = _inputs(batch, len(test.class_names), device_of(model))
        scores = model(points, one_hot).cpu()
        for row, kind in enumerate(batch.label.tolist() if batch.label is not None else []):
            owned = torch.tensor(test.parts_of_class[kind])
            predicted.append(owned[scores[row][:, owned].argmax(dim=1)].numpy())
            truth.append(target[row].cpu().numpy())
            kinds.append(kind)
    return part_scores(predicted, truth, kinds, parts_of_class=test.parts_of_class)


def _batch(source: PartSource, rows: NDArray[np.int64], config: PartsConfig, *, key: int) -> Batch:
    """Objects with points drawn with replacement, and the part of each point as a second view."""
    ids = torch.from_numpy(rows.copy())
    draw = keyed_uniform(derive_key(key, "choose"), ids, config.num_points)
    clouds, parts = [], []
    for row, uniform in zip(rows.tolist(), draw, strict=True):
        cloud, part = source.sample(row), source.parts(row)
        chosen = (uniform * len(cloud)).long().clamp_(max=len(cloud) - 1)
        clouds.append(torch.from_numpy(cloud)[chosen])
        parts.append(torch.from_numpy(part)[chosen])
    points = unit_sphere(torch.stack(clouds))
    move = keyed_uniform(derive_key(key, "augment"), ids, 4)
    low, high = config.scale
    points = scale_and_shift(
        points,
        scale=(low + (high - low) * move[:, :1]).expand(-1, 3),
        shift=config.shift * (2 * move[:, 1:] - 1),
    )
    assert source.labels is not None
    return Batch(
        views={"cloud": points, "part": torch.stack(parts)},
        index=ids,
        label=torch.from_numpy(source.labels[rows]),
    )


def _inputs(batch: Batch, num_classes: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    assert batch.label is not None
    kinds = nn.functional.one_hot(batch.label, num_classes).float()
    return (
        batch.views["cloud"].to(device),
        kinds.to(device),
        batch.views["part"].to(device),
    )
