"""What Prometheus reads of prognoses, readings and models; no label per unit.

What belongs here: the metrics of an instance, and how they follow what happens. What does not:
requests (``counted``), gauges of whole fleets (``fleetwide``), how workers' become one
(``shared_values``).
"""

from collections import Counter as Counts
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from rul_core.prognosis import Prognosis
from rul_serving import shared_values
from rul_serving.batch import Receipt
from rul_serving.counted import BUCKETS
from rul_serving.served import Served
from rul_store import swallowed

PREDICTIONS = Counter("rul_predictions", "Prognoses given, by state.", ("fleet", "state"))
PREDICTION_SECONDS = Histogram(
    "rul_prediction_duration_seconds",
    "From readings to the prognoses of one question.",
    buckets=BUCKETS,
)
READINGS = Counter(
    "rul_readings_received", "Readings that were sent, by what became of them.", ("fleet", "fate")
)
TRANSACTION_REQUESTS = Histogram(
    "rul_ingest_requests_per_transaction",
    "Requests whose readings one transaction kept.",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
)
TRANSACTION_SECONDS = Histogram(
    "rul_ingest_transaction_duration_seconds",
    "From the first lock to the commit.",
    buckets=(0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
WAITING = Gauge(
    "rul_ingest_waiting_readings",
    "Readings that wait for a transaction.",
    multiprocess_mode=shared_values.GAUGE_MODE,
)
WORKERS = Gauge(
    "rul_workers",
    "Processes that answer, those that drain too.",
    multiprocess_mode=shared_values.GAUGE_MODE,
)
STREAMS = Gauge(
    "rul_event_streams",
    "Streams of events that are open.",
    multiprocess_mode=shared_values.GAUGE_MODE,
)
EVENTS_SENT = Counter("rul_events_sent", "Events that were put into streams.", ("type",))
GAPS_FILLED = Counter(
    "rul_event_gaps_filled", "Times that a stream read from PostgreSQL what it had missed."
)
SWALLOWED = Counter(
    "rul_swallowed_errors", "Errors that were logged and survived on purpose.", ("component",)
)
swallowed.watch(lambda component: SWALLOWED.labels(component).inc())


def count(prognoses: Iterable[Prognosis]) -> None:
    """Count prognoses that have been given."""
    given = Counts((prognosis.fleet, prognosis.state) for prognosis in prognoses)
    for (fleet, state), number in given.items():
        PREDICTIONS.labels(fleet, state).inc(number)


def count_readings(fleet: str, receipts: Iterable[Receipt]) -> None:
    """Count readings that were sent, and what was said of their units."""
    fates: Counts[str] = Counts()
    said = {}
    for receipt in receipts:
        fates["new"] += receipt.new
        fates["repeated"] += receipt.repeated
        fates.update(flaw.reason for flaw in receipt.flaws if flaw.reason)
        said.update({one.unit: one for one in receipt.prognoses})
    for fate, number in fates.items():
        READINGS.labels(fleet, fate).inc(number)
    count(said.values())


def exposition(served: Mapping[str, Served]) -> bytes:
    """All metrics of the instance as text; models as the worker that is asked has them."""
    models = CollectorRegistry()
    models.register(_Models(served))
    return generate_latest(shared_values.collected()) + generate_latest(models)


class _Models(Collector):
    def __init__(self, served: Mapping[str, Served]) -> None:
        self._served = served

    def collect(self) -> Iterator[Metric]:
        info = GaugeMetricFamily(
            "rul_model_info", "1 for the model that answers.", labels=("fleet", "version")
        )
        age = GaugeMetricFamily(
            "rul_model_age_seconds", "Since the model that answers was trained.", labels=("fleet",)
        )
        now = datetime.now(UTC)
        for fleet, model in self._served.items():
            info.add_metric([fleet, model.loaded.version], 1)
            trained_at = model.loaded.manifest.created_at
            age.add_metric([fleet], (now - trained_at).total_seconds())
        yield from (info, age)
