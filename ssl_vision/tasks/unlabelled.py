"""Tasks that need no labels: spectra, LiDAR, and the map with thumbnails."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssl_vision.evaluation import representation as rep
from ssl_vision.evaluation.features import extract_views
from ssl_vision.evaluation.plots import Axis, line_chart, picture_map
from ssl_vision.evaluation.projection import project
from ssl_vision.evaluation.results import Measurement, TaskResult
from ssl_vision.points.pictures import draw_cloud
from ssl_vision.tasks.run import EvalRun, Split, spread
from ssl_vision.views import JitterConfig, ViewConfig


def run_metrics(run: EvalRun) -> TaskResult:
    """RankMe, alpha-ReQ and signs of collapse on the training images."""
    run.prepare("train", ["pooled"])
    rows = spread(
        len(run.bank_source), run.config.metrics.max_rows, seed=run.config.seed, name="metrics"
    )
    features = run.features("train", "pooled")[rows]
    spectrum = rep.covariance_spectrum(features)
    law = rep.fit_power_law(spectrum)
    stats = rep.collapse_stats(features)
    measurements = (
        _number("RankMe", rep.rankme(features), "1 to D"),
        _number(
            "RankMe of centred features",
            rep.centred_rank(features),
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
    # The norm of a network leaves directions without variance: rounding, not spectrum.
    kept = spectrum[spectrum > spectrum[0] * 1e-10].tolist()
    series = {"eigenvalues": [(i, value) for i, value in enumerate(kept, start=1)]}
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
    _, views = extract_views(
        run.loaded.backbone,
        run.loader(
            source, view, batch_size=max(1, run.config.data.batch_size // config.lidar_views)
        ),
        num_views=config.lidar_views,
        normalize=run.normalize,
        device=run.device,
        autocast=run.autocast,
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
    run.prepare(split, ["pooled"])
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
