"""Linear classification of frozen features: tens of heads trained at once.

The heads of a grid (feature sets x learning rates x weight decays) train side by side on the same
batches (`stacked_heads.py`). Held-out training images choose one, which is trained again on all of
them and meets the test images once. Protocols: `linear_config.py`.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypedDict

import torch
from torch import Tensor

from ssl_vision.backbones.backbone import Backbone
from ssl_vision.distributed import rank, world_size
from ssl_vision.errors import ConfigError, DataError
from ssl_vision.evaluation.accuracy import Accuracy
from ssl_vision.evaluation.arrays import Array, FeatureRows, as_tensor, check_finite
from ssl_vision.evaluation.features import FeatureSpec, forward_batches
from ssl_vision.evaluation.linear_config import LinearConfig
from ssl_vision.evaluation.stacked_heads import BatchPlan, HeadSetting, ProbeHeads, head_grid
from ssl_vision.randomness import keyed_generator
from ssl_vision.types import Batch

_RISE = 0.01  # of accuracy in the second half: more, and two images at least, is no noise

FeatureSets = Mapping[str, Sequence[Array]]  # name -> parts (N, D_i), concatenated at use


class HeadResult(NamedTuple):
    """One head of the grid.

    Attributes:
        features: Name of its feature set.
        base_lr: Before scaling by the batch size.
        weight_decay: Its own.
        selection: Accuracy on what chose between heads; NaN where nothing had to be chosen.
        test: Accuracy on the test images.
        diverged_at: Step at which its loss stopped being finite; None if it never did.
    """

    features: str
    base_lr: float
    weight_decay: float
    selection: float
    test: Accuracy
    diverged_at: int | None


@dataclass(frozen=True, kw_only=True)
class LinearResult:
    """Outcome of a linear probe.

    Attributes:
        accuracy: Of the chosen head on the test images; trained on all training images.
        chosen: Its entry in `heads`.
        heads: Every head of the grid, trained on what the selection left.
        oracle: Best test accuracy of any head that did not diverge: what choosing on the test set
            would report.
        weight: Of the chosen head, (K, D); batch norm is folded in.
        bias: (K,).
        warnings: selected_on_test, diverged (with the heads).
    """

    accuracy: Accuracy
    chosen: HeadResult
    heads: tuple[HeadResult, ...]
    oracle: Accuracy
    weight: Tensor
    bias: Tensor
    warnings: tuple[str, ...] = ()


def linear_probe(
    train: FeatureSets | Array,
    train_labels: Array,
    test: FeatureSets | Array,
    test_labels: Array,
    *,
    config: LinearConfig | None = None,
    num_classes: int | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> LinearResult:
    """Train the grid of heads, choose one on held-out training images, train it on all, test it.

    Args:
        train: Features (N, D), or feature sets by name, each a sequence of parts to concatenate;
            memory maps are read batch by batch.
        train_labels: int64, (N,).
        test: As `train`, with the same names, (Q, D).
        test_labels: int64, (Q,).
        config: Protocol; `LinearConfig()` by default.
        num_classes: K; by default from the union of the labels.
        seed: Of initial weights, batches and the held-out images.
        device: Where the products are computed.

    Raises:
        DataError: Fewer than two training images, sets that do not match, or features that are not
            finite.
    """
    config = config or LinearConfig()
    data = ProbeData.of(train, train_labels, test, test_labels, num_classes, device)
    grid = head_grid(data.train, config)
    everything = torch.arange(len(data.labels))
    rows, held = everything, None
    if len(grid) > 1 and config.select_on == "holdout":
        held, rows = split_holdout(len(data.labels), config.holdout, seed)
    results: list[HeadResult] = []
    half: list[Accuracy] = []  # on the held-out images, after half of the updates

    def look(heads: ProbeHeads) -> None:
        if held is not None:
            half.extend(heads.score(data.train, data.labels, rows=held))

    for group in _groups(grid, data, config.max_bytes):
        heads = fit_heads(data, group, rows, config, seed, at_half_time=look)
        results += _judge(heads, data, held=held, has_choice=len(grid) > 1)
    best = choose_head(results)
    if len(grid) > 1:
        heads = fit_heads(data, [grid[best]], everything, config, seed)
    rise = _rise_warning(half[best], results[best]) if half else []
    found = _result(heads, data, results, best, is_test_chosen=len(grid) > 1 and held is None)
    return replace(found, warnings=(*found.warnings, *rise))


def linear_probe_online(
    backbone: Backbone,
    epochs: Callable[[int], Iterable[Batch]],
    test: FeatureSets | Array,
    test_labels: Array,
    *,
    train: FeatureSets | Array,
    train_labels: Array,
    normalize: Callable[[Tensor], Tensor] | None,
    spec: FeatureSpec,
    sets: Mapping[str, Sequence[str]],
    steps_per_epoch: int,
    config: LinearConfig,
    num_classes: int | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    autocast: torch.dtype | None = None,
) -> LinearResult:
    """The published protocol: heads on features of augmented images, the backbone in the loop.

    The backbone stays in eval mode and without gradients. Held-out images (by their index) do not
    train the heads; since a second pass would cost as much as the first, the chosen head is not
    trained again on them.

    Args:
        backbone: Frozen network.
        epochs: Pass -> its batches of one augmented view, with labels and the index of each image
            in `train`. On several processes each passes its own share.
        test: Features without augmentation, as in `linear_probe`.
        test_labels: int64, (Q,).
        train: Features of the training images without augmentation, of which the held-out ones
            choose the head.
        train_labels: int64, (N,).
        normalize: As in `extract_features`.
        spec: Features read from the augmented images.
        sets: Feature set -> names of `spec` to concatenate; the same sets as in `test`.
        steps_per_epoch: Batches of a pass; the settings' own number of an epoch goes before it.
        config: Protocol; its batch_size must be the loader's (over all processes).
        num_classes: K; by default from the union of the labels.
        seed: Of initial weights and the held-out images.
        device: Where heads and backbone run.
        autocast: As in `extract_features`.
    """
    data = ProbeData.of(train, train_labels, test, test_labels, num_classes, device)
    grid = head_grid(data.train, config)
    held = None
    if len(grid) > 1 and config.select_on == "holdout":
        held, _ = split_holdout(len(data.labels), config.holdout, seed)
    is_held = torch.zeros(len(data.labels), dtype=torch.bool)
    if held is not None:
        is_held[held] = True
    size = min(config.batch_size, len(data.labels))
    heads = ProbeHeads(grid, **data.shapes, config=config, batch_size=size, seed=seed)
    plan = BatchPlan(
        config=config, num_rows=0, steps_per_epoch=config.steps_per_epoch or steps_per_epoch
    )
    passes = itertools.chain.from_iterable(
        itertools.islice(epochs(pass_), steps_per_epoch) for pass_ in itertools.count()
    )
    batches = itertools.islice(passes, plan.total_steps)
    for step, (batch, features) in enumerate(
        forward_batches(
            backbone, batches, normalize=normalize, spec=spec, device=device, autocast=autocast
        )
    ):
        assert batch.label is not None
        kept = ~is_held[batch.index.cpu()].to(device)
        joined = {
            name: torch.cat([features[part] for part in parts], dim=1).float()[kept]
            for name, parts in sets.items()
        }
        heads.step(joined, batch.label.to(device)[kept], lr_factor=plan.lr_factor(step))
    results = _judge(heads, data, held=held, has_choice=len(grid) > 1)
    best = choose_head(results)
    return _result(heads, data, results, best, is_test_chosen=len(grid) > 1 and held is None)


# The grid --------------------------------------------------------------------------------------


def split_holdout(num_rows: int, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Rows held out to choose between heads, and the others; at least one of each."""
    order = torch.randperm(num_rows, generator=keyed_generator(seed, "linear holdout"))
    num_held = min(num_rows - 1, max(1, round(share * num_rows)))
    return order[:num_held].sort().values, order[num_held:].sort().values


