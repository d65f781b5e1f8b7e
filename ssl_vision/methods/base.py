"""What every method shares: the step, the optimizer's schedules, and when a teacher moves.

A method states its algorithm in `compute_loss`; time enters as `self.step` (optimizer updates
done), chance as keys of (seed, step, sample). Devices, checkpoints and epochs belong to whoever
trains it: the engine's loop (`engine/loop.py`), or Lightning's Trainer through the hooks of
`Method`. Both call the same functions in the same order.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.core.optimizer import LightningOptimizer
from PIL import Image
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from ssl_vision.backbones.backbone import Backbone
from ssl_vision.data.config import InputSpec
from ssl_vision.distributed import any_rank_each, rank
from ssl_vision.nn.statistics import RunningStatistics
from ssl_vision.optim.clip import clip_gradients
from ssl_vision.optim.groups import ParamGroup, split_parameters
from ssl_vision.optim.recipe import (
    OptimConfig,
    apply_schedules,
    build_optimizer,
    check_schedules,
)
from ssl_vision.randomness import derive_key, seeded
from ssl_vision.types import Batch, LossOutput, at_least_float32
from ssl_vision.views import ViewConfig


@dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """Settings of a method; each method has its own subclass, chosen by `name`."""

    name: str

    def check_views(self, views: Mapping[str, ViewConfig]) -> None:
        """Raise ConfigError unless the recipe has the views this method consumes."""

    def check_start(self, init_from: str | None) -> None:
        """Raise ConfigError where a setting needs other weights to start from than the run's."""

    def alone(self) -> Self:
        """The same without other networks that training, and nothing else, needs."""
        return self


@dataclass(frozen=True, kw_only=True)
class TrainPlan:
    """What a method may know of the run around it."""

    steps_per_epoch: int  # optimizer updates, not batches
    epochs: int | None  # None: without an end
    global_batch_size: int  # samples per optimizer update, over processes and accumulation
    accumulate: int = 1  # batches per optimizer update
    input_size: int = 224  # of the largest view: side in px, or points of a cloud
    num_classes: int | None = None  # None where the data has no labels
    input_spec: InputSpec | None = None  # mean and std of its inputs; None where nothing is known
    seed: int = 0

    @property
    def total_steps(self) -> int | None:
        """Optimizer updates of the whole run; None where it has no end."""
        return None if self.epochs is None else self.steps_per_epoch * self.epochs


@dataclass(frozen=True, kw_only=True)
class UpdateOutcome:
    """What the processes agreed on when the gradients of an update were complete.

    Attributes:
        is_skipped: Whether the update is left out, on all processes, because a loss or gradient was
            not finite on one of them.
        is_stop_asked: Whether any process was asked to stop (a signal).
        bad_gradients: Names of this process's parameters whose gradient was not finite.
    """

    is_skipped: bool = False
    is_stop_asked: bool = False
    bad_gradients: tuple[str, ...] = ()


class Picture(NamedTuple):
    """What a method makes of samples, for looking at.

    Attributes:
        image: The picture.
        title: Of its section in a report.
        caption: How to read it.
        alt: What stands for it where it is not shown.
    """

    image: Image.Image
    title: str
    caption: str
    alt: str


