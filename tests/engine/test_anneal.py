"""Runs without an end, and branches of them whose rate falls."""

import hashlib
from pathlib import Path

import pytest
import torch

from ssl_vision.engine.anneal import anneal
from ssl_vision.engine.callbacks import Callbacks, Progress
from ssl_vision.engine.checkpoint import list_checkpoints, load_state
from ssl_vision.engine.run import ENDLESS, stop_step_of
from ssl_vision.engine.run_dir import read_jsonl
from ssl_vision.engine.train import Handed, train
from ssl_vision.errors import CheckpointError, ConfigError, Preempted

# 4 updates an epoch: warm-up up to 4, cool-down up to 8, then constant.
OPEN = (
    "trainer.epochs=null", "data.train_fraction=0.1", "data.global_batch_size=32",
    "optim.schedule=infinite", "optim.infinite.cooldown_end_epochs=2", "trainer.log_every_steps=1",
    "trainer.checkpoint_every_steps=1",
)  # fmt: skip
PEAK = 1e-3 * 32 / 256


def state_of(run: Path):
    return load_state(list_checkpoints(run / "checkpoints")[-1])


def assert_equal(a, b) -> None:
    assert a["step"] == b["step"]
    for name, value in a["state_dict"].items():
        assert torch.equal(value, b["state_dict"][name]), name
    assert a["optimizer"].keys() == b["optimizer"].keys()
    for name, moments in a["optimizer"].items():
        for key, value in moments.items():
            assert torch.equal(value, b["optimizer"][name][key]), (name, key)


def hashes(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def stopping_after(step: int) -> Callbacks:
    def stop(progress: Progress) -> None:
        if progress.step == step:
            progress.stop()

    return Callbacks(on_update=stop)


def rates(run: Path) -> dict[int, float]:
    lines, damaged = read_jsonl(run / "metrics.jsonl")
    assert not damaged
    return {line["step"] - 1: line["optim/lr"] for line in lines if "optim/lr" in line}


@pytest.mark.parametrize("method", ["mae", "random_teacher"])
def test_a_run_stopped_in_each_phase_and_branched_off_equals_one_that_was_not(
    recipe, method, tmp_path
):
    straight = train(recipe(method, *OPEN, "trainer.max_steps=13", run="straight")).run_dir
    for last in (2, 6, 10):  # in the warm-up, the cool-down, the constant phase
        run = train(recipe(method, *OPEN, f"trainer.max_steps={last}")).run_dir
    before = hashes(run)
    branch = anneal(run, tmp_path / "branch", steps=4).run_dir
    assert hashes(run) == before
    assert (branch / "export" / "config.json").is_file()
    assert rates(branch)[10] == pytest.approx(0.5 * PEAK)
    assert rates(branch)[13] == pytest.approx(0.5 * PEAK * (0.01 / 0.5) ** (3 / 4))
    assert state_of(branch)["step"] == 14
    # The run goes on from what it was, with its own moments, at its own rate.
    train(recipe(method, *OPEN, "trainer.max_steps=13"))
    assert_equal(state_of(run), state_of(straight))
    assert rates(run) == rates(straight)
    assert rates(run)[12] == pytest.approx(0.5 * PEAK)


def test_a_branch_that_was_stopped_goes_on_to_the_same_weights(recipe, tmp_path):
    run = train(recipe("mae", *OPEN, "trainer.max_steps=9")).run_dir
    said: list[str] = []
    whole = anneal(run, tmp_path / "whole", steps=4).run_dir
    stop = stopping_after(11)
    with pytest.raises(Preempted):
        anneal(run, tmp_path / "other", steps=4, handed=Handed(callbacks=stop))
    with pytest.raises(ConfigError, match=r"steps=5: .* holds a branch of 4 updates"):
        anneal(run, tmp_path / "other", steps=5)
    other = anneal(run, tmp_path / "other", say=said.append).run_dir
    assert "goes on" in said[0]
    assert_equal(state_of(other), state_of(whole))


def test_a_run_whose_rate_has_fallen_is_not_branched_off_and_nothing_stays(recipe, tmp_path):
    short = (*OPEN[1:3], "trainer.epochs=2")
    run = train(recipe("mae", *short)).run_dir
    with pytest.raises(ConfigError, match="the rate is 0 there"):
        anneal(run, tmp_path / "branch", steps=2)
    assert not (tmp_path / "branch").exists()


def test_a_run_without_an_end_ends_by_a_signal_and_says_what_to_do(recipe, capsys):
    stop = stopping_after(3)
    config = recipe("mae", *OPEN)
    assert stop_step_of(config, total_steps=None) == ENDLESS
    assert stop_step_of(config, total_steps=7) == 7
    with pytest.raises(Preempted, match=r"after update 4; .* ssl-vision anneal"):
        train(config, handed=Handed(callbacks=stop))
    out = capsys.readouterr().out
    assert "until it is stopped" in out
    assert str(ENDLESS) not in out
    assert state_of(config.run_path)["step"] == 4


def test_what_needs_the_end_of_a_run_is_refused_before_anything_is_written(recipe):
    moving = r"method\.teacher_momentum_end=1\.0 .* set it to teacher_momentum=0\.996"
    for method, key in (("mae", r"optim\.schedule=cosine"), ("dino", moving)):
        given = OPEN if method == "dino" else OPEN[:3]
        config = recipe(method, *given, run=f"{method}_run")
        with pytest.raises(ConfigError, match=key):
            train(config)
        assert not config.run_path.exists()
    still = ("method.teacher_momentum=0.99", "method.teacher_momentum_end=0.99")
    for method in ("dino", "ijepa"):
        train(recipe(method, *OPEN, *still, "trainer.max_steps=1", run=f"{method}_still"))


def test_a_run_without_a_whole_checkpoint_is_not_branched_off(recipe, tmp_path):
    run = train(recipe("mae", *OPEN, "trainer.max_steps=1")).run_dir
    for checkpoint in list_checkpoints(run / "checkpoints"):
        (checkpoint.path / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="no complete checkpoint"):
        anneal(run, tmp_path / "late")


@pytest.mark.distributed
def test_two_processes_branch_off_together(recipe, processes, tmp_path):
    short = (*OPEN, "trainer.max_steps=9", "trainer.devices=2")
    config = recipe("mae", *short)
    assert processes(lambda rank: train(config)) == [0, 0]
    with pytest.raises(ConfigError, match="name its folder"):
        anneal(config.run_path)
    out = tmp_path / "branch"
    assert processes(lambda rank: anneal(config.run_path, out, steps=2)) == [0, 0]
    assert state_of(out)["step"] == 11
