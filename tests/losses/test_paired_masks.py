"""Point-CMAE's contrast against loops, and across processes."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from ssl_vision.distributed import rank
from ssl_vision.losses.paired_masks import PairForm, paired_mask_contrast


def textbook(f: torch.Tensor, g: torch.Tensor, hidden: torch.Tensor, pairs: PairForm) -> float:
    """Mean of 1 - cosine + 1e-8 over the pairs, one by one."""
    terms = []
    for b in range(len(f)):
        for i in range(f.shape[1]):
            if not hidden[b, i]:
                continue
            for j in [i] if pairs == "matched" else range(f.shape[1]):
                cosine = torch.dot(f[b, i], g[b, j]) / (f[b, i].norm() * g[b, j].norm())
                terms.append(1 - float(cosine) + 1e-8)
    return sum(terms) / len(terms)


@pytest.mark.parametrize("pairs", ["matched", "all"])
def test_equals_the_definition(pairs: PairForm) -> None:
    f, g = torch.randn(2, 3, 6, 5)
    hidden = torch.rand(3, 6) < 0.5
    value = paired_mask_contrast(f, g, hidden, pairs=pairs)
    assert value.item() == pytest.approx(textbook(f, g, hidden, pairs), rel=1e-5)


def test_matched_pairs_reach_zero_and_all_pairs_need_a_collapse() -> None:
    f = torch.randn(1, 6, 5)
    hidden = torch.ones(1, 6, dtype=torch.bool)
    assert paired_mask_contrast(f, f * 3, hidden, pairs="matched").item() == pytest.approx(
        0, abs=1e-6
    )
    assert paired_mask_contrast(f, f, hidden, pairs="all") > 0.1
    equal = f[:, :1].expand_as(f)
    assert paired_mask_contrast(equal, equal, hidden, pairs="all").item() == pytest.approx(
        0, abs=1e-6
    )


@pytest.mark.parametrize("pairs", ["matched", "all"])
def test_tokens_one_mask_left_visible_do_not_choose_rows(pairs: PairForm) -> None:
    f = torch.randn(1, 4, 5).requires_grad_()
    hidden = torch.tensor([[True, False, True, False]])
    paired_mask_contrast(f, torch.randn(1, 4, 5), hidden, pairs=pairs).backward()
    assert (f.grad[0, 1::2] == 0).all()
    assert (f.grad[0, ::2] != 0).any(dim=1).all()


def test_no_token_hidden_twice_gives_zero() -> None:
    f = torch.randn(1, 4, 5).requires_grad_()
    loss = paired_mask_contrast(f, f, torch.zeros(1, 4, dtype=torch.bool), pairs="matched")
    loss.backward()
    assert loss == 0
    assert (f.grad == 0).all()


def _on_one_of_two() -> tuple[float, list[list[float]]]:
    f, g, hidden = _joined()
    part = slice(0, 2) if rank() == 0 else slice(2, 4)
    f = f[part].requires_grad_()
    loss = paired_mask_contrast(f, g[part], hidden[part], pairs="matched")
    (gradient,) = torch.autograd.grad(loss, f)
    return loss.item(), gradient.tolist()


def _joined() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    f, g = torch.randn(2, 4, 6, 5, generator=generator)
    hidden = torch.zeros(4, 6, dtype=torch.bool)
    hidden[0, 0] = hidden[2:] = True  # one pair on process 0, twelve on process 1
    return f, g, hidden


@pytest.mark.distributed
def test_two_processes_give_value_and_gradient_of_one(
    run_distributed: Callable[..., list[tuple[float, list[list[float]]]]],
) -> None:
    f, g, hidden = _joined()
    f.requires_grad_()
    loss = paired_mask_contrast(f, g, hidden, pairs="matched")
    loss.backward()
    results = run_distributed(_on_one_of_two)
    assert np.mean([value for value, _ in results]) == pytest.approx(loss.item(), rel=1e-6)
    # DDP averages gradients over the processes: half of each process' own is what it contributes.
    contributed = np.concatenate([np.array(gradient) for _, gradient in results]) / 2
    np.testing.assert_allclose(contributed, f.grad.numpy(), atol=1e-7)
