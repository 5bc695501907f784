"""``Idempotency-Key`` beyond POST /servers: done once, answered alike, also when the process died in between."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from kilonova.db import idempotency as db
from kilonova.db.engine import Tx
from kilonova.db.schema.world import idempotency
from kilonova.db.sql import Q
from kilonova.operations import idempotent
from tests.whole import Answer, Whole, running, until

V = "/compute/v2.1"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ2M9DnSGRcyRvuPtVMSLYiPrN5tLxQVvNPpqM4WmXJH nobody@nowhere"
_AGE = Q(sa.update(idempotency).values(created_at=idempotency.c.created_at - idempotent.BUSY_S))
_PENDING = Q(sa.select(sa.func.count()).where(idempotency.c.status.is_(None)))
_SEALED = Q(sa.select(idempotency.c.answer))


@pytest.fixture(scope="module")
def whole() -> Iterator[Whole]:
    with running(hosts=2) as made:
        yield made


@pytest.fixture(scope="module")
def server(whole: Whole) -> str:
    (net,) = whole.call("GET", "/network/v2.0/networks?name=private").json["networks"]
    return whole.server("mine", networks=[{"uuid": net["id"]}])


def _post(whole: Whole, path: str, body: Any, key: str, **more: Any) -> Answer:
    more.setdefault("who", "admin")
    return whole.call("POST", V + path, body, headers={"Idempotency-Key": key}, **more)


# what is only records: path, body, where it is listed, and how an answer's thing is known there
RECORDS: list[tuple[str, dict[str, Any], str, str]] = [
    ("/os-keypairs", {"keypair": {"name": "k-{}", "public_key": KEY}}, "/os-keypairs", "k-{}"),
    ("/os-server-groups", {"server_group": {"name": "g-{}", "policy": "affinity"}}, "/os-server-groups", "g-{}"),
    ("/os-aggregates", {"aggregate": {"name": "a-{}", "availability_zone": None}}, "/os-aggregates", "a-{}"),
    ("/flavors", {"flavor": {"name": "f-{}", "ram": 64, "vcpus": 1, "disk": 1}}, "/flavors", "f-{}"),
]  # fmt: skip


def _named(value: Any, word: str) -> Any:
    if isinstance(value, dict):
        return {k: _named(v, word) for k, v in value.items()}
    return value.format(word) if isinstance(value, str) and value != KEY else value


def _count(whole: Whole, path: str, name: str) -> int:
    listed = whole.call("GET", V + path, who="admin", version="2.90").json
    things = next(v for v in listed.values() if isinstance(v, list))
    return sum(name in (t.get("name"), t.get("keypair", {}).get("name")) for t in things)


@pytest.mark.parametrize(("path", "body", "where", "name"), RECORDS, ids=[r[0] for r in RECORDS])
def test_a_record_is_made_once(
    whole: Whole, path: str, body: dict[str, Any], where: str, name: str
) -> None:
    sent, name = _named(body, "once"), name.format("once")
    first = _post(whole, path, sent, "r1", version="2.90")
    again = _post(whole, path, sent, "r1", version="2.90")
    assert first.status in (200, 201) and again.status == first.status
    assert again.raw == first.raw and again.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    assert _count(whole, where, name) == 1
    other = _post(whole, path, _named(body, "other"), "r1", version="2.90")
    assert other.status == 422 and "unprocessableEntity" in other.json


@pytest.mark.parametrize(("path", "body", "where", "name"), RECORDS, ids=[r[0] for r in RECORDS])
def test_a_record_and_its_answer_are_kept_together(
    monkeypatch: pytest.MonkeyPatch,
    whole: Whole,
    path: str,
    body: dict[str, Any],
    where: str,
    name: str,
) -> None:
    """Killed when the change is written and the answer is not: neither is there, and a retry makes it once."""
    sent, name = _named(body, "killed"), name.format("killed")
    reached = _die_once(monkeypatch, "_keep")
    assert _post(whole, path, sent, "r2", version="2.90").status in (0, 500)
    assert reached.is_set() and _count(whole, where, name) == 0
    assert _post(whole, path, sent, "r2", version="2.90").status == 409, "it may still be at work"
    whole.cloud.world.write(lambda tx: tx.run(_AGE))
    done = _post(whole, path, sent, "r2", version="2.90")
    assert done.status in (200, 201) and _count(whole, where, name) == 1
    assert _post(whole, path, sent, "r2", version="2.90").raw == done.raw


def _die_once(monkeypatch: pytest.MonkeyPatch, name: str) -> threading.Event:
    """Let the next call of a function of the mechanism be the process's last."""
    real: Callable[..., Any] = getattr(idempotent, name)
    reached = threading.Event()

    def dying(*given: Any) -> Any:
        if not reached.is_set():
            reached.set()
            raise RuntimeError("killed")
        return real(*given)

    monkeypatch.setattr(idempotent, name, dying)
    return reached


