"""An annealed branch of a run: weights for use, while the run goes on from where it was.

The other half of the infinite rate (Singh et al. 2025, "Beyond Cosine Decay"): a constant rate has
no horizon, and features get better when it falls. So the fall happens beside the run, in a folder
of its own, and the run, its weights and its moments, is left as it is. The authors' code goes on
with the optimizer of the annealed branch; here the run keeps its own.
"""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ssl_vision.config import TrainConfig, as_run_dir, to_yaml
from ssl_vision.engine.checkpoint import Checkpoint, checkpoint_path, newest_complete
from ssl_vision.engine.run_dir import RunFolder
from ssl_vision.engine.saved_config import NAME, load_run_config
from ssl_vision.engine.start_weights import RECORD
from ssl_vision.engine.strategy import build_fabric
from ssl_vision.engine.train import Handed, RunResult, train
from ssl_vision.errors import CheckpointError, ConfigError
from ssl_vision.files import check_output, write_atomically
from ssl_vision.optim.recipe import AnnealConfig

_SHARE = 4  # a branch is a quarter as long as the run before it: the authors' last fifth
_WAIT_S, _LOOK_S = 120.0, 0.2  # for the main process, and how often
_TAKEN = ("metrics.jsonl", RECORD)  # of the run, which the branch goes on from


def anneal(
    run: Path,
    out: Path | None = None,
    *,
    steps: int | None = None,
    overrides: Sequence[str] = (),
    handed: Handed | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> RunResult:
    """Train a branch of a run whose rate falls to its end; the run is only read.

    The same call resumes a branch that was stopped.

    Args:
        run: Its folder; it may be under way.
        out: Of the branch; beside the run by default.
        steps: Updates; by default a quarter of those that the run has done.
        overrides: `key=value`, of where and how the branch runs.
        handed: Objects of a program.
        say: Is told what is begun.

    Raises:
        CheckpointError: The run has no complete checkpoint, or it vanished.
        ConfigError: Its rate cannot fall any more, it is a branch itself, or `out` is in use.
    """
    run = run if run.name else run.resolve()
    config = load_run_config(run, overrides)
    if config.optim.anneal.start_step is not None:
        raise ConfigError(
            f"{run} is an annealed branch itself (optim.anneal.start_step="
            f"{config.optim.anneal.start_step}); anneal the run that it came from."
        )
    fabric = build_fabric(config)
    if fabric.world_size > 1 and out is None:
        raise ConfigError(
            f"trainer.devices={fabric.world_size} processes have to agree on where the branch is; "
            "name its folder: ssl-vision anneal RUN OUT."
        )
    if out is not None and not fabric.is_global_zero:
        return train(_of_main_process(out), handed=handed)
    start = newest_complete(RunFolder(run).checkpoints, warn=say)
    if start is None:
        raise CheckpointError(f"{run} has no complete checkpoint to branch off from.")
    out = out or run.with_name(f"{run.name}_annealed_{start.step}")
    check_output(out, key="OUT", data=(config.data.path, config.data.val_path))
    begun = _begun(out, steps=steps)
    if begun is not None:
        say(f"{out} was begun before and goes on")
        return train(begun, handed=handed)
    branch = _branch(config, out, start, steps=steps)
    more = branch.optim.anneal.steps
    say(f"{out} branches off from {run} after update {start.step}: {more} updates more")
    _copy(run, start, out, branch)
    try:
        return train(branch, handed=handed)
    except ConfigError:  # before an update: nothing is worth keeping
        shutil.rmtree(out, ignore_errors=True)
        raise


def _branch(config: TrainConfig, out: Path, start: Checkpoint, *, steps: int | None) -> TrainConfig:
    """The run's configuration, with a rate that falls from its checkpoint on."""
    length = max(1, start.step // _SHARE) if steps is None else steps
    return replace(
        config,
        run_dir=as_run_dir(out),
        resume="must",
        optim=replace(config.optim, anneal=AnnealConfig(start_step=start.step, steps=length)),
        trainer=replace(config.trainer, max_steps=None),
    )


def _of_main_process(out: Path) -> TrainConfig:
    """The configuration that the main process writes last of what it prepares.

    Raises:
        CheckpointError: It does not.
    """
    for _ in range(round(_WAIT_S / _LOOK_S)):
        if (out / NAME).is_file():
            return load_run_config(out)
        time.sleep(_LOOK_S)
    raise CheckpointError(f"{out}/{NAME} is not there after {_WAIT_S:g} s; see the main process.")


def _begun(out: Path, *, steps: int | None) -> TrainConfig | None:
    """The configuration of a branch that was begun in this folder; None where it is free.

    Raises:
        ConfigError: Something else is there, or a branch of another length.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    config = load_run_config(out) if (out / NAME).is_file() else None
    if config is None or config.optim.anneal.start_step is None:
        raise ConfigError(f"OUT={out} is in use and no annealed branch; give another folder.")
    if steps not in (None, config.optim.anneal.steps):
        raise ConfigError(
            f"steps={steps}: {out} holds a branch of {config.optim.anneal.steps} updates; give "
            "another OUT."
        )
    return config


def _copy(run: Path, start: Checkpoint, out: Path, config: TrainConfig) -> None:
    """Begin the branch's folder: checkpoint and records of the run, and its own settings.

    Raises:
        CheckpointError: It cannot be copied; nothing is left of it then.
    """
    try:
        shutil.copytree(start.path, checkpoint_path(RunFolder(out).checkpoints, start.step))
        for name in _TAKEN:
            if (run / name).is_file():
                shutil.copyfile(run / name, out / name)
        write_atomically(out / NAME, to_yaml(config))
    except (OSError, shutil.Error) as error:
        shutil.rmtree(out, ignore_errors=True)
        raise CheckpointError(
            f"{start.path} cannot be copied to {out} ({error}); where {run} goes on, it may have "
            "removed it meanwhile: try again."
        ) from error