def choose_head(results: Sequence[HeadResult]) -> int:
    """Place of the best head that did not diverge; the first of equals."""
    alive = [i for i, result in enumerate(results) if result.diverged_at is None]
    if not alive:
        raise ConfigError(f"all {len(results)} linear heads diverged; use smaller linear.base_lrs.")
    return max(alive, key=lambda i: results[i].selection if len(results) > 1 else 0.0)


# One probe -------------------------------------------------------------------------------------


class ProbeShapes(TypedDict):
    """Sizes and place of the data that heads are built for."""

    widths: dict[str, int]
    num_classes: int
    device: torch.device


@dataclass(frozen=True, kw_only=True)
class ProbeData:
    """Checked data of a probe.

    Attributes:
        train: Feature set -> rows (N, D).
        labels: int64, (N,), on the device.
        test: Feature set -> rows (Q, D).
        truth: int64, (Q,), on the device.
        num_classes: K.
        device: Where rows are delivered.
    """

    train: dict[str, FeatureRows]
    labels: Tensor
    test: dict[str, FeatureRows]
    truth: Tensor
    num_classes: int
    device: torch.device

    @property
    def shapes(self) -> ProbeShapes:
        """Sizes of the data that the heads are built for."""
        widths = {name: rows.width for name, rows in self.train.items()}
        return {"widths": widths, "num_classes": self.num_classes, "device": self.device}

    @classmethod
    def of(
        cls,
        train: FeatureSets | Array,
        train_labels: Array,
        test: FeatureSets | Array,
        test_labels: Array,
        num_classes: int | None,
        device: torch.device | str,
    ) -> "ProbeData":
        """The rows and labels that `linear_probe` was given, checked and on the device."""
        train_sets, test_sets = _as_sets(train, device), _as_sets(test, device)
        labels = as_tensor(train_labels).long().to(device)
        truth = as_tensor(test_labels).long().to(device)
        if train_sets.keys() != test_sets.keys():
            raise DataError(
                f"feature sets differ: train {list(train_sets)}, test {list(test_sets)}."
            )
        if len(labels) < 2 or len(truth) < 1:
            raise DataError("a linear probe needs two training images and one test image.")
        if int(min(labels.min(), truth.min())) < 0:
            raise DataError("a linear probe needs a class of 0 or above for every image.")
        for name in train_sets:
            if (len(train_sets[name]), len(test_sets[name])) != (len(labels), len(truth)):
                raise DataError(f"features {name!r} and their labels differ in number.")
        for side, sets in (("training", train_sets), ("test", test_sets)):
            for part in dict.fromkeys(part for rows in sets.values() for part in rows.parts):
                check_finite(part, what=f"{side} features")
        return cls(
            train=train_sets,
            labels=labels,
            test=test_sets,
            truth=truth,
            num_classes=num_classes or int(max(labels.max(), truth.max())) + 1,
            device=torch.device(device),
        )


