"""Whether the service can give prognoses, and what is wrong with what it leans on.

What belongs here: the checks and what follows from them. What does not: the addresses they are
asked at (``routes.probes``).
"""

import asyncio
import os
from pathlib import Path

from redis.exceptions import RedisError

from rul_core.errors import Unavailable
from rul_serving import released
from rul_serving.answers import Dependency, Health, Readiness
from rul_serving.service import Service

READY = Dependency(status=Readiness.READY)


async def check(service: Service) -> Health:
    """Ask everything that the service leans on, at once."""
    names = ["model_root", "postgres"]
    checks = [_model_root(service), _postgres(service)]
    if service.settings.redis_url is not None:
        names.append("redis")
        checks.append(_redis(service.settings.redis_url.get_secret_value()))
    dependencies = dict(zip(names, await asyncio.gather(*checks), strict=True))
    if dependencies["model_root"].status is Readiness.DOWN and not service.models.served:
        status = Readiness.DOWN
    elif all(found.status is Readiness.READY for found in dependencies.values()):
        status = Readiness.READY
    else:
        status = Readiness.DEGRADED
    return Health(status=status, dependencies=dependencies)


async def _model_root(service: Service) -> Dependency:
    root = service.settings.root
    try:
        readable = await service.disk.run(_is_readable, root)
    except Unavailable as error:
        return Dependency(status=Readiness.DOWN, detail=str(error))
    if not readable:
        detail = f"{root} is no folder that can be read; mount it, or correct RUL_ROOT"
        return Dependency(status=Readiness.DOWN, detail=detail)
    try:
        await service.descriptions.names()
    except Unavailable as error:
        return Dependency(status=Readiness.DEGRADED, detail=str(error))
    refused = service.models.refused
    if refused:
        detail = "; ".join(f"fleet {fleet}: {refused[fleet].reason}" for fleet in sorted(refused))
        return Dependency(status=Readiness.DEGRADED, detail=detail)
    return READY


async def _postgres(service: Service) -> Dependency:
    try:
        await service.database.check()
    except Unavailable as error:
        return Dependency(status=Readiness.DOWN, detail=str(error))
    return READY


async def _redis(url: str) -> Dependency:
    try:
        await released.ping(url)
    except (RedisError, OSError) as error:
        detail = f"Redis does not answer: {error}; see that it runs and RUL_REDIS_URL is right"
        return Dependency(status=Readiness.DOWN, detail=detail)
    return READY


def _is_readable(root: Path) -> bool:
    return root.is_dir() and os.access(root, os.R_OK | os.X_OK)
