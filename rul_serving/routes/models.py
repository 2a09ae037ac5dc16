"""``/v1/models`` and ``/v1/fleets/{fleet}/models``: which models there are, and what each is."""

from typing import Annotated

import msgspec
from litestar import Response, get
from litestar.di import NamedDependency
from litestar.openapi import ResponseSpec
from litestar.params import PathParameter
from litestar.status_codes import HTTP_200_OK

from rul_core.errors import BundleError, UnknownVersion
from rul_serving import examples
from rul_serving.answers import FleetModel, ModelDetail, Models, ModelVersions
from rul_serving.paging import Cursor, Limit, next_link
from rul_serving.preconditions import tag
from rul_serving.principal import READ, Principal
from rul_serving.problems import Kind, Refusal, declared
from rul_serving.routes.fleets import FleetName
from rul_serving.service import Service
from rul_store import fleets, versions
from rul_store.models import gate_of, manifest_of, metrics_of
from rul_store.registry import VERSION_PATTERN, BundleStore
from rul_store.versions import ModelVersion

CARD = "card.md"
VersionName = Annotated[
    str, PathParameter(pattern=f"^{VERSION_PATTERN}$(?!\n)", description="The model's version.")
]
PictureName = Annotated[
    str,
    PathParameter(
        pattern=r"^[a-z0-9_]{1,60}\.png$(?!\n)", description="As the card names the picture."
    ),
]
_SAFE = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Cache-Control": "private, max-age=86400, immutable",
}
"""A bundle's files never change; and whatever they hold, a browser shall not run it."""
_OF_A_FLEET = (
    Kind.INVALID_REQUEST,
    Kind.UNKNOWN_FLEET,
    Kind.INVALID_FLEET,
    Kind.UNAVAILABLE,
)
_OF_A_FILE = (*_OF_A_FLEET, Kind.UNKNOWN_MODEL, Kind.NOT_FOUND, Kind.DAMAGED_MODEL)


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


@get(
    "/fleets/{fleet:str}/models",
    operation_id="listVersions",
    summary="The versions of a fleet's model",
    tags=["models"],
    opt={"roles": READ},
    responses=examples.shown(examples.VERSIONS, "A page")
    | declared(*_OF_A_FLEET, Kind.INVALID_CURSOR),
)
async def list_versions(
    fleet: FleetName,
    service: NamedDependency[Service],
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Response[ModelVersions]:
    """The newest first, each with what it is to the fleet and what speaks against it.

    `ETag` names the champion's generation, by which it is moved. The header `Link` has the address
    of the next page (`rel="next"`), while there is one.
    """
    await service.fleet(fleet)
    about = await service.database.ask(versions.known, fleet)
    page = await service.disk.run(service.inspector.page, fleet, about, limit=limit, after=cursor)
    answer = ModelVersions(
        fleet=fleet,
        generation=about.generation,
        versions=list(page.versions),
        next_cursor=page.cursor,
    )
    link = next_link(f"/v1/fleets/{fleet}/models", page.cursor, limit=limit)
    return Response(answer, headers=tag(about.generation) | link)


@get(
    "/fleets/{fleet:str}/models/{version:str}",
    operation_id="getVersion",
    summary="A version of a fleet's model",
    tags=["models"],
    opt={"roles": READ},
    responses=declared(*_OF_A_FLEET, Kind.UNKNOWN_MODEL),
)
async def get_version(
    fleet: FleetName, version: VersionName, service: NamedDependency[Service]
) -> ModelDetail:
    """What it is, what it was made of, how good it is, and what the leakage gate found."""
    await service.fleet(fleet)
    about = await service.database.ask(versions.known, fleet)
    model = await service.disk.run(service.inspector.one, fleet, about, version)
    try:
        return await service.disk.run(_detail, service.bundles, fleet, model)
    except BundleError as error:
        if isinstance(error, UnknownVersion) and model.live_since is None:
            raise
        broken = msgspec.structs.replace(model, damage=str(error))
        return ModelDetail(
            fleet=fleet, model=broken, manifest=None, metrics=None, gate=None, pictures=[]
        )


@get(
    "/fleets/{fleet:str}/models/{version:str}/card",
    operation_id="getCard",
    summary="A model's card",
    tags=["models"],
    opt={"roles": READ},
    media_type="text/markdown",
    responses={
        HTTP_200_OK: ResponseSpec(
            str,
            generate_examples=False,
            description="Markdown; it names its pictures relative to this address",
            media_type="text/markdown",
        )
    }
    | declared(*_OF_A_FILE),
)
async def get_card(
    fleet: FleetName,
    version: VersionName,
    service: NamedDependency[Service],
) -> Response[bytes]:
    """For people: what the model is for, how it was judged and how it did."""
    return await _file(service, fleet, version, CARD, "text/markdown")


@get(
    "/fleets/{fleet:str}/models/{version:str}/{picture:str}",
    operation_id="getCardPicture",
    summary="A picture of a model's card",
    tags=["models"],
    opt={"roles": READ},
    media_type="image/png",
    responses={
        HTTP_200_OK: ResponseSpec(
            bytes, generate_examples=False, description="A PNG", media_type="image/png"
        )
    }
    | declared(*_OF_A_FILE),
)
async def get_card_picture(
    fleet: FleetName,
    version: VersionName,
    picture: PictureName,
    service: NamedDependency[Service],
) -> Response[bytes]:
    """As the card names it."""
    return await _file(service, fleet, version, picture, "image/png")


async def _file(
    service: Service,
    fleet: str,
    version: str,
    name: str,
    media_type: str,
) -> Response[bytes]:
    await service.fleet(fleet)
    bundle = await service.disk.run(service.bundles.open, fleet, version)
    if name not in bundle.checksums:
        raise Refusal(
            Kind.NOT_FOUND, f"version {version} of fleet {fleet!r} has no {name}; see its card"
        )
    tagged = _SAFE | {"ETag": f'"{bundle.checksums[name]}"'}
    content = await service.disk.run(bundle.read, name)
    return Response(content, headers=tagged, media_type=media_type)


def _detail(bundles: BundleStore, fleet: str, model: ModelVersion) -> ModelDetail:
    bundle = bundles.open(fleet, model.version)
    return ModelDetail(
        fleet=fleet,
        model=model,
        manifest=manifest_of(bundle),
        metrics=metrics_of(bundle),
        gate=gate_of(bundle),
        pictures=sorted(name for name in bundle.checksums if name.endswith(".png")),
    )


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
