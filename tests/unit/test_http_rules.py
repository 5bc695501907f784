"""The parts of the HTTP layer that decide: policy rules, schemas, routes, queries, versions, error forms."""

from typing import Any

import pytest

from kilonova.common import errors as e
from kilonova.common.context import Context
from kilonova.http import errors as forms
from kilonova.http.microversion import Microversion, V
from kilonova.http.policy import BadRule, Policy
from kilonova.http.request import Query
from kilonova.http.routing import Route, RouteError, check
from kilonova.http.schema import Schema, extend, paths, vanished

# -- policy


def _who(*roles: str, **more: Any) -> Context:
    return Context(request_id="req-1", roles=roles, **more)


@pytest.mark.parametrize(
    "text,roles,allowed",
    [
        ("", (), True),
        ("@", (), True),
        ("!", ("admin",), False),
        ("role:admin", ("admin",), True),
        ("role:Admin", ("admin",), True),
        ("role:admin", ("member",), False),
        ("not role:admin", ("member",), True),
        ("role:a or role:b", ("b",), True),
        ("role:a and role:b", ("b",), False),
        ("role:a or role:b and role:c", ("b",), False),
        ("(role:a or role:b) and role:c", ("a", "c"), True),
        ("not (role:a or role:b)", ("c",), True),
        ("rule:other", ("x",), True),
        ("project_id:%(project_id)s", (), True),
        ("project_id:%(missing)s", (), False),
        ("'p1':%(project_id)s", (), True),
        ("'p2':%(project_id)s", (), False),
        ("is_admin:True", ("admin",), True),
        ("no_such_attribute:x", ("admin",), False),
    ],
)
def test_rules(text: str, roles: tuple[str, ...], allowed: bool) -> None:
    policy = Policy({"r": text, "other": "role:x"})
    assert policy.allows(_who(*roles, project_id="p1"), "r", {"project_id": "p1"}) is allowed


@pytest.mark.parametrize("text", ["(role:a", "role:a or", "role:a)", "justaword", "rule:missing"])
def test_a_rule_that_cannot_be_read_fails_at_start(text: str) -> None:
    with pytest.raises(BadRule):
        Policy({"r": text})


def test_unknown_rules_are_denied_and_files_override() -> None:
    """S22"""
    policy = Policy({"r": "role:admin"}, {"r": "role:reader"})
    assert policy.allows(_who("reader"), "r", {})
    assert not policy.allows(_who("admin"), "no-such-rule", {})
    with pytest.raises(e.Forbidden, match="no-such-rule"):
        policy.require(_who("admin"), "no-such-rule", {})


# -- schemas

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 5}, "id": {"format": "uuid"}},
    "required": ["name"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    "body,words",
    [
        ({}, "'name' is a required property"),
        ({"name": "abcdefgh"}, "name. Value: abcdefgh"),
        ({"name": 7}, "is not of type 'string'"),
        ({"name": "a", "x": 1}, "'x' was unexpected"),
        ({"name": "a", "id": "zz"}, "id. Value: zz"),
        ([], "is not of type 'object'"),
    ],
)
def test_a_refusal_names_the_field_and_the_reason(body: Any, words: str) -> None:
    with pytest.raises(e.BadRequest) as caught:
        Schema(PERSON).check(body)
    assert words in caught.value.message


def test_a_secret_is_never_repeated() -> None:
    """S35: by the schema's mark, and by the name of the field."""
    with pytest.raises(e.BadRequest) as caught:
        Schema(PERSON, secret=True).check({"name": "topsecret"})
    assert "topsecret" not in caught.value.message and "name" in caught.value.message
    named = {"properties": {"server": {"properties": {"adminPass": {"maxLength": 3}}}}}
    for body in (
        {"server": {"adminPass": "topsecret"}},
        {"server": {"adminPass": {"deep": ["topsecret"]}, "x": 1}},
    ):
        schema = extend(named, at=("properties", "server"))
        schema["properties"]["server"]["additionalProperties"] = False
        schema["properties"]["server"]["properties"]["adminPass"]["type"] = "string"
        with pytest.raises(e.BadRequest) as caught:
            Schema(schema).check(body)
        assert "topsecret" not in caught.value.message


