"""Faults of servers, networks and disks, played by a local server: no wrong file ever appears."""

import contextlib
import errno
import functools
import hashlib
import http.server
import json
import multiprocessing
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ssl_vision.errors import CheckpointError
from ssl_vision.files import cache_home
from ssl_vision.zoo.download import (
    RetryPolicy,
    Source,
    download,
    forget,
    mirrored,
)
from ssl_vision.zoo.transfer import Pace

CONTENT = bytes(range(256)) * 1200  # 300 KiB
SHA256 = hashlib.sha256(CONTENT).hexdigest()
QUICK = RetryPolicy(num_attempts=3, backoff_s=0.01, pace=Pace(timeout_s=2.0))

Behaviour = Callable[["Handler", int], None]  # what the n-th request, from 0, gets


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT with ranges, unless the behaviour does something else."""

    def __init__(self, state: dict[str, Any], *args: Any) -> None:
        self.state = state
        super().__init__(*args)

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        number = len(self.state["requests"])
        self.state["requests"].append((self.path, self.headers.get("Range")))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.state["behaviour"](self, number)

    def start_of_range(self) -> int:
        wanted = self.headers.get("Range")
        tag = self.headers.get("If-Range")
        if wanted is None or (tag and tag != self.state.get("etag")):
            return 0
        return int(wanted.removeprefix("bytes=").rstrip("-"))

    def serve(
        self,
        content: bytes = CONTENT,
        *,
        announce: int | None = None,
        send: int | None = None,
        with_ranges: bool = True,
    ) -> None:
        """A regular answer; `announce` and `send` bytes may lie about the length."""
        start = self.start_of_range() if with_ranges else 0
        if start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.end_headers()
            return
        body = content[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(announce if announce is not None else len(body)))
        if "etag" in self.state:
            self.send_header("ETag", self.state["etag"])
        self.end_headers()
        self.wfile.write(body if send is None else body[:send])

    def fail(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()


class Server:
    def __init__(self, url: str, state: dict[str, Any]) -> None:
        self.url, self.state = url, state

    @property
    def ranges(self) -> list[str | None]:
        return [wanted for _, wanted in self.state["requests"]]

    def does(self, behaviour: Behaviour) -> None:
        self.state.update(behaviour=behaviour, requests=[])


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A local server; the cache is a folder of the test."""
    monkeypatch.setenv("SSL_VISION_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("no_proxy", "*")
    for name in ("SSL_VISION_OFFLINE", "SSL_VISION_MIRROR"):
        monkeypatch.delenv(name, raising=False)
    state: dict[str, Any] = {"behaviour": lambda handler, _: handler.serve(), "requests": []}
    httpd = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0),
        functools.partial(Handler, state),  # type: ignore[arg-type]
    )
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield Server(f"http://127.0.0.1:{httpd.server_port}", state)
    httpd.shutdown()
    thread.join()
    httpd.server_close()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "weights.pth"


def names(target: Path) -> set[str]:
    return {p.name for p in target.parent.iterdir() if not p.name.endswith(".lock")}


