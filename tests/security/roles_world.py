"""What the roles × routes table needs: a thing behind every id in a path, and a body that fits every schema."""

import itertools
import re
from collections.abc import Callable
from typing import Any

from kilonova.http.schema import Schema
from tests.whole import Answer, Whole, until

MISSING = "99999999-9999-4999-8999-999999999999"
COMPUTE, NETWORK, IDENTITY = "/compute/v2.1", "/network/v2.0", "/identity/v3"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ2M9DnSGRcyRvuPtVMSLYiPrN5tLxQVvNPpqM4WmXJH nobody"
VOLUME = {"OpenStack-API-Version": "volume 3.70"}
_TEXTS = (
    "x", "1", "x1", "CUSTOM_X", "name-1", "default", "192.0.2.9", "2001:db8::9", "192.0.2.0/24",
    "http://x.example", "2026-01-01T00:00:00Z", MISSING, "/dev/vdb", "public", "tcp", "ingress",
)  # fmt: skip

_NUMBERS = itertools.count(1)


def unlimited(whole: Whole, project: str = "demo") -> None:
    """Lift the quotas of a project."""
    project_id = whole.project(project)
    limits = dict.fromkeys(("cores", "instances", "ram", "key_pairs", "server_groups"), -1)
    path = f"{COMPUTE}/os-quota-sets/{project_id}"
    assert whole.call("PUT", path, {"quota_set": limits}, who="admin").status == 200
    names = ("network", "subnet", "port", "router", "floatingip", "security_group")
    quota = dict.fromkeys((*names, "security_group_rule"), -1)
    path = f"{NETWORK}/quotas/{project_id}"
    assert whole.call("PUT", path, {"quota": quota}, who="admin").status == 200
    sizes = dict.fromkeys(("volumes", "gigabytes", "snapshots", "backups", "backup_gigabytes"), -1)
    path = f"/volume/v3/os-quota-sets/{project_id}"
    got = whole.call("PUT", path, {"quota_set": sizes}, who="admin", headers=dict(VOLUME))
    assert got.status == 200


def minimal(schema: Any) -> Any:
    """Return a small value that fits a schema; AssertionError when none is found."""
    value = _value(schema)
    assert Schema(schema).fits(value), f"{value!r} does not fit {schema}"
    return value


def _value(schema: Any) -> Any:
    if not isinstance(schema, dict):
        return None
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    for word in ("oneOf", "anyOf"):
        if word in schema and "properties" not in schema:
            return _value({**{k: v for k, v in schema.items() if k != word}, **schema[word][0]})
    kind = schema.get("type")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object" or (kind is None and "properties" in schema):
        return _object(schema)
    if kind == "array":
        return [_value(schema.get("items", {})) for _ in range(schema.get("minItems", 0))]
    if kind == "string":
        fits = [t for t in _TEXTS if Schema(schema).fits(t)]
        return fits[0] if fits else "x" * int(schema.get("minLength", 1))
    if kind in ("integer", "number"):
        return max(schema.get("minimum", 1), schema.get("exclusiveMinimum", 0) + 1)
    return {"boolean": True, "null": None}.get(str(kind))


def _object(schema: dict[str, Any]) -> dict[str, Any]:
    props = schema.get("properties", {})
    names = list(schema.get("required", ()))
    for word in ("anyOf", "oneOf"):
        if word in schema:
            names += [n for n in schema[word][0].get("required", ()) if n not in names]
    least = int(schema.get("minProperties", 0))
    names += [n for n in props if n not in names][: max(0, least - len(names))]
    out = {n: _value(props.get(n, {"type": "string"})) for n in names}
    while len(out) < least:
        patterns = schema.get("patternProperties", {"": {"type": "string"}})
        pattern, inner = next(iter(patterns.items()))
        names = [n for n in (f"k{len(out)}", MISSING, "VCPU") if re.search(pattern, n)]
        out[names[0]] = _value(inner)
    return out


