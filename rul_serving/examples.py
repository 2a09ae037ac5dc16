"""What questions and answers look like, for the OpenAPI document; a test holds them to the schemas.

What belongs here: examples. What does not: their types (``answers``, ``windows``).
"""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
from litestar.openapi import ResponseSpec
from litestar.openapi.spec import Example

from rul_core.advisories import allowed
from rul_core.advisory_terms import (
    AdvisoryState,
    EventKind,
    Priority,
    Rule,
    ServiceState,
    Until,
)
from rul_core.metrics import Coverage
from rul_core.prognosis import (
    Contribution,
    Explanation,
    Lookalike,
    Prognosis,
    Provenance,
    Seen,
    State,
)
from rul_core.resampling import Paired
from rul_core.schema import Outcome
from rul_core.shadow import Comparison
from rul_core.track_record import Held, LeadError, TrackRecord, VersionRecord
from rul_serving.answers import (
    Advisories,
    AdvisoryHistory,
    Backups,
    ChampionHistory,
    Fleets,
    FleetSummary,
    FleetTrackRecord,
    ModelVersions,
    Moved,
    NewApiKey,
    Prognoses,
    RankedUnits,
    Received,
    ShadowReport,
    UnitHistory,
)
from rul_serving.inference import InferenceResponse, OutputTensor
from rul_serving.live import MEDIA_TYPE, EndReason, StreamEnd, StreamReset, event
from rul_store.advisories import UnitService
from rul_store.advisory_rows import Advisory, AdvisoryEvent
from rul_store.audit import AuditEntry, AuditPage
from rul_store.backup_rows import BackupRun, BackupStore, RestoreProof
from rul_store.champions import Action, Champion
from rul_store.keys import ApiKey
from rul_store.ledger import Recorded
from rul_store.news import Cursor, Place
from rul_store.replay import Replayed, ReplayVerdict
from rul_store.set_aside import SetAside, SetAsidePage
from rul_store.shadow import Nominee, Pair
from rul_store.unit_lives import Life, UnitLives
from rul_store.verdicts import AlarmRecord, Finding, Verdict
from rul_store.versions import ModelVersion, Standing

