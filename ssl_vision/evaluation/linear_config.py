"""Protocols of linear classification: settings, and a preset for each published one.

The presets of a published name are the authors' evaluation code whole: DINO, MAE (LARS and batch
norm), DINOv2 (a grid of learning rates), Barlow Twins, and lightly's benchmark, each with the
backbone in the loop on random crops and flips. `NAME-frozen` is the same training of the heads on
features computed once, without augmentation, and with a minimum of updates: seconds instead of
hours, near the published number, and not to be quoted as it.

Where we differ: MAE's training crop is torchvision's random resized crop, theirs draws once where
that tries ten times; its batch norm takes the statistics of the whole batch of 16,384, theirs of
each GPU's 512.
"""

from dataclasses import dataclass, fields, replace
from typing import Literal

from ssl_vision.bounds import check_bounds, check_prob, check_range, check_some
from ssl_vision.evaluation.features import parse_feature_set

FROZEN_LRS = (1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)
DINOV2_LRS = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1)


@dataclass(frozen=True, kw_only=True)
class LinearConfig:
    """How heads are trained and chosen; the presets below fill it in."""

    preset: str = "frozen"  # where the other values come from; see PRESETS
    feature_sets: tuple[str, ...] = ("cls1", "cls1+mean", "cls4", "cls4+mean")  # parse_feature_set
    augment: Literal["none", "cached", "online"] = "none"  # cached: a few views, kept; online: as
    # published, with the backbone in the loop
    cached_views: int = 4  # of each training image, for augment=cached
    crop_area: tuple[float, float] = (0.08, 1.0)  # of augmented views
    flip_prob: float = 0.5
    interpolation: Literal["bicubic", "bilinear"] | None = None  # of augmented views; None: as in
    # evaluation
    base_lrs: tuple[float, ...] = FROZEN_LRS
    lr_scaling: Literal["linear", "none"] = "linear"  # linear: lr = base_lr * batch_size / 256
    weight_decays: tuple[float, ...] = (0.0,)
    optimizer: Literal["sgd", "lars"] = "sgd"
    momentum: float = 0.9
    trust_coefficient: float = 0.001  # LARS only; weights only, not biases
    batch_size: int = 256
    epochs: int = 30
    min_updates: int = 2000  # epochs are added until there are as many; 0: as the protocol has it
    steps_per_epoch: int | None = None  # None: one pass over the data
    warmup_epochs: int = 0
    schedule: Literal["step", "epoch"] = "step"  # cosine to 0, per step or per epoch
    has_batch_norm: bool = True  # of the features, without scale and shift (MAE)
    drops_last: bool = False  # an incomplete batch at the end of an epoch
    init_std: float = 0.01
    holdout: float = 0.1  # share of the training images that choose between heads
    select_on: Literal["holdout", "test"] = "holdout"
    max_bytes: int = 2**30  # of weights trained at once; more heads take turns

    def __post_init__(self) -> None:
        for name in ("base_lrs", "weight_decays", "feature_sets"):
            check_some(f"linear.{name}", getattr(self, name))
        for name in ("base_lrs", "weight_decays", "min_updates", "warmup_epochs", "init_std"):
            check_bounds(f"linear.{name}", getattr(self, name), least=0)
        for name in ("batch_size", "epochs", "cached_views", "steps_per_epoch", "max_bytes"):
            check_bounds(f"linear.{name}", getattr(self, name), least=1)
        check_bounds("linear.momentum", self.momentum, least=0, below=1)
        check_bounds("linear.trust_coefficient", self.trust_coefficient, above=0)
        check_range("linear.crop_area", self.crop_area, low=1e-6, high=1.0)
        check_prob("linear.flip_prob", self.flip_prob)
        for name in self.feature_sets:
            parse_feature_set(name, depth=12)
        check_bounds("linear.holdout", self.holdout, above=0, below=1)

    @property
    def protocol(self) -> str:
        """The preset's name, and whatever differs from it: equal where two results compare."""
        default = PRESETS.get(self.preset)
        if default is None:
            return f"linear-{self.preset}"
        changed = [
            f"{each.name}={_short(getattr(self, each.name))}"
            for each in fields(self)
            if each.name != "max_bytes" and getattr(self, each.name) != getattr(default, each.name)
        ]
        return "-".join(["linear", self.preset, *changed])


def _short(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(_short(each) for each in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


_PUBLISHED = {
    "dino": LinearConfig(
        preset="dino",
        feature_sets=("cls4",),  # what DINO uses for ViT-S; ViT-B: cls1+mean
        augment="online",
        interpolation="bilinear",
        base_lrs=(0.001,),
        batch_size=1024,
        epochs=100,
        min_updates=0,
        schedule="epoch",
        has_batch_norm=False,
    ),
    # Made for batches of 16384: LARS moves a weight by about 0.001 * lr of its length in a step, so
    # thousands of images in a single batch do not get far in 90 epochs.
    "mae": LinearConfig(
        preset="mae",
        feature_sets=("cls1",),
        augment="online",
        interpolation="bicubic",
        base_lrs=(0.1,),
        optimizer="lars",
        batch_size=16_384,
        epochs=90,
        min_updates=0,
        warmup_epochs=10,
        drops_last=True,
    ),
    "dinov2": LinearConfig(
        preset="dinov2",
        augment="online",
        interpolation="bicubic",
        base_lrs=DINOV2_LRS,
        batch_size=1024,  # 128 on each of 8 GPUs
        epochs=10,
        min_updates=0,
        steps_per_epoch=1250,
        has_batch_norm=False,
    ),
    "barlow": LinearConfig(
        preset="barlow",
        feature_sets=("pooled",),
        augment="online",
        interpolation="bilinear",
        base_lrs=(0.3,),
        lr_scaling="none",
        weight_decays=(1e-6,),
        batch_size=256,
        epochs=100,
        min_updates=0,
        schedule="epoch",
        has_batch_norm=False,
    ),
    "lightly": LinearConfig(
        preset="lightly",
        feature_sets=("pooled",),
        augment="online",
        interpolation="bilinear",
        base_lrs=(0.1,),
        batch_size=256,
        epochs=90,
        min_updates=0,
        has_batch_norm=False,
    ),
}
_MIN_UPDATES = LinearConfig().min_updates
PRESETS = {
    **_PUBLISHED,
    **{
        f"{name}-frozen": replace(
            config,
            preset=f"{name}-frozen",
            augment="none",
            interpolation=None,
            min_updates=_MIN_UPDATES,
        )
        for name, config in _PUBLISHED.items()
    },
    # Not published. The default: trained enough on a thousand images as on a million.
    "frozen": LinearConfig(),
    # The same of the network's own pooling alone: seconds on a laptop.
    "quick": LinearConfig(preset="quick", feature_sets=("pooled",)),
}
