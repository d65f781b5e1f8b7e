"""The tasks of an evaluation: features in, a `TaskResult` out.

Each task is a thin layer over a pure function of `evaluation/`: it asks the run for features,
names the protocol, and draws its plots. `TASKS` is the whole list.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssl_vision.engine.eval_finetune import run_finetune
from ssl_vision.engine.eval_points import run_n_way, run_parts, run_svm
from ssl_vision.engine.eval_run import EvalRun, Split, spread
from ssl_vision.errors import DataError
from ssl_vision.evaluation import representation as rep
from ssl_vision.evaluation.accuracy import Accuracy
from ssl_vision.evaluation.clustering import cluster_scores, kmeans
from ssl_vision.evaluation.features import extract_views, spec_of
from ssl_vision.evaluation.knn import KnnConfig, knn_accuracy
from ssl_vision.evaluation.linear_config import LinearConfig
from ssl_vision.evaluation.linear_probe import (
    LinearResult,
    linear_probe,
    linear_probe_online,
)
from ssl_vision.evaluation.logreg import fit_logistic, logistic_probe
from ssl_vision.evaluation.plots import Axis, heat_map, line_chart, picture_map
from ssl_vision.evaluation.projection import project
from ssl_vision.evaluation.results import Measurement, TaskResult, accuracy_measurements
from ssl_vision.evaluation.retrieval import retrieval_scores
from ssl_vision.points.pictures import draw_cloud
from ssl_vision.randomness import keyed_generator
from ssl_vision.views import JitterConfig, ViewConfig

_ACCURACY = Axis("top-1, %", is_share=True)


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        run: Does it.
        needs_labels: Whether training and test images must have classes.
        feature_sets: Sets it will ask for, so that one pass serves all tasks.
        needs_val: Whether test images take part.
    """

    run: Callable[[EvalRun], TaskResult]
    needs_labels: bool
    feature_sets: Callable[[EvalRun], tuple[str, ...]]
    needs_val: bool = True


# kNN -------------------------------------------------------------------------------------------


def run_knn(run: EvalRun) -> TaskResult:
    """Weighted kNN vote for every k."""
    config = run.config.knn
    bank = run.features("train", config.features)
    queries = bank if config.is_leave_one_out else run.features("val", config.features)
    scores = _knn(run, config, bank, queries)
    quoted = scores[config.quoted_k]
    best = max(scores, key=lambda k: scores[k].top1)
    details: dict[str, Any] = {
        "k": {k: score._asdict() for k, score in scores.items()},
        "best_k": {"k": best, "top1": scores[best].top1, "selected_on_test": True},
    }
    measurements = list(accuracy_measurements(quoted))
    for k, score in scores.items():
        measurements.append(
            Measurement(name=f"top1 k={k}", value=score.top1, interval=score.interval)
        )
    for name, score in _knn_baselines(run, config).items():
        measurements.append(
            Measurement(name=f"top1 of {name}", value=score.top1, interval=score.interval)
        )
    plot = line_chart(
        "kNN accuracy by number of neighbours",
        {"top-1": [(k, score.top1) for k, score in scores.items()]},
        x=Axis("k", is_log=True),
        y=_ACCURACY,
        bars={"top-1": [score.interval for score in scores.values()]},
    )
    warnings = []
    if max(config.k) > len(bank):
        warnings.append(f"truncated_bank: k={max(config.k)} is above the {len(bank)} bank images.")
    loo = "-loo" if config.is_leave_one_out else ""
    return TaskResult(
        task="knn",
        protocol=f"knn-{config.features}-k{config.quoted_k}-t{config.temperature:g}{loo}/1",
        headline="top1",
        measurements=tuple(measurements),
        details=details,
        plots=(plot,),
        warnings=tuple(warnings),
    )


def _knn(run: EvalRun, config: KnnConfig, bank: Tensor, queries: Tensor) -> dict[int, Accuracy]:
    labels = run.labels("train")
    ids = torch.arange(len(bank)) if config.is_leave_one_out else None
    return knn_accuracy(
        bank,
        labels,
        queries,
        labels if config.is_leave_one_out else run.labels("val"),
        k=[min(k, len(bank)) for k in config.k] if len(bank) < max(config.k) else config.k,
        temperature=config.temperature,
        num_classes=run.num_classes,
        search=config.search,
        bank_ids=ids,
        query_ids=ids,
        device=run.device,
    )