class World:
    """Makes things, as demo where demo may and as the admin where not, and remembers them until they are used up."""

    def __init__(self, whole: Whole) -> None:
        self.whole = whole
        self._made: dict[str, str] = {}

    def path(self, service: str, template: str) -> str:
        """Fill the template's places with ids of things that are there."""
        done = ""
        for part in template.split("/")[1:]:
            done += "/" + (self.thing(service, done, part[1:-1], template) if "{" in part else part)
        return f"/{service}{done}"

    def spent(self) -> None:
        """Forget everything that was made: somebody's request went through."""
        self._made.clear()

    def thing(self, service: str, before: str, name: str, template: str) -> str:
        """Return the id that stands at a place."""
        fixed = self._fixed(service, name, template)
        if fixed is not None:
            return fixed
        kind = before.rsplit("/", 1)[1] if name in ("id", "uuid") else name
        kind = "server_group" if (service, name) == ("compute", "group_id") else kind
        key = f"{service}:{kind}"
        if key not in self._made:
            maker: Callable[[], str] | None = getattr(self, "_" + kind.replace("-", "_"), None)
            self._made[key] = MISSING if maker is None else maker()
        return self._made[key]

    def _fixed(self, service: str, name: str, template: str) -> str | None:
        if name in ("project", "project_id") and service != "identity":
            return self.whole.content.projects["demo"]
        if name == "user_id" and any(
            w in template
            for w in ("application_cred", "access_rules", "s/{user_id}/p", "d}/groups")
        ):
            return self.whole.content.users["demo"]
        if name == "service_id" and service == "compute":
            return MISSING
        table = {
            "tag": "t",
            "key": "k",
            "spec": "hw-x",
            "host": "no-such-host",
            "resource_class": "VCPU",
            "alias": "router",
            "region_id": None,
            "member_id": self.whole.project("other"),
        }
        if name == "name":
            return {"placement": "CUSTOM_X", "volume": "default"}.get(service)
        return table.get(name)

    def next(self) -> int:
        """Return a new number."""
        return next(_NUMBERS)

    def _post(self, who: str, path: str, body: Any, **more: Any) -> Answer:
        got = self.whole.call("POST", path, body, who=who, **more)
        assert got.status < 300, (path, body, got)
        return got

    # -- makers, named like the place or the collection

    def _server_id(self) -> str:
        return self.whole.server(f"s{self.next()}")

    def _flavor_id(self) -> str:
        flavor = {"name": f"f{self.next()}", "ram": 64, "vcpus": 1, "disk": 1}
        got = self._post("admin", COMPUTE + "/flavors", {"flavor": flavor})
        return str(got.json["flavor"]["id"])

    def _name(self) -> str:
        name = f"key{self.next()}"
        self._post("demo", COMPUTE + "/os-keypairs", {"keypair": {"name": name, "public_key": KEY}})
        return name

    def _aggregate_id(self) -> str:
        body = {"aggregate": {"name": f"a{self.next()}", "availability_zone": None}}
        got = self._post("admin", COMPUTE + "/os-aggregates", body)
        return str(got.json["aggregate"]["id"])

    def _operation_id(self) -> str:
        self._server_id()
        got = self.whole.call("GET", "/kilonova/v1/operations")
        return str(got.json["operations"][0]["id"])

    def _keystone(self, kind: str, many: str, **more: Any) -> str:
        body = {kind: {"name": f"{kind}{self.next()}", **more}}
        got = self._post("admin", f"{IDENTITY}/{many}", body)
        return str(got.json[kind]["id"])

    def _project_id(self) -> str:
        return self._keystone("project", "projects")

    def _user_id(self) -> str:
        return self._keystone("user", "users")

    def _role_id(self) -> str:
        return self._keystone("role", "roles")

    def _implied_id(self) -> str:
        return self._keystone("role", "roles")

    def _domain_id(self) -> str:
        return self._keystone("domain", "domains", enabled=False)

    def _region_id(self) -> str:
        name = f"region{self.next()}"
        self._post("admin", f"{IDENTITY}/regions", {"region": {"id": name}})
        return name

    def _service_id(self) -> str:
        return self._keystone("service", "services", type=f"t{self.next()}")

    def _endpoint_id(self) -> str:
        url = "http://x.example"
        body = {"service_id": self._service_id(), "interface": "public", "url": url}
        got = self._post("admin", f"{IDENTITY}/endpoints", {"endpoint": body})
        return str(got.json["endpoint"]["id"])

    def _credential_id(self) -> str:
        user = self.whole.content.users["demo"]
        path = f"{IDENTITY}/users/{user}/application_credentials"
        body = {"application_credential": {"name": f"c{self.next()}"}}
        return str(self._post("demo", path, body).json["application_credential"]["id"])

    def _image_id(self) -> str:
        body = {"name": f"i{self.next()}", "disk_format": "raw", "container_format": "bare"}
        return str(self._post("demo", "/image/v2/images", body).json["id"])

    def _group_id(self) -> str:
        return self._keystone("group", "groups")

    def _server_group(self) -> str:
        body = {"server_group": {"name": f"g{self.next()}", "policy": "affinity"}}
        got = self._post("demo", COMPUTE + "/os-server-groups", body, version="2.64")
        return str(got.json["server_group"]["id"])

    def _resource_providers(self) -> str:
        body = {"name": f"rp{self.next()}"}
        path = "/placement/resource_providers"
        return str(self._post("admin", path, body, version="1.39").json["uuid"])

    def _neutron(self, kind: str, many: str, **values: Any) -> str:
        got = self._post("demo", f"{NETWORK}/{many}", {kind: values})
        return str(got.json[kind]["id"])

    def _networks(self) -> str:
        return self._neutron("network", "networks", name=f"n{self.next()}")

    def _subnets(self) -> str:
        return self._neutron(
            "subnet",
            "subnets",
            network_id=self._networks(),
            cidr=f"10.77.{self.next() % 250}.0/24",
            ip_version=4,
        )

    def _ports(self) -> str:
        return self._neutron("port", "ports", network_id=self._networks())

    def _routers(self) -> str:
        return self._neutron("router", "routers", name=f"r{self.next()}")

    def _security_groups(self) -> str:
        return self._neutron("security_group", "security-groups", name=f"g{self.next()}")

    def _security_group_rules(self) -> str:
        group = self._security_groups()
        return self._neutron(
            "security_group_rule",
            "security-group-rules",
            security_group_id=group,
            direction="ingress",
            protocol="tcp",
        )

    def _floatingips(self) -> str:
        found = self.whole.call("GET", NETWORK + "/networks?name=public")
        public = found.json["networks"][0]["id"]
        return self._neutron("floatingip", "floatingips", floating_network_id=public)

    def _cinder(self, kind: str, many: str, who: str = "demo", **values: Any) -> str:
        """Make something of the volume service and wait until it rests."""
        path = f"/volume/v3/{many}"
        got = self._post(who, path, {kind: values}, headers=dict(VOLUME))
        made = str(got.json[kind]["id"])

        def rests() -> bool | None:
            seen = self.whole.call("GET", f"{path}/{made}", who="admin", headers=dict(VOLUME))
            return None if seen.json[kind].get("status") == "creating" else True

        until(rests)
        return made

    def _volume_id(self) -> str:
        return self._cinder("volume", "volumes", size=1)

    def _snapshot_id(self) -> str:
        return self._cinder("snapshot", "snapshots", volume_id=self._volume_id())

    def _attachment_id(self) -> str:
        return self._cinder("attachment", "attachments", volume_uuid=self._volume_id())

    def _backup_id(self) -> str:
        return self._cinder("backup", "backups", volume_id=self._volume_id())

    def _transfer_id(self) -> str:
        return self._cinder("transfer", "volume-transfers", volume_id=self._volume_id())

    def _type_id(self) -> str:
        return self._cinder("volume_type", "types", "admin", name=f"t{self.next()}")
