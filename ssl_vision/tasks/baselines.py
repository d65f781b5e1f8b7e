"""What training has to beat: raw inputs and untrained networks, on the data of an evaluation."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ssl_vision.backbones.backbone import Backbone
from ssl_vision.backbones.build import load_timm
from ssl_vision.engine.saved_method import untrained_backbone
from ssl_vision.errors import ConfigError
from ssl_vision.evaluation.accuracy import Accuracy, majority_class
from ssl_vision.evaluation.knn import KnnConfig
from ssl_vision.evaluation.raw_inputs import raw_inputs
from ssl_vision.evaluation.results import Measurement, TaskResult
from ssl_vision.evaluation.svm import SvmResult
from ssl_vision.nn.batch_norm import ENOUGH_TO_FIT, has_batch_norm, with_fitted_batch_norms
from ssl_vision.randomness import derive_key, seeded
from ssl_vision.tasks.run import EvalRun, spread
from ssl_vision.zoo.safe_load import sha256_of_tensors

MAJORITY = "the majority class"
UNTRAINED = "the untrained network"
FITTED = f"{UNTRAINED}, batch norms fitted"


def top1_of(scored: Accuracy | SvmResult) -> Measurement:
    """Top-1 as a measurement."""
    return Measurement(name="top1", value=scored.top1, interval=scored.interval)


def compare_with_baselines(
    run: EvalRun, own: Measurement, score: Callable[[EvalRun], Measurement]
) -> tuple[list[Measurement], list[str]]:
    """Score the baselines as the evaluated network was, where the settings ask for it.

    Args:
        run: The evaluated network on its data.
        own: Its score, of which more is better.
        score: Gives that of any network on that data.

    Returns:
        One measurement per baseline, and a warning for each that is not beaten.
    """
    measurements, problems = [], []
    words = "top-1" if own.name == "top1" else own.name
    for name, other in baselines(run).items() if run.config.baselines else ():
        found = score(other)
        note = "" if other.loaded.source == name else other.loaded.source
        measurements.append(replace(found, name=f"{own.name} of {name}", note=note))
        if own.value <= found.value:
            problems.append(f"not better than {name}: {100 * found.value:.1f} % {words}.")
    return measurements, problems


def beside_majority(run: EvalRun, result: TaskResult) -> TaskResult:
    """The result with the accuracy of the majority class, and a warning where that is not beaten.

    Of results that are a top-1 accuracy on the test images; others stay as they are.
    """
    if result.headline != "top1" or not run.has_labels:
        return result
    found = majority_of(run, is_leave_one_out=result.task == "knn" and _is_leave_one_out(run))
    line = Measurement(
        name=f"top1 of {MAJORITY}",
        value=found.top1,
        interval=found.interval,
        note="one answer for all images; with balanced classes this is chance",
    )
    own, problems = result.main.value, list(result.warnings)
    if own <= found.top1:
        problems.append(
            f"{100 * own:.1f} % top-1 is not above {MAJORITY}, {100 * found.top1:.1f} %: the "
            "features say nothing of these classes, or labels do not belong to their images."
        )
    return replace(result, measurements=(*result.measurements, line), warnings=tuple(problems))


def warn_of_chance(accuracy: float, num_classes: int) -> tuple[str, ...]:
    """A warning where classes that were shown equally often are told no better than by guessing."""
    if accuracy > 1 / num_classes:
        return ()
    return (f"{100 * accuracy:.1f} % is not above chance, {100 / num_classes:.1f} %.",)


def majority_of(run: EvalRun, *, is_leave_one_out: bool = False) -> Accuracy:
    """Accuracy of the largest training class as the answer for every test image."""
    bank = run.labels("train")
    return majority_class(bank, bank if is_leave_one_out else run.labels("val"))


def _is_leave_one_out(run: EvalRun) -> bool:
    return run.config.settings(KnnConfig).is_leave_one_out


def baselines(run: EvalRun) -> dict[str, EvalRun]:
    """Name -> the same data before pixels (of clouds, statistics) and the untrained network.

    An untrained network with batch norms comes twice: as drawn, and with their statistics fitted to
    the data (see `with_fitted_batch_norms`). All are made, and their features computed, once for
    all tasks of the run.
    """
    if not run.baselines:
        raw, first = _raw(run), _untrained(run)
        run.baselines = {raw.loaded.source: raw, UNTRAINED: first}
        if has_batch_norm(first.loaded.backbone):
            run.baselines[FITTED] = _fitted(first)
    return run.baselines


def _raw(run: EvalRun) -> EvalRun:
    """The modality's features without a network."""
    backbone = raw_inputs(run.modality.name, patch_side=run.patch_side)
    name = backbone.architecture
    loaded = replace(run.loaded, backbone=backbone, source=name, sha256=name)
    return EvalRun(run.config, loaded, say=run.say, like=run)


def _untrained(run: EvalRun) -> EvalRun:
    """The same architecture with random weights.

    Of a run folder they are those its training started from: methods draw in their own ways, and
    another draw is another network. Of other weights nobody knows; they are timm's.
    """
    own, folder = run.loaded.backbone, Path(run.config.weights).expanduser()
    if (folder / "config.yaml").is_file():
        backbone = untrained_backbone(folder)
        origin = "as the run's method drew it"
    else:
        if own.own is not None:
            raise ConfigError(
                f"baselines=true: nobody but the program can draw {own.own.name} anew; set it to "
                "false, and evaluate an untrained one beside it."
            )
        with seeded(derive_key(run.config.seed, "untrained")):
            backbone = load_timm(own.architecture, is_pretrained=False, args=own.model_args)
        origin = "as timm draws it"
    source = f"untrained {own.architecture}, {origin}"
    return _with_backbone(run, backbone.eval(), source=source)


def _fitted(untrained: EvalRun) -> EvalRun:
    """The untrained network, its batch norms with the statistics of the bank."""
    rows = spread(
        len(untrained.bank_source), ENOUGH_TO_FIT, seed=untrained.config.seed, name="batch norms"
    )
    backbone = untrained.loaded.backbone.to(untrained.device)
    batches = untrained.loader(untrained.subset(rows), untrained.view, shuffle=True)
    with seeded(derive_key(untrained.config.seed, "batch norms")):
        fitted = with_fitted_batch_norms(
            backbone,
            (
                untrained.normalize(view.to(untrained.device))
                for batch in batches
                for view in batch.views.values()
            ),
        )
    note = f"{untrained.loaded.source}; statistics of {len(rows)} samples of the bank"
    return _with_backbone(untrained, fitted, source=note)


def _with_backbone(run: EvalRun, backbone: Backbone, *, source: str) -> EvalRun:
    sha256 = sha256_of_tensors(backbone.model.state_dict())
    loaded = replace(run.loaded, backbone=backbone, source=source, sha256=sha256)
    return EvalRun(run.config, loaded, say=run.say, like=run)
