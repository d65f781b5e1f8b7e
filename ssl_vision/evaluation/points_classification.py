"""Classification of point clouds by a fine-tuned network, and few-shot classification.

Point-MAE, section 4.2 and 4.3; the head protocols full, linear and mlp3 are Point-CMAE's.

Where we differ from the authors' code: the rate falls with every update through 300 epochs, where
the code steps it per epoch, one late, through 301 (sums of rates within 3.4 %); the last epoch is
reported, not the best on the test set;
voting averages a fixed number of views once, where the code repeats the vote up to 299 times and
keeps the best; frozen parts are in evaluation mode, where the code's batch norms keep drifting.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ssl_vision.backbones.point_vit import PointTransformer, PointViT
from ssl_vision.bounds import check_bounds
from ssl_vision.data.clouds.loader import PointLoader
from ssl_vision.data.source import Source, SubsetSource
from ssl_vision.errors import ConfigError, DataError
from ssl_vision.evaluation.points_training import (
    TuningConfig,
    device_of,
    tune_points,
    with_class_token,
)
from ssl_vision.evaluation.svm import SvmConfig, linear_svm, mean_and_std
from ssl_vision.points.views import PointViewConfig, evaluation_point_view
from ssl_vision.randomness import derive_key, keyed_generator, seeded
from ssl_vision.types import Batch

Head = Literal["full", "linear", "mlp3"]


@dataclass(frozen=True, kw_only=True)
class PointFinetuneConfig:
    """Fine-tuned classification; defaults are those of ModelNet40 (Point-MAE)."""

    head: Head = "full"  # full: everything trains; linear, mlp3: head and class token only
    preset: str = "modelnet40"  # where the other values come from; see POINT_FINETUNE_PRESETS
    num_points: int | None = None  # None: data.num_points, or what the network was trained with
    num_groups: int | None = None  # patches of a cloud; None: data.num_groups, or the network's
    is_normalized: bool | None = None  # clouds into the unit sphere; None: data.is_normalized
    farthest_pool: float | None = 1.17  # training draws from this many times num_points, by FPS
    rotate: Literal["none", "vertical", "any"] = "none"  # Point-CMAE's best rows: vertical
    votes: int = 10  # augmented views averaged, once; 0: none
    tuning: TuningConfig = field(default_factory=TuningConfig)

    def __post_init__(self) -> None:
        if self.head not in ("full", "linear", "mlp3"):
            raise ConfigError(f"head={self.head!r} must be full, linear or mlp3.")
        check_bounds("votes", self.votes, least=0)
        for name in ("num_points", "num_groups", "farthest_pool"):
            check_bounds(name, getattr(self, name), least=1)


POINT_FINETUNE_PRESETS = {
    "modelnet40": PointFinetuneConfig(),
    # 128 patches of 2,048 points; the authors' reader leaves the clouds as they were scanned.
    "scanobjectnn": PointFinetuneConfig(
        preset="scanobjectnn", num_points=2048, num_groups=128, is_normalized=False
    ),
}


class FinetuneResult(NamedTuple):
    """Test accuracy after the last epoch."""

    top1: float
    voted_top1: float | None  # of the averaged views; None without voting
    last_loss: float
    num_test: int


class PointClassifier(nn.Module):
    """Class token and largest patch features -> classes.

    Args:
        network: With a class token.
        num_classes: Classes.
        head: Three layers of width 256 with batch norm and dropout of 0.5, or one.
    """

    def __init__(self, network: PointTransformer, num_classes: int, *, head: Head) -> None:
        super().__init__()
        self.network = network
        width = network.head_hidden_size
        self.head: nn.Module = nn.Linear(width, num_classes)
        if head != "linear":
            self.head = nn.Sequential(
                *(nn.Linear(width, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Dropout(0.5)),
                *(nn.Linear(256, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Dropout(0.5)),
                nn.Linear(256, num_classes),
            )
        self.is_frozen = head != "full"
        if self.is_frozen:
            for name, parameter in network.named_parameters():
                parameter.requires_grad_(name in ("cls_token", "cls_pos"))

    def forward(self, points: Tensor) -> Tensor:
        """Clouds (B, M, 3) -> logits (B, C)."""
        return self.head(self.network(points))

    def train(self, mode: bool = True) -> "PointClassifier":
        """Training mode; of a frozen network only the head gets it."""
        super().train(mode)
        if self.is_frozen:
            self.network.eval()
        return self


def finetune_classifier(
    backbone: PointViT,
    train: Source,
    test: Source,
    *,
    config: PointFinetuneConfig,
    num_classes: int,
    seed: int,
    num_threads: int = 0,
) -> FinetuneResult:
    """Fine-tune on one set of labelled clouds, score on another.

    Args:
        backbone: Pre-trained; it is copied, not changed.
        train: Labelled clouds.
        test: Labelled clouds of the same classes.
        config: Settings.
        num_classes: Classes.
        seed: Of the head, the order, the views and dropout.
        num_threads: Of the loaders.

    Raises:
        DataError: Unlabelled clouds, or fewer than two of them.
    """
    if train.labels is None or test.labels is None:
        raise DataError("fine-tuning needs labelled training and test clouds.")
    if len(train) < 2:
        raise DataError(f"{len(train)} training cloud is too few for batch norm; give two or more.")
    with seeded(derive_key(seed, "classifier")):
        network = with_class_token(
            backbone, drop_path=config.tuning.drop_path, num_groups=config.num_groups
        )
        model = PointClassifier(network, num_classes, head=config.head)
    model.to(device_of(backbone)).train()
    view = _training_view(backbone, config)
    tuning = config.tuning
    tuning = replace(tuning, batch_size=min(tuning.batch_size, len(train)))
    loader = PointLoader(
        train, {"cloud": view}, batch_size=tuning.batch_size, seed=seed, num_threads=num_threads
    )
    last_loss = tune_points(
        model,
        lambda epoch: _epoch(loader, epoch),
        lambda batch: _cross_entropy(model, batch),
        config=tuning,
        steps_per_epoch=len(loader),
        seed=seed,
    )
    truth = torch.from_numpy(np.asarray(test.labels))
    still = evaluation_point_view(num_points=view.num_points, is_normalized=view.is_normalized)
    plain = _logits(model, test, still, seed=seed, num_threads=num_threads)
    voted = None
    if config.votes:
        augmented = replace(view, count=config.votes, choose="random")
        votes = _logits(model, test, augmented, seed=seed, num_threads=num_threads)
        voted = _share(votes, truth)
    return FinetuneResult(_share(plain, truth), voted, last_loss, len(test))


# Few shots -------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class PointFewShotConfig:
    """n-way k-shot over fixed folds; the published settings are 5 and 10 ways, 10 and 20 shots."""

    ways: int = 5
    shots: int = 10
    num_queries: int = 20  # per class
    num_folds: int = 10
    by: Literal["svm", "finetune"] = "svm"  # finetune is the published protocol, and slow
    svm: SvmConfig = field(default_factory=lambda: SvmConfig(cs=(0.01,)))
    finetune: PointFinetuneConfig = field(
        default_factory=lambda: PointFinetuneConfig(tuning=TuningConfig(epochs=150))
    )

    def __post_init__(self) -> None:
        for name in ("shots", "num_queries", "num_folds"):
            check_bounds(f"n_way.{name}", getattr(self, name), least=1)
        check_bounds("n_way.ways", self.ways, least=2)


class Fold(NamedTuple):
    """One few-shot problem: rows of the data set, and classes renumbered from 0."""

    train: NDArray[np.int64]
    train_labels: NDArray[np.int64]
    test: NDArray[np.int64]
    test_labels: NDArray[np.int64]


class FewShotResult(NamedTuple):
    """Accuracy over folds."""

    mean: float
    std: float
    folds: list[float]


def few_shot_folds(
    labels: NDArray[np.int64], *, config: PointFewShotConfig, seed: int = 0
) -> list[Fold]:
    """Fixed folds: functions of the labels, the settings and the seed.

    Raises:
        DataError: Too few classes with enough samples.
    """
    wanted = config.shots + config.num_queries
    classes, counts = np.unique(labels[labels >= 0], return_counts=True)
    usable = classes[counts >= wanted]
    if len(usable) < config.ways:
        raise DataError(
            f"{len(usable)} classes have the {wanted} clouds that {config.shots} shots and "
            f"{config.num_queries} queries need; {config.ways} ways need more. Lower ways, shots "
            "or num_queries."
        )
    folds = []
    for number in range(config.num_folds):
        generator = keyed_generator(seed, "few-shot fold", number)
        chosen = usable[torch.randperm(len(usable), generator=generator).numpy()[: config.ways]]
        rows = []
        for label in chosen:
            own = np.flatnonzero(labels == label)
            rows.append(own[torch.randperm(len(own), generator=generator).numpy()[:wanted]])
        table = np.stack(rows)  # (ways, shots + queries)
        shots, queries = table[:, : config.shots], table[:, config.shots :]
        ways = np.arange(config.ways)
        folds.append(
            Fold(
                shots.ravel(),
                ways.repeat(shots.shape[1]),
                queries.ravel(),
                ways.repeat(queries.shape[1]),
            )
        )
    return folds


def few_shot_svm(
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    *,
    config: PointFewShotConfig,
    seed: int = 0,
) -> FewShotResult:
    """Linear SVM on the frozen features (n, D) of each fold's shots."""
    scores = [
        linear_svm(
            features[fold.train],
            fold.train_labels,
            features[fold.test],
            fold.test_labels,
            config=config.svm,
            seed=seed,
        ).top1
        for fold in few_shot_folds(labels, config=config, seed=seed)
    ]
    return FewShotResult(*mean_and_std(scores), scores)


