"""Linear classification of frozen features: tens of heads trained at once.

Heads that read the same features are one stacked weight (H, K, D), so that a step of all of them is
two matrix products; the gradient of softmax cross-entropy is written out. Each head has its own
learning rate, weight decay and momentum, and its own fate: one that diverges is frozen and named.
The result equals training each head by itself (torch.optim.SGD) up to rounding.

Protocols (`PRESETS`) follow the authors' evaluation code: DINO, MAE (LARS and batch norm),
DINOv2 (a grid of learning rates), Barlow Twins, and lightly's benchmark.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ssl_vision.backbones.backbone import Backbone
from ssl_vision.distributed import all_reduce_sum, rank, world_size
from ssl_vision.errors import ConfigError, DataError
from ssl_vision.evaluation.accuracy import Accuracy, score_ranking
from ssl_vision.evaluation.arrays import Array, FeatureRows, as_tensor
from ssl_vision.evaluation.features import FeatureSpec, forward_batches, parse_feature_set
from ssl_vision.randomness import keyed_generator
from ssl_vision.types import Batch

DINOV2_LRS = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1)
_BN_EPSILON = 1e-6  # MAE's
FeatureSets = Mapping[str, Sequence[Array]]  # name -> parts (N, D_i), concatenated at use


@dataclass(frozen=True, kw_only=True)
class LinearConfig:
    """How heads are trained and chosen; the presets below fill it in."""

    preset: str = "dinov2"  # where the other values come from; see PRESETS
    feature_sets: tuple[str, ...] = ("cls1", "cls1+mean", "cls4", "cls4+mean")  # parse_feature_set
    augment: Literal["none", "cached", "online"] = "none"  # cached: a few views, kept; online: the
    # published protocol, with the backbone in the loop
    cached_views: int = 4  # of each training image, for augment=cached
    crop_area: tuple[float, float] = (0.08, 1.0)  # of augmented views
    flip_prob: float = 0.5
    base_lrs: tuple[float, ...] = DINOV2_LRS
    lr_scaling: Literal["linear", "none"] = "linear"  # linear: lr = base_lr * batch_size / 256
    weight_decays: tuple[float, ...] = (0.0,)
    optimizer: Literal["sgd", "lars"] = "sgd"
    momentum: float = 0.9
    trust_coefficient: float = 0.001  # LARS only; weights only, not biases
    batch_size: int = 128
    epochs: int = 10
    steps_per_epoch: int | None = None  # None: one pass over the data
    warmup_epochs: int = 0
    schedule: Literal["step", "epoch"] = "step"  # cosine to 0, per step or per epoch
    has_batch_norm: bool = False  # of the features, without scale and shift (MAE)
    drops_last: bool = False  # an incomplete batch at the end of an epoch
    init_std: float = 0.01
    holdout: float = 0.1  # share of the training images that choose between heads
    select_on: Literal["holdout", "test"] = "holdout"
    max_bytes: int = 2**30  # of weights trained at once; more heads take turns

    def __post_init__(self) -> None:
        if not self.base_lrs or not self.weight_decays or min(self.base_lrs) < 0:
            raise ConfigError("linear.base_lrs and linear.weight_decays each need values >= 0.")
        for name in ("batch_size", "epochs", "cached_views"):
            if getattr(self, name) < 1:
                raise ConfigError(f"linear.{name}={getattr(self, name)} must be 1 or more.")
        for name in self.feature_sets:
            parse_feature_set(name, depth=12)
        if not 0 < self.holdout < 1:
            raise ConfigError(f"linear.holdout={self.holdout} must be between 0 and 1.")


PRESETS = {
    "dino": LinearConfig(
        preset="dino",
        feature_sets=("cls4",),  # what DINO uses for ViT-S; ViT-B: cls1+mean
        base_lrs=(0.001,),
        batch_size=1024,
        epochs=100,
        schedule="epoch",
    ),
    # Made for batches of 16384: LARS moves a weight by about 0.001 * lr of its length in a step, so
    # thousands of images in a single batch do not get far in 90 epochs.
    "mae": LinearConfig(
        preset="mae",
        feature_sets=("cls1",),
        base_lrs=(0.1,),
        optimizer="lars",
        batch_size=16_384,
        epochs=90,
        warmup_epochs=10,
        has_batch_norm=True,
        drops_last=True,
    ),
    "dinov2": LinearConfig(steps_per_epoch=1250),
    "barlow": LinearConfig(
        preset="barlow",
        feature_sets=("pooled",),
        base_lrs=(0.3,),
        lr_scaling="none",
        weight_decays=(1e-6,),
        batch_size=256,
        epochs=100,
        schedule="epoch",
    ),
    "lightly": LinearConfig(
        preset="lightly", feature_sets=("pooled",), base_lrs=(0.1,), batch_size=256, epochs=90
    ),
    # Not published: seconds on a laptop, for small sets and first looks.
    "quick": LinearConfig(
        preset="quick",
        feature_sets=("pooled",),
        base_lrs=(0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
        batch_size=256,
        epochs=30,
    ),
}


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
        oracle: Best test accuracy of any head: what choosing on the test set would report.
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


class HeadSetting(NamedTuple):
    """What tells one head of the grid from another."""

    features: str
    base_lr: float
    weight_decay: float


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
        config: Protocol; `PRESETS["dinov2"]` by default.
        num_classes: K; by default from the union of the labels.
        seed: Of initial weights, batches and the held-out images.
        device: Where the products are computed.

    Raises:
        DataError: Fewer than two training images, or sets that do not match.
    """
    config = config or PRESETS["dinov2"]
    data = _ProbeData.of(train, train_labels, test, test_labels, num_classes, device)
    grid = head_grid(data.train, config)
    everything = torch.arange(len(data.labels))
    rows, held = everything, None
    if len(grid) > 1 and config.select_on == "holdout":
        held, rows = split_holdout(len(data.labels), config.holdout, seed)
    results: list[HeadResult] = []
    for group in _groups(grid, data, config.max_bytes):
        heads = _fit(data, group, rows, config, seed)
        results += _judge(heads, data, held=held, has_choice=len(grid) > 1)
    best = choose_head(results)
    if len(grid) > 1:
        heads = _fit(data, [grid[best]], everything, config, seed)
    return _result(heads, data, results, best, is_test_chosen=len(grid) > 1 and held is None)


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
) -> LinearResult:
    """The published protocol: heads on features of augmented images, the backbone in the loop.

    The backbone stays in eval mode and without gradients. Held-out images (by their index) do not
    train the heads; since a second pass would cost as much as the first, the chosen head is not
    trained again on them.

    Args:
        backbone: Frozen network.
        epochs: Epoch -> its batches of one augmented view, with labels and the index of each image
            in `train`. On several processes each passes its own share.
        test: Features without augmentation, as in `linear_probe`.
        test_labels: int64, (Q,).
        train: Features of the training images without augmentation, of which the held-out ones
            choose the head.
        train_labels: int64, (N,).
        normalize: As in `extract_features`.
        spec: Features read from the augmented images.
        sets: Feature set -> names of `spec` to concatenate; the same sets as in `test`.
        steps_per_epoch: Batches of an epoch.
        config: Protocol; its batch_size must be the loader's (over all processes).
        num_classes: K; by default from the union of the labels.
        seed: Of initial weights and the held-out images.
        device: Where heads and backbone run.
    """
    data = _ProbeData.of(train, train_labels, test, test_labels, num_classes, device)
    grid = head_grid(data.train, config)
    held = None
    if len(grid) > 1 and config.select_on == "holdout":
        held, _ = split_holdout(len(data.labels), config.holdout, seed)
    is_held = torch.zeros(len(data.labels), dtype=torch.bool)
    if held is not None:
        is_held[held] = True
    heads = ProbeHeads(grid, data, config=config, batch_size=config.batch_size, seed=seed)
    plan = BatchPlan(config=config, num_rows=0, steps_per_epoch=steps_per_epoch)
    step = 0
    for epoch in range(config.epochs):
        for batch, features in forward_batches(
            backbone, epochs(epoch), normalize=normalize, spec=spec, device=device
        ):
            assert batch.label is not None
            kept = ~is_held[batch.index.cpu()].to(device)
            joined = {
                name: torch.cat([features[part] for part in parts], dim=1).float()[kept]
                for name, parts in sets.items()
            }
            heads.step(joined, batch.label.to(device)[kept], lr_factor=plan.lr_factor(step))
            step += 1
    results = _judge(heads, data, held=held, has_choice=len(grid) > 1)
    best = choose_head(results)
    return _result(heads, data, results, best, is_test_chosen=len(grid) > 1 and held is None)


