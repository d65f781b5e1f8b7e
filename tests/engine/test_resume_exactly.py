"""An interrupted run is the uninterrupted one, bit for bit: weights, moments, metrics, samples."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch

from ssl_vision.config import load_train_config
from ssl_vision.engine.checkpoint import list_checkpoints, load_state
from ssl_vision.engine.train import train
from ssl_vision.engine.watchers import StepEdge

STEPS_PER_EPOCH = 1497 // 256  # of the digits at batches of 256


def interrupted(config, *, update=None, by=None, micro_batch=0, ids=None):
    """Train, noting sample ids; send oneself a signal while an update is computed (from 1)."""

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if ids is not None:
            with ids.open("a") as file:
                file.write(json.dumps([module.step, len(self._outputs), batch.index.tolist()]))
                file.write("\n")
        if module.step + 1 == update and len(self._outputs) == micro_batch:
            os.kill(os.getpid(), by)

    StepEdge.on_train_batch_start = on_train_batch_start
    train(config)


def final_state(run: Path):
    return load_state(list_checkpoints(run / "checkpoints")[-1])


def assert_equal(a, b, where=""):
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_equal(a[key], b[key], f"{where}.{key}")
    else:
        assert a == b, where


def samples(path: Path):
    """Update and batch -> ids; the last time an update was done counts."""
    return {tuple(r[:2]): r[2] for r in map(json.loads, path.read_text().splitlines())}


KILL, TERM, USR1 = signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1
STOPS = {
    "barlow_twins": [
        (1, KILL),  # before the first checkpoint
        (2, TERM),  # within an epoch
        (STEPS_PER_EPOCH - 1, USR1),  # the last batch of the epoch remains
        (STEPS_PER_EPOCH, TERM),  # at the edge of the epoch
        (STEPS_PER_EPOCH + 2, KILL),  # between checkpoints
        (2 * STEPS_PER_EPOCH - 1, TERM),
    ],
    "mae": [(STEPS_PER_EPOCH, TERM), (STEPS_PER_EPOCH + 2, KILL)],
    "dino": [(2, TERM), (STEPS_PER_EPOCH, TERM), (STEPS_PER_EPOCH + 3, KILL)],
}


@pytest.mark.parametrize("method", STOPS)
def test_stops_everywhere_change_nothing(recipe, child, tmp_path, method):
    common = ["trainer.checkpoint_every_steps=4", "trainer.log_every_steps=1",
              f"trainer.accumulate={2 if method == 'dino' else 1}",
              f"online_eval.every_epochs={int(method == 'barlow_twins')}"]  # fmt: skip
    straight = recipe(method, *common, run="straight")
    assert child(lambda: interrupted(straight, ids=tmp_path / "a")) == 0

    config, ids = recipe(method, *common, run="stopped"), tmp_path / "b"
    stops = STOPS[method]
    for step, number in stops:
        status = child(lambda s=step, n=number: interrupted(config, update=s, by=n, ids=ids))
        assert status == (-number if number == KILL else 128 + number)
    assert child(lambda: interrupted(config, ids=ids)) == 0

    a, b = final_state(straight.run_path), final_state(config.run_path)
    a.pop("config"), b.pop("config")  # they differ in run_dir
    assert_equal(a, b)
    assert samples(tmp_path / "a") == samples(ids)
    metrics = [(r / "metrics.jsonl").read_bytes() for r in (straight.run_path, config.run_path)]
    assert metrics[0] == metrics[1]
    flat = [i for row in samples(ids).values() for i in row]
    epoch = flat[: len(flat) // 2]
    assert len(set(epoch)) == len(epoch) == STEPS_PER_EPOCH * 256  # each sample once an epoch


def test_kill_between_batches_of_an_update_changes_nothing(recipe, child, tmp_path):
    common = ["trainer.checkpoint_every_steps=1", "trainer.accumulate=4", "trainer.max_steps=6"]
    straight = recipe("barlow_twins", *common, run="straight")
    config = recipe("barlow_twins", *common, run="stopped")
    assert child(lambda: train(straight)) == 0
    for step in (2, 4):
        status = child(
            lambda s=step: interrupted(config, update=s, by=signal.SIGKILL, micro_batch=2)
        )
        assert status == -signal.SIGKILL
    assert child(lambda: train(config)) == 0
    a, b = final_state(straight.run_path), final_state(config.run_path)
    for part in ("state_dict", "optimizer", "method"):
        assert_equal(a[part], b[part], part)


def test_equal_seeds_give_equal_weights_and_other_seeds_others(recipe, child, tmp_path):
    states = []
    for run, seed in (("a", 0), ("b", 0), ("c", 1)):
        config = recipe("dino", f"seed={seed}", "trainer.max_steps=4", run=run)
        assert child(lambda c=config: train(c)) == 0
        states.append(final_state(config.run_path))
    assert_equal(states[0]["state_dict"], states[1]["state_dict"])
    name = "backbone.model.blocks.0.attn.qkv.weight"
    assert not torch.equal(states[0]["state_dict"][name], states[2]["state_dict"][name])


SMALL = {
    "poa": ("data.global_batch_size=16",),
    "point_mae": ("data.global_batch_size=16",),
    "point_cmae": ("data.global_batch_size=16",),
    "supervised": ("data.global_batch_size=32",),
}


@pytest.mark.slow
@pytest.mark.parametrize("method", SMALL)
def test_the_other_methods_resume_exactly_too(child, tmp_path, method):
    recipe = Path(__file__).parents[2] / "configs" / method / "tiny_cpu.yaml"
    common = [*SMALL[method], "data.num_threads=1", "trainer.accelerator=cpu",
              "trainer.max_steps=4", "trainer.checkpoint_every_steps=2",
              "trainer.log_every_steps=1", "online_eval.every_epochs=0"]  # fmt: skip

    def config(run):
        return load_train_config([recipe], [*common, f"run_dir={tmp_path / run}"])

    assert child(lambda: interrupted(config("straight"), ids=tmp_path / "a")) == 0
    status = child(lambda: interrupted(config("stopped"), update=4, by=KILL, ids=tmp_path / "b"))
    assert status == -KILL
    assert child(lambda: interrupted(config("stopped"), ids=tmp_path / "b")) == 0
    a, b = final_state(tmp_path / "straight"), final_state(tmp_path / "stopped")
    a.pop("config"), b.pop("config")
    assert_equal(a, b)
    assert samples(tmp_path / "a") == samples(tmp_path / "b")
