"""The settings of a run, read back from its folder; what is left of a damaged file is not used."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from ssl_vision.config import TrainConfig, load_train_config
from ssl_vision.errors import CheckpointError
from ssl_vision.files import plain_text

NAME = "config.yaml"
_BESIDE = ("checkpoints", "metrics.jsonl", "export")  # one of which each run folder has
_SECTIONS = ("method", "backbone", "data", "optim", "trainer", "online_eval")  # mappings
# What every version wrote, in this order: the last one is missing where the end is.
_WRITTEN = (*_SECTIONS, "seed", "run_dir", "resume", "init_from", "loggers")


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run; a config.yaml alone may be of another program."""
    return (folder / NAME).is_file() and any((folder / name).exists() for name in _BESIDE)


_WAY_OUT = "put the file back. Weights alone need it not: name the export/ beside it"


def run_settings(folder: Path, *, way_out: str = _WAY_OUT) -> dict[str, Any]:
    """The settings that a run was saved with, as nested YAML values, of any version.

    Args:
        folder: Of the run.
        way_out: What to do about a damaged file.

    Raises:
        CheckpointError: config.yaml is missing, damaged, or cut short: runs write every setting,
            and a file that ends early is YAML still, which would be completed by defaults.
    """
    path = folder / NAME

    def damaged(reason: str) -> CheckpointError:
        return CheckpointError(f"{path} is damaged ({reason}); {way_out}.")

    try:
        content = yaml.safe_load(plain_text(path))
    except FileNotFoundError:
        raise CheckpointError(f"{folder} is no run folder: it has no {NAME}.") from None
    except OSError as error:
        raise damaged(str(error.strerror or error)) from error
    except yaml.MarkedYAMLError as error:
        line = 0 if error.problem_mark is None else error.problem_mark.line + 1
        raise damaged(f"line {line}: {error.problem}") from error
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise damaged((str(error).splitlines() or [type(error).__name__])[0]) from error
    if not isinstance(content, dict):
        raise damaged("it holds no settings")
    if lacking := [name for name in _WRITTEN if name not in content]:
        raise damaged(f"it lacks {', '.join(lacking)}, cut short?")
    for name in _SECTIONS:
        if not isinstance(content[name], dict):
            raise damaged(f"{name} holds no settings")
    return content


def load_run_config(folder: Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """The configuration a run was saved with.

    Args:
        folder: Of the run.
        overrides: `key=value`, applied last.

    Raises:
        CheckpointError: As of `run_settings`.
        ConfigError: A setting or an override is not understood.
    """
    run_settings(folder)
    return load_train_config([folder / NAME], overrides)
