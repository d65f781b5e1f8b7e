"""The `zoo` command: what users need of the model zoo, and what its keepers do."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as ProgressBar
from rich.table import Table

from ssl_vision.commands.arguments import Arguments, parse
from ssl_vision.commands.table import COMMANDS
from ssl_vision.errors import CheckpointError, ConfigError, did_you_mean
from ssl_vision.zoo.convert import convert_file
from ssl_vision.zoo.converted import ConvertOptions
from ssl_vision.zoo.download import Progress, forget
from ssl_vision.zoo.export import ExportResult
from ssl_vision.zoo.fetch import card_of, check_supported, default_options, fetch_file
from ssl_vision.zoo.index import (
    STATUSES,
    ZooEntry,
    describe_metrics,
    find_entry,
    index_path,
    load_index,
    pin_file,
    render_table,
)

_OPTIONS = tuple(field.name for field in fields(ConvertOptions))


@dataclass(frozen=True, kw_only=True)
class ListSettings:
    """Settings of `zoo list`."""

    method: str | None = None
    license: str | None = None
    status: str | None = None


@dataclass(frozen=True, kw_only=True)
class FileSettings:
    """Settings of `zoo download` and `zoo forget`."""

    file: str = "backbone"  # which file of the entry


@dataclass(frozen=True, kw_only=True)
class ConvertSettings(ConvertOptions):
    """Settings of `zoo convert`."""

    converter: str = "auto"
    head: str | None = None  # file of a linear classifier
    head_features: Literal["cls4", "cls_mean", "pooled"] | None = None  # what the head reads
    allow: tuple[str, ...] = ()  # further types a file may hold: numpy
    file: str = "backbone"  # which file of an entry

    def options(self, given: Collection[str]) -> dict[str, Any]:
        """The converter's own options, as far as they were given."""
        return {name: getattr(self, name) for name in _OPTIONS if name in given}


@dataclass(frozen=True, kw_only=True)
class NoSettings:
    """`zoo show`, `pin` and `table` have no settings of their own."""


@dataclass(frozen=True, kw_only=True)
class ReproduceSettings:
    """Settings of `zoo reproduce`."""

    run_dir: str | None = None  # default: runs/reproduce_NAME


@dataclass(frozen=True, kw_only=True)
class AdoptSettings:
    """Settings of `zoo adopt`."""

    recipe: str | None = None  # that the run was made with
    other_seeds: tuple[float, ...] = ()  # kNN of other seeds, percent


_TABLE_MARKS = ("<!-- table:start -->", "<!-- table:end -->")


def run_zoo(arguments: Sequence[str]) -> int:
    """`zoo list | show NAME | download NAME | convert SOURCE OUT | pin [NAME] | ...`."""
    console = Console()
    if not console.is_terminal:  # a pipe has no width to fit in
        console = Console(width=200)
    if arguments[:1] == ["help"]:
        for usage in _USAGES.values():
            console.print(usage, markup=False, soft_wrap=True)
        return 0
    if not arguments or arguments[0] not in _COMMANDS:
        hint = did_you_mean(arguments[0], _COMMANDS) if arguments else ""
        raise ConfigError(f"usage: zoo {' | '.join(_COMMANDS)}; zoo help says more.{hint}")
    _COMMANDS[arguments[0]](arguments[1:], console)
    return 0


def _list(arguments: Sequence[str], console: Console) -> None:
    wanted = asdict(_parse("list", arguments, (0, 0)).settings(ListSettings))
    table = Table(box=None)
    for name in ("name", "method", "network", "license", "status", "published"):
        table.add_column(name, no_wrap=name == "name")
    chosen = [
        entry
        for entry in load_index().values()
        if all(getattr(entry, key) == value for key, value in wanted.items() if value is not None)
    ]
    for entry in chosen:
        numbers = "; ".join(line.split(" (")[0] for line in describe_metrics(entry))
        table.add_row(
            entry.name, entry.method, entry.architecture, entry.license, entry.status, numbers
        )
    console.print(table if chosen else "nothing in the zoo fits.")


