"""Which runs may go: all of the last two days stay, then one a day, and never the last that proved.

What belongs here: the decision, from numbers and times alone. What does not: letting go (``runs``).
"""

import itertools
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from rul_core.errors import StoreError

FUTURE = timedelta(minutes=5)
"""What is later than what came after it, or than now, by more: the clock was set back."""
SILENCE = timedelta(hours=24)
"""No run for longer: the clock was set forward, or backups had stopped. Which of them, a person
says before any goes. A shorter jump is not seen, and a run goes as much too early."""


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


class Confirmed(NamedTuple):
    """Somebody has looked at the clock, and says that it is right."""

    number: int
    """Of the newest run at that moment: what is up to it is trusted."""
    at: datetime


class Line(NamedTuple):
    """What tells a clock that jumped: when each run ended, also of those that went."""

    ended: Sequence[tuple[int, datetime]]
    """By number. Those that stay are not enough: where others went, there is a gap."""
    confirmed: Confirmed | None = None


class Plan(NamedTuple):
    """What stays, with the reason, and what goes; by number."""

    keep: dict[int, str]
    drop: tuple[int, ...]


def plan(runs: Sequence[There], policy: Policy, now: datetime, line: Line) -> Plan:
    """Decide of every run.

    The newest run of each day, week or month speaks for it. Runs follow one another by their
    number, which no clock changes.

    Args:
        runs: All that the store has.
        policy: For how long they stay.
        now: By this machine's clock.
        line: All that ever were.

    Raises:
        StoreError: The clock was set forward or back, or no run came for a day, and nobody has
            confirmed the clock since.
    """
    if not runs:
        return Plan({}, ())
    ordered = sorted(runs, key=lambda run: run.number, reverse=True)
    _trust(line, now)
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


def _trust(line: Line, now: datetime) -> None:
    """See that the clock went on as runs followed one another, from the last confirmation on."""
    number, at = line.confirmed or (0, None)
    told = [("somebody confirmed the clock", at)] if at else []
    told += [(f"the run {one} ended", ended) for one, ended in sorted(line.ended) if one > number]
    for (what, before), (then, after) in itertools.pairwise([*told, ("it is now", now)]):
        if -FUTURE <= after - before <= SILENCE:
            continue
        happened = (
            "the clock was set back"
            if after < before
            else "backups had stopped, or the clock was set forward"
        )
        raise StoreError(
            f"at {before:%Y-%m-%d %H:%M} {what}, and next at {after:%Y-%m-%d %H:%M} {then}: "
            f"{happened}; nothing is let go. Where the clock is right now, see what would go by "
            "`rul backup prune --clock-is-right`, and confirm it with --apply"
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
