"""The loader: order, position, identity of views across layouts, faults, threads."""

import threading

import numpy as np
import pytest
import torch

from ssl_vision.data.arrays import ArraySource, digits
from ssl_vision.data.loader import MultiViewLoader, epoch_order
from ssl_vision.views import BlurConfig, JitterConfig, SolarizeConfig, ViewConfig

VIEWS = {
    "a": ViewConfig(
        size_px=12,
        jitter=JitterConfig(),
        gray_prob=0.2,
        blur=BlurConfig(),
        solarize=SolarizeConfig(),
    ),
    "b": ViewConfig(size_px=8, count=2, interpolation="bilinear"),
}


def make_loader(**changes):
    settings = {"batch_size": 8, "seed": 3, "num_threads": 2} | changes
    images = np.random.default_rng(0).integers(0, 256, (40, 9, 11, 3), dtype=np.uint8)
    return MultiViewLoader(ArraySource(images, np.arange(40) % 5), VIEWS, **settings)


def views_by_sample(batches) -> dict[int, list[torch.Tensor]]:
    """Sample id -> its drawings, whatever batch it came in."""
    found = {}
    for batch in batches:
        size = batch.num_samples
        for row, index in enumerate(batch.index.tolist()):
            drawings = [
                v[j * size + row] for v in batch.views.values() for j in range(len(v) // size)
            ]
            found[index] = [image.clone() for image in drawings]
    return found


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(
        torch.equal(x, y) for key in a for x, y in zip(a[key], b[key], strict=True)
    )


def test_an_epoch_holds_each_sample_once_and_its_label() -> None:
    loader = make_loader()
    batches = list(loader)
    assert len(batches) == len(loader) == 5
    assert sorted(torch.cat([b.index for b in batches]).tolist()) == list(range(40))
    assert all(torch.equal(b.label, b.index % 5) for b in batches)
    assert batches[0].views["a"].shape == (8, 3, 12, 12)
    assert batches[0].views["b"].shape == (16, 3, 8, 8)


@pytest.mark.parametrize(
    "changes", [{"num_threads": 1}, {"num_threads": 4}, {"batch_size": 20}, {"batch_size": 5}]
)
def test_views_do_not_depend_on_threads_or_batch_size(changes) -> None:
    assert same(views_by_sample(make_loader()), views_by_sample(make_loader(**changes)))


def test_two_ranks_share_the_batches_of_one_process() -> None:
    whole = list(make_loader())
    parts = [list(make_loader(batch_size=4, rank=r, world_size=2)) for r in range(2)]
    for i, batch in enumerate(whole):
        assert torch.equal(batch.index, torch.cat([parts[0][i].index, parts[1][i].index]))
    assert same(views_by_sample(whole), views_by_sample(parts[0] + parts[1]))


def test_epochs_and_seeds_differ() -> None:
    loader = make_loader()
    first, second = views_by_sample(loader), views_by_sample(loader)
    assert not same(first, second)
    assert not same(first, views_by_sample(make_loader(seed=4)))
    assert not np.array_equal(epoch_order(40, seed=3, epoch=0), epoch_order(40, seed=3, epoch=1))


def test_resuming_continues_after_the_last_batch_handed_out() -> None:
    straight = make_loader()
    expected = [b for _ in range(2) for b in straight]
    for stop in range(1, 11):
        first = make_loader()
        taken = 0
        while taken < stop:
            for _ in first:
                taken += 1
                if taken == stop:
                    state = first.state_dict()
                    break
        resumed = make_loader(num_threads=1)
        resumed.load_state_dict(state)
        rest = [b for _ in range(2) for b in resumed][: 10 - stop]
        assert [b.index.tolist() for b in rest] == [b.index.tolist() for b in expected[stop:]]
        assert all(
            torch.equal(a.views["a"], b.views["a"])
            for a, b in zip(rest, expected[stop:], strict=True)
        )


def test_leaving_early_leaves_no_thread_and_the_next_pass_is_a_new_epoch() -> None:
    before = threading.active_count()
    loader = make_loader()
    for _ in loader:
        break
    assert threading.active_count() == before
    assert same(views_by_sample(loader), views_by_sample(_at_epoch(1)))


def _at_epoch(epoch: int) -> MultiViewLoader:
    loader = make_loader()
    loader.set_epoch(epoch)
    return loader


def test_digits_split_is_fixed_and_stratified() -> None:
    train, val = digits("train"), digits("val")
    assert (len(train), len(val)) == (1497, 300)
    assert np.bincount(val.labels).tolist() == [30] * 10