def test_whole_file_then_cache(server: Server, target: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    source = Source(url=f"{server.url}/w", sha256=SHA256, num_bytes=len(CONTENT))
    first = download(source, target, progress=lambda done, total: seen.append((done, total)))
    assert target.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    again = download(source, target)
    assert (first.was_cached, again.was_cached) == (False, True)
    assert len(server.ranges) == 1
    assert names(target) == {"weights.pth"}


def test_1_connection_drops_midway_and_the_rest_is_fetched(server: Server, target: Path) -> None:
    server.does(lambda h, n: h.serve(send=100_000) if n < 2 else h.serve())
    download(Source(url=f"{server.url}/w", sha256=SHA256), target, policy=QUICK)
    assert target.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=100000-", "bytes=200000-"]


def test_1b_a_later_process_goes_on_from_the_partial_file(server: Server, target: Path) -> None:
    server.does(lambda h, n: h.serve(send=50_000) if n == 0 else h.fail(503))
    source = Source(url=f"{server.url}/w", sha256=SHA256)
    with pytest.raises(CheckpointError, match=r"50,000 bytes are kept.*curl -L -o"):
        download(source, target, policy=QUICK)
    assert not target.exists()
    server.does(lambda h, n: h.serve())
    download(source, target, policy=QUICK)
    assert server.ranges == ["bytes=50000-"]
    assert target.read_bytes() == CONTENT


def test_2_server_without_ranges_starts_over(server: Server, target: Path) -> None:
    server.does(lambda h, n: h.serve(send=None if n else 100_000, with_ranges=False))
    download(Source(url=f"{server.url}/w", sha256=SHA256), target, policy=QUICK)
    assert target.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=100000-"]


def test_3_busy_server_is_asked_again_and_a_missing_file_is_not(
    server: Server, target: Path
) -> None:
    server.does(
        lambda h, n: (
            h.fail(503) if n == 0 else h.fail(429, Retry_After="0") if n == 1 else h.serve()
        )
    )
    download(Source(url=f"{server.url}/w", sha256=SHA256), target, policy=QUICK)
    assert target.read_bytes() == CONTENT
    server.does(lambda h, n: h.fail(404))
    with pytest.raises(CheckpointError, match="status 404"):
        download(Source(url=f"{server.url}/x"), target.with_name("x"), policy=QUICK)
    assert len(server.ranges) == 1


def test_4_wrong_bytes_are_deleted_and_never_resumed_upon(server: Server, target: Path) -> None:
    altered = bytearray(CONTENT)
    altered[1234] ^= 1
    server.does(lambda h, n: h.serve(bytes(altered)))
    source = Source(url=f"{server.url}/w", sha256=SHA256)
    with pytest.raises(CheckpointError, match="instead of " + SHA256):
        download(source, target, policy=QUICK)
    assert names(target) == set()
    server.does(lambda h, n: h.serve())
    download(source, target, policy=QUICK)
    assert server.ranges == [None]


def test_4b_a_partial_file_of_another_version_is_replaced(server: Server, target: Path) -> None:
    target.parent.mkdir()
    target.with_name("weights.pth.part").write_bytes(b"?" * 1000)
    download(Source(url=f"{server.url}/w", sha256=SHA256), target, policy=QUICK)
    assert target.read_bytes() == CONTENT
    assert server.ranges == ["bytes=1000-", None]


def test_4c_a_changed_file_is_seen_by_its_etag(server: Server, target: Path) -> None:
    server.state["etag"] = '"old"'
    server.does(lambda h, n: h.serve(b"!" * 5000, send=1000) if n == 0 else h.fail(503))
    source = Source(url=f"{server.url}/w")  # no hash could tell
    with pytest.raises(CheckpointError):
        download(source, target, policy=QUICK)
    server.state["etag"] = '"new"'
    server.does(lambda h, n: h.serve())
    download(source, target, policy=QUICK)
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("announced", [len(CONTENT) + 10, len(CONTENT) - 10])
def test_5_wrong_length_is_not_accepted(server: Server, target: Path, announced: int) -> None:
    source = Source(url=f"{server.url}/w", num_bytes=len(CONTENT))
    if announced > len(CONTENT):  # the connection ends before what was announced

        def behave(handler: Handler, number: int) -> None:
            if handler.start_of_range():
                handler.fail(500)
            else:
                handler.serve(announce=announced)
    else:  # a shorter file than the index says

        def behave(handler: Handler, number: int) -> None:
            handler.serve(CONTENT[:announced])

    server.does(behave)
    with pytest.raises(CheckpointError, match=r"attempts|bytes instead of"):
        download(source, target, policy=QUICK)
    assert not target.exists()


def test_9_any_sequence_of_faults_ends_in_the_file_or_an_error(
    server: Server, target: Path
) -> None:
    faults: list[Callable[[Handler, random.Random], None]] = [
        lambda h, r: h.serve(send=r.randrange(len(CONTENT) // 2)),
        lambda h, r: h.serve(send=r.randrange(len(CONTENT)), with_ranges=False),
        lambda h, r: h.fail(r.choice([500, 503, 429, 408])),
        lambda h, r: h.serve(announce=r.randrange(1, len(CONTENT))),
        lambda h, r: h.serve(CONTENT[:1000] + b"?" + CONTENT[1001:], send=r.randrange(5000)),
        lambda h, r: h.connection.close(),
        lambda h, r: h.serve(),
    ]
    policy = RetryPolicy(num_attempts=3, backoff_s=0.0, pace=Pace(timeout_s=2.0))
    outcomes = []
    for seed in range(40):
        draw = random.Random(seed)
        server.does(lambda h, n, draw=draw: draw.choice(faults)(h, draw))
        path = target.with_name(f"{seed}.pth")
        try:
            download(Source(url=f"{server.url}/{seed}", sha256=SHA256), path, policy=policy)
        except CheckpointError:
            assert not path.exists()
            outcomes.append(False)
        else:
            assert path.read_bytes() == CONTENT
            outcomes.append(True)
    assert 0 < sum(outcomes) < len(outcomes)


def _download_in_process(url: str, target: Path, results: Any) -> None:
    results.put(download(Source(url=url, sha256=SHA256), target, policy=QUICK).was_cached)


def test_6_two_processes_at_once_fetch_it_once(server: Server, target: Path) -> None:
    def slowly(handler: Handler, _: int) -> None:
        threading.Event().wait(0.3)
        handler.serve()

    server.does(slowly)
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    arguments = (f"{server.url}/w", target, results)
    processes = [context.Process(target=_download_in_process, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    found = sorted(results.get(timeout=20) for _ in processes)
    for process in processes:
        process.join()
    assert found == [False, True]
    assert len(server.ranges) == 1
    assert target.read_bytes() == CONTENT


def test_7_offline_uses_the_cache_and_says_what_to_do(
    server: Server, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_VISION_OFFLINE", "1")
    source = Source(url=f"{server.url}/w", sha256=SHA256)
    with pytest.raises(CheckpointError, match=rf"curl -L -o {target} {server.url}/w"):
        download(source, target)
    assert server.ranges == []
    target.write_bytes(CONTENT)  # carried here by hand
    assert download(source, target).was_cached


def test_8_mirror_by_http_and_by_folder(
    server: Server, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source(url="https://example.org/a/w.pth?x=1", sha256=SHA256)
    monkeypatch.setenv("SSL_VISION_MIRROR", f"{server.url}/mirror/")
    download(source, target, policy=QUICK)
    assert server.state["requests"][0][0] == "/mirror/example.org/a/w.pth?x=1"
    folder = tmp_path / "mirror"
    (folder / "example.org").mkdir(parents=True)
    (folder / "example.org/v.pth").write_bytes(CONTENT)
    monkeypatch.setenv("SSL_VISION_MIRROR", folder.as_uri())
    monkeypatch.setenv("SSL_VISION_OFFLINE", "1")  # a folder is no network
    source = Source(url="https://example.org/v.pth", sha256=SHA256)
    assert download(source, target.with_name("v.pth")).path.read_bytes() == CONTENT
    assert mirrored("file:///x") == "file:///x"


def test_file_urls(tmp_path: Path, server: Server, target: Path) -> None:
    (tmp_path / "here.pth").write_bytes(CONTENT)
    source = Source(url=(tmp_path / "here.pth").as_uri(), sha256=SHA256)
    assert download(source, target).path.read_bytes() == CONTENT
    absent = Source(url=(tmp_path / "absent.pth").as_uri())
    with pytest.raises(CheckpointError, match="cannot be read"):
        download(absent, target.with_name("absent"))


def test_first_use_is_recorded_and_held_against_later_ones(server: Server, target: Path) -> None:
    source = Source(url=f"{server.url}/w")
    first = download(source, target)
    assert first.is_first_use
    assert json.loads((cache_home() / "known.json").read_text()) == {source.url: SHA256}
    assert not download(source, target).is_first_use
    target.unlink()
    server.does(lambda h, n: h.serve(CONTENT[::-1]))
    with pytest.raises(CheckpointError, match="has changed since its first download"):
        download(source, target, policy=QUICK)
    assert not target.exists()
    forget(source.url)
    assert download(source, target, policy=QUICK).is_first_use


def test_a_file_damaged_on_disk_is_fetched_again(server: Server, target: Path) -> None:
    source = Source(url=f"{server.url}/w")
    download(source, target)
    target.write_bytes(CONTENT[:-1] + b"?")
    assert not download(source, target).was_cached
    assert target.read_bytes() == CONTENT


def test_md5_prefix_is_checked(server: Server, target: Path) -> None:
    good = hashlib.md5(CONTENT).hexdigest()[:6]
    download(Source(url=f"{server.url}/w", md5_prefix=good), target)
    with pytest.raises(CheckpointError, match="MD5"):
        download(Source(url=f"{server.url}/v", md5_prefix="000000"), target.with_name("v"))


def test_complete_partial_file_needs_no_byte(server: Server, target: Path) -> None:
    target.parent.mkdir()
    target.with_name("weights.pth.part").write_bytes(CONTENT)
    download(Source(url=f"{server.url}/w", sha256=SHA256), target, policy=QUICK)
    assert server.ranges == [f"bytes={len(CONTENT)}-"]
    assert target.read_bytes() == CONTENT


def test_web_pages_manual_files_and_downgrades_are_explained(server: Server, target: Path) -> None:
    def page(handler: Handler, _: int) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/html; charset=utf-8")
        handler.end_headers()
        handler.wfile.write(b"<html>sign in</html>")

    server.does(page)
    with pytest.raises(CheckpointError, match="web page"):
        download(Source(url=f"{server.url}/w"), target, policy=QUICK)
    manual = Source(url="https://drive.example.org/x", is_manual=True)
    with pytest.raises(CheckpointError, match=rf"open https://drive.* put the file at {target}"):
        download(manual, target)
    target.write_bytes(CONTENT)
    assert download(manual, target).is_first_use


def test_no_room_is_said_before_anything_is_fetched(
    server: Server, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(CheckpointError, match="MiB free"):
        download(Source(url=f"{server.url}/w"), target, policy=QUICK)
    assert not target.exists()


def test_unreachable_server_is_given_up(target: Path, server: Server) -> None:
    with pytest.raises(CheckpointError, match=r"3 attempts \(.*refused"):
        download(Source(url="http://127.0.0.1:9/w"), target, policy=QUICK)


# Servers that mean harm ----------------------------------------------------------------------

HURRIED = RetryPolicy(
    num_attempts=2, backoff_s=0.01, pace=Pace(timeout_s=0.4, window_s=0.3, least_bytes_per_s=1000.0)
)


def drip(handler: Handler, piece: bytes = b"x") -> None:
    """A byte now and then, for longer than any test waits."""
    for _ in range(200):
        handler.wfile.write(piece)
        handler.wfile.flush()
        threading.Event().wait(0.1)


def drips_body(handler: Handler, _: int) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000000")
    handler.end_headers()
    drip(handler)


def drips_headers(handler: Handler, _: int) -> None:
    handler.wfile.write(b"HTTP/1.0 200 OK\r\n")
    drip(handler, b"X: y\r\n")


def drips_length_of_a_chunk(handler: Handler, _: int) -> None:
    handler.protocol_version = "HTTP/1.1"
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b"5;")
    drip(handler)


@pytest.mark.parametrize("behaviour", [drips_body, drips_headers, drips_length_of_a_chunk])
def test_10_a_trickle_has_an_end(server: Server, target: Path, behaviour: Behaviour) -> None:
    server.does(behaviour)
    began = time.monotonic()
    with pytest.raises(CheckpointError, match=r"in 2 attempts \(.* in (0\.3|1\.2\d*) s"):
        download(Source(url=f"{server.url}/w"), target, policy=HURRIED)
    assert time.monotonic() - began < 8
    assert len(server.ranges) == 2
    assert not target.exists()


def test_10b_a_byte_per_attempt_is_no_progress(server: Server, target: Path) -> None:
    policy = RetryPolicy(num_attempts=4, backoff_s=0.01)
    server.does(lambda h, n: h.serve(send=1))
    with pytest.raises(CheckpointError, match="4 attempts"):
        download(Source(url=f"{server.url}/w", sha256=SHA256), target, policy=policy)
    assert len(server.ranges) == 4


@pytest.mark.parametrize("known", [1000, None])
def test_11_a_body_without_end_stops_at_the_stated_length(
    server: Server, target: Path, monkeypatch: pytest.MonkeyPatch, known: int | None
) -> None:
    monkeypatch.setattr("ssl_vision.zoo.download._MOST_BYTES", 5_000_000)
    most = 0

    def endless(handler: Handler, _: int) -> None:
        nonlocal most
        handler.send_response(200)
        handler.end_headers()
        part = target.with_name("weights.pth.part")
        for _ in range(1000):
            handler.wfile.write(bytes(100_000))
            most = max(most, part.stat().st_size if part.exists() else 0)

    server.does(endless)
    with pytest.raises(CheckpointError, match=r"more than the (1|5,000),000 bytes of the file"):
        download(Source(url=f"{server.url}/w", num_bytes=known), target, policy=QUICK)
    assert names(target) == set()
    assert most <= (known or 5_000_000)


def test_11b_another_length_is_refused_before_the_body(server: Server, target: Path) -> None:
    sent = []

    def longer(handler: Handler, _: int) -> None:
        handler.serve(send=0, announce=10**12)
        with contextlib.suppress(OSError):
            for _ in range(100):
                handler.wfile.write(bytes(1 << 20))
                sent.append(1)

    server.does(longer)
    with pytest.raises(CheckpointError, match=r"1,000,000,000,000 bytes instead of 1,000"):
        download(Source(url=f"{server.url}/w", num_bytes=1000), target, policy=QUICK)
    assert len(sent) < 20
    assert names(target) == set()


@pytest.mark.parametrize("encoding", ["gzip", "br", "x"])
def test_12_encodings_not_asked_for_are_refused(
    server: Server, target: Path, encoding: str
) -> None:
    server.does(lambda h, n: h.fail(200, Content_Encoding=encoding))
    with pytest.raises(CheckpointError, match=f"encoded as '{encoding}'"):
        download(Source(url=f"{server.url}/w"), target, policy=QUICK)
    assert len(server.ranges) == 1


@pytest.mark.parametrize("to", ["file:///etc/hostname", "ftp://127.0.0.1:9/x", "data:,x"])
def test_13_redirects_lead_to_the_web_only(server: Server, target: Path, to: str) -> None:
    server.does(lambda h, n: h.fail(302, Location=to))
    with pytest.raises(CheckpointError, match=r"no web address|302"):
        download(Source(url=f"{server.url}/w"), target, policy=QUICK)
    assert names(target) <= {"weights.pth.part"}
    with pytest.raises(CheckpointError, match="only https, http and file"):
        download(Source(url="ftp://127.0.0.1:9/x"), target, policy=QUICK)


def test_13b_a_ring_of_redirects_has_an_end(server: Server, target: Path) -> None:
    server.does(lambda h, n: h.fail(302, Location=f"/{n}"))
    with pytest.raises(CheckpointError, match="status 302"):
        download(Source(url=f"{server.url}/w"), target, policy=QUICK)
    assert len(server.ranges) < 20


@pytest.mark.parametrize(
    "given",
    ["bytes 0-99/300", "bytes 1000-5/307200", "bytes 1000-307199/1000", "1000-307199/307200", "",
     "bytes 1000-1999/307200", "bytes \u00b2-3/4"],
)  # fmt: skip
def test_14_ranges_whose_numbers_are_wrong_are_started_over(
    server: Server, target: Path, given: str
) -> None:
    def behave(handler: Handler, number: int) -> None:
        if not handler.start_of_range():
            handler.serve()
            return
        handler.send_response(206)
        handler.send_header("Content-Range", given)
        handler.send_header("Content-Length", str(len(CONTENT) - 1000))
        handler.end_headers()
        handler.wfile.write(CONTENT[1000:])

    server.does(behave)
    target.parent.mkdir()
    target.with_name("weights.pth.part").write_bytes(CONTENT[:1000])
    download(Source(url=f"{server.url}/w"), target, policy=QUICK)
    assert target.read_bytes() == CONTENT
    assert server.ranges == ["bytes=1000-", None]


@pytest.mark.parametrize("tags", [('W/"a"', 'W/"b"'), ('"a"', '"b"')])
def test_15_a_tail_of_another_version_is_not_joined(
    server: Server, target: Path, tags: tuple[str, str]
) -> None:
    """A server that honours ranges and ignores If-Range."""

    def behave(handler: Handler, number: int) -> None:
        del handler.headers["If-Range"]
        server.state["etag"] = tags[number > 0]
        handler.serve(b"!" * len(CONTENT) if number == 0 else CONTENT,
                      send=200_000 if number == 0 else None)  # fmt: skip

    server.does(behave)
    download(Source(url=f"{server.url}/w"), target, policy=QUICK)
    assert target.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=200000-", None]


@pytest.mark.parametrize("content", ["[]", "1", '{"a": 1}', '{"a": {}}', "{", "\xff", "null"])
def test_16_a_damaged_table_of_hashes_is_one_line(
    server: Server, target: Path, content: str
) -> None:
    cache_home().mkdir(parents=True)
    (cache_home() / "known.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(CheckpointError, match=r"known\.json") as caught:
        download(Source(url=f"{server.url}/w"), target, policy=QUICK)
    assert "\n" not in str(caught.value)


def test_17_file_addresses_are_of_plain_files(tmp_path: Path, server: Server, target: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for url, reason in (((tmp_path / "pipe").as_uri(), "pipe"), ("file:///dev/zero", "device")):
        with pytest.raises(CheckpointError, match=f"cannot be read: .*{reason}"):
            download(Source(url=url), target, policy=QUICK)


def test_18_a_full_disk_is_no_fault_of_the_server(
    server: Server, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("ssl_vision.zoo.download._copy", full)
    with pytest.raises(CheckpointError, match=r"cannot write .*No space left"):
        download(Source(url=f"{server.url}/w"), target, policy=QUICK)
    assert len(server.ranges) == 1
