"""The `duplicates` command: groups of images that are nearly the same."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from ssl_vision.commands.arguments import parse
from ssl_vision.commands.saying import say
from ssl_vision.commands.search import said_of
from ssl_vision.commands.tables import write_csv
from ssl_vision.errors import ConfigError
from ssl_vision.tasks.frozen_pass import PassSettings
from ssl_vision.tasks.image_index import ImageIndex


@dataclass(frozen=True, kw_only=True)
class DuplicatesSettings(PassSettings):
    """Settings of `duplicates`."""

    threshold: float = 0.95  # least cosine similarity; what it means depends on the weights

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.threshold <= 1:
            raise ConfigError(f"threshold={self.threshold} must be above 0 and up to 1.")


def run_duplicates(arguments: Sequence[str]) -> int:
    """`duplicates WEIGHTS IMAGES [IMAGES ...] OUT.csv [threshold=0.95]`."""
    given = parse("duplicates", arguments, num_words=(3, None))
    settings = given.settings(DuplicatesSettings)
    weights, *images, out = given.words
    if Path(out).suffix.lower() != ".csv":
        raise ConfigError(f"the last word, {out!r}, must be the .csv file to write.")
    index = ImageIndex.build(weights, images, settings=settings, progress=Console(stderr=True))
    groups = index.duplicates(threshold=settings.threshold)
    rows: list[list[object]] = [["group", "name", "nearest", "similarity"]]
    for number, group in enumerate(groups, start=1):
        found = zip(group.names, group.nearest, group.similarities, strict=True)
        rows += [[number, name, nearest, f"{score:.6f}"] for name, nearest, score in found]
    write_csv(out, rows)
    console = Console()
    num = sum(len(group.names) for group in groups)
    for line in [
        *said_of(index),
        f"{num} of {len(index.names)} images in {len(groups)} groups at threshold="
        f"{settings.threshold:g}: {out}",
    ]:
        say(console, line)
    return 0
