"""Bodies, paths and queries at random: every answer is one that the API knows, never a 500."""

import json
import random
import re
from typing import Any

import pytest

from kilonova.identity.embedded.service import routes
from tests.functional.identity.conftest import Cloud

VALUES: list[Any] = [
    *(
        None,
        True,
        False,
        0,
        -1,
        2**63,
        2**70,
        1.5,
        "",
        "x",
        "é🚀",
        "default",
        "x" * 300,
        "\x00",
        "RegionOne",
    ),
    *(
        [],
        {},
        ["x"],
        [None],
        {"id": "x"},
        {"name": "y"},
        {"id": None},
        "http://x",
        "public",
        "' OR 1=1",
    ),
    *("2030-01-01T00:00:00Z", "9999-12-31T23:59:59", "0001-01-01"),
]
KEYS = [
    "name",
    "id",
    "domain_id",
    "parent_id",
    "enabled",
    "description",
    "tags",
    "options",
    "password",
    "original_password",
    "default_project_id",
    "email",
    "type",
    "url",
    "interface",
    "service_id",
    "region",
    "region_id",
    "parent_region_id",
    "roles",
    "expires_at",
    "unrestricted",
    "secret",
    "access_rules",
    "project_id",
    "links",
    "is_domain",
    "explicit_domain_id",
    "generation",
]
QUERIES = [
    *(
        "",
        "name=x",
        "limit=1",
        "limit=%00",
        "limit=²",
        "limit=99999999999999999999",
        "marker=x",
        "enabled=",
    ),
    *(
        "domain_id=default",
        "effective",
        "include_names=1&effective&limit=1",
        "scope.project.id=x",
        "tags=a,b",
    ),
    *(
        "name__icontains=%F0",
        "name=%ff",
        "scope.system=all",
        "user.id=x&role.id=y",
        "parents_as_ids",
    ),
]


def auth(r: random.Random) -> Any:
    method = r.choice(["password", "token", "application_credential", "x"])
    user = {k: r.choice(VALUES) for k in ("name", "id", "password", "domain")}
    given = r.choice(
        [{"user": user}, {"id": r.choice(VALUES)}, {"secret": "x", "name": "x", "user": user}]
    )
    scope = r.choice(
        [r.choice(VALUES), *({k: r.choice(VALUES)} for k in ("project", "system", "domain"))]
    )
    return {"auth": {"identity": {"methods": [method], method: given}, "scope": scope}}


def body_for(r: random.Random, path: str) -> Any:
    if path.endswith("/auth/tokens"):
        return auth(r)
    found = re.search(r"/v3/(?:.*/)?(\w+?)s?(/\{\w+\})?$", path)
    noun = found[1] if found else "x"
    body: Any = {noun: {k: r.choice(VALUES) for k in r.sample(KEYS, r.randint(0, 4))}}
    if r.random() < 0.6:
        body[noun]["name"] = f"n{r.randint(0, 99)}"
    return body if r.random() < 0.9 else r.choice(VALUES)


@pytest.mark.parametrize("seed", range(3))
def test_nonsense(cloud: Cloud, seed: int) -> None:
    r = random.Random(seed)
    s = cloud.seeded
    ids = [
        "x",
        "default",
        "%00",
        "%ff",
        "..",
        "%2e%2e",
        "a%2fb",
        "é",
        "RegionOne",
        "x" * 500,
        "kilonova",
    ]
    ids += [s.projects["demo"], s.users["demo"], s.roles["reader"]]
    token, seen = cloud.token("admin", scope="admin"), set()
    for _ in range(1000):
        route = r.choice(routes(cloud.identity))
        path = re.sub(r"\{\w+\}", lambda _: r.choice(ids), route.path)
        body = body_for(r, route.path) if route.method in ("POST", "PUT", "PATCH") else None
        answer = cloud.client.simulate_request(
            route.method,
            "/identity" + path,
            query_string=r.choice(QUERIES),
            headers={"X-Auth-Token": token, "X-Subject-Token": r.choice([token, "x", ""])},
            body=None if body is None else json.dumps(body),
        )
        assert answer.status_code < 500, (route.method, path, body, answer.text)
        seen.add(answer.status_code)
        if answer.status_code == 401 and "WWW-Authenticate" in answer.headers:
            token = cloud.token("admin", scope="admin")  # it revoked itself
    assert seen >= {200, 201, 204, 400, 401, 403, 404}
