"""What fine-tuning on point clouds has in common: the network, the optimizer, its schedule."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ssl_vision.backbones.point_vit import PointTransformer, PointViT
from ssl_vision.bounds import check_bounds
from ssl_vision.evaluation.tuning import tune
from ssl_vision.randomness import derive_key
from ssl_vision.schedules import warmup_cosine
from ssl_vision.types import Batch


@dataclass(frozen=True, kw_only=True)
class TuningConfig:
    """Optimization of fine-tuning; defaults are Point-MAE's for classification."""

    epochs: int = 300
    batch_size: int = 32
    lr: float = 5e-4
    end_lr: float = 1e-6
    warmup_epochs: int = 10
    weight_decay: float = 0.05  # not of biases, norms and tokens
    clip_norm: float = 10.0
    drop_path: float = 0.1  # stochastic depth of the last block, rising from 0; exports have none

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            check_bounds(f"tuning.{name}", getattr(self, name), least=1)
        for name in ("lr", "clip_norm"):
            check_bounds(f"tuning.{name}", getattr(self, name), above=0)
        for name in ("end_lr", "warmup_epochs", "weight_decay"):
            check_bounds(f"tuning.{name}", getattr(self, name), least=0)
        check_bounds("tuning.drop_path", self.drop_path, least=0, below=1)


def with_class_token(
    backbone: PointViT, *, drop_path: float = 0.0, num_groups: int | None = None
) -> PointTransformer:
    """Copy of a network with a class token, new where it had none (Point-MAE, section 4.2).

    Args:
        backbone: To copy.
        drop_path: Stochastic depth rate of the copy's last block.
        num_groups: Patches of a cloud; None for those of the network. No weight depends on it.
    """
    return tuned_copy(
        backbone, drop_path=drop_path, num_groups=num_groups, class_token=True, pool="cls_max"
    )


def tuned_copy(
    backbone: PointViT, *, drop_path: float, num_groups: int | None, **changes: object
) -> PointTransformer:
    """Copy of a network to be fine-tuned; see `with_class_token`."""
    own = backbone.model
    arguments: dict[str, Any] = {**own.arguments, "drop_path_rate": drop_path, **changes}
    if num_groups is not None:
        arguments["num_groups"] = num_groups
    model = PointTransformer(**arguments)
    missing = model.load_state_dict(own.state_dict(), strict=False).missing_keys
    assert set(missing) <= {"cls_token", "cls_pos"}, missing
    return model


def parameter_groups(model: nn.Module, *, weight_decay: float) -> list[dict[str, object]]:
    """Trainable parameters with and without decay: biases, 1-d tensors and tokens have none."""
    decayed: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_spared = parameter.ndim <= 1 or name.endswith(".bias") or "token" in name
            (spared if is_spared else decayed).append(parameter)
    groups = [(decayed, weight_decay), (spared, 0.0)]
    return [{"params": p, "weight_decay": decay} for p, decay in groups if p]


def tune_points(
    model: nn.Module,
    batches_of: Callable[[int], Iterable[Batch]],
    loss_of: Callable[[Batch], Tensor],
    *,
    config: TuningConfig,
    steps_per_epoch: int,
    seed: int,
) -> float:
    """Train a model by the published recipe; see `tuning.tune`.

    The published loop of part segmentation steps its optimizer twice per batch, by mistake; this
    one does not.

    Args:
        model: In the mode it is to be trained in; frozen parameters stay as they are.
        batches_of: Epoch -> its batches.
        loss_of: Batch -> loss.
        config: Optimization.
        steps_per_epoch: Batches of an epoch.
        seed: Of dropout and drop path.

    Returns:
        Mean loss of the last epoch.
    """
    optimizer = torch.optim.AdamW(parameter_groups(model, weight_decay=config.weight_decay))

    def set_rates(step: int) -> None:
        for group in optimizer.param_groups:
            group["lr"] = warmup_cosine(
                step,
                start=config.end_lr,
                peak=config.lr,
                end=config.end_lr,
                warmup_steps=min(config.warmup_epochs, config.epochs // 3) * steps_per_epoch,
                total_steps=config.epochs * steps_per_epoch,
                is_peak_included=False,
            )

    losses = tune(
        model,
        batches_of,
        lambda batch, _: loss_of(batch),
        optimizer=optimizer,
        set_rates=set_rates,
        epochs=config.epochs,
        key_of=lambda step: derive_key(seed, "tune", step),
        way_out=f"use a batch_size above {config.batch_size}",
        clip_norm=config.clip_norm,
    )
    return sum(losses[-1].tolist()) / len(losses[-1])


def device_of(module: nn.Module) -> torch.device:
    """Where a module's parameters are."""
    return next(module.parameters()).device
