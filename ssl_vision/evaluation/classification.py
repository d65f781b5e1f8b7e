"""What a classifier gets right: accuracy with intervals, per class, confusions, calibration."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from ssl_vision.errors import DataError
from ssl_vision.evaluation.accuracy import wilson_interval
from ssl_vision.files import shown, write_atomically


class Proportion(NamedTuple):
    """A share of samples, in [0, 1], and its 95 % Wilson interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.value:.2f} % [{100 * self.low:.2f}, {100 * self.high:.2f}]"


class Calibration(NamedTuple):
    """Confidence against accuracy in equal bins of confidence.

    Attributes:
        ece: Expected calibration error, the bins' mean gap weighted by their samples.
        num_samples: Of each bin.
        confidence: Mean probability of the predicted class in each bin; 0 where it is empty.
        accuracy: Share of right predictions in each bin; 0 where it is empty.
    """

    ece: float
    num_samples: list[int]
    confidence: list[float]
    accuracy: list[float]


class ClassRow(NamedTuple):
    """One class.

    Attributes:
        name: Its name, or its number.
        num_samples: Samples of the class.
        recall: Share of them that were recognised; None without samples.
        precision: Share of predictions of this class that were right; None without predictions.
        confused_with: The class its samples are most often taken for; None where never.
    """

    name: str
    num_samples: int
    recall: Proportion | None
    precision: float | None
    confused_with: str | None


@dataclass(frozen=True, kw_only=True)
class ClassificationReport:
    """Everything counted from one pass over a labelled set.

    Attributes:
        num_samples: Samples N.
        top1: Share whose class has the highest score.
        top5: Share whose class is among the five highest (all, below five classes).
        mean_per_class: Mean recall of the classes that have samples.
        cross_entropy: Mean -log of the probability of the class.
        calibration: See `Calibration`.
        classes: One row per class.
        confusion: Counts, row the true class, column the prediction.
    """

    num_samples: int
    top1: Proportion
    top5: Proportion
    mean_per_class: float
    cross_entropy: float
    calibration: Calibration
    classes: list[ClassRow]
    confusion: list[list[int]]

    def to_dict(self) -> dict[str, object]:
        """Plain numbers, lists and dictionaries, for JSON."""
        plain = asdict(self)
        plain["top1"], plain["top5"] = self.top1._asdict(), self.top5._asdict()
        plain["calibration"] = self.calibration._asdict()
        plain["classes"] = [
            {**row._asdict(), "recall": row.recall._asdict() if row.recall else None}
            for row in self.classes
        ]
        return plain


def ranks_of_labels(logits: Tensor, labels: Tensor) -> Tensor:
    """Place of each sample's class among its scores, 0 the highest, int64, (N,).

    Equal scores are ordered by class id, so that ties have one answer.

    Args:
        logits: Scores, (N, classes).
        labels: Class ids, int64, (N,).
    """
    own = logits.gather(1, labels[:, None])
    is_earlier = torch.arange(logits.shape[1], device=logits.device) < labels[:, None]
    return ((logits > own) | ((logits == own) & is_earlier)).sum(dim=1)


def calibrate(probabilities: Tensor, labels: Tensor, *, num_bins: int) -> Calibration:
    """Expected calibration error (Guo et al. 2017), bins of equal width, upper edge included.

    Args:
        probabilities: (N, classes), rows summing to one.
        labels: Class ids, int64, (N,).
        num_bins: Number of bins on [0, 1].
    """
    confidence, _ = probabilities.double().max(dim=1)
    is_right = (ranks_of_labels(probabilities, labels) == 0).double()
    index = (confidence * num_bins).ceil().long().clamp(1, num_bins) - 1
    sums = torch.zeros(3, num_bins, dtype=torch.float64, device=probabilities.device)
    for row, values in zip(sums, (torch.ones_like(confidence), confidence, is_right), strict=True):
        row.index_add_(0, index, values)
    count, total_confidence, total_right = sums
    ece = (total_confidence - total_right).abs().sum() / len(labels)
    size = count.clamp(min=1)
    return Calibration(
        ece=float(ece),
        num_samples=count.long().tolist(),
        confidence=(total_confidence / size).tolist(),
        accuracy=(total_right / size).tolist(),
    )


def classification_report(
    logits: Tensor,
    labels: Tensor,
    *,
    class_names: Sequence[str] | None = None,
    num_bins: int = 15,
) -> ClassificationReport:
    """Count what a classifier got right.

    Args:
        logits: Scores before the softmax, (N, classes).
        labels: Class ids, int64, (N,).
        class_names: One per class; numbers by default. What is not printable is escaped.
        num_bins: Bins of the calibration; 15 as Guo et al. 2017.

    Raises:
        DataError: No samples, labels outside the classes, or scores that are not finite.
    """
    logits, labels = logits.detach().cpu().double(), labels.detach().cpu().long()
    num_classes = logits.shape[1]
    _check(logits, labels)
    names = [shown(name) for name in class_names or map(str, range(num_classes))]
    ranks = ranks_of_labels(logits, labels)
    # Of equal scores the lowest class id, as `ranks_of_labels` has it.
    predicted = (logits == logits.amax(dim=1, keepdim=True)).int().argmax(dim=1)
    cells = torch.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    confusion = cells.reshape(num_classes, num_classes)
    rows = _class_rows(confusion, names)
    recalls = [row.recall.value for row in rows if row.recall is not None]
    return ClassificationReport(
        num_samples=len(labels),
        top1=_proportion(int((ranks == 0).sum()), len(labels)),
        top5=_proportion(int((ranks < 5).sum()), len(labels)),
        mean_per_class=sum(recalls) / len(recalls),
        cross_entropy=float(F.cross_entropy(logits, labels)),
        calibration=calibrate(logits.softmax(dim=1), labels, num_bins=num_bins),
        classes=rows,
        confusion=confusion.tolist(),
    )


