"""From the name of a zoo entry to files, and to a folder that timm opens; both are cached."""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ssl_vision import __version__
from ssl_vision.errors import CheckpointError, ConfigError
from ssl_vision.files import cache_home
from ssl_vision.zoo.card import ModelCard
from ssl_vision.zoo.convert import convert_file
from ssl_vision.zoo.converted import ConvertOptions
from ssl_vision.zoo.download import (
    Downloaded,
    Progress,
    RetryPolicy,
    download,
    locked,
)
from ssl_vision.zoo.exported import WEIGHTS_NAME
from ssl_vision.zoo.hashes import sha256_of
from ssl_vision.zoo.index import ZooEntry, ZooFile, describe_metrics, find_entry, index_path

_log = logging.getLogger(__name__)


def fetch_file(
    entry: ZooEntry,
    kind: str = "backbone",
    *,
    policy: RetryPolicy | None = None,
    progress: Progress | None = None,
) -> Downloaded:
    """One file of an entry, downloaded if it is not there yet.

    Args:
        entry: From the index.
        kind: backbone, full, linear: a key of `entry.files`.
        policy: How patiently to retry.
        progress: Called with bytes so far and in all.

    Raises:
        ConfigError: The entry has no such file.
        CheckpointError: It cannot be had, or is not what the index says.
    """
    file = _file_of(entry, kind)
    if file.path is not None:
        weights = index_path().parent / file.path / WEIGHTS_NAME
        digest = sha256_of(weights) if weights.is_file() else "nothing"
        if digest != file.sha256:
            raise CheckpointError(
                f"{weights} has sha256 {digest} and the index says {file.sha256}; restore it with "
                "git checkout (and git lfs pull, if it is a pointer)."
            )
        return Downloaded(path=weights, sha256=digest, was_cached=True, is_first_use=False)
    name = Path(urlsplit(file.source.url).path).name if file.url else f"{kind}.pth"
    found = download(
        file.source, cache_home() / "zoo" / entry.name / name, policy=policy, progress=progress
    )
    if not found.was_cached:
        _log.info("%s: licence %s", entry.name, entry.license)
    if found.is_first_use:
        _log.warning(
            "%s has no known hash; sha256 %s is trusted and remembered.", found.path, found.sha256
        )
    return found


def fetch_export(name: str, settings: Mapping[str, object]) -> Path:
    """Folder of an entry that `read_export` and timm open, converted once per set of options.

    Args:
        name: Of the entry.
        settings: `file` (backbone or full), and fields of `ConvertOptions`.

    Raises:
        ConfigError: Unknown name, file or option.
        CheckpointError: The weights cannot be had or converted.
    """
    entry, chosen = find_entry(name), dict(settings)
    check_supported(entry)
    kind = str(chosen.pop("file", "backbone"))
    file = _file_of(entry, kind)
    if file.format == "timm_folder":
        if chosen:
            raise ConfigError(f"zoo:{name} takes no options; it is a timm folder already.")
        return fetch_file(entry, kind).path.parent
    chosen = {**default_options(file), **chosen}
    options = _options(chosen, name=name)
    found = fetch_file(entry, kind)
    # Another file, options or version of the converters: another folder.
    parts = repr((found.sha256, kind, sorted(chosen.items()), __version__))
    folder = found.path.parent / f"timm-{hashlib.sha256(parts.encode()).hexdigest()[:16]}"
    with locked(folder.with_suffix(".lock")):
        if not (folder / WEIGHTS_NAME).exists():
            convert_file(
                found.path,
                folder,
                converter=str(file.converter),
                options=options,
                card=card_of(entry, sha256=found.sha256),
            )
    return folder


def default_options(file: ZooFile) -> dict[str, object]:
    """What the converter is told where the user says nothing."""
    return {**({} if file.key is None else {"key": file.key}), **file.options}


def check_supported(entry: ZooEntry) -> None:
    """Raise ConfigError, with the reason, for an entry that is only listed."""
    if entry.status == "unsupported":
        raise ConfigError(f"zoo:{entry.name} cannot be converted: {' '.join(entry.notes)}")


def card_of(entry: ZooEntry, *, sha256: str) -> ModelCard:
    """Model card of a converted entry."""
    return ModelCard(
        title=f"{entry.name}, converted to timm",
        method=entry.method,
        data=entry.data,
        license=entry.license,
        tag=entry.name,
        source=f"https://github.com/{entry.origin['repo']}" if entry.origin.get("repo") else None,
        notes=[
            f"Official file, sha256 {sha256}.",
            *(f"Published: {line}." for line in describe_metrics(entry)),
            *entry.notes,
        ],
    )


def _file_of(entry: ZooEntry, kind: str) -> ZooFile:
    if kind not in entry.files:
        raise ConfigError(f"zoo:{entry.name} has no file={kind}; it has {', '.join(entry.files)}.")
    return entry.files[kind]


def _options(chosen: Mapping[str, Any], *, name: str) -> ConvertOptions:
    known = [field.name for field in fields(ConvertOptions)]
    for key in chosen:
        if key not in known:
            raise ConfigError(f"zoo:{name}: {key} is not an option; known are {', '.join(known)}.")
    return ConvertOptions(**chosen)
