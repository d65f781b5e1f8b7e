"""The `search` command: an index of images, and images like a given one."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from ssl_vision.bounds import check_bounds
from ssl_vision.commands.arguments import parse
from ssl_vision.commands.saying import say
from ssl_vision.commands.tables import write_csv
from ssl_vision.errors import ConfigError
from ssl_vision.tasks.frozen_pass import PassSettings
from ssl_vision.tasks.image_index import META_NAME, ImageIndex, check_index_folder
from ssl_vision.typed import as_word
from ssl_vision.zoo.weights import resolve_weights

_PATH = "data.path"


@dataclass(frozen=True, kw_only=True)
class SearchSettings(PassSettings):
    """Settings of `search`, beside data.path."""

    k: int = 5  # matches per image
    with_self: bool = False  # find an image of the index for itself, too
    out: str | None = None  # .csv file for the matches: query, rank, name, similarity

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bounds("k", self.k, least=1)


def run_search(arguments: Sequence[str]) -> int:
    """`search WEIGHTS INDEX [IMAGE ...] [data.path=DIR] [k=5] [out=FILE.csv]`."""
    given = parse("search", arguments, num_words=(2, None))
    paths = [o.partition("=")[2] for o in given.overrides if o.startswith(f"{_PATH}=")]
    rest = tuple(o for o in given.overrides if not o.startswith(f"{_PATH}="))
    settings = replace(given, overrides=rest).settings(SearchSettings)
    weights, folder, *queries = given.words
    if len(paths) > 1:
        raise ConfigError(f"{_PATH} is given twice.")
    if not paths and not queries:
        raise ConfigError(_nothing_to_do(weights, folder))
    console = Console()
    index = _made(weights, folder, paths, settings, console)
    if queries:
        _answer(index, queries, settings, console)
    return 0


def _nothing_to_do(weights: str, folder: str) -> str:
    """What is missing of two words, of which the first may be no weights."""
    first = Path(weights).expanduser()
    if (first / META_NAME).is_file():
        made_with = shlex.quote(ImageIndex.load(first).weights)
        return (
            f"{weights} is an index, and WEIGHTS come before it: ssl-vision search {made_with} "
            f"{as_word(weights)} {as_word(folder)}"
        )
    if Path(folder).expanduser().is_file():
        return (
            f"{folder} is a file, where the folder of the index is expected: ssl-vision search "
            f"{shlex.quote(weights)} INDEX {as_word(folder)}"
        )
    return (
        f"nothing to do: give {_PATH}=DIR to make the index {folder}, or images to search it with, "
        "behind its name."
    )


def _made(
    weights: str, folder: str, paths: Sequence[str], settings: SearchSettings, console: Console
) -> ImageIndex:
    """A new index where there is something to index; else the one that is there."""
    if not paths:
        index = ImageIndex.load(folder)
        loaded = resolve_weights(weights)
        if loaded.sha256 != index.sha256:
            raise ConfigError(
                f"{folder} was made with {index.weights}, whose weights are others than those of "
                f"{weights}; make it again with {_PATH}=DIR."
            )
        return replace(index, weights=weights, network=loaded)
    check_index_folder(Path(folder).expanduser())
    is_new = not (Path(folder).expanduser() / META_NAME).exists()
    index = ImageIndex.build(weights, paths, settings=settings, progress=Console(stderr=True))
    index.save(folder)
    for line in said_of(index):
        say(console, line)
    what = "index" if is_new else "index, made again,"
    say(console, f"{what} of {len(index.names)} images: {folder}")
    return index


def said_of(index: ImageIndex) -> list[str]:
    """What a reader should know of the images, a line each."""
    lines = list(index.notes)
    if index.unreadable:
        name, reason = next(iter(index.unreadable.items()))
        lines.append(
            f"{len(index.unreadable)} images cannot be read and are left out, first {name}: "
            f"{reason}"
        )
    return lines


def _answer(
    index: ImageIndex, queries: Sequence[str], settings: SearchSettings, console: Console
) -> None:
    found = index.answers(
        list(queries),
        k=settings.k,
        with_self=settings.with_self,
        settings=settings,
        progress=Console(stderr=True),
    )
    for query, answer in found.items():
        say(console, query, style="bold")
        for match in answer.matches:
            say(console, f"  {match.similarity:.4f}  {match.name}")
    itself = [answer.itself for answer in found.values() if answer.itself is not None]
    if itself:
        which = itself[0] if len(itself) == 1 else f"{len(itself)} of them, first {itself[0]}"
        say(console, f"in the index and left out for itself: {which}; with_self=true finds it.")
    if settings.out is not None:
        rows: list[list[object]] = [["query", "rank", "name", "similarity"]]
        rows += [
            [query, rank, match.name, f"{match.similarity:.6f}"]
            for query, answer in found.items()
            for rank, match in enumerate(answer.matches, start=1)
        ]
        write_csv(settings.out, rows)
