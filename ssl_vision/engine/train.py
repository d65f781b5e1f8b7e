"""A run from its configuration to its export: build data, method and loop; fit; report."""

import copy
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import lightning as L
import torch
from rich.console import Console
from torch import nn

from ssl_vision.backbones.backbone import Backbone
from ssl_vision.backbones.build import build_backbone, check_architecture
from ssl_vision.backbones.own import check_layers, check_sizes
from ssl_vision.config import TrainConfig, to_yaml
from ssl_vision.data.find import DataLike
from ssl_vision.data.levels import each_told_once
from ssl_vision.data.module import DataModule, per_process_batch
from ssl_vision.distributed import world_size
from ssl_vision.engine.callbacks import Callbacks, CallbackWatcher
from ssl_vision.engine.checkpoint import CheckpointWriter, list_checkpoints
from ssl_vision.engine.checkpointer import Checkpointer
from ssl_vision.engine.data_guard import DataGuard
from ssl_vision.engine.exporter import Exporter
from ssl_vision.engine.failures import explained
from ssl_vision.engine.forecast import Forecast, plan_table
from ssl_vision.engine.gallery import gallery, picture, preview
from ssl_vision.engine.loop import Loop
from ssl_vision.engine.metrics import MetricsLog, SpeedMeter, UnreadableLog
from ssl_vision.engine.nonfinite import NonFiniteGuard, check_weights
from ssl_vision.engine.online_eval import OnlineEval
from ssl_vision.engine.preemption import PreemptionWatcher, StopSignals
from ssl_vision.engine.report import write_report
from ssl_vision.engine.resume import (
    check_changes,
    config_changes,
    describe_changes,
    has_run_to_resume,
)
from ssl_vision.engine.run import Run, stop_step_of
from ssl_vision.engine.run_dir import RunFolder, describe_environment, lines_left_out
from ssl_vision.engine.saved_config import run_settings
from ssl_vision.engine.start import Start
from ssl_vision.engine.start_weights import say_of_start, start_from
from ssl_vision.engine.strategy import build_fabric, loss_scaler, set_up
from ssl_vision.engine.stream import BatchStream
from ssl_vision.engine.watchers import Watcher
from ssl_vision.errors import CheckpointError
from ssl_vision.files import check_output, read_text
from ssl_vision.methods import METHODS
from ssl_vision.methods.base import Method, TrainPlan
from ssl_vision.randomness import derive_key, seeded
from ssl_vision.types import Batch

