"""What every method shares: the step, the optimizer's schedules, and when a teacher moves.

A method states its algorithm in `compute_loss`; time enters as `self.step` (optimizer updates
done), chance as keys of (seed, step, sample). Logging, devices, checkpoints and epochs belong to
the engine.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from ssl_vision.backbones.backbone import Backbone
from ssl_vision.distributed import any_rank_each, rank
from ssl_vision.errors import ConfigError, did_you_mean
from ssl_vision.nn.statistics import RunningStatistics
from ssl_vision.optim.clip import clip_gradients
from ssl_vision.optim.groups import ParamGroup, split_parameters
from ssl_vision.optim.recipe import OptimConfig, apply_schedules, build_optimizer
from ssl_vision.randomness import derive_key, seeded
from ssl_vision.types import Batch, LossOutput, at_least_float32
from ssl_vision.views import ViewConfig


@dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """Settings of a method; each method has its own subclass, chosen by `name`."""

    name: str

    def check_views(self, views: Mapping[str, ViewConfig]) -> None:
        """Raise ConfigError unless the recipe has the views this method consumes."""


@dataclass(frozen=True, kw_only=True)
class TrainPlan:
    """What a method may know of the run around it."""

    steps_per_epoch: int  # optimizer updates, not batches
    epochs: int
    global_batch_size: int  # samples per optimizer update, over processes and accumulation
    image_size_px: int = 224  # of the largest view
    num_classes: int | None = None  # None where the data has no labels
    seed: int = 0

    @property
    def total_steps(self) -> int:
        """Optimizer updates of the whole run."""
        return self.steps_per_epoch * self.epochs


class Method(L.LightningModule):
    """Base of all methods.

    Subclasses implement `compute_loss`, and `after_update` where a teacher follows the student.

    Attributes:
        step: Optimizer updates done so far; part of the checkpoint.
        micro_step: Batches consumed so far; differs from `step` under gradient accumulation.
        update_was_skipped: Whether the last update was left out, on all processes, because a loss
            or gradient was not finite on one of them. `step` counts such updates too: the data
            position and the schedules stay functions of it.
        nonfinite_gradients: Names of this process's offending parameters of that update.
        stop_requested: Set by the engine when this process was asked to stop (a signal).
        stop_agreed: Whether any process was asked to, as agreed at the last update.
    """

    modality: ClassVar[Literal["image", "points"]] = "image"
    reads_labels: ClassVar[bool] = False  # training then leaves out unlabelled and held-out images

    def __init__(
        self, config: MethodConfig, backbone: Backbone, *, optim: OptimConfig, plan: TrainPlan
    ) -> None:
        super().__init__()
        self.config: Any = config
        self.backbone = backbone
        self.optim = optim
        self.plan = plan
        self.step = 0
        self.micro_step = 0
        self.update_was_skipped = False
        self.nonfinite_gradients: list[str] = []
        self.stop_requested = False
        self.stop_agreed = False
        self.parallelize: Callable[[Method], None] | None = None  # set by the engine (FSDP2)
        self._losses: list[Tensor] = []  # of the batches of the update under way, detached
        self._statistics = RunningStatistics()

    # What a method defines ---------------------------------------------------------------

    def compute_loss(self, batch: Batch) -> LossOutput:
        """The method's loss on one batch; views are normalised floats."""
        raise NotImplementedError

    def after_update(self, step: int) -> None:
        """Called once after each real optimizer update; teachers move here.

        Args:
            step: Index of the update just done, from 0.
        """

    def after_skip(self, step: int) -> None:
        """Called instead of `after_update` when an update was left out (not finite).

        A method that collects state over the batches of an update forgets it here.
        """

    def on_weights_loaded(self) -> None:
        """Called after other weights were put into the backbone; teachers start from them."""

    def before_update(self, step: int) -> None:
        """Called once when the gradients of an update are complete and unscaled.

        Clips as the recipe says; a method that freezes parameters does so after that.
        """
        if self.optim.clip_norm is not None:
            clip_gradients(
                (module.parameters() for module in self.children()),
                max_norm=self.optim.clip_norm,
                mode=self.optim.clip_mode,
            )

    def layer_id(self, name: str) -> int | None:
        """Depth of a parameter for layer-wise lr decay, 0 the input; None for heads."""
        if not name.startswith("backbone."):
            return None
        return self.backbone.layer_id(name.removeprefix("backbone."))

    def lr_factor(self, name: str) -> float:
        """Factor of a parameter's learning rate beyond the recipe's; 1 unless a method says so."""
        return 1.0

    def decays(self, name: str, parameter: nn.Parameter) -> bool:
        """Whether weight decay applies; by default to everything but biases and 1-d parameters."""
        return parameter.ndim > 1 and not name.endswith(".bias")

    def export_backbone(self) -> Backbone:
        """The network users take home and evaluations score; the teacher where there is one."""
        return self.backbone

    # What the base does with it ----------------------------------------------------------

    def key(self, purpose: str) -> int:
        """Key of this batch's random draws for a purpose; combine with sample ids.

        Equal on all processes and for all batches of one update, so that a sample's draw does not
        depend on where, or with how much gradient accumulation, it is processed.
        """
        return derive_key(self.plan.seed, purpose, self.step)

    def forward(self, batch: Batch) -> LossOutput:
        """`compute_loss`, as a call of the module: what FSDP2 hangs its gathering on."""
        return self.compute_loss(batch)

    def configure_model(self) -> None:
        """Spread the parameters over processes, once, if the engine says how."""
        if self.parallelize is not None:
            parallelize, self.parallelize = self.parallelize, None
            parallelize(self)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """One forward pass; the engine logs what it returns."""
        if not self._losses:  # the first batch of an update
            self._statistics.remember(self)
        devices = [batch.index.device] if batch.index.device.type == "cuda" else None
        with seeded(
            derive_key(self.plan.seed, "forward", self.micro_step, rank()), devices=devices
        ):
            output = self(batch)
        self.micro_step += 1
        self._losses.append(output.loss.detach())
        return {"loss": output.loss, "metrics": output.metrics, "index": batch.index}

    def trainable_parameters(self) -> Iterable[tuple[str, nn.Parameter]]:
        """Names and parameters the optimizer gets."""
        return ((n, p) for n, p in self.named_parameters() if p.requires_grad)

    def param_groups(self) -> list[ParamGroup]:
        """Parameters by role: each group carries the factors its lr and weight decay get."""
        return split_parameters(
            self.trainable_parameters(),
            config=self.optim,
            decays=self.decays,
            layer_id=self.layer_id,
            num_layers=self.backbone.num_layers,
            lr_factor=self.lr_factor,
        )

    def configure_optimizers(self) -> Optimizer:
        """The recipe's optimizer; its schedules are applied per update, in `optimizer_step`."""
        plugin = None if self._trainer is None else self._trainer.precision_plugin
        is_loss_scaled = getattr(plugin, "scaler", None) is not None
        return build_optimizer(self.param_groups(), self.optim, is_loss_scaled=is_loss_scaled)

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Any,
        optimizer_closure: Any = None,
    ) -> None:
        """One real update: schedules, then backward and step, then the teacher.

        Lightning calls this once per update, also under gradient accumulation; the other hooks
        fire once per batch.
        """
        apply_schedules(optimizer, self.optim, plan=self.plan, step=self.step)
        self.update_was_skipped = False
        optimizer.step(closure=optimizer_closure)
        if self.update_was_skipped:
            self.after_skip(self.step)
        else:
            self.after_update(self.step)
        self.step += 1

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Gradients are complete: skip the update on all processes if any is not finite."""
        self.update_was_skipped, self.stop_agreed = any_rank_each(
            [not self._is_update_finite(), self.stop_requested], device=self.device
        )
        self._losses.clear()
        if self.update_was_skipped:
            self._statistics.restore()
            optimizer.zero_grad(set_to_none=True)  # no gradient: the optimizer leaves all as it is
            return
        self.before_update(self.step)

    def _is_update_finite(self) -> bool:
        """Whether this process's losses and gradients are finite; waits for the device, once."""
        gradients = {n: _local(p.grad) for n, p in self.named_parameters() if p.grad is not None}
        # A norm is finite exactly if every value is (overflow of the sum of squares aside, which
        # deserves the same treatment); far fewer kernels than isfinite per tensor.
        norms = torch._foreach_norm(list(gradients.values())) if gradients else []
        values = torch.stack([v.float() for v in (*self._losses, *norms)])
        self.nonfinite_gradients = []
        if bool(values.isfinite().all()):
            return True
        are_finite = values[len(self._losses) :].isfinite().tolist()
        self.nonfinite_gradients = [
            name for name, is_finite in zip(gradients, are_finite, strict=True) if not is_finite
        ]
        return False

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the counters."""
        checkpoint["method_counters"] = {"step": self.step, "micro_step": self.micro_step}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the counters."""
        self.step = checkpoint["method_counters"]["step"]
        self.micro_step = checkpoint["method_counters"]["micro_step"]


