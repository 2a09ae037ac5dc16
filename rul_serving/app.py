"""The application: routes, errors, metrics and the service, put together by one factory.

What belongs here: the wiring. What does not: anything that decides. Importing this does nothing;
``create_app`` reads settings; servers are reached once the application starts.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from litestar import Litestar, Request, Router
from litestar.datastructures import State
from litestar.di import Provide

from rul_serving import allowed, guard, idempotency, openapi, problems, tracing
from rul_serving.instance import Instance
from rul_serving.principal import Principal, principal_of
from rul_serving.routes import (
    advisories,
    audit,
    champions,
    events,
    fleets,
    inference,
    keys,
    ledger,
    lives,
    models,
    probes,
    prognoses,
    readings,
    set_aside,
    shadow,
    system,
    units,
)
from rul_serving.service import Service
from rul_serving.settings import ServingSettings
from rul_serving.shortcut import shortened


def create_app(
    settings: ServingSettings | None = None, instance: Instance | None = None
) -> Litestar:
    """The ASGI application.

    Args:
        settings: From the environment unless given.
        instance: That this process belongs to; one of its own unless given.

    Raises:
        SettingsError: A setting is missing or wrong.
    """
    settings = settings or ServingSettings()

    @asynccontextmanager
    async def running(app: Litestar) -> AsyncGenerator[None]:
        async with Service.running(settings, instance or Instance()) as app.state.service:
            yield

    api = Router(
        "/v1",
        route_handlers=[
            prognoses.prognose_windows,
            readings.send_readings,
            set_aside.list_set_aside,
            fleets.list_fleets,
            fleets.rank_units,
            advisories.list_advisories,
            advisories.get_advisory,
            advisories.list_events,
            advisories.acknowledge,
            advisories.plan,
            advisories.shelve,
            advisories.unshelve,
            advisories.close,
            lives.judge_advisory,
            lives.list_lives,
            lives.change_lives,
            lives.change_service_state,
            lives.judge_unit,
            fleets.track_record,
            events.follow_fleet,
            units.current_prognosis,
            units.list_prognoses,
            ledger.ledger_entry,
            ledger.replay_ledger_entry,
            models.list_models,
            models.list_versions,
            models.get_version,
            models.get_card,
            models.get_card_picture,
            champions.get_champion,
            champions.list_champions,
            champions.promote,
            champions.roll_back,
            shadow.nominate,
            shadow.withdraw,
            shadow.get_shadow,
            keys.list_keys,
            keys.create_key,
            keys.rotate_key,
            keys.revoke_key,
            audit.list_audit,
            system.get_backups,
        ],
    )
    protocol = Router(
        "/v2",
        route_handlers=[
            inference.server,
            inference.live,
            inference.ready,
            inference.model,
            inference.model_version,
            inference.model_ready,
            inference.model_version_ready,
            inference.infer,
            inference.infer_version,
        ],
    )
    app = Litestar(
        route_handlers=[
            api,
            protocol,
            probes.live,
            probes.ready,
            probes.summary,
            probes.scrape,
            probes.explain,
        ],
        lifespan=[running],
        dependencies={
            "service": Provide(_service, sync_to_thread=False),
            "principal": Provide(_principal, sync_to_thread=False),
        },
        guards=[guard.guard],
        before_request=idempotency.reserve,
        exception_handlers={Exception: problems.answer},
        openapi_config=openapi.config(version("rul-platform")),
        request_max_body_size=settings.max_body_bytes,
        logging_config=None,  # whoever owns the process configures logs: ``__main__``
    )
    guard.check(app)
    allowed.tell(app)
    # Around the router: requests to unknown addresses never reach a middleware.
    app.asgi_handler = tracing.traced(shortened(idempotency.kept(app.asgi_handler)))
    return app


def _service(state: State) -> Service:
    return state.service


def _principal(request: Request[Any, Any, Any]) -> Principal:
    return principal_of(request)
