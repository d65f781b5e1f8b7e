"""Schedules: step -> float, pure and stateless.

A step counts optimizer updates from 0. Official codes differ in where a warm-up ends, and training
step by step equals theirs only if that is kept:

* Barlow Twins and MAE: `peak * step / warmup_steps`, so the peak is first used at `warmup_steps`.
* DINO and DINOv2: `numpy.linspace(0, peak, warmup_steps)`, so the peak is already used one step
  earlier, and then again.
* Point-MAE and SMMix (timm's scheduler): per epoch, see `timm_cosine`.
"""

import math
from typing import Literal

LrScaling = Literal["linear", "sqrt", "none"]
Cooldown = Literal["cosine", "linear", "inverse_sqrt"]


def scaled_lr(base_lr: float, *, rule: LrScaling, batch_size: int, reference_batch: int) -> float:
    """Learning rate for a batch size.

    Args:
        base_lr: Rate at the reference batch size.
        rule: `linear` base * B / reference (Goyal et al. 2017), `sqrt` base * sqrt(B / reference),
            `none` base.
        batch_size: Samples per optimizer update, over all processes.
        reference_batch: Batch size the base rate is stated for; 256 in most papers.
    """
    if rule == "none":
        return base_lr
    ratio = batch_size / reference_batch
    return base_lr * (ratio if rule == "linear" else math.sqrt(ratio))


def cosine(step: int, *, start: float, end: float, total_steps: int) -> float:
    """Half a cosine from `start` at step 0 to `end` at `total_steps`, `end` from there on.

    A run of `total_steps` updates (steps 0 to total_steps - 1) approaches `end` and never uses it.
    """
    if step >= total_steps:
        return end
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * step / total_steps))


def linear(step: int, *, start: float, end: float, total_steps: int) -> float:
    """A line from `start` at step 0 to `end` at `total_steps`, `end` from there on."""
    if step >= total_steps:
        return end
    return start + (end - start) * step / total_steps


def exponential(step: int, *, start: float, end: float, total_steps: int) -> float:
    """From `start` at step 0 to `end` at `total_steps` by equal factors, `end` from there on.

    Args:
        step: Update, from 0.
        start: Above 0.
        end: Above 0.
        total_steps: Length.
    """
    return start * (end / start) ** min(step / total_steps, 1.0)


def warmup(
    step: int, *, start: float, peak: float, warmup_steps: int, is_peak_included: bool
) -> float:
    """Rising line of a warm-up, for steps below `warmup_steps`.

    Args:
        step: Update, from 0.
        start: Value at step 0.
        peak: Value the line aims at.
        warmup_steps: Length of the warm-up.
        is_peak_included: Whether the last warm-up step has the peak already (DINO) or the first
            step after the warm-up does (Barlow Twins, MAE).
    """
    intervals = warmup_steps - 1 if is_peak_included else warmup_steps
    # numpy.linspace of one point gives the start.
    return start + (peak - start) * step / intervals if intervals else start


def warmup_cosine(
    step: int,
    *,
    start: float,
    peak: float,
    end: float,
    warmup_steps: int,
    total_steps: int,
    is_peak_included: bool,
) -> float:
    """Warm-up, then half a cosine over the steps that are left."""
    if step < warmup_steps:
        return warmup(
            step,
            start=start,
            peak=peak,
            warmup_steps=warmup_steps,
            is_peak_included=is_peak_included,
        )
    return cosine(
        step - warmup_steps, start=peak, end=end, total_steps=max(total_steps - warmup_steps, 1)
    )


def ramp(index: int, *, start: float, end: float, num: int) -> float:
    """`numpy.linspace(start, end, num)[index]`, and `end` after that.

    The teacher temperature of DINO, by epoch: `end` is reached in epoch num - 1.
    """
    if index >= num - 1:
        return start if num == 1 and index == 0 else end
    return start + index * ((end - start) / (num - 1))


def timm_cosine(
    epoch: int,
    *,
    start: float,
    peak: float,
    end: float,
    warmup_epochs: int,
    total_epochs: int,
) -> float:
    """Rate of an epoch as Point-MAE and SMMix train: timm's scheduler, stepped after each epoch.

    The scheduler is stepped with the epoch just finished, so epochs 0 and 1 share the first value
    and every later epoch lags by one. The cosine is not shifted by the warm-up: the warm-up aims
    at the peak, but the curve is entered at position `warmup_epochs`, slightly below it.
    """
    position = max(epoch - 1, 0)
    if position < warmup_epochs:
        return start + position * ((peak - start) / warmup_epochs)
    return cosine(position, start=peak, end=end, total_steps=total_epochs)


def infinite(
    step: int,
    *,
    start: float,
    peak: float,
    constant: float,
    end: float,
    warmup_steps: int,
    cooldown_end: int,
    anneal_start: int | None,
    anneal_end: int,
    cooldown: Cooldown = "cosine",
) -> float:
    """Warm-up, cool-down to a constant, and an annealing that can be called for at any time.

    The schedule of "Beyond Cosine Decay" (Singh et al. 2025) for continual pre-training: the
    constant phase has no horizon, so a run can go on; an annealed branch is for evaluation.

    Args:
        step: Update, from 0.
        start: Value at step 0.
        peak: Value at `warmup_steps`.
        constant: Value from `cooldown_end` on.
        end: Value at `anneal_end`, approached exponentially; must be above 0.
        warmup_steps: Step the warm-up ends; 0 with `cooldown_end` 0 starts at the constant, as
            every task after the first does.
        cooldown_end: Step the cool-down ends (a position, not a length).
        anneal_start: Step the annealing starts; None while nobody has called for it.
        anneal_end: Step the annealing reaches `end`; ignored without `anneal_start`.
        cooldown: Shape between `warmup_steps` and `cooldown_end`; `inverse_sqrt` falls as
            1 / sqrt(1 + 10 t).
    """
    if step < warmup_steps:
        return start + (peak - start) * step / warmup_steps
    if step < cooldown_end:
        progress = (step - warmup_steps) / (cooldown_end - warmup_steps)
        return peak + (constant - peak) * _cooled(progress, cooldown)
    if anneal_start is None or step <= anneal_start:
        return constant
    return exponential(
        step - anneal_start, start=constant, end=end, total_steps=anneal_end - anneal_start
    )


def _cooled(progress: float, shape: Cooldown) -> float:
    """Fraction of the cool-down done, 0 to 1."""
    if shape == "linear":
        return progress
    if shape == "cosine":
        return 0.5 * (1 - math.cos(math.pi * progress))
    timescale = 10.0
    return (1 - 1 / math.sqrt(1 + timescale * progress)) / (1 - 1 / math.sqrt(1 + timescale))
