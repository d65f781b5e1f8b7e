"""Fetch a file once, whole and unaltered: resume, retry, check, then show it under its name.

A file is written beside its place as `NAME.part`, checked, flushed to disk and renamed: what bears
the final name is complete. Processes that want the same file wait on a lock for the first one.

Environment:
    SSL_VISION_HOME      cache folder; default $XDG_CACHE_HOME/ssl_vision or ~/.cache/ssl_vision
    SSL_VISION_OFFLINE   1: touch no network
    SSL_VISION_MIRROR    prefix put before host and path of every URL; may be a file:// folder
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import time
import urllib.error
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from ssl_vision.errors import CheckpointError
from ssl_vision.files import cache_home, fsync_path, read_json, read_text
from ssl_vision.network import is_offline
from ssl_vision.zoo.hashes import sha256_of
from ssl_vision.zoo.transfer import BrokenTransferError, Pace, Transfer

_MOST_BYTES = 64 << 30  # of a file whose length nobody states
Progress = Callable[[int, int | None], None]  # bytes so far, bytes in all (if known)


@dataclass(frozen=True, kw_only=True)
class Source:
    """A file somewhere, and what is known of its content.

    Attributes:
        url: https, http, file, or the page of a file that only a browser can fetch.
        sha256: Expected; None: the first download is trusted, recorded, and held against later
            ones.
        md5_prefix: First digits of the MD5, where that is all the authors give.
        num_bytes: Expected length.
        is_manual: Whether the URL is a page for a browser (Google Drive).
    """

    url: str
    sha256: str | None = None
    md5_prefix: str | None = None
    num_bytes: int | None = None
    is_manual: bool = False


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """How patiently a server is asked again."""

    num_attempts: int = 5  # in a row that brought less than the least rate
    backoff_s: float = 1.0  # before the second attempt; doubles each time
    longest_backoff_s: float = 30.0
    pace: Pace = field(default_factory=Pace)  # below it an attempt ends


@dataclass(frozen=True, kw_only=True)
class Downloaded:
    """A file that is there, whole.

    Attributes:
        path: Where.
        sha256: Of its content.
        was_cached: Whether it was there before.
        is_first_use: Whether its hash was not known before and has now been recorded.
    """

    path: Path
    sha256: str
    was_cached: bool
    is_first_use: bool


class _Again(Exception):
    """This attempt failed in a way that may pass."""

    def __init__(self, reason: str, *, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


def mirrored(url: str) -> str:
    """The URL, or where SSL_VISION_MIRROR has it: PREFIX/host/path."""
    prefix = os.environ.get("SSL_VISION_MIRROR")
    parts = urlsplit(url)
    if not prefix or parts.scheme == "file":
        return url
    query = f"?{parts.query}" if parts.query else ""
    return f"{prefix.rstrip('/')}/{parts.netloc}{parts.path}{query}"


def download(
    source: Source,
    target: Path,
    *,
    policy: RetryPolicy | None = None,
    progress: Progress | None = None,
) -> Downloaded:
    """Make `target` hold the source's content; nothing is fetched if it does already.

    Raises:
        CheckpointError: Offline, unreachable, wrong content, or no room; the message says what
            to do by hand.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with locked(target.with_name(target.name + ".lock")):
            if target.exists():
                if (found := _check_cached(source, target)) is not None:
                    return found
                target.unlink()  # damaged on disk; the source still has it
            return _download_locked(source, target, policy or RetryPolicy(), progress)
    except OSError as error:
        raise CheckpointError(
            f"cannot write {target}: {error}; set SSL_VISION_HOME to a folder with room."
        ) from error


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file; others wait. A killed holder frees it."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def forget(url: str) -> None:
    """Drop the recorded hash of a URL whose new content is to be trusted."""
    with _known_hashes() as known:
        known.pop(url, None)


def _check_cached(source: Source, target: Path) -> Downloaded | None:
    """The file that is there already; None where its content is not what it was."""
    digest = sha256_of(target)
    with _known_hashes() as known:
        expected = source.sha256 or known.get(source.url)
        if expected is None:  # put there by hand
            known[source.url] = digest
    if expected not in (None, digest):
        return None
    return Downloaded(path=target, sha256=digest, was_cached=True, is_first_use=expected is None)


