"""kill -9 of a whole cloud in the middle of what is done to servers' disks: the next process ends it (R2, R9).

A sample of steps of each operation, for servers on local disks and on volumes; afterwards nothing is left but history.
"""

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from tests.client import until
from tests.processes.test_kill_cloud import UNREACHED, Incarnations, V

HEAD = {"OpenStack-API-Version": "volume 3.70"}
BLOCK, IMAGES = "/volume/v3", "/image/v2/images"
Do = Callable[["Stage"], Any]


@dataclass
class Stage:
    """One server of a cloud that is killed. spare: a volume that nobody has."""

    cloud: Incarnations
    server: str = ""
    spare: str = ""

    def act(self, action: str, argument: Any = None) -> None:
        """Ask for an action; the answer may be lost."""
        with contextlib.suppress(*UNREACHED):
            self.cloud.client.act(self.server, {action: argument})

    def settles(self, status: str) -> dict[str, Any]:
        return self.cloud.client.wait(self.server, status)

    def block(self, method: str, path: str, body: Any = None) -> Any:
        got = self.cloud.client.call(method, f"{BLOCK}{path}", body, headers=HEAD)
        return got.json if got.raw else None

    def volume(self) -> str:
        made = self.block("POST", "/volumes", {"volume": {"size": 1}})["volume"]["id"]
        until(lambda: self.status_of(made) == "available" or None, "the volume")
        return str(made)

    def status_of(self, volume: str) -> str:
        return str(self.block("GET", f"/volumes/{volume}")["volume"]["status"])

    @property
    def image(self) -> str:
        return self.cloud.client.first(IMAGES, "tiny-linux")

    @property
    def attached(self) -> list[str]:
        found = self.cloud.client.get(f"{V}/{self.server}/os-volume_attachments")
        return [a["volumeId"] for a in found["volumeAttachments"]]

    def attach(self) -> None:
        body = {"volumeAttachment": {"volumeId": self.spare}}
        with contextlib.suppress(*UNREACHED):
            self.cloud.client.post(f"{V}/{self.server}/os-volume_attachments", body)

    def detach(self) -> None:
        path = f"{V}/{self.server}/os-volume_attachments/{self.spare}"
        with contextlib.suppress(*UNREACHED):
            self.cloud.client.delete(path)

    def _none(self, noun: str) -> bool:
        return not self.block("GET", f"/{noun}")[noun]

    def clear(self) -> None:
        """Remove what the test made; then nothing may be left."""
        for server in self.cloud.servers(""):
            self.cloud.client.delete(f"{V}/{server['id']}")
        until(lambda: not self.cloud.servers(""), "the end of all servers")
        for image in self.cloud.client.get(IMAGES)["images"]:
            if image["name"].startswith("copy"):
                self.cloud.client.delete(f"{IMAGES}/{image['id']}")
        for noun in ("snapshots", "volumes"):
            for left in self.block("GET", f"/{noun}")[noun]:
                self.block("DELETE", f"/{noun}/{left['id']}")
            until(partial(self._none, noun), f"the end of {noun}")
        self.cloud.empty()


@dataclass(frozen=True)
class Case:
    """steps: where to die, the first that is met. before: what brings the server there. ends: its status then."""

    steps: str
    do: Do
    ends: str
    before: Do | None = None
    backed: bool = False
    holds: Do | None = None


def _shelved(s: Stage) -> None:
    s.act("shelve")
    s.settles("SHELVED_OFFLOADED")


def _rescued(s: Stage) -> None:
    s.act("rescue", {"rescue_image_ref": s.image})
    s.settles("RESCUE")


def _has_spare(s: Stage) -> None:
    s.attach()
    until(lambda: s.status_of(s.spare) == "in-use" or None, "the volume in use")


def _in_use(s: Stage) -> None:
    assert s.spare in s.attached
    assert s.status_of(s.spare) == "in-use"


def _let_go(s: Stage) -> None:
    until(lambda: s.spare not in s.attached or None, "the volume out of the record")
    assert s.status_of(s.spare) == "available"


def _image_made(s: Stage) -> None:
    found = [i for i in s.cloud.client.get(IMAGES)["images"] if i["name"].startswith("copy")]
    assert [i["status"] for i in found] == ["active"]


def _anew(s: Stage) -> None:
    (root,) = s.attached
    assert s.status_of(root) == "in-use"
    assert s.cloud.client.show(s.server)["name"] == "disk-anew"


def _rebuild(s: Stage) -> None:
    s.act("rebuild", {"imageRef": s.image, "name": "disk-anew"})