# The grid --------------------------------------------------------------------------------------


def head_grid(sets: Iterable[str], config: LinearConfig) -> list[HeadSetting]:
    """Feature sets x learning rates x weight decays."""
    return [
        HeadSetting(features=name, base_lr=lr, weight_decay=decay)
        for name in sets
        for lr in config.base_lrs
        for decay in config.weight_decays
    ]


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


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """Which rows a step sees, and how far the learning rate has come."""

    config: LinearConfig
    num_rows: int
    steps_per_epoch: int

    @classmethod
    def of(cls, num_rows: int, config: LinearConfig) -> "BatchPlan":
        """Plan over rows in memory; batches beyond a pass start the next one."""
        size = min(config.batch_size, num_rows)
        whole = num_rows // size if config.drops_last else -(-num_rows // size)
        return cls(
            config=config, num_rows=num_rows, steps_per_epoch=config.steps_per_epoch or whole
        )

    @property
    def total_steps(self) -> int:
        """Steps of the whole training."""
        return self.steps_per_epoch * self.config.epochs

    def batches(self, seed: int) -> Iterator[Tensor]:
        """Rows of each step, int64; every pass is a fresh permutation."""
        size = min(self.config.batch_size, self.num_rows)
        step, pass_ = 0, 0
        while True:
            generator = keyed_generator(seed, "linear batches", pass_)
            for rows in torch.randperm(self.num_rows, generator=generator).split(size):
                if step == self.total_steps:
                    return
                if len(rows) == size or not self.config.drops_last:
                    yield rows
                    step += 1
            pass_ += 1

    def lr_factor(self, step: int) -> float:
        """Factor of every learning rate: linear warm-up, then cosine to 0."""
        epoch = step / self.steps_per_epoch
        if self.config.schedule == "epoch":
            epoch = math.floor(epoch)
        warmup = self.config.warmup_epochs
        if epoch < warmup:
            return epoch / warmup
        return 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / (self.config.epochs - warmup)))


