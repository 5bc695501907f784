"""Two releases in one cloud: what the older one wrote is read, and what it is sent it can read (OBJ-4, R18)."""

import base64
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kilonova.objects.base import IncompatibleVersion, Versioned, decode, encode, manifest, speak
from kilonova.operations import registry
from kilonova.saga import definition, journal
from kilonova.saga.faults import Fault, Faults, Killed
from tests.operations.server_world import ServerWorld, saga_of
from tests.unit.test_objects import OURS, make
from tests.upgrade.make_wire import FOLDER, manifest_of

KEPT = {p.stem: json.loads(p.read_text()) for p in sorted(FOLDER.glob("wire-*.json"))}
EACH = [(r, n) for r, kept in KEPT.items() for n in kept["types"]]
KINDS = ("server_create", "server_stop", "server_rebuild", "server_delete")
"""Operations for which the first form of every object is enough: later fields of theirs are of later features."""


@pytest.fixture(autouse=True)
def spoken() -> Iterator[None]:
    """No test leaves another one an older language."""
    yield
    speak(None)


def test_a_release_is_kept() -> None:
    assert "wire-0.1.0" in KEPT


@pytest.mark.parametrize(("release", "name"), EACH)
def test_what_it_wrote_is_read(release: str, name: str) -> None:
    """R18, OBJ-4: every message and every record at rest."""
    message = base64.b64decode(KEPT[release]["types"][name]["message"])
    assert name in OURS, "a type may not go while a release that writes it may be there"
    assert isinstance(decode(message, OURS[name]), OURS[name])


@pytest.mark.parametrize(("release", "name"), EACH)
def test_it_can_read_what_it_is_sent(release: str, name: str) -> None:
    """OBJ-4: no field that it does not know, at any depth; or sending is an error that says so."""
    kept, cls = KEPT[release], OURS[name]
    for seed in range(20):
        value = make(cls, random.Random(f"{release} {name} {seed}"))
        try:
            wire = json.loads(encode(value, manifest_of(kept)))
        except IncompatibleVersion:
            continue
        major, minor = kept["types"][name]["version"]
        assert wire["v"] == f"{major}.{minor}"
        _only_known(value, wire["d"], kept["types"])


def _only_known(value: Any, sent: Any, types: dict[str, Any]) -> None:
    if isinstance(value, Versioned):
        known = types.get(type(value).__name__)
        tag = value.__struct_config__.tag_field
        if known is not None:
            assert set(sent) - {tag} <= set(known["fields"]), type(value).__name__
        for field in set(sent) - {tag}:
            _only_known(getattr(value, field), sent[field], types)
    elif isinstance(value, (list, tuple)):
        for one, its in zip(value, sent, strict=True):
            _only_known(one, its, types)
    elif isinstance(value, dict):
        for key, one in value.items():
            if str(key) in sent:
                _only_known(one, sent[str(key)], types)


@pytest.mark.parametrize("release", KEPT)
def test_its_operations_can_be_finished(release: str) -> None:
    """R18: each kind that it may have journaled is known, with every step that one may stand at."""
    registry.load()
    for kind, kept in KEPT[release]["operations"].items():
        name, _, version = kind.rpartition(" ")
        saga = definition.find(name, int(version))
        assert saga is not None, f"{kind} is not known any more"
        assert saga.params.__name__ == kept["params"]
        assert set(kept["steps"]) <= set(saga.positions), kind


class Ear:
    """Hears every message on a world's bus and keeps the version that each was written in."""

    def __init__(self, world: ServerWorld) -> None:
        self.heard: dict[str, set[str]] = {}
        publish = world.bus.plain.publish

        def listen(subject: str, body: bytes) -> None:
            self.take(body)
            publish(subject, body)

        world.bus.plain.publish = listen  # type: ignore[method-assign]

    def take(self, body: bytes | msgspec.Raw) -> None:
        try:
            message = json.loads(bytes(body))
        except ValueError:
            return
        self._walk(message)

    def _walk(self, message: Any) -> None:
        if isinstance(message, dict):
            if set(message) == {"t", "v", "d"}:
                self.heard.setdefault(message["t"], set()).add(message["v"])
            for part in message.values():
                self._walk(part)


@pytest.mark.parametrize("kind", KINDS)
def test_an_operation_in_the_oldest_language(kind: str, tmp_path: Path) -> None:
    """OBJ-4, OBJ-10: everybody writes what the first form of each object could carry, and it is enough."""
    speak({})
    world = ServerWorld(tmp_path, kind)
    ear = Ear(world)
    assert world.run(*world.begin()) == "done"
    ledger, clean = world.ledger(), world.clean("done")
    world.close()
    assert ledger == clean
    assert {"Order", "Answer"} <= set(ear.heard)
    assert {v for versions in ear.heard.values() for v in versions} == {"1.0"}


@pytest.mark.parametrize("kind", KINDS)
def test_an_older_conductor_s_journal_is_finished(kind: str, tmp_path: Path) -> None:
    """R18: what was journaled in the oldest form is finished by a conductor of this release, from every step."""
    for n, step in enumerate(s.name for s in saga_of(kind).steps):
        speak({})
        world = ServerWorld(tmp_path / str(n), kind)
        faults = Faults(Fault(step, "do", "recorded", "kill"))
        engine = world.engine(faults)
        engine.open()
        home, operation = world.begin()
        engine.nudge(home, operation)
        try:
            engine.run_until_idle()
        except Killed:
            engine.abandon()
        assert _params_of(world, home, operation)["v"] == "1.0"
        speak(None)
        world.engine().open()
        assert world.run(home, operation) == "done", step
        ledger, clean = world.ledger(), world.clean("done")
        world.close()
        assert ledger == clean, step


def _params_of(world: ServerWorld, home: str, operation: str) -> Any:
    row = world.databases[home].read(lambda tx: journal.get(tx, operation))
    return json.loads(row["params"])


def test_the_other_way_round(tmp_path: Path) -> None:
    """OBJ-4: orders of this release reach hosts that write the oldest form, and back."""
    assert any(v > (1, 0) for v in manifest().values()), "else this shows nothing"
    world = ServerWorld(tmp_path, "server_create")
    ear = Ear(world)
    order = world.bus.plain.publish

    def old_hosts(subject: str, body: bytes) -> None:
        """What hosts say is written anew in the oldest form."""
        if subject.startswith(("answer.", "report.")):
            name = json.loads(body)["t"]
            body = encode(decode(body, OURS[name]), {})
        order(subject, body)

    world.bus.plain.publish = old_hosts  # type: ignore[method-assign]
    assert world.run(*world.begin()) == "done"
    world.close()
    assert ear.heard["Answer"] == {"1.0"}
