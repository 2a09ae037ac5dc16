"""The data set comes whole and checked, or what to do instead is said."""

import hashlib
import io
import os
import re
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from rul_core.errors import StoreError, Unavailable
from rul_store import download
from rul_store.archives import Limits, Progress
from rul_store.download import CMAPSS_SHA256, Fetched, fetch_cmapss

FILES = {
    "train_FD001.txt": b"1 1 0.5 641.82\n" * 4000,
    "test_FD001.txt": bytes(range(256)) * 50,
    "RUL_FD001.txt": b"112\n98\n",
}
SUMS = {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}


def zipped(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


INNER = zipped({"readme.txt": b"hello", **FILES})
ARCHIVE = zipped({"6. Turbofan/": b"", "6. Turbofan/CMAPSSData.zip": INNER, "note.txt": b"x"})


class Server(ThreadingHTTPServer):
    """Serves one archive; the switches say how badly."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = ARCHIVE
        self.validators = {"ETag": '"one"'}
        self.knows_ranges = True
        self.says_length = True
        self.shifts_ranges = 0
        self.breaks_after: list[int] = []
        """Bytes of a body before the connection breaks, request by request."""
        self.statuses: list[int] = []
        """Answered instead, request by request."""
        self.ranges: list[str | None] = []
        """The Range that each request asked for."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/cmapss.zip"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, Server)
        asked = self.headers.get("Range")
        server.ranges.append(asked)
        if server.statuses and (status := server.statuses.pop(0)) != 200:
            self.send_error(status)
            return
        start = 0
        validator = self.headers.get("If-Range")
        if asked and server.knows_ranges and validator in server.validators.values():
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
        if start and start >= len(server.content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(server.content)}")
            self.end_headers()
            return
        body = server.content[start:]
        self.send_response(206 if start else 200)
        if start:
            size, begins = len(server.content), start + server.shifts_ranges
            self.send_header("Content-Range", f"bytes {begins}-{size - 1}/{size}")
        for name, value in server.validators.items():
            self.send_header(name, value)
        if server.says_length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if server.breaks_after:
            body = body[: server.breaks_after.pop(0)]
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def fetch(
    folder: Path,
    url: str,
    *,
    progress: Progress = download.silent,
    attempts: int = 3,
    limits: Limits = Limits(),  # noqa: B008
) -> Fetched:
    return fetch_cmapss(
        folder,
        url=url,
        sums=SUMS,
        progress=progress,
        attempts=attempts,
        timeout_seconds=5,
        pause_seconds=0,
        limits=limits,
    )


def everything_is_there(folder: Path) -> bool:
    return {path.name: path.read_bytes() for path in folder.iterdir()} == FILES


def test_an_archive_in_an_archive_is_fetched_checked_and_nothing_else_is_left(
    tmp_path: Path, server: Server
):
    told = []
    folder = tmp_path / "new" / "data"
    found = fetch(folder, server.url, progress=lambda *step: told.append(step))
    assert found == Fetched(folder=folder, fetched=tuple(FILES), kept=(), set_aside=())
    assert everything_is_there(folder)
    assert ("download", len(ARCHIVE), len(ARCHIVE)) in told
    assert ("unpack train_FD001.txt", 60_000, 60_000) in told


def test_a_complete_folder_asks_nobody(tmp_path: Path, server: Server):
    fetch(tmp_path, server.url)
    again = fetch(tmp_path, server.url)
    assert (again.fetched, again.kept) == ((), tuple(FILES))
    assert len(server.ranges) == 1


def test_only_what_is_missing_is_put_in_place_and_other_content_is_kept_aside(
    tmp_path: Path, server: Server
):
    (tmp_path / "RUL_FD001.txt").write_bytes(FILES["RUL_FD001.txt"])
    untouched = (tmp_path / "RUL_FD001.txt").stat().st_mtime_ns
    (tmp_path / "test_FD001.txt").write_text("mine")
    (tmp_path / "test_FD001.txt.set-aside-1").write_text("mine of old")
    found = fetch(tmp_path, server.url)
    assert found.fetched == ("train_FD001.txt", "test_FD001.txt")
    assert found.kept == ("RUL_FD001.txt",)
    assert found.set_aside == ("test_FD001.txt.set-aside-2",)
    assert (tmp_path / "test_FD001.txt.set-aside-2").read_text() == "mine"
    assert (tmp_path / "test_FD001.txt").read_bytes() == FILES["test_FD001.txt"]
    assert (tmp_path / "RUL_FD001.txt").stat().st_mtime_ns == untouched


