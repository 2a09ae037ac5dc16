"""What questions and answers look like, for the OpenAPI document; a test holds them to the schemas.

What belongs here: examples. What does not: their types (``answers``, ``windows``).
"""

from datetime import UTC, datetime
from typing import Any

import msgspec
from litestar.openapi import ResponseSpec
from litestar.openapi.spec import Example

from rul_core.prognosis import Contribution, Prognosis, Provenance, State
from rul_serving.answers import (
    Fleets,
    FleetSummary,
    NewApiKey,
    Prognoses,
    RankedUnits,
    Received,
)
from rul_serving.inference import InferenceResponse, OutputTensor
from rul_store.audit import AuditEntry, AuditPage
from rul_store.keys import ApiKey

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
    provenance=Provenance(
        model_version="20261123T041500Z-0a1b2c",
        feature_spec="acf71e6c44495883",
        first_cycle=1.0,
        last_cycle=141.0,
        readings=141,
        trace_id="4bf92f3577b34da6a3ce929d0e0e4736",
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
PROGNOSES = Prognoses(prognoses=[PROGNOSIS])
RANKED = RankedUnits(
    fleet="pumps",
    units=[PROGNOSIS],
    units_by_state=dict.fromkeys(State, 0) | {State.ESTIMATED: 41, State.SENSOR_FAULT: 2},
    units_without_valid_prognosis=2,
    next_cursor="WzAuMTcsInB1bXAtNyJd",
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


def shown(answer: msgspec.Struct, summary: str, status: int = 200) -> dict[int, ResponseSpec]:
    """The answer as an example, for ``responses=`` of a handler."""
    example = Example(summary=summary, value=msgspec.to_builtins(answer))
    return {
        status: ResponseSpec(
            type(answer), generate_examples=False, description=summary, examples=[example]
        )
    }
