"""Gauges of whole fleets, which one instance of the service tells Prometheus, not each.

What belongs here: who tells, and the gauges. What does not: metrics of a process (``metrics``), the
queries (``rul_store``).

An instance tells them while it holds the lease, which it renews while it runs; when it is gone,
another takes over. The figures are PostgreSQL's, so they are the same whoever tells.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa
import structlog
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from rul_core.errors import StoreError, Unavailable
from rul_core.prognosis import VALID_STATES, State
from rul_core.track_record import VersionRecord
from rul_serving.database import Database
from rul_serving.instance import Instance
from rul_serving.present import NO_MODEL, View
from rul_serving.served import Served, ServedModels
from rul_store import (
    advisory_rows,
    audit,
    backup_rows,
    champions,
    current,
    leases,
    outcomes,
    outdated,
    readings,
)
from rul_store.chain import Break
from rul_store.lake import Lake
from rul_store.swallowed import swallow

LEASE = "fleetwide_metrics"
LEASE_SECONDS = 60.0
"""After so long without a word from the holder, another instance tells."""
TURN_SECONDS = 15.0
"""How often an instance asks for its turn, or renews it."""
FRESH_SECONDS = 5.0
"""How long figures are told again before they are asked anew."""
WALK_SECONDS = 3600.0
"""How often the audit's chain is walked from end to end."""

_log = structlog.stdlib.get_logger(__name__)


class FleetwideMetrics:
    """What this instance tells of whole fleets, if it is its turn.

    Args:
        database: Knows the figures, and whose turn it is.
        root: The data root, which has the track records.
        models: Those that answer.
        instance: Its workers are one holder.
    """

    def __init__(
        self, database: Database, root: Path, models: ServedModels, instance: Instance
    ) -> None:
        self._database, self._lake, self._models = database, Lake(root), models
        self._instance = instance
        self._told, self._until, self._my_turn = b"", 0.0, False
        self._walk: _Walk | None = None

    def take_turn(self, engine: sa.Engine) -> None:
        """Hold the lease if nobody else does; to be done every ``TURN_SECONDS``."""
        self._my_turn = False  # unless PostgreSQL says otherwise
        self._my_turn = leases.hold(engine, LEASE, self._instance.name, LEASE_SECONDS)

    def walk_audit(self, engine: sa.Engine) -> None:
        """See whether the audit's chain is whole, if it is this instance's turn and time again."""
        if not self._my_turn or (
            self._walk and time.time() < self._walk.at_timestamp_seconds + WALK_SECONDS
        ):
            return
        broken = next((link for link in audit.verify(engine) if isinstance(link, Break)), None)
        if broken is not None:
            _log.error("audit chain broken", position=broken.position, reason=broken.reason)
        self._walk = _Walk(is_whole=broken is None, at_timestamp_seconds=time.time())

    async def exposition(self) -> bytes:
        """The gauges as text; empty while another instance tells them, or PostgreSQL is away."""
        if not self._my_turn:
            return b""
        if time.monotonic() < self._until:
            return self._told
        try:
            self._told = await self._database.ask(
                _tell, self._lake, self._models.served, self._walk
            )
        except Unavailable as error:
            swallow("fleetwide_metrics", error, "gauges of whole fleets are missing for now")
            self._told = b""
        self._until = time.monotonic() + FRESH_SECONDS
        return self._told

    async def give_back(self) -> None:
        """Let another instance tell, if this one ends."""
        if not (self._my_turn and self._instance.ends):
            return
        try:
            await self._database.ask(leases.release, LEASE, self._instance.name)
        except Exception as error:  # nothing may keep the service from stopping
            swallow("fleetwide_metrics", error, "the lease ends by itself")


class _Walk(NamedTuple):
    """Along the audit's chain."""

    is_whole: bool
    at_timestamp_seconds: float


def _tell(engine: sa.Engine, lake: Lake, served: Mapping[str, Served], walk: _Walk | None) -> bytes:
    registry = CollectorRegistry()
    families = [*_families(engine, served), *_came_true(lake, served)]
    families += of_backups(backup_rows.standings(engine))
    if walk is not None:
        families += [
            _gauge(
                "rul_audit_chain_intact",
                "1 when every entry of the audit is what was written; else the log says which not.",
                walk.is_whole,
            ),
            _gauge(
                "rul_audit_chain_walked_timestamp_seconds",
                "When the audit was last walked from end to end.",
                walk.at_timestamp_seconds,
            ),
        ]
    registry.register(_Known(families))
    return generate_latest(registry)


def _gauge(name: str, description: str, value: float) -> Metric:
    family = GaugeMetricFamily(name, description)
    family.add_metric([], value)
    return family


