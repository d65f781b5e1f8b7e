import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ssl_vision.losses.distillation import sinkhorn
from ssl_vision.losses.koleo import koleo
from ssl_vision.losses.poa import (
    Logits,
    PoaTerms,
    Targets,
    cross_term,
    poa_loss,
    poa_terms,
    same_view_term,
)
from ssl_vision.masking import patch_weights

V_LOCAL, B, K, TAU = 3, 4, 7, 0.1


def example(*, seed: int = 0) -> tuple[Targets, Logits, Logits]:
    generator = torch.Generator().manual_seed(seed)

    def logits(*shape: int) -> Tensor:
        return torch.randn(*shape, K, generator=generator)

    masked_per_image = [2, 0, 3, 0, 1, 0, 0, 0]  # of the 2 B global crops
    weight = torch.tensor([1 / n for n in masked_per_image for _ in range(n)])
    targets = Targets(logits(2, B).softmax(-1), logits(6).softmax(-1), weight)
    return (
        targets,
        Logits(logits(2 + V_LOCAL, B), logits(6)),
        Logits(logits(2 + V_LOCAL, B), logits(6)),
    )


def entropy_of(target: Tensor, logits: Tensor) -> float:
    """CE(p, s) of one row, from the equation."""
    scores = [math.exp(float(z) / TAU) for z in logits]
    return -sum(float(p) * math.log(s / sum(scores)) for p, s in zip(target, scores, strict=True))


@pytest.mark.parametrize("pooling", ["pooled", "separate"])
def test_cross_term_is_the_papers_double_sum(pooling: Any) -> None:
    targets, student, _ = example()
    num_crops = 2 + V_LOCAL
    pairs = {
        (g, v): sum(entropy_of(targets.crops[g, b], student.crops[v, b]) for b in range(B)) / B
        for g in range(2)
        for v in range(num_crops)
        if g != v
    }
    if pooling == "pooled":
        assert len(pairs) == 2 * V_LOCAL + 2
        expected = sum(pairs.values()) / len(pairs)
    else:
        between = (pairs[0, 1] + pairs[1, 0]) / 2
        local = [value for (_, v), value in pairs.items() if v >= 2]
        expected = between + sum(local) / len(local)
    found = cross_term(targets, student, temperature=TAU, pooling=pooling)
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_same_view_term_adds_two_means_and_spares_the_intact_student() -> None:
    _, intact, elastic = example()
    rows = [
        [entropy_of((intact.crops[v, b] / TAU).softmax(-1), elastic.crops[v, b]) for b in range(B)]
        for v in range(2 + V_LOCAL)
    ]
    expected = np.mean(rows[:2]) + np.mean(rows[2:])
    teacher = intact.crops.requires_grad_()
    found = same_view_term(teacher, elastic.crops.requires_grad_(), temperature=TAU, num_global=2)
    assert float(found.detach()) == pytest.approx(expected, rel=1e-5)
    found.backward()
    assert teacher.grad is None


def test_patches_are_averaged_by_image_over_all_images() -> None:
    targets, student, elastic = example()
    terms = poa_terms(targets, student, elastic, temperature=TAU, pooling="pooled")
    rows = [entropy_of(targets.patches[i], student.patches[i]) for i in range(6)]
    expected = (sum(rows[:2]) / 2 + sum(rows[2:5]) / 3 + rows[5]) / (2 * B)
    assert float(terms.patch_intact) == pytest.approx(expected, rel=1e-5)


def test_without_local_crops_or_patches() -> None:
    targets, student, elastic = example()
    terms = poa_terms(
        Targets(targets.crops),
        Logits(student.crops[:2]),
        Logits(elastic.crops[:2]),
        temperature=TAU,
        pooling="separate",
    )
    assert terms.patch_intact == terms.patch_elastic == 0
    pooled = cross_term(
        Targets(targets.crops), Logits(student.crops[:2]), temperature=TAU, pooling="pooled"
    )
    assert torch.allclose(terms.cross_intact, pooled)


def test_each_switch_removes_its_terms() -> None:
    terms = PoaTerms(*(torch.tensor(float(10**i)) for i in range(5)))

    def weighted(weight: float, cross: bool, same: bool) -> float:
        return float(
            poa_loss(terms, intact_weight=weight, has_cross_view=cross, has_same_view=same)
        )

    assert weighted(0.75, True, True) == 0.75 * 101 + 0.25 * 1010 + 0.25 * 10000
    assert weighted(0.75, False, True) == 0.75 * 101 + 0.25 * 10000
    assert weighted(0.75, True, False) == 0.75 * 101 + 0.25 * 1010
    assert weighted(1.0, True, True) == 101


# The official code --------------------------------------------------------------------------


def official_run(arrays: dict[str, np.ndarray], tag: str, temperature: float) -> float:
    """Total of one dumped step, from its logits."""
    mask = torch.from_numpy(arrays["in.masks"])
    has_patches = tag == "a"
    num_patches = int(mask.sum()) if has_patches else 0
    batch = len(mask) // 2

    def load(name: str) -> Tensor:
        return torch.from_numpy(arrays[f"run.{tag}.logits.{name}"])

    totals = []
    for head in ("head0", "head1"):
        teacher = load(f"teacher.{head}")
        second, first = teacher[: 2 * batch].chunk(2)  # dumped with the views swapped
        crops = sinkhorn(torch.cat([first, second]), temperature=temperature)
        patches = None
        if has_patches:
            rows = teacher[2 * batch : 2 * batch + num_patches]
            patches = sinkhorn(rows, temperature=temperature)
        students = []
        for branch in ("intact", "elastic"):
            rows = load(f"{branch}.{head}")
            local, both = rows[: V_LOCAL * batch], rows[V_LOCAL * batch :][: 2 * batch]
            students.append(
                Logits(
                    torch.cat([both, local]).unflatten(0, (-1, batch)),
                    rows[(V_LOCAL + 2) * batch :][:num_patches] if has_patches else None,
                )
            )
        terms = poa_terms(
            Targets(crops.unflatten(0, (2, -1)), patches, patch_weights(mask)),
            *students,
            temperature=0.1,
            pooling="pooled",
        )
        totals.append(poa_loss(terms, intact_weight=0.8, has_cross_view=True, has_same_view=True))
    spread = sum(koleo(torch.from_numpy(arrays[f"run.{tag}.koleo.{i}.in"])) for i in range(4))
    return float(sum(totals) / 2 + 0.1 / 2 * spread)


@pytest.mark.parametrize("tag", ["a", "c"])
def test_official_totals_from_logits(
    tag: str, golden: Callable[[str], dict[str, np.ndarray]]
) -> None:
    arrays = golden("poa_loss")
    (run,) = [r for r in json.loads(str(arrays["meta"]))["runs"] if r["tag"] == tag]
    found = official_run(arrays, tag, run["teacher_temp"])
    assert found == pytest.approx(float(arrays[f"run.{tag}.total"]), abs=1e-6 * run["total"])


def test_official_sinkhorn_and_koleo(golden: Callable[[str], dict[str, np.ndarray]]) -> None:
    arrays = golden("poa_loss")
    balanced = sinkhorn(torch.from_numpy(arrays["sk.logits"]), temperature=0.07)
    np.testing.assert_allclose(balanced.numpy(), arrays["sk.out_t0.07"], atol=1e-6)
    np.testing.assert_allclose(balanced.numpy(), arrays["sk.patch_out_t0.07"], atol=1e-6)
    spread = koleo(torch.from_numpy(arrays["koleo.in"]))
    assert float(spread) == pytest.approx(float(arrays["koleo.out"]), abs=1e-6)
