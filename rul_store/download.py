"""Getting the C-MAPSS data set from where NASA keeps it.

What belongs here: the download that resumes, the archive inside the archive, the checks. What does
not: reading the files (``rul_core.readers``), fleets made of them.

Cite: A. Saxena, K. Goebel, D. Simon, N. Eklund, "Damage Propagation Modeling for Aircraft Engine
Run-to-Failure Simulation", PHM 2008.

A download that breaks is taken up where it broke, also by a later call: what has come stands in
``.cmapss.zip.part``, and beside it which version of the archive it is of. A server that knows no
ranges, or has another version by now, gives it anew from the start. Files are put in their places
only when all of them have the known SHA-256.
"""

import http.client
import os
import re
import ssl
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import IO, NamedTuple

import msgspec

from rul_core.errors import StoreError, Unavailable
from rul_store import files
from rul_store.archives import CHUNK_BYTES, Limits, Progress, Search

CMAPSS_URL = (
    "https://phm-datasets.s3.amazonaws.com/NASA/"
    "6.+Turbofan+Engine+Degradation+Simulation+Data+Set.zip"
)
REPOSITORY = (
    "https://www.nasa.gov/intelligent-systems-division/discovery-and-systems-health/pcoe/"
    "pcoe-data-set-repository/"
)
CMAPSS_SHA256 = {
    "train_FD001.txt": "963b5e22825b34d8b21c69e1aeb4af3e647050eb672ee8834ba4b5d91d2de0f8",
    "train_FD002.txt": "dac6c4dbc4e7c1bdeb5747da3d313d05c395bb99801b44a002b26a2ba13d788f",
    "train_FD003.txt": "2abbe9968cc5e8eb091980f51b20f62bb4127336d3482cb52071d53bf23329e2",
    "train_FD004.txt": "27ef6160b6a1dcb2613a88de9c239f763b223f02cdc41dc5cdedc5dc189b6218",
    "test_FD001.txt": "3cda7109ce17bafb5443f2ac926cfcf88154b941b8c4cf95eb55d1ddd6f52851",
    "test_FD002.txt": "de7b5bf7e998a985c378488480528b7c02cff1406a46740def362dda8d9b4e02",
    "test_FD003.txt": "299babd63c8d987cef079c4a425429f33b3a34797d803bbe2ad48c29dbd0d790",
    "test_FD004.txt": "1dc675fff0624bac10786927c6715b37d1297657137400d2b1a3138d777a3ba5",
    "RUL_FD001.txt": "a19c8ec94931949d0485bdc35118206e9c81c4547b422efb9cf86f4ceddbceca",
    "RUL_FD002.txt": "c851dd96a6ea6998d3c4a8f834d3c8013aa90e93a6ed950dc826ad0655b2906b",
    "RUL_FD003.txt": "df1e0566306b174a2de41c67a3e7a51877889598b78643fc3e5685259091b7cb",
    "RUL_FD004.txt": "196b836b85a95ac7fdbbf29c5fdf1657382eafa445644d114ffaaf50dc2975e1",
}

PART = ".cmapss.zip.part"


def silent(what: str, done_bytes: int, total_bytes: int | None) -> None:
    """Progress that nobody watches."""


class Fetched(msgspec.Struct, frozen=True, kw_only=True):
    """What a fetch did."""

    folder: Path
    fetched: tuple[str, ...]
    """Files that were put there."""
    kept: tuple[str, ...]
    """Files that were there already, with the right checksum."""
    set_aside: tuple[str, ...]
    """Names under which files of the same name and other content are kept."""


