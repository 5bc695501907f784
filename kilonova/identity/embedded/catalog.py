"""The service catalog: what this cloud itself offers (given at start), then what an admin added (stored)."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

from kilonova.db.engine import Row, Tx
from kilonova.identity.embedded.records import endpoints, services

REGION = "RegionOne"
INTERFACES = ("public", "internal", "admin")
Json = dict[str, Any]


@dataclass(frozen=True)
class Offer:
    """One of our own services. url may hold ``$(project_id)s``."""

    type: str
    name: str
    url: str

    @property
    def id(self) -> str:
        return _stable(f"service:{self.type}")

    def service(self) -> Json:
        """Return the record as the API shows it."""
        return {
            "id": self.id,
            "type": self.type,
            "name": self.name,
            "description": "",
            "enabled": True,
        }

    def endpoints(self) -> list[Json]:
        """Return its endpoints as the API shows them: the same URL on each interface."""
        return [
            {
                "id": _stable(f"endpoint:{self.type}:{i}"),
                "service_id": self.id,
                "interface": i,
                "region": REGION,
                "region_id": REGION,
                "url": self.url,
                "enabled": True,
            }
            for i in INTERFACES
        ]


def _stable(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16, person=b"kilonova").hexdigest()


def offers(entries: Iterable[tuple[str, str, str]]) -> tuple[Offer, ...]:
    """Return offers from (type, name, url)."""
    return tuple(Offer(*e) for e in entries)


def service_record(row: Row) -> Json:
    """Return a stored service as the API shows it."""
    return {
        **msgspec.json.decode(row["extra"]),
        "id": row["id"],
        "type": row["type"],
        "name": row["name"],
        "description": row["description"],
        "enabled": bool(row["enabled"]),
    }


def endpoint_record(row: Row) -> Json:
    """Return a stored endpoint as the API shows it."""
    return {
        **msgspec.json.decode(row["extra"]),
        "id": row["id"],
        "service_id": row["service_id"],
        "interface": row["interface"],
        "region": row["region_id"],
        "region_id": row["region_id"],
        "url": row["url"],
        "enabled": bool(row["enabled"]),
    }


def all_services(tx: Tx, own: Iterable[Offer]) -> list[Json]:
    """Return every service, ours first."""
    return [o.service() for o in own] + [service_record(r) for r in services.list(tx)]


def all_endpoints(tx: Tx, own: Iterable[Offer]) -> list[Json]:
    """Return every endpoint, ours first."""
    mine = [e for o in own for e in o.endpoints()]
    return mine + [endpoint_record(r) for r in endpoints.list(tx, order="service_id")]


def build(
    all_s: Iterable[Json], all_e: Iterable[Json], project_id: str | None, user_id: str
) -> list[Json]:
    """Return the catalog for one token; an endpoint that needs a project is left out when there is none."""
    by_service: dict[str, list[Json]] = {}
    for e in all_e:
        url = _fill(str(e["url"]), project_id, user_id)
        if e["enabled"] and url is not None:
            kept = ("id", "interface", "region", "region_id")
            by_service.setdefault(e["service_id"], []).append(
                {k: e[k] for k in kept} | {"url": url}
            )
    return [
        {
            "id": s["id"],
            "type": s["type"],
            "name": s["name"],
            "endpoints": by_service.get(s["id"], []),
        }
        for s in all_s
        if s["enabled"]
    ]


def _fill(url: str, project_id: str | None, user_id: str) -> str | None:
    for opening in ("$(", "%("):
        for name, value in (
            ("project_id", project_id),
            ("tenant_id", project_id),
            ("user_id", user_id),
        ):
            mark = f"{opening}{name})s"
            if mark in url:
                if value is None:
                    return None
                url = url.replace(mark, value)
    return url
