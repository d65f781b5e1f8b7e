"""The examples run, shortened."""

import csv
import importlib
import importlib.util
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
_SHORT = {"trainer.epochs": 1, "trainer.max_steps": 3, "is_quiet": True}


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    yield importlib.import_module
    for name in [path.stem for path in EXAMPLES.glob("*.py")]:
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", ["own_dataset", "hugging_face", "own_network"])
def test_runs(example: Any, tmp_path: Path, name: str) -> None:
    scores = example(name).main(str(tmp_path / "run"), **_SHORT)
    assert 0 < scores["knn_top1"] <= 1
    assert (tmp_path / "run" / "report.html").exists()


def test_loops(example: Any) -> None:
    assert math.isfinite(example("own_loop").main(epochs=2, max_steps=2))
    assert example("lightning_trainer").main(max_steps=2, accelerator="cpu", devices=1,
                                             enable_progress_bar=False) == 2  # fmt: skip


def test_a_classifier_is_tuned_and_deployed(example: Any, tmp_path: Path) -> None:
    short = _SHORT | {"optim.warmup_epochs": 0}
    assert 0 <= example("fine_tune").main(str(tmp_path), **short) <= 1
    config = json.loads((tmp_path / "deploy" / "config.json").read_text())
    assert config["label_names"] == [str(i) for i in range(10)]
    with (tmp_path / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 300
    assert {row["class"] for row in rows} <= set(config["label_names"])


def test_a_size_is_chosen_by_a_budget(example: Any, tmp_path: Path) -> None:
    num = example("poa_by_budget").main(str(tmp_path / "run"), 100_000, **_SHORT)
    assert 0 < num <= 100_000


def test_copies_are_found(example: Any, tmp_path: Path) -> None:
    groups = example("similar_images").main(str(tmp_path), **_SHORT)
    for pair in ({"007.png", "copy_7.png"}, {"008.png", "copy_8.jpg"}):
        assert any(pair <= group for group in groups)


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """Environment of a job on one node, whose srun starts one process and scontrol takes notes."""
    tools = tmp_path / "bin"
    tools.mkdir()
    one = "SLURM_NTASKS=1 SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NODEID=0 SLURM_STEP_ID=0"
    for name, script in {
        "srun": f'export {one} SLURM_STEP_NODELIST=localhost\nexec "$@"',
        "scontrol": f'echo "$@" >> {tmp_path}/scontrol.txt',
        "python": f'exec {sys.executable} "$@"',
    }.items():
        (tools / name).write_text(f"#!/bin/bash\n{script}\n")
        (tools / name).chmod(0o755)
    job = {"SLURM_JOB_ID": "71", "SLURM_JOB_NUM_NODES": "1", "SLURM_NTASKS_PER_NODE": "1"}
    paths = {"PATH": f"{tools}:{os.environ['PATH']}", "PYTHONPATH": str(EXAMPLES.parent)}
    return os.environ | job | paths | {"RUN_DIR": str(tmp_path / "run")}


@pytest.mark.slow
def test_a_job_of_slurm_saves_is_queued_again_and_goes_on(
    slurm: dict[str, str], tmp_path: Path
) -> None:
    words, log = ["bash", "examples/resume_on_slurm.sbatch"], tmp_path / "run" / "metrics.jsonl"
    with subprocess.Popen(
        words, cwd=EXAMPLES.parent, env=slurm, stderr=subprocess.PIPE, text=True
    ) as job:
        until = time.monotonic() + 120
        while not log.exists() or '"train/loss"' not in log.read_text():
            assert job.poll() is None, job.stderr.read()
            assert time.monotonic() < until
            time.sleep(0.1)
        job.send_signal(signal.SIGUSR1)  # as `#SBATCH --signal=USR1@120` has it sent
        errors = job.communicate(timeout=60)[1]
    assert job.returncode == 128 + signal.SIGUSR1, errors
    assert "SLURM job 71 is requeued" in errors
    assert (tmp_path / "scontrol.txt").read_text() == "requeue 71\n"
    stopped = int(errors.split("after update ")[1].split(";")[0])
    assert 0 < stopped < 690
    again = subprocess.Popen(
        words, cwd=EXAMPLES.parent, env=slurm, stdout=subprocess.PIPE, text=True
    )
    line = next(each for each in again.stdout if "resuming" in each)
    again.send_signal(signal.SIGTERM)
    again.communicate(timeout=60)
    assert f"after update {stopped} of " in line


def test_the_job_asks_slurm_for_what_the_run_needs() -> None:
    text = (EXAMPLES / "resume_on_slurm.sbatch").read_text()
    asked = [line.split()[1] for line in text.splitlines() if line.startswith("#SBATCH ")]
    assert {"--signal=USR1@120", "--requeue", "--open-mode=append"} <= set(asked)
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0


def test_examples_are_short() -> None:
    for path in EXAMPLES.glob("[!_]*.py"):
        assert 20 <= len(path.read_text().splitlines()) <= 60, path.name


def test_every_example_is_listed_and_shipped() -> None:
    text = (EXAMPLES / "README.md").read_text()
    for path in EXAMPLES.iterdir():
        if path.name not in ("README.md", "__pycache__"):
            assert f"`{path.name}`" in text, path.name
    assert '"/examples"' in (EXAMPLES.parent / "pyproject.toml").read_text()
