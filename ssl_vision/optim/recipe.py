"""The optimizer recipe of a run: which optimizer, its schedules, and their value at a step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch.optim import Optimizer

from ssl_vision import schedules
from ssl_vision.bounds import check_bounds
from ssl_vision.errors import ConfigError
from ssl_vision.optim.clip import ClipMode
from ssl_vision.optim.groups import ParamGroup
from ssl_vision.optim.lars import LARS
from ssl_vision.schedules import Cooldown, LrScaling


class Plan(Protocol):
    """What schedules need to know of a run; `methods.base.TrainPlan` is one."""

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer updates of one epoch."""

    @property
    def epochs(self) -> int | None:
        """Epochs of the run; None where it has no end."""

    @property
    def global_batch_size(self) -> int:
        """Samples per update."""

    @property
    def total_steps(self) -> int | None:
        """Optimizer updates of the run; None where it has no end."""


_OPEN_SCHEDULES = "use infinite or constant"  # schedules that need no end
_LARGEST_LR = 1e24  # scaled to any batch, still a float32


@dataclass(frozen=True, kw_only=True)
class InfiniteConfig:
    """Phases of `schedule: infinite`, as fractions of the run and of the peak rate.

    The defaults lie within the authors' grid for MAE. Runs without an end anneal only in a branch.
    """

    constant_lr: float = 0.5  # of the peak
    end_lr: float = 0.01  # of the peak; of annealed branches, too
    cooldown_end: float = 0.4  # of the run
    cooldown_end_epochs: float | None = None  # the same as an epoch, in place of cooldown_end
    anneal_start: float | None = 0.8  # of the run, if it has an end; null never anneals
    cooldown: Cooldown = "cosine"
    is_continued: bool = False  # no warm-up nor cool-down: every task after the first

    def __post_init__(self) -> None:
        for name in ("constant_lr", "end_lr"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(
                    f"optim.infinite.{name}={getattr(self, name)} is a fraction of the peak rate; "
                    "use a value above 0 and up to 1."
                )
        check_bounds("optim.infinite.cooldown_end_epochs", self.cooldown_end_epochs, least=0)
        end = 1.0 if self.anneal_start is None else self.anneal_start
        if not 0 <= self.cooldown_end <= end <= 1:
            raise ConfigError(
                f"optim.infinite.cooldown_end={self.cooldown_end} and "
                f"optim.infinite.anneal_start={self.anneal_start} must rise from 0 to 1."
            )


@dataclass(frozen=True, kw_only=True)
class AnnealConfig:
    """A branch of a run whose rate falls to its end; `ssl-vision anneal` sets it.

    The rate falls from what the schedule has after `start_step` updates to
    `optim.infinite.end_lr` of the peak, by equal factors; the run ends there.
    """

    start_step: int | None = None  # updates done before; null: no branch
    steps: int = 1  # updates of the annealing

    def __post_init__(self) -> None:
        check_bounds("optim.anneal.start_step", self.start_step, least=1)
        check_bounds("optim.anneal.steps", self.steps, least=1)

    @property
    def end_step(self) -> int | None:
        """Updates after which the branch ends; None of a run that is none."""
        return None if self.start_step is None else self.start_step + self.steps


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Optimizer, rates and clipping of a run.

    Rates are stated for `lr_reference_batch` samples and scaled to the run's batch size.
    """

    name: Literal["adamw", "lars", "sgd"] = "adamw"
    base_lr: float = 5e-4
    lr_scaling: LrScaling = "linear"
    lr_reference_batch: int = 256
    bias_base_lr: float | None = None  # of tensors of at most one dimension; null: base_lr
    layer_decay: float = 1.0  # factor of the rate per layer below the top
    weight_decay: float = 0.05
    weight_decay_end: float | None = None  # cosine from weight_decay to it; null: constant
    betas: tuple[float, float] = (0.9, 0.999)  # adamw
    momentum: float = 0.9  # lars, sgd
    trust_coefficient: float = 0.001  # lars
    is_lr_in_momentum: bool = False  # lars; true is SimCLR's form
    schedule: Literal["cosine", "linear", "constant", "infinite", "timm_cosine"] = "cosine"
    warmup_epochs: float = 10.0
    warmup_start_lr: float = 0.0  # absolute, not scaled by the batch
    is_peak_in_warmup: bool = False  # the last warm-up step has the peak rate already (DINO)
    end_lr: float = 0.0  # absolute, not scaled by the batch
    end_lr_fraction: float = 0.0  # of the peak rate; the other way to say it (Barlow Twins)
    schedule_stretch: float = 1.0  # schedules this many times longer than the run, and cut off
    schedule_lead: int = 0  # updates that rates and decay run ahead; 1: I-JEPA's count from 1
    infinite: InfiniteConfig = field(default_factory=InfiniteConfig)
    anneal: AnnealConfig = field(default_factory=AnnealConfig)
    clip_norm: float | None = None
    clip_mode: ClipMode = "global"

    def __post_init__(self) -> None:
        check_bounds("optim.base_lr", self.base_lr, above=0, most=_LARGEST_LR)
        check_bounds("optim.bias_base_lr", self.bias_base_lr, least=0, most=_LARGEST_LR)
        if self.lr_reference_batch < 1:
            raise ConfigError(f"optim.lr_reference_batch={self.lr_reference_batch} must be >= 1.")
        for name in ("warmup_epochs", "warmup_start_lr", "end_lr", "weight_decay", "momentum"):
            if getattr(self, name) < 0:
                raise ConfigError(f"optim.{name}={getattr(self, name)} must be 0 or more.")
        for name in ("layer_decay", "schedule_stretch", "trust_coefficient"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"optim.{name}={getattr(self, name)} must be above 0.")
        if self.schedule_lead < 0:
            raise ConfigError(f"optim.schedule_lead={self.schedule_lead} must be 0 or more.")
        if self.end_lr and self.end_lr_fraction:
            raise ConfigError(
                f"optim.end_lr={self.end_lr} and optim.end_lr_fraction={self.end_lr_fraction} say "
                "the same thing twice; set one of them to 0."
            )
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise ConfigError(
                f"optim.clip_norm={self.clip_norm} must be above 0; null switches clipping off."
            )
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"optim.betas={list(self.betas)} must be from 0 to below 1.")


def build_optimizer(
    groups: Sequence[ParamGroup], config: OptimConfig, *, is_loss_scaled: bool = False
) -> Optimizer:
    """The recipe's optimizer; `apply_schedules` sets its rates before each update.

    AdamW and SGD are torch's: fused, one kernel for all tensors, where all parameters are on a GPU,
    else whatever torch takes by itself.

    Args:
        groups: What to train.
        config: Recipe.
        is_loss_scaled: Whether gradients come scaled (fp16). Fused forms unscale them within the
            step, after clipping has seen them scaled; so they are not used then.

    Raises:
        ConfigError: Nothing to train.
    """
    if not groups:
        raise ConfigError("no parameter of this method is trainable; unfreeze something.")
    params = [dict(group) for group in groups]
    # None, not False: what torch prefers elsewhere stays its choice, and groups stay as they were.
    is_fused = True if not is_loss_scaled and _are_on_gpu(groups) else None
    if config.name == "lars":
        return LARS(
            params,
            lr=config.base_lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            trust_coefficient=config.trust_coefficient,
            is_lr_in_momentum=config.is_lr_in_momentum,
        )
    if config.name == "sgd":
        return torch.optim.SGD(
            params,
            lr=config.base_lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            fused=is_fused,
        )
    return torch.optim.AdamW(
        params,
        lr=config.base_lr,
        betas=config.betas,
        weight_decay=config.weight_decay,
        fused=is_fused,
    )


def _are_on_gpu(groups: Sequence[ParamGroup]) -> bool:
    parameters = [parameter for group in groups for parameter in group["params"]]
    return all(p.device.type == "cuda" and p.is_floating_point() for p in parameters)


def learning_rate(config: OptimConfig, *, plan: Plan, step: int) -> float:
    """Rate of an update before the factors of the groups.

    Args:
        config: Recipe.
        plan: Length and batch size of the run.
        step: Update, from 0.

    Raises:
        ConfigError: The schedule needs the length of a run that has none.
    """
    start = config.anneal.start_step
    if start is None or step <= start:
        return _scheduled_lr(config, plan=plan, step=step)
    rate = _scheduled_lr(config, plan=plan, step=start)
    end = config.infinite.end_lr * peak_lr(config, plan=plan)
    return schedules.exponential(step - start, start=rate, end=end, total_steps=config.anneal.steps)


def check_schedules(config: OptimConfig, *, plan: Plan) -> None:
    """Look before a run starts whether its rate and decay have a value at every update.

    Raises:
        ConfigError: A schedule needs the length of a run that has none, or a branch cannot fall.
    """
    learning_rate(config, plan=plan, step=0)
    weight_decay(config, plan=plan, step=0)
    start = config.anneal.start_step
    if start is None:
        return
    rate = _scheduled_lr(config, plan=plan, step=start)
    end = config.infinite.end_lr * peak_lr(config, plan=plan)
    if rate <= end:
        raise ConfigError(
            f"optim.anneal.start_step={start}: the rate is {rate:.3g} there, and not above its end,"
            f" {end:.3g} (optim.infinite.end_lr of the peak); anneal runs of optim.schedule="
            "infinite or constant, from an earlier update, or lower optim.infinite.end_lr."
        )


def _scheduled_lr(config: OptimConfig, *, plan: Plan, step: int) -> float:
    """Rate of an update of a run that is no annealed branch."""
    peak = peak_lr(config, plan=plan)
    warmup_steps = round(config.warmup_epochs * plan.steps_per_epoch)
    if config.schedule == "infinite":
        return _infinite_lr(config, plan, peak, warmup_steps, step)
    if config.schedule == "constant":
        return _warming(config, peak, warmup_steps, step) if step < warmup_steps else peak
    end = config.end_lr + config.end_lr_fraction * peak
    total_steps = stretched_steps(config, plan=plan, key="schedule", way_out=_OPEN_SCHEDULES)
    if config.schedule == "timm_cosine":
        assert plan.epochs is not None, "stretched_steps refused"
        return schedules.timm_cosine(
            step // plan.steps_per_epoch,
            start=config.warmup_start_lr,
            peak=peak,
            end=end,
            warmup_epochs=round(config.warmup_epochs),
            total_epochs=_stretched(plan.epochs, config.schedule_stretch),
        )
    if step < warmup_steps:
        return _warming(config, peak, warmup_steps, step)
    falls = schedules.cosine if config.schedule == "cosine" else schedules.linear
    return falls(
        step - warmup_steps, start=peak, end=end, total_steps=max(total_steps - warmup_steps, 1)
    )


def _warming(config: OptimConfig, peak: float, warmup_steps: int, step: int) -> float:
    return schedules.warmup(
        step,
        start=config.warmup_start_lr,
        peak=peak,
        warmup_steps=warmup_steps,
        is_peak_included=config.is_peak_in_warmup,
    )


def weight_decay(config: OptimConfig, *, plan: Plan, step: int) -> float:
    """Weight decay of an update before the factors of the groups."""
    if config.weight_decay_end is None:
        return config.weight_decay
    return schedules.cosine(
        step,
        start=config.weight_decay,
        end=config.weight_decay_end,
        total_steps=stretched_steps(
            config, plan=plan, key="weight_decay_end", way_out="set it to null"
        ),
    )


def peak_lr(config: OptimConfig, *, plan: Plan) -> float:
    """Largest rate of the run: the base rate scaled to the batch size."""
    return schedules.scaled_lr(
        config.base_lr,
        rule=config.lr_scaling,
        batch_size=plan.global_batch_size,
        reference_batch=config.lr_reference_batch,
    )


def stretched_steps(
    config: OptimConfig, *, plan: Plan, key: str, way_out: str, owner: object | None = None
) -> int:
    """Updates the schedules are laid out for; teachers' schedules use it too.

    Args:
        config: Recipe.
        plan: Length of the run.
        key: Setting that needs it.
        way_out: What to set in its place, for the message.
        owner: Settings of a method that `key` is one of; None: it is one of the recipe.

    Raises:
        ConfigError: The run has no end.
    """
    if plan.total_steps is None:
        section = "optim" if owner is None else "method"
        raise ConfigError(
            f"{section}.{key}={getattr(config if owner is None else owner, key)} is laid out over "
            f"the whole run, and trainer.epochs=null has no end; {way_out}, or give trainer.epochs."
        )
    return _stretched(plan.total_steps, config.schedule_stretch)


class HasTeacherMomentum(Protocol):
    """Settings of a method whose teacher is an average of the student."""

    @property
    def teacher_momentum(self) -> float: ...

    @property
    def teacher_momentum_end(self) -> float: ...


def teacher_momentum(
    config: OptimConfig,
    owner: HasTeacherMomentum,
    *,
    plan: Plan,
    step: int,
    curve: Callable[..., float],
) -> float:
    """Momentum of a teacher at an update.

    Args:
        config: Recipe.
        owner: Settings of the method.
        plan: Length of the run.
        step: Update about to be done, from 0.
        curve: `schedules.cosine` or `schedules.linear`.

    Raises:
        ConfigError: It moves, and the run has no end.
    """
    start, end = owner.teacher_momentum, owner.teacher_momentum_end
    if start == end:
        return end
    total_steps = stretched_steps(
        config,
        plan=plan,
        key="teacher_momentum_end",
        way_out=f"set it to teacher_momentum={start}",
        owner=owner,
    )
    return curve(step, start=start, end=end, total_steps=total_steps)


def apply_schedules(optimizer: Optimizer, config: OptimConfig, *, plan: Plan, step: int) -> None:
    """Set rate and weight decay of every group for an update.

    Args:
        optimizer: From `build_optimizer`.
        config: Recipe.
        plan: Length and batch size of the run.
        step: Update about to be done, from 0.
    """
    position = step + config.schedule_lead
    lr = learning_rate(config, plan=plan, step=position)
    decay = weight_decay(config, plan=plan, step=position)
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
        group["weight_decay"] = decay * group["weight_decay_scale"]


def _infinite_lr(
    config: OptimConfig, plan: Plan, peak: float, warmup_steps: int, step: int
) -> float:
    phases = config.infinite
    total_steps = None
    if plan.total_steps is not None:
        total_steps = _stretched(plan.total_steps, config.schedule_stretch)
    anneal_start = None
    if phases.anneal_start is not None and total_steps is not None:
        anneal_start = int(phases.anneal_start * total_steps)
    return schedules.infinite(
        step,
        start=config.warmup_start_lr,
        peak=peak,
        constant=phases.constant_lr * peak,
        end=phases.end_lr * peak,
        warmup_steps=0 if phases.is_continued else warmup_steps,
        cooldown_end=0 if phases.is_continued else _cooldown_end(phases, plan, total_steps),
        anneal_start=anneal_start,
        anneal_end=total_steps or 0,
        cooldown=phases.cooldown,
    )


def _cooldown_end(phases: InfiniteConfig, plan: Plan, total_steps: int | None) -> int:
    """Update the cool-down ends."""
    if phases.cooldown_end_epochs is not None:
        return round(phases.cooldown_end_epochs * plan.steps_per_epoch)
    if total_steps is None:
        raise ConfigError(
            f"optim.infinite.cooldown_end={phases.cooldown_end} is a fraction of the run, and "
            "trainer.epochs=null has no end; give optim.infinite.cooldown_end_epochs, the epoch."
        )
    return int(phases.cooldown_end * total_steps)


def _stretched(number: int, stretch: float) -> int:
    """Product rounded down as POA's code does, but 300 = int(301 * (300 / 301))."""
    return int(number * stretch + 1e-6)
