"""Linear heads trained together.

Heads that read the same features are one stacked weight (H, K, D), so that a step of all of them is
two matrix products; the gradient of softmax cross-entropy is written out. Each head has its own
learning rate, weight decay and momentum, and its own fate: one that diverges is frozen and named.
The result equals training each head by itself (torch.optim.SGD) up to rounding.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ssl_vision.distributed import all_reduce_sum
from ssl_vision.evaluation.accuracy import Accuracy, score_ranking
from ssl_vision.evaluation.arrays import FeatureRows
from ssl_vision.evaluation.linear_config import LinearConfig
from ssl_vision.randomness import keyed_generator

_BN_EPSILON = 1e-6  # MAE's


class HeadSetting(NamedTuple):
    """What tells one head of the grid from another."""

    features: str
    base_lr: float
    weight_decay: float


def head_grid(sets: Iterable[str], config: LinearConfig) -> list[HeadSetting]:
    """Feature sets x learning rates x weight decays."""
    return [
        HeadSetting(features=name, base_lr=lr, weight_decay=decay)
        for name in sets
        for lr in config.base_lrs
        for decay in config.weight_decays
    ]


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """Which rows a step sees, and how far the learning rate has come."""

    config: LinearConfig
    num_rows: int
    steps_per_epoch: int

    @property
    def epochs(self) -> int:
        """Epochs of the settings, and as many more as the least number of updates asks for."""
        return max(self.config.epochs, -(-self.config.min_updates // self.steps_per_epoch))

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
        return self.steps_per_epoch * self.epochs

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
        warmup = self.config.warmup_epochs * self.epochs / self.config.epochs
        if epoch < warmup:
            return epoch / warmup
        return 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / (self.epochs - warmup)))


# Stacked heads ---------------------------------------------------------------------------------


class ProbeHeads:
    """Linear heads trained together; those of one feature set share a stack.

    Attributes:
        settings: The heads, in the order results are given in.
    """

    def __init__(
        self,
        settings: Sequence[HeadSetting],
        *,
        widths: Mapping[str, int],
        num_classes: int,
        device: torch.device,
        config: LinearConfig,
        batch_size: int,
        seed: int,
    ) -> None:
        """Heads at their start.

        Args:
            settings: The heads.
            widths: Feature set -> D.
            num_classes: K.
            device: Where they live.
            config: Optimizer and schedule.
            batch_size: Over all processes; scales the learning rates.
            seed: Of the initial weights.
        """
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
                width=widths[name],
                num_classes=num_classes,
                config=config,
                generator=keyed_generator(seed, "linear head", name),
                device=device,
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
        """Zero the heads and stop them: they name no class from now on, and harm nobody."""
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
        """The first (up to) five classes, (H, B, 5), on the CPU; -1 of heads that diverged."""
        if self.config.has_batch_norm:
            x = (x - self.running_mean) * (self.running_var + _BN_EPSILON).rsqrt()
        logits = self._logits(x)
        ranked = logits.topk(min(5, logits.shape[2]), dim=2).indices.transpose(0, 1).cpu()
        ranked[list(self.diverged_at)] = -1
        return ranked

    def as_linear(self, place: int) -> tuple[Tensor, Tensor]:
        weight, bias = self.weight[place], self.bias[place]
        if self.config.has_batch_norm:
            weight = weight * (self.running_var + _BN_EPSILON).rsqrt()
            bias = bias - weight @ self.running_mean
        return weight.clone().cpu(), bias.clone().cpu()
