"""The engine's loop and Lightning's Trainer do the same to every method."""

import itertools
from pathlib import Path

import lightning as L
import pytest
import torch
from benchmarks import resume as matrix
from benchmarks.resume import first_difference
from torch.utils.data import DataLoader

from ssl_vision.config import load_train_config
from ssl_vision.data.module import DataModule
from ssl_vision.engine.loop import Loop
from ssl_vision.engine.run import Run
from ssl_vision.engine.strategy import build_fabric, set_up
from ssl_vision.engine.stream import BatchStream
from ssl_vision.engine.train import build_method
from ssl_vision.engine.watchers import Update
from ssl_vision.methods import METHODS
from ssl_vision.methods.base import TrainPlan

NUM_BATCHES, EPOCHS = 4, 2  # of an epoch, and of a process


class Listed:
    """A loader of batches made before."""

    def __init__(self, batches):
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        yield from self.batches

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        assert state["samples_consumed"] == 0  # straight through


class Recipe:
    """A method's tiny recipe, and its first batches, of each process."""

    def __init__(self, name, *overrides, accumulate=1, world_size=1):
        arguments = matrix.command(name, Path("run"), *overrides)
        self.config = load_train_config([Path(arguments[0])], arguments[1:])
        self.accumulate, self.world_size = accumulate, world_size
        size = self.config.data.global_batch_size
        data = [
            DataModule(
                self.config.data,
                seed=0,
                rank=rank,
                world_size=world_size,
                is_supervised=METHODS[name].module.reads_labels,
            )
            for rank in range(world_size)
        ]
        self.plan = TrainPlan(
            steps_per_epoch=NUM_BATCHES // accumulate,
            epochs=EPOCHS,
            global_batch_size=size * accumulate,
            input_size=self.config.data.input_size,
            num_classes=data[0].num_classes,
        )
        self.batches = []  # rank -> batches
        for own in data:
            epochs = itertools.chain.from_iterable(iter(own.train_loader()) for _ in range(3))
            self.batches.append([own.prepare(b) for b in itertools.islice(epochs, NUM_BATCHES)])

    def method(self):
        return build_method(self.config, self.plan)

    def by_loop(self, rank=0):
        method, fabric = self.method(), build_fabric(self.config)
        fabric.launch()
        model = set_up(fabric, method, self.config.trainer)
        optimizer = method.make_optimizer()
        stream = BatchStream(
            Listed(self.batches[rank]),
            seed=0,
            steps_per_epoch=self.plan.steps_per_epoch,
            accumulate=self.accumulate,
            global_batch_size=self.plan.global_batch_size,
            stop_step=self.plan.total_steps,
        )
        loop = Loop(
            fabric=fabric,
            model=model,
            method=method,
            optimizer=optimizer,
            stream=stream,
            prepare=lambda batch: batch,
            accumulate=self.accumulate,
            is_stop_asked=lambda: False,
        )
        run = Run(
            config=self.config, folder=None, stream=stream, fabric=fabric, console=None,
            stop_step=self.plan.total_steps,
        )  # fmt: skip
        updates = Updates()
        loop.run(run, [updates])
        assert len(updates.seen) == self.plan.total_steps
        return state_of(method, optimizer), updates.seen

    def by_trainer(self, folder, *, epochs=EPOCHS, resume=None, method=None, **settings):
        method = method or self.method()
        trainer = L.Trainer(
            accelerator="cpu",
            devices=self.world_size,
            max_epochs=epochs,
            accumulate_grad_batches=self.accumulate,
            default_root_dir=folder,
            logger=False,
            use_distributed_sampler=False,  # each process has its own batches
            enable_progress_bar=False,
            enable_model_summary=False,
            **settings,
        )
        loader = DataLoader(self.batches[trainer.global_rank], batch_size=None)
        trainer.fit(method, loader, ckpt_path=resume)
        return state_of(method, trainer.optimizers[0]), trainer


class Updates:
    may_skip = False

    def __init__(self):
        self.seen: list[Update] = []

    def after_update(self, run, method, update: Update):
        assert self.may_skip or not update.outcome.is_skipped
        self.seen.append(update)