Drawing = TypeVar("Drawing")


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What a run leaves behind.

    Attributes:
        run_dir: Folder of the run.
        steps: Optimizer updates done.
        metrics: Latest value of everything that was measured.
        export: Folder of the backbone as a plain timm model.
        backbone: The network that was exported (the teacher where there is one).
    """

    run_dir: Path
    steps: int
    metrics: dict[str, float]
    export: Path
    backbone: Backbone = field(repr=False)

    @property
    def scores(self) -> dict[str, float]:
        """The last scores, by name ("knn_top1", "rankme"); empty where nothing was scored."""
        found = self.metrics.items()
        return {n.removeprefix("eval/"): value for n, value in found if n.startswith("eval/")}

    def load_backbone(self) -> nn.Module:
        """The trained network on the CPU, in evaluation mode: images (B, C, S, S) -> (B, D).

        A plain timm model, or a copy of the module that was handed over; see the run's export.
        """
        return copy.deepcopy(self.backbone).cpu().eval().requires_grad_(True).standalone()


@dataclass(frozen=True, kw_only=True)
class Handed:
    """What a program hands to a run beside its settings; see `engine.api`.

    Attributes:
        data: The data, where they are an object.
        backbone: The network, where it is one; it is trained itself.
        callbacks: What to call on updates and scores.
        signals: Who asks to stop; by default the process's signals, of which a second ends it.
        is_quiet: Whether only warnings are printed.
    """

    data: DataLike = None
    backbone: Backbone | None = None
    callbacks: Callbacks | None = None
    signals: StopSignals = field(default_factory=StopSignals)
    is_quiet: bool = False


@each_told_once()
def train(config: TrainConfig, *, handed: Handed | None = None) -> RunResult:
    """Train as configured; resume, save, score, export and report on the way.

    Args:
        config: What to do.
        handed: Objects of a program.

    Raises:
        SslVisionError: With the exit code its class states; one line that says what to do.
    """
    handed = handed or Handed()
    if handed.backbone is None:
        check_architecture(config.backbone.name, key="backbone.name")
    config.method.check_start(config.init_from)
    fabric = build_fabric(config)
    per_process_batch(
        config.data.global_batch_size,
        world_size=fabric.world_size,
        accumulate=config.trainer.accumulate,
    )
    check_output(config.run_path, key="run_dir", data=(config.data.path, config.data.val_path))
    folder, start = RunFolder(config.run_path), Start(config.run_path)
    with ExitStack() as stack:
        is_resuming = False
        if fabric.is_global_zero:
            stack.callback(folder.close)
            stack.enter_context(start)
            folder.open()
            is_resuming = _claim(folder, config)
        data = build_data(config, fabric, handed.data)
        guard = DataGuard(
            data.train_source,
            policy=config.trainer.on_data_change,
            path=config.data.path,
            is_main=fabric.is_global_zero,
        )
        guard.start()
        plan = build_plan(config, data)
        run = Run(
            config=config,
            folder=folder,
            stream=build_stream(config, plan, data, device=fabric.device),
            fabric=fabric,
            console=Console(),
            is_quiet=handed.is_quiet,
            guard=guard,
            is_main=fabric.is_global_zero,
            stop_step=stop_step_of(config, total_steps=plan.total_steps),
        )
        _say_of_data(run, data)
        method = build_method(config, plan, handed.backbone)
        if run.is_main:
            start.begin(is_resuming=is_resuming)
            folder.write("config.yaml", to_yaml(config))
        if config.init_from is not None and not _resumes(folder, config):
            start_from(config.init_from, run, method)
        names = data.train_source.class_names if method.reads_labels else method.class_names
        exporter = Exporter(
            run,
            method,
            class_names=names,
            num_samples=len(data.bank_source),  # of supervised training, too
            has_labels=data.has_labels,
        )
        fit(run, method, data, exporter, handed, watching=[start])
        return _finish(run, method, data, exporter)


def _say_of_data(run: Run, data: DataModule) -> None:
    """What was guessed about the data, and what makes its scores doubtful."""
    for line in data.notes:
        run.say(line)
    for line in data.warnings() if run.is_main else ():
        run.warn(line)


def build_data(config: TrainConfig, fabric: L.Fabric, data: DataLike = None) -> DataModule:
    """The data set and its loaders, for this process; of an object, where `data` is one.

    Raises:
        DataError: Nothing there, or not enough for one update.
    """
    return DataModule(
        config.data,
        seed=config.seed,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
        accumulate=config.trainer.accumulate,
        is_supervised=METHODS[config.method.name].module.reads_labels,
        data=data,
    )


def build_plan(config: TrainConfig, data: DataModule) -> TrainPlan:
    """What the method may know of the run: its length in updates, batch and image sizes."""
    return TrainPlan(
        steps_per_epoch=len(data.train_loader()) // config.trainer.accumulate,
        epochs=config.trainer.epochs,
        global_batch_size=config.data.global_batch_size,
        accumulate=config.trainer.accumulate,
        input_size=config.data.input_size,
        num_classes=data.num_classes,
        input_spec=config.data.input_spec,
        seed=config.seed,
    )


def build_stream(
    config: TrainConfig, plan: TrainPlan, data: DataModule, *, device: torch.device
) -> BatchStream:
    """The run's batches on the device, from the first update."""
    return BatchStream(
        data.train_loader(),
        seed=config.seed,
        steps_per_epoch=plan.steps_per_epoch,
        accumulate=config.trainer.accumulate,
        global_batch_size=plan.global_batch_size,
        stop_step=stop_step_of(config, total_steps=plan.total_steps),
        device=device,
    )


def build_method(config: TrainConfig, plan: TrainPlan, backbone: Backbone | None = None) -> Method:
    """The method with its networks, drawn from the run's seed, or around one that exists.

    Raises:
        ConfigError: Backbone and method do not go together, or settings contradict each other.
    """
    with seeded(derive_key(config.seed, "initial weights")):
        start = None if backbone is None else copy.deepcopy(backbone.state_dict())
        if backbone is None:
            backbone = build_backbone(config.backbone, input_size=plan.input_size)
        check_layers(backbone, layer_decay=config.optim.layer_decay)
        check_sizes(backbone, _sides(config))
        method = METHODS[config.method.name].module(
            config.method, backbone, optim=config.optim, plan=plan
        )
    if start is not None:  # methods draw weights anew (MAE), or copied them already (teachers)
        method.backbone.load_state_dict(start, strict=False)  # a mask token is the method's
        method.on_weights_loaded()
    return method


