"""Settings of an evaluation: the common ones, and the sections that the tasks own."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from ssl_vision.config import EvalConfig, Sections, load_eval_config, make_eval_config
from ssl_vision.tasks import TASKS

SECTIONS = Sections(
    kinds={name: kind for task in TASKS.values() for name, kind in task.settings.items()},
    presets={name: table for task in TASKS.values() for name, table in task.presets.items()},
)


def load_settings(paths: Sequence[str | Path], overrides: Sequence[str] = ()) -> EvalConfig:
    """`config.load_eval_config` with the sections of all tasks."""
    return load_eval_config(paths, overrides, sections=SECTIONS)


def make_settings(values: Mapping[str, object]) -> EvalConfig:
    """`config.make_eval_config` with the sections of all tasks."""
    return make_eval_config(values, sections=SECTIONS)
