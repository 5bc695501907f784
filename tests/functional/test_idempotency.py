"""``Idempotency-Key`` on POST /servers: done once, answered alike, refused with another body (DESIGN, accept)."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa

from kilonova.db import idempotency as db
from kilonova.db.schema.world import idempotency
from kilonova.db.sql import Q
from kilonova.operations import idempotent
from tests.whole import Answer, Whole, running, until

SERVERS = "/compute/v2.1/servers"
_FORGET_ALL = Q(sa.delete(idempotency))


@pytest.fixture(scope="module")
def cloud() -> Iterator[Whole]:
    with running() as made:
        yield made


@pytest.fixture
def whole(cloud: Whole) -> Iterator[Whole]:
    """A cloud without servers and keys."""
    yield cloud
    for who in ("demo", "other"):
        for server in _servers(cloud, who):
            cloud.gone(server)
    cloud.cloud.world.write(lambda tx: tx.run(_FORGET_ALL))


def _body(whole: Whole, **more: Any) -> dict[str, Any]:
    server = {"name": "once", "flavorRef": "42", "imageRef": whole.image(), "networks": "none"}
    return {"server": {**server, **more}}


def _post(whole: Whole, body: Any, key: str, **more: Any) -> Answer:
    more.setdefault("version", "2.90")
    return whole.call("POST", SERVERS, body, headers={"Idempotency-Key": key}, **more)


def _servers(whole: Whole, who: str = "demo") -> list[str]:
    return [s["id"] for s in whole.call("GET", SERVERS, who=who).json["servers"]]


def _key(whole: Whole, key: str) -> db.Key:
    user = whole.content.users["demo"]
    return db.Key(whole.content.projects["demo"], user, "POST", SERVERS, key)


def test_a_retry_is_answered_as_the_first_request_was(whole: Whole) -> None:
    body = _body(whole)
    first, again = _post(whole, body, "k1"), _post(whole, body, "k1")
    assert first.status == again.status == 202
    assert again.json == first.json and first.json["server"]["adminPass"]
    assert again.headers["location"] == first.headers["location"]
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert _servers(whole) == [first.json["server"]["id"]]
    reordered = {"server": dict(reversed(list(body["server"].items())))}
    assert _post(whole, reordered, "k1").json == first.json


def test_another_body_or_version_under_the_same_key_is_422(whole: Whole) -> None:
    assert _post(whole, _body(whole), "k1").status == 202
    got = _post(whole, _body(whole, name="another"), "k1")
    assert got.status == 422 and "unprocessableEntity" in got.json
    assert _post(whole, _body(whole), "k1", version="2.60").status == 422
    assert len(_servers(whole)) == 1


def test_a_key_belongs_to_one_user_of_one_project(whole: Whole) -> None:
    body = _body(whole)
    mine, theirs = _post(whole, body, "k1"), _post(whole, body, "k1", who="other")
    assert mine.status == theirs.status == 202
    assert mine.json["server"]["id"] != theirs.json["server"]["id"]
    assert len(_servers(whole)) == len(_servers(whole, "other")) == 1
    assert _post(whole, body, "k2").json["server"]["id"] != mine.json["server"]["id"]


def test_twenty_parallel_retries_make_one_server(whole: Whole) -> None:
    body, token = _body(whole), whole.token("demo")

    def send(_: int) -> Answer:
        try:
            return until(_accepted)
        finally:
            whole.hang_up()

    seen = []

    def _accepted() -> Answer | None:
        got = _post(whole, body, "parallel", token=token)
        seen.append(got)
        assert got.status in (202, 409), got
        if got.status == 409:
            assert got.headers["retry-after"] == "1"
        return got if got.status == 202 else None

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(send, range(20)))
    assert len({a.raw for a in answers}) == 1
    assert sum("idempotency-replayed" not in a.headers for a in answers) == 1
    assert _servers(whole) == [answers[0].json["server"]["id"]]


def test_a_refused_request_gives_its_key_back(whole: Whole) -> None:
    refused = _post(whole, _body(whole, flavorRef="no-such"), "k1")
    assert refused.status == 400
    assert _post(whole, _body(whole), "k1").status == 202
    limit = {"quota_set": {"instances": 1}}
    path = f"/compute/v2.1/os-quota-sets/{whole.project('demo')}"
    whole.call("PUT", path, limit, who="admin")
    assert _post(whole, _body(whole), "k2").status == 403
    limit["quota_set"]["instances"] = 10
    whole.call("PUT", path, limit, who="admin")
    assert _post(whole, _body(whole), "k2").status == 202


def test_a_reservation_whose_owner_died_is_finished_with_its_ids(whole: Whole) -> None:
    """The process died between the reservation and the accept: a retry takes over, and mints nothing new."""
    body, world = _body(whole), whole.cloud.world
    minted = "11111111-2222-4333-8444-555555555555"
    first = _post(whole, body, "probe")
    row = world.read(lambda tx: db.find(tx, _key(whole, "probe")))
    assert first.status == 202 and row is not None
    now = whole.cloud.services.now()

    def reserve(key: str, at: float) -> None:
        world.write(
            lambda tx: db.reserve(
                tx,
                _key(whole, key),
                body_hash=row["body_hash"],
                minted=json.dumps([minted]),
                now=at,
            )
        )

    reserve("fresh", now)
    busy = _post(whole, body, "fresh")
    assert busy.status == 409 and busy.headers["retry-after"] == "1"
    reserve("stale", now - idempotent.BUSY_S - 1)
    done = _post(whole, body, "stale")
    assert done.status == 202 and done.json["server"]["id"] == minted
    assert _post(whole, body, "stale").json == done.json


def test_an_owner_that_was_overtaken_accepts_nothing(whole: Whole) -> None:
    services, world, body = whole.cloud.services, whole.cloud.world, _body(whole)
    assert _post(whole, body, "k1").status == 202
    key = _key(whole, "slow")

    def reserve(tx: Any) -> None:
        db.reserve(tx, key, body_hash="x", minted="[]", now=1.0)
        assert db.take(tx, key, seen=1.0, now=2.0)
        assert not db.take(tx, key, seen=1.0, now=3.0)

    world.write(reserve)
    late = idempotent.Reservation(key, 1.0, ())
    with pytest.raises(idempotent.KeyInUse):
        world.write(lambda tx: late.finish(services, tx, status=202, body=b"{}", location=None))
    late.release(services)
    assert world.read(lambda tx: db.find(tx, key)) is not None
    idempotent.Reservation(key, 2.0, ()).release(services)
    assert world.read(lambda tx: db.find(tx, key)) is None


def test_a_key_is_forgotten_after_a_day(whole: Whole) -> None:
    body, world, key = _body(whole), whole.cloud.world, _key(whole, "old")
    first = _post(whole, body, "old")
    row = world.read(lambda tx: db.find(tx, key))
    assert row is not None

    def age(tx: Any) -> None:
        db.forget_old(tx, key, row["created_at"] + 1)
        values = {"body_hash": row["body_hash"], "minted": row["minted"]}
        db.reserve(tx, key, **values, now=row["created_at"] - db.KEEP_S - 1)

    world.write(age)
    assert _post(whole, body, "old").json["server"]["id"] != first.json["server"]["id"]


def test_several_servers_under_one_key(whole: Whole) -> None:
    body = _body(whole, min_count=2, max_count=3, return_reservation_id=True)
    first, again = _post(whole, body, "many"), _post(whole, body, "many")
    assert first.status == 202 and again.json == first.json
    assert len(_servers(whole)) == 3


@pytest.mark.parametrize("key", ["", "x" * 256, "kä"])
def test_a_key_that_is_no_key_is_400(whole: Whole, key: str) -> None:
    got = _post(whole, _body(whole), key)
    assert got.status == 400 and "Idempotency-Key" in got.json["badRequest"]["message"]


def test_the_kept_answer_shows_no_password(whole: Whole) -> None:
    """S35"""
    answer = _post(whole, _body(whole, adminPass="canary-password-77"), "k1")
    assert answer.json["server"]["adminPass"] == "canary-password-77"
    row = whole.cloud.world.read(lambda tx: db.find(tx, _key(whole, "k1")))
    assert row is not None
    assert b"canary" not in row["answer"]
    assert not any("canary" in str(value) for value in tuple(row))
