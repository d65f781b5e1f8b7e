"""Scores during training: kNN where the data has labels, signs of collapse always.

Scored is a copy of the network that would be exported (the teacher where there is one), on
un-augmented images, by all processes together. Nothing of the training is touched.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ssl_vision.backbones.classifier import classify
from ssl_vision.data.module import DataModule
from ssl_vision.distributed import is_distributed, rank, world_size
from ssl_vision.engine.collapse import Verdict, diagnose
from ssl_vision.engine.export import Exporter
from ssl_vision.engine.watchers import Outputs, Run
from ssl_vision.evaluation.classification import classification_report, write_report
from ssl_vision.evaluation.features import FeatureSet, extract_features
from ssl_vision.evaluation.knn import knn_accuracy
from ssl_vision.evaluation.representation import centred_rank, collapse_stats, rankme
from ssl_vision.methods.base import Method
from ssl_vision.randomness import derive_key, seeded

_MAX_RANK_ROWS = 4096  # images of the label-free metrics; RankMe compares only at equal numbers


class OnlineEval:
    """Scores before training, every n epochs, and at the end."""

    def __init__(self, run: Run, data: DataModule, exporter: Exporter) -> None:
        self._run = run
        self._data = data
        self._exporter = exporter
        self._every_epochs = run.config.online_eval.every_epochs

    def start(self, method: Method) -> None:
        """Score the untrained network: what the later scores are compared to."""
        if self._every_epochs and method.step == 0:
            self._score(method)

    def after_update(self, run: Run, method: Method, outputs: Sequence[Outputs]) -> None:
        """Score if it is time."""
        if not self._every_epochs:
            return
        interval = self._every_epochs * method.plan.steps_per_epoch
        if method.step % interval == 0 or method.step == run.stop_step:
            self._score(method)

    def _score(self, method: Method) -> None:
        run = self._run
        with seeded(derive_key(run.config.seed, "online evaluation")):
            backbone = self._exporter.refresh(method)
            max_bank = run.config.online_eval.max_bank
            bank = self._extract(backbone, self._data.train_bank_loader(max_samples=max_bank))
            val = self._data.val_loader()
            queries = None if val is None else self._extract(backbone, val)
        if not run.is_main:
            return
        scores = self._knn(bank, queries)
        if method.reads_labels and queries is not None and queries.labels is not None:
            scores |= self._classify(backbone, queries)
        signs = _signs(_spread(bank.features["pooled"].float(), _MAX_RANK_ROWS))
        verdict = self._judge(method, signs | scores)
        values: dict[str, Any] = {f"eval/{name}": value for name, value in (scores | signs).items()}
        values["eval/verdict"] = str(verdict)
        run.record(
            method.step, {"epoch": round(method.step / method.plan.steps_per_epoch, 6), **values}
        )
        _announce(run, method.step, scores, verdict)

    def _extract(self, backbone: Any, loader: Any) -> FeatureSet:
        """Features of a loader's images, of all processes' parts, on rank 0."""
        device = next(backbone.parameters()).device
        batches = (self._data.normalize(batch.to(device)) for batch in loader)
        own = extract_features(backbone, batches, normalize=None)
        if not is_distributed():
            return own
        parts: list[Any] = [None] * world_size()
        dist.gather_object(own, parts if rank() == 0 else None)
        return _joined(parts) if rank() == 0 else own

    def _knn(self, bank: FeatureSet, queries: FeatureSet | None) -> dict[str, float]:
        if bank.labels is None or queries is None or queries.labels is None:
            return {}
        if not all(bool(part.features["pooled"].isfinite().all()) for part in (bank, queries)):
            return {}  # the verdict says so
        settings = self._run.config.online_eval
        accuracy = knn_accuracy(
            bank.features["pooled"],
            bank.labels,
            queries.features["pooled"],
            queries.labels,
            k=[settings.k],
            temperature=settings.temperature,
        )
        return {"knn_top1": accuracy[settings.k].top1}

    def _classify(self, backbone: Any, queries: FeatureSet) -> dict[str, float]:
        """Score the network's own classifier; write classification/ into the run folder."""
        device = next(backbone.parameters()).device
        with torch.inference_mode():
            pooled = queries.features["pooled"].to(device).float()
            logits = classify(backbone, pooled)
        source = self._data.val_source
        assert queries.labels is not None
        assert source is not None
        report = classification_report(logits, queries.labels, class_names=source.class_names)
        write_report(report, self._run.folder.path / "classification")
        return {
            "top1": report.top1.value,
            "top5": report.top5.value,
            "cross_entropy": report.cross_entropy,
            "ece": report.calibration.ece,
        }

    def _judge(self, method: Method, signs: dict[str, float]) -> Verdict:
        latest = self._run.metrics
        names = ("loss", "cross_view", "teacher_entropy", "teacher_marginal_entropy", "ln_k")
        of_training = {n: latest[f"train/{n}"] for n in names if f"train/{n}" in latest}
        untrained = self._run.untrained
        if method.step == 0:
            self._run.untrained = dict(signs)
        return diagnose(signs | (of_training if method.step else {}), untrained=untrained)


def _joined(parts: Sequence[FeatureSet]) -> FeatureSet:
    """Parts of all processes as one, each image once."""
    index = torch.cat([part.index for part in parts])
    order = index.argsort(stable=True)
    is_first = torch.ones(len(order), dtype=torch.bool)  # loaders pad the last batch with repeats
    is_first[1:] = index[order][1:] != index[order][:-1]
    rows = order[is_first]
    labels = [part.labels for part in parts if part.labels is not None]
    return FeatureSet(
        features={"pooled": torch.cat([part.features["pooled"] for part in parts])[rows]},
        labels=torch.cat(labels)[rows] if len(labels) == len(parts) else None,
        index=index[rows],
    )


def _spread(rows: Tensor, num: int) -> Tensor:
    """At most `num` rows, evenly over all: folders are sorted by class."""
    return rows[:: -(-len(rows) // num)]


def _signs(features: Tensor) -> dict[str, float]:
    """Label-free metrics of (N, D) features."""
    if not bool(features.isfinite().all()):
        return dict.fromkeys(("feature_std", "rankme", "centred_rank"), float("nan"))
    stats = collapse_stats(features)
    return {
        "feature_std": stats.feature_std,
        "rankme": rankme(features),
        "centred_rank": centred_rank(features),
        "mean_cosine": stats.mean_cosine,
        "dead_share": stats.dead_share,
    }


def _announce(run: Run, step: int, scores: dict[str, float], verdict: Verdict) -> None:
    shown = ("knn_top1", "top1")
    parts = [f"{n.replace('_', ' ')} {scores[n]:.2%}" for n in shown if n in scores]
    line = f"update {step}: {', '.join([*parts, str(verdict)])}"
    if verdict.is_problem:
        run.warn(line)
    else:
        run.say(line)
