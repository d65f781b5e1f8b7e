"""One request to a server that may be slow, wrong or hostile: bytes above a least rate, or an end.

Time limits of sockets count from the last byte: a server that sends one now and then (of headers,
of a chunk's length) keeps a reader for ever. So a thread opens and reads, and is left behind when
what it hands over is too little.
"""

import contextlib
import queue
import re
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPException, HTTPMessage, HTTPResponse
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import url2pathname

from ssl_vision.errors import CheckpointError
from ssl_vision.files import open_regular

_CHUNK = 1 << 18
_QUEUED = 8  # chunks read ahead of the disk


class BrokenTransferError(Exception):
    """The connection failed, or the server sends less than the least rate; may pass."""


@dataclass(frozen=True, kw_only=True)
class Pace:
    """What a server must keep up."""

    timeout_s: float = (
        30.0  # without any byte; three times this for the headers, redirects included
    )
    least_bytes_per_s: float = 4096.0  # on average over each window
    window_s: float = 30.0


class Transfer:
    """An answer: status and headers, then its bytes.

    Raises:
        CheckpointError: A scheme, redirect or encoding that is not followed; a web page.
        BrokenTransferError: No connection, or no headers in time.
        HTTPError: A status that is an error.
        ValueError: An address that is none.
    """

    def __init__(self, url: str, headers: dict[str, str], pace: Pace) -> None:
        self._pace = pace
        self._thread = _Reader(url, headers, pace.timeout_s)
        self._thread.start()
        try:
            first = self._thread.items.get(timeout=3 * pace.timeout_s)
        except queue.Empty as error:
            self.close()
            raise BrokenTransferError(f"no headers in {3 * pace.timeout_s:g} s") from error
        if isinstance(first, BaseException):
            raise _as_broken(first)
        self.status, self.headers = first

    def chunks(self) -> Iterator[bytes]:
        """The bytes as they come.

        Raises:
            BrokenTransferError: The connection broke, or a window brought too few.
        """
        pace, start, num_bytes = self._pace, time.monotonic(), 0
        while True:
            left = start + pace.window_s - time.monotonic()
            if left <= 0:
                if num_bytes < pace.least_bytes_per_s * pace.window_s:
                    raise BrokenTransferError(
                        f"{num_bytes:,} bytes in {pace.window_s:g} s are too few"
                    )
                start, num_bytes = time.monotonic(), 0
                continue
            with contextlib.suppress(queue.Empty):
                item = self._thread.items.get(timeout=left)
                if item is None:
                    return
                if isinstance(item, BaseException):
                    raise _as_broken(item)
                num_bytes += len(item)
                yield item

    def close(self) -> None:
        """Leave the connection; its thread ends with the next byte or time-out."""
        self._thread.is_left.set()

    def content_range(self) -> tuple[int, int, int | None] | None:
        """First and last byte and length of `Content-Range: bytes 100-199/200` (`*`: None)."""
        given = self.headers.get("Content-Range") or ""
        match = re.fullmatch(r"bytes\s+(\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", given, re.ASCII)
        if match is None:
            return None
        total = None if match[3] == "*" else int(match[3])
        return int(match[1]), int(match[2]), total

    def content_length(self) -> int | None:
        """Bytes announced, if they are."""
        given = self.headers.get("Content-Length") or ""
        return int(given) if re.fullmatch(r"\d{1,18}", given, re.ASCII) else None


def _as_broken(error: BaseException) -> BaseException:
    """A network's errors as one; its OSErrors must not pass for those of the disk."""
    if isinstance(error, HTTPError) or not isinstance(error, OSError | HTTPException):
        return error
    reason = error.reason if isinstance(error, URLError) else error
    return BrokenTransferError(" ".join(str(reason).split()) or type(error).__name__)


class _Left(Exception):
    """Nobody waits for this transfer any more."""


class _Reader(threading.Thread):
    """Puts (status, headers), then chunks, then None or an error into `items`."""

    def __init__(self, url: str, headers: dict[str, str], timeout_s: float) -> None:
        super().__init__(name="download", daemon=True)
        self._url, self._headers, self._timeout_s = url, headers, timeout_s
        self.items: queue.Queue[Any] = queue.Queue(_QUEUED)
        self.is_left = threading.Event()

    def run(self) -> None:
        """Open, read, hand over."""
        try:
            with _open(self._url, self._headers, self._timeout_s) as response:
                self._put((getattr(response, "status", None), response.headers))
                while chunk := response.read1(_CHUNK):
                    self._put(chunk)
            self._put(None)
        except _Left:
            pass
        except BaseException as error:
            with contextlib.suppress(_Left):
                self._put(error)

    def _put(self, item: object) -> None:
        while not self.is_left.is_set():
            with contextlib.suppress(queue.Full):
                self.items.put(item, timeout=0.2)
                return
        raise _Left


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to the web, but not from https to anything else."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        scheme = urlsplit(newurl).scheme.lower()
        if scheme not in ("http", "https"):
            raise CheckpointError(f"{req.full_url} redirects to {newurl[:200]!r}: no web address.")
        if req.full_url.lower().startswith("https:") and scheme != "https":
            raise CheckpointError(f"{req.full_url} redirects to {newurl}, which is not encrypted.")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _open(url: str, headers: dict[str, str], timeout_s: float) -> HTTPResponse:
    parts = urlsplit(url)
    if parts.scheme == "file":
        open_regular(url2pathname(parts.path), error=CheckpointError).close()
    elif parts.scheme not in ("http", "https"):
        raise CheckpointError(f"{url} is not fetched: only https, http and file addresses are.")
    request = urllib.request.Request(url, headers=headers)
    response: HTTPResponse = urllib.request.build_opener(_Redirects).open(
        request, timeout=timeout_s
    )
    if problem := _problem(url, response.headers):
        response.close()
        raise CheckpointError(problem)
    return response


def _problem(url: str, headers: Message) -> str | None:
    if (headers.get_content_type() or "") == "text/html":
        return f"{url} is a web page, not a file; open it in a browser."
    encoding = (headers.get("Content-Encoding") or "identity").strip().lower()
    if encoding != "identity":
        return f"{url} comes encoded as {encoding[:40]!r}, which was not asked for."
    return None