def _download_locked(
    source: Source, target: Path, policy: RetryPolicy, progress: Progress | None
) -> Downloaded:
    url = mirrored(source.url)
    if source.is_manual:
        raise CheckpointError(
            f"{target.name} can only be fetched by a browser: open {source.url} and put the file "
            f"at {target}."
        )
    if is_offline() and urlsplit(url).scheme != "file":
        raise CheckpointError(
            f"SSL_VISION_OFFLINE is set and {target} is not there; where there is a network run: "
            f"curl -L -o {target} {source.url}"
        )
    part = target.with_name(target.name + ".part")
    was_resumed = part.exists()
    try:
        digest = _fetch_and_check(source, url, part, policy, progress)
    except _WrongBytes as error:
        # The first part may stem from another version of the file: once more, from the start.
        if not was_resumed:
            raise CheckpointError(str(error)) from error
        try:
            digest = _fetch_and_check(source, url, part, policy, progress)
        except _WrongBytes as again:
            raise CheckpointError(str(again)) from again
    is_first_use = _record(source, digest)
    fsync_path(part)
    part.replace(target)
    _etag_path(part).unlink(missing_ok=True)
    return Downloaded(path=target, sha256=digest, was_cached=False, is_first_use=is_first_use)


class _WrongBytes(Exception):
    """The content is complete and not what was expected; it has been deleted."""


def _fetch_and_check(
    source: Source, url: str, part: Path, policy: RetryPolicy, progress: Progress | None
) -> str:
    """Fetch the whole content into `part` and return its SHA-256."""
    try:
        _fetch(url, part, policy, progress, source)
    except _WrongBytes as error:
        part.unlink(missing_ok=True)
        _etag_path(part).unlink(missing_ok=True)
        raise _WrongBytes(f"{url}: {error}; nothing of it was kept.") from error
    digest, size = sha256_of(part), part.stat().st_size
    problem = None
    if source.num_bytes is not None and size != source.num_bytes:
        problem = f"has {size:,} bytes instead of {source.num_bytes:,}"
    elif source.sha256 is not None and digest != source.sha256:
        problem = f"has sha256 {digest} instead of {source.sha256}"
    elif source.md5_prefix and not _md5(part).startswith(source.md5_prefix):
        problem = f"has an MD5 that does not start with {source.md5_prefix}"
    elif source.sha256 is None:
        with _known_hashes() as known:
            before = known.get(source.url, digest)
        if before != digest:
            problem = (
                f"has changed since its first download (sha256 {digest}, then {before}); if that "
                "is right, run ssl-vision zoo forget on it"
            )
    if problem is None:
        return digest
    part.unlink()
    _etag_path(part).unlink(missing_ok=True)
    raise _WrongBytes(f"{url} {problem}; it was deleted.")


def _fetch(
    url: str, part: Path, policy: RetryPolicy, progress: Progress | None, source: Source
) -> None:
    """Repeat attempts until `part` is complete."""
    num_failed, reason = 0, ""
    while num_failed < policy.num_attempts:
        before, began = _size(part), time.monotonic()
        try:
            _attempt(url, part, policy, progress, source)
            return
        except _Again as again:
            reason = str(again)
            wait_s = min(policy.backoff_s * 2**num_failed, policy.longest_backoff_s)
            # A byte per attempt is no progress: the time in all must have an end.
            seconds = time.monotonic() - began + policy.backoff_s
            has_progress = _size(part) - before > policy.pace.least_bytes_per_s * seconds
            num_failed = 1 if has_progress else num_failed + 1
            if num_failed < policy.num_attempts:
                time.sleep(wait_s if again.wait_s is None else again.wait_s)
    target = part.with_suffix("")
    raise CheckpointError(
        f"{url} could not be fetched in {policy.num_attempts} attempts ({reason}); {_size(part):,} "
        f"bytes are kept and the next try goes on from there. By hand: "
        f"curl -L -o {target} {source.url}"
    )


def _attempt(
    url: str, part: Path, policy: RetryPolicy, progress: Progress | None, source: Source
) -> None:
    """One request, resuming where the server can.

    Raises:
        _Again: Worth another try.
        _WrongBytes: Another file, or one without end.
        CheckpointError: Not worth one.
    """
    have, total = _size(part), None
    try:
        response = Transfer(url, _headers(have, part), policy.pace)
        try:
            start, total = _start_and_total(response, part, have, source.num_bytes)
            _check_room(part, total, start)
            _etag_path(part).write_text(response.headers.get("ETag") or "")
            most = next((n for n in (source.num_bytes, total) if n is not None), _MOST_BYTES)
            _copy(response, part, start=start, total=total, most=most, progress=progress)
        finally:
            response.close()
    except urllib.error.HTTPError as error:
        _explain_status(error, url, part, have)
    except ValueError as error:  # a host's name that is none
        raise CheckpointError(f"{url} cannot be fetched: {error}.") from error
    except BrokenTransferError as error:
        raise _Again(str(error)) from error
    if total is not None and _size(part) < total:
        raise _Again(f"the connection ended after {_size(part):,} of {total:,} bytes")


