"""A store beyond the machine: S3, or what speaks like it, or Azure Blob.

What belongs here: objects there, in parts, read and put. What does not: which of them are brought
there (``offsite``), credentials (``keeping`` hands them over).

It never removes and never writes over, so a key that may put, get and list is enough: whoever takes
this machine can add to what is there, and not take away from it. A large object is put in parts of
their own, each in one request, so that what was broken off goes on at the part where it broke.
Whoever has the parts has the object: ``cat NAME NAME.part-*``.
"""

import itertools
import json
import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, BinaryIO, cast

import obstore
from obstore import exceptions
from obstore.store import ObjectStore, from_url

from rul_backup.streams import BLOCK_BYTES, Chunks
from rul_core.errors import SettingsError, StoreError, Unavailable

PART_BYTES = 16 * 1024 * 1024
SCHEMES = ("s3", "az", "gs")
_PART = re.compile(r"\.part-(\d{6})$")
RETRIES = 5
_OF_THE_CLIENT = frozenset(
    {
        "allow_http", "allow_invalid_certificates", "connect_timeout", "default_content_type",
        "http1_only", "http2_keep_alive_interval", "http2_keep_alive_timeout",
        "http2_keep_alive_while_idle", "http2_max_frame_size", "http2_only", "pool_idle_timeout",
        "pool_max_idle_per_host", "proxy_ca_certificate", "proxy_excludes", "proxy_url",
        "randomize_addresses", "timeout", "user_agent",
    }
)  # fmt: skip
"""Options of how a store is spoken to; ``obstore`` panics where it is told them as the store's."""
_TIMEOUT = timedelta(minutes=5)
"""Of one request; the largest is a part, which a line of half a megabit takes so long for."""


