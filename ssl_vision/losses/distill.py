"""A student learns from a frozen teacher: its class probabilities, or its features.

Class probabilities: Hinton et al. 2015 (arXiv 1503.02531); as the third stage of SimCLRv2, Chen et
al. 2020, arXiv 2006.10029, equation 2. Features: cosine, and smooth L1 of normed features.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_vision.losses.distillation import cross_entropy_rows
from ssl_vision.losses.latent import latent_loss, latent_targets
from ssl_vision.types import at_least_float32


def class_distillation(
    student_logits: Tensor, teacher_logits: Tensor, *, temperature: float
) -> Tensor:
    """tau^2 * cross-entropy of softmax(teacher / tau) and softmax(student / tau), batch mean.

    The factor keeps gradients of one size whatever tau is, as Hinton et al. advise.

    Args:
        student_logits: (B, classes).
        teacher_logits: (B, classes).
        temperature: tau, of both.
    """
    targets = torch.softmax(at_least_float32(teacher_logits.detach()) / temperature, dim=-1)
    rows = cross_entropy_rows(student_logits, targets, temperature=temperature)
    return temperature**2 * rows.mean()


def cosine_distance(predicted: Tensor, target: Tensor) -> Tensor:
    """1 - cosine of the angle between rows, averaged, (..., D); 0 where they point alike."""
    cosine = F.cosine_similarity(at_least_float32(predicted), at_least_float32(target), dim=-1)
    return 1 - cosine.mean()


def squared_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared Euclidean distance of rows, summed over dimensions and averaged over the batch.

    The match of self-distillation for further pre-training, Lee et al. 2023, arXiv 2210.02871.

    Args:
        student: (B, D).
        teacher: (B, D).
    """
    difference = at_least_float32(student) - at_least_float32(teacher.detach())
    return difference.square().sum(dim=-1).mean()


def normed_distance(predicted: Tensor, target: Tensor) -> Tensor:
    """Smooth L1 from the target's rows, each normed over its channels, (..., D)."""
    return latent_loss(predicted, latent_targets(target))


FEATURE_LOSSES = {"cosine": cosine_distance, "smooth_l1": normed_distance}