def detached(**metrics: Tensor) -> dict[str, Tensor]:
    """Metrics as a dictionary without graphs."""
    return {name: value.detach() for name, value in metrics.items()}


@torch.no_grad()
def feature_std(features: Tensor) -> Tensor:
    """Spread of unit-length features over the batch: 1 if they fill the sphere, 0 if collapsed.

    Args:
        features: (B, D).
    """
    unit = F.normalize(at_least_float32(features), dim=-1)
    return unit.std(dim=0, correction=0).mean() * features.shape[-1] ** 0.5


def check_view_names(
    views: Mapping[str, ViewConfig],
    *,
    required: Sequence[str],
    repeatable: Sequence[str] = (),
    method: str,
) -> None:
    """Raise ConfigError unless the views are the ones a method consumes.

    Args:
        views: Views of the recipe.
        required: Views that must be there, drawn once.
        repeatable: Views that may be there, drawn `count` times.
        method: Name of the method, for the message.
    """
    wanted = ", ".join(required) + "".join(f" and optionally {name}" for name in repeatable)
    for name in required:
        if name not in views:
            raise ConfigError(
                f"data.views.{name} is missing: method.name={method} takes the views {wanted}, "
                f"got {', '.join(views) or 'none'}."
            )
        if views[name].count != 1:
            raise ConfigError(
                f"data.views.{name}.count={views[name].count} must be 1 for method.name={method}."
            )
    known = [*required, *repeatable]
    for name in views:
        if name not in known:
            raise ConfigError(
                f"data.views.{name} is not used: method.name={method} takes the views "
                f"{wanted}.{did_you_mean(name, known)}"
            )


def _local(gradient: Tensor) -> Tensor:
    """This process's part of a gradient that FSDP2 shards; other gradients as they are."""
    return gradient.to_local() if isinstance(gradient, DTensor) else gradient
