import json
import re

import pytest
import torch

from ssl_vision.engine.loop import Loop
from ssl_vision.engine.train import train
from ssl_vision.errors import NonFiniteError
from ssl_vision.methods.barlow_twins import BarlowTwins

NUM_UPDATES = 8


@pytest.fixture
def poison(monkeypatch):
    """`poison({3}, "loss", nan)`: spoil the loss, a term, or a gradient of those updates."""

    def install(updates, where, value):
        original = BarlowTwins.compute_loss

        def compute_loss(self, batch):
            output = original(self, batch)
            if self.step + 1 not in updates:
                return output
            if where == "loss":
                return output._replace(loss=output.loss * value)
            if where == "input":  # reaches batch norm's statistics, too
                views = {k: v * value for k, v in batch.views.items()}
                return original(self, type(batch)(views, batch.index, batch.label))
            output.loss.register_hook(lambda gradient: gradient * value)
            return output

        monkeypatch.setattr(BarlowTwins, "compute_loss", compute_loss)

    return install


@pytest.fixture
def watched(monkeypatch):
    """States and sample ids after each update, and after what its watchers did."""
    seen = []
    original = Loop.run

    def run(self, run, watchers):
        original(self, run, [*watchers, Witness(self.optimizer)])

    class Witness:
        def __init__(self, optimizer):
            self.optimizer = optimizer

        def after_update(self, run, method, update):
            state = {name: value.clone() for name, value in method.state_dict().items()}
            moments = [v.clone() for m in self.optimizer.state.values() for v in m.values()]
            (ids,) = update.index
            seen.append((method.step, state, moments, set(ids.tolist())))

    monkeypatch.setattr(Loop, "run", run)
    return seen


def run(recipe, *overrides):
    settings = [f"trainer.max_steps={NUM_UPDATES}", "trainer.log_every_steps=1", *overrides]
    return train(recipe("barlow_twins", *settings))


@pytest.mark.parametrize(
    ("where", "value"),
    [("loss", float("nan")), ("gradient", float("inf")), ("input", float("nan"))],
)
def test_a_bad_update_is_as_if_it_had_not_been(recipe, poison, watched, where, value):
    poison({3}, where, value)
    result = run(recipe)
    assert result.steps == NUM_UPDATES
    before, after = watched[1], watched[2]
    assert (before[0], after[0]) == (2, 3)
    for name, tensor in before[1].items():
        assert torch.equal(tensor, after[1][name]), name
    assert all(map(torch.equal, before[2], after[2]))
    assert all(value.isfinite().all() for value in watched[-1][1].values())
    assert not torch.equal(
        watched[2][1]["projector.0.weight"], watched[3][1]["projector.0.weight"]
    )  # and then it goes on


def test_the_report_names_term_rank_and_samples(recipe, poison, watched, capsys):
    poison({2}, "input", float("nan"))
    result = run(recipe)
    (line,) = map(json.loads, (result.run_dir / "nonfinite.jsonl").read_text().splitlines())
    assert line["step"] == 2
    assert line["rank"] == 0
    assert any(term.startswith("invariance=") for term in line["terms"])
    assert set(line["samples"]) == watched[1][3]
    assert re.search(
        r"update 2: not finite, skipped; .*on rank 0, samples \d+", capsys.readouterr().out
    )


def test_a_bad_gradient_is_named_by_its_parameter(recipe, poison, capsys):
    poison({2}, "gradient", float("nan"))
    run(recipe)
    assert "gradient of backbone.model.cls_token" in capsys.readouterr().out


def test_stop_ends_after_three_in_a_row(recipe, poison):
    poison({3, 5, 6, 7}, "loss", float("inf"))
    with pytest.raises(NonFiniteError, match=r"update 7: .*loss=inf.*3 updates in a row, 4 in all"):
        run(recipe, "trainer.on_nonfinite=stop")
    assert NonFiniteError.exit_code == 75


def test_a_run_that_made_no_update_is_an_error_whatever_the_policy(recipe, poison):
    poison(set(range(1, NUM_UPDATES + 1)), "loss", float("nan"))
    with pytest.raises(NonFiniteError, match=f"update {NUM_UPDATES}: .*{NUM_UPDATES} in all"):
        run(recipe, "trainer.on_nonfinite=skip")


def test_updates_before_a_resume_count_as_made(recipe, poison):
    poison({NUM_UPDATES - 1, NUM_UPDATES}, "loss", float("nan"))
    run(recipe, "trainer.on_nonfinite=skip", f"trainer.max_steps={NUM_UPDATES - 2}")
    assert run(recipe, "trainer.on_nonfinite=skip").steps == NUM_UPDATES


def test_rollback_returns_to_the_checkpoint_and_leaves_out_the_data(recipe, poison, watched):
    fired = []
    bad = {4, 5, 6}
    original = BarlowTwins.compute_loss
    poison(bad, "loss", float("nan"))
    poisoned = BarlowTwins.compute_loss

    def once(self, batch):  # the data was to blame: after the jump it is other data
        if len(fired) < 3:
            fired.append(self.step + 1 in bad)
            fired[:] = [f for f in fired if f]
            return poisoned(self, batch)
        return original(self, batch)

    BarlowTwins.compute_loss = once
    result = run(recipe, "trainer.on_nonfinite=rollback", "trainer.checkpoint_every_steps=2")
    steps = [step for step, *_ in watched]
    assert steps == [1, 2, 3, 4, 5, 2, 3, 4, 5, 6, 7, 8]
    at_2 = [entry for entry in watched if entry[0] == 2]
    for name, tensor in at_2[0][1].items():
        assert torch.equal(tensor, at_2[1][1][name]), name
    assert result.steps == NUM_UPDATES


@pytest.mark.parametrize("policy", ["skip", "stop", "rollback"])
def test_weights_that_are_not_finite_end_the_run_whatever_the_policy(recipe, policy):
    config = recipe("mae", "optim.base_lr=1e22", f"trainer.on_nonfinite={policy}",
                    "optim.warmup_epochs=0")  # fmt: skip
    with pytest.raises(NonFiniteError) as error:
        train(config)
    assert error.value.exit_code == 75
    assert not config.run_path.joinpath("export").exists()
