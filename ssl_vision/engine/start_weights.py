"""The weights a run starts from: put in before the first update, recognised at a resume."""

from pathlib import Path

from ssl_vision.backbones.transfer import transfer_weights
from ssl_vision.engine.run import Run
from ssl_vision.errors import SslVisionError
from ssl_vision.methods.base import Method
from ssl_vision.zoo.weights import heads_of, resolve_weights

RECORD = "start.json"  # in the run folder: what it started from


def start_from(weights: str, run: Run, method: Method) -> None:
    """Put other weights into the method's backbone before the first update.

    Raises:
        ConfigError: They name nothing.
        CheckpointError: They cannot be read, or are of another network.
    """
    loaded = resolve_weights(weights)
    report = transfer_weights(loaded.backbone, method.backbone)
    method.take_heads(heads_of(loaded), source=loaded.source)
    method.on_weights_loaded()
    if run.is_main:
        run.folder.write_json(RECORD, {"init_from": weights, "sha256": loaded.sha256})
    fresh = f"; starting fresh: {', '.join(report.fresh)}" if report.fresh else ""
    run.say(f"{report.num_loaded} tensors from {loaded.source}{fresh}")
    if other := run.config.data.mismatch(loaded.spec):
        run.warn(f"{weights} was trained with {other}")


def say_of_start(weights: str, run: Run) -> None:
    """Warn where the folder that a resumed run started from holds other weights by now.

    The run itself does not need them any more. Named weights (zoo, timm, hub) are not fetched
    again to be compared.
    """
    folder = Path(weights.removeprefix("local-dir:")).expanduser()
    record = run.folder.read_json(RECORD)
    if not run.is_main or not isinstance(record, dict) or not folder.is_dir():
        return
    try:
        now = resolve_weights(weights).sha256
    except SslVisionError as error:
        run.say(f"init_from={weights} is not compared with what the run started from: {error}")
        return
    if now != record.get("sha256"):
        run.warn(
            f"init_from={weights} holds other weights than the run started from (sha256 "
            f"{now[:12]}, was {str(record.get('sha256'))[:12]}); the run goes on from its own "
            "checkpoint. To start from the new ones, choose another run_dir or resume=never."
        )
