"""The `pairs` command: a list of pairs out of people's own images, for CroCo."""

import os
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.progress import Progress

from ssl_vision.commands.arguments import parse
from ssl_vision.commands.saying import say
from ssl_vision.data.pairs.layouts import LISTS, fits_list
from ssl_vision.data.pairs.make import Made, PairsConfig, make_pairs
from ssl_vision.errors import CheckpointError, ConfigError, DataError
from ssl_vision.files import check_report_folder, shown, write_atomically


def run_pairs(arguments: Sequence[str]) -> int:
    """`pairs SOURCE OUT.txt [key=value ...]`.

    Raises:
        DataError: No two images are a pair.
    """
    given = parse("pairs", arguments, num_words=(2, 2))
    config = given.settings(PairsConfig)
    root, out = (Path(word).expanduser() for word in given.words)
    if out.suffix.lower() not in LISTS:
        raise ConfigError(f"OUT {shown(out)} must be a list of pairs: {', '.join(LISTS)}.")
    _check_out(out, root)
    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("compared", total=None)
        made = make_pairs(
            root, config, progress=lambda done, of: bar.update(task, completed=done, total=of)
        )
    told = summary(made)
    if not made.pairs:
        raise DataError(f"{shown(root)}: no pairs. {told}")
    _write(out, root, made)
    say(Console(), f"{told}\nTrain on them with data.path={out}")
    return 0


def summary(made: Made) -> str:
    """How many pairs were kept of how many, and why others were not."""
    reasons = ", ".join(f"{num} {reason}" for reason, num in made.left_out.most_common())
    share = len(made.pairs) / made.num_tried if made.num_tried else 0.0
    middle = (
        f", median overlap {median(share for *_, share in made.pairs):.2f}" if made.pairs else ""
    )
    return (
        f"{len(made.pairs)} of {made.num_tried} pairs kept ({share:.0%}) by {made.how}{middle}"
        f"{f'; left out: {reasons}' if reasons else ''}.{_unreadable(made)}"
    )


def _unreadable(made: Made) -> str:
    """A sentence on the images that could not be read; empty without any."""
    if not made.unreadable:
        return ""
    name, reason = next(iter(made.unreadable.items()))
    first = reason if name in reason else f"{shown(name)}: {reason}"
    num = len(made.unreadable)
    return f" {num} image{'s' * (num > 1)} cannot be read; the first: {first.rstrip('.')}."


def _check_out(out: Path, root: Path) -> None:
    """Refuse, before hours of work, a place that nothing can be written to.

    Raises:
        ConfigError: It is a folder, or the way from it to the images cannot stand in a list.
        CheckpointError: Its folder cannot be made or written.
    """
    if out.is_dir():
        raise ConfigError(f"OUT {shown(out)} is a folder; give the name of a list in it.")
    if not fits_list(os.path.relpath(root.resolve(), out.parent.resolve())):
        raise ConfigError(
            f"SOURCE {shown(root)}: a list of pairs holds no names with tabs, line ends, bytes "
            "that are no UTF-8, or blanks around them."
        )
    check_report_folder(out.parent, way_out="another OUT")


def _write(out: Path, root: Path, made: Made) -> None:
    """Paths from the list's own folder, a tab between them.

    Raises:
        CheckpointError: It cannot be written.
    """
    start = out.parent.resolve()
    lines = []
    for first, second, _ in made.pairs:
        paths = [os.path.relpath(root.resolve() / name, start) for name in (first, second)]
        lines.append("\t".join(paths) + "\n")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, "".join(lines))
    except OSError as error:
        raise CheckpointError(f"{shown(out)} cannot be written: {error.strerror}.") from error
