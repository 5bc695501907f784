"""From a checked request to RequestedServer records: resolve image, flavor, keys, networks; then accept.

Everything that can be refused is refused here, before anything is written; the accept is one global transaction.
"""

import base64
import os
import re
import secrets as random
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kilonova.common.context import Context
from kilonova.common.errors import BadRequest, NotFound, QuotaExceeded
from kilonova.common.ids import new_uuid
from kilonova.common.secret import Secret
from kilonova.db import flavors, keypairs, quotas, server_groups
from kilonova.db.engine import Tx
from kilonova.objects.image import Image
from kilonova.objects.port import RequestedNic
from kilonova.objects.server import FlavorRecord, ImageRecord, RequestedServer
from kilonova.operations import image_signatures, request_disks, server_create
from kilonova.operations.request_disks import AskedDisk, Wish
from kilonova.operations.services import Services


@dataclass(frozen=True)
class Asked:
    """What a caller asks for, after schema and policy; no field is resolved yet."""

    name: str
    flavor_ref: str
    image_ref: str | None
    low: int = 1
    high: int = 1
    networks: Sequence[RequestedNic] | str | None = None
    security_groups: tuple[str, ...] = ()
    key_name: str | None = None
    metadata: dict[str, str] | None = None
    user_data: str | None = None
    admin_password: str | None = None
    config_drive: bool = False
    availability_zone: str | None = None
    host: str | None = None
    node: str | None = None
    force: bool = False
    hints: dict[str, tuple[str, ...]] | None = None
    tags: tuple[str, ...] = ()
    description: str | None = None
    hostname: str | None = None
    access_ip_v4: str = ""
    access_ip_v6: str = ""
    disk_config: str = "MANUAL"
    trusted_certs: tuple[str, ...] | None = None
    disks: Sequence[AskedDisk] | None = None  # block_device_mapping; None: nothing was said
    legacy_disks: bool = False  # by its first form
    multiattach: bool = True  # the caller's microversion knows volumes of several servers
    may_zero_disk: bool = False


@dataclass(frozen=True)
class Accepted:
    """What the answer tells."""

    servers: tuple[str, ...]
    reservation_id: str
    admin_password: str
    security_groups: tuple[str, ...]


def accept(
    services: Services,
    ctx: Context,
    asked: Asked,
    ids: Sequence[str] = (),
    finish: Callable[[Tx, Accepted], None] | None = None,
) -> Accepted:
    """Resolve and accept. Raises what is wrong, by field; QuotaExceeded; nothing is written unless all is accepted.

    ids: of the servers, where they were minted before. finish: is called last in the accepting transaction.
    """
    first = resolve(services, ctx, asked, ids[0] if ids else None)
    ports = asked.low * sum(1 for n in first.nics if n.port_id is None)
    services.network.check_quota(first.project_id, ports)
    password = asked.admin_password or random.token_urlsafe(9)

    def put(tx: Tx) -> Accepted:
        count = quotas.reserve_servers(
            tx,
            first.project_id,
            first.user_id,
            low=asked.low,
            high=asked.high,
            vcpus=first.flavor.vcpus,
            memory_mib=first.flavor.memory_mib,
        )
        _check_members(tx, first.project_id, first.user_id, first.server_group, count)
        made = []
        for i in range(count):
            server_id = first.server_id if i == 0 else ids[i] if ids else new_uuid()
            _accept_one(tx, services, ctx, asked, first, server_id, i, password)
            made.append(server_id)
        groups = tuple(n for _, n in first.security_groups)
        accepted = Accepted(tuple(made), first.reservation_id, password, groups)
        if finish is not None:
            finish(tx, accepted)
        return accepted

    return services.world.write(put)


def _accept_one(
    tx: Tx,
    services: Services,
    ctx: Context,
    asked: Asked,
    first: RequestedServer,
    server_id: str,
    index: int,
    password: str,
) -> None:
    """Write secrets, mapping and journal of one server of the request."""
    operation, now = new_uuid(), first.created_at
    user_data = None
    if asked.user_data is not None:
        value = Secret(asked.user_data)
        user_data = services.vault.put(tx, owner=server_id, kind="user_data", value=value, now=now)
    sealed = Secret(password)
    password_ref = services.vault.put(
        tx, owner=operation, kind="admin_password", value=sealed, now=now
    )
    name = asked.name if asked.high == 1 else f"{asked.name}-{index + 1}"
    requested = first.replace(
        server_id=server_id,
        name=name,
        hostname=_hostname(asked, name, server_id, index),
        launch_index=index,
        disks=tuple(d.replace(id=new_uuid()) for d in first.disks),
        user_data=user_data,
        admin_password=password_ref,
    )
    server_create.prepare(tx, services, requested, ctx, operation)


