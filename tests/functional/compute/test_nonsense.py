"""Nonsense never makes a 500: every route but those that need an engine, with bodies near and far from its schema."""

import logging
import random
import re
from typing import Any

import pytest

from kilonova.api.compute.service import service
from tests.functional.compute.conftest import Cloud

DELETE = ("DELETE", "/v2.1/servers/{server_id}")  # the server is needed until the end
VALUES: list[Any] = [
    None,
    True,
    0,
    -1,
    2**31,
    2**63,
    2**70,
    1.5,
    1e308,
    "",
    "x",
    "\u2603",
    "\x00",
    "a" * 300,
    "9" * 400,
    "-1",
    [],
    {},
    [None],
    {"a": None},
]
NAMES = [
    "x",
    "\u2603",
    "1",
    "-1",
    "9" * 400,
    "a" * 300,
    "demo0000",
    "default",
    "%00",
    "a%2Fb",
    "enable",
]
TEXTS = ["x", "1", "web", "\u2603", "cell1-host1", " x", "9" * 20, "-5", "2020-01-01T00:00:00Z"]
QUERY = [
    "limit",
    "marker",
    "offset",
    "sort_key",
    "user_id",
    "start",
    "end",
    "changes-since",
    "is_public",
]
ASKED = [
    "1",
    "-1",
    "x",
    "",
    "9" * 30,
    "%00",
    "%E2%98%83",
    "9999-12-31T23:59:59",
    "0001-01-01T00:00:00Z",
]


class Maker:
    """Makes bodies that mostly follow a schema."""

    def __init__(self, seed: int, server: str) -> None:
        self.rng, self.server = random.Random(seed), server

    def body(self, doc: Any, depth: int = 0) -> Any:
        rng = self.rng
        if rng.random() < 0.2 or not isinstance(doc, dict) or depth > 6:
            return rng.choice(VALUES)
        for key in ("oneOf", "anyOf"):
            if key in doc and "properties" not in doc:
                return self.body(rng.choice(doc[key]), depth + 1)
        if "enum" in doc:
            return rng.choice(doc["enum"])
        kind = doc.get("type")
        kind = rng.choice(kind) if isinstance(kind, list) else kind
        if kind == "object" or "properties" in doc:
            return self.object(doc, depth)
        if kind == "array":
            return [self.body(doc.get("items", {}), depth + 1) for _ in range(rng.randint(0, 2))]
        if kind in ("integer", "number"):
            return rng.choice([0, 1, -1, 2**31 - 1, 2**31, 2**63, 1.5])
        return self.server if doc.get("format") == "uuid" else rng.choice(TEXTS)

    def object(self, doc: dict[str, Any], depth: int) -> dict[str, Any]:
        rng, need = self.rng, doc.get("required", [])
        out = {
            name: self.body(sub, depth + 1)
            for name, sub in (doc.get("properties") or {}).items()
            if name in need or rng.random() < 0.6
        }
        for sub in (doc.get("patternProperties") or {}).values():
            out[rng.choice(["a", "hw:x", "availability_zone"])] = self.body(sub, depth + 1)
        return out

    def path(self, template: str) -> str:
        for name in re.findall(r"{(\w+)}", template):
            own = name == "server_id" and self.rng.random() < 0.8
            template = template.replace(
                "{" + name + "}", self.server if own else self.rng.choice(NAMES)
            )
        chosen = self.rng.sample(QUERY, self.rng.randint(0, 2))
        query = "&".join(f"{q}={self.rng.choice(ASKED)}" for q in chosen)
        return template + ("?" + query if query else "")


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_no_500(cloud: Cloud, seed: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    server = cloud.server()
    cloud.guest(server)
    cloud.port(server)
    maker, codes = Maker(seed, server), set()
    for r in service().routes:
        if not r.path.startswith("/v2.1/") or (r.method, r.path) == DELETE:
            continue
        body = None if r.body is None else maker.body(r.body.document)
        if r.action is not None and not (isinstance(body, dict) and r.action in body):
            body = {r.action: body}
        high = 104 if r.until is None else r.until.minor
        at = maker.rng.choice([r.since.minor, high])
        path = maker.path(r.path[5:])
        who = maker.rng.choice(["admin", "admin", "demo", "service"])
        answer = cloud.call(r.method, path, body, at=at, as_=who)
        assert answer.status_code != 500, (r.method, path, at, body, answer.text)
        codes.add(answer.status_code)
    assert {200, 400, 403, 404, 501} <= codes
