"""What a run is going to do: a table at its start, and how long it will take once that is known."""

import resource
import sys
import time
from collections.abc import Sequence

import torch
from rich.table import Table
from rich.text import Text

from ssl_vision.distributed import world_size
from ssl_vision.engine.metrics import duration
from ssl_vision.engine.run import Run
from ssl_vision.engine.watchers import Update
from ssl_vision.methods.base import Method
from ssl_vision.optim.recipe import peak_lr
from ssl_vision.recipes import recipe_names

_AFTER_S = 60.0  # of updates, before the time they take is judged
LONG_S = 2 * 24 * 3600.0  # a run longer than this is worth a warning
_BYTES = {"adamw": 16, "lars": 12, "sgd": 12}  # per parameter: weight, gradient, moments


def plan_table(run: Run, method: Method, *, num_images: int, device: str) -> Table:
    """What will happen, before the first update.

    Args:
        run: The run.
        method: Its method.
        num_images: Training samples.
        device: Its name.
    """
    rows = plan_rows(run, method, num_images=num_images, device=device)
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in rows:
        table.add_row(Text(name, style="bold"), Text(value, overflow="fold"))
    return table


def plan_rows(
    run: Run, method: Method, *, num_images: int, device: str
) -> Sequence[tuple[str, str]]:
    """Rows of `plan_table`: what, and how much."""
    config, plan = run.config, method.plan
    trained = sum(p.numel() for _, p in method.trainable_parameters())
    whole = sum(p.numel() for p in method.parameters())
    gib = (trained * _BYTES.get(config.optim.name, 16) + 4 * (whole - trained)) / 2**30
    batches = f"{plan.global_batch_size} samples each"
    if world_size() * config.trainer.accumulate > 1:
        batches += f" ({world_size()} process(es) x {config.trainer.accumulate} batch(es))"
    length = f"epochs of {plan.steps_per_epoch:,}" + (
        "" if run.has_end else ", until it is stopped"
    )
    if plan.total_steps is not None:
        length = f"{plan.total_steps:,}: {plan.epochs} epochs of {plan.steps_per_epoch:,}"
    if run.has_end and run.stop_step != plan.total_steps:
        length += f", ends after {run.stop_step:,}"
    left_out = num_images - plan.steps_per_epoch * plan.global_batch_size
    images = f"{num_images:,} on {config.data.path}"
    if left_out > 0:
        images += f"; {left_out:,} of them, others each time, sit out of an epoch"
    return (
        ("method", f"{config.method.name}, {trained / 1e6:.1f} M trainable parameters"),
        ("network", f"{_network(run, method)}, input {plan.input_size}"),
        ("samples", images),
        ("updates", f"{length}; {batches}"),
        (
            "optimizer",
            f"{config.optim.name}, peak lr {peak_lr(config.optim, plan=plan):.3g}, "
            f"{config.trainer.precision}",
        ),
        ("device", device),
        ("memory", f"{gib:.2f} GiB of weights and optimizer, activations beside them"),
        ("run folder", str(run.folder.path)),
        ("time", "said after the first minute; Ctrl-C saves and leaves, the same line goes on"),
    )


def _network(run: Run, method: Method) -> str:
    """Its name, what makes it another than the one of that name, and what it will give."""
    args = ", ".join(f"{key}={value}" for key, value in run.config.backbone.args.items())
    changed = f" changed to {args}" if args else ""
    return f"{run.config.backbone.name}{changed}: {method.backbone.width} features"


class Forecast:
    """Says once how long an epoch and the run will take, and warns where that is days."""

    def __init__(self) -> None:
        self._started: float | None = None
        self._began: tuple[float, int] | None = None
        self._is_said = False

    def start(self) -> None:
        """Begin timing."""
        self._started = time.perf_counter()

    def after_update(self, run: Run, method: Method, update: Update) -> None:
        """Judge by the updates after the first, which warms up; by it, too, if it is that slow."""
        if self._is_said:
            return
        now = time.perf_counter()
        if self._began is None:
            if self._started is None or now - self._started < _AFTER_S:
                self._began = (now, method.step)
                return
            self._began = (self._started, method.step - 1)
        seconds, done = now - self._began[0], method.step - self._began[1]
        if seconds < _AFTER_S or done < 1:
            return
        self._is_said = True
        each = seconds / done
        epoch, left = each * method.plan.steps_per_epoch, each * (run.stop_step - method.step)
        end = f", {duration(left)} to the end" if run.has_end else ""
        run.say(
            f"{each:.2g} s per update: {duration(epoch)} per epoch{end}; "
            f"memory so far {memory_gib(method.device):.1f} GiB"
        )
        if run.has_end and left > LONG_S:
            run.warn(long_run_advice(run.config.method.name, left, device=method.device))


def memory_gib(device: torch.device) -> float:
    """Most memory this process had so far: of the GPU, or of the machine on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def long_run_advice(method: str, seconds: float, *, device: torch.device) -> str:
    """A warning that names the recipe that would fit."""
    fitting = f"{method}/{'tiny_cpu' if device.type == 'cpu' else 'small'}"
    is_there = fitting in recipe_names()
    use = f"{fitting} is made for it" if is_there else "take a smaller network or fewer epochs"
    return (
        f"at this rate the run takes {duration(seconds)} on this machine ({device.type}); {use}, "
        "or lower trainer.epochs. Ctrl-C saves and leaves."
    )
