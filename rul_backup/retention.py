"""Which runs may go: all of the last two days stay, then one a day, and never the last that proved.

What belongs here: the decision, from numbers and times alone. What does not: letting go (``runs``).
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from rul_core.errors import StoreError

FUTURE = timedelta(minutes=5)
"""A run that ended later than now by more: the clock was set back."""
SILENCE = timedelta(hours=24)
"""No run for longer: the clock was set forward, or backups have stopped. Neither is a time to let
any go."""


class Policy(NamedTuple):
    """For how long runs stay."""

    all_for: timedelta = timedelta(hours=48)
    daily_for: timedelta = timedelta(days=30)
    weekly_for: timedelta = timedelta(0)
    monthly_for: timedelta = timedelta(0)
    fewest_proven: int = 2
    """The newest that a drill restored stay, whatever their age."""


class There(NamedTuple):
    """A run that a store has."""

    number: int
    finished_at: datetime
    proven: bool
    """A drill restored it."""


class Plan(NamedTuple):
    """What stays, with the reason, and what goes; by number."""

    keep: dict[int, str]
    drop: tuple[int, ...]


def plan(runs: Sequence[There], policy: Policy, now: datetime) -> Plan:
    """Decide of every run.

    The newest run of each day, week or month speaks for it. Runs follow one another by their
    number, which no clock changes.

    Args:
        runs: All that the store has.
        policy: For how long they stay.
        now: By this machine's clock.

    Raises:
        StoreError: The clock was set forward or back, or no run came for a day.
    """
    if not runs:
        return Plan({}, ())
    ordered = sorted(runs, key=lambda run: run.number, reverse=True)
    _trust(ordered, now)
    keep = {ordered[0].number: "the newest"}
    for run in [run for run in ordered if run.proven][: policy.fewest_proven]:
        keep.setdefault(run.number, "among the newest that a drill restored")
    for run in ordered:
        if now - run.finished_at <= policy.all_for:
            keep.setdefault(run.number, f"not older than {_told(policy.all_for)}")
    for span, name, period in (
        (policy.daily_for, "day", _day),
        (policy.weekly_for, "week", _week),
        (policy.monthly_for, "month", _month),
    ):
        for run in _newest_of_each(ordered, period):
            if now - run.finished_at <= span:
                keep.setdefault(run.number, f"the newest of its {name}")
    drop = tuple(sorted(run.number for run in runs if run.number not in keep))
    return Plan(dict(sorted(keep.items())), drop)


def _trust(ordered: Sequence[There], now: datetime) -> None:
    latest = max(run.finished_at for run in ordered)
    if latest > now + FUTURE:
        raise StoreError(
            f"a run ended at {latest:%Y-%m-%d %H:%M} and it is {now:%Y-%m-%d %H:%M} now: the clock "
            "was set back; nothing is let go until it is right"
        )
    if now - latest > SILENCE:
        raise StoreError(
            f"the newest run ended at {latest:%Y-%m-%d %H:%M} and it is {now:%Y-%m-%d %H:%M} now: "
            "backups have stopped, or the clock was set forward; nothing is let go until one ran"
        )


def _newest_of_each(
    ordered: Sequence[There], period: Callable[[datetime], tuple[int, ...]]
) -> list[There]:
    found: dict[tuple[int, ...], There] = {}
    for run in ordered:
        found.setdefault(period(run.finished_at.astimezone(UTC)), run)
    return list(found.values())


def _day(at: datetime) -> tuple[int, ...]:
    return (at.year, at.month, at.day)


def _week(at: datetime) -> tuple[int, ...]:
    return tuple(at.isocalendar()[:2])


def _month(at: datetime) -> tuple[int, ...]:
    return (at.year, at.month)


def _told(span: timedelta) -> str:
    return f"{span.total_seconds() / 3600:g} hours"
