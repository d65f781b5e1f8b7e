"""Is it working? A named verdict on a run against its start, its likely cause, and what to try.

Numbers alone do not help the person who sees a flat loss: 11.0903 is ln 65536, the loss of a
student that answers "any prototype" to every image, and nothing in a curve says so.

Features that lie close together are no collapse by themselves. Sound networks may put all images
into a narrow cone: pooled features of point clouds share one large direction, their spread falls to
a two-hundredth of the untrained network's while kNN accuracy triples. What tells is how images
differ within the cone: in as many directions as before, or in ever fewer. So dimensions are counted
about the mean, a small spread counts only where they dwindle too, and accuracy that has clearly
risen outweighs both.

"Healthy" is said only of features that are not worse than those of the start: by kNN where there
are labels, by the number of dimensions where there are none.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

LN_TOLERANCE = 0.005  # relative; a loss or entropy this close to ln K is pinned there
MARGINAL_FLOOR = 0.25  # of ln K: the batch as a whole uses few prototypes ...
SHARED = 0.1  # of that entropy: ... and every image the same ones
KNN_RISE = 0.1  # of the start's errors are gone: features clearly hold more
Z_ONE_SIDED = 1.645  # 95 %: a fall this many standard errors deep is not the draw of the images
STD_NOISE = 1e-4  # of isotropic: what rounding alone makes of equal features
STD_FLOOR = 0.02  # of isotropic: all images lie in a narrow cone ...
STD_DROP = 0.1  # ... or in one this much narrower than the start's ...
RANK_DWINDLING = 0.5  # ... and differ in fewer than this share of its dimensions
STD_EXTREME = 0.01  # of the start's: only with more dimensions than it had
RANK_FLOOR = 1.5  # one direction and a trace of others
RANK_DROP = 0.25  # of the start's dimensions
RANK_LESS = 0.9  # of them: fewer, beyond what the draw of views and order makes
DEAD_SHARE = 0.5  # of the dimensions


# Names of verdicts that are no problem.
FINE = ("healthy", "no gain", "untrained", "the start", "not compared")


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What a run is held against.

    Attributes:
        start: What `diagnose` takes, of the network before the first update; None where that
            network is the one that is judged, empty where nothing is known of it.
        has_weights: Whether training started from given weights: then it is not "untrained".
        num_test: Images behind `knn_top1`; 0 without labels.
        majority: Share of them that the largest class alone gets right; None without labels.
        raw_name: What the inputs themselves are called; `raw_knn_top1` of the start is their kNN.
    """

    start: Mapping[str, float] | None = None
    has_weights: bool = False
    num_test: int = 0
    majority: float | None = None
    raw_name: str = "raw pixels"

    @property
    def origin(self) -> str:
        """Name of the state before training, for messages."""
        return "the weights started from" if self.has_weights else "untrained"

    def was(self, name: str, *, digits: int = 1) -> str:
        """A number of the start, to follow the one of now."""
        then = self.then(name)
        return "" if then is None else f", {then:.{digits}f} ({self.origin})"

    def then(self, name: str) -> float | None:
        """A number of the start, if it is known."""
        return None if self.start is None else self.start.get(name)


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
        """Whether the run may have failed and somebody should look at it."""
        return self.name not in FINE

    def __str__(self) -> str:
        return f"{self.name}: {self.sentence}{f' {self.advice}' if self.advice else ''}"


def diagnose(
    values: Mapping[str, float],
    *,
    reference: Reference | None = None,
) -> Verdict:
    """Verdict on a network from what was measured on it.

    Args:
        values: `feature_std`, `centred_rank`, `dead_share` of the features (see
            `evaluation.representation`); of methods with K prototypes also `ln_k`,
            `cross_view` (the loss between crops alone: without patches, KoLeo and others),
            `teacher_entropy` and `teacher_marginal_entropy` (nats); `knn_top1` with labels.
        reference: What they are held against: features that were never diverse are no collapse.
            Without a start in it, the values are the start.
    """
    if not all(math.isfinite(value) for value in values.values()):
        return Verdict(
            "diverged",
            "features or losses are not finite.",
            "The learning rate is too high or the precision too low: lower optim.base_lr, lengthen "
            "optim.warmup_epochs, use trainer.precision=bf16 or 32.",
        )
    known = reference or Reference()
    if known.start is None:
        name = "the start" if known.has_weights else "untrained"
        return _of_prototypes(values) or Verdict(name, _described(values, known))
    return (
        _of_prototypes(values)
        or _of_features(values, known)
        or _of_accuracy(values, known)
        or _of_dimensions(values, known)
        or Verdict("healthy" if known.start else "not compared", _described(values, known))
    )


