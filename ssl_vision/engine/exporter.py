"""The network users take home: a plain copy beside the training, scored and exported."""

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import torch
from torch import Tensor

from ssl_vision.backbones.backbone import Backbone
from ssl_vision.data.levels import DecodeConfig
from ssl_vision.engine.next_steps import next_commands
from ssl_vision.engine.run import Run
from ssl_vision.engine.run_dir import BEST_FOLDER, BEST_NAME, best_sentence, read_best
from ssl_vision.engine.state import whole
from ssl_vision.methods.base import Method
from ssl_vision.zoo.card import ModelCard
from ssl_vision.zoo.export import describe_backbone, export_backbone
from ssl_vision.zoo.own import usage_of_own


class _Input(TypedDict):
    """How images reach the network; see `export_backbone`."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    size_px: int
    crop_pct: float
    decode: DecodeConfig
    class_names: tuple[str, ...]


class Exporter:
    """Keeps a copy of `method.export_backbone()` that training never touches.

    A copy, so that scoring cannot change modes, statistics or random numbers of the training, and
    so that it works where the trained one is sharded over processes.
    """

    def __init__(
        self,
        run: Run,
        method: Method,
        *,
        class_names: Sequence[str] = (),
        num_samples: int | None = None,
        has_labels: bool = True,
    ) -> None:
        """Make the copy.

        Args:
            run: The run.
            method: What is trained.
            class_names: Of the labels it is trained with, in the order of their numbers.
            num_samples: There are to learn labels from, for the commands that go on from here.
            has_labels: Whether there are classes to score.
        """
        self._run, self._num_samples, self._has_labels = run, num_samples, has_labels
        self._class_names = tuple(class_names)
        self.backbone: Backbone = copy.deepcopy(method.export_backbone()).eval()
        self.backbone.requires_grad_(False)
        self._heads: dict[str, Tensor] = {}

    def refresh(self, method: Method) -> Backbone:
        """Bring the copy up to date; a collective under FSDP2."""
        source = method.export_backbone().state_dict()
        self.backbone.to(method.device)
        with torch.no_grad():
            for name, value in self.backbone.state_dict().items():
                value.copy_(whole(source[name]))
        self._heads = {name: whole(value) for name, value in method.export_heads().items()}
        return self.backbone

    def describe(self, method: Method) -> str | None:
        """backbone.json of a checkpoint: the network, and where its tensors are in the state."""
        exported = method.export_backbone().model
        names = [name for name, module in method.named_modules() if module is exported]
        if not names:
            return None
        description = describe_backbone(self.backbone, **self._input(), card=self._card(method))
        return json.dumps({**description, "prefix": f"{names[0]}."}, indent=1)

    def write(self, method: Method) -> None:
        """Write export/; `refresh` first."""
        self._write(self._run.folder.export, method)

    def keep_best(self, method: Method, *, score: str, value: float) -> bool:
        """Write export_best/ and best.json if this score is above all before it; `refresh` first.

        Args:
            method: The method; `method.step` updates are done.
            score: Its name.
            value: From 0 to 1.

        Returns:
            Whether it is.
        """
        folder = self._run.folder
        best = read_best(folder)
        # What a run that was set back to an earlier update has not reached yet is no rival.
        if best is not None and best.step <= method.step and best.value >= value:
            return False
        self._write(folder.path / BEST_FOLDER, method)
        folder.write_json(BEST_NAME, {"step": method.step, "score": score, "value": value})
        return True

    def _write(self, folder: Path, method: Method) -> None:
        export_backbone(
            self.backbone,
            folder,
            **self._input(),
            card=self._card(method),
            heads=self._heads,
        )

    def snippet(self) -> str:
        """Lines that load and use the export."""
        folder = self._run.folder.export.resolve()
        name, own = json.dumps(f"local-dir:{folder}"), json.dumps(str(folder))
        if self.backbone.is_in_timm:
            use = (
                "use the backbone anywhere timm is installed:\n\n"
                "    import timm\n"
                f"    model = timm.create_model({name}, pretrained=True).eval()\n\n"
            )
        elif self.backbone.own is not None:
            lines = usage_of_own(self.backbone.own, str(folder)).replace("\n", "\n    ")
            return (
                f"done: {self._run.folder.path / 'report.html'}\n"
                f"use the backbone where its class is:\n\n    {lines}"
            )
        else:  # timm has no networks of clouds
            use = (
                "use the backbone where this package is installed:\n\n"
                "    import ssl_vision\n"
                f"    model = ssl_vision.load_backbone({own}).eval()\n\n"
            )
        lines = "\n".join(f"    {command}" for command in self.next_commands().values())
        best = best_sentence(self._run.folder, last_step=self._run.stop_step)
        best = "" if best is None else f"{best}\n"
        report = self._run.folder.path / "report.html"
        return f"{best}done: {report}\n{use}or go on from here:\n\n{lines}"

    def next_commands(self) -> dict[str, str]:
        """See `next_steps`."""
        return next_commands(
            self._run.folder.path,
            has_classifier=bool(getattr(self.backbone.model, "num_classes", 0)),
            is_in_timm=self.backbone.is_in_timm,
            num_samples=self._num_samples,
            has_labels=self._has_labels,
        )

    def _input(self) -> _Input:
        spec = self._run.config.data.input_spec
        return {
            "mean": spec.mean,
            "std": spec.std,
            "interpolation": spec.interpolation,
            "size_px": spec.size,
            "crop_pct": spec.crop_pct,
            "decode": spec.decode,
            "class_names": self._class_names,
        }

    def _card(self, method: Method) -> ModelCard:
        config, metrics = self._run.config, self._run.metrics
        names: tuple[str, ...] = ("eval/top1", "eval/knn_top1", "eval/rankme")
        shown = {n: f"{metrics[n]:.4g}" for n in names if n in metrics}
        return ModelCard(
            title=f"{config.backbone.name} by {config.method.name}",
            method=config.method.name,
            data=str(config.data.path),
            tag=config.method.name,
            steps=method.step,
            metrics=shown,
        )