def test_long_values_are_cut() -> None:
    with pytest.raises(e.BadRequest) as caught:
        Schema(PERSON).check({"name": "x" * 100_000})
    assert len(caught.value.message) < 1200


def test_a_delta_leaves_its_base_alone_and_removes_only_what_is_there() -> None:
    """TAG-6"""
    newer = extend(PERSON, properties={"tag": {}}, removed=("name",), required=("tag",))
    assert set(newer["properties"]) == {"id", "tag"} and newer["required"] == ["tag"]
    assert set(PERSON["properties"]) == {"name", "id"}  # type: ignore[arg-type]
    assert vanished(PERSON, newer) == ["/name"]
    with pytest.raises(ValueError, match="not there"):
        extend(PERSON, removed=("nothing",))
    assert paths({"items": [{"properties": {"a": {}}}, {"properties": {"b": {}}}]}) == {
        "[]/a",
        "[]/b",
    }


# -- routes


def _route(**more: Any) -> Route:
    return Route(**{"method": "GET", "path": "/x", "handler": str, "policy": "p", **more})


def test_routes_that_contradict_each_other_fail_at_import() -> None:
    """S22, and TAG: overlapping ranges, a route without policy."""
    check([_route(until=V(2, 9)), _route(since=V(2, 10)), _route(method="PUT")])
    check([_route(action="a"), _route(action="b")])
    for bad in (
        [_route(), _route()],
        [_route(until=V(2, 10)), _route(since=V(2, 10))],
        [_route(since=V(2, 5)), _route(until=V(2, 7))],
        [_route(policy="")],
    ):
        with pytest.raises(RouteError):
            check(bad)


# -- queries, versions


def test_a_query_keeps_order_and_repeats() -> None:
    q = Query("a=1&b=&a=2&c=%C3%A4")
    assert q.get("a") == "2" and q.all("a") == ["1", "2"] and q.names() == ["a", "b", "c"]
    assert q.get("b") == "" and q.get("c") == "ä" and q.get("d", "x") == "x"
    assert "a" in q and "d" not in q and q and not Query("")
    assert q.as_lists() == {"a": ["1", "2"], "b": [""], "c": ["ä"]}


@pytest.mark.parametrize("text", ["a=%FF", "&".join(f"a{i}=1" for i in range(600))])
def test_a_query_that_is_no_query_is_refused(text: str) -> None:
    with pytest.raises(e.BadRequest):
        Query(text)


@pytest.mark.parametrize(
    "text", ["", "2", "2.", ".1", "2.01", "02.1", "2.1 ", "a.b", "2.1\n", "٢.١"]
)
def test_a_malformed_version_is_refused(text: str) -> None:
    """TAG-3"""
    with pytest.raises(e.BadRequest):
        Microversion.parse(text)


def test_versions_are_numbers_not_text() -> None:
    """TAG-3"""
    v = Microversion.parse("2.104")
    assert (v.major, v.minor, str(v), repr(v)) == (2, 104, "2.104", "Microversion(2.104)")
    assert v >= V(2, 20) and V(2, 9) < V(2, 10) and V(2, 999) < V(3, 0)


# -- error forms


@pytest.mark.parametrize(
    "form,kind",
    [
        (forms.compute, "itemNotFound"),
        (forms.identity, "error"),
        (forms.network, "NeutronError"),
        (forms.image, "title"),
        (forms.placement, "errors"),
    ],
)
def test_each_api_has_its_clients_form(form: forms.Render, kind: str) -> None:
    made = form(404, e.NotFound("no such thing", host="secret-host"), "req-1")
    assert kind in made
    assert "no such thing" in str(made) and "secret-host" not in str(made)


def test_a_property_that_vanishes_without_a_word_fails_at_import() -> None:
    """TAG-6"""
    tagged = Schema({"properties": {"uuid": {}, "tag": {}}})
    copied = Schema({"properties": {"uuid": {}}})
    older = _route(method="POST", until=V(2, 31), body=tagged)
    with pytest.raises(RouteError, match="/tag"):
        check([older, _route(method="POST", since=V(2, 32), body=copied)])
    check([older, _route(method="POST", since=V(2, 32), body=copied, removed=("/tag",))])
    with pytest.raises(RouteError):
        check([older, _route(method="POST", since=V(2, 32), body=tagged, removed=("/tag",))])
