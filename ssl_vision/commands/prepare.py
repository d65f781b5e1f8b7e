"""The command that packs a data set into one .beton file."""

from collections.abc import Sequence

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ssl_vision.config import load_prepare_config
from ssl_vision.data.pack import PackReport, pack
from ssl_vision.data.sources import build_source
from ssl_vision.errors import ConfigError

_USAGE = "prepare SOURCE OUT.beton [split=train|val] [mode=keep|jpg|raw|proportion] [key=value ...]"


def run_prepare(arguments: Sequence[str]) -> int:
    """`prepare SOURCE OUT.beton [key=value ...]`."""
    places = [argument for argument in arguments if "=" not in argument]
    if len(places) != 2 or any(argument.startswith("-") for argument in arguments):
        raise ConfigError(f"usage: {_USAGE}")
    config = load_prepare_config([argument for argument in arguments if "=" in argument])
    source = build_source(places[0], split=config.split, download=config.download)
    console = Console(stderr=True)
    columns = [TextColumn("{task.description:>6}"), BarColumn(), MofNCompleteColumn()]
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as bar:
        tasks = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total)
            bar.update(tasks[stage], completed=done)

        report = pack(source, places[1], config, progress=show)
    Console().print(_summary(report), highlight=False, soft_wrap=True)
    return 0


def _summary(report: PackReport) -> str:
    bad = f"; {len(report.bad)} bad ones are listed in {report.path}.bad" if report.bad else ""
    return (
        f"{report.path}: {report.num_samples} images, {report.num_bytes / 2**20:.1f} MiB "
        f"({report.num_kept} JPEG files kept, {report.num_encoded} encoded, "
        f"{report.num_raw} raw){bad}.\n"
        f"Train on it with data.path={report.path}"
    )
