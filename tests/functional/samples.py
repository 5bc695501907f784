"""The API samples of docs/api/samples: which requests are made, and how two runs are made alike."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ2M9DnSGRcyRvuPtVMSLYiPrN5tLxQVvNPpqM4WmXJH nobody@nowhere"


class Sample(NamedTuple):
    """One request. path and body may hold {names} of things that the set-up made."""

    name: str
    version: str
    method: str
    path: str
    body: Any = None
    who: str = "demo"


def _server(**more: Any) -> dict[str, Any]:
    return {"server": {"name": "new", "flavorRef": "42", "imageRef": "{image}", **more}}


def show(path: str, name: str, *versions: str, who: str = "demo") -> list[Sample]:
    return [Sample(f"{name}-{v}", v, "GET", path, who=who) for v in versions]


def _act(action: str, value: Any = None, version: str = "2.1") -> Sample:
    return Sample(
        f"server-action-{action}", version, "POST", "/servers/{web}/action", {action: value}
    )


def did(action: str, value: Any, *versions: str) -> list[Sample]:
    path = "/servers/{web}/action"
    return [Sample(f"server-{action}-{v}", v, "POST", path, {action: value}) for v in versions]


_ATTACH = "/servers/{web}/os-volume_attachments"
DISKS = [  # what is done to the disks of a server, one after the other
    *did("createImage", {"name": "gold", "metadata": {"k": "v"}}, "2.1", "2.45"),
    *did("createBackup", {"name": "b", "backup_type": "daily", "rotation": 1}, "2.1", "2.45"),
    *did("rebuild", {"imageRef": "{image}", "name": "anew", "adminPass": "pw-1"}, "2.1"),
    *did("rebuild", {"imageRef": "{image}", "description": "d", "user_data": "aGk="}, "2.57", "2.93"),
    *did("rescue", {"rescue_image_ref": "{image}", "adminPass": "pw-2"}, "2.1"),
    *did("unrescue", None, "2.1"),
    *did("shelve", None, "2.1"),
    *did("unshelve", None, "2.1"),
    *did("resize", {"flavorRef": "2"}, "2.1"),
    *did("revertResize", None, "2.1"),
    *did("resize", {"flavorRef": "1"}, "2.42"),
    *did("confirmResize", None, "2.1"),
    *did("shelve", None, "2.17"),
    Sample("error-shelve-offload", "2.1", "POST", "/servers/{web}/action", {"shelveOffload": None}, "admin"),
    *did("unshelve", {"availability_zone": None}, "2.91"),
    *did("trigger_crash_dump", None, "2.17"),
    *did("os-getConsoleOutput", {"length": 1}, "2.1"),
    Sample("server-volume-attach-2.1", "2.1", "POST", _ATTACH, {"volumeAttachment": {"volumeId": "{volume}"}}),
    *show(_ATTACH, "server-volumes", "2.1", "2.70", "2.79", "2.89"),
    *show(_ATTACH + "/{volume}", "server-volume-show", "2.1", "2.70", "2.79", "2.89"),
    Sample(
        "server-volume-update-2.85", "2.85", "PUT", _ATTACH + "/{volume}",
        {"volumeAttachment": {"volumeId": "{volume}", "delete_on_termination": True}},
    ),
    Sample("server-volume-detach-2.1", "2.1", "DELETE", _ATTACH + "/{volume}"),
    *did("forceDelete", None, "2.1"),
]  # fmt: skip

_TAGGED = {"uuid": "{network}", "tag": "private"}
_DISK = {
    "source_type": "image",
    "destination_type": "local",
    "boot_index": 0,
    "uuid": "{image}",
    "tag": "root",
}
_FLAVOR = {"flavor": {"name": "sample", "ram": 256, "vcpus": 1, "disk": 1, "id": "sample"}}
SAMPLES = [
    Sample("server-create-2.1", "2.1", "POST", "/servers", _server()),
    Sample("server-create-2.19", "2.19", "POST", "/servers", _server(description="a server")),
    Sample(
        "server-create-2.32", "2.32", "POST", "/servers",
        _server(networks=[_TAGGED], block_device_mapping_v2=[_DISK]),
    ),
    Sample("server-create-2.37", "2.37", "POST", "/servers", _server(networks="auto")),
    Sample("server-create-2.42", "2.42", "POST", "/servers", _server(networks=[_TAGGED])),
    Sample("server-create-2.52", "2.52", "POST", "/servers", _server(networks="none", tags=["a"])),
    Sample("server-create-2.90", "2.90", "POST", "/servers", _server(networks="none", hostname="x1")),
    Sample(
        "server-create-2.94", "2.94", "POST", "/servers",
        _server(networks="none", hostname="x1.example.com"),
    ),
    Sample(
        "server-create-many", "2.90", "POST", "/servers",
        _server(networks="none", min_count=2, return_reservation_id=True),
    ),
    *show(
        "/servers/{web}", "server-show",
        "2.1", "2.3", "2.9", "2.19", "2.26", "2.47", "2.63", "2.71", "2.73", "2.90", "2.96",
        "2.98", "2.100", "2.104",
    ),
    *show("/servers/{web}", "server-show-admin", "2.1", "2.3", "2.16", "2.104", who="admin"),
    *show("/servers?name=web", "servers-list", "2.1"),
    *show("/servers/detail?name=web", "servers-detail", "2.1", "2.47", "2.73", "2.104"),
    *show("/servers/detail?name=web&limit=1&sort_key=uuid", "servers-page", "2.1"),
    *show("/servers/{web}/ips", "server-ips", "2.1"),
    *show("/servers/{web}/os-instance-actions", "server-actions", "2.1", "2.58"),
    Sample("server-update-2.1", "2.1", "PUT", "/servers/{web}", {"server": {"name": "web"}}),
    Sample(
        "server-update-2.19", "2.19", "PUT", "/servers/{web}", {"server": {"description": "it"}}
    ),
    Sample("server-update-2.90", "2.90", "PUT", "/servers/{web}", {"server": {"hostname": "web"}}),
    Sample("server-metadata-create", "2.1", "POST", "/servers/{web}/metadata", {"metadata": {"k": "v"}}),
    *show("/servers/{web}/metadata", "server-metadata", "2.1"),
    Sample("server-tags-replace", "2.26", "PUT", "/servers/{web}/tags", {"tags": ["a", "b"]}),
    *show("/servers/{web}/tags", "server-tags", "2.26"),
    _act("lock"),
    _act("unlock"),
    Sample(
        "server-action-lock-2.73", "2.73", "POST", "/servers/{web}/action",
        {"lock": {"locked_reason": "why"}},
    ),
    Sample("server-action-unlock-2.73", "2.73", "POST", "/servers/{web}/action", {"unlock": None}),
    *show("/flavors", "flavors-list", "2.1", "2.55"),
    *show("/flavors/detail", "flavors-detail", "2.1", "2.55", "2.61", "2.75", "2.102"),
    *show("/flavors/42", "flavor-show", "2.1", "2.55", "2.61", "2.75", "2.102"),
    Sample("flavor-create", "2.1", "POST", "/flavors", _FLAVOR, who="admin"),
    Sample(
        "flavor-describe", "2.55", "PUT", "/flavors/sample",
        {"flavor": {"description": "for samples"}}, who="admin",
    ),
    Sample(
        "flavor-specs-create", "2.1", "POST", "/flavors/sample/os-extra_specs",
        {"extra_specs": {"hw:cpu_policy": "shared"}}, who="admin",
    ),
    *show("/os-keypairs", "keypairs-list", "2.1", "2.2", "2.35"),
    *show("/os-keypairs/mine", "keypair-show", "2.1", "2.2"),
    Sample(
        "keypair-import-2.1", "2.1", "POST", "/os-keypairs",
        {"keypair": {"name": "k1", "public_key": KEY}},
    ),
    Sample(
        "keypair-import-2.92", "2.92", "POST", "/os-keypairs",
        {"keypair": {"name": "k2", "type": "ssh", "public_key": KEY}},
    ),
    *show("/limits", "limits", "2.1", "2.36", "2.39", "2.57"),
    *show("/os-quota-sets/{project}", "quota-set", "2.1", "2.36", "2.57"),
    *show("/os-quota-sets/{project}/detail", "quota-set-detail", "2.1", "2.57"),
    Sample(
        "server-group-create-2.1", "2.1", "POST", "/os-server-groups",
        {"server_group": {"name": "g1", "policies": ["affinity"]}},
    ),
    Sample(
        "server-group-create-2.64", "2.64", "POST", "/os-server-groups",
        {"server_group": {"name": "g2", "policy": "anti-affinity", "rules": {"max_server_per_host": 2}}},
    ),
    *show("/os-server-groups/{group}", "server-group-show", "2.1", "2.13", "2.64"),
    *show("/os-availability-zone", "availability-zones", "2.1"),
    *show("/os-aggregates", "aggregates-list", "2.1", "2.41", who="admin"),
    *show("/os-services", "services-list", "2.1", "2.11", "2.53", "2.69", who="admin"),
    *show("/os-hypervisors", "hypervisors-list", "2.1", "2.53", who="admin"),
    *show("/os-hypervisors/detail", "hypervisors-detail", "2.1", "2.33", "2.88", who="admin"),
    *show("/servers/99999999-9999-4999-8999-999999999999", "error-missing-server", "2.1"),
    *show("/os-services", "error-forbidden", "2.1"),
    Sample("error-unknown-field", "2.90", "POST", "/servers", _server(networks="none", colour="red")),
    Sample("error-networks-object", "2.42", "POST", "/servers", _server(networks={"uuid": "{network}"})),
    *show("/servers/{web}/os-interface", "server-interfaces", "2.1", "2.70"),
    Sample(
        "server-interface-attach-2.1", "2.1", "POST", "/servers/{web}/os-interface",
        {"interfaceAttachment": {"net_id": "{network}"}},
    ),
    Sample(
        "server-interface-attach-2.70", "2.70", "POST", "/servers/{web}/os-interface",
        {"interfaceAttachment": {"net_id": "{network}", "tag": "late"}},
    ),
    Sample(
        "server-interface-both-2.1", "2.1", "POST", "/servers/{web}/os-interface",
        {"interfaceAttachment": {"net_id": "{network}", "port_id": "{network}"}},
    ),
    Sample(
        "server-live-migrate-2.25", "2.25", "POST", "/servers/{web}/action",
        {"os-migrateLive": {"host": "nowhere", "block_migration": "auto"}}, who="admin",
    ),
    Sample(
        "server-live-migrate-2.68", "2.68", "POST", "/servers/{web}/action",
        {"os-migrateLive": {"host": None, "block_migration": "auto"}}, who="admin",
    ),
    *show("/servers/{web}/migrations", "server-migrations", "2.23", who="admin"),
    *show("/os-migrations", "migrations-list", "2.1", "2.23", "2.59", "2.80", who="admin"),
    Sample("error-live-migration-abort", "2.65", "DELETE", "/servers/{web}/migrations/1", who="admin"),
    Sample(
        "error-live-migration-complete", "2.22", "POST", "/servers/{web}/migrations/1/action",
        {"force_complete": None}, who="admin",
    ),
]  # fmt: skip

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_HEX = re.compile(r"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])")
_SAME = (
    (re.compile(r"(http|ws)s?://127\.0\.0\.1:\d+"), r"\1://cloud.example"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}"), "2026-01-01T00:00:00.000000"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"), "2026-01-01T00:00:00Z"),
    (re.compile(r"\b[0-9a-f]{56}\b"), "c0ffee" * 9 + "00"),
    (re.compile(r"\br-[a-z0-9]{8}\b"), "r-sample00"),
    (re.compile(r"\breq-[0-9a-f-]{36}\b"), "req-00000000-0000-4000-8000-000000000000"),
    (re.compile(r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}(?!:)"), "fa:16:3e:00:00:01"),
    (re.compile(r"instance-[0-9a-f]{8}\b"), "instance-00000001"),
    (re.compile(r"\bcell1-host\d\b"), "cell1-host1"),
    (re.compile(r"token(=|%3D)[\w-]{43}"), r"token\1sample"),
    (re.compile(r"\b10\.\d+\.\d+\.\d+\b"), "10.0.0.5"),
)
_FREE = {"adminPass": "sample-password", "host_time": "00:00:00", "uptime": "", "load_average": ""}
_KEEP = "99999999-9999-4999-8999-999999999999"


class Same:
    """Makes two runs alike: ids become numbers in the order in which they are seen; times and addresses are fixed."""

    def __init__(self) -> None:
        self._ids: dict[str, str] = {_KEEP: _KEEP}

    def text(self, text: str) -> str:
        """Return a text without what changes."""
        for pattern, fixed in _SAME:
            text = pattern.sub(fixed, text)
        text = _UUID.sub(lambda m: self._id(m[0], "00000000-0000-4000-8000-{:012d}"), text)
        return _HEX.sub(lambda m: self._id(m[0], "{:032d}"), text)

    def _id(self, found: str, form: str) -> str:
        if found.startswith("00000000"):
            return found
        return self._ids.setdefault(found, form.format(len(self._ids)))

    def value(self, value: Any, key: str = "") -> Any:
        """Return a JSON value without what changes."""
        if key in _FREE and isinstance(value, str):
            return _FREE[key]
        if key == "uptime":
            return 0  # of a guest, in seconds
        if isinstance(value, dict):
            return {self.text(k): self.value(v, k) for k, v in sorted(value.items())}
        if isinstance(value, list):
            return [self.value(v) for v in value]
        return self.text(value) if isinstance(value, str) else value


def fill(value: Any, known: Mapping[str, str]) -> Any:
    """Put the ids of things in the places of their names."""
    if isinstance(value, dict):
        return {k: fill(v, known) for k, v in value.items()}
    if isinstance(value, list):
        return [fill(v, known) for v in value]
    if isinstance(value, str):
        for name, found in known.items():
            value = value.replace("{" + name + "}", found)
    return value


def keys(value: Any, at: str = "") -> set[str]:
    """Return the paths of all keys of a JSON value: ``/servers[]/id``."""
    if isinstance(value, dict):
        return {f"{at}/{k}" for k in value}.union(*(keys(v, f"{at}/{k}") for k, v in value.items()))
    if isinstance(value, list):
        return set().union(*(keys(v, f"{at}[]") for v in value))
    return set()
