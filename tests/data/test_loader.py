"""The loader: order, position, identity of views across layouts, faults, threads."""

import threading

import lightning as L
import numpy as np
import pytest
import torch

from ssl_vision.data.images.arrays import ArraySource, digits
from ssl_vision.data.images.loader import MultiViewLoader
from ssl_vision.data.loader import epoch_order
from ssl_vision.errors import DataError
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


# Faults ------------------------------------------------------------------------------------


class Faulty(ArraySource):
    """Samples 3 and 17 cannot be read."""

    def raw_block(self, indices):
        return None

    def sample(self, index, decoder=None):
        if index in (3, 17):
            raise DataError("it is damaged")
        return super().sample(index, decoder)


def faulty_loader(**changes) -> MultiViewLoader:
    settings = {"batch_size": 8, "seed": 3, "num_threads": 2} | changes
    images = np.random.default_rng(0).integers(0, 256, (40, 9, 11, 3), dtype=np.uint8)
    return MultiViewLoader(Faulty(images, np.arange(40) % 5), VIEWS, **settings)


def test_an_unreadable_sample_raises_its_id_and_name() -> None:
    with pytest.raises(DataError, match=r"sample (3|17) \(array\[\1\]\).*it is damaged.*on_error"):
        list(faulty_loader())
    assert_no_thread_is_left()


def test_substitutes_are_the_same_everywhere_and_counted() -> None:
    loader = faulty_loader(on_error="substitute")
    batches = list(loader)
    ids = torch.cat([b.index for b in batches]).tolist()
    assert len(ids) == 40
    assert not {3, 17} & set(ids)
    assert set(loader.bad_samples) == {3, 17}
    assert loader.num_substituted == 2
    assert all(torch.equal(b.label, b.index % 5) for b in batches)
    for changes in ({"num_threads": 4}, {"num_threads": 1}):
        again = list(faulty_loader(on_error="substitute", **changes))
        for a, b in zip(batches, again, strict=True):
            assert torch.equal(a.index, b.index)
            assert torch.equal(a.views["a"], b.views["a"])


def test_a_data_set_without_a_readable_sample_ends_with_a_message() -> None:
    loader = faulty_loader(on_error="substitute")
    loader.source.sample = lambda index, decoder=None: (_ for _ in ()).throw(DataError("gone"))
    with pytest.raises(DataError, match="samples drawn to replace"):
        list(loader)


def test_a_dying_thread_ends_the_pass_with_its_message() -> None:
    loader = faulty_loader()

    def fail(index, decoder):
        raise MemoryError("no memory left in the thread")

    loader.source.sample = fail
    with pytest.raises(MemoryError, match="no memory left in the thread"):
        list(loader)
    assert_no_thread_is_left()


def assert_no_thread_is_left() -> None:
    assert not [t for t in threading.enumerate() if t.name.startswith("ssl-vision")]


def test_batches_held_keep_their_data() -> None:
    loader = make_loader()
    held = list(loader)
    copies = [b.views["a"].clone() for b in held]
    for _ in range(3):
        list(loader)
    assert all(torch.equal(b.views["a"], copy) for b, copy in zip(held, copies, strict=True))


def test_memory_is_flat_over_epochs() -> None:
    import resource

    images = np.zeros((64, 32, 32, 3), np.uint8)
    views = {"a": ViewConfig(size_px=96, jitter=JitterConfig())}
    loader = MultiViewLoader(ArraySource(images), views, batch_size=32, seed=0, num_threads=2)
    for _ in range(3):
        list(loader)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(40):
        for _ in loader:
            pass
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 4096  # kilobytes


def test_thread_counts_of_others_are_left_alone() -> None:
    import numba

    before = torch.get_num_threads(), numba.get_num_threads()
    list(make_loader(num_threads=4))
    assert (torch.get_num_threads(), numba.get_num_threads()) == before


def test_resuming_with_another_number_of_processes_shows_the_rest_once() -> None:
    first = make_loader(batch_size=4, rank=0, world_size=2)
    batches = iter(first)
    next(batches)
    next(batches)
    state = first.state_dict()
    batches.close()
    assert state["samples_consumed"] == 16
    rest = make_loader(batch_size=8)
    rest.load_state_dict(state)
    order = epoch_order(40, seed=3, epoch=0)
    assert torch.cat([b.index for b in rest]).tolist() == order[16:].tolist()


def test_a_state_of_other_data_is_refused() -> None:
    loader = make_loader()
    with pytest.raises(DataError, match="had 41 images, the data now has 40"):
        loader.load_state_dict(loader.state_dict() | {"num_samples": 41})


def test_last_batch_is_kept_on_request_and_ranks_agree_in_length() -> None:
    whole = list(make_loader(batch_size=16, drop_last=False, shuffle=False))
    assert [b.num_samples for b in whole] == [16, 16, 8]
    parts = [
        list(make_loader(batch_size=5, rank=r, world_size=3, drop_last=False, shuffle=False))
        for r in range(3)
    ]
    assert len({tuple(b.num_samples for b in part) for part in parts}) == 1
    seen = {i for part in parts for b in part for i in b.index.tolist()}
    assert seen == set(range(40))


def test_accumulated_batches_fill_whole_updates() -> None:
    assert len(make_loader(batch_size=4, accumulate=4)) == 8  # 2 updates of 16, 8 images left out


def test_too_little_data_for_one_batch_says_so() -> None:
    with pytest.raises(DataError, match=r"40 images.*global batch of 64"):
        make_loader(batch_size=64)


class Counting(L.LightningModule):
    """Notes the samples it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[list[int]] = []

    def training_step(self, batch, batch_idx):
        self.seen.append(batch.index.tolist())
        return self.weight.sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


# Not at an epoch edge: there the loop of Lightning itself repeats a batch (the engine has its own).
@pytest.mark.parametrize("stop", [3, 7])
def test_lightning_resumes_at_the_sample(tmp_path, stop) -> None:
    def fit(loader, module, steps, checkpoint=None):
        trainer = L.Trainer(
            max_steps=steps, max_epochs=-1, accelerator="cpu", logger=False,
            enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
            use_distributed_sampler=False,
        )  # fmt: skip
        trainer.fit(module, loader, ckpt_path=checkpoint)
        return trainer

    straight = Counting()
    fit(make_loader(), straight, 10)
    first = Counting()
    fit(make_loader(), first, stop).save_checkpoint(tmp_path / "x.ckpt")
    rest = Counting()
    fit(make_loader(), rest, 10, str(tmp_path / "x.ckpt"))
    assert first.seen + rest.seen == straight.seen


@pytest.mark.parametrize("world_size", [1, 2])
def test_rows_of_unreadable_samples_are_left_out(world_size: int) -> None:
    whole = list(faulty_loader(on_error="substitute", shuffle=False, drop_last=False))
    plain = {int(i): views for b in whole for i, views in zip(b.index, b.views["a"], strict=False)}
    found: list[int] = []
    for rank in range(world_size):
        loader = faulty_loader(
            on_error="leave_out", shuffle=False, drop_last=False, batch_size=1,
            rank=rank, world_size=world_size,
        )  # fmt: skip
        for batch in loader:
            assert batch.label.tolist() == [int(i) % 5 for i in batch.index]
            assert torch.equal(batch.views["a"][0], plain[int(batch.index[0])])
            found += batch.index.tolist()
    assert sorted(found) == [i for i in range(40) if i not in (3, 17)]