INFERENCE = Example(
    summary="Two rows of three features",
    value={
        "id": "a1",
        "inputs": [
            {
                "name": "features",
                "shape": [2, 3],
                "datatype": "FP32",
                "data": [141.0, -0.32, None, 142.0, -0.35, 1.8],
            }
        ],
        "outputs": [{"name": "rul_cycles"}],
    },
)
INFERRED = InferenceResponse(
    model_name="pumps",
    model_version="20261123T041500Z-0a1b2c",
    outputs=[OutputTensor(name="rul_cycles", shape=[2], data=[38.2, 36.9])],
    id="a1",
)
QUESTION: dict[str, Any] = {
    "fleet": "pumps",
    "units": [
        {
            "unit": "pump-7",
            "readings": [
                {"cycle": 1, "values": {"load": 0.8, "vibration": 1.9, "temperature": 61.2}},
                {"cycle": 2, "values": {"load": 0.8, "vibration": 2.1, "temperature": 61.5}},
            ],
        }
    ],
    "explain": True,
}
LEDGER_ID = UUID("8f14e45f-ceea-467f-a0b6-6dd9b0a3c2d1")
PROGNOSIS = Prognosis(
    fleet="pumps",
    unit="pump-7",
    life=1,
    cycle=141.0,
    state=State.ESTIMATED,
    rul_cycles=38.2,
    lower_50_cycles=33.0,
    upper_50_cycles=44.1,
    lower_90_cycles=24.6,
    upper_90_cycles=57.3,
    safe_cycles=24.6,
    failure_probability=0.17,
    horizon_cycles=30.0,
    contributions=(
        Contribution(group="typical", cycles=82.9),
        Contribution(group="vibration", cycles=-44.7),
    ),
    explanation=Explanation(
        stability=0.91,
        readings=4,
        lookalikes=(
            Lookalike(
                unit="pump-2",
                life=1,
                cycle=152.0,
                end_cycle=187.0,
                rul_cycles=35.0,
                distance=0.21,
            ),
        ),
    ),
    provenance=Provenance(
        model_version="20261123T041500Z-0a1b2c",
        feature_spec="acf71e6c44495883",
        first_cycle=1.0,
        last_cycle=141.0,
        last_read_at=datetime(2026, 11, 23, 4, 14, tzinfo=UTC),
        readings=141,
        seen=Seen(landed_rows=0, sent_seq=5120),
        trace_id="4bf92f3577b34da6a3ce929d0e0e4736",
        ledger_id=LEDGER_ID,
    ),
    computed_at=datetime(2026, 11, 23, 4, 15, tzinfo=UTC),
)
READING: dict[str, Any] = {
    "unit": "pump-7",
    "cycle": 141,
    "time": "2026-11-23T04:15:00Z",
    "values": {"load": 0.8, "vibration": 4.4, "temperature": 71.0},
}
RECEIVED = Received(
    fleet="pumps",
    new=1,
    repeated=0,
    conflicts=0,
    errors=[],
    warnings=[],
    prognoses=[PROGNOSIS],
)
SET_ASIDE = SetAsidePage(
    fleet="pumps",
    readings=[
        SetAside(
            unit="pump-7",
            life=1,
            cycle=141.0,
            time=datetime(2026, 11, 23, 4, 15, tzinfo=UTC),
            values={"load": 0.8, "vibration": 44.0, "temperature": 71.0},
            kept_time=datetime(2026, 11, 23, 4, 15, tzinfo=UTC),
            kept_values={"load": 0.8, "vibration": 4.4, "temperature": 71.0},
            reason="conflict",
            set_aside_at=datetime(2026, 11, 23, 5, 15, tzinfo=UTC),
            trace_id="4bf92f3577b34da6a3ce929d0e0e4736",
        )
    ],
    next_cursor="eyJiZWZvcmUiOjd9",
)
PROGNOSES = Prognoses(prognoses=[PROGNOSIS])
RANKED = RankedUnits(
    fleet="pumps",
    units=[PROGNOSIS],
    units_by_state=dict.fromkeys(State, 0) | {State.ESTIMATED: 41, State.SENSOR_FAULT: 2},
    units_without_valid_prognosis=2,
    next_cursor="WzAuMTcsInB1bXAtNyJd",
)
RECORDED = Recorded(
    ledger_id=LEDGER_ID,
    position=812,
    recorded_at=datetime(2026, 11, 23, 4, 15, tzinfo=UTC),
    prognosis=PROGNOSIS,
    prev_hash="3b" * 32,
    hash="9c" * 32,
)
UNIT_HISTORY = UnitHistory(fleet="pumps", unit="pump-7", entries=[RECORDED], next_cursor="ODEy")
REPLAYED = Replayed(ledger_id=LEDGER_ID, fleet="pumps", position=812, verdict=ReplayVerdict.EQUAL)
_RECORD = VersionRecord(
    lives=17,
    censored_lives=3,
    prognoses=1204,
    coverage=(
        Held(level=0.5, coverage=Coverage(share=0.53, low=0.28, high=0.77, n=17)),
        Held(level=0.9, coverage=Coverage(share=0.91, low=0.66, high=0.99, n=17)),
    ),
    mean_abs_error_cycles=9.4,
    alpha_lambda_share=0.58,
    early_share=0.12,
    late_share=0.08,
    by_lead=(
        LeadError(
            from_cycles=0.0, to_cycles=12.5, lives=17, prognoses=201, mean_abs_error_cycles=3.1
        ),
    ),
)
TRACK_RECORD = FleetTrackRecord(
    fleet="pumps",
    as_of=datetime(2026, 11, 23, 4, 15, tzinfo=UTC),
    record=TrackRecord(overall=_RECORD, versions=()),
)
FLEETS = Fleets(
    fleets=[
        FleetSummary(
            name="pumps",
            description="Feed pumps of the northern site",
            unit_of_life="hours",
            settings=["load"],
            sensors=["vibration", "temperature"],
            label_cap_cycles=125.0,
            horizon_cycles=30.0,
            served_version="20261123T041500Z-0a1b2c",
        )
    ],
    broken=[],
)


