"""model_zoo/index.yaml: which weights there are, where, under which licence, how good.

The file is written by hand and by `tools/zoo.py pin`; reading it checks everything that can be
checked without a network, so that a wrong entry fails in the tests and not at a user's.
"""

import functools
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import yaml

from ssl_vision.backbones.build import check_architecture
from ssl_vision.errors import ConfigError, did_you_mean
from ssl_vision.files import read_text, shipped_folder
from ssl_vision.zoo.convert import CONVERTERS
from ssl_vision.zoo.converted import ConvertOptions
from ssl_vision.zoo.download import Source

_T = TypeVar("_T")

STATUSES = {
    "verified_layout": "converter tested on random weights of the official layout",
    "verified_weights": "official file converted, its published number reproduced",
    "mirrored": "file kept by this project",
    "own": "trained by this project's recipe",
    "unsupported": "listed, but cannot be converted",
}
FORMATS = ("torch_pickle_weights_only", "safetensors", "timm_folder")


@dataclass(frozen=True, kw_only=True)
class ZooFile:
    """One file of an entry."""

    url: str | None = None  # https
    path: str | None = None  # folder beside the index, for weights that come with the repository
    page: str | None = None  # https page where only a browser gets the file
    sha256: str | None = None  # null: trusted on first use
    md5_prefix: str | None = None
    bytes: int | None = None
    format: str = "torch_pickle_weights_only"
    converter: str | None = None  # null with a timm_folder
    key: str | None = None  # which network of the file
    options: dict[str, object] = field(default_factory=dict)  # of the converter, beside key
    head_features: str | None = None  # what a linear classifier is applied to

    @property
    def source(self) -> Source:
        """What the downloader needs."""
        assert self.url or self.page, "this file comes with the repository"
        return Source(
            url=self.url or self.page or "",
            sha256=self.sha256,
            md5_prefix=self.md5_prefix,
            num_bytes=self.bytes,
            is_manual=self.url is None,
        )


@dataclass(frozen=True, kw_only=True)
class ZooInput:
    """What the network was trained on."""

    size: tuple[int, ...] = (3, 224, 224)  # channels, height, width; (points, 3) for clouds
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    interpolation: str = "bicubic"
    crop_pct: float = 0.875


@dataclass(frozen=True, kw_only=True)
class ZooEntry:
    """One model of the zoo."""

    name: str
    method: str
    backbone: dict[str, object]  # {timm: name, args: {...}}, or {own: name} for networks timm lacks
    files: dict[str, ZooFile]
    input: ZooInput
    license: str
    origin: dict[str, Any]  # paper, repo, official
    data: str
    status: str
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)  # data set -> numbers, source
    notes: tuple[str, ...] = ()
    timm_alias: str | None = None  # the same weights in timm's own list

    @property
    def architecture(self) -> str:
        """Name of the network, timm's or this package's own."""
        return str(self.backbone.get("timm") or self.backbone.get("own"))


@functools.cache
def load_index(path: str | Path | None = None) -> dict[str, ZooEntry]:
    """All entries, by name, in the order of the file.

    Args:
        path: index.yaml; by default the one of this installation, or `$SSL_VISION_ZOO_INDEX`.

    Raises:
        ConfigError: The file breaks a rule; the message names the entry and the rule.
    """
    path = Path(path) if path else index_path()
    try:
        content = yaml.load(read_text(path, error=ConfigError), Loader=_UniqueKeyLoader)
    except (yaml.YAMLError, RecursionError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path} cannot be read: {reason}") from error
    if not isinstance(content, dict) or content.get("schema") != 1:
        raise ConfigError(f"{path} must start with `schema: 1`.")
    models = content.get("models")
    if not isinstance(models, dict):
        raise ConfigError(f"{path} has no `models:`.")
    return {str(name): _entry(str(name), value) for name, value in models.items()}


def find_entry(name: str) -> ZooEntry:
    """The entry of a name.

    Raises:
        ConfigError: There is none; the message has the nearest names.
    """
    index = load_index()
    if name in index:
        return index[name]
    hint = did_you_mean(name, index, num=3, cutoff=0.4)
    raise ConfigError(f"zoo:{name} is not in the zoo.{hint} All: ssl-vision zoo list")


