"""Loss terms of SMMix (Chen et al. 2022, arXiv 2212.12977, section 3.3), and soft labels.

The total is their plain sum: classification of the mixed image, fine-grained labels of its output
tokens, and consistency with the un-mixed images.
"""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor


class SmmixTerms(NamedTuple):
    """The three terms, each a scalar of weight 1 in the authors' total."""

    classification: Tensor
    fine_grained: Tensor
    consistency: Tensor

    @property
    def total(self) -> Tensor:
        """Sum of the three terms."""
        return self.classification + self.fine_grained + self.consistency


def smooth_labels(labels: Tensor, *, num_classes: int, smoothing: float) -> Tensor:
    """Class ids (B,) -> distributions (B, classes): smoothing/classes everywhere, the rest on y."""
    one_hot = F.one_hot(labels, num_classes).float()
    return one_hot * (1.0 - smoothing) + smoothing / num_classes


def mix_labels(labels: Tensor, *, area: float) -> Tensor:
    """Labels (B, classes) of mixed images: `area` of the image's own, the rest its partner's."""
    return area * labels + (1.0 - area) * labels.flip(0)


def soft_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Batch mean of -sum_c target_c log softmax(logits)_c; both (B, classes)."""
    return -(target * F.log_softmax(logits.float(), dim=-1)).sum(dim=-1).mean()


def masked_token_means(patches: Tensor, is_source: Tensor) -> tuple[Tensor, Tensor]:
    """Mean token of each image's own patches, and of the pasted ones, both (B, D).

    Args:
        patches: Patch tokens after the last norm, (B, N, D).
        is_source: Patches that came from the partner, bool, (B, N); neither kind may be missing.
    """
    weight = is_source.to(patches.dtype)
    source = (weight[:, None] @ patches).squeeze(1) / weight.sum(dim=1, keepdim=True)
    own = 1.0 - weight
    target = (own[:, None] @ patches).squeeze(1) / own.sum(dim=1, keepdim=True)
    return target, source


def fine_grained_loss(target_logits: Tensor, source_logits: Tensor, labels: Tensor) -> Tensor:
    """Each region's tokens against the label of the image they came from.

    Args:
        target_logits: Of the mean token of the image's own region, (B, classes).
        source_logits: Of the mean token of the pasted region, (B, classes).
        labels: Label distributions of the un-mixed images, (B, classes).
    """
    own = soft_cross_entropy(target_logits, labels)
    pasted = soft_cross_entropy(source_logits, labels.flip(0))
    return 0.5 * (own + pasted)


def consistency_loss(mixed_logits: Tensor, unmixed_logits: Tensor, *, area: float) -> Tensor:
    """KL divergence from what the un-mixed images, mixed by area, predict; batch mean.

    The logits are mixed, then softmaxed (as the authors' code has it). The gradient reaches the
    mixed image only.

    Args:
        mixed_logits: Of the mixed images, (B, classes).
        unmixed_logits: Of the images before mixing, (B, classes).
        area: Share of the image that stayed its own.
    """
    unmixed = unmixed_logits.detach().float()
    target = mix_labels(unmixed, area=area).log_softmax(dim=-1)
    prediction = mixed_logits.float().log_softmax(dim=-1)
    return F.kl_div(prediction, target, reduction="batchmean", log_target=True)


def smmix_loss(
    mixed_logits: Tensor,
    target_logits: Tensor,
    source_logits: Tensor,
    unmixed_logits: Tensor,
    labels: Tensor,
    *,
    area: float,
) -> SmmixTerms:
    """All terms of one batch; the arguments are those of the functions above.

    Args:
        mixed_logits: Class logits of the mixed images, (B, classes).
        target_logits: Token logits of the image's own region, (B, classes).
        source_logits: Token logits of the pasted region, (B, classes).
        unmixed_logits: Class logits of the images before mixing, (B, classes).
        labels: Label distributions of the images before mixing, (B, classes).
        area: Share of the image that stayed its own.
    """
    return SmmixTerms(
        classification=soft_cross_entropy(mixed_logits, mix_labels(labels, area=area)),
        fine_grained=fine_grained_loss(target_logits, source_logits, labels),
        consistency=consistency_loss(mixed_logits, unmixed_logits, area=area),
    )