KEY_REQUEST: dict[str, Any] = {
    "name": "Ann Planner",
    "roles": ["planner"],
    "fleets": ["pumps"],
    "expires_in_days": 365,
}
KEY = ApiKey(
    key_id="k3v9x0qa",
    prefix="rul_k3v9x0qa",
    name="Ann Planner",
    roles=("planner",),
    fleets=("pumps",),
    created_at=datetime(2026, 11, 23, 4, 15, tzinfo=UTC),
    created_by="first admin",
    expires_at=datetime(2027, 11, 23, 4, 15, tzinfo=UTC),
    state="active",
)
NEW_KEY = NewApiKey(api_key=f"{KEY.prefix}_" + "·" * 43, key=KEY)
REVOKED_KEY = msgspec.structs.replace(
    KEY, revoked_at=datetime(2026, 12, 1, 9, 30, tzinfo=UTC), state="revoked"
)
DRILL = RestoreProof(
    number=411,
    proven_at=datetime(2026, 11, 23, 3, 43, 6, tzinfo=UTC),
    seconds=6.2,
    differences=(),
    log_reaches_at=datetime(2026, 11, 23, 3, 42, 21, tzinfo=UTC),
    recovery_point_seconds=45.0,
)
BACKUPS = Backups(
    stores=[
        BackupStore(
            store="local",
            newest=BackupRun(
                number=412,
                run="20261123T040702Z-5f3a1c",
                sha256="9b" * 32,
                started_at=datetime(2026, 11, 23, 4, 7, 2, tzinfo=UTC),
                finished_at=datetime(2026, 11, 23, 4, 7, 9, tzinfo=UTC),
                stored_bytes=48_112_640,
            ),
            last_drill=DRILL,
            last_proven=DRILL,
        )
    ]
)

AUDIT = AuditPage(
    entries=[
        AuditEntry(
            position=7,
            at=datetime(2026, 11, 23, 4, 15, tzinfo=UTC),
            principal="first admin",
            action="key.create",
            target=KEY.prefix,
            detail={"name": KEY.name, "roles": ["planner"], "fleets": ["pumps"]},
            trace_id="4bf92f3577b34da6a3ce929d0e0e4736",
            prev_hash="5f" * 32,
            hash="c4" * 32,
        )
    ],
    next_cursor="Nw",
)


