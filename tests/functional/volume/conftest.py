"""One simulated cloud for all of these tests, and a client that speaks the Block Storage API."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.whole import Answer, Whole, running, until


class Client:
    """Calls below /volume/v3 as one of the people; each test has projects' quotas in common, so it cleans up."""

    def __init__(self, whole: Whole) -> None:
        self.whole = whole

    def call(
        self, method: str, path: str, body: Any = None, *, who: str = "demo", version: str = "3.70"
    ) -> Answer:
        """Send one request."""
        headers = {"OpenStack-API-Version": f"volume {version}"}
        return self.whole.call(method, f"/volume/v3{path}", body, who=who, headers=headers)

    def make(self, size: int = 1, *, who: str = "demo", **more: Any) -> str:
        """Make a volume and wait until it is available; return its id."""
        got = self.call("POST", "/volumes", {"volume": {"size": size, **more}}, who=who)
        assert got.status == 202, got
        volume_id = str(got.json["volume"]["id"])
        self.becomes(volume_id, "available")
        return volume_id

    def show(self, volume_id: str, **how: Any) -> dict[str, Any]:
        """Return a volume."""
        got = self.call("GET", f"/volumes/{volume_id}", **{"who": "admin", **how})
        assert got.status == 200, got
        found: dict[str, Any] = got.json["volume"]
        return found

    def becomes(self, volume_id: str, status: str) -> dict[str, Any]:
        """Wait until a volume has a status; return it."""

        def look() -> dict[str, Any] | None:
            found = self.show(volume_id)
            return found if found["status"] == status else None

        found: dict[str, Any] = until(look, f"{volume_id} never became {status}")
        return found

    def gone(self, volume_id: str) -> None:
        """Wait until a volume is gone."""
        until(
            lambda: self.call("GET", f"/volumes/{volume_id}", who="admin").status == 404 or None,
            f"{volume_id} never went",
        )

    def sweep(self) -> None:
        """Remove everything of everybody's, whatever state it is in, and wait until it is gone."""
        for noun in ("backups", "snapshots", "volumes"):
            for left in self._all(noun):
                if noun == "volumes":
                    found = self.whole.cloud.volumes.find(left)
                    for held in () if found is None else found.attachments:
                        self.whole.cloud.volumes.remove_attachment(attachment_id=held.id)
                body = {"os-force_delete": None}
                self.call("POST", f"/{noun}/{left}/action", body, who="admin")
            until(lambda noun=noun: self._swept(noun), f"some {noun} never went")

    def _swept(self, noun: str) -> bool | None:
        """Tell whether all are gone; of backups those that others add to go after them."""
        left = self._all(noun)
        for one in left if noun == "backups" else ():
            self.call("POST", f"/backups/{one}/action", {"os-force_delete": None}, who="admin")
        return None if left else True

    def _all(self, noun: str) -> list[str]:
        found = self.call("GET", f"/{noun}?all_tenants=1", who="admin").json[noun]
        return [str(f["id"]) for f in found]

    def delete(self, volume_id: str) -> None:
        """Delete a volume and wait until it is gone."""
        got = self.call("DELETE", f"/volumes/{volume_id}", who="admin")
        assert got.status == 202, got
        self.gone(volume_id)


@pytest.fixture(scope="session")
def volume_cloud() -> Iterator[Whole]:
    """A whole cloud with three simulated hosts."""
    with running(driver="fake", hosts=3) as whole:
        yield whole


@pytest.fixture
def api(volume_cloud: Whole) -> Iterator[Client]:
    """The client. What a test leaves, one that failed say, goes with it: the next one has the whole quota."""
    client = Client(volume_cloud)
    yield client
    client.sweep()