def index_path() -> Path:
    """Where this installation's index.yaml is: named, beside the package, or inside it."""
    if named := os.environ.get("SSL_VISION_ZOO_INDEX"):
        return Path(named)
    return shipped_folder("model_zoo") / "index.yaml"


def pin_file(path: Path, *, url: str, sha256: str, num_bytes: int) -> None:
    """Write the hash and length of a file into the index, leaving every other character.

    Raises:
        ConfigError: The URL is not there once, or its hash is pinned to something else.
    """
    lines = path.read_text().splitlines(keepends=True)
    found = [i for i, line in enumerate(lines) if line.strip() in (f"url: {url}", f"page: {url}")]
    if len(found) != 1:
        raise ConfigError(f"{path} has {len(found)} lines `url: {url}`; one is needed.")
    for name, value in {"sha256": sha256, "bytes": str(num_bytes)}.items():
        _pin_line(lines, found[0], name, value, path=path)
    partial = path.with_suffix(".partial")
    partial.write_text("".join(lines))
    partial.replace(path)
    load_index.cache_clear()


def render_table(index: Mapping[str, ZooEntry]) -> str:
    """The table of model_zoo/README.md."""
    head = "| Name | Method | Network | Data | Published | License | Status |\n|" + "---|" * 7
    return "\n".join([head, *(_row(entry) for entry in index.values())])


def describe_metrics(entry: ZooEntry) -> list[str]:
    """One line per data set: numbers and where they are from."""
    lines = []
    for data, numbers in entry.metrics.items():
        shown = ", ".join(
            f"{name} {value}"
            for name, value in numbers.items()
            if name not in ("source", "reproduced")
        )
        reproduced = "reproduced" if numbers.get("reproduced") else "not reproduced here"
        lines.append(f"{data}: {shown} ({numbers['source']}; {reproduced})")
    return lines


def _row(entry: ZooEntry) -> str:
    name = f"[{entry.name}]({entry.name}/README.md)" if entry.status == "own" else entry.name
    numbers = "; ".join(line.split(" (")[0] for line in describe_metrics(entry)) or "-"
    cells = (
        name,
        entry.method,
        f"`{entry.architecture}`",
        entry.data,
        numbers,
        entry.license,
        entry.status,
    )
    return f"| {' | '.join(cells)} |"


def _pin_line(lines: list[str], start: int, name: str, value: str, *, path: Path) -> None:
    """Replace `name: null` in the block of the line `start`."""
    indent = len(lines[start]) - len(lines[start].lstrip())
    for i in range(start + 1, len(lines)):
        if lines[i].strip() and len(lines[i]) - len(lines[i].lstrip()) < indent:
            break
        matched = re.fullmatch(rf"(\s*{name}:\s*)(\S+)(\s*(?:#.*)?\n?)", lines[i])
        if matched is None:
            continue
        if matched[2] not in ("null", "~", value):
            raise ConfigError(f"{path}:{i + 1} pins {matched[2]}, the file has {value}.")
        lines[i] = f"{matched[1]}{value}{matched[3]}"
        return
    raise ConfigError(f"{path}:{start + 1} has no `{name}: null` after it to fill in.")


def _entry(name: str, value: object) -> ZooEntry:
    where = f"model_zoo/index.yaml: {name}"
    given: dict[str, Any] = dict(_mapping(value, where))
    given["files"] = {
        str(kind): _record(ZooFile, dict(_mapping(file, f"{where}.files")), f"{where}.files.{kind}")
        for kind, file in _mapping(given.get("files"), f"{where}.files").items()
    }
    given["input"] = _record(
        ZooInput, dict(_mapping(given.get("input"), f"{where}.input")), f"{where}.input"
    )
    given["notes"] = tuple(given.get("notes", ()))
    entry = _record(ZooEntry, {**given, "name": name}, where)
    _check_entry(entry, where)
    for kind, file in entry.files.items():
        _check_file(file, f"{where}.files.{kind}", is_supported=entry.status != "unsupported")
    return entry


