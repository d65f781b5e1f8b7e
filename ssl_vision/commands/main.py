"""The command line: one table of commands, and errors as one line with their exit code.

`tools/X.py ...` and `ssl-vision X ...` are the same. A command is a function of its arguments; it
is imported when it is called, so that `ssl-vision` alone answers at once.
"""

import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from ssl_vision.errors import ConfigError, DeviceMemoryError, SslVisionError, did_you_mean

# Command -> (module:function of the arguments, what it does).
COMMANDS: dict[str, tuple[str, str]] = {
    "train": (
        "ssl_vision.commands.main:run_train",
        "RECIPE.yaml [more.yaml ...] [key=value ...]   pretrain, or train with labels",
    ),
    "prepare": (
        "ssl_vision.commands.prepare:run_prepare",
        "SOURCE OUT.beton [key=value ...]   pack images into one file",
    ),
    "quickstart": (
        "ssl_vision.commands.quickstart:run_quickstart",
        "RECIPE.yaml [key=value ...]   train, and compare with raw pixels",
    ),
    "extract": (
        "ssl_vision.commands.extract:run_extract",
        "RUN [--list] [--size W,D ...] [--all] [--max-params N] OUT   sizes out of a POA run",
    ),
    "evaluate": (
        "ssl_vision.tasks.evaluate:run_evaluate",
        "WEIGHTS [WEIGHTS ...] data.path=DIR [tasks=knn,linear,metrics] [key=value ...]",
    ),
    "embed": (
        "ssl_vision.commands.embed:run_embed",
        "WEIGHTS data.path=DIR OUT [patches=true] [key=value ...]   features as .npy files",
    ),
    "export": (
        "ssl_vision.commands.export:run_export",
        "WEIGHTS OUT [formats=timm,onnx,torch_export]   backbone for others, verified",
    ),
    "zoo": (
        "ssl_vision.commands.zoo:run_zoo",
        "list|show|download|convert|pin ...   weights by name, official files to timm",
    ),
    "visualize": (
        "ssl_vision.commands.visualize:run_visualize",
        "WEIGHTS IMAGE ... OUT   attention maps, features as colours, MAE reconstructions",
    ),
    "doctor": (
        "ssl_vision.commands.doctor:run_doctor",
        "what is installed, what is missing, and the line that installs it",
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit status.

    Args:
        arguments: Command and its arguments; those of the process by default.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help", "help"):
        sys.stdout.write(usage())
        return 0
    try:
        return _run(given[0], given[1:])
    except SslVisionError as error:
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _fail("interrupted.", 130)
    except BrokenPipeError:  # the reader of our output went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if type(error).__name__ != "OutOfMemoryError":
            raise
        return _fail(
            "the device is out of memory; lower the batch size or the image size, or run on the "
            f"CPU ({str(error).splitlines()[0]})",
            DeviceMemoryError.exit_code,
        )


def run_train(arguments: Sequence[str]) -> int:
    """`train RECIPE.yaml [more.yaml ...] [key=value ...]`."""
    from ssl_vision.config import load_train_config, split_arguments
    from ssl_vision.engine.train import train

    files, overrides = split_arguments(arguments)
    if not files:
        raise ConfigError(
            "train needs a recipe, for example: train configs/barlow_twins/tiny_cpu.yaml"
        )
    train(load_train_config(files, overrides))
    return 0


def usage() -> str:
    """What `ssl-vision --help` prints."""
    width = max(len(name) for name in COMMANDS)
    lines = [f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(["usage: ssl-vision COMMAND ...", "", *lines, ""])


def _run(name: str, arguments: Sequence[str]) -> int:
    if name not in COMMANDS:
        hint = did_you_mean(name, COMMANDS)
        raise ConfigError(f"{name!r} is not a command; choose one of {', '.join(COMMANDS)}.{hint}")
    module, _, function = COMMANDS[name][0].partition(":")
    command: Callable[[Sequence[str]], Any] = getattr(import_module(module), function)
    return int(command(arguments) or 0)


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"error: {' '.join(message.split())}\n")
    return code
