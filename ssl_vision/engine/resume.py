"""Whether a run may go on from what its folder holds, and what changed since."""

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml

from ssl_vision.config import TrainConfig, to_yaml, upgraded
from ssl_vision.engine.checkpoint import list_checkpoints, remove_temporaries
from ssl_vision.engine.run_dir import RunFolder
from ssl_vision.errors import CheckpointError, ConfigError

# Another value of these makes another model, or another order of the data: refused.
_FIXED = ("init_from", "method.name", "backbone.name", "backbone.args", "backbone.in_chans", "seed",
          "data.global_batch_size")  # fmt: skip
# Where and how a run runs does not matter to what it computes: not worth a line.
_MACHINE = ("run_dir", "resume", "loggers", "data.num_threads", "data.download",
            "trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy",
            "trainer.log_every_steps", "trainer.keep_checkpoints",
            "trainer.checkpoint_every_epochs", "trainer.checkpoint_every_steps")  # fmt: skip
_ABSENT = "(absent)"
_MAX_SHOWN = 3  # refused changes in a message


RUN_FILES = ("checkpoints", "metrics.jsonl", "speed.jsonl", "nonfinite.jsonl", "config.yaml",
          "environment.json", "start.json", "unreadable.json", "report.html", "report.md",
          "export", "export_best", "best.json", "classification", "evaluation", "reproduction",
          "extract.json", "tensorboard", "wandb")  # fmt: skip


def has_run_to_resume(folder: RunFolder, config: TrainConfig) -> bool:
    """Decide between resuming and starting; nothing that a run left is touched.

    Returns:
        Whether checkpoints are there to resume from (complete or not).

    Raises:
        CheckpointError: `resume=must` without a checkpoint.
        ConfigError: The checkpoints are of a run that this configuration cannot continue.
    """
    remove_temporaries(folder.checkpoints)
    has_checkpoints = bool(list_checkpoints(folder.checkpoints))
    if config.resume == "must" and not has_checkpoints:
        raise CheckpointError(
            f"resume=must, but {folder.checkpoints} holds no checkpoint; check run_dir, or start "
            "with resume=auto."
        )
    return config.resume != "never" and has_checkpoints


def set_aside(folder: Path) -> Path | None:
    """Move the files of an earlier run into `previous/N/`, which is returned; nothing is lost."""
    earlier = [folder / name for name in RUN_FILES if (folder / name).exists()]
    if not earlier:
        return None
    taken = [int(p.name) for p in (folder / "previous").glob("*") if p.name.isdecimal()]
    number = 1 + max(taken, default=0)
    target = folder / "previous" / str(number)
    target.mkdir(parents=True)
    for path in earlier:
        shutil.move(path, target / path.name)
    sys.stderr.write(f"files of the earlier run in {folder} are now in {target}\n")
    return target


def config_changes(saved: str, config: TrainConfig) -> dict[str, tuple[object, object]]:
    """Full key -> (value in the checkpoint, value now), without what only concerns the machine."""
    old = flat_settings(upgraded(_mapping(saved), type(config.data)))
    new = flat_settings(yaml.safe_load(to_yaml(config)))
    return {
        key: (old.get(key, _ABSENT), new.get(key, _ABSENT))
        for key in sorted(old.keys() | new.keys())
        if old.get(key, _ABSENT) != new.get(key, _ABSENT) and not _is_under(key, _MACHINE)
    }


def _mapping(saved: str) -> dict[str, Any]:
    try:
        found = yaml.safe_load(saved)
    except (yaml.YAMLError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise CheckpointError(
            "the settings saved with the run (config.yaml) are damaged, so nobody can tell whether "
            "it is the same run; put the file back, or begin anew with resume=never."
        )
    return found


def check_changes(changes: Mapping[str, tuple[object, object]], *, run_dir: Path) -> None:
    """Raise ConfigError if a change makes it another run; the message shows all such changes."""
    # In the order of _FIXED: what tells two runs apart comes first.
    refused = {
        key: values for root in _FIXED for key, values in changes.items() if _is_under(key, (root,))
    }
    if refused:
        raise ConfigError(
            f"run_dir={run_dir} holds a run with {describe_changes(refused, was=True)}; set it "
            "back, choose another run_dir, or start anew with resume=never."
        )


def check_data(saved: str, now: str, *, policy: Literal["refuse", "allow"], path: str) -> None:
    """Raise ConfigError if the data set is not the one the run began with."""
    if saved and now and saved != now and policy == "refuse":
        raise ConfigError(
            f"data.path={path} holds other data than the run began with (fingerprint {now}, was "
            f"{saved}); restore it, choose another run_dir, or set trainer.on_data_change=allow."
        )


def describe_changes(changes: Mapping[str, tuple[object, object]], *, was: bool = False) -> str:
    """`key=old (now new)` for each change."""
    if was:
        shown = [f"{k}={_show(o)} (now {_show(n)})" for k, (o, n) in changes.items()]
        more = f" and {len(shown) - _MAX_SHOWN} more" if len(shown) > _MAX_SHOWN else ""
        return ", ".join(shown[:_MAX_SHOWN]) + more
    return ", ".join(f"{k}: {_show(o)} -> {_show(n)}" for k, (o, n) in changes.items())


def flat_settings(tree: object, prefix: str = "") -> dict[str, object]:
    """Nested settings by their full keys; empty mappings and lists are values."""
    if not isinstance(tree, dict) or not tree:
        return {prefix: tree}
    items: dict[str, object] = {}
    for key, value in tree.items():
        items |= flat_settings(value, f"{prefix}.{key}" if prefix else str(key))
    return items


def _is_under(key: str, roots: tuple[str, ...]) -> bool:
    return any(key == root or key.startswith(f"{root}.") for root in roots)


def _show(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