def as_markdown(report: ClassificationReport, *, max_classes: int = 50) -> str:
    """The report as a page of text; of many classes, those recognised worst."""
    lines = [
        f"Samples: {report.num_samples}. Intervals: 95 %, Wilson.",
        "",
        "| measure | value |",
        "| --- | --- |",
        f"| top-1 | {report.top1} |",
        f"| top-5 | {report.top5} |",
        f"| mean per class | {100 * report.mean_per_class:.2f} % |",
        f"| cross-entropy | {report.cross_entropy:.4f} |",
        f"| calibration error (ECE) | {100 * report.calibration.ece:.2f} % |",
        "",
        "| class | samples | recall | precision | most often taken for |",
        "| --- | --- | --- | --- | --- |",
    ]
    seen = [row for row in report.classes if row.recall is not None]
    worst = sorted(seen, key=lambda row: row.recall.value if row.recall else 0.0)[:max_classes]
    for row in report.classes if len(report.classes) <= max_classes else worst:
        precision = "-" if row.precision is None else f"{100 * row.precision:.1f} %"
        lines.append(
            f"| {row.name} | {row.num_samples} | {row.recall or '-'} | {precision} "
            f"| {row.confused_with or '-'} |"
        )
    return "\n".join(lines) + "\n"


def confusion_picture(report: ClassificationReport) -> Image.Image:
    """Row-normalised confusion matrix: true classes down, predictions across."""
    num_classes = len(report.classes)
    counts = torch.tensor(report.confusion, dtype=torch.float64)
    share = counts / counts.sum(dim=1, keepdim=True).clamp(min=1)
    side = max(1, min(28, 1000 // num_classes))  # pixels of a cell
    # The square root lifts rare confusions out of the paper's white.
    ink = share.sqrt().repeat_interleave(side, 0).repeat_interleave(side, 1)[..., None]
    paper, dark = torch.tensor([255.0, 255, 255]), torch.tensor([8.0, 48, 107])
    pixels = (paper + ink.float() * (dark - paper)).round().to(torch.uint8)
    cells = Image.fromarray(pixels.numpy())
    if side < 12:  # no room for names
        return cells
    names = [row.name[:18] for row in report.classes]
    margin = 12 + 7 * max(map(len, names))
    picture = Image.new("RGB", (cells.width + margin, cells.height + margin), "white")
    picture.paste(cells, (margin, margin))
    draw = ImageDraw.Draw(picture)
    across = Image.new("RGB", (cells.width, margin), "white").rotate(90, expand=True)
    draw_across = ImageDraw.Draw(across)
    for number, name in enumerate(names):
        top = number * side + side // 2
        draw.text((margin - 6, margin + top), name, fill="black", anchor="rm")
        draw_across.text((6, top), name, fill="black", anchor="lm")
    # Turned clockwise, the text runs upwards from the matrix's edge, first class at the left.
    turned = across.transpose(Image.Transpose.TRANSPOSE).transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    picture.paste(turned, (margin, 0))
    return picture


def write_report(report: ClassificationReport, folder: str | Path) -> list[Path]:
    """Write classification.json, classification.md and confusion.png; return their paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in ("classification.json", "classification.md")]
    write_atomically(paths[0], json.dumps(report.to_dict(), indent=1) + "\n")
    write_atomically(paths[1], as_markdown(report))
    picture = folder / "confusion.png"
    confusion_picture(report).save(picture)
    return [*paths, picture]


def _proportion(num_right: int, num_samples: int) -> Proportion:
    share = num_right / num_samples
    return Proportion(share, *wilson_interval(share, num_samples))


def _check(logits: Tensor, labels: Tensor) -> None:
    """Raise DataError for what cannot be counted."""
    if not len(labels):
        raise DataError("no labelled samples to score; is the validation set empty?")
    if not bool(logits.isfinite().all()):
        raise DataError("the classifier's scores are not finite; its training has diverged.")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= logits.shape[1]:
        raise DataError(
            f"labels run from {low} to {high} but the classifier has {logits.shape[1]} classes; "
            "train and validation folders must name the same classes."
        )


def _class_rows(confusion: Tensor, names: Sequence[str]) -> list[ClassRow]:
    """Per-class counts of a confusion matrix (classes, classes)."""
    rows = []
    for number, name in enumerate(names):
        of_class, as_class = int(confusion[number].sum()), int(confusion[:, number].sum())
        right = int(confusion[number, number])
        others = confusion[number].clone()
        others[number] = 0
        mistaken = int(others.argmax()) if int(others.sum()) else None
        rows.append(
            ClassRow(
                name=name,
                num_samples=of_class,
                recall=_proportion(right, of_class) if of_class else None,
                precision=right / as_class if as_class else None,
                confused_with=None if mistaken is None else names[mistaken],
            )
        )
    return rows