ADVISORY = Advisory(
    advisory_id=UUID("0b7cf4a2-6a4f-4a39-9f0e-0d5c4c3b8a11"),
    fleet="pumps",
    unit="pump-7",
    life=1,
    version=2,
    state=AdvisoryState.ACTIVE_ACKNOWLEDGED,
    active=True,
    priority=Priority.HIGH,
    allowed=allowed(AdvisoryState.ACTIVE_ACKNOWLEDGED),
    cycle=151.0,
    safe_cycles=14.2,
    until_event=Until.WORSE,
    held_end_cycle=165.2,
    prognoses=6,
    first_ledger_id=UUID("5a1f2f57-0e5f-6c1e-93a2-b5d9b1f6c0de"),
    last_ledger_id=UUID("c2d4e6f8-1b3d-5f70-8294-a6b8cadcedfe"),
    rule=Rule(
        below=2,
        of_last=3,
        horizon_cycles=30.0,
        clear_cycles=36.0,
        high_cycles=15.0,
        urgent_cycles=6.0,
        cause="The model expects the unit's end within the lead time.",
        consequence="The northern site runs on one pump.",
        action="Look at the bearing; order a spare.",
        time_to_respond="Before the safe cycles that are left have passed.",
    ),
    opened_at=datetime(2026, 11, 23, 4, 15, tzinfo=UTC),
    changed_at=datetime(2026, 11, 23, 6, 2, tzinfo=UTC),
)
ADVISORIES = Advisories(
    fleet="pumps",
    advisories=[ADVISORY],
    record=AlarmRecord(confirmed=11, false_alarms=2, not_said=3),
    next_cursor="WyJoaWdoIl0",
)
LIFE_CHANGE: dict[str, Any] = {
    "end": {"outcome": "replaced", "end_cycle": 155, "time": "2026-11-24T08:00:00Z"},
    "start": {"life": 2},
}
LIVES = UnitLives(
    fleet="pumps",
    unit="pump-7",
    service=UnitService(state=ServiceState.IN_SERVICE),
    lives=(
        Life(
            life=1,
            outcome=Outcome.REPLACED,
            end_cycle=155.0,
            started_at=datetime(2026, 5, 2, 7, 0, tzinfo=UTC),
            ended_at=datetime(2026, 11, 24, 9, 12, tzinfo=UTC),
            end_time=datetime(2026, 11, 24, 8, 0, tzinfo=UTC),
            source="Ann Planner",
        ),
        Life(
            life=2,
            outcome=Outcome.RUNNING,
            started_at=datetime(2026, 11, 24, 9, 12, tzinfo=UTC),
            source="Ann Planner",
        ),
    ),
)
SERVICE_CHANGE: dict[str, Any] = {"state": "in_maintenance", "reason": "the yearly overhaul"}
SERVICE = UnitService(
    state=ServiceState.IN_MAINTENANCE,
    since=datetime(2026, 11, 24, 7, 30, tzinfo=UTC),
    by="Ann Planner",
    why="the yearly overhaul",
)
ADVISORY_VERDICT: dict[str, Any] = {"finding": "found_nothing", "note": "the sensor was loose"}
UNIT_VERDICT: dict[str, Any] = {
    "finding": "found_damage",
    "mode": "vibration",
    "mechanism": "wear",
    "note": "the outer ring is pitted",
    "end": {"outcome": "replaced", "end_cycle": 155},
}
VERDICT = Verdict(
    verdict_id=UUID("7d4c1c0e-8f0d-4c67-8a15-4a2f3c9f2a10"),
    fleet="pumps",
    unit="pump-7",
    life=1,
    advisory_id=ADVISORY.advisory_id,
    finding=Finding.FOUND_DAMAGE,
    mode="vibration",
    mechanism="wear",
    note="the outer ring is pitted",
    outcome=Outcome.REPLACED,
    given_at=datetime(2026, 11, 24, 9, 12, tzinfo=UTC),
    given_by="Tom Technician",
)
HISTORY = AdvisoryHistory(
    events=[
        AdvisoryEvent(
            advisory_id=ADVISORY.advisory_id,
            fleet="pumps",
            unit="pump-7",
            version=2,
            position=40,
            kind=EventKind.ACKNOWLEDGED,
            before=AdvisoryState.ACTIVE_UNACKNOWLEDGED,
            after=AdvisoryState.ACTIVE_ACKNOWLEDGED,
            active=True,
            priority=Priority.HIGH,
            cycle=151.0,
            safe_cycles=14.2,
            until_event=Until.WORSE,
            at=datetime(2026, 11, 23, 6, 2, tzinfo=UTC),
            who="Tom Technician",
            why="I shall look at it today",
        )
    ],
    verdicts=[VERDICT],
    next_cursor="Mg",
)
ACKNOWLEDGEMENT: dict[str, Any] = {"reason": "I shall look at it today", "until": "worse"}
PLANNING: dict[str, Any] = {"reason": "with the shutdown", "due_time": "2026-11-29T06:00:00Z"}
SHELVING: dict[str, Any] = {"reason": "a known bad sensor", "until_time": "2026-12-01T06:00:00Z"}
BECAUSE: dict[str, Any] = {"reason": "the bearing was greased"}
_THEN = Place(40, "51f0a9e2")
_AT = Cursor(prognosis=Place(812, "9c9c9c9c"), advisory=Place(39, "08d2c5aa"))
EVENTS = {
    "prognosis": Recorded,
    "advisory": AdvisoryEvent,
    "reset": StreamReset,
    "end": StreamEnd,
}
"""What the data of each event of a stream is."""
STREAM = b"".join(
    (
        b"retry: 2000\nid: 811.4be01a77-39.08d2c5aa\n\n",
        event("prognosis", msgspec.json.encode(RECORDED), _AT),
        event(
            "advisory",
            msgspec.json.encode(HISTORY.events[0]),
            msgspec.structs.replace(_AT, advisory=_THEN),
        ),
        b": nothing new\nid: 812.9c9c9c9c-40.51f0a9e2\n\n",
        event("end", msgspec.json.encode(StreamEnd(reason=EndReason.STOPPING))),
    )
).decode()


