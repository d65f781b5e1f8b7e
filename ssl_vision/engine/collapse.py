"""Is it working? A named verdict on a run, its likely cause, and what to try.

Numbers alone do not help the person who sees a flat loss: 11.0903 is ln 65536, the loss of a
student that answers "any prototype" to every image, and nothing in a curve says so.

Features that lie close together are no collapse by themselves. Sound networks may put all images
into a narrow cone: pooled features of point clouds share one large direction, their spread falls to
a two-hundredth of the untrained network's while kNN accuracy triples. What tells is how images
differ within the cone: in as many directions as before, or in ever fewer. So dimensions are counted
about the mean, a small spread counts only where they dwindle too, and accuracy that has clearly
risen outweighs both.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

LN_TOLERANCE = 0.005  # relative; a loss or entropy this close to ln K is pinned there
MARGINAL_FLOOR = 0.25  # of ln K: the batch as a whole uses few prototypes ...
SHARED = 0.1  # of that entropy: ... and every image the same ones
KNN_DROP = 0.8  # of the untrained network's accuracy
KNN_RISE = 0.1  # of the untrained network's errors are gone: features clearly hold more
STD_NOISE = 1e-4  # of isotropic: what rounding alone makes of equal features
STD_FLOOR = 0.02  # of isotropic: all images lie in a narrow cone ...
STD_DROP = 0.1  # ... or in one this much narrower than the untrained network's ...
RANK_DWINDLING = 0.5  # ... and differ in fewer than this share of its dimensions
STD_EXTREME = 0.01  # of the untrained network's: only with more dimensions than it had
RANK_FLOOR = 1.5  # one direction and a trace of others
RANK_DROP = 0.25  # of the untrained network's dimensions
DEAD_SHARE = 0.5  # of the dimensions


@dataclass(frozen=True)
class Verdict:
    """What the numbers say.

    Attributes:
        name: Short name; "healthy" or the kind of trouble.
        sentence: What was measured, in words.
        advice: Likely cause and what to try; empty when healthy.
    """

    name: str
    sentence: str
    advice: str = ""

    @property
    def is_problem(self) -> bool:
        """Whether somebody should look."""
        return self.name not in ("healthy", "untrained")

    def __str__(self) -> str:
        return f"{self.name}: {self.sentence}{f' {self.advice}' if self.advice else ''}"


def diagnose(
    values: Mapping[str, float],
    *,
    untrained: Mapping[str, float] | None = None,
) -> Verdict:
    """Verdict on a network from what was measured on it.

    Args:
        values: `feature_std`, `centred_rank`, `dead_share` of the features (see
            `evaluation.representation`); of methods with K prototypes also `ln_k`,
            `cross_view` (the loss between crops alone: without patches, KoLeo and others),
            `teacher_entropy` and `teacher_marginal_entropy` (nats); `knn_top1` with labels.
        untrained: The same of the network before training: features that were never diverse are
            no collapse.
    """
    if not all(math.isfinite(value) for value in values.values()):
        return Verdict(
            "diverged",
            "features or losses are not finite.",
            "The learning rate is too high or the precision too low: lower optim.base_lr, lengthen "
            "optim.warmup_epochs, use trainer.precision=bf16 or 32.",
        )
    before = untrained or {}
    return (
        _of_prototypes(values)
        or _of_features(values, before)
        or _of_accuracy(values, before)
        or Verdict(
            "untrained" if not before else "healthy",
            f"feature spread {values['feature_std']:.2g} of 1, effective rank "
            f"{values['centred_rank']:.1f}{_was(before, 'centred_rank')}.",
        )
    )


def _of_features(values: Mapping[str, float], before: Mapping[str, float]) -> Verdict | None:
    if not before:
        return None
    is_spared = _has_risen(values, before)
    spread, rank = values["feature_std"], values["centred_rank"]
    rank_before = before.get("centred_rank", 0.0)  # runs of earlier versions have none
    if not is_spared and _is_lost(spread, rank, before["feature_std"], rank_before):
        return Verdict(
            "complete collapse",
            f"all images have nearly the same feature (spread {spread:.2g} of 1"
            f"{_was(before, 'feature_std', digits=3)}).",
            "The method's guard against the constant solution is off or too weak: for DINO raise "
            "the teacher momentum and check centring and the teacher temperature; for Barlow Twins "
            "raise the redundancy weight; for any method lower optim.base_lr.",
        )
    if not is_spared and rank < max(RANK_FLOOR, RANK_DROP * rank_before):
        return Verdict(
            "dimensional collapse",
            f"images differ in {rank:.1f} effective dimensions{_was(before, 'centred_rank')}.",
            "Dimensions have become copies of each other: raise the redundancy weight (Barlow "
            "Twins), strengthen the augmentations, raise the batch size, or lower optim.base_lr.",
        )
    dead = values.get("dead_share", 0.0)
    if dead > max(DEAD_SHARE, 2 * before.get("dead_share", 0.0)):
        return Verdict(
            "dead dimensions",
            f"{dead:.0%} of the dimensions do not vary between images.",
            "Units have died: lower optim.base_lr or lengthen optim.warmup_epochs.",
        )
    return None


def _of_prototypes(values: Mapping[str, float]) -> Verdict | None:
    if "ln_k" not in values:
        return None
    ln_k, num_prototypes = values["ln_k"], round(math.exp(values["ln_k"]))
    entropy, marginal = values.get("teacher_entropy"), values.get("teacher_marginal_entropy")
    if entropy is not None and marginal is not None and _is_shared(entropy, marginal, ln_k):
        return Verdict(
            "few prototypes",
            f"the teacher puts all images on the same {math.exp(marginal):.1f} of "
            f"{num_prototypes} prototypes.",
            "Centring does not keep up: lower method.center_momentum, raise the teacher "
            "temperature, or use method.centering=sinkhorn.",
        )
    if entropy is not None and _is_pinned(entropy, ln_k):
        return Verdict(
            "uniform teacher",
            f"the teacher's answers are uniform: entropy {entropy:.4f} = ln {num_prototypes}.",
            "Sharpening is too weak: lower method.teacher_temperature, shorten its warm-up, or "
            "lower optim.base_lr.",
        )
    if "cross_view" in values and _is_pinned(values["cross_view"], ln_k):
        return Verdict(
            "loss at ln K",
            f"the loss between crops, {values['cross_view']:.4f}, is ln K = {ln_k:.4f}: the "
            "student answers every image with the uniform distribution.",
            "Nothing is learnt yet, or the teacher is uniform: after the first epochs, lower the "
            "teacher temperature and check that the last layer is not frozen throughout.",
        )
    return None


def _of_accuracy(values: Mapping[str, float], before: Mapping[str, float]) -> Verdict | None:
    now, then = values.get("knn_top1"), before.get("knn_top1")
    if now is None or then is None or now >= KNN_DROP * then:
        return None
    return Verdict(
        "worse than untrained",
        f"kNN accuracy {now:.1%}, {then:.1%} before training.",
        "The features lose what random weights keep: the run may be too young; if it stays so, "
        "lower optim.base_lr, check that the views still show the same thing (data.views), and "
        "look at the views in report.html.",
    )


def _is_lost(spread: float, rank: float, spread_before: float, rank_before: float) -> bool:
    """Whether features lie close together without a sign of being sound.

    Sound runs that narrowed 200 times had 1.6 to 4 times the dimensions of before; runs at far too
    high a rate had 0.3 (MAE, 75 times narrower) and 0.95 (Point-MAE, 4000 times) of them.
    """
    if spread < STD_NOISE:
        return True
    if spread < STD_EXTREME * spread_before:
        return rank < rank_before
    is_narrow = spread < max(STD_FLOOR, STD_DROP * spread_before)
    return is_narrow and rank < RANK_DWINDLING * rank_before


def _has_risen(values: Mapping[str, float], before: Mapping[str, float]) -> bool:
    """Whether kNN makes clearly fewer errors than on the untrained network."""
    now, then = values.get("knn_top1"), before.get("knn_top1")
    return now is not None and then is not None and 1 - now <= (1 - KNN_RISE) * (1 - then)


def _is_shared(entropy: float, marginal: float, ln_k: float) -> bool:
    """Whether few prototypes serve the batch, and every image answers with about the same."""
    return marginal < MARGINAL_FLOOR * ln_k and marginal - entropy <= SHARED * marginal


def _is_pinned(value: float, ln_k: float) -> bool:
    return abs(value - ln_k) < LN_TOLERANCE * ln_k


def _was(before: Mapping[str, float], name: str, *, digits: int = 1) -> str:
    return f", {before[name]:.{digits}f} before training" if name in before else ""
