"""The command line: commands by their table, and errors as one line with their exit code.

`tools/X.py ...` and `ssl-vision X ...` are the same. Click gives usage, help and completion; what
a command takes is words and `key=value`, which its own module reads when it is called, so that
help and `ssl-vision` alone answer without importing torch.
"""

import os
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from typing import Any, TextIO

import click

from ssl_vision.commands.completion import complete
from ssl_vision.commands.early import refuse_early
from ssl_vision.commands.help import command_help
from ssl_vision.commands.table import COMMANDS
from ssl_vision.errors import (
    CheckpointError,
    ConfigError,
    DeviceMemoryError,
    Preempted,
    SslVisionError,
    SslVisionWarning,
    did_you_mean,
    is_out_of_memory,
)
from ssl_vision.files import shown

_HELP = ("-h", "--help", "help")
_EPILOG = (
    "Settings are key=value. ssl-vision COMMAND --help says more of each. Completion of commands, "
    "recipes and keys in bash (zsh, fish alike): "
    'eval "$(_SSL_VISION_COMPLETE=bash_source ssl-vision)"'
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit status.

    Args:
        arguments: Command and its arguments; those of the process by default.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    with warnings.catch_warnings():
        # Larger images than Pillow likes are refused by our own bound, in our own words.
        warnings.filterwarnings("ignore", message="Image size .* exceeds limit")
        warnings.showwarning = _warnings_as_lines(warnings.showwarning)
        out, err = _Unbroken(sys.stdout), _Unbroken(sys.stderr)
        with redirect_stdout(out), redirect_stderr(err):
            return _main(given)


class _Unbroken:
    """A stream that falls silent when its reader goes: `train ... | head` must lose no work."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, or drop what nobody reads."""
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            self._silence()
            return len(text)

    def flush(self) -> None:
        """Flush, or drop what nobody reads."""
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._silence()

    def _silence(self) -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _main(given: list[str]) -> int:
    try:
        return int(group().main(given or ["--help"], prog_name="ssl-vision", standalone_mode=False))
    except Preempted as stop:  # as asked for: no error
        return _fail(str(stop), stop.exit_code, kind="")
    except SslVisionError as error:
        return _fail(str(error), error.exit_code)
    except click.ClickException as error:
        return _fail(error.format_message(), ConfigError.exit_code)
    except (KeyboardInterrupt, click.Abort):
        return _fail("interrupted.", 130)
    except OSError as error:  # a name too long, a full disk: what no reader or writer foresaw
        if error.filename is None:
            raise
        return _fail(f"{shown(error.filename)}: {error.strerror}.", CheckpointError.exit_code)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return _fail(
            "out of memory; lower the batch size (data.global_batch_size, data.batch_size), the "
            "size of the images or clouds (size_px, num_points) or the network, or run on another "
            f"device ({first[:200]})",
            DeviceMemoryError.exit_code,
        )


def _warnings_as_lines(other: Callable[..., None]) -> Callable[..., None]:
    """What shows warnings: ours as a line, those of libraries as `other` does."""

    def show(
        message: Warning | str, category: type[Warning], *where: object, **more: object
    ) -> None:
        if issubclass(category, SslVisionWarning):
            sys.stderr.write(f"warning: {' '.join(str(message).split())}\n")
        else:
            other(message, category, *where, **more)

    return show


def group() -> click.Group:
    """All commands; none of their modules is imported yet."""
    return _Commands(
        name="ssl-vision",
        help="Self-supervised pretraining of vision backbones, for images and point clouds.",
        commands={name: _command(name) for name in COMMANDS},
        epilog=_EPILOG,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )


class _Commands(click.Group):
    """A group that answers a misspelt command with the nearest one."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] == "help":
            args = ["--help"]
            click.echo(ctx.get_help())
            ctx.exit()
        if args[0] not in COMMANDS:
            hint = did_you_mean(args[0], COMMANDS)
            known = ", ".join(COMMANDS)
            raise ConfigError(f"{args[0]!r} is not a command; choose one of {known}.{hint}")
        return super().resolve_command(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Commands in the order of the table, which is that in which people need them."""
        return list(COMMANDS)


def _command(name: str) -> click.Command:
    """A command of the table: everything behind its name goes to its function as typed."""
    given = click.Argument(
        ["given"],
        nargs=-1,
        type=click.UNPROCESSED,
        shell_complete=lambda c, p, s: complete(name, s, c.params.get("given") or ()),
    )
    return click.Command(
        name,
        params=[given],
        callback=lambda given: _run(name, list(given)),
        short_help=COMMANDS[name].summary,
        context_settings={"ignore_unknown_options": True, "allow_interspersed_args": True},
        add_help_option=False,
    )


def _run(name: str, arguments: Sequence[str]) -> int:
    if any(argument in _HELP[:2] for argument in arguments):
        click.echo(command_help(name, [a for a in arguments if a not in _HELP[:2]]))
        return 0
    refuse_early(name, arguments)
    module, _, function = COMMANDS[name].run.partition(":")
    command: Callable[[Sequence[str]], int | None] = getattr(import_module(module), function)
    from ssl_vision.data.levels import each_told_once  # imports NumPy, as the commands do

    with each_told_once():
        return int(command(arguments) or 0)


def _fail(message: str, code: int, *, kind: str = "error: ") -> int:
    sys.stderr.write(f"{kind}{' '.join(message.split())}\n")
    return code