def _show(arguments: Sequence[str], console: Console) -> None:
    given = _parse("show", arguments, (1, 1))
    given.settings(NoSettings)
    entry = find_entry(given.words[0])
    console.print(f"[bold]{entry.name}[/bold]: {entry.method}, {entry.architecture}, {entry.data}")
    console.print(f"  license   {entry.license}")
    console.print(f"  origin    {', '.join(f'{k}: {v}' for k, v in entry.origin.items())}")
    console.print(f"  status    {entry.status}: {STATUSES[entry.status]}")
    size = entry.input
    console.print(
        f"  input     {list(size.size)}, mean {list(size.mean)}, std {list(size.std)}, "
        f"{size.interpolation}, crop_pct {size.crop_pct}"
    )
    for kind, file in entry.files.items():
        pinned = f"sha256 {file.sha256}" if file.sha256 else "hash not pinned (first use trusted)"
        console.print(f"  {kind:<9} {file.url or file.page or file.path}", soft_wrap=True)
        console.print(f"            {pinned}", soft_wrap=True)
    for line in [*(f"published {text}" for text in describe_metrics(entry)), *entry.notes]:
        console.print(f"  {line}", soft_wrap=True)
    if entry.timm_alias:
        console.print(f"  also      timm:{entry.timm_alias}")


def _download(arguments: Sequence[str], console: Console) -> None:
    given = _parse("download", arguments, (1, None))
    kind = given.settings(FileSettings).file
    for name in given.words:
        entry = find_entry(name)
        _say_license(entry, console)
        with _bar(console, name) as progress:
            found = fetch_file(entry, kind, progress=progress)
        state = "was there" if found.was_cached else "downloaded"
        console.print(f"{state}: {found.path}\nsha256 {found.sha256}", soft_wrap=True)


def _convert(arguments: Sequence[str], console: Console) -> None:
    given = _parse("convert", arguments, (2, 2))
    settings = given.settings(ConvertSettings)
    source, out = given.words
    options = settings.options(given.given)
    name = source.removeprefix("zoo:")
    if source.startswith("zoo:") or (not Path(source).exists() and name in load_index()):
        result = _convert_entry(name, out, settings.file, options, console)
    else:
        result = convert_file(
            source,
            out,
            converter=settings.converter,
            options=ConvertOptions(**options),
            head=settings.head,
            head_features=settings.head_features,
            allow=settings.allow,
        )
    console.print(f"written: {result.folder}", soft_wrap=True)
    for check, outcome in result.checks.items():
        console.print(f"{check}: {outcome}")
    console.print(
        f'timm.create_model("local-dir:{result.folder.resolve()}", pretrained=True).eval()',
        soft_wrap=True,
    )


def _convert_entry(
    name: str, out: str, kind: str, options: dict[str, Any], console: Console
) -> ExportResult:
    """An entry of the zoo as a folder of the user's; DINO's linear head comes along."""
    entry = find_entry(name)
    check_supported(entry)
    _say_license(entry, console)
    head, features = None, None
    if "linear" in entry.files:
        head, features = fetch_file(entry, "linear").path, entry.files["linear"].head_features
    options = {**default_options(entry.files[kind]), **options}
    head_features: Any = features
    found = fetch_file(entry, kind)
    return convert_file(
        found.path,
        out,
        card=card_of(entry, sha256=found.sha256),
        converter=str(entry.files[kind].converter),
        options=ConvertOptions(**options),
        head=head,
        head_features=head_features,
    )


