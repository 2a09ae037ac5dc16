"""The application in a process of its own, keys on, with something of everything in it.

What belongs here: the process, its data, and the document as it is of its fleet. What does not: how
it is asked (``fuzzing``).
"""

import copy
import json
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import redis
import sqlalchemy as sa
from pydantic import SecretStr

from rul_core.schema import CYCLE
from rul_serving.settings import AccessMode, ServingSettings
from rul_store import champions, fleets, shadow
from rul_store.database import begin, connect, create_database
from rul_store.embedded import EmbeddedServers
from tests.conftest import TEMPLATE
from tests.serving.conftest import Learnt, Platform
from tests.serving.test_advisories import LATER, say
from tests.serving.test_process import environment, process, start

DOCUMENT = Path(__file__).parents[2] / "docs" / "openapi.json"
PATIENT = {
    "RUL_DATABASE_TIMEOUT_SECONDS": "60",
    "RUL_REQUESTS_PER_SECOND": "1e9", "RUL_REQUESTS_BURST": "1000000000",
    "RUL_SENDINGS_PER_SECOND": "1e9", "RUL_SENDINGS_BURST": "1000000000",
}  # fmt: skip
"""An answer 429 or 503 would say nothing of an operation."""

EVENT = {
    "type": "object",
    "properties": {
        "event": {"enum": ["prognosis", "advisory", "reset", "end"]},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
    "required": ["event", "data"],
}
"""An event of a stream."""


@dataclass
class Served:
    """A running application and what is in it."""

    platform: Platform
    address: str
    key: str
    versions: list[str]
    log: list[str]
    """What the process wrote, line by line."""
    _numbers: count = field(default_factory=count)

    @property
    def document(self) -> dict[str, Any]:
        """The document, with what only this fleet's description says: its channels."""
        return _of_fleet(json.loads(DOCUMENT.read_text()), self)

    @property
    def live(self) -> str:
        """The version that answers."""
        champion = champions.current(self.platform.engine, "pumps")
        assert champion is not None
        return champion.version

    def real(self) -> dict[str, list[str]]:
        """Things that are there, by parameter: new ones each time, since they may be used up."""
        number = next(self._numbers)
        units = [f"ill-{number}-{each}" for each in range(4)]
        for unit in units:
            say(self.platform, unit, 4.0, 3.0)
        self._shelve(units[0])
        with begin(self.platform.engine) as connection:
            advisories = connection.scalars(
                sa.text("SELECT advisory_id::text FROM advisories WHERE unit = ANY(:units)"),
                {"units": units},
            ).all()
            entries = connection.scalars(
                sa.text(
                    "SELECT ledger_id::text FROM ledger WHERE unit = ANY(:units) "
                    "OR unit = 'unit-000001' ORDER BY position DESC LIMIT 8"
                ),
                {"units": units},
            ).all()
        victims = [self.platform.key("viewer")[4:12] for _ in range(3)]
        return {
            "path.fleet": ["pumps"],
            "path.unit": [*units, "unit-000001"],
            # The one that is live answers questions, the other may be promoted.
            "path.version": sorted(self.versions, key=lambda each: each != self.live),
            "path.picture": ["coverage.png"],
            "path.advisory_id": list(advisories),
            "path.ledger_id": list(entries),
            "path.key_id": victims,
            "path.name": ["not-found"],
            "header.If-Match": ["*"],
            "header.Last-Event-ID": ["0"],
            "body.fleet": ["pumps"],
            "body.version": sorted(self.versions, key=lambda each: each == self.live),
        }

    def challenge(self, *, is_challenged: bool) -> None:
        """See that the champion has a challenger, or none."""
        engine, given = self.platform.engine, {"by": "a test", "reason": "to compare"}
        if "pumps" in shadow.nominees(engine):
            shadow.withdraw(engine, "pumps", **given)
        if is_challenged:
            other = next(version for version in self.versions if version != self.live)
            shadow.nominate(engine, self.platform.root, "pumps", other, **given)

    def _shelve(self, unit: str) -> None:
        with httpx.Client(base_url=self.address, headers={"x-api-key": self.key}) as client:
            path = f"/v1/fleets/pumps/advisories?unit={unit}"
            (advisory,) = client.get(path).json()["advisories"]
            client.post(
                f"/v1/advisories/{advisory['advisory_id']}/shelve",
                json={"reason": "a bad sensor", "until_time": LATER},
                headers={"If-Match": "*"},
            ).raise_for_status()


@contextmanager
def served(root: Path, servers: EmbeddedServers, learnt: Learnt) -> Generator[Served]:
    """The application with two released models, a unit that sent readings, and an administrator."""
    name = f"test_{uuid.uuid4().hex}"
    url = create_database(servers.database_url, name, template=TEMPLATE)
    with redis.Redis.from_url(servers.redis_url) as client:
        client.flushall()
    fleets.save(root, learnt.training.model.fleet)
    settings = ServingSettings(
        root=root, database_url=SecretStr(url), redis_url=None, access=AccessMode.KEYS
    )
    engine = connect(url)
    platform = Platform(settings, engine, learnt)
    before = platform.promote(platform.train(pictures={"coverage.png": b"a picture"}))
    after = platform.promote(platform.train(pictures={"coverage.png": b"another"}))
    key = platform.key("admin", name="who asks")
    more = {"RUL_REDIS_URL": servers.redis_url, **PATIENT}
    with process(**environment(platform), **more) as service:
        log, address = start(service)
        reader = Thread(target=lambda: log.extend(service.stdout or ()))
        reader.start()
        here = Served(platform, address, key, [before.version, after.version], log)
        (window,) = platform.question("unit-000001")["units"]
        readings = [{"unit": "unit-000001", **reading} for reading in window["readings"]]
        answer = httpx.post(
            f"{address}/v1/fleets/pumps/readings", json=readings, headers={"x-api-key": key}
        )
        assert answer.status_code == 200, answer.text
        yield here
        service.terminate()
        reader.join(timeout=60)
    engine.dispose()


def _of_fleet(document: dict[str, Any], here: Served) -> dict[str, Any]:
    channels = here.platform.learnt.training.model.fleet.channels
    schemas = document["components"]["schemas"]
    for name in ("Reading", "WindowReading"):
        schemas[name]["properties"]["values"] = {
            "type": "object",
            "properties": {
                name: {"anyOf": [{"type": "number"}, {"type": "null"}]} for name in channels
            },
            "required": list(channels),
            "additionalProperties": False,
        }
    question = here.platform.question("unit-000001", last=20)
    (window,) = question["units"]
    first = window["readings"][0]
    reading = {"unit": "new", **first}
    lines = [["unit", CYCLE, *channels], ["newer", 1, *first["values"].values()]]
    width = len(here.platform.learnt.training.model.pipeline.names)
    tensor = {"name": "features", "shape": [1, width], "datatype": "FP64", "data": [None] * width}
    rows = {"inputs": [tensor]}
    real = {
        "sendReadings": {
            "application/json": [reading],
            "application/x-ndjson": json.dumps({**reading, "unit": "newest"}),
            "text/csv": "\n".join(",".join(map(str, line)) for line in lines) + "\n",
        },
        "prognoseWindows": {"application/json": question},
        "infer": {"application/json": rows},
        "inferVersion": {"application/json": rows},
    }
    # OpenAPI 3.1 has a schema for a stream as a whole, and the tool takes it for that of an event.
    stream = document["paths"]["/v1/fleets/{fleet}/events"]["get"]["responses"]["200"]["content"]
    stream["text/event-stream"] = {"schema": EVENT}
    for path in ("/v2/models/{fleet}/versions/{version}/infer",):
        for parameter in document["paths"][path]["post"]["parameters"]:
            live = {"fleet": "pumps", "version": here.live}
            parameter["examples"] = {"live": {"value": live[parameter["name"]]}}
    for operations in document["paths"].values():
        for operation in operations.values():
            for kind, value in real.get(operation["operationId"], {}).items():
                body = operation["requestBody"]["content"][kind]
                body["examples"] = {"real": {"value": copy.deepcopy(value)}}
    return document
