"""Published numbers to hold a result against, each with where it is stated.

Only what the authors' or the libraries' own repositories state is listed. A comparison is made when
method, architecture, data and task agree; the protocol of both is printed, since it rarely agrees
in everything.
"""

from dataclasses import dataclass
from typing import Literal

from ssl_vision.evaluation.results import Measurement

_VIT_S16, _VIT_S8 = "vit_small_patch16_224", "vit_small_patch8_224"
_VIT_B16, _VIT_B8 = "vit_base_patch16_224", "vit_base_patch8_224"
_VIT_L16, _VIT_H14 = "vit_large_patch16_224", "vit_huge_patch14_224"


@dataclass(frozen=True)
class Anchor:
    """One published number.

    Attributes:
        method: As in METHODS, or the publication's name.
        architecture: timm name.
        data: imagenet1k, cifar10, cifar100, imagenet100, imagenette.
        task: knn, linear or finetune.
        percent: Top-1.
        epochs: Of pretraining; None where the source does not say.
        source: Where it is stated.
        note: Protocol, where it is not the method's usual one.
    """

    method: str
    architecture: str
    data: str
    task: Literal["knn", "linear", "finetune"]
    percent: float
    epochs: int | None
    source: str
    note: str = ""


def _rows(
    method: str,
    architecture: str,
    epochs: int | None,
    source: str,
    *,
    data: str = "imagenet1k",
    note: str = "",
    knn_note: str = "",
    knn: float | None = None,
    linear: float | None = None,
    finetune: float | None = None,
) -> list[Anchor]:
    values: list[tuple[Literal["knn", "linear", "finetune"], float | None]] = [
        ("knn", knn),
        ("linear", linear),
        ("finetune", finetune),
    ]
    return [
        Anchor(
            method,
            architecture,
            data,
            task,
            value,
            epochs,
            source,
            knn_note if task == "knn" and knn_note else note,
        )
        for task, value in values
        if value is not None
    ]


_DINO, _MAE, _BARLOW = "README of dino", "FINETUNE.md of mae", "README of barlowtwins"
_LIGHTLY, _SOLO, _SMMIX = "README of lightly", "README of solo-learn", "README of SMMix"
_LIGHTLY_KNN = "kNN with k=200, T=0.1"
_SOLO_ONLINE = "linear head trained online, last epoch"