def _knn_baselines(run: EvalRun, config: KnnConfig) -> dict[str, Accuracy]:
    """Raw pixels and the untrained network under the same vote: what training has to beat."""
    if not run.config.baselines:
        return {}
    found = {}
    raw = run.pixels()
    for name, other in ((raw.loaded.source, raw), ("the untrained network", run.untrained())):
        bank = other.features("train", config.features)
        queries = bank if config.is_leave_one_out else other.features("val", config.features)
        scores = _knn(run, config, bank, queries)
        found[name] = scores[min(config.quoted_k, max(scores))]
    return found


# Linear classifiers ----------------------------------------------------------------------------


def run_linear(run: EvalRun) -> TaskResult:
    """Stacked linear heads by the chosen protocol."""
    config = run.config.linear
    sets = _distinct_sets(run, config.feature_sets)
    if config.augment == "online":
        found = _linear_online(run, config, sets)
    else:
        train = {name: run.parts("train", name) for name in sets}
        labels = run.labels("train")
        if config.augment == "cached":
            train, labels = _cached_views(run, config, sets)
        found = linear_probe(
            train,
            labels,
            {name: run.parts("val", name) for name in sets},
            run.labels("val"),
            config=config,
            num_classes=run.num_classes,
            seed=run.config.seed,
            device=run.device,
        )
    measurements = (
        *accuracy_measurements(found.accuracy),
        Measurement(
            name="oracle top1",
            value=found.oracle.top1,
            note="best head on the test images: an upper bound, not a result",
        ),
    )
    return TaskResult(
        task="linear",
        protocol=f"linear-{config.preset}-augment_{config.augment}/1",
        headline="top1",
        measurements=measurements,
        details={"chosen": _head(found.chosen), "heads": [_head(head) for head in found.heads]},
        plots=(_heads_plot(found),) if len(found.heads) > 1 else (),
        warnings=found.warnings,
    )


def _head(head: Any) -> dict[str, Any]:
    return {**head._asdict(), "test": head.test._asdict()}


def _distinct_sets(run: EvalRun, names: tuple[str, ...]) -> list[str]:
    """Sets that differ for this network: without class token all of them are `pooled`."""
    by_columns = {run.columns(name): name for name in reversed(names)}
    return [name for name in names if by_columns[run.columns(name)] == name]


def _training_view(run: EvalRun, config: LinearConfig, count: int = 1) -> ViewConfig:
    return ViewConfig(
        size_px=run.view.size_px,
        count=count,
        crop_area=config.crop_area,
        interpolation=run.view.interpolation,
        flip_prob=config.flip_prob,
    )


def _cached_views(
    run: EvalRun, config: LinearConfig, sets: list[str]
) -> tuple[dict[str, list[Any]], Tensor]:
    """Features of several augmented views of each training image, as so many more images."""
    if any(run.columns(name) != ("pooled",) for name in sets):
        raise DataError(
            "linear.augment=cached keeps pooled features only; use linear.feature_sets=[pooled], "
            "or linear.augment=online."
        )
    views = extract_views(
        run.loaded.backbone,
        run.loader(run.bank_source, _training_view(run, config, config.cached_views)),
        num_views=config.cached_views,
        normalize=run.normalize,
        device=run.device,
    )
    labels = run.labels("train").repeat_interleave(config.cached_views)
    return {name: [views.flatten(0, 1)] for name in sets}, labels


def _linear_online(run: EvalRun, config: LinearConfig, sets: list[str]) -> LinearResult:
    loader = run.loader(
        run.bank_source, _training_view(run, config), shuffle=True, batch_size=config.batch_size
    )
    numbers = run.labels("train")

    def epochs(epoch: int) -> Any:
        loader.set_epoch(epoch)
        for batch in loader:
            yield replace(batch, label=numbers[batch.index])

    columns = {name: run.columns(name) for name in sets}
    return linear_probe_online(
        run.loaded.backbone,
        epochs,
        {name: run.parts("val", name) for name in sets},
        run.labels("val"),
        train={name: run.parts("train", name) for name in sets},
        train_labels=numbers,
        normalize=run.normalize,
        spec=spec_of(name for names in columns.values() for name in names),
        sets=columns,
        steps_per_epoch=len(loader),
        config=config,
        num_classes=run.num_classes,
        seed=run.config.seed,
        device=run.device,
    )


