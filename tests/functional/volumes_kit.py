"""A demo user's volumes and servers on a whole simulated cloud, for the tests of volumes in servers."""

from typing import Any

from tests.whole import Answer, Whole, until

S = "/compute/v2.1/servers"


class Kit:
    """Calls as demo; waits for what a call begins."""

    def __init__(self, whole: Whole) -> None:
        self.whole = whole
        self.image = whole.image()
        limits = {"volumes": -1, "gigabytes": -1, "snapshots": -1}
        path = f"/os-quota-sets/{whole.project('demo')}"
        assert self.block("PUT", path, {"quota_set": limits}, who="admin").status == 200
        limits = {"instances": -1, "cores": -1, "ram": -1}
        path = f"/compute/v2.1{path}"
        assert whole.call("PUT", path, {"quota_set": limits}, who="admin").status == 200

    def block(self, method: str, path: str, body: Any = None, *, who: str = "demo") -> Answer:
        """Speak with the block storage service."""
        headers = {"OpenStack-API-Version": "volume 3.70"}
        return self.whole.call(method, f"/volume/v3{path}", body, who=who, headers=headers)

    def another_image(self, **properties: Any) -> str:
        """Make an image of a few zeros; return its id."""
        asked: dict[str, Any] = {
            "name": "another",
            "disk_format": "raw",
            "container_format": "bare",
        }
        asked |= properties
        made = str(self.whole.call("POST", "/image/v2/images", asked).json["id"])
        head = {"Content-Type": "application/octet-stream"}
        path = f"/image/v2/images/{made}/file"
        assert self.whole.call("PUT", path, bytes(8192), headers=head).status == 204
        return made

    def volume(self, size: int = 1, *, who: str = "demo", **more: Any) -> str:
        """Make a volume; return its id when it is available."""
        got = self.block("POST", "/volumes", {"volume": {"size": size, **more}}, who=who)
        assert got.status == 202, got
        volume_id = str(got.json["volume"]["id"])
        self.becomes(volume_id, "available")
        return volume_id

    def show_volume(self, volume_id: str) -> dict[str, Any]:
        """Return a volume as an admin sees it, {} when there is none."""
        got = self.block("GET", f"/volumes/{volume_id}", who="admin")
        return dict(got.json["volume"]) if got.status == 200 else {}

    def becomes(self, volume_id: str, status: str | None) -> None:
        """Wait until a volume has a status (None: it is gone)."""

        def look() -> bool | None:
            return True if self.show_volume(volume_id).get("status") == status else None

        until(look, f"volume {volume_id} never became {status}")

    def snapshot(self, volume_id: str) -> str:
        """Make a snapshot; return its id when it is available."""
        body = {"snapshot": {"volume_id": volume_id, "force": True}}
        got = self.block("POST", "/snapshots", body)
        assert got.status == 202, got
        snapshot_id = str(got.json["snapshot"]["id"])

        def look() -> bool | None:
            found = self.block("GET", f"/snapshots/{snapshot_id}").json["snapshot"]
            return True if found["status"] == "available" else None

        until(look, "the snapshot was never made")
        return snapshot_id

    def create(self, *, version: str = "2.90", **asked: Any) -> Answer:
        """Ask for a server as it is given."""
        body = {"name": "one", "flavorRef": "42", "networks": "none", **asked}
        return self.whole.call("POST", S, {"server": body}, version=version)

    def refused(self, status: int, **asked: Any) -> str:
        """Ask for a server that must be refused; return why."""
        got = self.create(**asked)
        assert got.status == status, got
        return str(next(iter(got.json.values()))["message"])

    def server(self, **asked: Any) -> str:
        """Make a server; return its id when it is settled."""
        got = self.create(**asked)
        assert got.status == 202, got
        server_id = str(got.json["server"]["id"])
        self.whole.settled(server_id)
        return server_id

    def backed(self, **root: Any) -> str:
        """Make a volume-backed server from the image; its root volume goes with it."""
        disk = {
            "boot_index": 0,
            "uuid": self.image,
            "source_type": "image",
            "destination_type": "volume",
            "volume_size": 1,
            "delete_on_termination": True,
        }
        return self.server(block_device_mapping_v2=[{**disk, **root}])

    def show(self, server_id: str, version: str = "2.104", who: str = "admin") -> dict[str, Any]:
        """Return a server."""
        got = self.whole.call("GET", f"{S}/{server_id}", version=version, who=who)
        assert got.status == 200, got
        return dict(got.json["server"])

    def attach(
        self,
        server_id: str,
        volume_id: str,
        *,
        version: str = "2.89",
        who: str = "demo",
        **more: Any,
    ) -> Answer:
        """Ask for an attach."""
        body = {"volumeAttachment": {"volumeId": volume_id, **more}}
        path = f"{S}/{server_id}/os-volume_attachments"
        return self.whole.call("POST", path, body, version=version, who=who)

    def attached(self, server_id: str, volume_id: str, **more: Any) -> None:
        """Attach, and wait until the volume is in use."""
        got = self.attach(server_id, volume_id, **more)
        assert got.status == 200, got
        self.becomes(volume_id, "in-use")
        self.whole.settled(server_id)

    def detach(self, server_id: str, volume_id: str, *, version: str = "2.89") -> Answer:
        """Ask for a detach."""
        path = f"{S}/{server_id}/os-volume_attachments/{volume_id}"
        return self.whole.call("DELETE", path, version=version)

    def attachments(self, server_id: str, version: str = "2.89") -> list[dict[str, Any]]:
        """Return a server's attachments."""
        path = f"{S}/{server_id}/os-volume_attachments"
        got = self.whole.call("GET", path, version=version)
        assert got.status == 200, got
        return list(got.json["volumeAttachments"])

    def holds_nothing(self, server_id: str) -> None:
        """Wait until a server has no volume: its record changes after the volume's."""
        until(lambda: not self.attachments(server_id) or None, f"{server_id} keeps a volume")

    def act(self, server_id: str, action: str, wanted: str, argument: Any = None) -> None:
        """Perform an action and wait for a status."""
        path = f"{S}/{server_id}/action"
        assert self.whole.call("POST", path, {action: argument}).status in (202, 204)
        self.whole.settled(server_id)
        assert self.show(server_id)["status"] == wanted

    def delete(self, server_id: str) -> None:
        """Delete a server and wait until it is gone."""
        assert self.whole.call("DELETE", f"{S}/{server_id}").status == 204
        self.whole.gone(server_id)

    def guest(self, server_id: str) -> Any:
        """Return what the simulated host has of a server."""
        return self.whole.cloud.fleet.world.find(server_id)[1]
