"""Self-distillation: cross-entropy between teacher and student, centring, Sinkhorn.

DINO (Caron et al. 2021), iBOT (Zhou et al. 2022), DINOv2 (Oquab et al. 2023). Softmax and
logarithms are taken in float32 or more, whatever precision the logits have.
"""

import torch
import torch.distributed as dist
from torch import Tensor

from ssl_vision.distributed import is_distributed
from ssl_vision.types import at_least_float32


def dino_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    center: Tensor | float,
    student_temperature: float,
    teacher_temperature: float,
    num_views: int,
    num_teacher_views: int = 2,
) -> Tensor:
    """Cross-entropy of every student view to every teacher view of another crop (equation 3).

    Args:
        student_logits: Rows crop by crop, teacher's crops first, (num_views * B, K).
        teacher_logits: Rows crop by crop, (num_teacher_views * B, K).
        center: Running mean of teacher logits before this batch, (K,) or (1, K); 0 for none.
        student_temperature: tau_s, 0.1 in the paper.
        teacher_temperature: tau_t, 0.04 to 0.07.
        num_views: V, crops the student sees.
        num_teacher_views: Crops the teacher sees.
    """
    targets = centered_targets(teacher_logits, center=center, temperature=teacher_temperature)
    return cross_view_entropy(
        student_logits.view(num_views, -1, student_logits.shape[-1]),
        targets.view(num_teacher_views, -1, targets.shape[-1]),
        temperature=student_temperature,
    )


@torch.no_grad()
def centered_targets(
    teacher_logits: Tensor, *, center: Tensor | float, temperature: float
) -> Tensor:
    """Teacher's distributions: softmax of centred, sharpened logits, (..., K)."""
    return torch.softmax((at_least_float32(teacher_logits) - center) / temperature, dim=-1)


def cross_view_entropy(student_logits: Tensor, targets: Tensor, *, temperature: float) -> Tensor:
    """Mean cross-entropy over all pairs of a teacher crop and another student crop.

    Args:
        student_logits: (V, B, K), the teacher's crops first.
        targets: Distributions of the teacher's crops, (G, B, K).
        temperature: The student's.
    """
    pairs = pairwise_cross_entropy(student_logits, targets, temperature=temperature)  # (G, V)
    is_other = ~torch.eye(*pairs.shape, dtype=torch.bool, device=pairs.device)
    # A product, not a selection: boolean indexing would wait for the device.
    return (pairs * is_other).sum() / (pairs.numel() - min(pairs.shape))


def pairwise_cross_entropy(
    student_logits: Tensor, targets: Tensor, *, temperature: float
) -> Tensor:
    """Cross-entropy of every teacher crop and student crop, averaged over the batch, (G, V).

    -sum_k p log softmax(z) is (sum_k p) logsumexp(z) - p.z: all pairs together are one matrix
    product, and no log-probabilities are stored.

    Args:
        student_logits: (V, B, K).
        targets: Distributions, (G, B, K).
        temperature: The student's.
    """
    with torch.autocast(student_logits.device.type, enabled=False):
        logits = at_least_float32(student_logits) / temperature
        targets = targets.to(logits.dtype)
        mass = targets.sum(dim=-1)  # (G, B), 1 up to rounding
        agreement = targets.flatten(1) @ logits.flatten(1).T
        return (mass @ logits.logsumexp(dim=-1).T - agreement) / logits.shape[1]


def cross_entropy_rows(student_logits: Tensor, targets: Tensor, *, temperature: float) -> Tensor:
    """Cross-entropy of each row, (M, K) and (M, K) -> (M,)."""
    with torch.autocast(student_logits.device.type, enabled=False):
        logits = at_least_float32(student_logits) / temperature
        targets = targets.to(logits.dtype)
        return targets.sum(-1) * logits.logsumexp(dim=-1) - (targets * logits).sum(-1)


def masked_patch_entropy(
    student_logits: Tensor,
    targets: Tensor,
    *,
    temperature: float,
    weight: Tensor,
    num_images: int,
) -> Tensor:
    """Cross-entropy on masked patches (iBOT), weighted as DINOv2 and POA do.

    Each image's patches are averaged, then the images; images without masked patches count as 0.

    Args:
        student_logits: Of masked patches only, (M, K).
        targets: Teacher's distributions of the same patches, (M, K).
        temperature: The student's.
        weight: 1 / (masked patches in the row's image), (M,); see `masking.patch_weights`.
        num_images: Images of the batch, masked or not (2 B for two global crops).
    """
    rows = cross_entropy_rows(student_logits, targets, temperature=temperature)
    return (rows * weight).sum() / num_images


@torch.no_grad()
def sinkhorn(logits: Tensor, *, temperature: float, iterations: int = 3) -> Tensor:
    """Distributions in which every prototype gets the same total (SwAV, DINOv2), (M, K).

    Rows of all processes take part; processes may hold different numbers of rows, and none.
    The usual factors M and K cancel and are left out.

    Args:
        logits: Teacher logits, (M, K).
        temperature: The teacher's.
        iterations: Rounds of equalising prototypes, then samples.
    """
    scaled = at_least_float32(logits) / temperature
    # One shift for all rows of all processes: it cancels, and exp cannot overflow.
    q = torch.exp(scaled - _global_max(scaled))
    for _ in range(iterations):
        q = q / _global_column_sums(q)
        q = q / q.sum(dim=1, keepdim=True)
    return q


def entropy(distributions: Tensor) -> Tensor:
    """Mean entropy of distributions, in nats, (..., K) -> scalar; ln K is uniform."""
    return torch.special.entr(distributions).sum(dim=-1).mean()


def _global_max(values: Tensor) -> Tensor:
    largest = values.max() if values.numel() else values.new_tensor(-torch.inf)
    if is_distributed():
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return largest


def _global_column_sums(q: Tensor) -> Tensor:
    sums = q.sum(dim=0, keepdim=True)
    if is_distributed():
        dist.all_reduce(sums)
    return sums
