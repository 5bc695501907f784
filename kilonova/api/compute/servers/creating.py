"""POST /servers: read the body of any microversion, ask policy, and accept."""

import ipaddress
from typing import Any

import msgspec

from kilonova.api.compute.schemas.common import true
from kilonova.api.compute.schemas.server_create import schema_at
from kilonova.api.compute.servers.disks import asked_disks
from kilonova.api.compute.versions import HIGH as LATEST
from kilonova.api.idempotency import replayed
from kilonova.common.errors import BadRequest, KilonovaError
from kilonova.db.engine import Tx
from kilonova.http.microversion import V
from kilonova.http.request import Request, Response
from kilonova.objects.port import RequestedNic
from kilonova.operations import idempotent, request_server
from kilonova.operations.request_server import Asked
from kilonova.operations.services import Services

MAX_USER_DATA = 65535


def create(req: Request) -> Response:
    """Create one server or several. With an ``Idempotency-Key`` a retry finds what the first request did."""
    services: Services = req.cloud
    req.project()
    body = req.body["server"]
    hints = req.body.get("os:scheduler_hints") or req.body.get("OS-SCH-HNT:scheduler_hints") or {}
    wanted = asked(req, body, hints)
    key = req.headers.get(idempotent.HEADER)
    if key is None:
        return _answer(req, request_server.accept(services, req.ctx, wanted))
    reserved = idempotent.begin(
        services,
        req.ctx,
        method=req.method,
        path=req.path,
        key=key,
        body=req.body,
        version=str(req.version),
        ids=wanted.high,
    )
    if isinstance(reserved, idempotent.Replay):
        return replayed(reserved)
    return _create_once(req, services, wanted, reserved)


def _create_once(
    req: Request, services: Services, wanted: Asked, reserved: idempotent.Reservation
) -> Response:
    def finish(tx: Tx, accepted: request_server.Accepted) -> None:
        out = _answer(req, accepted)
        reserved.finish(
            services,
            tx,
            status=202,
            body=msgspec.json.encode(out.body),
            location=out.headers.get("Location"),
        )

    try:
        accepted = request_server.accept(services, req.ctx, wanted, reserved.ids, finish)
    except KilonovaError:
        reserved.release(services)
        raise
    return _answer(req, accepted)


def _answer(req: Request, accepted: request_server.Accepted) -> Response:
    body = req.body["server"]
    if true(body.get("return_reservation_id", False)):
        return Response(body={"reservation_id": accepted.reservation_id})
    first = accepted.servers[0]
    href = f"{req.base}/v2.1/servers/{first}"
    server: dict[str, Any] = {
        "id": first,
        "links": [
            {"rel": "self", "href": href},
            {"rel": "bookmark", "href": f"{req.base}/servers/{first}"},
        ],
        "OS-DCF:diskConfig": body.get("OS-DCF:diskConfig", "MANUAL"),
        "security_groups": [{"name": n} for n in accepted.security_groups or ("default",)],
        "adminPass": accepted.admin_password,
    }
    return Response(body={"server": server}, headers={"Location": href})


def asked(req: Request, body: dict[str, Any], hints: dict[str, Any]) -> Asked:
    """Read a body that fits its schema. BadRequest names the field; Forbidden the rule."""
    low, high = _counts(body)
    zone, host, node, force = _destination(req, body)
    if body.get("networks") not in (None, "none"):
        req.authorize("os_compute_api:servers:create:attach_network")
    if body.get("block_device_mapping") or body.get("block_device_mapping_v2"):
        req.authorize("os_compute_api:servers:create:attach_volume")
    if body.get("trusted_image_certificates") is not None:
        req.authorize("os_compute_api:servers:create:trusted_certs")
    if body.get("personality"):
        raise BadRequest("personality: file injection is not supported; use user_data.")
    return Asked(
        name=body["name"].strip(),
        flavor_ref=str(body["flavorRef"]).rstrip("/").rpartition("/")[2],
        image_ref=(body.get("imageRef") or None),
        low=low,
        high=high,
        networks=_networks(body.get("networks")),
        security_groups=tuple(
            dict.fromkeys(g["name"] for g in body.get("security_groups", []) if "name" in g)
        ),
        key_name=body.get("key_name"),
        metadata=body.get("metadata"),
        user_data=body.get("user_data"),
        admin_password=body.get("adminPass"),
        config_drive=true(body.get("config_drive", False)),
        availability_zone=zone,
        host=host,
        node=node,
        force=force,
        hints={k: tuple(v) if isinstance(v, list) else (_text(v),) for k, v in hints.items()},
        tags=tuple(body.get("tags", ())),
        description=body.get("description") if req.version >= V(2, 19) else body["name"].strip(),
        hostname=body.get("hostname"),
        access_ip_v4=canonical(body.get("accessIPv4", "")),
        access_ip_v6=canonical(body.get("accessIPv6", "")),
        disk_config=body.get("OS-DCF:diskConfig", "MANUAL"),
        disks=asked_disks(body),
        legacy_disks=bool(body.get("block_device_mapping")),
        multiattach=req.version >= V(2, 60),
        trusted_certs=_certificates(body),
        may_zero_disk=req.may("os_compute_api:servers:create:zero_disk_flavor"),
    )


