"""The command that packs a data set into one .beton file."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar

from ssl_vision.commands.arguments import parse
from ssl_vision.config import load_settings
from ssl_vision.data.config import DataConfig
from ssl_vision.data.find import DataLike, find_source, given
from ssl_vision.data.images.pack import PackConfig, PackReport, Progress
from ssl_vision.data.levels import DecodeConfig
from ssl_vision.data.modalities import MODALITIES
from ssl_vision.data.source import Source
from ssl_vision.data.splits import NoValSplitError
from ssl_vision.errors import ConfigError, DataError, keys_renamed
from ssl_vision.files import check_output

_AS_TYPED = {  # as the source says it -> as it is here
    "data.download=true": "download=true",
    "data.decode.": "decode.",
    "data.frame_distance=": "frame_distance=",
    "check data.path": "check SOURCE",
    "data path '": "SOURCE '",
}


@dataclass(frozen=True, kw_only=True)
class PrepareConfig(PackConfig):
    """Settings of the command: which part of a data set, and how to pack it."""

    split: Literal["train", "val"] = "train"
    modality: Literal["images", "pairs"] = "images"  # what SOURCE holds; pairs: of one scene, CroCo
    frame_distance: int | None = None  # pairs: SOURCE holds frames of videos; from one to other
    decode: DecodeConfig = field(default_factory=DecodeConfig)  # transparency, deep levels
    download: bool = False  # whether a named data set may be fetched

    def __post_init__(self) -> None:
        super().__post_init__()
        own = MODALITIES[self.modality].asked_to_pack
        for each in MODALITIES.values():
            for name in each.asked_to_pack:
                value = getattr(self, name)
                if value and name not in own:
                    raise ConfigError(
                        f"{name}={value} is of {each.name}; add modality={each.name}."
                    )


def run_prepare(arguments: Sequence[str]) -> int:
    """`prepare SOURCE OUT.beton [key=value ...]`."""
    given = parse("prepare", arguments, num_words=(2, 2))
    places, config = given.words, given.settings(PrepareConfig)
    check_output(places[1], key="OUT")
    source = _opened(places[0], config)
    left = _left_out(places[0], config)
    console = Console(stderr=True)
    for line in source.notes:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    columns = [TextColumn("{task.description:>6}"), BarColumn(), MofNCompleteColumn()]
    with Bar(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as bar:
        tasks = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total)
            bar.update(tasks[stage], completed=done)

        report = _packed(source, places[1], config, show)
    Console().print(_summary(report), highlight=False, soft_wrap=True)
    if left:
        Console().print(left, highlight=False, soft_wrap=True)
    return 0


def prepare(data: DataLike, out: str | Path, **settings: Any) -> PackReport:
    """Pack images, or pairs of them, into one checked .beton file; how many, what was left out.

    Args:
        data: Path, name or object, as `ssl_vision.train` takes.
        out: The file, whose name ends with .beton.
        settings: Of the command `prepare`: `mode="raw"`, `split="val"`, `modality="pairs"`, ...

    Raises:
        ConfigError: A setting cannot be used.
        DataError: Too many images are bad, the file exists, or it cannot be written.
    """
    config = load_settings(PrepareConfig, settings)
    check_output(Path(out), key="out")
    return _packed(_opened(data, config), out, config, None)


def _packed(
    source: Source, out: str | Path, config: PrepareConfig, progress: Progress | None
) -> PackReport:
    return MODALITIES[config.modality].pack(source, out, config, progress=progress)


def _opened(data: DataLike, config: PrepareConfig) -> Source:
    with keys_renamed(_AS_TYPED):
        return find_source(data, split=config.split, config=_settings_of(data, config))


def _settings_of(data: DataLike, config: PrepareConfig) -> DataConfig:
    modality = MODALITIES[config.modality]
    asked = {name: getattr(config, name) for name in modality.asked_to_pack}
    return modality.to_pack(given(data).path, asked)


def _left_out(path: str, config: PrepareConfig) -> str:
    """A line on the test split that a training split does not hold; empty where there is none."""
    if config.split != "train":
        return ""
    try:
        val = find_source(path, split="val", config=_settings_of(path, config))
    except NoValSplitError:
        return ""
    except DataError as error:
        return f"Its test split cannot be read: {error}"
    return (
        f"Its test split, {len(val)} {config.modality}, is not in the file; split=val packs it "
        "into another, for data.val_path."
    )


def _summary(report: PackReport) -> str:
    pairs = "" if report.num_pairs is None else f"{report.num_pairs} pairs of "
    bad = ""
    if report.bad:
        bad = (
            f"; {len(report.bad)} bad ones are left out, as max_bad_fraction allows, and listed in "
            f"{report.path}.bad"
        )
    notes = f"{report.notes}\n" if report.notes else ""
    return (
        f"{report.path}: {pairs}{report.num_samples} images, {report.num_bytes / 2**20:.1f} MiB "
        f"({report.num_kept} JPEG files kept, {report.num_encoded} encoded, "
        f"{report.num_raw} raw){bad}.\n{notes}"
        f"Train on it with data.path={report.path}"
    )
