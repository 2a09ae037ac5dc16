"""What the assets materialise: many Parquet files that appear, and are replaced, as one.

What belongs here: writing, adding to, scanning and checking tables under ``lake/``. What does not:
what the tables hold, when they are made (``rul_assets``).

A run writes its shards into a folder of its own, which never changes again, and then replaces
``current.json``, which names every shard of the table with its checksum. So a run that is killed at
any moment leaves the old table or the new one; what it wrote for nothing is swept a day later::

    lake/<asset>/<fleet>/current.json
    lake/<asset>/<fleet>/<run>-<random>/part-00000.parquet
    lake/<asset>/<fleet>/<run>-<random>/beside-<name>.parquet

What a run found out while it wrote the table, such as the rows that it left out, stands beside the
shards and is named by the same ``current.json``: both are of one run, always.

Two writers are told apart by tickets, numbers that only grow, given out under a file lock. A
``write`` whose ticket is older than the table's is refused: it began before what stands there now
(a run given up for dead that woke up). An ``append`` adds to whatever stands there, under the same
lock, with a new ticket; so no append is lost, neither to another nor to a ``write`` that began
before it. A file lock and not PostgreSQL's: the lake works without a database, and all who write
it share its file system anyway.
"""

import shutil
import time
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import msgspec
import polars as pl

from rul_core.errors import StoreError, Unavailable
from rul_store import files
from rul_store.lake_table import Run, Shard, Table, nothing

FOLDER, CURRENT = "lake", "current.json"
KEPT_STATES = 2
"""How many earlier states keep their files, for readers that began before the last write."""

Frame = pl.DataFrame | pl.LazyFrame
Beside = Callable[[], Mapping[str, Frame]]
"""Gives further frames by name, once the shards are written."""


@contextmanager
def lake_needed() -> Generator[None]:
    """Where nothing right can be said without the lake, what is wrong with it is Unavailable."""
    try:
        yield
    except Unavailable:
        raise
    except StoreError as error:
        raise Unavailable(str(error)) from error


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """What one call wrote."""

    rows: int
    files: int
    bytes: int
    path: Path
    new: bool = True
    """False when the same run was appended before, and nothing changed."""