def _heads_plot(found: LinearResult) -> str:
    rows = list(dict.fromkeys((head.features, head.weight_decay) for head in found.heads))
    columns = list(dict.fromkeys(head.base_lr for head in found.heads))
    values = [[float("nan")] * len(columns) for _ in rows]
    for head in found.heads:
        place = rows.index((head.features, head.weight_decay)), columns.index(head.base_lr)
        is_alive = head.diverged_at is None
        values[place[0]][place[1]] = head.test.top1 if is_alive else float("nan")
    chosen = found.chosen
    has_decay = len({decay for _, decay in rows}) > 1
    return heat_map(
        "Test top-1 of every head, %; outlined: the chosen one",
        values,
        rows=[f"{name}, wd {decay:g}" if has_decay else name for name, decay in rows],
        columns=[f"{lr:g}" for lr in columns],
        marked=(
            rows.index((chosen.features, chosen.weight_decay)),
            columns.index(chosen.base_lr),
        ),
        x_label="base learning rate",
    )


def run_logreg(run: EvalRun) -> TaskResult:
    """Logistic regression at its optimum, C chosen on held-out training images."""
    config = run.config.logreg
    found = logistic_probe(
        run.features("train", config.features),
        run.labels("train"),
        run.features("val", config.features),
        run.labels("val"),
        config=config,
        num_classes=run.num_classes,
        seed=run.config.seed,
        device=run.device,
    )
    plots: tuple[str, ...] = ()
    if found.selection:
        series = {"held-out training images": sorted(found.selection.items())}
        plots = (
            line_chart("Logistic regression by C", series, x=Axis("C", is_log=True), y=_ACCURACY),
        )
    return TaskResult(
        task="logreg",
        protocol=f"logreg-{config.features}-{len(config.cs)}c/1",
        headline="top1",
        measurements=accuracy_measurements(found.accuracy),
        details={"c": found.c, "selection": found.selection},
        plots=plots,
    )


def run_few_shot(run: EvalRun) -> TaskResult:
    """KNN and logistic regression on n labelled images per class, several draws."""
    config = run.config.few_shot
    unit = torch.nn.functional.normalize(run.features("train", "pooled"), dim=1)
    queries = torch.nn.functional.normalize(run.features("val", "pooled"), dim=1)
    labels, truth = run.labels("train"), run.labels("val")
    scores: dict[str, dict[int, list[float]]] = {"logistic regression": {}, "nearest image": {}}
    for shots in config.shots:
        for draw in range(config.draws):
            rows = draw_shots(labels, shots, seed=run.config.seed, draw=draw)
            classifier = fit_logistic(
                unit[rows], labels[rows], c=config.c, num_classes=run.num_classes
            )
            guess = classifier.logits(queries).argmax(dim=1)
            scores["logistic regression"].setdefault(shots, []).append(_share(guess, truth))
            nearest = knn_accuracy(unit[rows], labels[rows], queries, truth, k=[1], temperature=1.0)
            scores["nearest image"].setdefault(shots, []).append(nearest[1].top1)
    measurements, series, bars = [], {}, {}
    for name, by_shots in scores.items():
        means = {shots: float(np.mean(values)) for shots, values in by_shots.items()}
        stds = {shots: float(np.std(values)) for shots, values in by_shots.items()}
        series[name] = list(means.items())
        bars[name] = [(means[n] - stds[n], means[n] + stds[n]) for n in means]
        for shots, mean in means.items():
            note = f"mean of {config.draws} draws, standard deviation {100 * stds[shots]:.2f}"
            measurements.append(Measurement(name=f"{name}, {shots} shots", value=mean, note=note))
    plot = line_chart(
        "Few labels", series, x=Axis("images per class", is_log=True), y=_ACCURACY, bars=bars
    )
    return TaskResult(
        task="few_shot",
        protocol=f"few_shot-pooled-c{config.c:g}-{config.draws}draws/1",
        headline=f"logistic regression, {max(config.shots)} shots",
        measurements=tuple(measurements),
        details=scores,
        plots=(plot,),
    )


def draw_shots(labels: Tensor, shots: int, *, seed: int, draw: int) -> Tensor:
    """Rows of `shots` images of each class (fewer where a class has fewer), rising."""
    generator = keyed_generator(seed, "shots", shots, draw)
    order = torch.randperm(len(labels), generator=generator)
    rows = [order[labels[order] == each][:shots] for each in labels.unique()]
    return torch.cat(rows).sort().values


def _share(guess: Tensor, truth: Tensor) -> float:
    return float((guess.cpu() == truth).double().mean())


# Structure -------------------------------------------------------------------------------------