def _as_sets(sets: FeatureSets | Array, device: torch.device | str) -> dict[str, FeatureRows]:
    if isinstance(sets, Mapping):
        return {name: FeatureRows(*parts, device=device) for name, parts in sets.items()}
    return {"features": FeatureRows(sets, device=device)}


def _groups(
    grid: Sequence[HeadSetting], data: ProbeData, max_bytes: int
) -> Iterator[list[HeadSetting]]:
    """Heads in runs whose weights and momentum fit the budget; at least one each."""
    group: list[HeadSetting] = []
    used = 0
    for setting in grid:
        size = 2 * 4 * data.num_classes * data.train[setting.features].width
        if group and used + size > max_bytes:
            yield group
            group, used = [], 0
        group.append(setting)
        used += size
    yield group


def fit_heads(
    data: ProbeData,
    group: Sequence[HeadSetting],
    rows: Tensor,
    config: LinearConfig,
    seed: int,
    *,
    at_half_time: Callable[[ProbeHeads], None] | None = None,
) -> ProbeHeads:
    """The heads of the group, trained on these rows of the training features."""
    plan = BatchPlan.of(len(rows), config)
    size = min(config.batch_size, len(rows))
    heads = ProbeHeads(group, **data.shapes, config=config, batch_size=size, seed=seed)
    names = list(dict.fromkeys(setting.features for setting in group))
    for step, batch in enumerate(plan.batches(seed)):
        if at_half_time is not None and step == plan.total_steps // 2:
            at_half_time(heads)
        own = rows[batch][rank() :: world_size()]
        features = {name: data.train[name].take(own) for name in names}
        labels = data.labels[own.to(data.device)]
        heads.step(features, labels, lr_factor=plan.lr_factor(step))
    return heads


