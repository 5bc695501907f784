"""Canary secrets, put into every secret field, are found in no log, error, journal, fault, answer or file (S35)."""

import base64
import io
import json
import logging
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kilonova.common import log
from tests.whole import Answer, Whole, running, until

COMPUTE, IDENTITY = "/compute/v2.1", "/identity/v3"
ADMIN_PASS = "canary-admin-pass-6f1c"
USER_DATA = base64.b64encode(b"#!/bin/sh\necho canary-user-data-9a27\n").decode()
PASSWORD = "canary-password-77e0"
NEW_PASSWORD = "canary-changed-password-51"
APP_SECRET = "canary-app-secret-c3d4"


@pytest.fixture(scope="module")
def logs() -> Iterator[io.StringIO]:
    """Everything that is logged, down to debug, as the program writes it."""
    stream = io.StringIO()
    root = logging.getLogger()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(log.JsonFormatter())
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield stream
    root.removeHandler(handler)
    root.setLevel(level)


class Told:
    """A cloud that has been told many secrets, and every answer that it gave since."""

    def __init__(self, whole: Whole) -> None:
        self.whole = whole
        self.answers: list[tuple[str, Answer]] = []
        self.secrets = {ADMIN_PASS, PASSWORD, NEW_PASSWORD, APP_SECRET}
        self.servers: list[str] = []

    def call(self, method: str, path: str, body: Any = None, **more: Any) -> Answer:
        got = self.whole.call(method, path, body, **more)
        self.answers.append((f"{method} {path}", got))
        return got


@pytest.fixture(scope="module")
def told(logs: io.StringIO) -> Iterator[Told]:
    with running() as whole:
        out = Told(whole)
        _people(out)
        _servers(out)
        _mistakes(out)
        yield out


def _people(told: Told) -> None:
    user = {"name": "canary", "password": PASSWORD}
    made = told.call("POST", f"{IDENTITY}/users", {"user": user}, who="admin")
    user_id = made.json["user"]["id"]
    change = {"user": {"original_password": PASSWORD, "password": NEW_PASSWORD}}
    login: dict[str, Any] = {"name": "canary", "domain": {"id": "default"}, "password": PASSWORD}
    auth = {"auth": {"identity": {"methods": ["password"], "password": {"user": login}}}}
    got = told.call("POST", f"{IDENTITY}/auth/tokens", auth, who=None)
    assert got.status == 201
    token = got.headers.pop("x-subject-token")
    told.secrets.add(token)
    path = f"{IDENTITY}/users/{user_id}/password"
    assert told.call("POST", path, change, token=token).status == 204
    told.call("POST", path, change, token=token)
    told.call("POST", f"{IDENTITY}/auth/tokens", auth, who=None)
    demo = told.whole.content.users["demo"]
    wanted = {"application_credential": {"name": "canary", "secret": APP_SECRET}}
    path = f"{IDENTITY}/users/{demo}/application_credentials"
    got = told.whole.call("POST", path, wanted)
    credential = {"id": got.json["application_credential"]["id"], "secret": APP_SECRET}
    method = {"methods": ["application_credential"], "application_credential": credential}
    for secret, status in ((APP_SECRET, 201), (APP_SECRET + "x", 401)):
        credential["secret"] = secret
        got = told.call("POST", f"{IDENTITY}/auth/tokens", {"auth": {"identity": method}}, who=None)
        assert got.status == status
        if status == 201:
            told.secrets.add(got.headers.pop("x-subject-token"))
    told.call("GET", path)
    key = {"keypair": {"name": "canary"}}
    got = told.whole.call("POST", f"{COMPUTE}/os-keypairs", key)
    told.secrets.add(got.json["keypair"]["private_key"].splitlines()[1])
    told.call("GET", f"{COMPUTE}/os-keypairs/canary")


def _servers(told: Told) -> None:
    whole = told.whole
    body = {
        "name": "canary",
        "flavorRef": "42",
        "imageRef": whole.image(),
        "networks": "none",
        "adminPass": ADMIN_PASS,
        "user_data": USER_DATA,
        "config_drive": True,
    }
    fault = {"metadata": {"kilonova:fault": "build_fail"}}
    for key, more, state in (("k1", {}, "ACTIVE"), ("k2", fault, "ERROR")):
        for _ in range(2):
            got = whole.call(
                "POST",
                f"{COMPUTE}/servers",
                {"server": {**body, **more}},
                version="2.90",
                headers={"Idempotency-Key": key},
            )
            assert got.status == 202, got
        told.servers.append(got.json["server"]["id"])
        settled = whole.settled(told.servers[-1])
        assert settled.json["server"]["status"] == state
    for server in told.servers:
        for who in ("demo", "admin"):
            for path in ("", "/os-instance-actions", "/metadata", "/ips", "/diagnostics"):
                told.call("GET", f"{COMPUTE}/servers/{server}{path}", who=who, version="2.100")
        for action in ("os-stop", "os-start"):
            told.call("POST", f"{COMPUTE}/servers/{server}/action", {action: None})
            whole.settled(server)
    for who in ("demo", "admin"):
        told.call("GET", f"{COMPUTE}/servers/detail?all_tenants=1", who=who, version="2.100")
        listed = told.call("GET", "/kilonova/v1/operations?all_projects=1", who=who)
        for operation in listed.json["operations"]:
            told.call("GET", f"/kilonova/v1/operations/{operation['id']}", who=who)
    for path in ("/kilonova/v1/audit", "/kilonova/v1/status", "/metrics", "/compute/openapi.json"):
        told.call("GET", path, who="admin")