class RemoteStore:
    """A store that is reached over the network.

    Args:
        objects: Where they lie.
        place: How that is called, without credentials.
    """

    def __init__(self, objects: ObjectStore, place: str) -> None:
        self._objects, self._place = objects, place

    @classmethod
    def at(cls, url: str, options: str) -> "RemoteStore":
        """The store of an address.

        Args:
            url: ``s3://bucket/prefix`` or ``az://container/prefix``.
            options: JSON: ``endpoint``, ``region``, ``access_key_id``, ``secret_access_key``, or
                ``account_name`` and ``account_key``, and what else ``obstore`` knows of a store;
                ``authority``, the certificate (PEM) of who vouches for its server, where no public
                one does; ``allow_http``, ``proxy_url`` and the like, of how it is spoken to.

        Raises:
            SettingsError: The address or an option is none.
        """
        if url.partition("://")[0] not in SCHEMES:
            raise SettingsError(
                f"RUL_BACKUP_OFFSITE={url!r} is no place for backups; give s3://bucket/prefix or "
                "az://container/prefix"
            )
        try:
            told = json.loads(options or "{}")
            config = {str(name): str(value) for name, value in told.items()}
            authority = config.pop("authority", None)
            client = {name: config.pop(name) for name in _OF_THE_CLIENT & config.keys()}
            for name, value in config.items():
                if (
                    "endpoint" in name
                    and value.startswith("http://")
                    and "allow_http" not in client
                ):
                    raise ValueError(
                        f"{name} is {value}, without TLS; give https://, or allow_http where the "
                        "store is of your own network"
                    )
            trusted = {} if authority is None else {"root_certificate": authority}
            objects = from_url(
                url,
                config=cast("Any", config),
                client_options=cast("Any", {"timeout": _TIMEOUT, **trusted, **client}),
                retry_config={"max_retries": RETRIES, "retry_timeout": 2 * _TIMEOUT},
            )
        except (ValueError, AttributeError, exceptions.BaseError) as error:
            raise SettingsError(
                f"RUL_BACKUP_OFFSITE_OPTIONS cannot be used for {url}: {_first_line(error)}; give "
                'JSON such as {"access_key_id": "…", "secret_access_key": "…"}'
            ) from None
        return cls(objects, url)

    def __str__(self) -> str:
        return self._place

    @contextmanager
    def reading(self, name: str) -> Generator[BinaryIO]:
        """See ``Shelf``."""
        yield cast("BinaryIO", Chunks(self._content(name)))

    def sizes(self, below: str = "") -> dict[str, int]:
        """See ``Shelf``. Of an object of which parts are missing, what is there."""
        found: dict[str, int] = {}
        for path, size in self._listed(below):
            name = _PART.sub("", path)
            found[name] = found.get(name, 0) + size
        return found

    def bring(self, name: str, content: BinaryIO, size: int) -> int:
        """Put an object that may be there in part; give the bytes that went over the network.

        Args:
            name: Of the object.
            content: All of it, from its beginning.
            size: Its bytes.

        Raises:
            StoreError: The store refuses, or has something else under the name.
            Unavailable: It does not answer.
        """
        sent = 0
        for number in itertools.count():
            part = content.read(PART_BYTES)
            if number and not part:
                return sent
            path = name if size <= PART_BYTES else _part_of(name, number)
            there = self._size(path)
            if there is None:
                with self._telling(path):
                    obstore.put(self._objects, path, part, use_multipart=False)
                sent += len(part)
            elif there != len(part):
                raise StoreError(
                    f"{self}/{path} has {there:,} bytes where {len(part):,} belong; it is not "
                    "written over: look who put it there, and remove it there"
                )
        raise AssertionError("a count has no end")

    # A folder has a hundred thousand objects after some months, and stores list a thousand at a
    # time; so objects whose names are known are asked for, and never looked up in a list.
    def _content(self, name: str) -> Iterator[bytes]:
        """Of an object, or of its parts up to the first that is not there."""
        whole = self._chunks(name)
        if whole is not None:
            yield from whole
            return
        for number in itertools.count():
            part = self._chunks(_part_of(name, number))
            if part is not None:
                yield from part
            elif number:
                return
            else:
                raise StoreError(f"{self}/{name} is not there")

    def _chunks(self, path: str) -> Iterator[bytes] | None:
        """What is under a path; none where nothing is."""
        with self._telling(path):
            try:
                found = obstore.get(self._objects, path)
            except FileNotFoundError:
                return None
        return self._streamed(path, found)

    def _streamed(self, path: str, found: "obstore.GetResult") -> Iterator[bytes]:
        with self._telling(path):
            for chunk in found.stream(min_chunk_size=BLOCK_BYTES):
                yield bytes(chunk)

    def _size(self, path: str) -> int | None:
        """Of what is under a path; none where nothing is."""
        with self._telling(path):
            try:
                return obstore.head(self._objects, path)["size"]
            except FileNotFoundError:
                return None

    def _listed(self, below: str) -> list[tuple[str, int]]:
        """Objects whose names begin so; stores themselves list folders alone."""
        folder = below.rpartition("/")[0]
        with self._telling(below):
            return [
                (str(one["path"]), int(one["size"]))
                for batch in obstore.list(self._objects, prefix=folder or None)
                for one in batch
                if str(one["path"]).startswith(below)
            ]

    @contextmanager
    def _telling(self, path: str) -> Generator[None]:
        """Say what goes wrong in words of our own."""
        where = f"{self}/{path}".rstrip("/")
        try:
            yield
        except FileNotFoundError as error:
            raise StoreError(f"{where} is not there") from error
        except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
            raise self._refused(where, error) from error
        except (exceptions.BaseError, OSError) as error:
            if re.search(r"status code: 40[13]\b", _first_line(error)):  # of a listing
                raise self._refused(where, error) from error
            raise Unavailable(
                f"{where} cannot be reached: {_first_line(error)}; see that RUL_BACKUP_OFFSITE and "
                "its endpoint are right and the network is there, then try again"
            ) from error

    @staticmethod
    def _refused(where: str, error: Exception) -> StoreError:
        return StoreError(
            f"{where} is refused: {_first_line(error)}; see that the key of "
            "RUL_BACKUP_OFFSITE_OPTIONS may put, get and list there"
        )


def _part_of(name: str, number: int) -> str:
    return f"{name}.part-{number:06d}"


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:500]
