"""Advisories: when one opens, how it lives, and who may move it from where to where.

What belongs here: the life cycle, as pure functions. What does not: its words and the rule
(``advisory_terms``), keeping advisories (``rul_store.advisories``).

The life cycle is that of ISA-18.2, with ``planned`` added to it::

    active_unacknowledged → active_acknowledged → planned → closed
             ↓ ↑ condition over, back again
    returned_unacknowledged → closed

and from every one of them to ``shelved``, ``suppressed`` (the unit is in maintenance),
``out_of_service`` and back. Prognoses and time move an advisory as people do: whatever happens to
it is a ``Change``, and each change makes a version.
"""

from datetime import datetime

from msgspec.structs import replace

from rul_core.advisory_terms import (
    Acknowledge,
    AdvisoryAction,
    AdvisoryState,
    ByPeople,
    Case,
    Change,
    Close,
    EndLife,
    EventKind,
    Evidence,
    Judge,
    Plan,
    Rule,
    Serve,
    ServiceState,
    Shelve,
    Step,
    Unshelve,
    Until,
)
from rul_core.errors import StepRefused

_S, _A = AdvisoryState, AdvisoryAction
_ALLOWED: dict[AdvisoryState, tuple[AdvisoryAction, ...]] = {
    _S.ACTIVE_UNACKNOWLEDGED: (
        _A.ACKNOWLEDGE,
        _A.PLAN,
        _A.SHELVE,
        _A.CLOSE,
    ),
    _S.ACTIVE_ACKNOWLEDGED: (
        _A.ACKNOWLEDGE,
        _A.PLAN,
        _A.SHELVE,
        _A.CLOSE,
    ),
    _S.PLANNED: (_A.PLAN, _A.SHELVE, _A.CLOSE),
    _S.RETURNED_UNACKNOWLEDGED: (_A.ACKNOWLEDGE, _A.CLOSE),
    _S.SHELVED: (_A.SHELVE, _A.UNSHELVE, _A.CLOSE),
    _S.SUPPRESSED: (_A.CLOSE,),
    _S.OUT_OF_SERVICE: (_A.CLOSE,),
    _S.CLOSED: (),
}
_ACTION_OF: dict[type, AdvisoryAction] = {
    Acknowledge: _A.ACKNOWLEDGE,
    Plan: _A.PLAN,
    Shelve: _A.SHELVE,
    Unshelve: _A.UNSHELVE,
    Close: _A.CLOSE,
}
_AFTER_CLEARED = {
    _S.ACTIVE_UNACKNOWLEDGED: _S.RETURNED_UNACKNOWLEDGED,
    _S.ACTIVE_ACKNOWLEDGED: _S.CLOSED,
}
_AWAY = {
    ServiceState.IN_MAINTENANCE: (_S.SUPPRESSED, EventKind.SUPPRESSED),
    ServiceState.OUT_OF_SERVICE: (_S.OUT_OF_SERVICE, EventKind.TAKEN_OUT_OF_SERVICE),
}


def allowed(state: AdvisoryState) -> tuple[AdvisoryAction, ...]:
    """What people may do with an advisory in this state."""
    return _ALLOWED[state]


def action_of(step: ByPeople) -> AdvisoryAction:
    """What a person does who takes the step."""
    return _ACTION_OF[type(step)]


def opened(evidence: Evidence, rule: Rule) -> Change | None:
    """The beginning of an advisory of a unit that has none; none where the rule sees no reason."""
    if not rule.under(evidence.recent_safe, rule.horizon_cycles):
        return None
    case = Case(
        state=_S.ACTIVE_UNACKNOWLEDGED,
        active=True,
        priority=rule.priority(evidence.recent_safe),
        cycle=evidence.cycle,
        safe_cycles=evidence.recent_safe[-1],
    )
    return Change(kind=EventKind.OPENED, before=None, case=case)


def advance(case: Case, step: Step, rule: Rule, now: datetime) -> tuple[Case, list[Change]]:
    """The advisory after a step, and what happened to it on the way; often nothing.

    Args:
        case: As it stands.
        step: What somebody does, or what became known.
        rule: Of its fleet.
        now: What has run out by then lapses first.

    Raises:
        StepRefused: A person may not do that with an advisory in this state, or not until then;
            says what may be done.
    """
    changes: list[Change] = []
    if case.until is not None and case.until <= now:
        case = _resumed(case, EventKind.LAPSED, changes)
    match step:
        case Evidence():
            case = _weighed(case, step, rule, changes)
        case Serve():
            case = _served(case, step.state, changes)
        case EndLife() if case.state is not _S.CLOSED:
            case = _moved(case, EventKind.CLOSED, _S.CLOSED, changes)
        case Judge():
            # Who looked has taken note; how long that holds is for the planner to say.
            case = _noted(case, EventKind.JUDGED, Until.WORSE, changes)
        case Acknowledge() | Plan() | Shelve() | Unshelve() | Close():
            _refuse(case, step, now)
            case = _done(case, step, changes)
    return case, changes


