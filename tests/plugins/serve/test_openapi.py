"""The OpenAPI document is the contract: schemathesis holds the server to it."""

import json

import pytest

from mrnn_serve.openapi import document

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")

from hypothesis import HealthCheck, settings  # noqa: E402
from schemathesis.checks import not_a_server_error  # noqa: E402
from schemathesis.specs.openapi.checks import (  # noqa: E402
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

schema = schemathesis.openapi.from_dict(document())


@schema.parametrize()
@settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
def test_the_server_keeps_to_its_document(server, case):
    checks = (
        not_a_server_error,
        status_code_conformance,
        content_type_conformance,
        response_schema_conformance,
    )
    case.call_and_validate(base_url=server.url, checks=checks)


def test_every_route_is_in_the_document(server):
    from mrnn_serve.api import librephotos, native, ollama, openai

    described = document()["paths"]
    for module in (native, ollama, openai, librephotos):
        for route in module.routes():
            assert {method.lower() for method in route.methods - {"HEAD"}} <= set(
                described[route.path]
            )
    answer = server.client.get("/openapi.json")
    assert answer.json() == json.loads(json.dumps(document()))