def test_a_refused_record_gives_its_key_back(whole: Whole) -> None:
    taken = {"aggregate": {"name": "taken", "availability_zone": None}}
    assert _post(whole, "/os-aggregates", taken, "a1").status == 200
    assert _post(whole, "/os-aggregates", taken, "a2").status == 409
    free = {"aggregate": {"name": "free", "availability_zone": None}}
    assert _post(whole, "/os-aggregates", free, "a2").status == 200


def test_actions_of_aggregates_and_flavors_are_done_once(whole: Whole) -> None:
    made = _post(whole, "/os-aggregates", {"aggregate": {"name": "racks"}}, "x1", version="2.1")
    path = f"/os-aggregates/{made.json['aggregate']['id']}/action"
    body = {"add_host": {"host": "cell1-host1"}}
    first = _post(whole, path, body, "x2")
    assert first.status == 200 and _post(whole, path, body, "x2").raw == first.raw
    assert _post(whole, path, body, "x3").status == 409, "without the key it is there already"
    private = {"os-flavor-access:is_public": False}
    flavor = {"flavor": {"name": "p", "ram": 64, "vcpus": 1, "disk": 1, **private}}
    id_ = _post(whole, "/flavors", flavor, "x4").json["flavor"]["id"]
    grant = {"addTenantAccess": {"tenant": whole.project("demo")}}
    first = _post(whole, f"/flavors/{id_}/action", grant, "x5")
    assert (
        first.status == 200 and _post(whole, f"/flavors/{id_}/action", grant, "x5").raw == first.raw
    )


def test_a_generated_private_key_is_told_once(whole: Whole) -> None:
    """S35: it is kept nowhere, so a retry is told what to do instead."""
    body = {"keypair": {"name": "generated"}}
    first = _post(whole, "/os-keypairs", body, "k1", who="demo", version="2.2")
    assert first.status == 201 and "PRIVATE KEY" in first.json["keypair"]["private_key"]
    again = _post(whole, "/os-keypairs", body, "k1", who="demo", version="2.2")
    assert again.status == 409 and again.headers["idempotency-replayed"] == "true"
    assert "first answer only" in again.json["conflictingRequest"]["message"]
    vault = whole.cloud.services.vault
    rows = whole.cloud.world.read(lambda tx: tx.all(_SEALED))
    kept = [vault.unseal("idempotent_answer", r[0]).reveal() for r in rows if r[0]]
    assert kept and not any("PRIVATE KEY" in text for text in kept)


def _operations(whole: Whole, server: str, action: str) -> int:
    path = f"{V}/servers/{server}/os-instance-actions"
    found = whole.call("GET", path, who="admin").json["instanceActions"]
    return sum(a["action"] == action for a in found)


ACTIONS: list[tuple[dict[str, Any], str]] = [
    ({"reboot": {"type": "HARD"}}, "reboot"),
    ({"os-stop": None}, "stop"),
    ({"os-start": None}, "start"),
    ({"createImage": {"name": "picture"}}, "createImage"),
]


@pytest.mark.parametrize(("body", "action"), ACTIONS, ids=[a[1] for a in ACTIONS])
def test_a_server_action_is_done_once(
    whole: Whole, server: str, body: dict[str, Any], action: str
) -> None:
    path, before = f"/servers/{server}/action", _operations(whole, server, action)
    first = _post(whole, path, body, f"once-{action}", version="2.90")
    whole.settled(server)
    again = _post(whole, path, body, f"once-{action}", version="2.90")
    assert first.status == again.status == 202, (first, again)
    assert again.raw == first.raw and again.headers["idempotency-replayed"] == "true"
    assert _operations(whole, server, action) == before + 1


@pytest.mark.parametrize(("body", "action"), ACTIONS, ids=[a[1] for a in ACTIONS])
def test_an_action_whose_answer_was_never_given_is_found_again(
    monkeypatch: pytest.MonkeyPatch, whole: Whole, server: str, body: dict[str, Any], action: str
) -> None:
    """Killed between accept and answer: the retry finds the operation, and does nothing."""
    path, before = f"/servers/{server}/action", _operations(whole, server, action)
    reached = _die_once(monkeypatch, "_keep")
    assert _post(whole, path, body, f"kill-{action}", version="2.90").status == 500
    assert reached.is_set()
    whole.settled(server)
    assert _post(whole, path, body, f"kill-{action}", version="2.90").status == 409
    whole.cloud.world.write(lambda tx: tx.run(_AGE))
    done = _post(whole, path, body, f"kill-{action}", version="2.90")
    assert done.status == 202, done
    if action == "createImage":
        image = whole.call("GET", f"/image/v2/images/{done.json['image_id']}", who="admin")
        assert image.json["name"] == "picture"
    assert _operations(whole, server, action) == before + 1
    assert _post(whole, path, body, f"kill-{action}", version="2.90").raw == done.raw


