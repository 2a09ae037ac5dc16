"""Dagster's own state for Prometheus: ``python -m rul_assets.exporter``.

What belongs here: reading the instance's storage, and the metrics' names. What does not: how units
are (serving tells of that), alerts on any of it (``monitoring/``).

Everything is read from Dagster's database, through Dagster's own interface, every few seconds; a
scrape is answered from what was read last. No label holds a run's id: jobs, statuses, assets,
fleets and sensors are few.
"""

import argparse
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import dagster as dg
from dagster._core.scheduler.instigation import TickStatus
from dagster._core.storage.dagster_run import FINISHED_STATUSES
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from rul_assets.told import EXCESS_PSI, LEAKAGE, REASON_TAG, RESEMBLANCE, RETRAIN

PORT = 9200
EVERY_SECONDS = 15.0
FRESH_SECONDS = 120.0
PAGE = 1_000
PROBE_SECONDS = 3.0
"""How long a service may take to take a connection."""
DURATION_BOUNDS = (5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0, 21600.0)
"""Seconds."""
BY_A_PERSON = "person"
"""What triggered a training that no sensor gave a reason for."""
DECIDED = frozenset(FINISHED_STATUSES)


@dataclass
class Durations:
    """How long ended runs of one job and status took."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(DURATION_BOUNDS) + 1))
    total_seconds: float = 0.0

    def add(self, seconds: float) -> None:
        """Count a run."""
        place = sum(seconds > bound for bound in DURATION_BOUNDS)
        self.counts[place] += 1
        self.total_seconds += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative counts by upper bound, as Prometheus has them."""
        bounds = [*(f"{bound:g}" for bound in DURATION_BOUNDS), "+Inf"]
        return [(bound, sum(self.counts[: at + 1])) for at, bound in enumerate(bounds)]


