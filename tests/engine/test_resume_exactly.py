"""An interrupted run is the uninterrupted one, bit for bit: weights, moments, metrics, samples."""

import itertools

import pytest
import torch
from benchmarks import resume as matrix
from benchmarks._witness import samples

from ssl_vision.engine import checkpointer

pytestmark = pytest.mark.usefixtures("_warm")


@pytest.mark.parametrize("method", matrix.METHODS)
def test_stops_everywhere_change_nothing(tmp_path, method):
    """One run with all the stops, in updates of two batches."""
    extra = ["trainer.accumulate=2", f"online_eval.every_epochs={int(method == 'barlow_twins')}"]
    straight = matrix.run_straight(method, tmp_path / "straight", *extra)
    stops = itertools.chain.from_iterable(matrix.PLACES.values())
    stopped = matrix.run_interrupted(method, tmp_path / "stopped", stops, *extra)
    assert matrix.compare(straight, stopped) == "equal"
    seen = [i for ids in samples(matrix.notes_of(stopped)).values() for i in ids]
    epoch = seen[: len(seen) // 2]
    assert len(set(epoch)) == len(epoch) == matrix.STEPS_PER_EPOCH * 8  # each once an epoch


def test_kills_at_random_moments_change_nothing(tmp_path):
    extra = matrix.extra_of_kills(3)
    straight = matrix.run_straight("mae", tmp_path / "straight", *extra)
    run = tmp_path / "killed"
    arguments = matrix.command("mae", run, *extra)
    cut = matrix.run_killed(run, lambda: matrix.start_here(arguments, run), kills=3, seed=0)
    assert cut > 0  # saves among them
    assert matrix.compare(straight, run) == "equal"


def test_what_a_resumed_run_forgets_is_named(tmp_path, monkeypatch):
    """So that "equal" above means something."""
    restore = checkpointer.restore  # type: ignore[attr-defined]

    def forgetful(state, method, optimizer, *, scaler=None):
        restore(state, method, optimizer, scaler=scaler)
        method.center.center.zero_()

    straight = matrix.run_straight("dino", tmp_path / "straight")
    monkeypatch.setattr(checkpointer, "restore", forgetful)
    stopped = matrix.run_interrupted("dino", tmp_path / "stopped", matrix.PLACES["mid-epoch"])
    assert matrix.compare(straight, stopped).startswith("checkpoint.state_dict.")


def test_equal_seeds_give_equal_weights_and_other_seeds_others(tmp_path):
    runs = {}
    for name, seed in (("a", 0), ("b", 0), ("other", 1)):
        runs[name] = matrix.run_straight("mae", tmp_path / name, f"seed={seed}")
    assert matrix.compare(runs["a"], runs["b"]) == "equal"
    assert matrix.compare(runs["a"], runs["other"]).startswith("samples.update 1, batch 0")
    weights = [
        matrix.last_state(runs[name])["state_dict"]["backbone.model.blocks.0.attn.qkv.weight"]
        for name in ("a", "other")
    ]
    assert not torch.equal(*weights)


@pytest.mark.parametrize(
    ("other", "name"),
    [
        ({"a": [1, {"b": torch.zeros(2)}]}, None),
        ({"a": [1, {"b": torch.ones(2)}]}, "a[1].b"),
        ({"a": [1, {"b": torch.zeros(2).double()}]}, "a[1].b"),
        ({"a": [1, {"b": torch.zeros(1)}]}, "a[1].b"),
        ({"a": [1.0, {"b": torch.zeros(2)}]}, "a[0]"),
        ({"a": [1]}, "a"),
        ({"a": [1, {"b": torch.zeros(2)}], "c": 0}, "c (only in one)"),
    ],
)
def test_the_first_difference_is_found_wherever_it_is(other, name):
    assert matrix.first_difference({"a": [1, {"b": torch.zeros(2)}]}, other) == name
