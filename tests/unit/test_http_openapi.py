"""The OpenAPI documents are valid, true to the routes at every microversion, and the written ones are up to date."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from kilonova.api import placement
from kilonova.api.compute import service as compute
from kilonova.api.operations import service as operations
from kilonova.http.microversion import V
from kilonova.http.openapi import document, operation_id
from kilonova.http.policy import PUBLIC
from kilonova.http.service import Service
from kilonova.identity.embedded import service as identity
from kilonova.image.embedded import service as image
from kilonova.network.embedded import service as network

DOCS = Path(__file__).parents[2] / "docs" / "api"
NOBODY: Any = None
SERVICES = {
    s.name: s
    for s in (
        compute.service(),
        placement.service(),
        operations.service(),
        identity.service(NOBODY),
        image.service(NOBODY),
        network.service(NOBODY, ""),
    )
}
COMPUTE = SERVICES["compute"]
METHODS = {"get", "post", "put", "patch", "delete"}


@pytest.mark.parametrize("name", SERVICES)
def test_a_document_is_valid_openapi(name: str) -> None:
    from openapi_spec_validator import OpenAPIV31SpecValidator

    made = json.loads(json.dumps(document(SERVICES[name], root="http://cloud.example")))
    OpenAPIV31SpecValidator(made).validate()
    assert made["servers"][0]["url"] == "http://cloud.example" + SERVICES[name].mount


@pytest.mark.parametrize("minor", [1, 37, 57, 75, 104])
def test_compute_documents_of_old_versions_are_valid(minor: int) -> None:
    from openapi_spec_validator import OpenAPIV31SpecValidator

    made = json.loads(json.dumps(document(COMPUTE, V(2, minor))))
    OpenAPIV31SpecValidator(made).validate()
    assert made["info"]["version"] == f"2.{minor}"


@pytest.mark.parametrize("minor", range(1, 105))
def test_a_document_has_the_routes_of_its_version(minor: int) -> None:
    at = V(2, minor)
    made = document(COMPUTE, at)
    expected = {
        operation_id(r.method, r.path) for r in COMPUTE.routes if at.between(r.since, r.until)
    }
    found = [o["operationId"] for p in made["paths"].values() for m, o in p.items() if m in METHODS]
    assert len(found) == len(set(found))
    assert set(found) == expected


@pytest.mark.parametrize("name", SERVICES)
def test_operations_have_names_policies_and_answers(name: str) -> None:
    for path, item in document(SERVICES[name])["paths"].items():
        for method, operation in item.items():
            where = f"{method} {path}"
            assert operation["summary"], where
            assert operation["responses"], where
            assert ("x-policy" in operation) != (operation.get("security") == []), where


def test_every_question_to_compute_says_what_it_answers() -> None:
    """What GET answers is described at every microversion; what is not built or gave up answers nothing."""
    bare = {
        f"{r.method} {r.path} {r.since}"
        for r in COMPUTE.routes
        if r.method == "GET" and r.success == 200 and r.answer is None
        if not (r.handler.__doc__ or "").startswith(("Answer 501", "Answer 410"))
    }
    assert not bare


@pytest.mark.parametrize("minor", range(1, 105))
def test_answers_are_schemas_of_closed_objects(minor: int) -> None:
    """An answer says all its fields, so that one that nobody declared is seen."""
    import jsonschema

    for r in COMPUTE.routes:
        if r.answer is not None and V(2, minor).between(r.since, r.until):
            made = r.answer(V(2, minor))
            jsonschema.Draft7Validator.check_schema(made)
            closed = "additionalProperties" in made or made.get("maxProperties") == 1
            assert closed, f"{r.method} {r.path}"


def test_public_routes_are_the_few_that_are_meant() -> None:
    """S22: what needs no token is listed here by hand."""
    public = {
        (s.name, r.method, r.path)
        for s in SERVICES.values()
        for r in s.routes
        if r.policy == PUBLIC
    }
    assert public == {
        ("compute", "GET", "/"),
        ("compute", "GET", "/v2.1"),
        ("placement", "GET", "/"),
        ("identity", "GET", "/"),
        ("identity", "GET", "/v3"),
        ("identity", "POST", "/v3/auth/tokens"),
        ("image", "GET", "/"),
        ("image", "GET", "/versions"),
        ("image", "GET", "/v2"),
        ("network", "GET", "/"),
        ("network", "GET", "/v2.0"),
    }


def test_the_written_documents_are_those_that_are_made() -> None:
    """When this fails: .venv/bin/python docs/api/make_openapi.py"""
    spec = importlib.util.spec_from_file_location("make_openapi", DOCS / "make_openapi.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, text in module.texts().items():
        assert (DOCS / name).read_text() == text, f"{name} is out of date"


def test_services_cover_every_mount() -> None:
    def mounts(services: dict[str, Service]) -> set[str]:
        return {s.mount for s in services.values()}

    assert mounts(SERVICES) == {
        "/compute",
        "/placement",
        "/kilonova",
        "/identity",
        "/image",
        "/network",
    }
