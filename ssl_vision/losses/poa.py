"""POA's loss: two students, the intact network and a part of it, learn from one teacher.

Zhang et al. 2024 (arXiv 2408.01031), equations 5 to 13, in the form of the official code. For one
head, with teacher targets p_g of the global crops, logits s_v of a student's crops, and
CE(p, s) = -sum_k p_k log softmax(s / tau)_k:

    cross(S) = mean over pairs g, v of different crops of CE(p_g, s_v)
    patch(S) = mean over images of (mean over the image's masked patches of CE(q_i, s_i))
    same     = mean over local crops of CE(softmax(intact / tau), elastic)
             + mean over global crops of the same
    head     = lambda [cross(I) + patch(I)] + (1 - lambda) [cross(E) + patch(E)] + (1 - lambda) same
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ssl_vision.losses.distillation import (
    cross_entropy_rows,
    masked_patch_entropy,
    pairwise_cross_entropy,
)

Pooling = Literal["pooled", "separate"]


class Logits(NamedTuple):
    """What one head makes of one student's view of B images.

    Attributes:
        crops: Class tokens, global crops first, (V, B, K).
        patches: Masked patches of the global crops, (M, K); None while they are not learned.
    """

    crops: Tensor
    patches: Tensor | None = None


class Targets(NamedTuple):
    """Teacher's distributions for one head.

    Attributes:
        crops: Of the global crops, (G, B, K).
        patches: Of the patches masked from the students, (M, K), or None.
        patch_weight: 1 / (masked patches in the crop), (M,), or None.
    """

    crops: Tensor
    patches: Tensor | None = None
    patch_weight: Tensor | None = None


class PoaTerms(NamedTuple):
    """Unweighted terms of one head.

    Attributes:
        cross_intact: Teacher to intact student, across crops.
        cross_elastic: Teacher to elastic student, across crops.
        patch_intact: Teacher to intact student, masked patches; 0 while they are not learned.
        patch_elastic: Likewise for the elastic student.
        same: Intact to elastic student, each crop with itself.
    """

    cross_intact: Tensor
    cross_elastic: Tensor
    patch_intact: Tensor
    patch_elastic: Tensor
    same: Tensor


def poa_terms(
    targets: Targets, intact: Logits, elastic: Logits, *, temperature: float, pooling: Pooling
) -> PoaTerms:
    """All terms of one head.

    Args:
        targets: The teacher's.
        intact: Of the whole student; its class tokens also teach the elastic one.
        elastic: Of the sub-network.
        temperature: The students', tau.
        pooling: How pairs of crops are averaged; see `cross_term`.
    """
    num_global = len(targets.crops)
    return PoaTerms(
        cross_intact=cross_term(targets, intact, temperature=temperature, pooling=pooling),
        cross_elastic=cross_term(targets, elastic, temperature=temperature, pooling=pooling),
        patch_intact=_patch_term(targets, intact, temperature=temperature),
        patch_elastic=_patch_term(targets, elastic, temperature=temperature),
        same=same_view_term(
            intact.crops, elastic.crops, temperature=temperature, num_global=num_global
        ),
    )


def cross_term(
    targets: Targets, student: Logits, *, temperature: float, pooling: Pooling
) -> Tensor:
    """Cross-entropy of a student's crops to the teacher's other crops.

    Args:
        targets: The teacher's.
        student: One student's.
        temperature: The student's.
        pooling: `pooled` is the official code (and DINOv2): one mean over all pairs, so with 8
            local crops the global ones weigh 2 of 18. `separate` is the paper (equations 6 to 10):
            the mean over pairs of global crops plus the mean over pairs with a local one.
    """
    pairs = pairwise_cross_entropy(student.crops, targets.crops, temperature=temperature)  # (G, V)
    num_global, num_crops = pairs.shape
    is_other = ~torch.eye(num_global, num_crops, dtype=torch.bool, device=pairs.device)
    others = pairs * is_other
    if pooling == "pooled":
        return others.sum() / (num_global * num_crops - num_global)
    between_global = others[:, :num_global].sum() / (num_global * (num_global - 1))
    if num_crops == num_global:
        return between_global
    return between_global + others[:, num_global:].mean()


def same_view_term(
    intact: Tensor, elastic: Tensor, *, temperature: float, num_global: int
) -> Tensor:
    """Cross-entropy of the elastic student to the intact one, each crop with itself.

    The intact student is a fixed target here, sharpened by the students' own temperature and
    neither centred nor balanced.

    Args:
        intact: Logits of class tokens, global crops first, (V, B, K).
        elastic: Likewise.
        temperature: Of both.
        num_global: Global crops; their mean and that of the local crops are added.
    """
    with torch.no_grad():
        targets = torch.softmax(intact.float() / temperature, dim=-1)
    rows = cross_entropy_rows(elastic, targets, temperature=temperature)  # (V, B)
    total = rows[:num_global].mean()
    return total + rows[num_global:].mean() if len(rows) > num_global else total


def _patch_term(targets: Targets, student: Logits, *, temperature: float) -> Tensor:
    if targets.patches is None or student.patches is None or targets.patch_weight is None:
        return student.crops.new_zeros((), dtype=torch.float32)
    return masked_patch_entropy(
        student.patches,
        targets.patches,
        temperature=temperature,
        weight=targets.patch_weight,
        num_images=targets.crops.shape[0] * targets.crops.shape[1],
    )


def poa_loss(
    terms: PoaTerms, *, intact_weight: float, has_cross_view: bool, has_same_view: bool
) -> Tensor:
    """Weighted sum of one head's terms.

    Args:
        terms: From `poa_terms`.
        intact_weight: Lambda; the elastic student weighs 1 - lambda.
        has_cross_view: Whether the elastic student learns from the teacher.
        has_same_view: Whether it learns from the intact student.
    """
    loss = intact_weight * (terms.cross_intact + terms.patch_intact)
    if has_cross_view:
        loss = loss + (1 - intact_weight) * (terms.cross_elastic + terms.patch_elastic)
    if has_same_view:
        loss = loss + (1 - intact_weight) * terms.same
    return loss
