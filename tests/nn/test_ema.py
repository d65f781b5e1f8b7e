import pytest
import torch
from torch import nn

from ssl_vision.nn.ema import EmaTeacher, FrozenCopy, ema_update


def _network():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def test_teacher_follows_by_the_equation():
    torch.manual_seed(0)
    student, other = _network(), _network()
    teacher = EmaTeacher(student)
    before = [p.clone() for p in teacher.network.parameters()]
    teacher.update(other, momentum=0.9)
    after = list(teacher.network.parameters())
    for old, new, target in zip(before, after, other.parameters(), strict=True):
        torch.testing.assert_close(new, 0.9 * old + 0.1 * target)


def test_momentum_one_freezes_and_zero_copies():
    torch.manual_seed(0)
    student, other = _network(), _network()
    teacher = EmaTeacher(student)
    teacher.update(other, momentum=1.0)
    assert torch.equal(teacher.network[0].weight, student[0].weight)
    teacher.update(other, momentum=0.0)
    assert torch.equal(teacher.network[0].weight, other[0].weight)


def test_buffers_are_not_averaged():
    teacher, student = _network(), _network()
    student[1].running_mean.fill_(5.0)
    ema_update(teacher, student, momentum=0.5)
    assert torch.equal(teacher[1].running_mean, torch.zeros(4))


def test_teacher_is_a_copy_without_gradients():
    student = _network()
    teacher = EmaTeacher(student)
    assert not any(p.requires_grad for p in teacher.parameters())
    assert teacher(torch.randn(5, 3)).grad_fn is None
    student[0].weight.data.zero_()
    assert teacher.network[0].weight.abs().sum() > 0
    teacher.restart(student)
    assert teacher.network[0].weight.abs().sum() == 0


def test_a_frozen_copy_stays_in_evaluation_mode_and_follows_nobody():
    torch.manual_seed(0)
    whole = nn.ModuleDict({"student": _network()})
    whole["teacher"] = FrozenCopy(whole["student"])
    before = {n: v.clone() for n, v in whole["teacher"].state_dict().items()}
    for mode in (True, False, True):
        whole.train(mode)
        whole["teacher"](torch.randn(6, 3))
        assert not any(module.training for module in whole["teacher"].modules())
    assert all(torch.equal(v, before[n]) for n, v in whole["teacher"].state_dict().items())
    with pytest.raises(RuntimeError, match="does not follow"):
        whole["teacher"].update(_network(), momentum=0.5)
    whole["teacher"].restart(other := _network())
    assert torch.equal(whole["teacher"].network[0].weight, other[0].weight)