# --- broken connections ---------------------------------------------------------------------------


@pytest.mark.parametrize("validators", [{"ETag": '"one"'}, {"Last-Modified": "Sun, 01 Mar 2026"}])
def test_a_broken_connection_is_taken_up_where_it_broke(
    tmp_path: Path, server: Server, validators: dict[str, str]
):
    server.validators = validators
    server.breaks_after = [1000, 5000]
    fetch(tmp_path, server.url)
    assert everything_is_there(tmp_path)
    assert server.ranges == [None, "bytes=1000-", "bytes=6000-"]


def test_a_later_call_goes_on_from_there(tmp_path: Path, server: Server):
    server.breaks_after = [1000, 0, 0, 0]
    with pytest.raises(Unavailable, match="goes on from the 1000 bytes that came"):
        fetch(tmp_path, server.url)
    fetch(tmp_path, server.url)
    assert everything_is_there(tmp_path)
    assert server.ranges[-1] == "bytes=1000-"


def test_bytes_that_come_renew_the_patience(tmp_path: Path, server: Server):
    server.breaks_after = [100] * 10
    fetch(tmp_path, server.url, attempts=2)
    assert everything_is_there(tmp_path)


def test_a_part_that_was_whole_when_the_process_was_killed_is_used(tmp_path: Path, server: Server):
    server.breaks_after = [1000, 0, 0, 0]
    with pytest.raises(Unavailable):
        fetch(tmp_path, server.url)
    (tmp_path / download.PART).write_bytes(ARCHIVE)
    fetch(tmp_path, server.url)
    assert everything_is_there(tmp_path)
    assert server.ranges[-1] == f"bytes={len(ARCHIVE)}-"


def test_a_part_longer_than_the_archive_is_begun_anew(tmp_path: Path, server: Server):
    server.breaks_after = [1000, 0, 0, 0]
    with pytest.raises(Unavailable):
        fetch(tmp_path, server.url)
    (tmp_path / download.PART).write_bytes(ARCHIVE + b"more")
    fetch(tmp_path, server.url)
    assert everything_is_there(tmp_path)
    assert server.ranges[-1] is None


def test_a_server_without_ranges_gives_it_anew(tmp_path: Path, server: Server):
    server.knows_ranges = False
    server.breaks_after = [1000]
    fetch(tmp_path, server.url)
    assert everything_is_there(tmp_path)


def test_a_server_without_ranges_that_always_breaks_is_given_up(tmp_path: Path, server: Server):
    server.knows_ranges = False
    server.breaks_after = [1000] * 20
    with pytest.raises(Unavailable, match="3 attempts"):
        fetch(tmp_path, server.url)
    assert len(server.ranges) == 4


@pytest.mark.parametrize("validators", [{}, {"ETag": 'W/"weak"'}])
def test_without_a_strong_validator_nothing_is_resumed(
    tmp_path: Path, server: Server, validators: dict[str, str]
):
    server.validators = validators
    server.breaks_after = [1000]
    fetch(tmp_path, server.url)
    assert everything_is_there(tmp_path)
    assert server.ranges == [None, None]


def test_another_version_of_the_archive_is_not_mixed_with_the_first(tmp_path: Path, server: Server):
    server.breaks_after = [1000, 0, 0, 0]
    with pytest.raises(Unavailable):
        fetch(tmp_path, server.url)
    server.content = zipped({"a.txt": b"x" * 3000, **FILES})
    server.validators = {"ETag": '"two"'}
    fetch(tmp_path, server.url)
    assert everything_is_there(tmp_path)


def test_the_part_of_another_address_is_not_resumed(tmp_path: Path, server: Server):
    server.breaks_after = [1000, 0, 0, 0]
    with pytest.raises(Unavailable):
        fetch(tmp_path, server.url)
    fetch(tmp_path, server.url + "?mirror")
    assert everything_is_there(tmp_path)
    assert server.ranges[-1] is None


