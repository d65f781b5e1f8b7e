"""Several processes are one: same samples, same weights, one decision; and what a death does."""

import dataclasses
import json
import os
import signal
import time

import pytest
import torch
from benchmarks.resume import last_state

from ssl_vision.data.pairs import scenes
from ssl_vision.distributed import rank
from ssl_vision.engine import train as engine
from ssl_vision.engine.train import train
from ssl_vision.methods.barlow_twins import BarlowTwins
from ssl_vision.methods.base import Method

pytestmark = pytest.mark.distributed

NUM_UPDATES = 12
COMMON = (
    "backbone.drop_path=0.0",  # drawn per process
    "trainer.log_every_steps=1",
    "trainer.epochs=3",
)
PAIRS = ("data.global_batch_size=48",)  # of 240: 5 updates, as of digits


def in_double_precision():
    """Train in float64: in float32 these nearly constant features amplify the rounding of sums of
    two halves tenfold per update, and nothing could be told from the weights.
    """
    build = engine.build_method
    forward = Method.forward

    def forward_in_double(self, batch):
        views = {name: view.double() for name, view in batch.views.items()}
        return forward(self, dataclasses.replace(batch, views=views))

    engine.build_method = lambda *settings: build(*settings).double()
    Method.forward = forward_in_double


def noting(folder, name):
    """Write the sample ids of each update to a file per process."""

    forward = Method.forward

    def noting_forward(self, batch):
        with (folder / f"{name}-{rank()}").open("a") as file:
            file.write(json.dumps([self.step, batch.index.tolist()]) + "\n")
        return forward(self, batch)

    Method.forward = noting_forward


def samples(folder, name):
    found = {}
    for path in folder.glob(f"{name}-*"):
        for line in path.read_text().splitlines():
            step, ids = json.loads(line)
            found.setdefault(step, set()).update(ids)
    return found


def largest_difference(a, b):
    return max(float((a[name] - b[name]).abs().max()) for name in a if a[name].is_floating_point())


@pytest.mark.parametrize(
    ("method", "strategy"),
    [("barlow_twins", "ddp"), ("mae", "ddp"), ("croco", "ddp"), ("dino", "ddp"), ("dino", "fsdp2")],
)
def test_one_two_one_processes_train_the_same(recipe, child, processes, tmp_path, method, strategy):
    def config(run, world_size, stop):
        return recipe(
            method,
            *COMMON,
            *(PAIRS if method == "croco" else ()),
            f"trainer.devices={world_size}",
            f"trainer.strategy={strategy if world_size > 1 else 'auto'}",
            f"trainer.max_steps={stop}",
            run=run,
        )

    def go(run, world_size, stop):
        noting(tmp_path, run)
        in_double_precision()
        scenes.ROOMS.update(train=30, val=4)  # in a process of its own; rendering takes its time
        train(config(run, world_size, stop))

    assert child(lambda: go("one", 1, NUM_UPDATES)) == 0
    assert child(lambda: go("mixed", 1, 3)) == 0
    assert processes(lambda rank: go("mixed", 2, 8)) == [0, 0]
    assert child(lambda: go("mixed", 1, NUM_UPDATES)) == 0

    one, mixed = (last_state(tmp_path / run) for run in ("one", "mixed"))
    assert samples(tmp_path, "one") == samples(tmp_path, "mixed")
    assert largest_difference(one["state_dict"], mixed["state_dict"]) < 1e-6
    losses = [
        [json.loads(line)["train/loss"] for line in path.read_text().splitlines()]
        for path in (tmp_path / "one" / "metrics.jsonl", tmp_path / "mixed" / "metrics.jsonl")
    ]
    torch.testing.assert_close(torch.tensor(losses[0]), torch.tensor(losses[1]), rtol=1e-6, atol=0)


def test_signal_nan_and_score_on_one_process_are_everybodys(
    recipe, processes, tmp_path, monkeypatch
):
    """One launch: a NaN on rank 1 only, online scores of sharded images, SIGUSR1 to rank 1 only."""
    original = BarlowTwins.compute_loss

    def compute_loss(self, batch):
        output = original(self, batch)
        if rank() == 1 and self.step == 1:
            return output._replace(loss=output.loss * float("nan"))
        if rank() == 1 and self.step == 6:
            os.kill(os.getpid(), signal.SIGUSR1)
        return output

    monkeypatch.setattr(BarlowTwins, "compute_loss", compute_loss)
    config = recipe("barlow_twins", *COMMON, "trainer.devices=2", "online_eval.every_epochs=1")
    assert processes(lambda _: train(config)) == [128 + signal.SIGUSR1] * 2
    state = last_state(config.run_path)
    assert state["step"] == 7
    assert all(v.isfinite().all() for v in state["state_dict"].values())
    (line,) = (config.run_path / "nonfinite.jsonl").read_text().splitlines()
    assert json.loads(line)["rank"] == 1
    assert json.loads(line)["terms"] == ["loss=nan"]
    alone = recipe("barlow_twins", *COMMON, "online_eval.every_epochs=1", run="alone")
    monkeypatch.undo()
    train(dataclasses.replace(alone, trainer=dataclasses.replace(alone.trainer, max_steps=1)))
    scores = [
        json.loads((path / "metrics.jsonl").read_text().splitlines()[0])
        for path in (config.run_path, alone.run_path)
    ]
    assert scores[0]["eval/knn_top1"] == scores[1]["eval/knn_top1"]


def test_survivors_of_a_dead_process_say_so_and_end(
    recipe, processes, tmp_path, monkeypatch, capfd
):
    original = BarlowTwins.compute_loss

    def compute_loss(self, batch):
        if rank() == 1 and self.step == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, batch)

    monkeypatch.setattr(BarlowTwins, "compute_loss", compute_loss)
    config = recipe(
        "barlow_twins", *COMMON, "trainer.devices=2", "trainer.checkpoint_every_steps=2"
    )
    start = time.monotonic()
    assert processes(lambda _: train(config)) == [1, -signal.SIGKILL]
    assert time.monotonic() - start < 60
    assert "another process of this run died" in capfd.readouterr().err
    assert last_state(config.run_path)["step"] == 2