def fetch_cmapss(
    folder: Path,
    *,
    url: str = CMAPSS_URL,
    sums: Mapping[str, str] = CMAPSS_SHA256,
    progress: Progress = silent,
    attempts: int = 5,
    timeout_seconds: float = 30.0,
    pause_seconds: float = 1.0,
    limits: Limits = Limits(),  # noqa: B008 (it is frozen)
) -> Fetched:
    """Have all files of the data set in the folder.

    Args:
        folder: Where to; made if missing. With all files in place nothing is done.
        url: Of the archive: ``http``, ``https``, or ``file`` for one that was downloaded by hand.
        sums: SHA-256 by file name.
        progress: Told of the download and the unpacking.
        attempts: How often in a row nothing may come before giving up.
        timeout_seconds: Without a byte.
        pause_seconds: After the first vain attempt; doubled after each further one.
        limits: Of what an archive may hold.

    Raises:
        Unavailable: The server does not answer or breaks off; the same call goes on from there.
        StoreError: The address gives something else, a file has another checksum, another process
            is fetching into the folder, or the folder cannot be written.
    """
    try:
        files.make_folder(folder)
        files.sweep(folder)
        kept = tuple(name for name in sums if _is(folder / name, sums[name]))
        wanted = {name: sums[name] for name in sums if name not in kept}
        if not wanted:
            return Fetched(folder=folder, fetched=(), kept=kept, set_aside=())
        with (folder / PART).open("ab") as part:
            if not files.try_lock(part.fileno()):
                raise StoreError(f"another process is fetching into {folder}; wait for its end")
            link = _Link(url, folder, tuple(sums), attempts, timeout_seconds, pause_seconds, limits)
            try:
                archive = _local(link)
                if archive is None:
                    _download(link, part, progress)
                set_aside = _unpack(archive or folder / PART, link, wanted, progress)
            except (Unavailable, OSError):
                # What came is taken up by the next call.
                if not part.seek(0, os.SEEK_END):
                    _discard(folder)
                raise
            except StoreError:
                _discard(folder)
                raise
            _discard(folder)
    except OSError as error:
        raise StoreError(
            f"{folder}: {error}; give a folder that can be written, with 100 MiB free"
        ) from error
    return Fetched(folder=folder, fetched=tuple(wanted), kept=kept, set_aside=set_aside)


class _Link(NamedTuple):
    """An address, and how patient to be with it."""

    url: str
    folder: Path
    names: tuple[str, ...]
    attempts: int
    timeout_seconds: float
    pause_seconds: float
    limits: Limits

    @property
    def remedy(self) -> str:
        """What a person can do instead."""
        return (
            "either give another address with --url (file:///… for an archive that you downloaded "
            "with a browser: 'Turbofan Engine Degradation Simulation' in NASA's repository, "
            f"{REPOSITORY}), or put the files {', '.join(self.names)} into {self.folder} yourself"
        )


class _Broken(Exception):
    """A transfer that may succeed when it is taken up again."""


_TRANSIENT = (
    _Broken,
    urllib.error.URLError,
    http.client.HTTPException,
    ConnectionError,
    TimeoutError,
    ssl.SSLError,
)
"""What goes wrong between here and there; a full disk is not among them."""


class _Version(msgspec.Struct, frozen=True):
    """Which archive the part is of."""

    url: str
    validator: str
    """Its strong ETag, else its date."""


def _local(link: _Link) -> Path | None:
    """The archive itself, when the address is that of a file."""
    parts = urllib.parse.urlsplit(link.url)
    if parts.scheme in {"http", "https"} and parts.netloc:
        return None
    if parts.scheme != "file":
        raise StoreError(f"{link.url!r} is no address; begin it with https://, http:// or file://")
    path = Path(urllib.request.url2pathname(parts.path))
    if not path.is_file():
        raise StoreError(f"there is no file {path}; {link.remedy}")
    return path


def _discard(folder: Path) -> None:
    (folder / PART).unlink(missing_ok=True)
    _version(folder).unlink(missing_ok=True)


def _is(path: Path, sha256: str) -> bool:
    return path.is_file() and files.sha256_of(path) == sha256


# --- the download ---------------------------------------------------------------------------------


def _download(link: _Link, part: IO[bytes], progress: Progress) -> None:
    """Append to the part until the archive is whole."""
    vain = 0
    while True:
        before = part.tell()
        try:
            return _transfer(link, part, progress)
        except _TRANSIENT as error:
            if isinstance(error, urllib.error.HTTPError):
                error.close()
                if _is_final(error.code):
                    raise StoreError(f"{link.url} says {error}; {link.remedy}") from error
            part.seek(0, os.SEEK_END)
            vain = 0 if part.tell() > before else vain + 1
            if vain >= link.attempts:
                raise Unavailable(
                    f"{link.url} gave nothing in {vain} attempts ({error}). The same call goes on "
                    f"from the {part.tell()} bytes that came. Else {link.remedy}"
                ) from error
            time.sleep(link.pause_seconds * 2 ** max(vain - 1, 0))


def _is_final(status: int) -> bool:
    """Whether asking again is vain: a client's error, but for too many requests and timeouts."""
    return 400 <= status < 500 and status not in {408, 425, 429}