ANCHORS: tuple[Anchor, ...] = (
    *_rows("dino", _VIT_S16, 100, _DINO, knn=69.3, linear=74.0, note="without multi-crop extras"),
    *_rows("dino", _VIT_S16, 300, _DINO, knn=73.3, linear=76.0),
    *_rows("dino", _VIT_S16, None, _DINO, knn=74.5, linear=77.0, note="released weights"),
    *_rows("dino", _VIT_S8, None, _DINO, knn=78.3, linear=79.7, note="released weights"),
    *_rows("dino", _VIT_B16, None, _DINO, knn=76.1, linear=78.2, note="released weights"),
    *_rows("dino", _VIT_B8, None, _DINO, knn=77.4, linear=80.1, note="released weights"),
    *_rows("dino", "resnet50", None, _DINO, knn=67.5, linear=75.3, note="released weights"),
    *_rows("dino", "xcit_small_12_p16_224", None, _DINO, knn=76.0, linear=77.8),
    *_rows("dino", "xcit_small_12_p8_224", None, _DINO, knn=77.1, linear=79.2),
    *_rows("dino", "xcit_medium_24_p16_224", None, _DINO, knn=76.4, linear=78.8),
    *_rows("dino", "xcit_medium_24_p8_224", None, _DINO, knn=77.9, linear=80.3),
    *_rows(
        "dino", _VIT_S16, 100, _LIGHTLY, knn=67.5, linear=73.3, finetune=79.8, knn_note=_LIGHTLY_KNN
    ),
    *_rows(
        "dino",
        "resnet50",
        100,
        _LIGHTLY,
        knn=49.9,
        linear=68.2,
        finetune=72.5,
        knn_note=_LIGHTLY_KNN,
    ),
    *_rows("barlow_twins", "resnet50", 1000, _BARLOW, linear=73.5),
    *_rows(
        "barlow_twins",
        "resnet50",
        100,
        _LIGHTLY,
        knn=45.6,
        linear=62.9,
        finetune=72.6,
        knn_note=_LIGHTLY_KNN,
    ),
    *_rows("barlow_twins", "resnet50", 100, _SOLO, linear=67.2),
    *_rows("mae", _VIT_B16, 1600, _MAE, linear=67.8, finetune=83.66),
    *_rows("mae", _VIT_L16, 1600, _MAE, linear=76.0, finetune=85.95),
    *_rows("mae", _VIT_L16, 800, "PRETRAIN.md of mae", finetune=85.5),
    *_rows("mae", _VIT_H14, 1600, _MAE, linear=77.2, finetune=86.93),
    *_rows(
        "mae", _VIT_B16, 100, _LIGHTLY, knn=11.2, linear=46.0, finetune=81.3, knn_note=_LIGHTLY_KNN
    ),
    *_rows("mae", _VIT_B16, 100, _SOLO, finetune=81.6),
    *_rows("ibot", _VIT_S16, 800, "README of ibot", knn=75.2, linear=77.9, finetune=82.3),
    *_rows("ibot", _VIT_B16, None, "README of ibot", knn=77.1, linear=79.5, finetune=84.0),
    *_rows("dinov2", "vit_small_patch14_dinov2", None, "README of dinov2", knn=79.0, linear=81.1),
    *_rows("dinov2", "vit_base_patch14_dinov2", None, "README of dinov2", knn=82.1, linear=84.5),
    *_rows("dinov2", "vit_large_patch14_dinov2", None, "README of dinov2", knn=83.5, linear=86.3),
    *_rows("dinov2", "vit_giant_patch14_dinov2", None, "README of dinov2", knn=83.5, linear=86.5),
    *_rows(
        "supervised",
        "deit_tiny_patch16_224",
        300,
        _SMMIX,
        finetune=73.6,
        note="SMMix, from scratch",
    ),
    *_rows(
        "supervised",
        "deit_small_patch16_224",
        300,
        _SMMIX,
        finetune=81.1,
        note="SMMix, from scratch",
    ),
    *_rows("barlow_twins", "resnet18", 1000, _SOLO, data="cifar10", linear=92.1, note=_SOLO_ONLINE),
    *_rows("dino", "resnet18", 1000, _SOLO, data="cifar10", linear=89.5, note=_SOLO_ONLINE),
    *_rows(
        "barlow_twins", "resnet18", 1000, _SOLO, data="cifar100", linear=70.9, note=_SOLO_ONLINE
    ),
    *_rows("dino", "resnet18", 1000, _SOLO, data="cifar100", linear=66.8, note=_SOLO_ONLINE),
    *_rows("barlow_twins", "resnet18", 400, _SOLO, data="imagenet100", linear=80.2, note="offline"),
    *_rows("dino", "resnet18", 400, _SOLO, data="imagenet100", linear=74.9, note="offline"),
    *_rows(
        "barlow_twins",
        "resnet18",
        200,
        "documentation of lightly",
        data="cifar10",
        knn=84.2,
        knn_note=_LIGHTLY_KNN + ", best epoch",
    ),
    *_rows(
        "dino",
        "resnet18",
        200,
        "documentation of lightly",
        data="cifar10",
        knn=84.0,
        knn_note=_LIGHTLY_KNN + ", best epoch",
    ),
    *_rows(
        "barlow_twins",
        _VIT_S16,
        200,
        "results of stable-pretraining",
        data="imagenette",
        knn=81.2,
        linear=83.0,
        note="best over the run",
    ),
    *_rows(
        "dino",
        _VIT_S16,
        200,
        "results of stable-pretraining",
        data="imagenette",
        knn=83.8,
        linear=86.1,
        note="best over the run",
    ),
    *_rows(
        "mae",
        _VIT_S16,
        200,
        "results of stable-pretraining",
        data="imagenette",
        knn=72.1,
        linear=84.1,
        note="best over the run",
    ),
)


def find_anchors(
    *, method: str | None, architecture: str, data: str, task: str
) -> tuple[Anchor, ...]:
    """Published numbers of the same method, architecture, data and task.

    Args:
        method: None when unknown: nothing is comparable then.
        architecture: timm name, with or without a weights tag.
        data: Name of the data set.
        task: knn, linear or finetune; logreg counts as linear.
    """
    wanted = "linear" if task == "logreg" else task
    name = architecture.partition(".")[0]
    return tuple(
        anchor
        for anchor in ANCHORS
        if (anchor.method, anchor.architecture, anchor.data, anchor.task)
        == (method, name, data, wanted)
    )


def compare(measurement: Measurement, anchor: Anchor) -> str:
    """One sentence: how far from the published number, and whether the interval reaches it."""
    own = 100 * measurement.value
    gap = own - anchor.percent
    side = "above" if gap > 0 else "below"
    amount = "equal to" if abs(gap) < 0.05 else f"{abs(gap):.1f} points {side}"
    epochs = f", {anchor.epochs} epochs" if anchor.epochs else ""
    note = f"; {anchor.note}" if anchor.note else ""
    sentence = (
        f"{own:.1f} is {amount} the published {anchor.percent:g} ({anchor.source}{epochs}{note})"
    )
    if measurement.interval is None:
        return sentence + "."
    low, high = (100 * end for end in measurement.interval)
    is_inside = low <= anchor.percent <= high
    return f"{sentence}, {'inside' if is_inside else 'outside'} the 95 % interval of this test set."


def known_data_name(path: str) -> str:
    """Name under which published numbers list a data set, from its path."""
    last = path.rstrip("/").rsplit("/", 1)[-1].removesuffix(".beton").lower()
    for letters in ("-", "_", " "):
        last = last.replace(letters, "")
    names = {
        "imagenet": "imagenet1k",
        "imagenet1k": "imagenet1k",
        "in1k": "imagenet1k",
        "ilsvrc2012": "imagenet1k",
        "imagenet100": "imagenet100",
        "imagenette": "imagenette",
        "cifar10": "cifar10",
        "cifar100": "cifar100",
    }
    return names.get(last, last)
