"""Settings of the web service.

What belongs here: where it listens, how much it takes, how long it waits. What does not: where the
platform keeps its data (``rul_store.settings``), choices of a fleet (its description).
"""

from typing import Annotated

from pydantic import Field

from rul_store.settings import StoreSettings

Seconds = Annotated[float, Field(gt=0, description="seconds, more than 0")]


class ServingSettings(StoreSettings):
    """What ``create_app`` needs to know."""

    host: str = Field(
        default="127.0.0.1", description="an address to listen on; 0.0.0.0 is every one"
    )
    port: int = Field(
        default=8000, ge=0, le=65535, description="a port from 0 (any that is free) to 65535"
    )
    model_poll_seconds: Seconds = 2.0
    """How often the champions are looked at; a message on Redis makes it sooner."""
    database_timeout_seconds: Seconds = 3.0
    """After which a question to PostgreSQL is given up and answered with 503."""
    shutdown_seconds: Seconds = 20.0
    """How long running requests may take to end once the service is told to stop."""
    max_body_bytes: int = Field(
        default=16 * 1024 * 1024, ge=1, description="the largest body in bytes, at least 1"
    )
    max_units: int = Field(default=1_000, ge=1, description="units in one question, at least 1")
    max_readings: int = Field(
        default=50_000, ge=1, description="readings in one question, at least 1"
    )
