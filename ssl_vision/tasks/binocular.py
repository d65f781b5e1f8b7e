"""The task `binocular`: a head on CroCo's encoder and decoder, fine-tuned to say flow or disparity.

Both views are encoded whole; patches of the encoder's last block and of three blocks of the
decoder, equally far apart, are read, as the authors' heads read them (arXiv 2211.10408, section
3.3). Where we differ: one linear map in place of DPT, and images scaled to the size of pretraining,
not tiles of it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ssl_vision.data.decode import upright_size
from ssl_vision.data.images.files import FilesSource
from ssl_vision.data.images.two_views import Pair, read_geometry, read_pairs
from ssl_vision.data.modalities import MODALITIES
from ssl_vision.data.pairs.config import FIRST, SECOND
from ssl_vision.data.pairs.source import PairSource
from ssl_vision.distributed import world_size
from ssl_vision.engine.saved_config import is_run
from ssl_vision.engine.saved_method import load_method, untrained_method
from ssl_vision.errors import ConfigError, DataError, keys_renamed
from ssl_vision.evaluation.dense import bootstrap
from ssl_vision.evaluation.flow import (
    BinocularConfig,
    Flow,
    FlowErrors,
    flow_at_input,
    flow_errors,
    flow_loss,
    flow_of,
    flow_of_image,
)
from ssl_vision.evaluation.plots import Axis, line_chart, picture_table
from ssl_vision.evaluation.results import Measurement, TaskResult
from ssl_vision.evaluation.tuning import tune
from ssl_vision.files import shown
from ssl_vision.methods.base import Method
from ssl_vision.methods.croco import Croco
from ssl_vision.nn.binocular_head import BinocularHead
from ssl_vision.randomness import derive_key
from ssl_vision.schedules import warmup_cosine
from ssl_vision.tasks.dense import picture_rows, small_picture
from ssl_vision.tasks.run import EvalRun, Split
from ssl_vision.tasks.task import Task, no_features
from ssl_vision.types import Batch

_NUM_READ = 3  # blocks of the decoder


@dataclass(frozen=True, kw_only=True)
class FlowPairs:
    """Pairs with known flow.

    Attributes:
        run: The evaluation: how images are shown, the seed, the device.
        pairs: Files of both views and of their geometry.
        side: Of the network's input, S.
    """

    run: EvalRun
    pairs: list[Pair]
    side: int

    def flow(self, row: int) -> Flow:
        """True flow of a pair, (H, W, 2).

        Raises:
            DataError: It is known nowhere.
        """
        pair = self.pairs[row]
        sizes = [upright_size(each) for each in (pair.first, pair.second)]
        flow = flow_of(read_geometry(pair), sizes[0], sizes[1])
        if np.isnan(flow).all():
            raise DataError(
                f"no place of {shown(pair.first)} is seen in {shown(pair.second)} by their "
                "geometry; remove the pair, or is its direction the other?"
            )
        return flow

    @cached_property
    def targets(self) -> Tensor:
        """Flow of all pairs at the input, in its pixels, (n, S, S, 2)."""
        rows = range(len(self.pairs))
        return torch.from_numpy(np.stack([flow_at_input(self.flow(i), self.side) for i in rows]))

    def batches(self, *, batch_size: int, shuffle: bool) -> Iterator[Batch]:
        """Normalised pairs, shown whole; shuffled ones without end."""
        run, number = self.run, dict[str, int]()
        rows = [
            [number.setdefault(each, len(number)) for each in (pair.first, pair.second)]
            for pair in self.pairs
        ]
        images = FilesSource(list(number), decode=run.shown.decode)
        whole = replace(run.view, crop="whole", size_px=self.side)
        loader = MODALITIES["pairs"].loader(
            PairSource(images, np.array(rows)),
            {FIRST: whole, SECOND: whole},
            batch_size=min(batch_size, len(rows)),
            seed=run.config.seed,
            num_threads=run.config.data.num_threads,
            shuffle=shuffle,
            drop_last=False,
        )
        while True:
            for batch in loader:
                views = {name: run.normalize(view) for name, view in batch.views.items()}
                yield replace(batch, views=views).to(run.device)
            if not shuffle:
                return


class Binocular(nn.Module):
    """CroCo's encoder and decoder with a head of two views, (B, 3, S, S) each -> (B, 2, S, S)."""

    def __init__(self, croco: Croco, *, constant: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.croco = croco
        depth = len(croco.decoder.blocks)
        self._read = sorted({-(-depth * i // _NUM_READ) - 1 for i in range(1, _NUM_READ + 1)})
        widths = [croco.backbone.width, *[croco.config.decoder_width] * len(self._read)]
        self.head = BinocularHead(widths, patch_px=croco.patch_px, constant=constant, scale=scale)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Flow at the pixels of the first view."""
        found = self.croco.encode_pair(first, second)
        flow: Tensor = self.head([found.first, *(found.layers[i] for i in self._read)])
        return flow


class Scored(NamedTuple):
    """Errors of each test pair: of a network, and of the same with other pairs' second views."""

    own: list[FlowErrors]
    other: list[FlowErrors]


def run_binocular(run: EvalRun) -> TaskResult:
    """Train on pairs of known flow, score others."""
    config = run.config.settings(BinocularConfig)
    train, val = _open(run)
    model, losses = _fit(train, load_method(_folder(run)), config)
    scored = _score(model, val, config)
    quoted = config.within_px.index(config.quoted_px)
    name = f"within {config.quoted_px:g} px"

    def measured(errors: list[FlowErrors], of: str = "", note: str = "") -> list[Measurement]:
        within = np.array([each.within for each in errors])
        values, num = within[:, quoted], len(within)
        interval = bootstrap(lambda draws: draws @ values / num, num, seed=run.config.seed)
        error = float(np.mean([each.end_point for each in errors]))
        return [
            Measurement(name=name + of, value=float(values.mean()), interval=interval, note=note),
            Measurement(name=f"end-point error{of}, px", value=error, is_share=False, note=note),
        ]

    constant = _of_constant(model, val, config)
    compared = {
        " of a constant": (constant, "the mean of the training pairs everywhere"),
        " of other second views": (scored.other, "the same network, views of other pairs"),
    }
    if run.config.baselines:
        untrained, _ = _fit(train, untrained_method(_folder(run)), config)
        errors = _score(untrained, val, config).own
        compared[" of the untrained network"] = (errors, "fine-tuned likewise, from its start")
    own = measured(scored.own)
    others = [measured(errors, of, note) for of, (errors, note) in compared.items()]
    return TaskResult(
        task="binocular",
        protocol=f"binocular-linear-{config.tune}-u{config.updates}-lr{config.lr:g}"
        f"-{config.quoted_px:g}px-whole{train.side}/1",
        headline=name,
        measurements=(*own, *(each for pair in others for each in pair)),
        details={
            "num_train": len(train.pairs),
            "num_val": len(val.pairs),
            "within_px": list(config.within_px),
            "within": np.mean([each.within for each in scored.own], axis=0).tolist(),
        },
        plots=(_curve(losses), _pictures(model, val)),
        warnings=tuple(
            f"no nearer than{of}: {found[1].value:.3g} px."
            for of, found in zip(compared, others, strict=True)
            if own[1].value >= found[1].value
        ),
    )


# Pairs ------------------------------------------------------------------------------------------


def _open(run: EvalRun) -> tuple[FlowPairs, FlowPairs]:
    """Training and test pairs.

    Raises:
        ConfigError: The settings or the weights do not do.
        DataError: Pairs or their geometry cannot be read.
    """
    if "binocular" not in run.made:
        config, side = run.config.settings(BinocularConfig), _side(run)
        splits: tuple[tuple[Split, str | None], ...] = (
            ("train", config.train), ("val", config.val),
        )  # fmt: skip
        run.made["binocular"] = tuple(_pairs(run, name, given, side) for name, given in splits)
    found: tuple[FlowPairs, FlowPairs] = run.made["binocular"]
    return found


def _side(run: EvalRun) -> int:
    """Size that the decoder takes, once the weights are known to have one."""
    if world_size() > 1:
        raise ConfigError("tasks=binocular trains on one process; start it without torchrun.")
    weights = _folder(run)
    method = load_method(weights) if is_run(weights) else None
    if not isinstance(method, Croco):
        raise ConfigError(
            f"tasks=binocular needs a run folder of method.name=croco, whose decoder reads two "
            f"views; {run.config.weights} is none (exports are without the decoder)."
        )
    return method.plan.input_size


def _folder(run: EvalRun) -> Path:
    return Path(run.config.weights).expanduser()


def _pairs(run: EvalRun, split: Split, given: str | None, side: int) -> FlowPairs:
    key = f"binocular.{split}"
    if given is None:
        raise ConfigError(
            f"tasks=binocular needs {key}=TABLE.csv with the columns first,second,geometry (a "
            "flow, a disparity or a homography)."
        )
    with keys_renamed({"correspond.pairs": key}):
        pairs = read_pairs(Path(given).expanduser())
    found = FlowPairs(run=run, pairs=pairs, side=side)
    for row in range(len(pairs)):
        found.flow(row)
    return found


# Training and scores ----------------------------------------------------------------------------


def _fit(
    train: FlowPairs, method: Method, config: BinocularConfig
) -> tuple[Binocular, list[float]]:
    """A fine-tuned network, and the loss of every update."""
    assert isinstance(method, Croco)
    run, truth = train.run, train.targets
    known = truth[~truth[..., 0].isnan()]
    scale = known.std(dim=0, correction=0).clamp(min=1e-3 * train.side)
    model = Binocular(method, constant=known.mean(dim=0), scale=scale).to(run.device)
    model.train()
    model.croco.requires_grad_(config.tune == "all")
    spread, trained = scale.to(run.device), [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.lr, weight_decay=config.weight_decay)

    def set_rates(step: int) -> None:
        optimizer.param_groups[0]["lr"] = warmup_cosine(
            step,
            start=0.0,
            peak=config.lr,
            end=0.0,
            warmup_steps=min(config.warmup_updates, config.updates // 3),
            total_steps=config.updates,
            is_peak_included=False,
        )

    def loss_of(batch: Batch, step: int) -> Tensor:
        found = model(batch.views[FIRST], batch.views[SECOND])
        return flow_loss(found, truth[batch.index.cpu()].to(found.device), spread)

    def batches(epoch: int) -> Iterator[Batch]:
        endless = train.batches(batch_size=config.batch_size, shuffle=True)
        return (batch for _, batch in zip(range(config.updates), endless, strict=False))

    (losses,) = tune(
        model,
        batches,
        loss_of,
        optimizer=optimizer,
        set_rates=set_rates,
        epochs=1,
        key_of=lambda step: derive_key(run.config.seed, "binocular", step),
        way_out="use binocular.batch_size above 1",
        clip_norm=1.0,
    )
    if not bool(losses[-1].isfinite()):
        raise ConfigError(
            f"binocular.lr={config.lr:g}: the loss is not finite after {config.updates} updates; "
            "lower it."
        )
    return model.eval(), losses.tolist()


def _score(model: Binocular, val: FlowPairs, config: BinocularConfig) -> Scored:
    """Errors of each test pair."""
    own, other = [], []
    before: Tensor | None = None
    with torch.inference_mode():
        for batch in val.batches(batch_size=config.batch_size, shuffle=False):
            first, second = batch.views[FIRST], batch.views[SECOND]
            mixed = torch.cat([second[-1:] if before is None else before, second[:-1]])
            before = second[-1:]
            found = zip(
                batch.index.tolist(), model(first, second), model(first, mixed), strict=True
            )
            for row, flow, without in found:
                own.append(_errors(val, row, flow, config))
                other.append(_errors(val, row, without, config))
    return Scored(own, other)


def _errors(val: FlowPairs, row: int, found: Tensor, config: BinocularConfig) -> FlowErrors:
    truth = val.flow(row)
    height, width = truth.shape[:2]
    return flow_errors(truth, flow_of_image(found, (height, width)), config.within_px)


def _of_constant(model: Binocular, val: FlowPairs, config: BinocularConfig) -> list[FlowErrors]:
    """Errors of the mean of the training pairs."""
    constant = model.head.constant[0].cpu().expand(2, val.side, val.side)
    return [_errors(val, row, constant, config) for row in range(len(val.pairs))]


# Pictures ---------------------------------------------------------------------------------------


def _curve(losses: list[float]) -> str:
    return line_chart(
        "loss of encoder, decoder and head",
        {"loss": list(enumerate(losses, start=1))},
        x=Axis("update"),
        y=Axis("loss"),
        has_markers=False,
    )


def _pictures(model: Binocular, val: FlowPairs) -> str:
    """Test pairs, their flow and predictions."""
    chosen, rows = picture_rows(len(val.pairs)), []
    part = FlowPairs(run=val.run, pairs=[val.pairs[i] for i in chosen], side=val.side)
    with torch.inference_mode():
        for batch in part.batches(batch_size=len(chosen), shuffle=False):
            found = model(batch.views[FIRST], batch.views[SECOND])
            for row, flow in zip(batch.index.tolist(), found, strict=True):
                rows.append(_picture_row(part, row, flow))
    columns = ("first view", "second view", "flow (black: none)", "prediction")
    return picture_table("Flow: its direction is the colour", rows, columns=columns)


def _picture_row(part: FlowPairs, row: int, found: Tensor) -> list[NDArray[np.uint8]]:
    truth, pair = part.flow(row), part.pairs[row]
    height, width = truth.shape[:2]
    most = float(np.nanmax(np.linalg.norm(truth, axis=2)))
    views = [small_picture(FilesSource([each]).sample(0)) for each in (pair.first, pair.second)]
    flows = (truth, flow_of_image(found, (height, width)))
    return [*views, *(small_picture(flow_colors(f, most), is_painted=True) for f in flows)]


def flow_colors(flow: Flow, most: float) -> NDArray[np.uint8]:
    """Flow as colours, (H, W, 3): direction by hue, length by strength, black where not known."""
    angle = np.arctan2(flow[..., 1], flow[..., 0])
    strength = np.clip(np.linalg.norm(flow, axis=2) / max(most, 1e-6), 0, 1)
    turns = angle[..., None] - np.array([0, 2, 4]) * np.pi / 3
    color = 255 * (1 - strength[..., None] * (1 - (0.5 + 0.5 * np.cos(turns))))
    return np.nan_to_num(color, nan=0.0).round().astype(np.uint8)


def _check(run: EvalRun) -> None:
    """Before anything is trained: weights with a decoder, and pairs with known flow."""
    _open(run)


TASK = Task(
    run=run_binocular,
    settings={"binocular": BinocularConfig},
    needs_labels=False,
    needs_val=False,
    feature_sets=no_features,
    check=_check,
)