def test_an_action_that_was_never_accepted_is_done_by_the_retry(
    monkeypatch: pytest.MonkeyPatch, whole: Whole, server: str
) -> None:
    """Killed between the reservation and the accept."""
    path, before = f"/servers/{server}/action", _operations(whole, server, "reboot")
    body = {"reboot": {"type": "HARD"}}
    reached = _die_once(monkeypatch, "_operation")
    assert _post(whole, path, body, "early").status == 500
    assert reached.is_set() and _operations(whole, server, "reboot") == before
    busy = _post(whole, path, body, "early")
    assert busy.status == 409 and busy.headers["retry-after"] == "1"
    whole.cloud.world.write(lambda tx: tx.run(_AGE))
    assert _post(whole, path, body, "early").status == 202
    whole.settled(server)
    assert _operations(whole, server, "reboot") == before + 1
    assert whole.cloud.world.read(lambda tx: tx.value(_PENDING)) == 0


def test_a_refused_action_gives_its_key_back(whole: Whole, server: str) -> None:
    path = f"/servers/{server}/action"
    assert _post(whole, path, {"os-start": None}, "again").status == 409, "it runs already"
    assert _post(whole, path, {"os-stop": None}, "again").status == 202
    whole.settled(server)
    assert _post(whole, path, {"os-start": None}, "again2").status == 202
    whole.settled(server)


def test_an_interface_is_attached_once(
    monkeypatch: pytest.MonkeyPatch, whole: Whole, server: str
) -> None:
    (net,) = whole.call("GET", "/network/v2.0/networks?name=private").json["networks"]
    path, body = f"/servers/{server}/os-interface", {"interfaceAttachment": {"net_id": net["id"]}}

    def count() -> int:
        return len(whole.call("GET", V + path).json["interfaceAttachments"])

    before = count()
    first = _post(whole, path, body, "nic", who="demo")
    whole.settled(server)
    again = _post(whole, path, body, "nic", who="demo")
    assert first.status == again.status == 200 and again.raw == first.raw
    assert count() == before + 1
    reached = _die_once(monkeypatch, "_keep")
    assert _post(whole, path, body, "nic2", who="demo").status == 500 and reached.is_set()
    whole.settled(server)
    whole.cloud.world.write(lambda tx: tx.run(_AGE))
    done = _post(whole, path, body, "nic2", who="demo")
    assert done.status == 200 and count() == before + 2
    assert (
        done.json["interfaceAttachment"]["port_id"] != first.json["interfaceAttachment"]["port_id"]
    )


def test_a_volume_is_attached_once(
    monkeypatch: pytest.MonkeyPatch, whole: Whole, server: str
) -> None:
    volumes = f"/volume/v3/{whole.project('demo')}/volumes"
    path = f"/servers/{server}/os-volume_attachments"
    for key, killed in (("v1", False), ("v2", True)):
        made = whole.call("POST", volumes, {"volume": {"size": 1, "name": key}})
        id_ = made.json["volume"]["id"]
        until(
            lambda id_=id_: (
                whole.call("GET", f"{volumes}/{id_}").json["volume"]["status"] == "available"
            )
        )
        body = {"volumeAttachment": {"volumeId": id_}}
        if killed:
            reached = _die_once(monkeypatch, "_keep")
            assert _post(whole, path, body, key, who="demo").status == 500 and reached.is_set()
            whole.settled(server)
            whole.cloud.world.write(lambda tx: tx.run(_AGE))
        first = _post(whole, path, body, key, who="demo")
        assert first.status == 200 and first.json["volumeAttachment"]["volumeId"] == id_
        assert _post(whole, path, body, key, who="demo").raw == first.raw
        listed = whole.call("GET", V + path).json["volumeAttachments"]
        assert [a["volumeId"] for a in listed].count(id_) == 1


def test_a_key_means_nothing_where_nothing_is_done(whole: Whole, server: str) -> None:
    body = {"os-getConsoleOutput": {}}
    path = f"/servers/{server}/action"
    for _ in range(2):
        got = _post(whole, path, body, "log", who="demo")
        assert got.status == 200 and "idempotency-replayed" not in got.headers


def test_writes_that_belong_together_commit_together(whole: Whole) -> None:
    """The engine's part: from the first write to the end; what is read after it is read in it; an error undoes all."""
    world = whole.cloud.world
    key = db.Key("p", "u", "POST", "/x", "together")

    def add(tx: Tx) -> None:
        db.reserve(tx, key, body_hash="x", minted="[]", now=1e12)

    def broken(tx: Tx) -> None:
        tx.run(_AGE)
        raise ValueError("part")

    hooks: list[str] = []
    with pytest.raises(KeyError), world.together():
        world.write(add)
        raise KeyError("whole")
    assert world.read(lambda tx: db.find(tx, key)) is None
    with world.together():
        assert world.ask(lambda tx: db.find(tx, key)) is None
        world.write(add)
        world.write(lambda tx: tx.after_commit(lambda: hooks.append("after")))
        with pytest.raises(ValueError, match="part"):
            world.write(broken)
        assert world.read(lambda tx: db.find(tx, key))["created_at"] == 1e12
        assert hooks == []
    assert hooks == ["after"]
    assert world.read(lambda tx: db.find(tx, key)) is not None