def state_of(method, optimizer):
    names = {id(p): name for name, p in method.named_parameters()}
    moments = {names[id(p)]: dict(state) for p, state in optimizer.state.items()}
    weights = {name: value.clone() for name, value in method.state_dict().items()}
    return {"step": method.step, "micro_step": method.micro_step, "w": weights, "o": moments}


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("name", matrix.METHODS)
def test_a_stock_trainer_makes_the_same_weights_bit_for_bit(tmp_path, name, accumulate):
    recipe = Recipe(name, accumulate=accumulate)
    ours, updates = recipe.by_loop()
    stock, trainer = recipe.by_trainer(tmp_path, enable_checkpointing=False)
    assert first_difference(ours, stock) is None
    assert ours["step"] == recipe.plan.total_steps
    assert ours["micro_step"] == NUM_BATCHES * EPOCHS
    last = updates[-1].outputs[-1]
    for key, value in {"loss": last.loss, **last.metrics}.items():
        assert torch.equal(trainer.logged_metrics[f"train/{key}"], value), key
    start = recipe.method().state_dict()
    assert any(not torch.equal(start[key], value) for key, value in ours["w"].items())


@pytest.mark.parametrize("name", ["barlow_twins", "dino"])  # batch norms; teacher and centre, too
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_stock_trainer_leaves_out_what_the_loop_leaves_out(
    tmp_path, monkeypatch, name, accumulate
):
    recipe = Recipe(name, accumulate=accumulate)
    module = METHODS[name].module
    compute_loss = module.compute_loss

    def poisoned(self, batch):
        output = compute_loss(self, batch)
        return output._replace(loss=output.loss * (torch.nan if self.step == 1 else 1.0))

    monkeypatch.setattr(module, "compute_loss", poisoned)
    monkeypatch.setattr(Updates, "may_skip", True)
    ours, updates = recipe.by_loop()
    with pytest.warns(UserWarning, match="update 2: a loss or gradient was not finite"):
        stock, _ = recipe.by_trainer(tmp_path, enable_checkpointing=False)
    assert first_difference(ours, stock) is None
    assert [u.outcome.is_skipped for u in updates] == [step == 1 for step in range(len(updates))]
    assert all(value.isfinite().all() for value in ours["w"].values())


@pytest.mark.parametrize("name", matrix.METHODS)
def test_lightnings_checkpoints_resume_bit_for_bit(tmp_path, name):
    recipe = Recipe(name, accumulate=2)
    straight, _ = recipe.by_trainer(tmp_path, enable_checkpointing=False)
    _, first = recipe.by_trainer(tmp_path, epochs=1)
    method = recipe.method()
    for parameter in method.parameters():
        torch.nn.init.zeros_(parameter)  # everything comes from the file
    resumed, _ = recipe.by_trainer(
        tmp_path, resume=first.checkpoint_callback.best_model_path, method=method
    )
    assert first_difference(straight, resumed) is None


@pytest.mark.distributed
def test_two_processes_of_a_stock_trainer_make_the_engines_weights(tmp_path, processes):
    overrides = ("trainer.devices=2", "trainer.sync_batch_norm=false")

    def go(rank):
        # Accumulation of each method is compared on one process; here once, with a moving teacher.
        for name, accumulate in [*((name, 1) for name in matrix.METHODS), ("dino", 2)]:
            recipe = Recipe(name, *overrides, accumulate=accumulate, world_size=2)
            ours, _ = recipe.by_loop(rank)
            stock, _ = recipe.by_trainer(tmp_path, strategy="ddp", enable_checkpointing=False)
            assert ours["step"] == stock["step"] == recipe.plan.total_steps
            assert ours["w"].keys() == stock["w"].keys()
            for key, value in ours["w"].items():
                torch.testing.assert_close(
                    value, stock["w"][key], rtol=0, atol=1e-6, msg=f"{name}: {key}"
                )

    assert processes(go) == [0, 0]


def test_gradients_of_an_accumulated_update_are_the_mean_of_its_batches(monkeypatch):
    """Against a loop by hand: sum of gradients over the number of batches."""
    recipe = Recipe("mae", accumulate=2)
    found = []
    module = METHODS["mae"].module
    before = module.before_update

    def before_update(self, step):
        found.append({n: p.grad.clone() for n, p in self.named_parameters() if p.grad is not None})
        before(self, step)

    monkeypatch.setattr(module, "before_update", before_update)
    recipe.by_loop()
    method = recipe.method()
    for batch in recipe.batches[0][:2]:
        method(batch).loss.backward()
    for name, parameter in method.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(found[0][name], parameter.grad / 2, msg=name)
