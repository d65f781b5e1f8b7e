"""Mixup and CutMix of a batch: timm's, with draws from a key."""

from timm.data.mixup import Mixup
from torch import Tensor

from ssl_vision.randomness import seeded


def mix_batch(
    images: Tensor,
    labels: Tensor,
    *,
    num_classes: int,
    smoothing: float,
    mixup_alpha: float,
    cutmix_alpha: float,
    switch_prob: float,
    prob: float,
    key: int,
) -> tuple[Tensor, Tensor]:
    """Images mixed with the batch reversed, one draw per batch, and their soft labels.

    Args:
        images: (B, C, S, S) with an even B; left as they are.
        labels: Class ids, int64, (B,).
        num_classes: Number of classes C.
        smoothing: Label smoothing; also of batches that stay un-mixed.
        mixup_alpha: Both parameters of Mixup's Beta distribution; 0 switches Mixup off.
        cutmix_alpha: Both parameters of CutMix's Beta distribution; 0 switches CutMix off.
        switch_prob: Probability of CutMix where both are on.
        prob: Probability of mixing the batch at all.
        key: From `derive_key`; the same key gives the same mix.

    Returns:
        Images (B, C, S, S) and label distributions (B, C).
    """
    mixer = Mixup(
        mixup_alpha=mixup_alpha,
        cutmix_alpha=cutmix_alpha,
        prob=prob,
        switch_prob=switch_prob,
        label_smoothing=smoothing,
        num_classes=num_classes,
    )
    with seeded(key):  # timm draws from NumPy's global generator
        mixed, targets = mixer(images.clone(), labels)
    return mixed, targets