def _headers(have: int, part: Path) -> dict[str, str]:
    headers = {"User-Agent": "ssl-vision", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        # With If-Range a changed file comes whole instead of as a tail of something else.
        tag = _tag_of(part)
        if tag and not tag.startswith("W/"):
            headers["If-Range"] = tag
    return headers


def _tag_of(part: Path) -> str:
    """ETag of the file that a partial one is of; empty: unknown."""
    try:
        return read_text(_etag_path(part), error=CheckpointError, max_bytes=1 << 16)
    except CheckpointError:
        return ""


def _explain_status(error: urllib.error.HTTPError, url: str, part: Path, have: int) -> None:
    """Turn a status code into another try or an error."""
    if error.code == 416:  # asked for bytes beyond the end
        total = (error.headers.get("Content-Range") or "").rpartition("/")[2]
        if total == str(have):
            return  # complete already
        part.unlink(missing_ok=True)
        raise _Again("the partial file was longer than the file") from error
    if error.code in (408, 425, 429) or error.code >= 500:
        after = error.headers.get("Retry-After") or ""
        wait_s = min(float(after), 60.0) if after.isdigit() else None
        raise _Again(f"status {error.code}", wait_s=wait_s) from error
    raise CheckpointError(f"{url} cannot be fetched: status {error.code} ({error.reason}).")


def _copy(
    response: Transfer,
    part: Path,
    *,
    start: int,
    total: int | None,
    most: int,
    progress: Progress | None,
) -> None:
    """Write what comes, up to `most` bytes in all.

    Raises:
        _WrongBytes: More comes.
    """
    with part.open("r+b" if start else "wb") as file:
        file.seek(start)
        file.truncate()
        done = start
        for chunk in response.chunks():
            done += len(chunk)
            if done > most:
                raise _WrongBytes(f"the server sends more than the {most:,} bytes of the file")
            file.write(chunk)
            if progress is not None:
                progress(done, total)


def _start_and_total(
    response: Transfer, part: Path, have: int, known: int | None
) -> tuple[int, int | None]:
    """Where the answer's bytes belong, and the length of the whole file, if the server says.

    Raises:
        _Again: Another range than asked for, or of another version of the file; the partial file
            is gone.
        _WrongBytes: The file is not as long as is known.
    """
    start, length = 0, response.content_length()  # 200: no ranges here, or the file has changed
    total = length
    if response.status == 206:
        found = response.content_range()
        if found is None or not _is_range(found, have, length):
            part.unlink(missing_ok=True)
            raise _Again("the server sent another range than asked for")
        tag, former = response.headers.get("ETag") or "", _tag_of(part)
        if tag and former and tag.removeprefix("W/") != former.removeprefix("W/"):
            part.unlink(missing_ok=True)
            raise _Again("the file has changed meanwhile")
        start, total = have, found[2]
    if total is not None and known is not None and total != known:
        raise _WrongBytes(f"has {total:,} bytes instead of {known:,}")
    return start, total


def _is_range(found: tuple[int, int, int | None], have: int, length: int | None) -> bool:
    """Whether a range starts where the partial file ends, and its numbers agree."""
    first, last, total = found
    return (
        first == have <= last
        and (total is None or last < total)
        and length in (None, last - first + 1)
    )


def _check_room(part: Path, total: int | None, start: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if total is not None and total - start > free:
        raise CheckpointError(
            f"{part.parent} has {free / 2**20:.0f} MiB free and {(total - start) / 2**20:.0f} are "
            "needed; set SSL_VISION_HOME to a folder with room."
        )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _etag_path(part: Path) -> Path:
    return part.with_name(part.name + ".etag")


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _record(source: Source, digest: str) -> bool:
    """Remember the hash of a file nobody vouches for; whether it was new."""
    if source.sha256 is not None:
        return False
    with _known_hashes() as known:
        is_new = source.url not in known
        known[source.url] = digest
    return is_new


@contextlib.contextmanager
def _known_hashes() -> Iterator[dict[str, str]]:
    """URL -> sha256 of first downloads; changes are written back, one process at a time."""
    path = cache_home() / "known.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.with_suffix(".lock")):
        before = read_json(path, error=CheckpointError) if path.exists() else {}
        if not isinstance(before, dict) or not all(isinstance(v, str) for v in before.values()):
            raise CheckpointError(f"{path} is no table of addresses and hashes; move it away.")
        known = dict(before)
        yield known
        if known != before:
            partial = path.with_suffix(".partial")
            partial.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
            partial.replace(path)