# Stacked heads ---------------------------------------------------------------------------------


class ProbeHeads:
    """Linear heads trained together; those of one feature set share a stack.

    Attributes:
        settings: The heads, in the order results are given in.
    """

    def __init__(
        self,
        settings: Sequence[HeadSetting],
        data: "_ProbeData",
        *,
        config: LinearConfig,
        batch_size: int,
        seed: int,
    ) -> None:
        self.settings = list(settings)
        self._steps = 0
        scale = batch_size / 256 if config.lr_scaling == "linear" else 1.0
        self._stacks: dict[str, _Stack] = {}
        self._places: list[tuple[str, int]] = []
        for name in dict.fromkeys(setting.features for setting in settings):
            own = [setting for setting in settings if setting.features == name]
            self._stacks[name] = _Stack(
                lrs=[setting.base_lr * scale for setting in own],
                weight_decays=[setting.weight_decay for setting in own],
                width=data.train[name].width,
                num_classes=data.num_classes,
                config=config,
                generator=keyed_generator(seed, "linear head", name),
                device=data.device,
            )
        counts = dict.fromkeys(self._stacks, 0)
        for setting in settings:
            self._places.append((setting.features, counts[setting.features]))
            counts[setting.features] += 1

    def step(self, features: Mapping[str, Tensor], labels: Tensor, *, lr_factor: float) -> None:
        """One update of every head.

        Args:
            features: This process's share of the batch, by feature set, float32, (B, D).
            labels: int64, (B,).
            lr_factor: Of every learning rate.
        """
        count = all_reduce_sum(torch.tensor(float(len(labels)), device=labels.device))
        for name, stack in self._stacks.items():
            stack.step(features[name], labels, count, lr_factor=lr_factor, step=self._steps)
        self._steps += 1

    def score(
        self, sets: Mapping[str, FeatureRows], labels: Tensor, rows: Tensor | None = None
    ) -> list[Accuracy]:
        """Accuracy of each head on the rows (all by default)."""
        rows = torch.arange(len(labels)) if rows is None else rows
        truth = labels[rows.to(labels.device)].cpu()
        ranked = {
            name: torch.cat([stack.rank(sets[name].take(part)) for part in rows.split(4096)], dim=1)
            for name, stack in self._stacks.items()
        }
        return [score_ranking(ranked[name][place], truth) for name, place in self._places]

    def freeze_broken(self) -> None:
        """Freeze heads that the very last update broke."""
        for stack in self._stacks.values():
            stack.freeze_broken(self._steps)

    def diverged_at(self, head: int) -> int | None:
        """Step at which the head was frozen, or None."""
        name, place = self._places[head]
        return self._stacks[name].diverged_at.get(place)

    def as_linear(self, head: int) -> tuple[Tensor, Tensor]:
        """Weight (K, D) and bias (K,) that act on raw features: batch norm is folded in."""
        name, place = self._places[head]
        return self._stacks[name].as_linear(place)


