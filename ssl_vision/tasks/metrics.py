"""The task `metrics`: spectra and signs of collapse, without labels."""

import torch
from torch import Tensor

from ssl_vision.evaluation import representation as rep
from ssl_vision.evaluation.plots import Axis, line_chart
from ssl_vision.evaluation.results import Measurement, TaskResult
from ssl_vision.evaluation.settings import MetricsConfig
from ssl_vision.tasks.run import EvalRun, at_least, spread
from ssl_vision.tasks.task import Task


def run_metrics(run: EvalRun) -> TaskResult:
    """RankMe, alpha-ReQ and signs of collapse on the training images."""
    run.prepare("train", ["pooled"])
    rows = spread(
        len(run.bank_source),
        run.config.settings(MetricsConfig).max_rows,
        seed=run.config.seed,
        name="metrics",
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


TASK = Task(
    run=run_metrics,
    settings={"metrics": MetricsConfig},
    needs_labels=False,
    needs_val=False,
    check=lambda run: at_least(run, run.bank_source, 2, task="metrics"),
)
