"""When a fleet's model is learnt anew, and why.

What belongs here: the decision, as a pure function of what is known. What does not: finding that
out (``situation``), asking Dagster for a run (``defs.sensors``), judging the new model
(``rul_core.evaluation``).

Training is dear and the same failed lives give the same model, so a reason counts once for what it
was seen in: the *evidence*. Drift that stays, or coverage that stays broken because the challenger
was refused, asks again only when another life has failed. (A condition that holds from one look to
the next, taken for an event, made 368,000 failed runs in 14 days in one public project.)
"""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum

import msgspec

from rul_core.metrics import Coverage
from rul_core.model import LEAST_LIVES

DAY = timedelta(days=1)
KEPT_EVIDENCE = 8


class Reason(StrEnum):
    """Why a model is learnt; the first that holds is given."""

    FIRST_MODEL = "first_model"
    """Enough lives have ended, and none was ever learnt from."""
    COVERAGE = "coverage_broken"
    """Live prognoses hold the truth less often than their bands promise, beyond chance."""
    DRIFT = "drift"
    """Readings have moved away from those that the champion learnt from."""
    ENDED_LIVES = "ended_lives"
    """Enough more lives have ended since the newest model."""
    SCHEDULE = "schedule"
    """The newest model is old."""


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """How eager the platform is to learn."""

    least_units: int = LEAST_LIVES
    """Units with a failed life that a first model needs."""
    new_lives: int | None = None
    """Newly failed lives that make a reason; a tenth of those learnt from, at least 3, if none."""
    max_age: timedelta = timedelta(days=30)
    cool_down: timedelta = timedelta(hours=1)
    """Between two trainings of a fleet, however good the reason."""
    cap_per_day: int = 4
    attempts: int = 2
    """Runs for the same evidence, if they fail."""

    def lives_needed(self, learnt: int) -> int:
        """Newly failed lives that make a reason, after learning from so many."""
        return self.new_lives if self.new_lives is not None else max(3, math.ceil(0.1 * learnt))


class Learnt(msgspec.Struct, frozen=True, kw_only=True):
    """The newest model of a fleet, released or not."""

    version: str
    at: datetime
    lives: int
    """Failed lives that it learnt from."""


class Situation(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a fleet."""

    failed_lives: int
    failed_units: int
    learnt: Learnt | None = None
    coverage: Mapping[float, Coverage] = {}
    """By level: of the champion's prognoses, once the lives they spoke of have ended."""
    drifted: tuple[str, ...] = ()
    """Channels whose drift is confirmed."""
    under_way: str = ""
    """Where readings are that have not become features yet; empty when all have."""


class History(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for before."""

    requested: tuple[datetime, ...] = ()
    """Times of the requests of the last day."""
    answered: tuple[str, ...] = ()
    """The evidence of the last requests."""

    def after(self, request: "Request", now: datetime) -> "History":
        """The history with this request in it."""
        recent = tuple(at for at in self.requested if now - at < DAY)
        answered = (*self.answered, request.evidence)[-KEPT_EVIDENCE:]
        return History(requested=(*recent, now), answered=answered)


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A training that is wanted."""

    reason: Reason
    evidence: str
    """What the reason was seen in; the same evidence asks only once."""
    detail: str
    """For a person."""


class Wait(msgspec.Struct, frozen=True):
    """No training now."""

    why: str


def decide(
    situation: Situation,
    history: History,
    policy: Policy,
    *,
    now: datetime,
    active: bool = False,
    failed: Sequence[str] = (),
) -> Request | Wait:
    """Whether a fleet's model is to be learnt now.

    Args:
        situation: What is known of the fleet.
        history: What was asked for before.
        policy: How eager to be.
        now: UTC.
        active: Whether a training of the fleet is queued or runs.
        failed: The evidence of each of the fleet's trainings that failed in the last day.
    """
    if active:
        return Wait("a training of this fleet is under way")
    if situation.under_way:
        # A life that is known to have failed, learnt from without its last readings, misleads.
        return Wait(situation.under_way)
    wanted = [
        request
        for request in _reasons(situation, policy, now)
        if request.evidence not in history.answered
        or 0 < failed.count(request.evidence) < policy.attempts
    ]
    if not wanted:
        return Wait(_nothing_new(situation, policy))
    request = wanted[0]
    recent = [at for at in history.requested if now - at < DAY]
    if len(recent) >= policy.cap_per_day:
        return Wait(f"{request.detail}; but {len(recent)} trainings a day are the cap")
    latest = max([*recent, *([situation.learnt.at] if situation.learnt else [])], default=None)
    if latest is not None and now - latest < policy.cool_down:
        left = policy.cool_down - (now - latest)
        return Wait(f"{request.detail}; waits {left.total_seconds():.0f} s to cool down")
    return request


def _reasons(situation: Situation, policy: Policy, now: datetime) -> list[Request]:
    """All reasons that hold, in order of weight."""
    learnt, ended = situation.learnt, f"{situation.failed_lives} failed lives"
    if learnt is None:
        enough = situation.failed_units >= policy.least_units
        told = f"{situation.failed_units} units have failed lives, and there is no model"
        return [_request(Reason.FIRST_MODEL, ended, told)] if enough else []
    found = []
    for level, kept in situation.coverage.items():
        if not kept.reaches(level):
            told = (
                f"the {level:.0%} band held the truth of {kept.share:.0%} of {kept.n:.0f} units "
                f"that failed, of at most {kept.high:.0%} beyond chance"
            )
            found.append(_request(Reason.COVERAGE, ended, told))
    if situation.drifted:
        told = f"a drift of {', '.join(situation.drifted)} is confirmed"
        found.append(_request(Reason.DRIFT, ended, told))
    new = situation.failed_lives - learnt.lives
    if new >= policy.lives_needed(learnt.lives):
        told = f"{new} lives have failed since {learnt.version}, which learnt from {learnt.lives}"
        found.append(_request(Reason.ENDED_LIVES, ended, told))
    periods = (now - learnt.at) // policy.max_age
    if periods:
        told = f"{learnt.version} is {(now - learnt.at).days} days old"
        found.append(_request(Reason.SCHEDULE, f"{learnt.version}, period {periods}", told))
    return found


def _request(reason: Reason, seen_in: str, detail: str) -> Request:
    return Request(reason=reason, evidence=seen_in, detail=detail)


def _nothing_new(situation: Situation, policy: Policy) -> str:
    if situation.learnt is None:
        return (
            f"{situation.failed_units} of {policy.least_units} units with a failed life, "
            "which a first model needs"
        )
    new = situation.failed_lives - situation.learnt.lives
    needed = policy.lives_needed(situation.learnt.lives)
    return f"nothing new to learn: {new} of {needed} newly failed lives"
