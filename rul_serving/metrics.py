"""What Prometheus reads of prognoses and models; no label per unit.

What belongs here: the metrics and how they follow what happens. What does not: counts of requests
(Litestar's middleware), gauges of a whole fleet that PostgreSQL knows (one owner, not each server).
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime

from prometheus_client import REGISTRY, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from rul_core.prognosis import Prognosis
from rul_serving.served import Served
from rul_store import swallowed

PREDICTIONS = Counter("rul_predictions", "Prognoses given, by state.", ("fleet", "state"))
PREDICTION_SECONDS = Histogram(
    "rul_prediction_duration_seconds",
    "From readings to the prognoses of one question.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
MODEL_INFO = Gauge("rul_model_info", "1 for the model that answers.", ("fleet", "version"))
MODEL_AGE_SECONDS = Gauge(
    "rul_model_age_seconds", "Since the model that answers was trained.", ("fleet",)
)


class _Swallowed(Collector):
    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(
            "rul_swallowed_errors",
            "Errors that were logged and survived on purpose.",
            labels=("component",),
        )
        for component, count in swallowed.counts().items():
            family.add_metric([component], count)
        yield family


REGISTRY.register(_Swallowed())


def count(prognoses: Iterable[Prognosis]) -> None:
    """Count prognoses that have been given."""
    for prognosis in prognoses:
        PREDICTIONS.labels(prognosis.fleet, prognosis.state).inc()


def exposition(served: Mapping[str, Served]) -> bytes:
    """All metrics as text, the models' as they are now."""
    MODEL_INFO.clear()
    MODEL_AGE_SECONDS.clear()
    now = datetime.now(UTC)
    for fleet, model in served.items():
        MODEL_INFO.labels(fleet, model.loaded.version).set(1)
        age = now - model.loaded.manifest.created_at
        MODEL_AGE_SECONDS.labels(fleet).set(age.total_seconds())
    return generate_latest(REGISTRY)