def _described(values: Mapping[str, float], known: Reference) -> str:
    """The numbers behind a verdict that finds nothing."""
    accuracy = values.get("knn_top1")
    return (
        f"{'' if accuracy is None else _compared(accuracy, known) + '; '}"
        f"feature spread {values['feature_std']:.2g} of 1, effective rank "
        f"{values['centred_rank']:.1f}{known.was('centred_rank')}."
    )


def _compared(accuracy: float, known: Reference) -> str:
    """Accuracy beside that of the start and, where it is not better, of the inputs themselves."""
    then = known.then("knn_top1")
    parts = [f"kNN {_percent(accuracy)}"]
    parts += [] if then is None else [f"{_percent(then)} ({known.origin})"]
    raw = known.then("raw_knn_top1")
    if raw is not None and accuracy <= raw:
        parts.append(f"not better than {known.raw_name} ({_percent(raw)})")
    return ", ".join(parts)


def _of_features(values: Mapping[str, float], known: Reference) -> Verdict | None:
    before = known.start
    if not before:
        return None
    is_spared = _has_risen(values, before)
    spread, rank = values["feature_std"], values["centred_rank"]
    rank_before = before.get("centred_rank", 0.0)  # runs of earlier versions have none
    if not is_spared and _is_lost(spread, rank, before["feature_std"], rank_before):
        return Verdict(
            "complete collapse",
            f"all images have nearly the same feature (spread {spread:.2g} of 1"
            f"{known.was('feature_std', digits=3)}).",
            "The method's guard against the constant solution is off or too weak: for DINO raise "
            "the teacher momentum and check centring and the teacher temperature; for Barlow Twins "
            "raise the redundancy weight; for any method lower optim.base_lr.",
        )
    if not is_spared and rank < max(RANK_FLOOR, RANK_DROP * rank_before):
        return Verdict(
            "dimensional collapse",
            f"images differ in {rank:.1f} effective dimensions{known.was('centred_rank')}.",
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


def _of_accuracy(values: Mapping[str, float], known: Reference) -> Verdict | None:
    now, then = values.get("knn_top1"), known.then("knn_top1")
    if now is None:
        return None
    if then is not None and then - now > _least_fall(then, now, known.num_test):
        return Verdict(
            "worse than untrained" if not known.has_weights else "worse than the start",
            f"kNN fell from {_percent(then)} ({known.origin}) to {_percent(now)}: "
            "the features got worse.",
            "The run may be too young; if it stays so, lower optim.base_lr, check that the views "
            "still show the same thing (data.views), and look at the views in report.html.",
        )
    if known.majority is not None and now <= known.majority:
        return Verdict(
            "below the majority class",
            f"kNN {_percent(now)} is not above the {_percent(known.majority)} that the largest "
            "class alone gives.",
            "The features say nothing of these classes: the run may be too young, the views may "
            "hide what tells classes apart, or labels may not belong to their images.",
        )
    if then is not None and now <= then and now < 1:
        least = _percent(_least_fall(then, now, known.num_test))
        return Verdict(
            "no gain",
            f"{_compared(now, known)}; {known.num_test} test images tell falls of {least} or more.",
        )
    return None


def _of_dimensions(values: Mapping[str, float], known: Reference) -> Verdict | None:
    """Without labels, fewer dimensions than at the start are all that can be seen."""
    rank, then = values["centred_rank"], known.then("centred_rank")
    if "knn_top1" in values or then is None or rank >= RANK_LESS * then:
        return None
    return Verdict(
        "fewer dimensions",
        f"images differ in {rank:.1f} effective dimensions{known.was('centred_rank')}: without "
        "labels nothing says that the features got better.",
        "Give data.val_path or class folders to have kNN judge it; if the dimensions go on "
        "falling, strengthen the augmentations or lower optim.base_lr.",
    )


def _least_fall(then: float, now: float, num_test: int) -> float:
    """The fall of an accuracy that the draw of the test images does not explain.

    Both accuracies are of the same images and rise and fall together with them, by about a half:
    their difference then has the variance of one of them.
    """
    share = (then + now) / 2
    return Z_ONE_SIDED * math.sqrt(share * (1 - share) / num_test) if num_test else 0.0


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


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
    """Whether kNN makes clearly fewer errors than at the start."""
    now, then = values.get("knn_top1"), before.get("knn_top1")
    return now is not None and then is not None and 1 - now <= (1 - KNN_RISE) * (1 - then)


def _is_shared(entropy: float, marginal: float, ln_k: float) -> bool:
    """Whether few prototypes serve the batch, and every image answers with about the same."""
    return marginal < MARGINAL_FLOOR * ln_k and marginal - entropy <= SHARED * marginal


def _is_pinned(value: float, ln_k: float) -> bool:
    return abs(value - ln_k) < LN_TOLERANCE * ln_k
