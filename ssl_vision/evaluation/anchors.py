"""Published numbers to hold a result against, each with where it is stated.

They are data: `model_zoo/published.yaml`. A comparison is made when method, architecture, data,
task and protocol agree; where only the protocol differs, that is said.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Literal

import yaml

from ssl_vision.errors import ConfigError
from ssl_vision.evaluation.results import Measurement
from ssl_vision.files import shipped_folder

Task = Literal["knn", "linear", "finetune"]
_TASKS: tuple[Task, ...] = ("knn", "linear", "finetune")


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
    task: Task
    percent: float
    epochs: int | None
    source: str
    note: str = ""


@cache
def published() -> tuple[Anchor, ...]:
    """All published numbers, in the order of the file."""
    text = (shipped_folder("model_zoo") / "published.yaml").read_text()
    return tuple(
        anchor
        for source, rows in yaml.safe_load(text).items()
        for row in rows
        for anchor in _anchors(**row, source=source)
    )


def _anchors(
    *,
    method: str,
    architecture: str,
    source: str,
    epochs: int | None = None,
    data: str = "imagenet1k",
    note: str = "",
    knn_note: str = "",
    **percents: float,
) -> Iterator[Anchor]:
    """The numbers of one row of the file, task by task."""
    for task in _TASKS:
        if task in percents:
            said = knn_note or note if task == "knn" else note
            percent = percents.pop(task)
            yield Anchor(method, architecture, data, task, percent, epochs, source, said)
    if percents:
        raise ConfigError(f"model_zoo/published.yaml: {source}: {sorted(percents)} is no task.")


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
        for anchor in published()
        if (anchor.method, anchor.architecture, anchor.data, anchor.task)
        == (method, name, data, wanted)
    )


_LINEAR_PRESETS = {"mae": "mae", "barlow_twins": "barlow", "dino": "dino", "dinov2": "dinov2"}


def published_protocol(anchor: Anchor) -> str | None:
    """Protocol of the number as results name it, without version; None where we have none."""
    if anchor.task == "finetune" or "best" in anchor.note:
        return None
    is_lightly = "lightly" in anchor.source
    is_of_dino = anchor.source.endswith("of dino")
    if is_of_dino and not anchor.architecture.startswith("vit"):
        return None  # how ResNet and XCiT were read was not verified
    if anchor.task == "knn":
        if is_lightly:
            return "knn-pooled-k200-t0.1-crop0.875" if "k=200, T=0.1" in anchor.note else None
        return "knn-pooled-k20-t0.07-crop0.875" if is_of_dino else None  # nor k of others
    if is_lightly:
        return "linear-lightly-crop0.875"
    own = _LINEAR_PRESETS.get(anchor.method)
    if own is None or not anchor.source.endswith(
        ("of dino", "of mae", "of barlowtwins", "of dinov2")
    ):
        return None
    is_base = anchor.method == "dino" and anchor.architecture.startswith("vit_base")
    sets = "-feature_sets=cls1+mean" if is_base else ""  # DINO's for ViT-B
    return f"linear-{own}{sets}-crop0.875"


def explain_difference(anchor: Anchor, protocol: str) -> str:
    """Why a published number is no yardstick for a result of another protocol."""
    wanted = published_protocol(anchor)
    way = f"that is {wanted}" if wanted else "no protocol here repeats it exactly"
    return (
        f"Not compared with the published {anchor.percent:g} ({anchor.source}): {way}, this result "
        f"is {protocol.rpartition('/')[0] or protocol}."
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