def _mistakes(told: Told) -> None:
    """Requests that are wrong beside, or in, a secret field."""
    whole = told.whole
    good: dict[str, Any] = {"name": "x", "flavorRef": "42", "imageRef": whole.image()}
    for wrong in (
        {"adminPass": ADMIN_PASS * 40},
        {"adminPass": {"a": ADMIN_PASS}},
        {"adminPass": [ADMIN_PASS]},
        {"adminPass": ADMIN_PASS, "unknown": 1},
        {"user_data": USER_DATA + "%%%"},
        {"user_data": {"x": USER_DATA}},
        {"adminPass": ADMIN_PASS, "networks": {"uuid": 1}},
    ):
        body = {"server": {**good, **wrong}}
        got = told.call("POST", f"{COMPUTE}/servers", body, version="2.36")
        assert got.status == 400, got
    told.call("POST", f"{COMPUTE}/servers", {"server": ADMIN_PASS, "adminPass": ADMIN_PASS})
    user = {"name": 7, "password": PASSWORD}
    assert told.call("POST", f"{IDENTITY}/users", {"user": user}, who="admin").status == 400
    auth = {"identity": {"methods": "password", "password": PASSWORD}}
    assert told.call("POST", f"{IDENTITY}/auth/tokens", {"auth": auth}, who=None).status == 400
    for token in sorted(told.secrets):
        if token.isascii() and "\n" not in token:
            assert told.call("GET", f"{COMPUTE}/servers", token=token).status in (200, 401)


def _canaries(told: Told) -> set[str]:
    return told.secrets | {USER_DATA, "canary-user-data-9a27"}


def test_no_secret_is_logged(told: Told, logs: io.StringIO) -> None:
    """S35"""
    text = logs.getvalue()
    assert "an order failed" in text  # the failing server was heard of
    assert [c for c in _canaries(told) if c in text] == []
    tokens = {told.whole.token(w) for w in ("demo", "admin")}
    assert [t for t in tokens if t in text] == []


def test_no_answer_tells_a_secret(told: Told) -> None:
    """S35: but for user data, which the owner's admin reads in its own field."""
    assert len(told.answers) > 60
    for where, got in told.answers:
        text = got.raw.decode(errors="replace") + json.dumps(got.headers)
        assert [c for c in told.secrets if c in text] == [], where
        if USER_DATA in text:
            shown = got.json.get("servers") or [got.json["server"]]
            for server in shown:
                server.pop("OS-EXT-SRV-ATTR:user_data", None)
            assert USER_DATA not in json.dumps(got.json), where
        assert "canary-user-data-9a27" not in text


def test_no_secret_rests_in_a_file(told: Told) -> None:
    """S35: databases, journals and all else; user data only in the agents' documents, which are theirs alone."""
    root = told.whole.cloud.plan.state_dir
    for db in (told.whole.cloud.world, *told.whole.cloud.cells.values()):
        db.read(lambda tx: None)
    seen = 0
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        data = path.read_bytes()
        seen += len(data)
        for canary in _canaries(told):
            if canary.encode() in data:
                assert _is_metadata_document(path), (path, canary)
                assert canary not in told.secrets, (path, canary)
    assert seen > 100_000


def _is_metadata_document(path: Path) -> bool:
    private = stat.S_IMODE(path.stat().st_mode) == 0o600
    return private and "metadata" in str(path)


def test_secrets_end_with_their_owner(told: Told) -> None:
    """The admin password's life is the operation's, the user data's that of the server."""
    whole = told.whole
    for server in told.servers:
        whole.gone(server)

    def none_left() -> bool | None:
        counts = []
        for db in (whole.cloud.world, *whole.cloud.cells.values()):
            counts.append(db.read(lambda tx: len(tx.all(_ALL_SECRETS))))
        return True if sum(counts) == 0 else None

    until(none_left, "secrets are left")


def _all_secrets() -> Any:
    import sqlalchemy as sa

    from kilonova.db.schema.cell import secret
    from kilonova.db.sql import Q

    return Q(sa.select(secret.c.id))


_ALL_SECRETS = _all_secrets()