def _sides(config: TrainConfig) -> dict[str, int]:
    """Full key -> side in px of the views; none of clouds."""
    sides = {name: getattr(view, "size_px", None) for name, view in config.data.views.items()}
    return {f"data.views.{name}.size_px": side for name, side in sides.items() if side is not None}


def fit(
    run: Run,
    method: Method,
    data: DataModule,
    exporter: Exporter,
    handed: Handed | None = None,
    *,
    watching: Sequence[Watcher] = (),
) -> None:
    """Train from the newest checkpoint, or the start, to the end of the run.

    Args:
        run: The run.
        method: What is trained.
        data: Its data.
        exporter: Keeps the copy that is scored.
        handed: Objects of a program.
        watching: Called after each update, before the others.

    Raises:
        Preempted: A signal asked to stop; the checkpoint is complete.
        NonFiniteError: By `trainer.on_nonfinite`.
        DeviceMemoryError: The device is too small for the batch.
        CheckpointError: A checkpoint could not be written.
        PeerError: Another process died.
    """
    handed = handed or Handed()
    settings, signals = run.config.trainer, handed.signals
    with ExitStack() as stack:
        stack.enter_context(explained(run, method))
        stack.enter_context(signals.installed())
        run.fabric.launch()
        model = set_up(run.fabric, method, settings)
        optimizer = method.make_optimizer(is_loss_scaled=loss_scaler(run.fabric) is not None)
        writer = CheckpointWriter(run.folder.checkpoints, keep=settings.keep_checkpoints)
        stack.callback(writer.settle)  # also on the way out of a failure
        checkpointer = Checkpointer(run, optimizer, writer, describe=exporter.describe)
        speed = SpeedMeter(every_steps=settings.log_every_steps)
        scores, forecast = OnlineEval(run, data, exporter), Forecast()
        watchers: list[Watcher] = [
            *watching,
            NonFiniteGuard(
                policy=settings.on_nonfinite, roll_back=lambda: checkpointer.roll_back(method)
            ),
            MetricsLog(optimizer, every_steps=settings.log_every_steps),
            UnreadableLog(data.train_loader(), every_steps=settings.log_every_steps),
            speed,
            forecast,
            scores,
            checkpointer,
        ]
        listeners = CallbackWatcher(handed.callbacks or Callbacks(), signals)
        watchers += [listeners, PreemptionWatcher(signals, checkpointer)]
        loop = Loop(
            fabric=run.fabric,
            model=model,
            method=method,
            optimizer=optimizer,
            stream=run.stream,
            prepare=_channels_last(data.prepare) if settings.channels_last else data.prepare,
            accumulate=settings.accumulate,
            is_stop_asked=lambda: signals.received is not None,
        )
        _restore(run, method, checkpointer, data)
        scores.start(method)
        listeners.start(run, method)
        stack.callback(run.stream.close)
        stack.callback(speed.stop)
        speed.start(run, method)
        forecast.start()
        loop.run(run, watchers)
        if run.is_main:
            checkpointer.finish()
    for logger in run.fabric.loggers:
        logger.finalize("success")


def _channels_last(prepare: Callable[[Batch], Batch]) -> Callable[[Batch], Batch]:
    """`prepare`, then images laid out as the network's convolutions want them."""

    def prepare_and_lay_out(batch: Batch) -> Batch:
        batch = prepare(batch)
        views = {
            name: view.contiguous(memory_format=torch.channels_last) if view.ndim == 4 else view
            for name, view in batch.views.items()
        }
        return replace(batch, views=views)

    return prepare_and_lay_out


def _claim(folder: RunFolder, config: TrainConfig) -> bool:
    """Whether a run goes on; what cannot is refused before data or a model is touched."""
    saved, is_resuming = folder.path / "config.yaml", has_run_to_resume(folder, config)
    if is_resuming and saved.exists():
        run_settings(folder.path, way_out="put it back, or begin anew with resume=never")
        changes = config_changes(read_text(saved, error=CheckpointError), config)
        check_changes(changes, run_dir=folder.path)
    return is_resuming


