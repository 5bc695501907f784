"""Small things that every store module uses."""

import ipaddress
import json
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from kilonova.db.engine import Row, Tx
from kilonova.db.sql import P, Q, insert_or_ignore
from kilonova.network.embedded.faults import invalid
from kilonova.network.embedded.schema import tag

IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


def listed(values: Iterable[str]) -> str:
    """Return what to bind to ``among``."""
    return json.dumps(list(values))


def find(table: sa.Table) -> Q:
    """Return the question for one row by id."""
    return Q(sa.select(table).where(table.c.id == P("id")))


def changed(tx: Tx, table: sa.Table, row_id: str, now: float, values: dict[str, Any]) -> None:
    """Change a row by its API, with updated_at and revision. The caller compared the revision in this transaction."""
    tx.change(
        sa.update(table)
        .where(table.c.id == row_id)
        .values(**values, updated_at=now, revision=table.c.revision + 1)
    )


def parse_ip(text: object, field: str) -> IpAddress:
    """Read an address; InvalidInput that names the field."""
    try:
        if isinstance(text, str) and "%" not in text:
            return ipaddress.ip_address(text)
    except ValueError:
        pass
    raise invalid(f"{field}: '{str(text)[:80]}' is not a valid IP address")


def parse_cidr(text: object, field: str, *, strict: bool = False) -> IpNetwork:
    """Read a CIDR; InvalidInput that names the field. strict: host bits must be zero."""
    try:
        if isinstance(text, str) and "/" in text and "%" not in text:
            return ipaddress.ip_network(text, strict=strict)
    except ValueError:
        pass
    raise invalid(f"{field}: '{str(text)[:80]}' is not a valid IP subnet")


def by(rows: Iterable[Row], column: str) -> dict[str, list[Row]]:
    """Group rows by a column, in order."""
    out: dict[str, list[Row]] = {}
    for r in rows:
        out.setdefault(r[column], []).append(r)
    return out


ADD_TAG = insert_or_ignore(tag, "resource_id", "tag")
_FORGET_TAGS = Q(sa.delete(tag).where(tag.c.resource_id == P("resource_id")))


def forget_tags(tx: Tx, resource_id: str) -> None:
    """Drop the tags of a resource that goes."""
    tx.put(_FORGET_TAGS, resource_id=resource_id)