def few_shot_finetune(
    backbone: PointViT, source: Source, *, config: PointFewShotConfig, seed: int = 0
) -> FewShotResult:
    """Fine-tune on each fold's shots: the published protocol, with a head of `ways` outputs."""
    if source.labels is None:
        raise DataError("few-shot classification needs labelled clouds.")
    scores = []
    for fold in few_shot_folds(np.asarray(source.labels), config=config, seed=seed):
        train, test = (
            _relabelled(source, rows, labels)
            for rows, labels in ((fold.train, fold.train_labels), (fold.test, fold.test_labels))
        )
        settings = replace(config.finetune, votes=0)
        scores.append(
            finetune_classifier(
                backbone, train, test, config=settings, num_classes=config.ways, seed=seed
            ).top1
        )
    return FewShotResult(*mean_and_std(scores), scores)


def _relabelled(source: Source, rows: NDArray[np.int64], labels: NDArray[np.int64]) -> SubsetSource:
    part = SubsetSource(source, rows)
    part.labels = labels
    return part


def _training_view(backbone: PointViT, config: PointFinetuneConfig) -> PointViewConfig:
    num_points = config.num_points or backbone.model.num_points
    pool = config.farthest_pool
    return PointViewConfig(
        num_points=num_points,
        farthest_pool=None if pool is None else max(num_points, round(pool * num_points)),
        is_normalized=config.is_normalized is not False,
        rotate=config.rotate,
    )


def _epoch(loader: PointLoader, epoch: int) -> Iterator[Batch]:
    loader.set_epoch(epoch)
    yield from loader


def _cross_entropy(model: PointClassifier, batch: Batch) -> Tensor:
    device = device_of(model)
    (points,) = batch.views.values()
    assert batch.label is not None
    return nn.functional.cross_entropy(model(points.to(device)), batch.label.to(device))


@torch.no_grad()
def _logits(
    model: PointClassifier, source: Source, view: PointViewConfig, *, seed: int, num_threads: int
) -> Tensor:
    """Logits of each cloud in the source's order, averaged over the view's drawings, (n, C)."""
    model.eval()
    loader: Iterable[Batch] = PointLoader(
        source, {"cloud": view}, batch_size=64, seed=seed, shuffle=False, drop_last=False,
        num_threads=num_threads,
    )  # fmt: skip
    parts = []
    for batch in loader:
        (points,) = batch.views.values()
        logits = model(points.to(device_of(model)))
        parts.append(logits.unflatten(0, (view.count, -1)).mean(dim=0).cpu())
    return torch.cat(parts)


def _share(logits: Tensor, truth: Tensor) -> float:
    return float((logits.argmax(dim=1) == truth).float().mean())
