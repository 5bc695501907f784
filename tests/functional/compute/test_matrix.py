"""Feature × {local disk, volume-backed} × {running, stopped}: every server feature for every kind of server (SM-27).

A feature is a row of FEATURES: a function that takes a settled server, does it, and says what must hold. Add yours;
what it says of volumes follows from ``root_kept``: the root volume is the same one, attached, in use.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.functional.volumes_kit import Kit
from tests.whole import Whole, running


@dataclass
class Subject:
    """One server. root: its root volume's id, None when the disk is the host's."""

    kit: Kit
    id: str
    root: str | None
    running: bool

    @property
    def status(self) -> str:
        return str(self.kit.show(self.id)["status"])

    def is_what_it_was(self) -> None:
        """It runs or not, as before, with its root disk."""
        assert self.status == ("ACTIVE" if self.running else "SHUTOFF")
        self.root_kept()

    def root_kept(self) -> None:
        """Record, volume service and guest agree on the root disk."""
        guest = self.kit.guest(self.id)
        if self.root is None:
            assert guest.disks == ("root",)
            return
        assert guest.disks == () and self.root in guest.volumes
        assert self.root in {a["volumeId"] for a in self.kit.attachments(self.id)}
        assert self.kit.show_volume(self.root)["status"] == "in-use"


Feature = Callable[[Subject], None]


def create(s: Subject) -> None:
    """What the fixture made."""
    s.is_what_it_was()


def delete(s: Subject) -> None:
    s.kit.delete(s.id)
    if s.root is not None:
        s.kit.becomes(s.root, None)


def start_and_stop(s: Subject) -> None:
    there, back = ("os-stop", "os-start") if s.running else ("os-start", "os-stop")
    s.kit.act(s.id, there, "SHUTOFF" if s.running else "ACTIVE")
    s.root_kept()
    s.kit.act(s.id, back, "ACTIVE" if s.running else "SHUTOFF")
    s.is_what_it_was()


def reboot_hard(s: Subject) -> None:
    s.kit.act(s.id, "reboot", "ACTIVE", {"type": "HARD"})
    s.root_kept()


def pause(s: Subject) -> None:
    if s.running:
        s.kit.act(s.id, "pause", "PAUSED")
        s.kit.act(s.id, "unpause", "ACTIVE")
    s.is_what_it_was()


def suspend(s: Subject) -> None:
    if s.running:
        s.kit.act(s.id, "suspend", "SUSPENDED")
        s.kit.act(s.id, "resume", "ACTIVE")
    s.is_what_it_was()


def attach(s: Subject) -> None:
    volume = s.kit.volume()
    s.kit.attached(s.id, volume)
    assert volume in s.kit.guest(s.id).volumes
    s.is_what_it_was()
    s.kit.delete(s.id)
    s.kit.becomes(volume, "available")


def detach(s: Subject) -> None:
    volume = s.kit.volume()
    s.kit.attached(s.id, volume)
    assert s.kit.detach(s.id, volume).status == 202
    s.kit.becomes(volume, "available")
    assert volume not in s.kit.guest(s.id).volumes
    s.is_what_it_was()


FEATURES: tuple[Feature, ...] = (
    create,
    delete,
    start_and_stop,
    reboot_hard,
    pause,
    suspend,
    attach,
    detach,
)


@pytest.fixture(scope="module")
def whole() -> Iterator[Whole]:
    with running(hosts=2) as cloud:
        yield cloud


@pytest.fixture(scope="module")
def kit(whole: Whole) -> Kit:
    return Kit(whole)


@pytest.fixture
def subject(kit: Kit, backed: bool, runs: bool) -> Iterator[Subject]:
    """A server that is gone with the test, its volumes too; the audit has nothing to say afterwards."""
    server = kit.backed() if backed else kit.server(imageRef=kit.image)
    root = kit.attachments(server)[0]["volumeId"] if backed else None
    if not runs:
        kit.act(server, "os-stop", "SHUTOFF")
    yield Subject(kit, server, root, runs)
    kit.whole.gone(server)
    assert kit.whole.call("GET", "/kilonova/v1/audit", who="admin").json["findings"] == []


@pytest.mark.parametrize("runs", [True, False], ids=["running", "stopped"])
@pytest.mark.parametrize("backed", [False, True], ids=["local", "volume-backed"])
@pytest.mark.parametrize("feature", FEATURES, ids=lambda f: f.__name__)
def test_feature(feature: Feature, subject: Subject) -> None:
    feature(subject)
