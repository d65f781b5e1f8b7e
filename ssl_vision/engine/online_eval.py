"""Scores during training: kNN where there are labels, signs of collapse always, patches if asked.

Scored is a copy of the network that would be exported (the teacher where there is one), on
un-augmented images, by all processes together. Nothing of the training is touched.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from ssl_vision.backbones.backbone import Backbone
from ssl_vision.backbones.classifier import classify
from ssl_vision.data.loader import EpochLoader
from ssl_vision.data.module import DataModule
from ssl_vision.distributed import all_gather_object, any_rank, is_distributed, rank, world_size
from ssl_vision.engine.collapse import Reference, Verdict, diagnose
from ssl_vision.engine.exporter import Exporter
from ssl_vision.engine.loss_trend import loss_sentence
from ssl_vision.engine.online_dense import CORRESPOND, DENSE_MIOU, OnlineDense
from ssl_vision.engine.run import Run
from ssl_vision.engine.run_dir import read_jsonl
from ssl_vision.engine.watchers import Update
from ssl_vision.evaluation.accuracy import majority_class
from ssl_vision.evaluation.classification import classification_report, write_report
from ssl_vision.evaluation.features import FeatureSet, extract_features, joined
from ssl_vision.evaluation.knn import score_knn
from ssl_vision.evaluation.raw_inputs import KeptInputs, raw_inputs
from ssl_vision.evaluation.representation import centred_rank, collapse_stats, rankme
from ssl_vision.methods.base import Method
from ssl_vision.nn.batch_norm import ENOUGH_TO_FIT, with_fitted_batch_norms
from ssl_vision.randomness import derive_key, seeded
from ssl_vision.types import Batch

_MAX_RANK_ROWS = 4096  # images of the label-free metrics; RankMe compares only at equal numbers


class _Look(NamedTuple):
    """A network and what was seen of it; `scores` and `floors` on rank 0 only.

    Floors are accuracies that cost nothing, by name.
    """

    backbone: Backbone
    bank: FeatureSet
    queries: FeatureSet | None
    scores: dict[str, float]
    floors: dict[str, float]
    unreadable: dict[str, str]  # name -> reason

    @property
    def has_labels(self) -> bool:
        """Whether both sets are labelled, so that kNN can score them."""
        queries = self.queries
        return self.bank.labels is not None and queries is not None and queries.labels is not None


class OnlineEval:
    """Scores before training, every n epochs, and at the end."""

    def __init__(self, run: Run, data: DataModule, exporter: Exporter) -> None:
        self._run = run
        self._data = data
        self._exporter = exporter
        self._every_epochs = run.config.online_eval.every_epochs
        self._dense = OnlineDense(run.config.online_eval.dense, data, exporter.backbone)
        for note in self._dense.notes:
            run.say(note)

    def start(self, method: Method) -> None:
        """Score the network and its inputs as they are: what the later scores are compared to.

        An untrained network with its batch norms as drawn or fitted to the data, whichever kNN
        finds better: either can be far below what the same random weights give otherwise.
        """
        if self._every_epochs and method.step == 0:
            self._score(method)

    def after_update(self, run: Run, method: Method, update: Update) -> None:
        """Score if it is time."""
        if not self._every_epochs:
            return
        interval = self._every_epochs * method.plan.steps_per_epoch
        if method.step % interval == 0 or method.step == run.stop_step:
            self._score(method)

    def _score(self, method: Method) -> None:
        run = self._run
        with seeded(derive_key(run.config.seed, "online evaluation")):
            seen = self._look(self._exporter.refresh(method), is_start=method.step == 0)
            if method.step == 0 and run.config.init_from is None and seen.has_labels:
                seen = self._better_fitted(seen)._replace(floors=seen.floors)
        if any_rank(run.is_main and self._report(method, seen), device=run.fabric.device):
            run.best_step = method.step

    def _report(self, method: Method, seen: _Look) -> bool:
        """Record and print what was seen, on the main process; whether it is the best so far."""
        run, scores = self._run, seen.scores | self._dense.scores(seen.backbone)
        if seen.queries is not None and self._tells_classes(method, seen.queries):
            scores |= self._classify(seen.backbone, seen.queries)
        signs = _signs(_spread(seen.bank.features["pooled"].float(), _MAX_RANK_ROWS))
        verdict = self._judge(method, signs | scores, seen)
        shown = scores | seen.floors | signs
        values: dict[str, object] = {f"eval/{name}": value for name, value in shown.items()}
        values["eval/verdict"] = str(verdict)
        if run.config.data.on_error != "raise":
            values["eval/unreadable"] = len(seen.unreadable)
        if seen.unreadable:
            run.warn(f"scores leave out {len(seen.unreadable)} samples that cannot be read.")
            run.note_unreadable(seen.unreadable)
        run.record(
            method.step, {"epoch": round(method.step / method.plan.steps_per_epoch, 6), **values}
        )
        run.scored_step = method.step
        score = "top1" if method.reads_labels else "knn_top1"
        is_best = bool(method.step) and score in scores
        if is_best:
            is_best = self._exporter.keep_best(method, score=score, value=scores[score])
        _announce(run, method.step, scores | seen.floors, verdict, loss=self._loss_in_words())
        return is_best

    def _loss_in_words(self) -> str | None:
        """Where the loss goes, by what was logged."""
        path = self._run.folder.path / "metrics.jsonl"
        lines = read_jsonl(path)[0] if path.exists() else []
        return loss_sentence(lines, method=self._run.config.method.name)

    def _look(self, backbone: Backbone, *, is_start: bool = False) -> _Look:
        max_bank = self._run.config.online_eval.max_bank
        loaders = [self._data.train_bank_loader(max_samples=max_bank)]
        loaders += [] if (val := self._data.val_loader()) is None else [val]
        inputs = (
            [KeptInputs(backbone.modality, num_samples=len(loader.source)) for loader in loaders]
            if is_start
            else []
        )
        bank, *others = (
            self._extract(backbone, loader, *inputs[i : i + 1]) for i, loader in enumerate(loaders)
        )
        queries = others[0] if others else None
        raw = [_gathered(each.features()) for each in inputs]
        scores, floors = {}, {}
        if self._run.is_main:
            scores = self._knn(bank, queries)
            floors = _majority(bank, queries)
            if len(raw) == 2:
                floors |= {f"raw_{name}": v for name, v in self._knn(*raw).items()}
        return _Look(backbone, bank, queries, scores, floors, _unreadable_of(loaders))

    def _better_fitted(self, drawn: _Look) -> _Look:
        """The network with its batch norms fitted to the data, if kNN finds that better."""
        loader = self._data.train_bank_loader(max_samples=ENOUGH_TO_FIT, shuffle=True)
        images = self._images(drawn.backbone, loader)
        backbone = with_fitted_batch_norms(drawn.backbone, images)
        if backbone is drawn.backbone:
            return drawn
        return max(drawn, self._look(backbone), key=lambda seen: seen.scores.get("knn_top1", 0.0))

    def _extract(
        self, backbone: Backbone, loader: EpochLoader[Any], inputs: KeptInputs | None = None
    ) -> FeatureSet:
        """Features of a loader's images, of all processes' parts, on rank 0."""
        batches = self._batches(backbone, loader)
        if inputs is not None:
            batches = inputs.watch(batches)
        may_lack = self._run.config.data.on_error != "raise"
        return _gathered(extract_features(backbone, batches, normalize=None, may_lack=may_lack))

    def _batches(self, backbone: Backbone, loader: EpochLoader[Any]) -> Iterator[Batch]:
        """A loader's batches as the network takes them."""
        device = next(backbone.parameters()).device
        return (self._data.normalize(batch.to(device)) for batch in loader)

    def _images(self, backbone: Backbone, loader: EpochLoader[Any]) -> Iterator[Tensor]:
        for batch in self._batches(backbone, loader):
            (view,) = batch.views.values()
            yield view

    def _knn(self, bank: FeatureSet, queries: FeatureSet | None) -> dict[str, float]:
        parts = [part for part in (bank, queries) if part is not None]
        if not all(bool(part.features["pooled"].isfinite().all()) for part in parts):
            return {}  # the verdict says so
        settings = self._run.config.online_eval
        found = score_knn(bank, queries, k=[settings.k], temperature=settings.temperature)
        return {"knn_top1": found[settings.k].top1} if found else {}

    def _tells_classes(self, method: Method, queries: FeatureSet) -> bool:
        """Whether the network has scores for the classes that the test images are labelled with.

        A student of class probabilities has them where its teacher's classes are called the same.
        """
        source = self._data.val_source
        if queries.labels is None or source is None:
            return False
        return method.reads_labels or tuple(source.class_names) == method.class_names

    def _classify(self, backbone: Backbone, queries: FeatureSet) -> dict[str, float]:
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

    def _judge(self, method: Method, signs: dict[str, float], seen: _Look) -> Verdict:
        latest = self._run.metrics
        names = ("loss", "cross_view", "teacher_entropy", "teacher_marginal_entropy", "ln_k")
        of_training = {n: latest[f"train/{n}"] for n in names if f"train/{n}" in latest}
        start = self._run.start
        reference = Reference(
            start=start if method.step else None,
            has_weights=self._run.config.init_from is not None,
            num_test=len(seen.queries.index) if seen.has_labels and seen.queries else 0,
            majority=seen.floors.get("majority_class"),
            raw_name=raw_inputs(seen.backbone.modality).architecture,
        )
        if method.step == 0:
            self._run.start = signs | seen.floors
        return diagnose(signs | (of_training if method.step else {}), reference=reference)