def streamed() -> dict[int, ResponseSpec]:
    """The stream as an example, for ``responses=`` of a handler."""
    return {
        200: ResponseSpec(
            str,
            generate_examples=False,
            description="Events, until the client leaves or `end` says why",
            media_type=MEDIA_TYPE,
            examples=[Example(summary="A prognosis opens an advisory", value=STREAM)],
        )
    }


CHAMPION = Champion(
    fleet="pumps",
    version="20261124T031500Z-5e1f02",
    generation=4,
    promoted_at=datetime(2026, 11, 26, 9, 0, tzinfo=UTC),
    promoted_by="Mia Modeller",
    reason="a week in the shadow: 3 cycles nearer",
    action=Action.PROMOTE,
)
CHAMPIONS = ChampionHistory(fleet="pumps", moves=[CHAMPION], next_cursor="NA")
VERSIONS = ModelVersions(
    fleet="pumps",
    generation=4,
    versions=[
        ModelVersion(
            version="20261125T031500Z-77aa10",
            standing=Standing.REFUSED,
            made_at=datetime(2026, 11, 25, 3, 15, tzinfo=UTC),
            held_back=("coverage: the 90% band held 71.0% of the truth",),
        ),
        ModelVersion(
            version=CHAMPION.version,
            standing=Standing.CHAMPION,
            made_at=datetime(2026, 11, 24, 3, 15, tzinfo=UTC),
            live_since=CHAMPION.promoted_at,
        ),
    ],
    next_cursor="eyJ2ZXJzaW9uIjoiMjAyNjExMjRUMDMxNTAwWi01ZTFmMDIifQ",
)
PROMOTION: dict[str, Any] = {"reason": CHAMPION.reason}
WORSE: dict[str, Any] = {"reason": "it sees damage where there is none"}
MOVED = Moved(champion=CHAMPION, warning="")


NOMINATION: dict[str, Any] = {"version": CHAMPION.version, "reason": "a week beside the champion"}
NOMINEE = Nominee(
    fleet="pumps",
    version=CHAMPION.version,
    since=datetime(2026, 11, 24, 9, 0, tzinfo=UTC),
    nominated_by="Mia Modeller",
    reason="a week beside the champion",
)
SHADOW = ShadowReport(
    fleet="pumps",
    version=NOMINEE.version,
    challenger=NOMINEE,
    problem="",
    comparison=Comparison(
        champion=_RECORD,
        challenger=msgspec.structs.replace(_RECORD, mean_abs_error_cycles=6.6),
        paired=Paired(
            difference_cycles=-2.9,
            rmse_b_cycles=12.1,
            low_cycles=-4.4,
            high_cycles=-1.2,
            probability_a_is_better=0.99,
            units=17,
        ),
        pairs=388,
    ),
    pairs=[
        Pair(
            unit="pump-7",
            life=1,
            cycle=151.0,
            champion=PROGNOSIS,
            challenger=PROGNOSIS,
            difference_cycles=0.0,
        )
    ],
    next_cursor="InB1bXAtNyI",
)


def shown(answer: msgspec.Struct, summary: str, status: int = 200) -> dict[int, ResponseSpec]:
    """The answer as an example, for ``responses=`` of a handler."""
    example = Example(summary=summary, value=msgspec.to_builtins(answer))
    return {
        status: ResponseSpec(
            type(answer), generate_examples=False, description=summary, examples=[example]
        )
    }