class State:
    """What was read of an instance, and what it says.

    Args:
        instance: Dagster's.
    """

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self._instance = instance
        self._begun_at = datetime.now(UTC)
        self._counted: set[str] = set()
        self._durations: dict[tuple[str, str], Durations] = {}
        self._retrained: dict[str, tuple[str, str]] = {}
        """By run: why it was asked for, and how it ended."""
        self._materialised: dict[tuple[str, str], float] = {}
        self._materialised_after: dict[str, int] = {}
        self._checks: dict[tuple[str, str, str], tuple[bool, str, float]] = {}
        self._checks_after = 0
        self._gate_failures: Counter[str] = Counter()
        self._drift: dict[str, dict[str, float]] = {}

    def read(self, now: datetime) -> list[Metric]:
        """Every metric, as the database has it now."""
        return [
            *self._runs(now),
            self._run_durations(),
            self._retrainings(),
            self._assets(),
            *self._asset_checks(),
            *self._findings(),
            *self._ticks(),
            self._heartbeats(),
        ]

    def _runs(self, now: datetime) -> Iterable[Metric]:
        counts: Counter[tuple[str, str]] = Counter()
        waiting: list[float] = []
        active: dict[str, float] = {}
        ended: dict[tuple[str, str], float] = {}
        cursor = None
        while True:
            page = self._instance.get_run_records(limit=PAGE, cursor=cursor)
            for record in page:
                run = record.dagster_run
                key = (run.job_name, run.status.value)
                counts[key] += 1
                age = (now - _utc(record.create_timestamp)).total_seconds()
                if run.status is dg.DagsterRunStatus.QUEUED:
                    waiting.append(age)
                elif run.status in DECIDED:
                    at = record.end_time or _utc(record.update_timestamp).timestamp()
                    ended[key] = max(ended.get(key, 0.0), at)
                else:
                    started = record.start_time or _utc(record.create_timestamp).timestamp()
                    active[run.job_name] = max(
                        active.get(run.job_name, 0.0), now.timestamp() - started
                    )
                self._count_duration(record)
                if run.job_name == RETRAIN and run.status in DECIDED:
                    trigger = run.tags.get(REASON_TAG, BY_A_PERSON)
                    self._retrained[run.run_id] = (trigger, run.status.value.lower())
            if len(page) < PAGE:
                break
            cursor = page[-1].dagster_run.run_id
        runs = GaugeMetricFamily(
            "rul_dagster_runs", "Runs that the database keeps.", labels=["job", "status"]
        )
        for labels, number in counts.items():
            runs.add_metric(labels, number)
        yield runs
        yield _gauge("rul_dagster_run_queue_length", "Runs that wait.", len(waiting))
        yield _gauge(
            "rul_dagster_run_queue_oldest_seconds",
            "How long the first in the queue has waited; 0 when nobody waits.",
            max(waiting, default=0.0),
        )
        longest = GaugeMetricFamily(
            "rul_dagster_active_run_oldest_seconds",
            "How long the oldest run of a job has been under way.",
            labels=["job"],
        )
        for job, seconds in active.items():
            longest.add_metric([job], seconds)
        yield longest
        last = GaugeMetricFamily(
            "rul_dagster_run_ended_timestamp_seconds",
            "When a run of a job last ended so.",
            labels=["job", "status"],
        )
        for labels, at in ended.items():
            last.add_metric(labels, at)
        yield last

    def _count_duration(self, record: dg.RunRecord) -> None:
        """Count a run that ended since this program began, once."""
        run = record.dagster_run
        if (
            run.status not in DECIDED
            or record.start_time is None
            or record.end_time is None
            or record.end_time < self._begun_at.timestamp()
            or run.run_id in self._counted
        ):
            return
        self._counted.add(run.run_id)
        key = (run.job_name, run.status.value)
        self._durations.setdefault(key, Durations()).add(record.end_time - record.start_time)

    def _run_durations(self) -> Metric:
        family = HistogramMetricFamily(
            "rul_dagster_run_duration_seconds",
            "How long runs took, from start to end; since the exporter began.",
            labels=["job", "status"],
        )
        for labels, durations in self._durations.items():
            family.add_metric(labels, durations.buckets(), durations.total_seconds)
        return family

    def _retrainings(self) -> Metric:
        family = CounterMetricFamily(
            "rul_retrain_runs",
            "Runs of the job that learns a fleet's model anew, by why and with what end.",
            labels=["trigger", "outcome"],
        )
        for labels, number in Counter(self._retrained.values()).items():
            family.add_metric(labels, number)
        return family

    def _assets(self) -> Metric:
        """The last success of each asset and partition; only what is new is read."""
        for key in self._instance.get_asset_keys():
            name = key.to_user_string()
            newest = self._instance.get_latest_storage_id_by_partition(
                key,
                dg.DagsterEventType.ASSET_MATERIALIZATION,
                after_cursor=self._materialised_after.get(name),
            )
            for start in range(0, len(newest), PAGE):
                ids = sorted(newest.values())[start : start + PAGE]
                records = self._instance.fetch_materializations(
                    dg.AssetRecordsFilter(key, storage_ids=ids), limit=PAGE
                ).records
                for record in records:
                    self._materialised[name, record.partition_key or ""] = record.timestamp
            last = self._instance.get_latest_materialization_event(key)
            if last is not None and last.get_dagster_event().partition is None:
                self._materialised[name, ""] = last.timestamp
            if newest:
                self._materialised_after[name] = max(newest.values())
        family = GaugeMetricFamily(
            "rul_dagster_asset_last_success_timestamp_seconds",
            "When the asset was last materialised.",
            labels=["asset", "partition"],
        )
        for labels, at in self._materialised.items():
            family.add_metric(labels, at)
        return family

    def _asset_checks(self) -> Iterable[Metric]:
        while True:
            records = self._instance.event_log_storage.get_event_records(
                dg.EventRecordsFilter(
                    dg.DagsterEventType.ASSET_CHECK_EVALUATION, after_cursor=self._checks_after
                ),
                limit=PAGE,
                ascending=True,
            )
            for record in records:
                self._checks_after = record.storage_id
                event = record.event_log_entry.get_dagster_event()
                said = event.asset_check_evaluation_data
                key = (said.asset_key.to_user_string(), said.check_name, said.partition or "")
                self._checks[key] = (
                    said.passed,
                    said.severity.value,
                    record.event_log_entry.timestamp,
                )
                self._find(said)
            if len(records) < PAGE:
                break
        failed = GaugeMetricFamily(
            "rul_dagster_asset_check_failed",
            "1 when the check's last evaluation failed, 0 when it passed.",
            labels=["asset", "check", "partition", "severity"],
        )
        told = GaugeMetricFamily(
            "rul_dagster_asset_check_timestamp_seconds",
            "When the check was last evaluated.",
            labels=["asset", "check", "partition"],
        )
        for labels, (passed, severity, at) in self._checks.items():
            failed.add_metric([*labels, severity], not passed)
            told.add_metric(labels, at)
        yield failed
        yield told

    def _find(self, said: dg.AssetCheckEvaluation) -> None:
        """What a check says of a fleet's data and models, beside whether it passed."""
        if said.check_name.startswith(LEAKAGE):
            test = said.check_name.removeprefix(LEAKAGE)
            is_leak = not said.passed and said.severity is dg.AssetCheckSeverity.ERROR
            self._gate_failures[test] += is_leak
        elif said.check_name == RESEMBLANCE:
            scores: Any = said.metadata[EXCESS_PSI].value
            if scores:  # otherwise too little had come in to say anything new
                self._drift[said.partition or ""] = scores

    def _findings(self) -> Iterable[Metric]:
        failures = CounterMetricFamily(
            "rul_leakage_gate_failures",
            "Candidates in which a test of the leakage gate found a leak.",
            labels=["test"],
        )
        for test, number in self._gate_failures.items():
            failures.add_metric([test], number)
        yield failures
        drift = GaugeMetricFamily(
            "rul_feature_drift_score",
            "How far a channel has moved from what the champion learnt: its population stability "
            "index beyond what chance gives, in the last window of readings.",
            labels=["fleet", "group"],
        )
        for fleet, scores in self._drift.items():
            for channel, score in scores.items():
                drift.add_metric([fleet, channel], score)
        yield drift

    def _ticks(self) -> Iterable[Metric]:
        last = GaugeMetricFamily(
            "rul_dagster_tick_last_timestamp_seconds",
            "When a sensor or schedule last ticked with that status.",
            labels=["kind", "name", "status"],
        )
        on = GaugeMetricFamily(
            "rul_dagster_instigator_running",
            "1 when the sensor or schedule is switched on.",
            labels=["kind", "name"],
        )
        for state in self._instance.all_instigator_state():
            kind, name = state.instigator_type.value.lower(), state.instigator_name
            on.add_metric([kind, name], state.is_running)
            for status in (TickStatus.SUCCESS, TickStatus.SKIPPED, TickStatus.FAILURE):
                ticks = self._instance.get_ticks(
                    state.instigator_origin_id, state.selector_id, limit=1, statuses=[status]
                )
                for tick in ticks:
                    last.add_metric([kind, name, status.value.lower()], tick.timestamp)
        yield last
        yield on

    def _heartbeats(self) -> Metric:
        family = GaugeMetricFamily(
            "rul_dagster_daemon_heartbeat_timestamp_seconds",
            "When a part of the daemon last told of itself.",
            labels=["daemon"],
        )
        for name, status in self._instance.get_daemon_statuses().items():
            if status.last_heartbeat is not None:
                family.add_metric([name.lower()], status.last_heartbeat.timestamp)
        return family


