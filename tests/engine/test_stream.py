import functools
import itertools
import time

import pytest
import torch

from ssl_vision.engine.stream import BatchStream


class Loader:
    """Yields (epoch, sample) instead of batches of one sample; 7 batches an epoch."""

    num_samples = 7

    def __init__(self):
        self.epoch, self.samples = 0, 0
        self.num_open = 0

    def __len__(self):
        return self.num_samples

    def state_dict(self):
        return {"epoch": self.epoch, "samples_consumed": self.samples, "num_samples": 7}

    def load_state_dict(self, state):
        assert state["num_samples"] == 7
        self.epoch, self.samples = state["epoch"], state["samples_consumed"]

    def __iter__(self):
        self.num_open += 1
        try:
            for sample in range(self.samples, self.num_samples):
                yield (self.epoch, sample)
        finally:
            self.num_open -= 1


def stream(accumulate: int = 1, stop_step: int = 9):
    # Micro batches of one sample: an update takes `accumulate` of them.
    return BatchStream(
        Loader(),
        seed=0,
        steps_per_epoch=7 // accumulate,
        accumulate=accumulate,
        global_batch_size=accumulate,
        stop_step=stop_step,
    )


def test_epochs_follow_each_other_and_the_run_ends_at_its_step():
    assert list(iter(stream())) == [(0, s) for s in range(7)] + [(1, 0), (1, 1)]


def test_an_incomplete_update_at_the_end_of_an_epoch_is_left_out():
    assert list(iter(stream(accumulate=2, stop_step=4))) == [(0, s) for s in range(6)] + [
        (1, 0),
        (1, 1),
    ]


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("step", range(7))
def test_going_on_from_any_update_gives_the_rest(accumulate, step):
    whole = list(iter(stream(accumulate, stop_step=7)))
    resumed = stream(accumulate, stop_step=7)
    resumed.seek(step=step, data_offset=0)
    assert list(iter(resumed)) == whole[step * accumulate :]


def test_a_jump_takes_effect_at_the_next_batch_and_closes_the_loader():
    batches, seen = stream(stop_step=5), []
    for batch in batches:
        seen.append(batch)
        if len(seen) == 4:  # four updates done: back to the second, without the data since
            batches.seek(step=2, data_offset=2)
    assert seen == [(0, 0), (0, 1), (0, 2), (0, 3), (0, 4), (0, 5), (0, 6)]
    assert batches._loader.num_open == 0


def test_position_is_told_in_samples_of_all_processes():
    position = stream(accumulate=2, stop_step=9).state(step=4)
    assert position == {"seed": 0, "epoch": 1, "samples_consumed": 2, "data_offset": 0}


def test_leaving_early_closes_the_loader():
    batches = stream()
    next(batches)
    assert batches._loader.num_open == 1
    batches.close()
    assert batches._loader.num_open == 0


class FakeCopier:
    """A device of its own: writes down what is copied and used, in order."""

    is_needed = True

    def __init__(self):
        self.log = []

    def begin(self, batch):
        self.log.append(("copy", batch))
        return batch

    def finish(self, batch):
        self.log.append(("use", batch))
        return batch


@pytest.mark.parametrize("accumulate", [1, 2])
def test_each_batch_is_copied_once_before_the_work_it_runs_beside_has_ended(accumulate):
    batches = stream(accumulate, stop_step=5)
    batches._copier = copier = FakeCopier()
    expected = list(iter(stream(accumulate, stop_step=5)))
    seen = []
    for batch in batches:
        seen.append(batch)
        copier.log.append(("train", batch))
        batches.prefetch()
        batches.prefetch()  # one ahead, not two
    assert seen == expected
    assert [batch for what, batch in copier.log if what == "copy"] == expected
    # The first waits for its copy; of every other one the copy is under way while another trains.
    steps = [[("use", a), ("train", a), ("copy", b)] for a, b in itertools.pairwise(expected)]
    last = [("use", expected[-1]), ("train", expected[-1])]
    assert copier.log == [("copy", expected[0]), *itertools.chain(*steps), *last]


def test_a_jump_drops_what_was_read_ahead():
    batches = stream(stop_step=5)
    batches._copier = FakeCopier()
    seen = []
    for batch in batches:
        seen.append(batch)
        batches.prefetch()
        if len(seen) == 4:
            batches.seek(step=2, data_offset=2)
    assert seen == [(0, 0), (0, 1), (0, 2), (0, 3), (0, 4), (0, 5), (0, 6)]
    assert batches._loader.num_open == 0


def test_where_batches_are_in_place_nothing_is_read_ahead():
    batches = stream()
    assert next(batches) == (0, 0)
    batches.prefetch()
    assert batches._num_read == 1


@pytest.mark.gpu
def test_copies_run_beside_the_work_of_the_device():
    """Of a copy and a computation that each take long, the slower one counts, not their sum."""
    from ssl_vision.engine.stream import Copier
    from ssl_vision.types import Batch

    device = torch.device("cuda")
    pixels = torch.zeros(1 << 30, dtype=torch.uint8, pin_memory=True)
    batch = Batch({"a": pixels}, torch.zeros(1, dtype=torch.int64).pin_memory())
    factor = torch.randn(8192, 8192, device=device)

    def compute():
        for _ in range(12):
            factor @ factor

    def seconds(*work):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for step in work:
            step()
        torch.cuda.synchronize()
        return time.perf_counter() - start

    copier = Copier(device)
    copy = functools.partial(copier.begin, batch)
    seconds(compute, copy)
    alone = seconds(compute), seconds(copy)
    together = min(seconds(compute, copy) for _ in range(3))
    assert together < max(alone) + 0.3 * min(alone)
    assert torch.equal(copier.finish(copy()).views["a"][:9].cpu(), pixels[:9])
