"""Compare a network with what was written of it, also in a process without this package."""

import copy
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ssl_vision.errors import CheckpointError
from ssl_vision.randomness import keyed_generator

# Largest difference between a network and its reloaded export, relative to its largest output.
TOLERANCE = 1e-5
# Half-precision exports are judged by direction: smallest cosine of a feature and its original.
MIN_COSINE = 0.9999


def probe_batch(config: Mapping[str, Any], *, num_images: int = 2) -> Tensor:
    """Fixed noise of the network's input size, (num_images, C, S, S)."""
    size = config["pretrained_cfg"]["input_size"]
    return torch.randn(num_images, *size, generator=keyed_generator("export probe"))


def outputs_of(model: nn.Module, images: Tensor) -> Tensor:
    """Pooled features in float32 on the CPU, without touching the model."""
    copied = copy.deepcopy(model).cpu().float().eval()
    with torch.inference_mode():
        return copied(images)


def relative_difference(found: Tensor, expected: Tensor) -> float:
    """Largest difference divided by the largest expected value."""
    scale = expected.abs().max().clamp_min(torch.finfo(torch.float32).tiny)
    return float((found - expected).abs().max() / scale)


def judge(
    found: Tensor,
    expected: Tensor,
    *,
    what: str,
    is_half: bool = False,
    tolerance: float = TOLERANCE,
) -> str:
    """Outcome of a verification in words.

    Args:
        found: (B, D).
        expected: (B, D).
        what: Was reloaded; for the message.
        is_half: Whether precision was halved on the way: `MIN_COSINE` is asked for.
        tolerance: Otherwise, largest relative difference.

    Raises:
        CheckpointError: The outputs differ by more.
    """
    if found.shape != expected.shape:
        raise CheckpointError(
            f"{what} gives {tuple(found.shape)} instead of {tuple(expected.shape)}."
        )
    if is_half:
        cosine = float(nn.functional.cosine_similarity(found, expected).min())
        if not cosine >= MIN_COSINE:
            raise CheckpointError(f"{what} has cosine {cosine:.6f}, below {MIN_COSINE}.")
        return f"smallest cosine {cosine:.6f}"
    difference = relative_difference(found, expected)
    if not difference <= tolerance:
        raise CheckpointError(
            f"{what} differs from the network by {difference:.1e} of its largest output."
        )
    return f"largest relative difference {difference:.1e}"


def run_isolated(script: str, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
    """Output of a Python script in a new process in which this package cannot be imported.

    Args:
        script: Python source; what a user without this package would write.
        arguments: Its `sys.argv[1:]`.
        environment: Added to this process's.

    Raises:
        CheckpointError: It failed; the message ends with its last line.
    """
    variables = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | dict(environment or {})
    script = f"import sys; sys.modules['ssl_vision'] = None\n{script}"
    finished = subprocess.run(
        [sys.executable, "-P", "-c", script, *arguments],
        capture_output=True,
        text=True,
        env=variables,
        cwd="/",
        check=False,
    )
    if finished.returncode:
        lines = finished.stderr.strip().splitlines() or ["no message"]
        raise CheckpointError(f"the export does not load in a new process: {lines[-1]}")
    return finished.stdout


def facts_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """What every form of an export says of itself: names of its classes, and the transform.

    Args:
        config: An export's config.json.

    Returns:
        `class_names` (None where the network has no classifier, or nobody named its classes) and
        `transform`: size, mean, std, interpolation, crop_pct; JSON values.
    """
    given = config["pretrained_cfg"]
    transform = {name: given[name] for name in ("mean", "std", "interpolation", "crop_pct")}
    return {
        "class_names": config.get("label_names"),
        "transform": {"size": given["input_size"][-1], **transform},
    }


def outputs_elsewhere(
    script: str,
    source: str,
    images: Tensor,
    *,
    facts: Mapping[str, Any],
    environment: Mapping[str, str] | None = None,
) -> Tensor:
    """What a script makes of images in a new process, (B, D).

    Args:
        script: Defines `run(source, images)`, NumPy or torch in and out, and `facts(source)`.
        source: Folder, file or name it loads from.
        images: (B, C, S, S).
        facts: What the form has to say of itself there; see `facts_of`.
        environment: Added to this process's.

    Raises:
        CheckpointError: It does not load, or says something else of itself.
    """
    with tempfile.TemporaryDirectory() as folder:
        given, made = f"{folder}/images.npy", f"{folder}/features.npy"
        np.save(given, images.numpy())
        expected = json.dumps(facts)
        run_isolated(script + _RUN, source, given, made, expected, environment=environment)
        return torch.from_numpy(np.load(made))


_RUN = """
import json, numpy
source, given, made, expected = sys.argv[1:]
numpy.save(made, numpy.asarray(run(source, numpy.load(given))))
said, expected = json.loads(json.dumps(facts(source))), json.loads(expected)
for name in expected:
    if said.get(name) != expected[name]:
        sys.exit(f"{name} is {str(said.get(name))[:200]}, not {str(expected[name])[:200]}")
"""
