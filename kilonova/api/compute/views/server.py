"""A server as each microversion shows it: exactly the fields that the version has.

JSON columns pass through encoded (msgspec.Raw): a list of 1,000 servers decodes none of them but the flavor's, and that
only once per distinct flavor.
"""

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from kilonova.common.clock import iso, iso_micro
from kilonova.db.schema.cell import server
from kilonova.http.microversion import Microversion, V
from kilonova.http.request import Request
from kilonova.objects.server import FlavorRecord
from kilonova.operations import server_disks
from kilonova.operations.states import status

Raw = msgspec.Raw
_AUTO = '{"disk_config":"AUTO"'
_PROGRESS = frozenset(("ACTIVE", "BUILD", "REBUILD", "RESIZE", "VERIFY_RESIZE", "MIGRATING"))


BASIC_COLUMNS = ("uuid", "name")
_NOT_SHOWN = frozenset(
    ("nics", "hardware", "devices", "keys", "metadata_generation", "epoch", "hidden")
)
DETAIL_COLUMNS = tuple(c.name for c in server.columns if c.name not in _NOT_SHOWN)
"""The columns of a row that ``ServerView.detail`` looks at; the large ones that it does not are not read."""


@functools.lru_cache(maxsize=4096)
def host_id(host: str | None, project_id: str) -> str:
    """Return the hash that tells a tenant which of its servers share a host, and nothing else. source: Nova hostId."""
    if not host:
        return ""
    return hashlib.sha224((project_id + host).encode(), usedforsecurity=False).hexdigest()


_EMPTY = {text: Raw(text) for text in ("{}", "[]", "null")}


def _raw(text: str) -> Raw:
    """Return a JSON column as it passes through."""
    return _EMPTY.get(text) or Raw(text)


@functools.lru_cache(maxsize=1024)
def flavor_record(encoded: str) -> FlavorRecord:
    """Decode a row's flavor; rows of one flavor share the text."""
    return msgspec.json.decode(encoded, type=FlavorRecord)


@functools.lru_cache(maxsize=1024)
def _flavor_embedded(encoded: str, extra_specs: bool) -> Raw:
    """The flavor from 2.47 on."""
    f = flavor_record(encoded)
    out: dict[str, Any] = {
        "vcpus": f.vcpus,
        "ram": f.memory_mib,
        "disk": f.root_gib,
        "ephemeral": f.ephemeral_gib,
        "swap": f.swap_mib,
        "original_name": f.name,
    }
    if extra_specs:
        out["extra_specs"] = f.extra_specs
    return Raw(msgspec.json.encode(out))


@functools.lru_cache(maxsize=1024)
def _flavor_link(encoded: str, base: str) -> Raw:
    f = flavor_record(encoded)
    link = {"rel": "bookmark", "href": f"{base}/flavors/{f.flavorid}"}
    return Raw(msgspec.json.encode({"id": f.flavorid, "links": [link]}))


@dataclass(frozen=True)
class Extras:
    """What a view needs besides the row: faults, groups, who may see what."""

    faults: Mapping[str, Any] = field(default_factory=dict)
    groups: Mapping[str, list[str]] | None = None
    user_data: Mapping[str, str] = field(default_factory=dict)
    host_up: Any = None  # callable: host name -> "UP", "DOWN", "MAINTENANCE", "UNKNOWN", ""
    hints: Mapping[str, Any] = field(default_factory=dict)
    hypervisors: Mapping[str, str] = field(default_factory=dict)


