"""What a decision is asked: resources per group, traits, zone, hints, group, image, and where it may or must go."""

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa

from kilonova.common.devices import PciAlias
from kilonova.common.errors import BadRequest
from kilonova.common.ids import is_uuid
from kilonova.db import mappings
from kilonova.db.engine import Tx
from kilonova.db.schema.world import server_group
from kilonova.db.sql import P, Q
from kilonova.objects.image_properties import LEGACY, ImageProperties
from kilonova.objects.server import FlavorRecord, ImageRecord, RequestedServer
from kilonova.placement import names
from kilonova.placement.candidates import Group
from kilonova.scheduler import guest_numa, pci

_GROUP = Q(sa.select(server_group).where(server_group.c.uuid == P("uuid")))
NO_PROPERTIES: Mapping[str, str] = {}
_SPEC = re.compile(r"(resources|trait)([a-zA-Z0-9_-]{0,64}):(.+)", re.DOTALL)


@dataclass(frozen=True)
class ServerGroup:
    """The server group that a request joins. hosts: host -> how many of its members are there (without this server).

    max_per_host: of an anti-affinity group, 1 unless its rules say otherwise.
    """

    uuid: str
    policy: str
    hosts: Mapping[str, int] = field(default_factory=dict)
    max_per_host: int = 1


@dataclass(frozen=True)
class Request:
    """One question to ``select``. A field that Nova's RequestSpec has means the same.

    groups: what is needed; the group with suffix "" may come from several providers of a tree.
    image: raw properties of the image, under their current names. image_id: "" when there is none.
    only_host, only_node: "exactly there", filters apply (2.74, a requested destination). force: with the legacy
        ``az:host``: only capacity and the service's state are asked.
    cell: only hosts of this cell. prefer_cell: the same as a wish (cross-cell resize).
    same_host, different_host: hosts, resolved from server ids; None when the hint was not given.
    """

    groups: tuple[Group, ...]
    project: str = ""
    flavor: str = ""
    extra_specs: Mapping[str, str] = field(default_factory=dict)
    image: Mapping[str, str] = field(default_factory=dict)
    image_id: str = ""
    group_policy: str | None = None
    availability_zone: str | None = None
    server_group: ServerGroup | None = None
    same_host: frozenset[str] | None = None
    different_host: frozenset[str] | None = None
    near: ipaddress.IPv4Network | ipaddress.IPv6Network | None = None
    only_host: str | None = None
    only_node: str | None = None
    force: bool = False
    ignore_hosts: frozenset[str] = frozenset()
    cell: str | None = None
    prefer_cell: str | None = None
    same_subtree: tuple[frozenset[str], ...] = ()
    apart: frozenset[str] = frozenset()

    def amounts(self) -> dict[str, int]:
        """Return all that is needed, of all groups together."""
        out: dict[str, int] = {}
        for g in self.groups:
            for resource_class, n in g.resources.items():
                out[resource_class] = out.get(resource_class, 0) + n
        return out


