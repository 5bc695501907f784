"""/os-services, pools and capabilities: the hosts that keep volumes, for administrators."""

from typing import Any

from kilonova.common.errors import BadRequest, NotFound
from kilonova.db.engine import Tx
from kilonova.http.microversion import V
from kilonova.http.request import Request
from kilonova.http.routing import Route
from kilonova.http.schema import Schema
from kilonova.volume.embedded import placing, view
from kilonova.volume.embedded.routes.common import both, truth
from kilonova.volume.embedded.store import services, volumes
from kilonova.volume.embedded.volumes import EmbeddedVolumes

_TEXT = {"type": "string", "minLength": 1, "maxLength": 255}
_SCHEDULER = "cinder-scheduler"
_ONE = Schema(
    {
        "type": "object",
        "properties": {"host": _TEXT, "binary": _TEXT, "disabled_reason": _TEXT},
        "required": ["host"],
    }
)


class ServiceRoutes:
    """Handlers of services and pools. Each host is one service and one pool."""

    def __init__(self, of: EmbeddedVolumes) -> None:
        self.of = of

    def routes(self) -> list[Route]:
        """Return this file's rows of the route table."""
        update = "volume_extension:services:update"
        return [
            *both("GET", "/os-services", self.index, "volume_extension:services:index"),
            *both("PUT", "/os-services/enable", self.enable, update, errors=(400, 404), body=_ONE),
            *both("PUT", "/os-services/disable", self.disable, update, errors=(400, 404), body=_ONE),
            *both("PUT", "/os-services/disable-log-reason", self.disable, update, errors=(400, 404), body=_ONE),
            *both("PUT", "/os-services/freeze", self.freeze, update, errors=(400,), body=_ONE),
            *both("PUT", "/os-services/thaw", self.freeze, update, errors=(400,), body=_ONE),
            *both("GET", "/os-hosts", self.hosts, "volume_extension:hosts"),
            *both("GET", "/os-hosts/{host}", self.host, "volume_extension:hosts", errors=(404,)),
            *both("GET", "/scheduler-stats/get_pools", self.pools, "scheduler_extension:scheduler_stats:get_pools"),
            *both("GET", "/capabilities/{host}", self.capabilities, "volume_extension:capabilities", errors=(404,)),
        ]  # fmt: skip

    def index(self, req: Request) -> dict[str, Any]:
        """List the services: one per host, and who chooses between them."""
        rows = self.of.db.read(services.all_rows)
        now, v = self.of.clock.now(), req.version
        found = [_line("kilonova", _SCHEDULER, True, None, now)]
        for room in self.of.rooms():
            row = rows.get(room.host)
            off = row if row is not None and row["disabled"] else None
            line = _line(f"{room.host}@qcow2", "cinder-volume", room.up, off, now)
            line |= {"replication_status": "disabled", "active_backend_id": None, "frozen": False}
            if v >= V(3, 49):
                line["backend_state"] = "up" if room.up else "down"
            found.append(line)
        found.append(_line("kilonova", "cinder-backup", True, None, now))
        for line in found:
            if v >= V(3, 7):
                line["cluster"] = None
        host, binary = req.query.get("host"), req.query.get("binary")
        return {
            "services": [
                f
                for f in found
                if (not host or f["host"] == host or f["host"].startswith(f"{host}@"))
                and (not binary or f["binary"] == binary)
            ]
        }

    def enable(self, req: Request) -> dict[str, Any]:
        """Let a host get new volumes."""
        return self._set(req, disabled=False)

    def disable(self, req: Request) -> dict[str, Any]:
        """Let a host get no new volumes; those that it has stay."""
        return self._set(req, disabled=True)

    def _set(self, req: Request, *, disabled: bool) -> dict[str, Any]:
        body = req.body
        host = body["host"].partition("@")[0]
        if host not in {r.host for r in self.of.rooms()}:
            raise NotFound(
                f"Service cinder-volume could not be found on host {body['host'][:255]}."
            )
        reason = body.get("disabled_reason") if disabled else None

        def write(tx: Tx) -> None:
            services.put(tx, host, disabled=disabled, reason=reason, now=self.of.clock.now())

        self.of.db.write(write)
        out: dict[str, Any] = {
            "host": body["host"],
            "service": body.get("binary", "cinder-volume"),
            "binary": body.get("binary", "cinder-volume"),
            "topic": "cinder-volume",
            "disabled": disabled,
            "status": "disabled" if disabled else "enabled",
        }
        if reason is not None:
            out["disabled_reason"] = reason
        return out

    def hosts(self, req: Request) -> dict[str, Any]:
        """List the services by host, in the older form."""
        found = self.index(req)["services"]
        return {
            "hosts": [
                {
                    "service-status": "available" if f["state"] == "up" else "unavailable",
                    "service": f["binary"],
                    "zone": f["zone"],
                    "service-state": f["status"],
                    "host_name": f["host"],
                    "last-update": f["updated_at"],
                }
                for f in found
            ]
        }

    def host(self, req: Request) -> dict[str, Any]:
        """Show what a host keeps: all of it, then by project."""
        given = req.params["host"]
        host = given.partition("@")[0]
        if host not in {r.host for r in self.of.rooms()}:
            raise NotFound(f"Host {given[:255]} could not be found.")
        kept = self.of.db.read(lambda tx: services.kept_by_project(tx, host))
        total = [sum(row[n] for row in kept.values()) for n in range(4)]
        lines = {"(total)": total, **kept}
        return {
            "host": [
                {
                    "resource": {
                        "volume_count": str(n[0]),
                        "total_volume_gb": str(n[1]),
                        "snapshot_count": str(n[2]),
                        "total_snapshot_gb": str(n[3]),
                        "project": project,
                        "host": given,
                    }
                }
                for project, n in lines.items()
            ]
        }

    def freeze(self, req: Request) -> None:
        """Refuse it: nothing is replicated here, so nothing is frozen for a failover."""
        host = req.body["host"]
        if host.partition("@")[0] not in {r.host for r in self.of.rooms()}:
            raise BadRequest(f"Invalid input received: no service runs on host {host[:255]}.")
        raise BadRequest(
            "Invalid input received: replication is not built here; disable the service instead."
        )

    def pools(self, req: Request) -> dict[str, Any]:
        """List the pools; ``detail=True``: with what they have."""
        detail = truth(req.query.get("detail", "false"))
        kept, counts = self.of.db.read(lambda tx: (volumes.kept(tx), volumes.counts(tx)))
        found = []
        for room in self.of.rooms():
            if not room.up:
                continue
            name = placing.address(room.host)
            item: dict[str, Any] = {"name": name}
            if detail:
                used = kept.get(room.host, 0)
                item["capabilities"] = {
                    "pool_name": placing.POOL,
                    "volume_backend_name": "qcow2",
                    "storage_protocol": "nbd",
                    "vendor_name": "Kilonova",
                    "driver_version": "1.0",
                    "total_capacity_gb": room.disk_gib,
                    "free_capacity_gb": max(0, room.disk_gib - used),
                    "allocated_capacity_gb": used,
                    "provisioned_capacity_gb": used,
                    "max_over_subscription_ratio": "1.0",
                    "thin_provisioning_support": True,
                    "thick_provisioning_support": False,
                    "multiattach": True,
                    "reserved_percentage": 0,
                    "total_volumes": counts.get(room.host, 0),
                    "timestamp": view.moment(self.of.clock.now()),
                    "backend_state": "up",
                    "QoS_support": False,
                }
            found.append(item)
        return {"pools": found}

    def capabilities(self, req: Request) -> dict[str, Any]:
        """Show what a host's back end can do."""
        host = req.params["host"].partition("@")[0]
        if host not in {r.host for r in self.of.rooms()}:
            raise NotFound(f"Host {host[:255]} could not be found.")
        return {
            "namespace": "OS::Storage::Capabilities::kilonova",
            "vendor_name": "Kilonova",
            "volume_backend_name": "qcow2",
            "pool_name": placing.POOL,
            "driver_version": "1.0",
            "storage_protocol": "nbd",
            "display_name": "qcow2 files, over NBD from elsewhere",
            "description": None,
            "visibility": None,
            "replication_targets": [],
            "properties": {},
        }


def _line(host: str, binary: str, up: bool, off: Any, now: float) -> dict[str, Any]:
    return {
        "binary": binary,
        "host": host,
        "zone": placing.ZONE,
        "status": "disabled" if off is not None else "enabled",
        "state": "up" if up else "down",
        "updated_at": view.moment(now),
        "disabled_reason": off["reason"] if off is not None else None,
    }