def test_a_record_of_the_part_that_cannot_be_read_means_a_new_start(tmp_path: Path, server: Server):
    (tmp_path / download.PART).write_bytes(b"some")
    (tmp_path / f"{download.PART}.json").write_text("{half")
    fetch(tmp_path, server.url)
    assert everything_is_there(tmp_path)
    assert server.ranges == [None]


def test_a_range_that_was_not_asked_for_is_not_believed(tmp_path: Path, server: Server):
    server.breaks_after = [1000]
    server.shifts_ranges = 1
    with pytest.raises(Unavailable, match=r"asked for bytes from 1000, got 'bytes 1001-"):
        fetch(tmp_path, server.url)
    server.shifts_ranges = 0
    fetch(tmp_path, server.url)
    assert everything_is_there(tmp_path)


def test_without_a_stated_length_the_end_of_the_body_is_the_end(tmp_path: Path, server: Server):
    server.says_length = False
    fetch(tmp_path, server.url)
    assert everything_is_there(tmp_path)


def test_a_server_that_is_busy_is_asked_again(tmp_path: Path, server: Server):
    server.statuses = [503, 429, 200]
    fetch(tmp_path, server.url)
    assert everything_is_there(tmp_path)
    assert len(server.ranges) == 3


def test_nobody_at_the_address_says_so_after_some_attempts(tmp_path: Path, server: Server):
    nobody = Server()
    nobody.server_close()
    with pytest.raises(Unavailable, match=r"3 attempts .*refused.* --url .*train_FD001\.txt"):
        fetch(tmp_path, nobody.url)
    assert list(tmp_path.iterdir()) == []


# --- wrong content --------------------------------------------------------------------------------


def test_a_dead_link_says_what_to_do_and_is_not_asked_again(tmp_path: Path, server: Server):
    server.statuses = [404, 404]
    with pytest.raises(StoreError) as caught:
        fetch(tmp_path, server.url)
    message = str(caught.value)
    for told in (server.url, "404", "--url", "nasa.gov", "RUL_FD001.txt", str(tmp_path)):
        assert told in message
    assert len(server.ranges) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_page_instead_of_an_archive_says_what_to_do(tmp_path: Path, server: Server):
    server.content = b"<html>We have moved</html>"
    with pytest.raises(StoreError, match=r"no sound ZIP archive.*--url"):
        fetch(tmp_path, server.url)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_checksum_is_named_and_nothing_is_put_in_place(tmp_path: Path, server: Server):
    server.content = zipped({**FILES, "test_FD001.txt": b"other"})
    with pytest.raises(StoreError) as caught:
        fetch(tmp_path, server.url)
    assert f"test_FD001.txt has sha256 {hashlib.sha256(b'other').hexdigest()}" in str(caught.value)
    assert SUMS["test_FD001.txt"] in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    server.content = ARCHIVE
    fetch(tmp_path, server.url)
    assert everything_is_there(tmp_path)
    assert server.ranges == [None, None]


def test_a_file_that_is_not_in_the_archive_is_named(tmp_path: Path, server: Server):
    server.content = zipped({name: FILES[name] for name in FILES if name != "RUL_FD001.txt"})
    with pytest.raises(StoreError, match=r"RUL_FD001\.txt is not in the archive"):
        fetch(tmp_path, server.url)


def test_of_two_files_of_a_name_the_right_one_is_taken(tmp_path: Path, server: Server):
    server.content = zipped({"old/RUL_FD001.txt": b"9\n", **FILES, "x/RUL_FD001.txt": b"8\n"})
    fetch(tmp_path, server.url)
    assert everything_is_there(tmp_path)


