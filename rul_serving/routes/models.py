"""``/v1/models``: which model speaks for which fleet."""

from litestar import get
from litestar.di import NamedDependency

from rul_serving.answers import FleetModel, Models
from rul_serving.principal import READ, Principal
from rul_serving.problems import Kind, declared
from rul_serving.service import Service
from rul_store import fleets


@get(
    "/models",
    operation_id="listModels",
    summary="The live model of every fleet",
    tags=["models"],
    opt={"roles": READ},
    responses=declared(Kind.UNAVAILABLE),
)
async def list_models(
    service: NamedDependency[Service], principal: NamedDependency[Principal]
) -> Models:
    """What is released, since when and why, whether it is what answers, and how good it is."""
    described = await service.disk.run(fleets.names, service.settings.root)
    served, refused = service.models.served, service.models.refused
    names = sorted({*described, *served, *refused})
    return Models(models=[_model(name, service) for name in names if principal.sees(name)])


def _model(fleet: str, service: Service) -> FleetModel:
    served, refused = service.models.get(fleet), service.models.refused.get(fleet)
    return FleetModel(
        fleet=fleet,
        live=refused.champion if refused else served.champion if served else None,
        loaded=served is not None and refused is None,
        served_version=served.loaded.version if served else None,
        problem=refused.reason if refused else "",
        manifest=served.loaded.manifest if served else None,
        metrics=served.metrics if served else None,
    )
