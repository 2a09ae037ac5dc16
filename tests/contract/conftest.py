"""Both sides of the seams: the service's platform, and the assets' definitions."""

import json
from collections.abc import Generator

import pytest

from rul_store.embedded import EmbeddedServers
from tests.assets.conftest import definitions
from tests.contract.served import DOCUMENT, Served, served
from tests.serving.conftest import Learnt, learnt, platform

__all__ = ["definitions", "here", "learnt", "platform"]

ALWAYS = {
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "positive_data_acceptance",
    "missing_required_header",
    "unsupported_method",
    "allow_header_conformance",
    "use_after_free",
    "ensure_resource_availability",
    "ignored_auth",
    "object_level_authorization",
}
"""The checks that every operation is held against."""


def operations(*methods: str) -> list[str]:
    """The operations of the committed document with these methods."""
    document = json.loads(DOCUMENT.read_text())
    return [
        operation["operationId"]
        for path in document["paths"].values()
        for method, operation in path.items()
        if method in methods
    ]


@pytest.fixture(scope="module")
def here(
    tmp_path_factory: pytest.TempPathFactory, servers: EmbeddedServers, learnt: Learnt
) -> Generator[Served]:
    with served(tmp_path_factory.mktemp("served"), servers, learnt) as running:
        yield running
        unforeseen = [line for line in running.log if '"event":"request failed"' in line]
        assert unforeseen == []
