"""``python -m rul_serving.schema``: the OpenAPI document on standard output.

What belongs here: the committed form of the document. What does not: its content (``openapi``).
"""

import sys

import msgspec
from pydantic import SecretStr

from rul_serving.app import create_app
from rul_serving.openapi import corrected
from rul_serving.settings import ServingSettings


def render() -> bytes:
    """The document as ``docs/openapi.json`` holds it."""
    # No server is reached: the application is made and never started.
    settings = ServingSettings(database_url=SecretStr("postgresql://localhost/rul"))
    app = create_app(settings)
    document = corrected(app, app.openapi_schema.to_schema())
    return msgspec.json.format(msgspec.json.encode(document, order="sorted"), indent=2) + b"\n"


if __name__ == "__main__":
    sys.stdout.buffer.write(render())
