import pytest
import torch
import torch.distributed as dist

from ssl_vision.nn.queue import FeatureQueue


def _rows(*numbers):
    return torch.tensor([[float(n), -float(n)] for n in numbers])


def test_newest_rows_come_first_and_the_oldest_go():
    queue = FeatureQueue(5, 2)
    assert not queue.is_filled.any()
    queue.collect(_rows(1, 2))
    assert not queue.is_filled.any()  # only an update takes them in
    queue.update()
    assert queue.is_filled.tolist() == [True, True, False, False, False]
    queue.collect(_rows(3))
    queue.collect(_rows(4))  # two batches of one update
    queue.update()
    assert queue.rows[:4].tolist() == _rows(3, 4, 1, 2).tolist()
    queue.collect(_rows(5, 6))
    queue.update()
    assert queue.rows.tolist() == _rows(5, 6, 3, 4, 1).tolist()
    assert queue.is_filled.all()


def test_rows_of_a_skipped_update_are_forgotten():
    queue = FeatureQueue(2, 2)
    queue.collect(_rows(1))
    queue.discard()
    queue.update()
    assert queue.num_filled == 0


def test_more_rows_than_it_holds():
    queue = FeatureQueue(2, 2)
    queue.collect(_rows(1, 2, 3))
    queue.update()
    assert queue.rows.tolist() == _rows(1, 2).tolist()
    assert queue.num_filled == 2


def test_its_state_is_all_it_needs_to_go_on():
    queue, other = FeatureQueue(3, 2), FeatureQueue(3, 2)
    queue.collect(_rows(1, 2))
    queue.update()
    other.load_state_dict(queue.state_dict())
    for each in (queue, other):
        each.collect(_rows(7))
        each.update()
    assert torch.equal(queue.rows, other.rows)
    assert other.num_filled == 3


def _one_process_of_two():
    queue = FeatureQueue(3, 2)
    queue.collect(_rows(1 + dist.get_rank()))
    queue.update()
    return queue.rows.tolist(), int(queue.num_filled)


@pytest.mark.distributed
def test_every_process_has_the_rows_of_all(run_distributed):
    for rows, num_filled in run_distributed(_one_process_of_two):
        assert rows == [*_rows(1, 2).tolist(), [0.0, 0.0]]
        assert num_filled == 2
