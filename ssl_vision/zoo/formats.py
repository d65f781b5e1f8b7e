"""Forms of an export beside the timm folder; each is written, then reloaded in a new process."""

import contextlib
import importlib.util
import io
import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssl_vision.backbones.classifier import ScoredNetwork
from ssl_vision.errors import CheckpointError, ConfigError
from ssl_vision.zoo.verify import TOLERANCE, facts_of, outputs_elsewhere

ONNX_NAME = "model.onnx"
TORCH_EXPORT_NAME = "model.pt2"
_ONNX_OPSET = 20


@dataclass(frozen=True)
class Format:
    """A form of an export.

    Attributes:
        write_and_reload: Writes into the export folder what is not there yet; returns the features
            a new process without this package gives for the images.
        about: What its verification is called on the card.
        packages: Python packages it needs beyond this package's own.
        tolerance: Largest difference allowed, relative to the largest output.
        is_timm: Whether timm alone reads it.
    """

    write_and_reload: Callable[[Path, nn.Module, Tensor], Tensor]
    about: str
    packages: tuple[str, ...] = ()
    tolerance: float = TOLERANCE
    is_timm: bool = False

    @property
    def missing(self) -> list[str]:
        """Packages that are not installed."""
        return [name for name in self.packages if importlib.util.find_spec(name) is None]


def check_formats(names: Sequence[str], *, is_in_timm: bool = True) -> None:
    """Raise ConfigError for a format that is unknown, lacks a package, or is not of the network."""
    for name in names:
        if name not in FORMATS:
            raise ConfigError(f"formats={name} is unknown; known are {', '.join(FORMATS)}.")
        if FORMATS[name].is_timm and not is_in_timm:
            raise ConfigError(
                f"formats={name}: timm alone has no networks for point clouds; the export folder "
                "is read by ssl_vision.load_backbone."
            )
        if missing := FORMATS[name].missing:
            raise ConfigError(
                f"formats={name} needs {', '.join(missing)}; pip install 'ssl-vision[onnx]'."
            )


def _facts(folder: Path, *, model: nn.Module | None = None) -> dict[str, Any]:
    """Facts of the folder's network; of `model`, where that has layers timm's forms have not."""
    config = json.loads((folder / "config.json").read_text())
    if isinstance(model, ScoredNetwork):
        config["label_names"] = config.get("head_label_names") or None
    return facts_of(config)


def _timm(folder: Path, model: nn.Module, images: Tensor) -> Tensor:
    source = f"local-dir:{folder.resolve()}"
    return outputs_elsewhere(_LOAD_TIMM, source, images, facts=_facts(folder))


def _hf_hub(folder: Path, model: nn.Module, images: Tensor) -> Tensor:
    """The folder is the hub's layout already; load it as a hub would hand it out, offline."""
    with tempfile.TemporaryDirectory() as cache:
        revision = "0" * 40
        repository = Path(cache) / "models--local--export"
        snapshot = repository / "snapshots" / revision
        snapshot.mkdir(parents=True)
        for name in ("config.json", "model.safetensors"):
            shutil.copyfile(folder / name, snapshot / name)
        (repository / "refs").mkdir()
        (repository / "refs/main").write_text(revision)
        environment = {"HF_HUB_CACHE": cache, "HF_HUB_OFFLINE": "1"}
        return outputs_elsewhere(
            _LOAD_TIMM,
            "hf-hub:local/export",
            images,
            facts=_facts(folder),
            environment=environment,
        )


def _onnx(folder: Path, model: nn.Module, images: Tensor) -> Tensor:
    import onnx

    path, facts = folder / ONNX_NAME, _facts(folder, model=model)
    with _quiet():
        torch.onnx.export(
            model.eval(),
            (images[:2],),
            path,
            dynamo=True,
            opset_version=_ONNX_OPSET,
            external_data=False,
            input_names=["images"],
            output_names=["logits" if getattr(model, "num_classes", 0) else "features"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    written = onnx.load(path)
    onnx.helper.set_model_props(written, {name: json.dumps(v) for name, v in facts.items()})
    onnx.save(written, path)
    return outputs_elsewhere(_LOAD_ONNX, str(path.resolve()), images, facts=facts)


def _torch_export(folder: Path, model: nn.Module, images: Tensor) -> Tensor:
    facts = _facts(folder, model=model)
    try:
        with _quiet(), torch.no_grad():
            program = torch.export.export(
                model.eval(), (images[:2],), dynamic_shapes=({0: torch.export.Dim("batch")},)
            )
            extra = {name: json.dumps(value) for name, value in facts.items()}
            torch.export.save(program, folder / TORCH_EXPORT_NAME, extra_files=extra)
    # torch.export's failures have many types; what a network does that it cannot follow varies.
    except Exception as error:
        reason = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise CheckpointError(f"torch.export cannot follow this network: {reason}") from error
    path = str((folder / TORCH_EXPORT_NAME).resolve())
    return outputs_elsewhere(_LOAD_TORCH_EXPORT, path, images, facts=facts)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Exporters print and warn about their own internals."""
    level = logging.getLogger("torch").level
    logging.getLogger("torch").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger("torch").setLevel(level)


# Run in a new process: what a user without this package would write.
_LOAD_TIMM = """
import timm, torch
def run(source, images):
    model = timm.create_model(source, pretrained=True, num_classes=None).eval()
    with torch.inference_mode():
        return model(torch.from_numpy(images)).numpy()
def facts(source):
    model = timm.create_model(source, pretrained=True, num_classes=None)
    found = timm.data.resolve_model_data_config(model)
    names = ("mean", "std", "interpolation", "crop_pct")
    return {
        "class_names": model.pretrained_cfg.get("label_names"),
        "transform": {"size": found["input_size"][-1], **{name: found[name] for name in names}},
    }
"""
_LOAD_ONNX = """
import onnxruntime
def run(source, images):
    session = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
    return session.run(None, {"images": images})[0]
def facts(source):
    session = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
    return {k: json.loads(v) for k, v in session.get_modelmeta().custom_metadata_map.items()}
"""
_LOAD_TORCH_EXPORT = """
import torch
def run(source, images):
    with torch.inference_mode():
        return torch.export.load(source).module()(torch.from_numpy(images)).numpy()
def facts(source):
    extra = {"class_names": "", "transform": ""}
    torch.export.load(source, extra_files=extra)
    return {name: json.loads(value) for name, value in extra.items()}
"""

FORMATS: dict[str, Format] = {
    "timm": Format(_timm, "timm alone, new process", is_timm=True),
    "hf_hub": Format(_hf_hub, "timm from a hub's cache, offline, new process", is_timm=True),
    "onnx": Format(
        _onnx,
        "onnxruntime, new process",
        packages=("onnx", "onnxscript", "onnxruntime"),
        tolerance=1e-4,
    ),
    "torch_export": Format(_torch_export, "torch.export, new process"),
}