def _rescue(s: Stage) -> None:
    s.act("rescue", {"rescue_image_ref": s.image})


def _copy(s: Stage) -> None:
    s.act("createImage", {"name": "copy"})


def _backup(s: Stage) -> None:
    s.act("createBackup", {"name": "copy", "backup_type": "daily", "rotation": 1})


def _resize(s: Stage) -> None:
    flavor = s.cloud.client.first("/compute/v2.1/flavors", "m1.small")
    s.act("resize", {"flavorRef": flavor})


def _resized(s: Stage) -> None:
    _resize(s)
    s.settles("VERIFY_RESIZE")


CASES: dict[str, Case] = {
    "rebuild": Case("guest:do:after", _rebuild, "ACTIVE"),
    "rebuild's end": Case("forget:do:after", _rebuild, "ACTIVE"),
    "rebuild of a root volume: let go": Case("root:do:after", _rebuild, "ACTIVE", None, True, _anew),
    "rebuild of a root volume: asked": Case("reimage:do:before", _rebuild, "ACTIVE", None, True, _anew),
    "rebuild of a root volume: written": Case("fill:do:after", _rebuild, "ACTIVE", None, True, _anew),
    "rebuild of a root volume: started": Case("guest:do:after", _rebuild, "ACTIVE", None, True, _anew),
    "rescue": Case("guest:do:after", _rescue, "RESCUE"),
    "unrescue": Case("guest:do:after", lambda s: s.act("unrescue"), "ACTIVE", _rescued),
    "shelve": Case("upload:do:after", lambda s: s.act("shelve"), "SHELVED_OFFLOADED"),
    "shelve on a volume": Case("remove:do:after", lambda s: s.act("shelve"), "SHELVED_OFFLOADED", None, True),
    "unshelve": Case("guest:do:after", lambda s: s.act("unshelve"), "ACTIVE", _shelved),
    "unshelve on a volume": Case("ports:do:after", lambda s: s.act("unshelve"), "ACTIVE", _shelved, True),
    "snapshot": Case("snapshot:do:after", _copy, "ACTIVE", holds=_image_made),
    "snapshot's bytes": Case("upload:do:after", _copy, "ACTIVE", holds=_image_made),
    "snapshots of volumes": Case("snapshots:do:after", _copy, "ACTIVE", None, True, _image_made),
    "backup": Case("rotate:do:after", _backup, "ACTIVE", holds=_image_made),
    "resize": Case("claim:do:after", _resize, "VERIFY_RESIZE"),
    "resize's guest": Case("guest:do:after moved:do:after", _resize, "VERIFY_RESIZE"),
    "resize on a volume": Case("guest:do:after moved:do:after", _resize, "VERIFY_RESIZE", None, True),
    "confirm": Case("guest:do:after claim:do:after", lambda s: s.act("confirmResize"), "ACTIVE", _resized),
    "attach": Case("connect:do:after", Stage.attach, "ACTIVE", holds=_in_use),
    "attach to the guest": Case("guest:do:after", Stage.attach, "ACTIVE", holds=_in_use),
    "detach": Case("guest:do:after", Stage.detach, "ACTIVE", _has_spare, False, _let_go),
    "detach's end": Case("release:do:after", Stage.detach, "ACTIVE", _has_spare, True, _let_go),
}  # fmt: skip


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Incarnations]:
    x = Incarnations(tmp_path_factory.mktemp("kill") / "state")
    yield x
    x.stop()


@pytest.fixture
def stage(cloud: Incarnations, name: str) -> Iterator[Stage]:
    """A server, and a volume beside it."""
    s = Stage(cloud)
    more: dict[str, Any] = {}
    if CASES[name].backed:
        root = {"boot_index": 0, "uuid": s.image, "source_type": "image", "volume_size": 1}
        root |= {"destination_type": "volume", "delete_on_termination": True}
        more = {"block_device_mapping_v2": [root], "imageRef": None}
    s.server = cloud.client.boot("disk", **more)
    s.settles("ACTIVE")
    s.spare = s.volume()
    yield s
    s.clear()


@pytest.mark.parametrize("name", CASES)
def test_killed_in_the_middle(name: str, stage: Stage, cloud: Incarnations) -> None:
    """Accepted is accepted: it ends as if nobody had died."""
    case = CASES[name]
    if case.before is not None:
        case.before(stage)
    cloud.ask("arm " + json.dumps([("kill", *step.split(":")) for step in case.steps.split()]))
    case.do(stage)
    cloud.died()
    stage.settles(case.ends)
    if case.holds is not None:
        case.holds(stage)
