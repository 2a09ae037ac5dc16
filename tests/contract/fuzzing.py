"""Schemathesis against the served application: one operation at a time, by all of its checks.

What belongs here: how the tool is set up, what a refusal of a well-formed request may be, and what
was found. What does not: the application that is asked (``served``), the tests.
"""

import re
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import schemathesis
from hypothesis import settings
from schemathesis import engine
from schemathesis.config import SchemathesisConfig
from schemathesis.core.failures import Failure
from schemathesis.engine import events
from schemathesis.generation.case import Case
from schemathesis.openapi.checks import RejectedPositiveData
from schemathesis.schemas import BaseSchema

SEED = 20_260_301
IS_FRESH = not settings().derandomize
"""Whether it looks for new examples: under ``make fuzz``."""
EXAMPLES = 1_000 if IS_FRESH else 500
REAL = 0.7
"""How often a parameter names something that is there."""
PROBLEMS_OF_GOOD_REQUESTS = {
    "invalid-cursor": "a cursor is what the service gave before, which no schema can tell",
    "invalid-readings": "whether readings contradict each other, or what is kept, is no form",
}
TEXT = frozenset({"text/csv", "application/x-ndjson", "application/octet-stream"})
"""OpenAPI calls such a body a string, and cannot say more of it."""
CHECKS = {
    # 428 is what RFC 6585 has for a missing If-Match.
    "missing_required_header": {"expected-statuses": ["400", "401", "403", "428"]},
    # 412 is to If-Match what 409 is to the rest: it depends on what is kept, not on the form.
    "positive_data_acceptance": {
        "expected-statuses": ["2xx", "401", "403", "404", "409", "412", "429"]
    },
    # Too many items are too much for one request.
    "negative_data_rejection": {
        "expected-statuses": ["400", "401", "403", "404", "405", "409", "413", "415", "422", "428"]
    },
}
"""Every check is on; these are told which statuses are right here."""
_IDEMPOTENCY_KEY = re.compile(r"[!-~]{1,255}")


@dataclass
class Found:
    """What a run found."""

    failures: dict[str, str] = field(default_factory=dict)
    """What is wrong, each kind once: its name, with what was asked and answered."""
    statuses: Counter[int] = field(default_factory=Counter)
    checks: set[str] = field(default_factory=set)
    """Those that were made."""

    def __str__(self) -> str:
        told = [f"{name}\n{what}" for name, what in self.failures.items()]
        return "\n\n".join([*told, f"statuses: {dict(self.statuses)}"])


def run(
    document: dict[str, Any],
    address: str,
    key: str,
    real: Mapping[str, Sequence[str]],
    *,
    operation_id: str | None = None,
) -> Found:
    """Ask one operation by examples, coverage and fuzzing; or go from one to the next.

    Args:
        document: The OpenAPI document.
        address: Where the application listens.
        key: An administrator's.
        real: What is there, by parameter (``path.unit``).
        operation_id: The operation; unless given, all of them, in sequences along their links.
    """
    phases = ("examples", "coverage", "fuzzing") if operation_id else ("stateful",)
    config = SchemathesisConfig.from_dict(
        {
            **({} if IS_FRESH else {"seed": SEED}),
            "base-url": address,
            "headers": {"Authorization": f"Bearer {key}"},
            "continue-on-failure": True,
            "dictionaries": {name: {"values": list(values)} for name, values in real.items()},
            "parameters": {name: {"dictionary": name, "probability": REAL} for name in real},
            "generation": {"max-examples": EXAMPLES, "no-shrink": True},
            "checks": CHECKS,
            "phases": {
                name: {"enabled": name in phases}
                for name in ("examples", "coverage", "fuzzing", "stateful")
            },
        }
    )
    schema: BaseSchema = schemathesis.openapi.from_dict(document, config=config)
    schema.hook(_sparing(key))
    if operation_id:
        schema = schema.include(operation_id=operation_id)
    found = Found()
    for event in engine.from_schema(schema).execute():
        if isinstance(event, events.FatalError):
            raise event.exception
        if isinstance(event, events.NonFatalError):
            found.failures[f"error of the tool at {event.label}"] = str(event.value)
        if isinstance(event, events.ScenarioFinished):
            _note(event, found)
    return found


def _note(event: events.ScenarioFinished, found: Found) -> None:
    answers = {
        name: interaction.response for name, interaction in event.recorder.interactions.items()
    }
    found.statuses.update(answer.status_code for answer in answers.values() if answer is not None)
    for case, checks in event.recorder.checks.items():
        for check in checks:
            found.checks.add(check.name)
            if check.failure_info is None:
                continue
            failure, answer = check.failure_info.failure, answers.get(case)
            told = answer.text[:1000] if answer is not None else "no answer"
            found.failures.setdefault(
                f"{event.recorder.label}: {check.name}: {failure.title}: {_kind(answer)}",
                f"{failure.message}\n{check.failure_info.code_sample[:2000]}\n{told}",
            )


@schemathesis.serializer("application/x-ndjson")
def lines(context: object, value: Any) -> bytes:
    """JSON lines are sent as they are."""
    return value if isinstance(value, bytes) else str(value).encode()


@schemathesis.hook
def before_call(context: object, case: Case, kwargs: dict[str, Any]) -> None:
    """Send each request with an idempotency key of its own, and end streams that wait for more."""
    key = (case.headers or {}).get("Idempotency-Key")
    if isinstance(key, str) and _IDEMPOTENCY_KEY.fullmatch(key):
        case.headers["Idempotency-Key"] = uuid.uuid4().hex
    if case.operation.definition.raw.get("operationId") == "followFleet":
        follow = (case.query or {}).get("follow", True)
        if follow is True or follow == "true":
            case.query = {**(case.query or {}), "follow": False}


@schemathesis.hook
def filter_failure(context: object, failure: Failure, case: Case, response: Any) -> bool:
    """Keep a failure, unless a good request was refused for a reason that no schema can tell."""
    if not isinstance(failure, RejectedPositiveData):
        return True
    kind = _kind(response)
    if "is outside the years 1 to 9999 in UTC" in response.text:
        return False  # a well-formed time of another zone, which no schema can tell
    if kind == "invalid-request" and case.media_type in TEXT:
        return False
    if kind == "invalid-request" and case.operation.path.endswith("/infer"):
        # How wide a row is, and that a tensor has as many numbers as its shape says.
        return not all(flaw["at"].startswith("inputs") for flaw in response.json()["errors"])
    return kind not in PROBLEMS_OF_GOOD_REQUESTS


def _sparing(key: str) -> Any:
    def filter_path_parameters(context: object, path_parameters: dict[str, Any]) -> bool:
        """Revoke and replace any key but the one that asks."""
        return (path_parameters or {}).get("key_id") != key[4:12]

    return filter_path_parameters


def _kind(answer: Any) -> str:
    """Which kind of problem the answer is."""
    try:
        return answer.json()["type"].removeprefix("/problems/")
    except (ValueError, KeyError, TypeError, AttributeError):
        return "no problem"