def _transfer(link: _Link, part: IO[bytes], progress: Progress) -> None:
    """One request; gives when the part is whole."""
    start = part.seek(0, os.SEEK_END)
    known = _read_version(link.folder)
    headers = {"User-Agent": "rul-platform", "Accept-Encoding": "identity"}
    if start and known and known.url == link.url:
        headers |= {"Range": f"bytes={start}-", "If-Range": known.validator}
    request = urllib.request.Request(link.url, headers=headers)  # noqa: S310 (_local saw the scheme)
    try:
        answer = urllib.request.urlopen(request, timeout=link.timeout_seconds)  # noqa: S310
    except urllib.error.HTTPError as error:
        if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        error.close()
        # The part is as long as the archive, or longer: it may be whole, the checksums will tell.
        if error.headers.get("Content-Range") == f"bytes */{start}":
            return
        _forget(part, link.folder)
        raise _Broken("the part is longer than the archive") from error
    with answer:
        resumed = answer.status == http.client.PARTIAL_CONTENT
        if resumed:
            total = _total_of_range(answer.headers.get("Content-Range", ""), start)
        else:
            _forget(part, link.folder)
            start = 0
            length = answer.headers.get("Content-Length", "")
            total = int(length) if length.isdigit() else None
            _remember(link, answer.headers)
        if total is not None and total > link.limits.archive_bytes:
            raise StoreError(f"{link.url} has {total} bytes: too many; {link.remedy}")
        done = start
        progress("download", done, total)
        while chunk := answer.read(CHUNK_BYTES):
            part.write(chunk)
            done += len(chunk)
            progress("download", done, total)
            if done > link.limits.archive_bytes:
                _forget(part, link.folder)
                raise StoreError(f"{link.url} gives more than {done} bytes; {link.remedy}")
        part.flush()
    if total is not None and done < total:
        raise _Broken(f"the connection broke after {done} of {total} bytes")


def _total_of_range(content_range: str, start: int) -> int | None:
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", content_range)
    if not match or int(match[1]) != start:
        raise _Broken(f"asked for bytes from {start}, got {content_range!r}")
    return None if match[2] == "*" else int(match[2])


def _forget(part: IO[bytes], folder: Path) -> None:
    part.seek(0)
    part.truncate()
    _version(folder).unlink(missing_ok=True)


def _version(folder: Path) -> Path:
    return folder / f"{PART}.json"


def _remember(link: _Link, headers: Mapping[str, str]) -> None:
    etag = headers.get("ETag", "")
    # A weak tag does not promise the same bytes (RFC 9110, 8.8.1).
    validator = headers.get("Last-Modified", "") if etag.startswith("W/") or not etag else etag
    if validator:
        files.write_json(_version(link.folder), _Version(link.url, validator))


def _read_version(folder: Path) -> _Version | None:
    try:
        return msgspec.json.decode(_version(folder).read_bytes(), type=_Version)
    except (FileNotFoundError, msgspec.DecodeError):
        return None  # then the part is of nobody knows what, and the download begins anew


# --- the archive ----------------------------------------------------------------------------------


def _unpack(
    archive: Path, link: _Link, wanted: Mapping[str, str], progress: Progress
) -> tuple[str, ...]:
    """Put the wanted files in their places; gives the names of files that were in the way."""
    folder = link.folder
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-", suffix=".tmp") as staging:
        search = Search(Path(staging), dict(wanted), link.limits, progress)
        try:
            search.run(archive)
        except StoreError as error:
            raise StoreError(f"what {link.url} gave: {error}; {link.remedy}") from error
        if search.missing:
            said = "; ".join(
                f"{name} has sha256 {search.other[name]} where {sha256} is known"
                if name in search.other
                else f"{name} is not in the archive"
                for name, sha256 in search.missing.items()
            )
            raise StoreError(f"{said}. Nothing was put in place; {link.remedy}")
        set_aside = []
        for name in wanted:
            target = folder / name
            if target.exists():
                set_aside.append(_set_aside(target))
            with files.replacing(target) as temporary:
                Path(staging, name).replace(temporary)
        return tuple(set_aside)


def _set_aside(target: Path) -> str:
    number = 1
    while (aside := target.with_name(f"{target.name}.set-aside-{number}")).exists():
        number += 1
    target.rename(aside)
    return aside.name