def _resumes(folder: RunFolder, config: TrainConfig) -> bool:
    """Whether a checkpoint will replace whatever the method starts from."""
    return config.resume != "never" and bool(list_checkpoints(folder.checkpoints))


def _restore(run: Run, method: Method, checkpointer: Checkpointer, data: DataModule) -> None:
    """Put the newest checkpoint back, if this run resumes; say what happened."""
    state = checkpointer.restore_newest(method) if run.config.resume != "never" else None
    if state is None and run.config.resume == "must":
        raise CheckpointError(
            f"resume=must, but no checkpoint in {run.folder.checkpoints} is complete; start with "
            "resume=auto or never."
        )
    if state is None and _resumes(run.folder, run.config):
        raise CheckpointError(
            f"{run.folder.checkpoints} has checkpoints and none of them can be read; resume=never "
            "sets the old run aside and starts anew."
        )
    step = 0
    if state is not None:
        step = state["step"]
        changes = config_changes(state["config"], run.config)
        check_changes(changes, run_dir=run.folder.path)
        if run.guard is not None:
            run.guard.expect(state["data_fingerprint"])
            run.say_notes()
        of_all = f" of {run.stop_step}" if run.has_end else ""
        run.say(f"resuming {run.folder.path} after update {step}{of_all}")
        if step < run.stop_step and run.folder.export.exists():
            run.say(f"{run.folder.export} stays that of an earlier end until this run ends")
        if run.config.init_from is not None:
            say_of_start(run.config.init_from, run)
        if changes:
            run.warn(f"settings changed since: {describe_changes(changes)}")
    if run.is_main:
        for name in ("metrics.jsonl", "speed.jsonl", "nonfinite.jsonl"):
            damaged = run.folder.truncate(name, step=step)
            if damaged:
                run.warn(f"{run.folder.path / name}: {lines_left_out(damaged)}")
        run.recall(step)
        _note_session(run, method, step)
    if step == 0:
        _introduce(run, method, data)


def _note_session(run: Run, method: Method, step: int) -> None:
    """environment.json: one entry per start of the run."""
    session: dict[str, object] = {"from_step": step} | describe_environment(
        world_size=world_size(), device=_device_name(method)
    )
    earlier = run.folder.read_json("environment.json")
    sessions = earlier.get("sessions") if isinstance(earlier, dict) else None
    sessions = sessions if isinstance(sessions, list) else []
    run.folder.write_json("environment.json", {"sessions": [*sessions, session]})


def _introduce(run: Run, method: Method, data: DataModule) -> None:
    """What a user should check before leaving the machine alone."""
    if run.is_main and not run.is_quiet:
        num, device = len(data.train_source), _device_name(method)
        run.console.print(plan_table(run, method, num_images=num, device=device))
    for line in method.notes():
        run.say(line)


def _device_name(method: Method) -> str:
    if method.device.type == "cuda":
        return torch.cuda.get_device_name(method.device)
    return f"cpu ({torch.get_num_threads()} threads)"


def _finish(run: Run, method: Method, data: DataModule, exporter: Exporter) -> RunResult:
    """Export, report, and the lines a user pastes next."""
    check_weights(run, method)
    exporter.refresh(method)
    if run.is_main:
        exporter.write(method)
        first = run.stream.first
        write_report(
            run.folder.path,
            preview=_drawn(run, "views", lambda: preview(first, run.config.data)),
            picture=_drawn(run, "picture", lambda: picture(method, first, run.config.data)),
            next_commands=exporter.next_commands(),
            sections=_drawn(run, "neighbours and map", lambda: gallery(data, exporter.backbone)),
        )
        run.say(exporter.snippet())
    return RunResult(
        run_dir=run.folder.path,
        steps=method.step,
        metrics=dict(run.metrics),
        export=run.folder.export,
        backbone=exporter.backbone,
    )


def _drawn(run: Run, what: str, draw: Callable[[], Drawing]) -> Drawing | None:
    """A part of the report; a run is not lost for want of one."""
    try:
        return draw()
    except Exception as error:
        run.warn(f"report.html lacks its {what}: {type(error).__name__}: {error}")
        return None