class _Stack:
    """Heads of one feature set: weight (H, K, D), bias (H, K)."""

    def __init__(
        self,
        *,
        lrs: Sequence[float],
        weight_decays: Sequence[float],
        width: int,
        num_classes: int,
        config: LinearConfig,
        generator: torch.Generator,
        device: torch.device,
    ) -> None:
        self.config = config
        self.lr = torch.tensor(lrs, device=device)
        self.weight_decay = torch.tensor(weight_decays, device=device)
        # One draw for all: heads then differ by their settings alone.
        start = torch.randn((num_classes, width), generator=generator) * config.init_std
        self.weight = start.to(device).expand(len(lrs), -1, -1).clone()
        self.bias = torch.zeros((len(lrs), num_classes), device=device)
        self.weight_momentum = torch.zeros_like(self.weight)
        self.bias_momentum = torch.zeros_like(self.bias)
        self.running_mean = torch.zeros(width, device=device)
        self.running_var = torch.ones(width, device=device)
        self.diverged_at: dict[int, int] = {}

    def step(
        self, x: Tensor, labels: Tensor, count: Tensor, *, lr_factor: float, step: int
    ) -> None:
        """Softmax cross-entropy, its gradient and the update, for all heads."""
        num_heads, num_classes, width = self.weight.shape
        if self.config.has_batch_norm:
            x = self._normalize_batch(x, count)
        logits = self._logits(x)
        log_probs = logits.log_softmax(dim=2)
        target = labels[:, None, None].expand(-1, num_heads, 1)
        losses = all_reduce_sum(-log_probs.gather(2, target).sum(dim=(0, 2)))
        gradient = log_probs.exp_().scatter_add_(2, target, -torch.ones_like(target, dtype=x.dtype))
        gradient /= count
        weight_gradient = (gradient.flatten(1).T @ x).view(num_heads, num_classes, width)
        weight_gradient = all_reduce_sum(weight_gradient)
        bias_gradient = all_reduce_sum(gradient.sum(dim=0))
        bad = ~torch.isfinite(losses) & (self.lr > 0)
        if bool(bad.any()):
            self._freeze(bad, step)
            weight_gradient[bad], bias_gradient[bad] = 0.0, 0.0
        self._update(weight_gradient, bias_gradient, lr_factor)

    def _update(self, weight_gradient: Tensor, bias_gradient: Tensor, lr_factor: float) -> None:
        decay, momentum = self.weight_decay, self.config.momentum
        if bool((decay > 0).any()):
            weight_gradient.addcmul_(self.weight, decay[:, None, None])
            if self.config.optimizer == "sgd":  # torch.optim.SGD decays biases too
                bias_gradient.addcmul_(self.bias, decay[:, None])
        if self.config.optimizer == "lars":
            weight_norm = self.weight.flatten(1).norm(dim=1)
            ratio = (
                self.config.trust_coefficient * weight_norm / weight_gradient.flatten(1).norm(dim=1)
            )
            is_usable = torch.isfinite(ratio) & (ratio > 0)
            weight_gradient *= torch.where(is_usable, ratio, 1.0)[:, None, None]
        self.weight_momentum.mul_(momentum).add_(weight_gradient)
        self.bias_momentum.mul_(momentum).add_(bias_gradient)
        lr = self.lr * lr_factor
        self.weight.addcmul_(self.weight_momentum, lr[:, None, None], value=-1)
        self.bias.addcmul_(self.bias_momentum, lr[:, None], value=-1)

    def _freeze(self, bad: Tensor, step: int) -> None:
        """Zero the heads and stop them: they predict class 0 from now on, and harm nobody."""
        self.diverged_at.update({int(i): step for i in bad.nonzero().flatten()})
        for tensor in (self.weight, self.bias, self.weight_momentum, self.bias_momentum, self.lr):
            tensor[bad] = 0.0

    def freeze_broken(self, step: int) -> None:
        """Freeze heads whose weights are not finite."""
        total = self.weight.sum(dim=(1, 2)) + self.bias.sum(dim=1)
        bad = ~torch.isfinite(total) & (self.lr > 0)
        if bool(bad.any()):
            self._freeze(bad, step)

    def _logits(self, x: Tensor) -> Tensor:
        num_heads, num_classes, width = self.weight.shape
        flat = torch.addmm(self.bias.flatten(), x, self.weight.view(-1, width).T)
        return flat.view(len(x), num_heads, num_classes)

    def _normalize_batch(self, x: Tensor, count: Tensor) -> Tensor:
        """BatchNorm1d(affine=False, eps=1e-6) in training mode, over all processes."""
        mean = all_reduce_sum(x.sum(dim=0)) / count
        centred = x - mean
        var = all_reduce_sum(centred.square().sum(dim=0)) / count
        self.running_mean.lerp_(mean, 0.1)
        self.running_var.lerp_(var * count / (count - 1).clamp(min=1), 0.1)
        return centred * (var + _BN_EPSILON).rsqrt()

    def rank(self, x: Tensor) -> Tensor:
        """The first (up to) five classes of each head, (H, B, 5), on the CPU."""
        if self.config.has_batch_norm:
            x = (x - self.running_mean) * (self.running_var + _BN_EPSILON).rsqrt()
        logits = self._logits(x)
        return logits.topk(min(5, logits.shape[2]), dim=2).indices.transpose(0, 1).cpu()

    def as_linear(self, place: int) -> tuple[Tensor, Tensor]:
        weight, bias = self.weight[place], self.bias[place]
        if self.config.has_batch_norm:
            weight = weight * (self.running_var + _BN_EPSILON).rsqrt()
            bias = bias - weight @ self.running_mean
        return weight.clone().cpu(), bias.clone().cpu()