class Method(L.LightningModule):
    """Base of all methods.

    Subclasses implement `compute_loss`, and `after_update` where a teacher follows the student.

    `ssl_vision.train` runs a method from a recipe. In a script of your own it trains, to the same
    weights, under Lightning's Trainer:

        config = BarlowTwinsConfig(projector_dims=(512, 512))
        backbone = build_backbone(BackboneConfig(name="resnet18"), input_size=64)
        plan = TrainPlan(steps_per_epoch=len(images) // 64, epochs=10, global_batch_size=64)
        method = BarlowTwins(config, backbone, optim=OptimConfig(), plan=plan)
        loader = DataLoader(images, batch_size=64, drop_last=True, collate_fn=Batch.collate)
        lightning.Trainer(max_epochs=10).fit(method, loader)

    `images` is any torch data set whose samples are `(index, views)` or `(index, views, label)`:

    * `index`: the sample's row in the data set; masks and other random draws are keyed by it.
    * `views`: name -> tensor, with the names the method takes (`METHODS[...].views` of a recipe),
      or a list of tensors where a view is drawn several times. Images are float, (C, S, S),
      normalised as at evaluation (torchvision's `ToTensor` and `Normalize`); clouds are (M, 3).
    * `label`: a class from 0, for `supervised`.

    The plan counts optimizer updates of all processes: with `accumulate_grad_batches=2` on two
    devices and batches of 64, `global_batch_size` is 256. An epoch should be a whole number of
    updates, as it is in the engine. Where batch norms are to see the batches of all processes
    (the engine's default), call `ssl_vision.nn.batch_norm.synchronize_batch_norm` on the method,
    and clip by `optim.clip_norm`, not by the Trainer.

    Attributes:
        step: Optimizer updates done so far; part of the checkpoint. Updates that were left out
            count, too: the data position and the schedules stay functions of it.
        micro_step: Batches consumed so far; differs from `step` under gradient accumulation.
    """

    reading: ClassVar[str] = ""  # what its loss says, for people who read a report; HTML
    has_moving_targets: ClassVar[bool] = False  # they follow the network: the loss proves little
    reads_labels: ClassVar[bool] = False  # training then leaves out unlabelled and held-out images
    is_shardable: ClassVar[bool] = True  # whether FSDP2 may split its parameters over processes
    redraws_backbone: ClassVar[bool] = True  # whether building it may change the backbone's start
    config: MethodConfig  # a subclass names its own

    def __init__(
        self, config: MethodConfig, backbone: Backbone, *, optim: OptimConfig, plan: TrainPlan
    ) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbone
        self.optim = optim
        self.plan = plan
        self.step = 0
        self.micro_step = 0
        self._losses: list[Tensor] = []  # of the batches of the update under way, detached
        self._statistics = RunningStatistics()
        self._outcome = UpdateOutcome()  # from one hook of the Trainer to the next
        self.check_schedules()

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

    def check_schedules(self) -> None:
        """Raise ConfigError where a schedule needs the length of a run that has none."""
        check_schedules(self.optim, plan=self.plan)

    @property
    def class_names(self) -> tuple[str, ...]:
        """What its classifier's outputs mean, where it knows that without the data's labels."""
        return ()

    def notes(self) -> tuple[str, ...]:
        """Lines for the user to check before a run starts: what was chosen without being asked."""
        return ()

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

    def picture(self, views: Mapping[str, Tensor]) -> Picture | None:
        """What the method makes of some samples; None where there is nothing to look at.

        Args:
            views: Name -> views as the network takes them, (B, ...).
        """
        return None

    def export_backbone(self) -> Backbone:
        """The network users take home and evaluations score; the teacher where there is one."""
        return self.backbone

    def take_heads(self, heads: Mapping[str, Tensor], *, source: str) -> None:
        """What came beside the network in the weights a run starts from; not used by default.

        Args:
            heads: As another method's `export_heads` gave them.
            source: Of the weights, for messages.

        Raises:
            CheckpointError: Something that is needed is not among them.
        """

    def export_heads(self) -> dict[str, Tensor]:
        """Tensors for heads.safetensors beside the exported network; none by default."""
        return {}

    # What the base does with it ----------------------------------------------------------

    def key(self, purpose: str) -> int:
        """Key of this batch's random draws for a purpose; combine with sample ids.

        Equal on all processes and for all batches of one update, so that a sample's draw does not
        depend on where, or with how much gradient accumulation, it is processed.
        """
        return derive_key(self.plan.seed, purpose, self.step)

    def make_optimizer(self, *, is_loss_scaled: bool = False) -> Optimizer:
        """The recipe's optimizer; `begin_update` sets its rates.

        Args:
            is_loss_scaled: Whether gradients come scaled (fp16).

        Raises:
            ConfigError: Nothing to train.
        """
        return build_optimizer(self.param_groups(), self.optim, is_loss_scaled=is_loss_scaled)

    # An update, in order -----------------------------------------------------------------

    def update(self, batches: Batch | Sequence[Batch], optimizer: Optimizer) -> LossOutput:
        """One whole update, in a loop of your own on one device.

            optimizer = method.make_optimizer()
            for batch in loader:
                output = method.update(batch, optimizer)

        Schedules, masks, clipping, teachers and the step move as in the engine. Loops with DDP or
        mixed precision of their own call `begin_update`, the module itself for each batch,
        `judge_update` and `end_update`, in the order of this function.

        Args:
            batches: What one update is made of; several accumulate gradients. Views are float and
                normalised, where the method is.
            optimizer: Of `make_optimizer`.

        Returns:
            Mean loss and metrics of the batches, detached.
        """
        parts = [batches] if isinstance(batches, Batch) else list(batches)
        self.begin_update(optimizer)
        optimizer.zero_grad(set_to_none=True)
        outputs: list[LossOutput] = []
        for batch in parts:
            output: LossOutput = self(batch)
            (output.loss / len(parts)).backward()
            outputs.append(output)
        outcome = self.judge_update(optimizer)
        optimizer.step()
        self.end_update(outcome)
        means = {n: torch.stack([o.metrics[n] for o in outputs]).mean() for n in outputs[0].metrics}
        return LossOutput(torch.stack([o.loss.detach() for o in outputs]).mean(), means)

    def begin_update(self, optimizer: Optimizer) -> None:
        """Set rate and weight decay of this update."""
        apply_schedules(optimizer, self.optim, plan=self.plan, step=self.step)

    def forward(self, batch: Batch) -> LossOutput:
        """Loss of the next batch of an update, whose place in the run seeds dropout and the like.

        Called as a module, so that DDP and FSDP2 can hang their work on the call.
        """
        if not self._losses:  # the first batch of an update
            self._statistics.remember(self)
        devices = [batch.index.device] if batch.index.device.type == "cuda" else None
        with seeded(
            derive_key(self.plan.seed, "forward", self.micro_step, rank()), devices=devices
        ):
            output = self.compute_loss(batch)
        self.micro_step += 1
        self._losses.append(output.loss.detach())
        return output

    def judge_update(self, optimizer: Optimizer, *, is_stop_asked: bool = False) -> UpdateOutcome:
        """Agree on whether the update is done, once its gradients are complete and unscaled.

        If a loss or gradient is not finite on any process, all of them drop their gradients (an
        optimizer leaves everything as it is without) and take back what batch norms have seen. Else
        gradients are clipped, see `before_update`. A collective, and the one place of an update
        that waits for the device.

        Args:
            optimizer: What holds the gradients.
            is_stop_asked: Whether this process was asked to stop.
        """
        is_finite = self._is_update_finite(optimizer)
        is_skipped, is_anyone_asked = any_rank_each(
            [not is_finite, is_stop_asked], device=self.device
        )
        bad = () if is_finite else self._bad_gradients()
        self._losses.clear()
        if is_skipped:
            self._statistics.restore()
            optimizer.zero_grad(set_to_none=True)
        else:
            self.before_update(self.step)
        return UpdateOutcome(
            is_skipped=is_skipped, is_stop_asked=is_anyone_asked, bad_gradients=bad
        )

    def end_update(self, outcome: UpdateOutcome) -> None:
        """After the optimizer's step: the teacher follows, the counters move on."""
        if outcome.is_skipped:
            self.after_skip(self.step)
        else:
            self.after_update(self.step)
        self.step += 1

    def _is_update_finite(self, optimizer: Optimizer) -> bool:
        """Whether this process's losses and gradients are finite; waits for the device, once."""
        parameters = (p for group in optimizer.param_groups for p in group["params"])
        gradients = [_local(grad) for p in parameters if (grad := p.grad) is not None]
        # A norm is finite exactly if every value is (overflow of the sum of squares aside, which
        # deserves the same treatment), and so is a sum; far fewer kernels than isfinite per tensor.
        norms = torch._foreach_norm(gradients) if gradients else ()
        values = torch.stack([*self._losses, *norms])  # of the widest type among them
        return math.isfinite(values.sum(dtype=torch.float32))

    def _bad_gradients(self) -> tuple[str, ...]:
        gradients = {n: _local(p.grad) for n, p in self.named_parameters() if p.grad is not None}
        return tuple(name for name, g in gradients.items() if not bool(g.norm().isfinite()))

    # The same under Lightning's Trainer ----------------------------------------------------

    def configure_optimizers(self) -> Optimizer:
        """The recipe's optimizer; the Trainer needs no scheduler beside it."""
        plugin = None if self._trainer is None else self._trainer.precision_plugin
        return self.make_optimizer(is_loss_scaled=getattr(plugin, "scaler", None) is not None)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of a batch, logged with the method's metrics as `train/...`."""
        output = self(batch)
        values = {"loss": output.loss.detach(), **output.metrics}
        self.log_dict(
            {f"train/{name}": value for name, value in values.items()},
            batch_size=batch.num_samples,
        )
        return output.loss

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], float] | None = None,
    ) -> None:
        """One update; the Trainer calls this once per update, also under gradient accumulation.

        The closure holds the update's last forward and backward; `on_before_optimizer_step` comes
        between them and the step itself.
        """
        inner = optimizer.optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        self.begin_update(inner)
        optimizer.step(closure=optimizer_closure)
        if self._outcome.is_skipped and rank() == 0:
            warnings.warn(
                f"update {self.step + 1}: a loss or gradient was not finite; skipped.", stacklevel=2
            )
        self.end_update(self._outcome)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Gradients are complete and unscaled."""
        self._outcome = self.judge_update(optimizer)

    # Parameters and state ------------------------------------------------------------------

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


def _local(gradient: Tensor) -> Tensor:
    """This process's part of a gradient that FSDP2 shards; other gradients as they are."""
    return gradient.to_local() if isinstance(gradient, DTensor) else gradient
