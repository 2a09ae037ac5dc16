"""Settings of the web service.

What belongs here: where it listens, who may ask, how much it takes, how long it waits. What does
not: where the platform keeps its data (``rul_store.settings``), choices of a fleet (its
description).
"""

import ipaddress
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr, ValidationInfo, field_validator

from rul_store.keys import problem_of
from rul_store.settings import StoreSettings

Seconds = Annotated[float, Field(gt=0, description="seconds, more than 0")]
PerSecond = Annotated[float, Field(gt=0, description="a number a second, more than 0")]
Burst = Annotated[int, Field(ge=1, description="a whole number, at least 1")]


class AccessMode(StrEnum):
    """Who may ask."""

    KEYS = "keys"
    """Whoever sends an API key."""
    OPEN = "open"
    """Everybody who reaches the address, which must be one of this machine's own."""


def _well_formed(key: SecretStr) -> SecretStr:
    problem = problem_of(key.get_secret_value())
    if problem:
        raise ValueError(problem)
    return key


AdminKey = Annotated[SecretStr, AfterValidator(_well_formed)]


class ServingSettings(StoreSettings):
    """What ``create_app`` needs to know."""

    host: str = Field(
        default="127.0.0.1", description="an address to listen on; 0.0.0.0 is every one"
    )
    port: int = Field(
        default=8000, ge=0, le=65535, description="a port from 0 (any that is free) to 65535"
    )
    access: AccessMode = Field(
        default=AccessMode.KEYS,
        description="keys, or open where the service listens on a loopback address alone",
    )
    admin_key: AdminKey | None = Field(
        default=None, description="a key that `rul keys generate` made"
    )
    """A first key with the role ``admin``: made at the start, unless it was made before."""
    requests_per_second: PerSecond = 500.0
    """For each principal, whatever the number of workers and instances."""
    requests_burst: Burst = 1_000
    """How many may come at once after a pause."""
    sendings_per_second: PerSecond = 2_000.0
    """Of requests that send readings, which are counted apart."""
    sendings_burst: Burst = 4_000
    model_poll_seconds: Seconds = 2.0
    """How often the champions are looked at; a message on Redis makes it sooner."""
    database_timeout_seconds: Seconds = 3.0
    """After which a question to PostgreSQL is given up and answered with 503."""
    workers: int = Field(default=1, ge=1, description="a whole number, at least 1")
    """Processes that share the port; with more than one, another process watches over them."""
    shutdown_seconds: Seconds = 20.0
    """How long stopping may take in all; requests that still run then are cut."""
    drain_seconds: Seconds = 5.0
    """How long of it idle connections stay open for one more request, half of it at most."""
    max_body_bytes: int = Field(
        default=16 * 1024 * 1024, ge=1, description="the largest body in bytes, at least 1"
    )
    max_units: int = Field(default=1_000, ge=1, description="units in one question, at least 1")
    max_readings: int = Field(
        default=50_000, ge=1, description="readings in one question, at least 1"
    )
    max_streams: int = Field(
        default=1_000, ge=1, description="streams of events in one process, at least 1"
    )
    max_streams_of_one: int = Field(
        default=50, ge=1, description="streams of events of one principal, at least 1"
    )
    """In one process."""

    @field_validator("access")
    @classmethod
    def _open_to_this_machine_alone(cls, access: AccessMode, info: ValidationInfo) -> AccessMode:
        host = info.data.get("host", "")
        if access is AccessMode.OPEN and not _is_loopback(host):
            raise ValueError(f"RUL_HOST={host} can be reached from other machines")
        return access


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
