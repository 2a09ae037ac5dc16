"""Gauges of whole fleets, which one instance of the service tells Prometheus, not each.

What belongs here: who tells, and the gauges. What does not: metrics of a process (``metrics``), the
queries (``rul_store``).

An instance tells them while it holds the lease, which it renews while it runs; when it is gone,
another takes over. The figures are PostgreSQL's, so they are the same whoever tells.
"""

import os
import socket
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

import sqlalchemy as sa
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from rul_core.errors import Unavailable
from rul_core.prognosis import VALID_STATES
from rul_serving.database import Database
from rul_store import advisory_rows, leases, ledger, readings
from rul_store.swallowed import swallow

LEASE = "fleetwide_metrics"
LEASE_SECONDS = 60.0
"""After so long without a word from the holder, another instance tells."""
TURN_SECONDS = 15.0
"""How often an instance asks for its turn, or renews it."""
FRESH_SECONDS = 5.0
"""How long figures are told again before they are asked anew."""


class FleetwideMetrics:
    """What this instance tells of whole fleets, if it is its turn.

    Args:
        database: Knows the figures, and whose turn it is.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        # The parent's number: the workers of an instance are one holder.
        self._holder = f"{socket.gethostname()}/{os.getppid()}"
        self._told, self._until, self._my_turn = b"", 0.0, False

    def take_turn(self, engine: sa.Engine) -> None:
        """Hold the lease if nobody else does; to be done every ``TURN_SECONDS``."""
        self._my_turn = False  # unless PostgreSQL says otherwise
        self._my_turn = leases.hold(engine, LEASE, self._holder, LEASE_SECONDS)

    async def exposition(self) -> bytes:
        """The gauges as text; empty while another instance tells them, or PostgreSQL is away."""
        if not self._my_turn:
            return b""
        if time.monotonic() < self._until:
            return self._told
        try:
            self._told = await self._database.ask(_tell)
        except Unavailable as error:
            swallow("fleetwide_metrics", error, "gauges of whole fleets are missing for now")
            self._told = b""
        self._until = time.monotonic() + FRESH_SECONDS
        return self._told

    async def give_back(self) -> None:
        """Let another instance tell."""
        if not self._my_turn:
            return
        try:
            await self._database.ask(leases.release, LEASE, self._holder)
        except Exception as error:  # nothing may keep the service from stopping
            swallow("fleetwide_metrics", error, "the lease ends by itself")


def _tell(engine: sa.Engine) -> bytes:
    registry = CollectorRegistry()
    registry.register(_Known(list(_families(engine))))
    return generate_latest(registry)


class _Known(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _families(engine: sa.Engine) -> Iterator[Metric]:
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
    for outlook in ledger.outlooks(engine):
        key = (outlook.fleet, outlook.band)
        bands[key] = bands.get(key, 0) + outlook.units
        if outlook.state not in VALID_STATES:
            without.add_metric([outlook.fleet, outlook.state.value], outlook.units)
    for labels, count in bands.items():
        units.add_metric(labels, count)
    yield units
    yield without
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