def test_paths_in_the_archive_lead_nowhere(tmp_path: Path, server: Server):
    names = ("../../train_FD001.txt", "/etc/test_FD001.txt", "a/../../../RUL_FD001.txt")
    server.content = zipped(
        {"../evil.txt": b"evil", **dict(zip(names, FILES.values(), strict=True))}
    )
    folder = tmp_path / "deep" / "data"
    fetch(folder, server.url)
    assert everything_is_there(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["data"]


def test_an_archive_too_deep_too_full_or_too_large_is_refused(tmp_path: Path, server: Server):
    with pytest.raises(StoreError, match="is not in the archive"):
        fetch(tmp_path, server.url, limits=Limits(depth=1))
    with pytest.raises(StoreError, match="has 3 members: too many"):
        fetch(tmp_path, server.url, limits=Limits(members=2))
    with pytest.raises(StoreError, match=r"train_FD001\.txt .* unpacks to over 50000 bytes"):
        fetch(tmp_path, server.url, limits=Limits(file_bytes=50_000))
    small = Limits(archive_bytes=10_000)
    with pytest.raises(StoreError, match=f"has {len(ARCHIVE)} bytes: too many"):
        fetch(tmp_path, server.url, limits=small)
    server.says_length = False
    with pytest.raises(StoreError, match="gives more than"):
        fetch(tmp_path, server.url, limits=small)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_or_encrypted_member_is_refused(tmp_path: Path, server: Server):
    damaged = bytearray(zipped(FILES))
    at = damaged.index(b"641.82")
    damaged[at] ^= 1
    server.content = bytes(damaged)
    with pytest.raises(StoreError, match=r"no sound ZIP archive.*CRC"):
        fetch(tmp_path, server.url)

    locked = bytearray(zipped({"train_FD001.txt": b"secret"}))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        locked[locked.index(signature) + offset] |= 1
    server.content = bytes(locked)
    with pytest.raises(StoreError, match="encrypted"):
        fetch(tmp_path, server.url)


# --- addresses and folders ------------------------------------------------------------------------


def test_an_archive_that_was_downloaded_by_hand_is_taken_and_left_where_it_is(tmp_path: Path):
    archive = tmp_path / "by hand.zip"
    archive.write_bytes(ARCHIVE)
    fetch(tmp_path / "data", archive.as_uri())
    assert everything_is_there(tmp_path / "data")
    assert archive.read_bytes() == ARCHIVE


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("ftp://example.org/a.zip", "begin it with https://"),
        ("downloads/a.zip", "begin it with https://"),
        ("https://", "begin it with https://"),
        ("file:///no/such/file.zip", "there is no file /no/such/file.zip; either"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused(tmp_path: Path, url: str, said: str):
    with pytest.raises(StoreError, match=re.escape(said)):
        fetch(tmp_path, url)
    assert list(tmp_path.iterdir()) == []


def test_two_processes_do_not_fetch_into_one_folder(tmp_path: Path, server: Server):
    errors = []

    def meanwhile(what: str, done: int, total: int | None) -> None:
        if not errors:
            with pytest.raises(StoreError, match="another process is fetching") as caught:
                fetch(tmp_path, server.url)
            errors.append(caught.value)

    fetch(tmp_path, server.url, progress=meanwhile)
    assert len(errors) == 1
    assert everything_is_there(tmp_path)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, server: Server):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StoreError, match="give a folder that can be written"):
        fetch(tmp_path / "file", server.url)


def test_what_a_killed_fetch_left_is_swept_in_time(tmp_path: Path, server: Server):
    left = tmp_path / ".fetch-abc.tmp"
    left.mkdir()
    (left / "train_FD001.txt").write_text("half")
    os.utime(left, (0, 0))
    fetch(tmp_path, server.url)
    assert everything_is_there(tmp_path)


def test_the_known_checksums_are_of_the_twelve_files():
    assert sorted(CMAPSS_SHA256) == sorted(
        f"{kind}_FD00{subset}.txt" for kind in ("train", "test", "RUL") for subset in range(1, 5)
    )
    assert all(re.fullmatch("[0-9a-f]{64}", sha256) for sha256 in CMAPSS_SHA256.values())
    assert len(set(CMAPSS_SHA256.values())) == 12


def test_a_full_disk_is_no_reason_to_ask_the_server_again(tmp_path: Path, server: Server):
    def full(what: str, done: int, total: int | None) -> None:
        if done:
            raise OSError(28, "No space left on device")

    with pytest.raises(StoreError, match="No space left"):
        fetch(tmp_path, server.url, progress=full)
    assert len(server.ranges) == 1