def _pin(arguments: Sequence[str], console: Console) -> None:
    given = _parse("pin", arguments, (0, None))
    given.settings(NoSettings)
    for name in given.words or tuple(load_index()):
        entry = find_entry(name)
        for kind, file in entry.files.items():
            if file.sha256 or entry.status == "unsupported":
                continue
            with _bar(console, f"{name} {kind}") as progress:
                found = fetch_file(entry, kind, progress=progress)
            pin_file(
                index_path(),
                url=file.source.url,
                sha256=found.sha256,
                num_bytes=found.path.stat().st_size,
            )
            console.print(f"{name} {kind}: {found.sha256}")


def _forget(arguments: Sequence[str], console: Console) -> None:
    given = _parse("forget", arguments, (1, 1))
    entry = find_entry(given.words[0])
    kind = given.settings(FileSettings).file
    forget(entry.files[kind].source.url)
    console.print(f"the next content of {entry.name} ({kind}) will be trusted.")


def _reproduce(arguments: Sequence[str], console: Console) -> None:
    from ssl_vision.commands.zoo_own import reproduce  # training: seconds of imports

    given = _parse("reproduce", arguments, (1, 1))
    name = given.words[0]
    run_dir = Path(given.settings(ReproduceSettings).run_dir or f"runs/reproduce_{name}")
    found = reproduce(name, run_dir, say=console.print)
    low, high = found.interval
    console.print(
        f"kNN {found.found:.2f} %, stated {found.stated:.2f} %, expected {low:.2f} to {high:.2f} %"
        + (": reproduced" if found.is_within else ": NOT reproduced")
        + (", the same weights bit by bit." if found.is_identical else "."),
        soft_wrap=True,
    )
    if not found.is_within:
        raise CheckpointError(f"zoo:{name} was not reproduced: {found.found:.2f} %.")


def _adopt(arguments: Sequence[str], console: Console) -> None:
    from ssl_vision.commands.zoo_own import adopt

    given = _parse("adopt", arguments, (2, 2))
    settings = given.settings(AdoptSettings)
    if settings.recipe is None:
        raise ConfigError(f"recipe: no value; usage: {_USAGES['zoo adopt']}")
    run, name = given.words
    others = list(settings.other_seeds)
    adopt(Path(run), name, recipe=settings.recipe, other_seeds=others, say=console.print)
    _table([], console)


def _table(arguments: Sequence[str], console: Console) -> None:
    _parse("table", arguments, (0, 0)).settings(NoSettings)
    path = index_path().parent / "README.md"
    text = path.read_text()
    start, end = _TABLE_MARKS
    if start not in text or end not in text:
        raise ConfigError(f"{path} needs the lines {start} and {end} around its table.")
    before, after = text.partition(start)[0], text.partition(end)[2]
    path.write_text(f"{before}{start}\n{render_table(load_index())}\n{end}{after}")
    console.print(f"written: {path}")


_COMMANDS: dict[str, Callable[[Sequence[str], Console], None]] = {
    "list": _list,
    "show": _show,
    "download": _download,
    "convert": _convert,
    "pin": _pin,
    "forget": _forget,
    "table": _table,
    "reproduce": _reproduce,
    "adopt": _adopt,
}
_USAGES = {
    f"zoo {name}": f"zoo {name} {part.words}" for name, part in COMMANDS["zoo"].parts.items()
}


def _parse(command: str, arguments: Sequence[str], num_words: tuple[int, int | None]) -> Arguments:
    return parse(f"zoo {command}", arguments, num_words=num_words, usages=_USAGES)


def _say_license(entry: ZooEntry, console: Console) -> None:
    if "-nc" in entry.license:
        console.print(f"{entry.name}: {entry.license}, not for commercial use.")
    elif entry.license.startswith("none"):
        console.print(f"{entry.name}: licence {entry.license}; ask its authors.")


@contextmanager
def _bar(console: Console, name: str) -> Iterator[Progress | None]:
    """A progress bar where somebody watches."""
    if not console.is_terminal:
        yield None
        return
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with ProgressBar("{task.description}", *columns, console=console) as progress:
        task = progress.add_task(name, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
