"""What ``current.json`` of a table in the lake says.

What belongs here: the description's form, and how one follows from another. What does not: files
and locks (``lake``).
"""

import base64
import io
from datetime import UTC, datetime

import msgspec
import polars as pl

from rul_core.errors import StoreError


class Shard(msgspec.Struct, frozen=True, kw_only=True):
    """One Parquet file, which never changes."""

    path: str
    """Below the table's folder."""
    rows: int
    bytes: int
    sha256: str


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """What one run wrote."""

    run_id: str
    folder: str
    shards: tuple[Shard, ...]
    beside: dict[str, Shard] = {}
    """Further frames that appeared with these rows in one step, by name."""

    @property
    def files(self) -> tuple[Shard, ...]:
        """Every file that the run wrote."""
        return (*self.shards, *self.beside.values())

    @property
    def rows(self) -> int:
        """Rows in all shards."""
        return sum(shard.rows for shard in self.shards)

    @property
    def bytes(self) -> int:
        """Bytes of all shards."""
        return sum(shard.bytes for shard in self.shards)


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """The table as it stands."""

    asset: str
    fleet: str
    generation: int
    """How many times it was changed."""
    writes: int
    """How many of these replaced it."""
    ticket: int
    """That of its last writer."""
    written_at: datetime
    rows: int
    bytes: int
    columns: dict[str, str]
    """Names and dtypes, for people."""
    arrow_schema: str
    """The same for programs: an empty Arrow file in base 64."""
    runs: tuple[Run, ...]
    notes: dict[str, str] = {}
    """What writers keep with the table in the same step, such as a watermark."""
    retired: dict[str, int] = {}
    """Folders of earlier states, and which of the ``writes`` dropped them."""

    @property
    def schema(self) -> pl.Schema:
        """Names and dtypes of the columns."""
        content = base64.b64decode(self.arrow_schema)
        return pl.DataFrame(schema=pl.read_ipc_schema(io.BytesIO(content))).schema

    @property
    def shards(self) -> tuple[Shard, ...]:
        """The files, in the order in which they were written."""
        return tuple(shard for run in self.runs for shard in run.shards)

    def run(self, run_id: str) -> Run | None:
        """What that run wrote, if it is in the table."""
        return next((run for run in self.runs if run.run_id == run_id), None)

    def appended(self, run: Run, schema: pl.Schema, ticket: int, notes: dict[str, str]) -> "Table":
        """The table with the run's rows, and null in columns that are new.

        Raises:
            StoreError: A column has another dtype than in the table.
        """
        old = self.schema
        for name in old.keys() & schema.keys():
            if old[name] != schema[name]:
                raise StoreError(
                    f"column {name!r} of {self.asset} of fleet {self.fleet!r} is {old[name]}, and "
                    f"{schema[name]} in what is added; cast it, or write the asset anew"
                )
        return self._followed(
            runs=(*self.runs, run), schema=pl.Schema({**old, **schema}), ticket=ticket, notes=notes
        )

    def replaced(
        self, run: Run, schema: pl.Schema, ticket: int, notes: dict[str, str], keep: int
    ) -> "Table":
        """The table with the run's rows alone, which keeps the files of some earlier states."""
        writes = self.writes + 1
        retired = self.retired | {old.folder: writes for old in self.runs}
        return msgspec.structs.replace(
            self._followed(runs=(run,), schema=schema, ticket=ticket, notes=notes),
            writes=writes,
            retired={name: at for name, at in retired.items() if at > writes - keep},
        )

    def _followed(
        self, runs: tuple[Run, ...], schema: pl.Schema, ticket: int, notes: dict[str, str]
    ) -> "Table":
        empty = io.BytesIO()
        pl.DataFrame(schema=schema).write_ipc(empty)
        return msgspec.structs.replace(
            self,
            generation=self.generation + 1,
            ticket=ticket,
            written_at=datetime.now(UTC),
            rows=sum(run.rows for run in runs),
            bytes=sum(run.bytes for run in runs),
            columns={name: str(dtype) for name, dtype in schema.items()},
            arrow_schema=base64.b64encode(empty.getvalue()).decode(),
            runs=runs,
            notes=self.notes | notes,
        )


def nothing(asset: str, fleet: str) -> Table:
    """A table before its first write."""
    schema = io.BytesIO()
    pl.DataFrame().write_ipc(schema)
    return Table(
        asset=asset,
        fleet=fleet,
        generation=0,
        writes=0,
        ticket=0,
        written_at=datetime.fromtimestamp(0, UTC),
        rows=0,
        bytes=0,
        columns={},
        arrow_schema=base64.b64encode(schema.getvalue()).decode(),
        runs=(),
    )