def _judge(
    heads: ProbeHeads, data: ProbeData, *, held: Tensor | None, has_choice: bool
) -> list[HeadResult]:
    heads.freeze_broken()
    tested = heads.score(data.test, data.truth)
    chosen_on = tested if held is None else heads.score(data.train, data.labels, rows=held)
    return [
        HeadResult(
            features=setting.features,
            base_lr=setting.base_lr,
            weight_decay=setting.weight_decay,
            selection=chosen_on[i].top1 if has_choice else math.nan,
            test=tested[i],
            diverged_at=heads.diverged_at(i),
        )
        for i, setting in enumerate(heads.settings)
    ]


def _rise_warning(half: Accuracy, chosen: HeadResult) -> list[str]:
    """A line where the second half of the updates, at falling rates, still gained accuracy."""
    rise = chosen.selection - half.top1
    if rise <= max(_RISE, 2 / half.num):
        return []
    return [
        f"accuracy still rose by {100 * rise:.1f} points in the second half of the updates: train "
        "longer (linear.epochs, linear.min_updates)."
    ]


def _edge_warning(chosen: HeadResult, results: Sequence[HeadResult]) -> list[str]:
    """A line where the best rate is the grid's last and better than the one beside it."""
    peers = sorted(
        (
            head
            for head in results
            if (head.features, head.weight_decay) == (chosen.features, chosen.weight_decay)
            and head.diverged_at is None
        ),
        key=lambda head: head.base_lr,
    )
    for edge, inner, way in (
        (peers[:1], peers[1:2], "smaller"),
        (peers[-1:], peers[-2:-1], "larger"),
    ):
        if edge == [chosen] and inner and inner[0].selection < chosen.selection:
            return [
                f"the best learning rate, {chosen.base_lr:g}, stands at the edge of "
                f"linear.base_lrs: a {way} one may be better; widen the grid."
            ]
    return []


def _result(
    heads: ProbeHeads,
    data: ProbeData,
    results: Sequence[HeadResult],
    best: int,
    *,
    is_test_chosen: bool,
) -> LinearResult:
    chosen = results[best]
    place = heads.settings.index(HeadSetting(chosen.features, chosen.base_lr, chosen.weight_decay))
    warnings = ["selected_on_test"] if is_test_chosen else []
    warnings += _edge_warning(chosen, results)
    for result in results:
        if result.diverged_at is not None:
            warnings.append(
                f"diverged: head {result.features}, base_lr {result.base_lr:g}, weight_decay "
                f"{result.weight_decay:g} at step {result.diverged_at}"
            )
    weight, bias = heads.as_linear(place)
    return LinearResult(
        accuracy=heads.score(data.test, data.truth)[place],
        chosen=chosen,
        heads=tuple(results),
        oracle=max(
            (result.test for result in results if result.diverged_at is None),
            key=lambda score: score.top1,
        ),
        weight=weight,
        bias=bias,
        warnings=tuple(warnings),
    )