class Exporter(Collector):
    """Reads again and again, and answers scrapes with what was read last.

    Args:
        read: Every metric, at a time; it may raise, and then the metrics before stand.
        doors: Host and port of Dagster's services that have no metrics of their own, by name.
    """

    def __init__(
        self,
        read: Callable[[datetime], list[Metric]],
        doors: Mapping[str, tuple[str, int]] | None = None,
    ) -> None:
        self._read, self._doors = read, dict(doors or {})
        self._open: dict[str, bool] = {}
        self._metrics: list[Metric] = []
        self._read_at = 0.0
        self._failures = 0

    def look(self) -> None:
        """Read once; what goes wrong is told, and counted."""
        self._open = {name: _takes_connections(*door) for name, door in self._doors.items()}
        try:
            self._metrics = self._read(datetime.now(UTC))
            self._read_at = time.time()
        except Exception as error:  # whatever Dagster's storage raises: the next look may succeed
            self._failures += 1
            sys.stderr.write(f"Dagster's state cannot be read: {type(error).__name__}: {error}\n")

    def collect(self) -> Iterable[Metric]:
        """What was read last, and how old it is."""
        fresh = time.time() - self._read_at < FRESH_SECONDS
        yield _gauge("rul_dagster_up", "1 when Dagster's database could be read lately.", fresh)
        yield _gauge(
            "rul_dagster_read_timestamp_seconds",
            "When Dagster's state was last read.",
            self._read_at,
        )
        failures = GaugeMetricFamily(
            "rul_dagster_read_failures", "How often it could not be read, since the start."
        )
        failures.add_metric([], self._failures)
        yield failures
        doors = GaugeMetricFamily(
            "rul_dagster_service_up",
            "1 when a service of Dagster's took a connection lately.",
            labels=["service"],
        )
        for name, is_open in self._open.items():
            doors.add_metric([name], is_open)
        yield doors
        if fresh:  # old figures would look like good ones
            yield from self._metrics

    def run(self) -> None:
        """Look for ever."""
        while True:
            self.look()
            time.sleep(EVERY_SECONDS)


def _gauge(name: str, description: str, value: float) -> Metric:
    family = GaugeMetricFamily(name, description)
    family.add_metric([], float(value))
    return family


def _takes_connections(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=PROBE_SECONDS).close()
    except OSError:
        return False
    return True


def _door(told: str) -> tuple[str, tuple[str, int]]:
    """``NAME=HOST:PORT``."""
    name, _, address = told.partition("=")
    host, _, port = address.rpartition(":")
    if not (name and host and port.isdigit()):
        raise argparse.ArgumentTypeError(f"{told!r} is no NAME=HOST:PORT")
    return name, (host, int(port))


def _utc(time: datetime) -> datetime:
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def main() -> None:
    """Answer scrapes until told to stop."""
    parser = argparse.ArgumentParser(description="Dagster's own state for Prometheus.")
    parser.add_argument("--port", type=int, default=PORT)
    parser.add_argument(
        "--probe", type=_door, action="append", default=[], metavar="NAME=HOST:PORT"
    )
    chosen = parser.parse_args()
    with dg.DagsterInstance.get() as instance:
        exporter = Exporter(State(instance).read, dict(chosen.probe))
        registry = CollectorRegistry()
        registry.register(exporter)
        start_http_server(chosen.port, registry=registry)
        looking = threading.Thread(target=exporter.run, daemon=True)
        looking.start()
        looking.join()


if __name__ == "__main__":
    main()