def _unreadable_of(loaders: Sequence[EpochLoader[Any]]) -> dict[str, str]:
    """Samples that any process met and could not read, name -> reason; a collective."""
    own = {
        loader.source.name(index): loader.bad_samples[index]
        for loader in loaders
        for index in sorted(loader.bad_samples)
    }
    return {name: why for part in all_gather_object(own) for name, why in part.items()}


def _gathered(own: FeatureSet) -> FeatureSet:
    """The parts of all processes, on rank 0; elsewhere the own one.

    Raises:
        DataError: All are empty; on every process.
    """
    if not any(all_gather_object(len(own.index))):
        return joined([own])
    if not is_distributed():
        return own
    parts = [own] * world_size()
    dist.gather_object(own, parts if rank() == 0 else None)
    return joined(parts) if rank() == 0 else own


def _majority(bank: FeatureSet, queries: FeatureSet | None) -> dict[str, float]:
    """Accuracy of the largest class for every image."""
    if bank.labels is None or queries is None or queries.labels is None:
        return {}
    return {"majority_class": majority_class(bank.labels, queries.labels).top1}


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


def _announce(
    run: Run, step: int, scores: dict[str, float], verdict: Verdict, *, loss: str | None
) -> None:
    shown = ("knn_top1", "top1", "majority_class", "raw_knn_top1", DENSE_MIOU, CORRESPOND)
    parts = [f"{n.replace('_', ' ')} {scores[n]:.2%}" for n in shown if n in scores]
    line = f"update {step}: {', '.join([*parts, str(verdict)])}"
    line += "" if loss is None else f" {loss[0].upper()}{loss[1:]}."
    if verdict.is_problem:
        run.warn(line)
    else:
        run.say(line)
