"""The record of a run: what is written, remembered, and handed to loggers."""

import io
import json
from types import SimpleNamespace

from rich.console import Console

from ssl_vision.engine.run import Run
from ssl_vision.engine.run_dir import RunFolder


def make_run(folder, *, is_main=True):
    logged = []
    fabric = SimpleNamespace(log_dict=lambda values, step: logged.append((step, dict(values))))
    return Run(
        config=None, folder=RunFolder(folder), stream=None, fabric=fabric,
        console=Console(file=io.StringIO(), width=200), is_main=is_main,
    ), logged  # fmt: skip


def test_what_is_recorded_is_written_remembered_and_logged_as_numbers(tmp_path):
    run, logged = make_run(tmp_path)
    run.record(3, {"train/loss": 1.5, "eval/verdict": "healthy"})
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line) == {"step": 3, "train/loss": 1.5, "eval/verdict": "healthy"}
    assert run.metrics == {"train/loss": 1.5}
    assert logged == [(3, {"train/loss": 1.5})]


def test_other_processes_remember_and_stay_silent(tmp_path):
    run, logged = make_run(tmp_path, is_main=False)
    run.record(3, {"train/loss": 1.5})
    run.warn("something")
    assert run.metrics == {"train/loss": 1.5}
    assert not (tmp_path / "metrics.jsonl").exists()
    assert not logged
    assert run.console.file.getvalue() == ""


def test_an_interrupted_run_is_recalled_up_to_its_step(tmp_path):
    first, _ = make_run(tmp_path)
    first.record(0, {"eval/feature_std": 0.5})
    first.record(1, {"train/loss": float("nan")})
    first.record(2, {"train/loss": 9.0})
    run, _ = make_run(tmp_path)
    run.recall(1)
    assert run.start == {"feature_std": 0.5}
    assert run.metrics["train/loss"] != run.metrics["train/loss"]  # null is NaN again