def run_retrieval(run: EvalRun) -> TaskResult:
    """MAP and recall@k by class."""
    config = run.config.retrieval
    queries, wanted = run.features("val", "pooled"), run.labels("val")
    gallery, labels, ids = run.features("train", "pooled"), run.labels("train"), None
    if config.gallery == "test":
        gallery, labels, ids = queries, wanted, torch.arange(len(queries))
    found = retrieval_scores(
        gallery,
        labels,
        queries,
        wanted,
        k=config.k,
        gallery_ids=ids,
        query_ids=ids,
        device=run.device,
    )
    measurements = [Measurement(name="mAP", value=found.mean_average_precision)]
    for k in config.k:
        measurements.append(Measurement(name=f"recall@{k}", value=found.recall_at[k]))
        measurements.append(Measurement(name=f"precision@{k}", value=found.precision_at[k]))
    measurements.append(Measurement(name="R-precision", value=found.r_precision))
    warnings: tuple[str, ...] = ()
    if found.num_without:
        warnings = (f"{found.num_without} queries have nothing to find and are left out.",)
    return TaskResult(
        task="retrieval",
        protocol=f"retrieval-cosine-gallery_{config.gallery}/1",
        headline="mAP",
        measurements=tuple(measurements),
        details=found._asdict(),
        warnings=warnings,
    )


def run_clustering(run: EvalRun) -> TaskResult:
    """k-means of the test features against the classes."""
    config = run.config.clustering
    truth = run.labels("val")
    num_clusters = config.num_clusters or len(truth.unique())
    clusters = kmeans(
        run.features("val", "pooled"),
        num_clusters=num_clusters,
        config=config,
        seed=run.config.seed,
        device=run.device,
    )
    scores = cluster_scores(clusters.assignment, truth)
    measurements = (
        Measurement(name="NMI", value=scores.nmi),
        Measurement(name="ARI", value=scores.ari),
        Measurement(name="FMI", value=scores.fmi),
        Measurement(
            name="accuracy", value=scores.accuracy, note="best matching of clusters to classes"
        ),
    )
    return TaskResult(
        task="clustering",
        protocol=f"clustering-kmeans{num_clusters}-{config.num_starts}starts/1",
        headline="NMI",
        measurements=measurements,
        details={"inertia": clusters.inertia, "num_iterations": clusters.num_iterations},
    )


# Without labels --------------------------------------------------------------------------------


def run_metrics(run: EvalRun) -> TaskResult:
    """RankMe, alpha-ReQ and signs of collapse on the training images."""
    rows = spread(
        len(run.bank_source), run.config.metrics.max_rows, seed=run.config.seed, name="metrics"
    )
    features = run.features("train", "pooled")[rows]
    spectrum = rep.covariance_spectrum(features)
    law = rep.fit_power_law(spectrum)
    stats = rep.collapse_stats(features)
    centred = features.double() - features.double().mean(dim=0)
    measurements = (
        _number("RankMe", rep.rankme(features), "1 to D"),
        _number(
            "RankMe of centred features",
            rep.rankme(centred),
            "far above RankMe: one direction dominates; not a quality",
        ),
        _number("alpha", law.alpha, f"R2 {law.r_squared:.3f}"),
        _number("feature std", stats.feature_std, "1 spread, 0 collapsed"),
        _number("mean cosine", stats.mean_cosine, "0 spread, 1 collapsed"),
        _number("uniformity", stats.uniformity, "-4 to 0"),
        _number("participation ratio", stats.participation, "effective dimensions"),
        Measurement(name="top eigenvalue share", value=stats.top_share),
        Measurement(name="dead dimensions", value=stats.dead_share),
    )
    return TaskResult(
        task="metrics",
        protocol=f"metrics-pooled-n{len(features)}-d{features.shape[1]}/1",
        headline="RankMe",
        measurements=measurements,
        details={"power_law": law._asdict(), "spectrum": spectrum, "num_rows": len(features)},
        plots=(_spectrum_plot(spectrum, law),),
        warnings=tuple(rep.caveats(len(features), features.shape[1], law)),
    )


def _number(name: str, value: float, note: str) -> Measurement:
    return Measurement(name=name, value=value, note=note, is_share=False)


def _spectrum_plot(spectrum: Tensor, law: rep.PowerLaw) -> str:
    series = {"eigenvalues": [(i, value) for i, value in enumerate(spectrum.tolist(), start=1)]}
    if law.alpha == law.alpha:
        index = torch.arange(law.first, law.last + 1).double()
        middle = spectrum[law.first - 1 : law.last].log().mean() + law.alpha * index.log().mean()
        line = (middle - law.alpha * index.log()).exp()
        name = f"alpha {law.alpha:.2f}, R2 {law.r_squared:.2f}"
        series[name] = list(zip(index.tolist(), line.tolist(), strict=True))
    return line_chart(
        "Covariance spectrum",
        series,
        x=Axis("index", is_log=True),
        y=Axis("eigenvalue", is_log=True),
        has_markers=False,
    )