# One probe -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _ProbeData:
    train: dict[str, FeatureRows]
    labels: Tensor
    test: dict[str, FeatureRows]
    truth: Tensor
    num_classes: int
    device: torch.device

    @classmethod
    def of(
        cls,
        train: FeatureSets | Array,
        train_labels: Array,
        test: FeatureSets | Array,
        test_labels: Array,
        num_classes: int | None,
        device: torch.device | str,
    ) -> "_ProbeData":
        """Checked data of a probe; see `linear_probe`."""
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
    grid: Sequence[HeadSetting], data: _ProbeData, max_bytes: int
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


def _fit(
    data: _ProbeData, group: Sequence[HeadSetting], rows: Tensor, config: LinearConfig, seed: int
) -> ProbeHeads:
    """The heads of the group, trained on the rows."""
    plan = BatchPlan.of(len(rows), config)
    size = min(config.batch_size, len(rows))
    heads = ProbeHeads(group, data, config=config, batch_size=size, seed=seed)
    names = list(dict.fromkeys(setting.features for setting in group))
    for step, batch in enumerate(plan.batches(seed)):
        own = rows[batch][rank() :: world_size()]
        features = {name: data.train[name].take(own) for name in names}
        labels = data.labels[own.to(data.device)]
        heads.step(features, labels, lr_factor=plan.lr_factor(step))
    return heads


def _judge(
    heads: ProbeHeads, data: _ProbeData, *, held: Tensor | None, has_choice: bool
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


def _result(
    heads: ProbeHeads,
    data: _ProbeData,
    results: Sequence[HeadResult],
    best: int,
    *,
    is_test_chosen: bool,
) -> LinearResult:
    chosen = results[best]
    place = heads.settings.index(HeadSetting(chosen.features, chosen.base_lr, chosen.weight_decay))
    warnings = ["selected_on_test"] if is_test_chosen else []
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
        oracle=max((result.test for result in results), key=lambda score: score.top1),
        weight=weight,
        bias=bias,
        warnings=tuple(warnings),
    )