class ServerView:
    """Shapes rows for one request; made once per request, called once per server."""

    def __init__(self, req: Request, extras: Extras, *, single: bool = True) -> None:
        v = req.version
        self.version: Microversion = v
        self.extras = extras
        self.single = single
        self.self_base = req.base + "/v2.1"
        self.mark_base = req.base
        self.attributes = req.may("os_compute_api:os-extended-server-attributes")
        self.specs = req.may("os_compute_api:servers:show:flavor-extra-specs")
        self.host_status = req.may("os_compute_api:servers:show:host_status")
        self.v3, self.v9, self.v16, self.v19 = (v >= V(2, n) for n in (3, 9, 16, 19))
        self.v26, self.v47, self.v63, self.v71 = (v >= V(2, n) for n in (26, 47, 63, 71))
        self.v73, self.v90, self.v96 = (v >= V(2, n) for n in (73, 90, 96))
        self.v98, self.v100 = v >= V(2, 98), v >= V(2, 100)

    def links(self, server_id: str) -> list[dict[str, str]]:
        """Return self and bookmark."""
        return [
            {"rel": "self", "href": f"{self.self_base}/servers/{server_id}"},
            {"rel": "bookmark", "href": f"{self.mark_base}/servers/{server_id}"},
        ]

    def basic(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The form of GET /servers: id, name, links."""
        return {"id": row["uuid"], "name": row["name"], "links": self.links(row["uuid"])}

    def detail(self, r: Mapping[str, Any]) -> dict[str, Any]:
        """The whole server."""
        uuid, vm_state, task = r["uuid"], r["vm_state"], r["task_state"]
        state = status(vm_state, task)
        out: dict[str, Any] = {
            "id": uuid,
            "name": r["name"],
            "status": state,
            "tenant_id": r["project_id"],
            "user_id": r["user_id"],
            "metadata": _raw(r["metadata"]),
            "hostId": host_id(r["host"], r["project_id"]),
            "image": self.image(r),
            "flavor": self.flavor(r),
            "created": iso(r["created_at"]),
            "updated": iso(r["updated_at"] or r["created_at"]),
            "addresses": _raw(r["addresses"]),
            "accessIPv4": r["access_ip_v4"],
            "accessIPv6": r["access_ip_v6"],
            "links": self.links(uuid),
            "OS-DCF:diskConfig": "AUTO" if r["system_metadata"].startswith(_AUTO) else "MANUAL",
        }
        if state in _PROGRESS:
            out["progress"] = r["progress"]
        if state in ("ERROR", "DELETED") and uuid in self.extras.faults:
            out["fault"] = self.extras.faults[uuid]
        self._extended(out, r)
        self._later(out, r)
        return out

    def flavor(self, r: Mapping[str, Any]) -> Raw:
        """A link, from 2.47 on the flavor itself."""
        if self.v47:
            return _flavor_embedded(r["flavor"], self.specs)
        return _flavor_link(r["flavor"], self.mark_base)

    def image(self, r: Mapping[str, Any]) -> Any:
        """A link, "" without an image."""
        if not r["image_id"]:
            return ""
        link = {"rel": "bookmark", "href": f"{self.mark_base}/images/{r['image_id']}"}
        out: dict[str, Any] = {"id": r["image_id"], "links": [link]}
        if self.v98:
            system = msgspec.json.decode(r["system_metadata"])
            out["properties"] = (system.get("image") or {}).get("properties", {})
        return out

    def _extended(self, out: dict[str, Any], r: Mapping[str, Any]) -> None:
        out["OS-EXT-AZ:availability_zone"] = r["availability_zone"] or ""
        out["config_drive"] = r["config_drive"]
        out["key_name"] = r["key_name"]
        out["OS-SRV-USG:launched_at"] = _micro(r["launched_at"])
        out["OS-SRV-USG:terminated_at"] = _micro(r["terminated_at"])
        if r["security_groups"] != "[]":
            out["security_groups"] = _raw(r["security_groups"])
        if self.attributes:
            self._attributes(out, r)
        elif self.v90:
            out["OS-EXT-SRV-ATTR:hostname"] = r["hostname"]
        out["OS-EXT-STS:task_state"] = r["task_state"]
        out["OS-EXT-STS:vm_state"] = r["vm_state"]
        out["OS-EXT-STS:power_state"] = r["power_state"]
        out["os-extended-volumes:volumes_attached"] = [
            {"id": d.volume_id, "delete_on_termination": d.delete_on_termination}
            if self.v3
            else {"id": d.volume_id}
            for d in server_disks.of_row(r)
        ]

    def _attributes(self, out: dict[str, Any], r: Mapping[str, Any]) -> None:
        out["OS-EXT-SRV-ATTR:host"] = r["host"]
        out["OS-EXT-SRV-ATTR:hypervisor_hostname"] = r["node"]
        out["OS-EXT-SRV-ATTR:instance_name"] = instance_name(r["uuid"])
        if self.v3:
            out["OS-EXT-SRV-ATTR:hostname"] = r["hostname"]
            out["OS-EXT-SRV-ATTR:reservation_id"] = r["reservation_id"]
            out["OS-EXT-SRV-ATTR:launch_index"] = r["launch_index"]
            out["OS-EXT-SRV-ATTR:root_device_name"] = r["root_device"]
            out["OS-EXT-SRV-ATTR:kernel_id"] = ""
            out["OS-EXT-SRV-ATTR:ramdisk_id"] = ""
            out["OS-EXT-SRV-ATTR:user_data"] = self.extras.user_data.get(r["uuid"])

    def _later(self, out: dict[str, Any], r: Mapping[str, Any]) -> None:
        if self.v9:
            out["locked"] = r["locked_by"] is not None
        if self.v16 and self.host_status and self.extras.host_up is not None:
            out["host_status"] = self.extras.host_up(r["host"])
        if self.v19:
            out["description"] = r["description"]
        if self.v26:
            out["tags"] = _raw(r["tags"])
        if self.v63:
            out["trusted_image_certificates"] = _raw(r["trusted_certs"])
        if self.v71 and self.single:
            out["server_groups"] = [r["server_group"]] if r["server_group"] else []
        if self.v73:
            out["locked_reason"] = r["locked_reason"]
        if self.v96:
            out["pinned_availability_zone"] = r["requested_zone"]
        if self.v100:
            out["scheduler_hints"] = self.extras.hints.get(r["uuid"], {})


def instance_name(uuid: str) -> str:
    """Return the name of a server's domain on its host."""
    return f"instance-{uuid[:8]}"


def _micro(seconds: float | None) -> str | None:
    return None if seconds is None else iso_micro(seconds)


def fault(row: Mapping[str, Any], *, admin: bool) -> dict[str, Any]:
    """A fault as a server shows it; details are for admins, or when the code is not 500."""
    out = {"code": row["code"], "message": row["message"], "created": iso(row["created_at"])}
    if admin and row["details"]:
        out["details"] = row["details"]
    return out
