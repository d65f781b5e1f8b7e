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

from ssl_vision.commands.arguments import parse
from ssl_vision.data.find import find_source
from ssl_vision.data.images.config import ImageData
from ssl_vision.data.images.pack import PackReport, PrepareConfig, pack
from ssl_vision.data.splits import NoValSplitError
from ssl_vision.errors import DataError, keys_renamed
from ssl_vision.files import check_output

_AS_TYPED = {  # as the source says it -> as it is here
    "data.download=true": "download=true",
    "data.decode.": "decode.",
    "check data.path": "check SOURCE",
    "data path '": "SOURCE '",
}


def run_prepare(arguments: Sequence[str]) -> int:
    """`prepare SOURCE OUT.beton [key=value ...]`."""
    given = parse("prepare", arguments, num_words=(2, 2))
    places, config = given.words, given.settings(PrepareConfig)
    check_output(places[1], key="OUT")
    with keys_renamed(_AS_TYPED):
        data = ImageData(path=places[0], download=config.download, decode=config.decode)
        source = find_source(data.path, split=config.split, config=data)
    left = _left_out(data, config)
    console = Console(stderr=True)
    for line in source.notes:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    columns = [TextColumn("{task.description:>6}"), BarColumn(), MofNCompleteColumn()]
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as bar:
        tasks = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total)
            bar.update(tasks[stage], completed=done)

        report = pack(source, places[1], config, progress=show)
    Console().print(_summary(report), highlight=False, soft_wrap=True)
    if left:
        Console().print(left, highlight=False, soft_wrap=True)
    return 0


def _left_out(data: ImageData, config: PrepareConfig) -> str:
    """A line on the test split that a training split does not hold; empty where there is none."""
    if config.split != "train":
        return ""
    try:
        val = find_source(data.path, split="val", config=data)
    except NoValSplitError:
        return ""
    except DataError as error:
        return f"Its test split cannot be read: {error}"
    return (
        f"Its test split, {len(val)} images, is not in the file; split=val packs it into another, "
        "for data.val_path."
    )


def _summary(report: PackReport) -> str:
    bad = ""
    if report.bad:
        bad = (
            f"; {len(report.bad)} bad ones are left out, as max_bad_fraction allows, and listed in "
            f"{report.path}.bad"
        )
    notes = f"{report.notes}\n" if report.notes else ""
    return (
        f"{report.path}: {report.num_samples} images, {report.num_bytes / 2**20:.1f} MiB "
        f"({report.num_kept} JPEG files kept, {report.num_encoded} encoded, "
        f"{report.num_raw} raw){bad}.\n{notes}"
        f"Train on it with data.path={report.path}"
    )