def run_lidar(run: EvalRun) -> TaskResult:
    """LiDAR on augmented views of training images."""
    config = run.config.metrics
    rows = spread(len(run.bank_source), config.lidar_images, seed=run.config.seed, name="lidar")
    view = ViewConfig(
        size_px=run.view.size_px,
        count=config.lidar_views,
        crop_area=(0.08, 1.0),
        interpolation=run.view.interpolation,
        jitter=JitterConfig(),
        gray_prob=0.2,
    )
    source = run.subset(rows)
    views = extract_views(
        run.loaded.backbone,
        run.loader(
            source, view, batch_size=max(1, run.config.data.batch_size // config.lidar_views)
        ),
        num_views=config.lidar_views,
        normalize=run.normalize,
        device=run.device,
    )
    found = rep.lidar(views)
    warnings = ["LiDAR measures the shape of a spectrum: read tr(Sb)/tr(Sw) beside it."]
    if len(rows) <= views.shape[2]:
        warnings.append(f"{len(rows)} images for {views.shape[2]} dimensions: LiDAR wants more.")
    if config.lidar_views < 10:
        warnings.append(f"{config.lidar_views} views per image: LiDAR wants 10 or more.")
    return TaskResult(
        task="lidar",
        protocol=f"lidar-n{len(rows)}-q{config.lidar_views}-d{views.shape[2]}/1",
        headline="LiDAR",
        measurements=(
            Measurement(name="LiDAR", value=found.rank, is_share=False, note="1 to D"),
            Measurement(name="tr(Sb)/tr(Sw)", value=found.signal_to_noise, is_share=False),
        ),
        warnings=tuple(warnings),
    )


def run_map(run: EvalRun) -> TaskResult:
    """The features in the plane, with thumbnails."""
    config = run.config.map
    split: Split = "val" if run.val_source is not None else "train"
    source = run.source(split)
    rows = spread(len(source), config.num_points, seed=run.config.seed, name="map")
    places, kind = project(
        run.features(split, "pooled")[rows], kind=config.projection, seed=run.config.seed
    )
    stride = max(1, len(rows) // max(1, config.num_pictures))
    shown = list(range(0, len(rows), stride))[: config.num_pictures]
    pictures = {}
    view = run.view
    if run.point_view is None:
        view = replace(run.view, size_px=min(48, run.view.size_px))
    for batch in run.loader(run.subset(rows[shown], split), view):
        images = _thumbnails(batch.views["image"])
        pictures.update(
            {shown[int(i)]: image for i, image in zip(batch.index, images, strict=True)}
        )
    groups = None if source.labels is None else run.labels(split)[rows].tolist()
    plot = picture_map(
        f"Features in the plane ({kind})",
        places,
        groups=groups,
        group_names=run.class_names,
        pictures=pictures,
    )
    return TaskResult(
        task="map",
        protocol=f"map-{kind.split(',')[0].lower()}-n{len(rows)}/1",
        headline="points",
        measurements=(Measurement(name="points", value=len(rows), is_share=False),),
        plots=(plot,),
        warnings=("distances in the plane are not distances of features.",),
    )


def _thumbnails(samples: Tensor) -> Any:
    """Images (B, 3, S, S), or projections of clouds (B, M, 3), as uint8 (B, S, S, 3)."""
    if samples.ndim == 4:
        return samples.permute(0, 2, 3, 1).numpy()
    return np.stack([draw_cloud(c.numpy(), angle=0.6, size_px=48) for c in samples])


def _pooled(run: EvalRun) -> tuple[str, ...]:
    return ("pooled",)


TASKS: dict[str, Task] = {
    "knn": Task(run_knn, True, lambda run: (run.config.knn.features,)),
    "linear": Task(run_linear, True, lambda run: run.config.linear.feature_sets),
    "logreg": Task(run_logreg, True, lambda run: (run.config.logreg.features,)),
    "finetune": Task(run_finetune, True, lambda run: ()),
    "few_shot": Task(run_few_shot, True, _pooled),
    "svm": Task(run_svm, True, _pooled),
    "n_way": Task(run_n_way, True, _pooled, needs_val=False),
    "parts": Task(run_parts, True, lambda run: ()),
    "retrieval": Task(run_retrieval, True, _pooled),
    "clustering": Task(run_clustering, True, _pooled),
    "metrics": Task(run_metrics, False, _pooled, needs_val=False),
    "lidar": Task(run_lidar, False, lambda run: (), needs_val=False),
    "map": Task(run_map, False, _pooled, needs_val=False),
}
