"""What goes wrong outside the method: each a clear line, the right exit code, nothing lost."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from ssl_vision.config import to_yaml
from ssl_vision.engine import checkpoint as store
from ssl_vision.engine.checkpoint import list_checkpoints, newest_complete
from ssl_vision.engine.preemption import requeue
from ssl_vision.engine.train import train
from ssl_vision.errors import CheckpointError, ConfigError, DataError, DeviceMemoryError
from ssl_vision.methods.barlow_twins import BarlowTwins

SHORT = ("trainer.max_steps=4", "trainer.checkpoint_every_steps=2")


def silent(message: str) -> None:
    pass


def fail_at(monkeypatch, update, error):
    original = BarlowTwins.compute_loss

    def compute_loss(self, batch):
        if self.step + 1 == update:
            raise error
        return original(self, batch)

    monkeypatch.setattr(BarlowTwins, "compute_loss", compute_loss)


def test_out_of_memory_says_what_to_lower_and_keeps_the_checkpoint(recipe, monkeypatch):
    fail_at(monkeypatch, 3, torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"))
    config = recipe("barlow_twins", *SHORT)
    with pytest.raises(DeviceMemoryError) as caught:
        train(config)
    message = str(caught.value)
    views = "data.views.a of 1 x 16 px, data.views.b of 1 x 16 px"
    assert f"update 2: 256 samples per process, {views}, precision 32" in message
    ways = message[message.index("In this order") :]
    places = [
        ways.index(w)
        for w in (
            "accumulate=2",
            "precision=bf16",
            "is_checkpointed",
            "data.views.a.size_px",
            "data.views.b.size_px",
            "data.global_batch_size",
        )
    ]
    assert places == sorted(places)
    assert caught.value.exit_code == 70
    found = newest_complete(config.run_path / "checkpoints", warn=silent)
    assert found is not None
    assert found.step == 2


def test_a_full_disk_stops_the_run_with_the_previous_checkpoint(recipe, monkeypatch):
    original = store._write_state

    def full(path, state):
        if state["step"] > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(path, state)

    monkeypatch.setattr(store, "_write_state", full)
    config = recipe("barlow_twins", *SHORT)
    with pytest.raises(CheckpointError, match=r"No space left.*MB free.*resume=auto"):
        train(config)
    found = newest_complete(config.run_path / "checkpoints", warn=silent)
    assert found is not None
    assert found.step == 2
    monkeypatch.setattr(store, "_write_state", original)
    assert train(config).steps == 4


def test_an_error_of_the_data_ends_the_run_and_leaves_no_thread(recipe, monkeypatch):
    import threading

    from ssl_vision.data.images.loader import MultiViewLoader

    def broken(self, *args):
        raise DataError("sample 7 cannot be read")

    monkeypatch.setattr(MultiViewLoader, "_render", broken)
    with pytest.raises(DataError, match="sample 7"):
        train(recipe("barlow_twins"))
    time.sleep(0.05)
    assert not [t for t in threading.enumerate() if t.name.startswith("ssl-vision-loader")]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("backbone.args.depth=3", r"backbone\.args\.depth=2 \(now 3\)"),
        ("seed=5", r"seed=0 \(now 5\)"),
        ("data.global_batch_size=64", r"global_batch_size=256 \(now 64\)"),
    ],
)
def test_another_run_is_not_continued(recipe, override, words):
    train(recipe("barlow_twins", "trainer.max_steps=1"))
    with pytest.raises(ConfigError, match=words):
        train(recipe("barlow_twins", override))
    with pytest.raises(ConfigError, match=r"method.name=barlow_twins \(now mae\)"):
        train(recipe("mae"))


def test_changed_settings_are_shown_and_longer_runs_go_on(recipe, capsys):
    train(recipe("barlow_twins", "trainer.epochs=1"))
    again = train(recipe("barlow_twins", "trainer.epochs=1"))
    assert again.steps == 5  # complete: nothing is trained, the export is written again
    capsys.readouterr()
    result = train(recipe("barlow_twins", "trainer.epochs=2", "optim.base_lr=2e-3"))
    shown = capsys.readouterr().out
    assert result.steps == 10
    assert "after update 5 of 10" in shown
    assert "optim.base_lr: 0.001 -> 0.002" in shown
    assert "trainer.epochs: 1 -> 2" in shown


def test_other_data_is_refused_unless_allowed(recipe):
    train(recipe("barlow_twins", "trainer.max_steps=1"))
    other = ("data.train_fraction=0.9", "trainer.max_steps=2")
    with pytest.raises(ConfigError, match=r"other data.*content-1:.*on_data_change=allow"):
        train(recipe("barlow_twins", *other))
    assert train(recipe("barlow_twins", *other, "trainer.on_data_change=allow")).steps == 2


def test_resume_must_and_never_mean_it(recipe):
    with pytest.raises(CheckpointError, match=r"resume=must, but .* holds no checkpoint"):
        train(recipe("barlow_twins", "resume=must"))
    train(recipe("barlow_twins", "trainer.max_steps=1"))
    config = recipe("barlow_twins", "trainer.max_steps=2", "resume=never")
    before = {p.name for p in config.run_path.iterdir()} - {".lock"}
    (config.run_path / "evaluation").mkdir()
    (config.run_path / "notes.txt").write_text("mine")  # of the user: stays
    train(config)
    moved = {p.name for p in (config.run_path / "previous" / "1").iterdir()}
    assert moved == before | {"evaluation"}
    assert (config.run_path / "notes.txt").read_text() == "mine"
    assert (config.run_path / "previous" / "1" / "checkpoints" / "step_000001").is_dir()
    assert [c.step for c in list_checkpoints(config.run_path / "checkpoints")] == [2]
    (config.run_path / "previous" / "7").mkdir()
    train(config)  # the next free number is taken, nothing is put into what is there
    assert sorted(p.name for p in (config.run_path / "previous").iterdir()) == ["1", "7", "8"]


def test_a_spoilt_newest_checkpoint_falls_back_to_the_one_before(recipe, capsys):
    config = recipe("barlow_twins", *SHORT)
    train(config)
    newest = list_checkpoints(config.run_path / "checkpoints")[-1]
    (newest.path / "state.pt").write_bytes(b"half")
    assert train(config).steps == 4
    shown = " ".join(capsys.readouterr().out.split())
    assert "step_000004: not usable" in shown
    assert "after update 2 of 4" in shown


@pytest.mark.parametrize("place", ["step", "save", "evaluation"])
def test_a_second_signal_leaves_at_once(recipe, child, monkeypatch, tmp_path, place):
    """The first is noted; whatever the process is busy with, the second ends it."""
    from ssl_vision.engine.checkpointer import Checkpointer
    from ssl_vision.engine.online_eval import OnlineEval

    owner, name = {
        "step": (BarlowTwins, "compute_loss"),
        "save": (Checkpointer, "save"),
        "evaluation": (OnlineEval, "_score"),
    }[place]

    def busy(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.05)
        (tmp_path / "noted").touch()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(30)

    monkeypatch.setattr(owner, name, busy)
    config = recipe("barlow_twins", *SHORT, "online_eval.every_epochs=1")
    start = time.monotonic()
    status = child(lambda: train(config))
    assert status == 128 + signal.SIGTERM
    assert (tmp_path / "noted").exists()
    assert time.monotonic() - start < 25


def test_ctrl_c_saves_and_exits_130(recipe, child, monkeypatch):
    original = BarlowTwins.compute_loss

    def compute_loss(self, batch):
        if self.step == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, batch)

    monkeypatch.setattr(BarlowTwins, "compute_loss", compute_loss)
    config = recipe("barlow_twins", "trainer.max_steps=4")
    assert child(lambda: train(config)) == 130
    assert [c.step for c in list_checkpoints(config.run_path / "checkpoints")] == [2]


def test_slurm_is_asked_to_requeue_once(monkeypatch, tmp_path):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert requeue() is None
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "scontrol is not on the PATH" in (requeue() or "")
    scontrol, called = tmp_path / "scontrol", tmp_path / "called"
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {called}\n')
    scontrol.chmod(0o755)
    assert requeue() == "SLURM job 42 is requeued."
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "40")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    requeue()
    assert called.read_text() == "requeue 42\nrequeue 40_3\n"
    scontrol.write_text("#!/bin/sh\necho no such job >&2\nexit 1\n")
    assert requeue() == "SLURM job 40_3 was not requeued: no such job"


def test_signals_reach_a_real_command_line(recipe, tmp_path):
    """From the shell: SIGUSR1 in the first epoch, exit 138, and the same command goes on."""
    config = recipe("barlow_twins", "trainer.epochs=200")
    path = tmp_path / "whole.yaml"
    path.write_text(to_yaml(config))
    command = [sys.executable, "tools/train.py", str(path)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        command, cwd=root, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        metrics = config.run_path / "metrics.jsonl"
        for _ in range(1200):
            if metrics.exists() and metrics.stat().st_size:
                break
            time.sleep(0.05)
        process.send_signal(signal.SIGUSR1)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGUSR1, errors
    assert errors.splitlines()[-1].startswith("stopped by SIGUSR1 after update")
    assert len(list_checkpoints(config.run_path / "checkpoints")) == 1


@pytest.mark.parametrize(
    "tail", ['{"step": 4, "lo', "\0" * 64, '{"st\n{"step": 9}\n', "[1]\n", "\xff\n"]
)
def test_a_torn_log_does_not_stop_a_resume(recipe, tail):
    train(recipe("barlow_twins", "trainer.max_steps=3"))
    config = recipe("barlow_twins", "trainer.max_steps=6")
    log = config.run_path / "metrics.jsonl"
    whole = log.read_text()
    log.write_bytes(whole.encode() + tail.encode("latin-1"))
    (config.run_path / "environment.json").write_text("[3]")
    assert train(config).steps == 6
    records = [json.loads(line) for line in log.read_text().splitlines()]
    assert {3, 6} <= {record["step"] for record in records}
    assert log.read_text().startswith(whole)


def test_a_last_batch_of_one_trains_or_says_why_not(recipe, tmp_path):
    (tmp_path / "photos").mkdir()
    for row in range(7):
        Image.new("RGB", (16, 16), (30 * row, 0, 0)).save(tmp_path / "photos" / f"{row}.png")
    rows = (f"data.path={tmp_path / 'photos'}", "data.drop_last=false", "trainer.epochs=1",
            "optim.warmup_epochs=0")  # fmt: skip
    for size, steps in ((2, 4), (3, 3), (6, 2)):  # 7 = 3 x 2 + 1 = 2 x 3 + 1 = 6 + 1
        batch = f"data.global_batch_size={size}"
        assert train(recipe("mae", *rows, batch, run=f"mae{size}")).steps == steps
        with pytest.raises(ConfigError, match=r"batch of one sample.*drop_last=true") as caught:
            train(recipe("barlow_twins", *rows, batch, run=f"norm{size}"))
        assert "\n" not in str(caught.value)
    assert train(recipe("mae", *rows, "data.global_batch_size=1", run="one")).steps == 7
    assert train(recipe("barlow_twins", *rows, "data.global_batch_size=5", run="two")).steps == 2