class Lake:
    """The tables under one data root, one for each asset and fleet.

    Args:
        root: The data root.
        lock_timeout_seconds: How long to wait for another writer's last step.
    """

    def __init__(self, root: Path, *, lock_timeout_seconds: float = 30.0) -> None:
        self._root = root / FOLDER
        self._lock_timeout_seconds = lock_timeout_seconds

    def ticket(self, asset: str, fleet: str) -> int:
        """A number for a later ``write``, to be drawn before the run reads its input."""
        folder = self._folder(asset, fleet)
        with self._locked(folder):
            return _draw(folder, self._table(asset, fleet))

    def write(
        self,
        asset: str,
        fleet: str,
        run_id: str,
        shards: Frame | Iterable[Frame],
        *,
        beside: Beside = dict,
        ticket: int | None = None,
        notes: dict[str, str] | None = None,
        keep: int = KEPT_STATES,
    ) -> Written:
        """Replace the table.

        Args:
            asset: The asset's name.
            fleet: The fleet's name.
            run_id: The run that writes; at most 63 plain characters.
            shards: A frame a file, all with the same columns; lazy ones are sunk as they stream.
            beside: Asked after the last shard for what else is replaced in this step.
            ticket: From ``ticket``; drawn now when not given.
            notes: Kept with the table; they replace those of the same names.
            keep: How many earlier states keep their files.

        Raises:
            StoreError: A later writer was first, no shard was given, or their columns differ.
        """
        folder = self._folder(asset, fleet)
        ticket = self.ticket(asset, fleet) if ticket is None else ticket
        run, schema = _fill(folder, run_id, shards, beside)
        with self._locked(folder):
            old = self._table(asset, fleet)
            if old.ticket > ticket:
                shutil.rmtree(folder / run.folder)
                raise StoreError(
                    f"{folder}: run {run_id} was overtaken by run {old.runs[-1].run_id}, which "
                    f"wrote at {old.written_at:%Y-%m-%d %H:%M:%S} UTC; its table stays. Run again"
                )
            _publish(folder, old, old.replaced(run, schema, ticket, notes or {}, keep))
        return _written(folder, run)

    def append(
        self,
        asset: str,
        fleet: str,
        run_id: str,
        shards: Frame | Iterable[Frame],
        *,
        notes: dict[str, str] | None = None,
    ) -> Written:
        """Add to the table; the same ``run_id`` again changes nothing, until a ``write``.

        New columns are null in the rows that came before them; a column keeps its dtype.

        Args:
            asset: The asset's name.
            fleet: The fleet's name.
            run_id: What is added, such as ``file-<checksum>``; at most 63 plain characters.
            shards: A frame a file, all with the same columns.
            notes: Kept with the table; they replace those of the same names.

        Raises:
            StoreError: A column has another dtype than in the table, or no shard was given.
        """
        folder = self._folder(asset, fleet)
        earlier = self._table(asset, fleet).run(run_id)
        if earlier is not None:
            return _written(folder, earlier, new=False)
        run, schema = _fill(folder, run_id, shards)
        with self._locked(folder):
            old = self._table(asset, fleet)
            earlier = old.run(run_id)
            if earlier is not None:
                shutil.rmtree(folder / run.folder)
                return _written(folder, earlier, new=False)
            try:
                table = old.appended(run, schema, _draw(folder, old), notes or {})
            except StoreError:
                shutil.rmtree(folder / run.folder)
                raise
            _publish(folder, old, table)
        return _written(folder, run)

    def current(self, asset: str, fleet: str) -> Table | None:
        """The table's description; none before the first write.

        Raises:
            StoreError: ``current.json`` is damaged.
        """
        path = self._folder(asset, fleet) / CURRENT
        try:
            return msgspec.json.decode(path.read_bytes(), type=Table)
        except FileNotFoundError:
            return None
        except msgspec.DecodeError as error:
            raise StoreError(
                f"{path} is damaged: {error}; remove it and make the asset again"
            ) from error

    def scan(
        self, asset: str, fleet: str, *, of: Callable[[str], bool] = lambda _: True
    ) -> pl.LazyFrame:
        """The table, lazily; it stays readable while the next writes replace it.

        Args:
            asset: The asset's name.
            fleet: The fleet's name.
            of: Whether what a run added is wanted, by ``run_id``.

        Raises:
            StoreError: Nothing was written yet, or a file is missing or of another size.
        """
        folder, table = self._required(asset, fleet)
        shards = [shard for run in table.runs if of(run.run_id) for shard in run.shards]
        if not shards:
            return pl.LazyFrame(schema=table.schema)
        return pl.scan_parquet(
            [_whole(folder, shard) for shard in shards],
            schema=table.schema,
            missing_columns="insert",
            glob=False,
            hive_partitioning=False,
        )

    def scan_beside(self, asset: str, fleet: str, name: str) -> pl.LazyFrame:
        """What stands beside the table under that name, lazily.

        Raises:
            StoreError: Nothing of that name was written, or its file is missing or of another size.
        """
        folder, table = self._required(asset, fleet)
        shard = table.runs[-1].beside.get(name)
        if shard is None:
            raise StoreError(f"{folder} holds no {name} beside {asset}; make the asset again")
        return pl.scan_parquet(_whole(folder, shard), glob=False, hive_partitioning=False)

    def verify(self, asset: str, fleet: str) -> Table:
        """The table's description, once every file has its checksum.

        Raises:
            StoreError: Nothing was written yet, or files are missing or differ; names each.
        """
        folder, table = self._required(asset, fleet)
        wrong = [
            shard.path
            for run in table.runs
            for shard in run.files
            if not (folder / shard.path).is_file()
            or files.sha256_of(folder / shard.path) != shard.sha256
        ]
        if wrong:
            raise StoreError(
                f"{folder}: {', '.join(wrong)} missing or damaged; make the asset again"
            )
        return table

    def _required(self, asset: str, fleet: str) -> tuple[Path, Table]:
        folder, table = self._folder(asset, fleet), self.current(asset, fleet)
        if table is None:
            raise StoreError(f"{folder} holds no {asset} yet; materialise it first")
        return folder, table

    def _table(self, asset: str, fleet: str) -> Table:
        return self.current(asset, fleet) or nothing(asset, fleet)

    def _folder(self, asset: str, fleet: str) -> Path:
        return self._root / files.safe_name(asset, "asset") / files.safe_name(fleet, "fleet")

    def _locked(self, folder: Path) -> AbstractContextManager[None]:
        return files.locked(folder / ".lock", timeout_seconds=self._lock_timeout_seconds)