def resolve(
    services: Services, ctx: Context, asked: Asked, server_id: str | None = None
) -> RequestedServer:
    """Check everything and return the first server of the request, without secrets; touches nothing."""
    project, user = str(ctx.project_id), str(ctx.user_id)
    flavor = _flavor(services, ctx, asked)
    wish = Wish(
        flavor=flavor,
        image=_image(services, ctx, asked),
        disks=asked.disks,
        legacy=asked.legacy_disks,
        low=asked.low,
        high=asked.high,
        may_zero_disk=asked.may_zero_disk,
        multiattach=asked.multiattach,
        trusted_certs=asked.trusted_certs,
    )
    disks = request_disks.plan(services, ctx, wish)
    image = _fitting(services, flavor, disks.image)
    keys = _keys(services, user, asked.key_name)
    _check_sizes(services, project, user, asked)
    zone, host, node, force = _place(services, asked)
    group = _group(services, ctx, asked)
    nics = services.network.plan(ctx, project, asked.networks)  # type: ignore[arg-type]
    if asked.high > 1 and any(n.port_id or n.fixed_ip for n in nics):
        raise BadRequest(
            "Cannot launch multiple instances with a single configured port ID or fixed IP. "
            "Please launch your instances one by one with different ports."
        )
    names = asked.security_groups or (("default",) if nics else ())
    groups = services.network.resolve_groups(ctx, project, names) if nics else []
    server_id = server_id or new_uuid()
    return RequestedServer(
        server_id=server_id,
        project_id=project,
        user_id=user,
        request_id=ctx.request_id,
        name=asked.name,
        hostname=_hostname(asked, asked.name, server_id, 0),
        description=asked.description,
        flavor=flavor,
        image=image,
        key_name=asked.key_name,
        keys=keys,
        metadata=asked.metadata or {},
        tags=tuple(sorted(set(asked.tags))),
        availability_zone=zone,
        requested_host=host,
        requested_node=node,
        force_host=force,
        hints=asked.hints or {},
        server_group=group,
        security_groups=tuple(groups),
        nics=tuple(nics),
        disks=disks.disks,
        config_drive=asked.config_drive or _wants_config_drive(image),
        access_ip_v4=asked.access_ip_v4,
        access_ip_v6=asked.access_ip_v6,
        disk_config=asked.disk_config,
        reservation_id="r-" + base64.b32encode(os.urandom(5)).decode().lower(),
        trusted_certs=asked.trusted_certs,
        created_at=services.now(),
    )


def _flavor(services: Services, ctx: Context, asked: Asked) -> FlavorRecord:
    row = services.world.ask(
        lambda tx: flavors.find_for(tx, asked.flavor_ref, ctx.project_id, admin=ctx.is_admin)
    )
    if row is None:
        raise BadRequest(f"Flavor {asked.flavor_ref[:80]} could not be found.")
    return flavors.record(row)


def _fitting(
    services: Services, flavor: FlavorRecord, image: ImageRecord | None
) -> ImageRecord | None:
    services.scheduling.check_flavor(flavor, image)
    return image


def _image(services: Services, ctx: Context, asked: Asked) -> Image | None:
    if not asked.image_ref:
        return None
    try:
        image = services.images.get(ctx, asked.image_ref)
    except NotFound as exc:
        raise BadRequest(f"Can not find requested image {asked.image_ref}") from exc
    if image.status != "active":
        raise BadRequest(f"Image {image.id} is not active.")
    return image_signatures.verified(services, image, asked.trusted_certs)


def _wants_config_drive(image: ImageRecord | None) -> bool:
    return image is not None and image.properties.get("img_config_drive") == "mandatory"


def _keys(services: Services, user: str, name: str | None) -> tuple[tuple[str, str, str], ...]:
    if name is None:
        return ()
    row = services.world.ask(lambda tx: keypairs.find(tx, user, name))
    if row is None:
        raise BadRequest("Invalid key_name provided.")
    return ((row["name"], row["type"], row["public_key"]),)


def _check_sizes(services: Services, project: str, user: str, asked: Asked) -> None:
    items = len(asked.metadata or {})
    if not items:
        return
    limit = services.world.ask(lambda tx: quotas.limits(tx, project, user))["metadata_items"]
    if 0 <= limit < items:
        raise QuotaExceeded(f"Maximum number of metadata items exceeds {limit}")


def _place(services: Services, asked: Asked) -> tuple[str | None, str | None, str | None, bool]:
    """Return (zone, host, node, forced). An unknown zone or host is refused here, as Nova does."""
    zone = asked.availability_zone
    if zone is not None and zone not in services.scheduling.zones():
        raise BadRequest("The requested availability zone is not available")
    for name, kind in ((asked.host, "Compute host"), (asked.node, "Compute host")):
        if name is not None and services.hosts.find(name) is None:
            raise BadRequest(f"{kind} {name[:80]} could not be found.")
    return zone, asked.host, asked.node, asked.force


def _group(services: Services, ctx: Context, asked: Asked) -> str | None:
    named = (asked.hints or {}).get("group")
    if not named:
        return None
    row = services.world.read(lambda tx: server_groups.find(tx, named[0]))
    if row is None or (row["project_id"] != ctx.project_id and not ctx.is_admin):
        raise BadRequest(f"Instance group {named[0]} could not be found.")
    uuid: str = row["uuid"]
    return uuid


def _check_members(tx: Tx, project: str, user: str, group: str | None, count: int) -> None:
    if group is None:
        return
    limit = quotas.limits(tx, project, user)["server_group_members"]
    if 0 <= limit < quotas.members_used(tx, group) + count:
        raise QuotaExceeded("Quota exceeded, too many servers in group")


def _hostname(asked: Asked, name: str, server_id: str, index: int) -> str:
    if asked.hostname is not None:
        return asked.hostname if asked.high == 1 else f"{asked.hostname}-{index + 1}"
    return hostname_of(name, server_id)


def hostname_of(name: str, server_id: str) -> str:
    """Return a host name made from a server's name: ASCII letters, digits, dots and dashes, at most 63 characters."""
    text = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    text = re.sub(r"[^\w.-]+", "", re.sub(r"[ _]", "-", text)).strip(".-")[:63].strip(".-")
    return text or f"server-{server_id}"