def groups_of(
    flavor: FlavorRecord,
    image_traits: tuple[str, ...] = (),
    *,
    root_on_volume: bool = False,
    aliases: Sequence[PciAlias] = (),
    image: Mapping[str, str] = NO_PROPERTIES,
) -> tuple[tuple[Group, ...], str | None]:
    """Return (groups, group policy) that a flavor, its extra specs and an image's properties ask for.

    aliases: those that are configured.

    source: Nova, "Extra Specs": resources[N]:CLASS=n (0 takes a class out), trait[N]:NAME=required|forbidden,
    group_policy; hw:cpu_policy=dedicated takes PCPU. Raises BadRequest that names the key.
    """
    specs = flavor.extra_specs
    dedicated = is_dedicated(specs)
    cells = cells_of(flavor, image)
    disk = (0 if root_on_volume else flavor.root_gib) + flavor.ephemeral_gib
    base = {
        names.PCPU if dedicated else names.VCPU: flavor.vcpus,
        names.MEMORY_MB: flavor.memory_mib,
        names.DISK_GB: disk + -(-flavor.swap_mib // 1024),
    }
    resources: dict[str, dict[str, int]] = {"": base}
    required: dict[str, set[str]] = {"": set(image_traits)}
    forbidden: dict[str, set[str]] = {"": set()}
    for key, value in specs.items():
        found = _SPEC.fullmatch(key)
        if found is None:
            continue
        kind, suffix, name = found[1], found[2], found[3]
        if kind == "resources":
            if not (value.isascii() and value.isdigit()) or len(value) > 10:
                raise BadRequest(
                    f"Flavor extra spec {key:.80} must be a whole number, not {value[:40]!r}."
                )
            resources.setdefault(suffix, {})[name] = int(value)
        elif value in ("required", "forbidden"):
            (required if value == "required" else forbidden).setdefault(suffix, set()).add(name)
        else:
            raise BadRequest(
                f"Flavor extra spec {key:.80} must be 'required' or 'forbidden', not {value[:40]!r}."
            )
    policy = specs.get("group_policy")
    if policy not in (None, "none", "isolate"):
        raise BadRequest(
            f"Flavor extra spec group_policy must be 'none' or 'isolate', not {policy!r:.60}."
        )
    suffixes = sorted(resources.keys() | required.keys() | forbidden.keys())
    more = guest_numa.groups(cells, dedicated=dedicated) + pci.groups(specs, aliases)
    if dedicated and len(cells) > 1:
        base[names.PCPU] = 0  # each of its nodes takes its own
    if policy is None and len([s for s in suffixes if s]) + len(more) > 1:
        policy = "none"
    groups = tuple(
        Group(
            suffix=s,
            resources={c: n for c, n in resources.get(s, {}).items() if n > 0},
            required=tuple(frozenset({t}) for t in sorted(required.get(s, ()))),
            forbidden=frozenset(forbidden.get(s, ())),
        )
        for s in suffixes
    )
    return groups + more, policy


def is_dedicated(specs: Mapping[str, str]) -> bool:
    """Tell whether each vCPU has a CPU of the host alone."""
    return specs.get("hw:cpu_policy") == "dedicated"


def cells_of(flavor: FlavorRecord, image: Mapping[str, str]) -> tuple[guest_numa.Cell, ...]:
    """Return the NUMA nodes of a guest. image: its properties. Raises BadRequest."""
    specs = flavor.extra_specs
    if not is_dedicated(specs) and not guest_numa.is_asked(specs, image):
        return ()
    asked = guest_numa.Asked(flavor.vcpus, flavor.memory_mib, is_dedicated(specs))
    return guest_numa.cells_of(asked, specs, image)


def build(
    tx: Tx,
    asked: RequestedServer,
    *,
    ignore_hosts: frozenset[str] = frozenset(),
    aliases: Sequence[PciAlias] = (),
) -> Request:
    """Return the request of a create. Reads group members and the hints' servers in ``tx`` (global database).

    Raises BadRequest for hints and extra specs that cannot be obeyed.
    """
    return assemble(
        tx,
        flavor=asked.flavor,
        image=asked.image,
        project=asked.project_id,
        server=asked.server_id,
        server_group_id=asked.server_group,
        hints=asked.hints,
        availability_zone=asked.availability_zone,
        only_host=asked.requested_host,
        only_node=asked.requested_node,
        force=asked.force_host,
        ignore_hosts=ignore_hosts,
        aliases=aliases,
        root_on_volume=any(d.boot_index == 0 and d.destination == "volume" for d in asked.disks),
    )


def assemble(
    tx: Tx,
    *,
    flavor: FlavorRecord,
    image: ImageRecord | None,
    project: str,
    server: str = "",
    server_group_id: str | None = None,
    hints: Mapping[str, tuple[str, ...]] | None = None,
    availability_zone: str | None = None,
    only_host: str | None = None,
    only_node: str | None = None,
    force: bool = False,
    ignore_hosts: frozenset[str] = frozenset(),
    cell: str | None = None,
    prefer_cell: str | None = None,
    root_on_volume: bool = False,
    aliases: Sequence[PciAlias] = (),
) -> Request:
    """Return a request from its parts (resize, migrate, rebuild and dry runs use it directly). See ``build``."""
    properties: dict[str, str] = {}
    traits: tuple[str, ...] = ()
    if image is not None:
        properties = image_of(image.properties)
        traits = ImageProperties.read(image.properties).traits_required
    groups, policy = groups_of(
        flavor, traits, root_on_volume=root_on_volume, aliases=aliases, image=properties
    )
    hints = hints or {}
    if "query" in hints:
        raise BadRequest(
            "The scheduler hint 'query' is not supported: this cloud has no JsonFilter."
        )
    return Request(
        groups=groups,
        group_policy=policy,
        apart=frozenset(g.suffix for g in groups if g.suffix.startswith(guest_numa.PREFIX)),
        project=project,
        flavor=flavor.name,
        extra_specs=flavor.extra_specs,
        image=properties,
        image_id="" if image is None else image.id,
        availability_zone=availability_zone,
        server_group=None if server_group_id is None else _group(tx, server_group_id, server),
        same_host=_hosts_of(tx, hints, "same_host"),
        different_host=_hosts_of(tx, hints, "different_host"),
        near=near_of(hints),
        only_host=only_host,
        only_node=only_node,
        force=force,
        ignore_hosts=ignore_hosts,
        cell=cell,
        prefer_cell=prefer_cell,
    )


def image_of(properties: Mapping[str, str]) -> dict[str, str]:
    """Return an image's properties under their current names, the architecture as hosts call it."""
    out = {LEGACY.get(k, k): v for k, v in properties.items()}
    architecture = ImageProperties.read(properties).hw_architecture
    if architecture is not None:
        out["hw_architecture"] = architecture
    return out


def _group(tx: Tx, uuid: str, server: str) -> ServerGroup | None:
    row = tx.one(_GROUP, uuid=uuid)
    if row is None:
        return None
    hosts: dict[str, int] = {}
    for member, host in mappings.in_group(tx, uuid):
        if host is not None and member != server:
            hosts[host] = hosts.get(host, 0) + 1
    return ServerGroup(uuid, row["policy"], hosts, max_per_host(row["rules"]))


def max_per_host(rules: str | None) -> int:
    """Return ``max_server_per_host`` of a group's rules (JSON), 1 when it does not say."""
    import msgspec

    found = msgspec.json.decode(rules or "{}").get("max_server_per_host", 1)
    return int(found)


def _hosts_of(tx: Tx, hints: Mapping[str, tuple[str, ...]], name: str) -> frozenset[str] | None:
    if name not in hints:
        return None
    given = hints[name]
    hosts = set()
    for server in [given] if isinstance(given, str) else given:
        if not is_uuid(server):
            raise BadRequest(f"The scheduler hint '{name}' takes server ids, not {server[:60]!r}.")
        row = mappings.find(tx, server)
        if row is not None and row["host"] is not None:
            hosts.add(row["host"])
    return frozenset(hosts)


def near_of(
    hints: Mapping[str, tuple[str, ...]],
) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    """Return the network of ``build_near_host_ip`` and ``cidr`` (default /24); BadRequest when it is none."""
    if "build_near_host_ip" not in hints:
        return None
    first = {k: v if isinstance(v, str) else (v[0] if v else "") for k, v in hints.items()}
    cidr = first.get("cidr", "/24")
    try:
        return ipaddress.ip_network(
            f"{first['build_near_host_ip']}/{cidr.removeprefix('/')}", strict=False
        )
    except ValueError as exc:
        raise BadRequest(
            f"The scheduler hints build_near_host_ip and cidr do not name a network: "
            f"{first['build_near_host_ip'][:60]!r} {cidr[:20]!r}."
        ) from exc