def _fill(
    folder: Path, run_id: str, shards: Frame | Iterable[Frame], beside: Beside = dict
) -> tuple[Run, pl.Schema]:
    """Write the shards, and what stands beside them, into a new folder of the run."""
    name = f"{files.safe_name(run_id, 'run')}-{uuid.uuid4().hex[:8]}"
    schema, made = None, []
    with files.publishing(folder / name) as new:
        for frame in _frames(shards):
            shard, found = _sink(frame, new / f"part-{len(made):05d}.parquet", name)
            if schema not in (None, found):
                raise StoreError(
                    f"{folder}: shard {len(made)} of run {run_id} has columns {dict(found)}, "
                    f"those before it {dict(schema)}; give all shards the same"
                )
            schema = found
            made.append(shard)
        if schema is None:
            raise StoreError(
                f"{folder}: run {run_id} gave no shard; give an empty frame with the columns"
            )
        more = {
            key: _sink(frame, new / f"beside-{files.safe_name(key, 'frame')}.parquet", name)[0]
            for key, frame in beside().items()
        }
    return Run(run_id=run_id, folder=name, shards=tuple(made), beside=more), schema


def _sink(frame: Frame, path: Path, folder: str) -> tuple[Shard, pl.Schema]:
    """Write one file of a folder that gets its name later."""
    if isinstance(frame, pl.LazyFrame):
        frame.sink_parquet(path, compression="zstd")
    else:
        frame.write_parquet(path, compression="zstd")
    scan = pl.scan_parquet(path, glob=False, hive_partitioning=False)
    shard = Shard(
        path=f"{folder}/{path.name}",
        rows=scan.select(pl.len()).collect().item(),
        bytes=path.stat().st_size,
        sha256=files.sha256_of(path),
    )
    return shard, scan.collect_schema()


def _whole(folder: Path, shard: Shard) -> Path:
    path = folder / shard.path
    size = path.stat().st_size if path.is_file() else None
    if size != shard.bytes:
        found = "missing" if size is None else f"{size} bytes long"
        raise StoreError(
            f"{path} is {found}, {shard.bytes} bytes were written; make the asset again"
        )
    return path


def _frames(shards: Frame | Iterable[Frame]) -> Iterator[Frame]:
    if isinstance(shards, pl.DataFrame | pl.LazyFrame):
        yield shards
    else:
        yield from shards


def _publish(folder: Path, old: Table, new: Table) -> None:
    """Make the new description the table's, then remove what no reader needs."""
    last = folder / new.runs[-1].folder
    if not last.is_dir():  # a writer that slept for a day, and whose folder was swept
        raise StoreError(f"{last} was swept before it was named; run again")
    files.write_json(folder / CURRENT, new)
    files.sweep(folder)
    expired = (old.retired.keys() | {run.folder for run in old.runs}) - _named(new)
    abandoned = {
        path.name
        for path in folder.glob("[!.]*/")
        if time.time() - path.stat().st_mtime > files.ABANDONED_SECONDS
    }
    for name in expired | (abandoned - _named(new)):
        shutil.rmtree(folder / name)


def _named(table: Table) -> set[str]:
    return {run.folder for run in table.runs} | table.retired.keys()


def _written(folder: Path, run: Run, *, new: bool = True) -> Written:
    return Written(
        rows=run.rows, files=len(run.shards), bytes=run.bytes, path=folder / run.folder, new=new
    )


def _draw(folder: Path, table: Table) -> int:
    path = folder / ".ticket"
    last = int(path.read_text()) if path.exists() else 0
    number = max(last, table.ticket) + 1
    files.write(path, str(number))
    return number