def _refuse(case: Case, step: ByPeople, now: datetime) -> None:
    action, may = action_of(step), allowed(case.state)
    if action not in may:
        raise StepRefused(
            f"an advisory that is {case.state} cannot take the step {action!s}; "
            f"it can take {', '.join(may) or 'none any more'}"
        )
    until = _date_of(step)
    if until is not None and until <= now:
        raise StepRefused(
            f"{until.isoformat()} has passed ({now.isoformat(timespec='seconds')} here); "
            f"give a later time for the step {action!s}"
        )


def _date_of(step: ByPeople) -> datetime | None:
    match step:
        case Acknowledge(until=datetime() as until) | Shelve(until=until) | Plan(due=until):
            return until
    return None


def _done(case: Case, step: ByPeople, changes: list[Change]) -> Case:
    match step:
        case Acknowledge():
            return _noted(case, EventKind.ACKNOWLEDGED, step.until, changes)
        case Plan():
            end = case.cycle + case.safe_cycles
            return _moved(
                case, EventKind.PLANNED, _S.PLANNED, changes, until=step.due, held_end_cycle=end
            )
        case Shelve():
            return _moved(case, EventKind.SHELVED, _S.SHELVED, changes, until=step.until)
        case Unshelve():
            return _resumed(case, EventKind.UNSHELVED, changes)
        case Close():
            return _moved(case, EventKind.CLOSED, _S.CLOSED, changes)


def _noted(case: Case, kind: EventKind, until: Until | datetime, changes: list[Change]) -> Case:
    """After somebody took note."""
    if case.state is _S.RETURNED_UNACKNOWLEDGED:
        return _moved(case, kind, _S.CLOSED, changes)
    if kind is EventKind.JUDGED and case.state is not _S.ACTIVE_UNACKNOWLEDGED:
        return _told(case, kind, changes)
    return _moved(
        case,
        kind,
        _S.ACTIVE_ACKNOWLEDGED,
        changes,
        until=until if isinstance(until, datetime) else None,
        until_event=until if isinstance(until, Until) else None,
        held_end_cycle=case.cycle + case.safe_cycles,
    )


def _served(case: Case, service: ServiceState, changes: list[Change]) -> Case:
    if case.state is _S.CLOSED:
        return case
    if service is ServiceState.IN_SERVICE:
        if case.state in {_S.SUPPRESSED, _S.OUT_OF_SERVICE}:
            return _resumed(case, EventKind.BACK_IN_SERVICE, changes)
        return case
    state, kind = _AWAY[service]
    return case if case.state is state else _moved(case, kind, state, changes)


def _weighed(case: Case, evidence: Evidence, rule: Rule, changes: list[Change]) -> Case:
    if case.state is _S.CLOSED:
        return case
    recent, later, before = evidence.recent_safe, evidence.cycle > case.cycle, case.priority
    case = replace(case, cycle=evidence.cycle, safe_cycles=recent[-1])
    if rule.priority(recent).rank > before.rank:
        case = _told(replace(case, priority=rule.priority(recent)), EventKind.WORSENED, changes)
    if case.active and rule.is_clear(recent):
        case = replace(case, active=False)
        if case.state in _AFTER_CLEARED:
            return _moved(case, EventKind.CLEARED, _AFTER_CLEARED[case.state], changes)
        return _told(case, EventKind.CLEARED, changes)
    if not case.active and rule.under(recent, rule.horizon_cycles):
        case = replace(case, active=True)
        if case.state is _S.RETURNED_UNACKNOWLEDGED:
            return _moved(case, EventKind.RECURRED, _S.ACTIVE_UNACKNOWLEDGED, changes)
        return _told(case, EventKind.RECURRED, changes)
    nearer = case.held_end_cycle is not None and (
        case.cycle + case.safe_cycles < case.held_end_cycle - rule.margin_cycles
    )
    is_over = {
        Until.NEXT_READING: later,
        Until.WORSE: nearer or case.priority is not before,
        None: nearer and case.active and case.state is _S.PLANNED,
    }
    if is_over[case.until_event]:
        return _resumed(case, EventKind.LAPSED, changes)
    return case


def _resumed(case: Case, kind: EventKind, changes: list[Change]) -> Case:
    """Back among those that want somebody, if there is still a reason."""
    return _moved(case, kind, _S.ACTIVE_UNACKNOWLEDGED if case.active else _S.CLOSED, changes)


def _moved(
    case: Case,
    kind: EventKind,
    to: AdvisoryState,
    changes: list[Change],
    *,
    until: datetime | None = None,
    until_event: Until | None = None,
    held_end_cycle: float | None = None,
) -> Case:
    """In that state; what held in the one before holds no more."""
    after = replace(
        case,
        state=to,
        until=until,
        until_event=until_event,
        held_end_cycle=held_end_cycle,
    )
    changes.append(Change(kind=kind, before=case.state, case=after))
    return after


def _told(case: Case, kind: EventKind, changes: list[Change]) -> Case:
    """In the same state; what holds goes on."""
    changes.append(Change(kind=kind, before=case.state, case=case))
    return case
