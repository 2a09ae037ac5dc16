"""What assets and sensors are handed: plain objects, made from the environment.

What belongs here: making them and giving them back. What does not: anything that an asset or a
test could see of Dagster: both get an engine, a lake, a store of bundles, and no wrapper.
Nothing is read or connected before a run or a sensor needs it. Concept:
https://docs.dagster.io/guides/build/external-resources
"""

from collections.abc import Generator
from pathlib import Path

import dagster as dg
import redis
import sqlalchemy as sa

from rul_assets.retraining import Policy
from rul_assets.settings import AssetsSettings, Learning
from rul_store.cache import connect_redis
from rul_store.database import connect
from rul_store.lake import Lake
from rul_store.registry import BundleStore
from rul_store.settings import StoreSettings


@dg.resource
def root() -> Path:
    """The data root (``RUL_ROOT``), with landing folders and descriptions of fleets."""
    return StoreSettings().root


@dg.resource
def engine() -> Generator[sa.Engine]:
    """PostgreSQL (``RUL_DATABASE_URL``)."""
    made = connect(StoreSettings().database_url.get_secret_value(), pool_size=2)
    try:
        yield made
    finally:
        made.dispose()


@dg.resource
def release_channel() -> Generator[redis.Redis | None]:
    """Redis, which tells serving of a release (``RUL_REDIS_URL``); none when it is not set."""
    url = StoreSettings().redis_url
    if url is None:
        yield None
        return
    with connect_redis(url.get_secret_value()) as client:
        yield client


@dg.resource
def lake() -> Lake:
    """What assets materialise, under the data root."""
    return Lake(StoreSettings().root)


@dg.resource
def bundles() -> BundleStore:
    """The bundles of models, under the data root."""
    return BundleStore(StoreSettings().root)


@dg.resource
def learning() -> Learning:
    """How models are made (``RUL_LEARNING_…``)."""
    return AssetsSettings().learning


@dg.resource
def policy() -> Policy:
    """How often models are made (``RUL_RETRAIN_…``)."""
    return AssetsSettings().policy


@dg.definitions
def resources() -> dg.Definitions:
    """One of each, under the names that assets and sensors ask for.

    A run is one process: its assets follow one another, and a step of their own would cost each a
    second or two.
    """
    return dg.Definitions(
        resources={
            "root": root,
            "engine": engine,
            "release_channel": release_channel,
            "lake": lake,
            "bundles": bundles,
            "learning": learning,
            "policy": policy,
        },
        executor=dg.in_process_executor,
    )