class _Known(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _families(engine: sa.Engine, served: Mapping[str, Served]) -> Iterator[Metric]:
    units = GaugeMetricFamily(
        "rul_units",
        "Units in service by their safe bound: act is below the horizon, plan below twice.",
        labels=("fleet", "band"),
    )
    without = GaugeMetricFamily(
        "rul_units_without_prognosis",
        "Units in service without a valid prognosis, by its state.",
        labels=("fleet", "reason"),
    )
    bands: dict[tuple[str, str], int] = {}
    reasons: dict[tuple[str, str], int] = {}
    for fleet in current.fleets(engine):
        bands |= {(fleet, band): 0 for band in current.BANDS}
        reasons |= {(fleet, state): 0 for state in State if state not in VALID_STATES}
        model = served.get(fleet)
        now = View.of(model.loaded.model.fleet, model).conditions() if model else NO_MODEL
        for outlook in current.outlooks(engine, fleet, **now):
            bands[fleet, outlook.band] += outlook.units
            if outlook.state not in VALID_STATES:
                reasons[fleet, outlook.state] += outlook.units
    for labels, count in reasons.items():
        without.add_metric(labels, count)
    for labels, count in bands.items():
        units.add_metric(labels, count)
    yield units
    yield without
    behind = GaugeMetricFamily(
        "rul_units_behind_champion",
        "Units in service whose current prognosis is not of the live model.",
        labels=("fleet",),
    )
    for fleet, champion in champions.current_all(engine).items():
        behind.add_metric([fleet], outdated.count(engine, fleet, champion.version))
    yield behind
    told = GaugeMetricFamily(
        "rul_advisories", "Open advisories, by where they stand.", labels=("priority", "state")
    )
    for (priority, state), count in advisory_rows.count_open(engine).items():
        told.add_metric([priority.value, state.value], count)
    yield told
    staleness = GaugeMetricFamily(
        "rul_input_staleness_seconds", "Since readings of the fleet last came.", labels=("fleet",)
    )
    now = datetime.now(UTC)
    for fleet, at in readings.last_heard(engine).items():
        staleness.add_metric([fleet], max(0.0, (now - at).total_seconds()))
    yield staleness


def of_backups(standings: Iterable[backup_rows.BackupStore]) -> Iterator[Metric]:
    """How it stands with backups, as gauges.

    Args:
        standings: Of every place where they lie.
    """
    newest = _by_store(
        "rul_backup_newest_timestamp_seconds",
        "From when the newest run of backups is; what was written later is in none.",
    )
    stored = _by_store("rul_backup_stored_bytes", "Of all that the newest run promises.")
    proven = _by_store(
        "rul_backup_proven_timestamp_seconds", "When a drill last found what was kept."
    )
    seconds = _by_store("rul_backup_drill_duration_seconds", "What the last drill took.")
    differences = _by_store(
        "rul_backup_drill_differences", "From what was kept, at the last drill; 0 is the good case."
    )
    point = _by_store(
        "rul_backup_drill_recovery_point_seconds",
        "How long before the last drill what it restored ends, by the log where there is one.",
    )
    reaches = _by_store(
        "rul_backup_drill_log_reaches_timestamp_seconds",
        "Until when all that was committed was recovered by the log, at the last drill.",
    )
    for one in standings:
        newest.add_metric(
            [one.store], (one.newest.started_at or one.newest.finished_at).timestamp()
        )
        if one.newest.stored_bytes is not None:
            stored.add_metric([one.store], one.newest.stored_bytes)
        if one.last_proven is not None:
            proven.add_metric([one.store], one.last_proven.proven_at.timestamp())
        if one.last_drill is not None:
            seconds.add_metric([one.store], one.last_drill.seconds)
            differences.add_metric([one.store], len(one.last_drill.differences))
            if one.last_drill.recovery_point_seconds is not None:
                point.add_metric([one.store], one.last_drill.recovery_point_seconds)
            if one.last_drill.log_reaches_at is not None:
                reaches.add_metric([one.store], one.last_drill.log_reaches_at.timestamp())
    yield from (newest, stored, proven, seconds, differences, point, reaches)


def _by_store(name: str, description: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, description, labels=("store",))


def _came_true(lake: Lake, served: Mapping[str, Served]) -> Iterator[Metric]:
    """What came of the prognoses of the models that answer."""
    records: dict[str, VersionRecord] = {}
    for fleet, model in served.items():
        try:
            known = outcomes.read(lake, fleet)
        except StoreError as error:
            swallow("fleetwide_metrics", error, "the fleet's track record is missing for now")
            continue
        record = known.record.of_version(model.loaded.version) if known else None
        if record is not None:
            records[fleet] = record
    return of_track_records(records)


def of_track_records(records: Mapping[str, VersionRecord]) -> Iterator[Metric]:
    """Track records as gauges.

    Args:
        records: By fleet, of the version that answers.
    """
    coverage = GaugeMetricFamily(
        "rul_interval_coverage_ratio",
        "How often the bands held the truth of units that failed, by promised level.",
        labels=("fleet", "level"),
    )
    error = GaugeMetricFamily(
        "rul_realised_abs_error_cycles",
        "Mean absolute error of points, by cycles before the failure.",
        labels=("fleet", "lead"),
    )
    for fleet, record in records.items():
        for held in record.coverage:
            coverage.add_metric([fleet, f"{held.level:g}"], held.coverage.share)
        for found in record.by_lead:
            error.add_metric([fleet, found.lead], found.mean_abs_error_cycles)
    yield from (coverage, error)
