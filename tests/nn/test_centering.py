import torch

from ssl_vision.nn.centering import Center


def test_accumulated_batches_move_the_centre_as_one_batch():
    torch.manual_seed(0)
    logits = torch.randn(8, 5)
    whole, parts = Center(5, momentum=0.9), Center(5, momentum=0.9)
    whole.collect(logits)
    whole.update()
    for part in logits.split([3, 5]):
        parts.collect(part)
    parts.update()
    torch.testing.assert_close(whole.center, parts.center)


def test_discarded_and_missing_rows_leave_the_centre_as_it_is():
    center = Center(3, momentum=0.5)
    center.collect(torch.ones(2, 3))
    center.discard()
    center.update()
    assert torch.equal(center.center, torch.zeros(1, 3))