def _check_entry(entry: ZooEntry, where: str) -> None:
    if not re.fullmatch(r"[a-z0-9_]+", entry.name):
        raise ConfigError(f"{where}: names have lower-case letters, digits and _ only.")
    if entry.status not in STATUSES:
        raise ConfigError(f"{where}.status={entry.status!r} must be one of {', '.join(STATUSES)}.")
    if not entry.license:
        raise ConfigError(f"{where}.license is missing; say `none stated` where there is none.")
    if "timm" in entry.backbone and entry.status != "unsupported":
        check_architecture(str(entry.backbone["timm"]), key=f"{where}.backbone.timm")
    if not {"timm", "own"} & entry.backbone.keys():
        raise ConfigError(f"{where}.backbone needs timm: NAME (or own: NAME).")
    if not entry.origin.get("repo") and not entry.origin.get("recipe"):
        raise ConfigError(f"{where}.origin needs the repo, or the recipe, it comes from.")
    if "backbone" not in entry.files and entry.status != "unsupported":
        raise ConfigError(f"{where}.files needs a backbone.")
    for data, numbers in entry.metrics.items():
        if not isinstance(numbers, dict) or not numbers.get("source"):
            raise ConfigError(f"{where}.metrics.{data} needs a source.")
        if numbers.get("reproduced") and entry.status not in ("verified_weights", "own"):
            raise ConfigError(f"{where}.metrics.{data}.reproduced does not go with {entry.status}.")


def _check_file(file: ZooFile, where: str, *, is_supported: bool) -> None:
    places = [place for place in (file.url, file.path, file.page) if place]
    if len(places) != 1:
        raise ConfigError(f"{where} needs one of url, path and page.")
    if (link := file.url or file.page) and not link.startswith("https://"):
        raise ConfigError(f"{where}: {link} must start with https://.")
    if file.format not in FORMATS:
        raise ConfigError(f"{where}.format={file.format!r} must be one of {', '.join(FORMATS)}.")
    name = Path(urlsplit(link).path).name if link else ""
    if file.url and not re.fullmatch(r"[A-Za-z0-9_][\w.+-]*", name):
        raise ConfigError(f"{where}.url ends in {name!r}, which can name no file.")
    if file.path and (Path(file.path).is_absolute() or ".." in Path(file.path).parts):
        raise ConfigError(f"{where}.path={file.path} leads out of the folder of the index.")
    if file.path and not file.sha256:
        raise ConfigError(f"{where}: own files carry their sha256.")
    if file.sha256 and not re.fullmatch(r"[0-9a-f]{64}", file.sha256):
        raise ConfigError(f"{where}.sha256 must be 64 hexadecimal digits.")
    is_head = file.head_features is not None
    if unknown := sorted(file.options.keys() - {entry.name for entry in fields(ConvertOptions)}):
        raise ConfigError(f"{where}.options: {', '.join(unknown)} is not an option of converters.")
    needs_converter = file.format != "timm_folder" and is_supported and not is_head
    if needs_converter and file.converter not in CONVERTERS:
        raise ConfigError(
            f"{where}.converter={file.converter!r} must be one of {', '.join(CONVERTERS)}."
            f"{did_you_mean(file.converter, CONVERTERS)}"
        )


def _record(kind: type[_T], given: dict[str, object], where: str) -> _T:
    """Dataclass of a mapping; unknown and missing keys are named."""
    known = [entry.name for entry in fields(kind)]  # type: ignore[arg-type]
    for key in given:
        if key not in known:
            raise ConfigError(f"{where}.{key} is not a key.{did_you_mean(key, known)}")
    lists = {k: tuple(v) for k, v in given.items() if isinstance(v, list)}
    try:
        return kind(**{**given, **lists})
    except TypeError as error:
        missing = str(error).rpartition(": ")[2]
        raise ConfigError(f"{where} lacks {missing}.") from error


def _mapping(value: object, where: str) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where} must have keys and values.")
    return value


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML in which a key given twice is an error, not a silent replacement."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Mapping of a node; duplicates raise."""
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"{key!r} stands twice, again at{node.start_mark}")
        return super().construct_mapping(node, deep=deep)