def _certificates(body: dict[str, Any]) -> tuple[str, ...] | None:
    given = body.get("trusted_image_certificates")
    return None if given is None else tuple(given)


def canonical(address: str | None) -> str:
    """Write an address as everybody does (RFC 5952); none is empty."""
    return str(ipaddress.ip_address(address)) if address else ""


def _text(value: Any) -> str:
    return value if isinstance(value, str) else str(value)


def _counts(body: dict[str, Any]) -> tuple[int, int]:
    low = int(body.get("min_count") or 1)
    high = int(body.get("max_count") or low)
    if low > high:
        raise BadRequest("min_count must be <= max_count")
    if high > 1000:
        raise BadRequest("max_count must be at most 1000")
    return low, high


def _destination(
    req: Request, body: dict[str, Any]
) -> tuple[str | None, str | None, str | None, bool]:
    """Read the zone ("zone:host:node" forces a host) and, from 2.74, host and hypervisor_hostname."""
    zone, host, node, force = body.get("availability_zone"), None, None, False
    if zone and ":" in zone:
        parts = zone.split(":")
        if len(parts) > 3:
            raise BadRequest("Unable to parse availability_zone: too many colons")
        req.authorize("os_compute_api:servers:create:forced_host")
        zone = parts[0] or None
        host = parts[1] or None
        node = (parts[2] or None) if len(parts) == 3 else None
        force = True
    if "host" in body or "hypervisor_hostname" in body:
        req.authorize("compute:servers:create:requested_destination")
        if force:
            raise BadRequest(
                "Forcing a host in availability_zone and naming one in host or hypervisor_hostname exclude each other."
            )
        host, node = body.get("host"), body.get("hypervisor_hostname")
    return zone, host, node, force


def _networks(value: Any) -> list[RequestedNic] | str | None:
    if value is None or isinstance(value, str):
        return value
    out = []
    for entry in value:
        if not entry.get("port") and not entry.get("uuid"):
            raise BadRequest("networks: each entry needs a uuid or a port")
        out.append(
            RequestedNic(
                network_id=entry.get("uuid"),
                port_id=entry.get("port"),
                fixed_ip=entry.get("fixed_ip"),
                tag=entry.get("tag"),
            )
        )
    return out


def dry_run(req: Request, services: Services) -> dict[str, Any]:
    """Decide for a body of POST /servers without accepting anything; the table per host is for admins."""
    body = req.body if isinstance(req.body, dict) else {}
    if not isinstance(body.get("server"), dict):
        raise BadRequest("server: the body of POST /servers is needed")
    schema_at(LATEST).check({"server": {"networks": "none", "name": "dry-run", **body["server"]}})
    server = {"name": "dry-run", **body["server"]}
    requested = request_server.resolve(
        services, req.ctx, asked(req, server, body.get("os:scheduler_hints") or {})
    )
    decision = services.scheduling.decide(requested)
    out: dict[str, Any] = {
        "fits": decision.complete,
        "explanation": decision.explanation.as_json(admin=req.ctx.is_admin),
        "message": "" if decision.complete else decision.explanation.tenant_text(),
    }
    if req.ctx.is_admin:
        out["hosts"] = [
            [x.chosen.host, *(a.host for a in x.alternates)] for x in decision.selections
        ]
    return {"decision": out}
