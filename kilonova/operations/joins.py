"""Hosts join a deployment: an admin gets a token for one name, its host trades it for credentials on the bus, once."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kilonova.bus.credentials import Authority, BadCredentials, of_host
from kilonova.common.errors import BadRequest, Forbidden
from kilonova.db import host_joins
from kilonova.operations.services import Services

LIFE_S = 3600.0


@dataclass(frozen=True)
class Joins:
    """authority: signs credentials. urls: of the bus, as hosts reach it. ca: PEM text of whom they are to trust.

    tell(name): has the bus refuse the credentials of a name from now on.
    """

    services: Services
    authority: Authority
    urls: tuple[str, ...]
    ca: str | None
    tell: Callable[[str], None]

    def add(self, host: str, cell: str, life_s: float = LIFE_S) -> dict[str, Any]:
        """Return a new token for a host's name. Raises BadRequest for a name or a cell that cannot be."""
        try:
            of_host(host)
        except BadCredentials as exc:
            raise BadRequest(exc.message) from exc
        if cell not in self.services.real_cells():
            self.services.look_at_cells()
        if cell not in self.services.real_cells():
            raise BadRequest(f"There is no cell {cell:.40}.")
        token, now = secrets.token_urlsafe(32), self.services.now()
        join = host_joins.Join(host, cell, now + life_s)

        def put(tx: Any) -> None:
            host_joins.forget_expired(tx, now)
            host_joins.add(tx, token, join)

        self.services.world.write(put)
        return {"host": host, "cell": cell, "token": token, "expires_at": join.expires_at}

    def redeem(self, token: str) -> dict[str, Any]:
        """Return what a host needs, and use the token up. Forbidden, alike for a wrong, a used and an old one."""
        join = self.services.world.write(lambda tx: host_joins.take(tx, token))
        now = self.services.now()
        if join is None or join.expires_at < now:
            raise Forbidden("The token is wrong, was used, or has expired.")
        made = self.authority.credentials(join.host, of_host(join.host), now)
        return {
            "host": join.host,
            "cell": join.cell,
            "credentials": made.reveal(),
            "urls": list(self.urls),
            "ca": self.ca,
        }

    def revoke(self, host: str) -> None:
        """Take a host's credentials back, and its tokens: the bus refuses it at once. Safe to repeat.

        Credentials signed later are good. Raises BadRequest for what is no host's name, Unavailable, Conflict.
        """
        try:
            of_host(host)
        except BadCredentials as exc:
            raise BadRequest(exc.message) from exc
        self.services.world.write(lambda tx: host_joins.forget(tx, host))
        self.tell(host)
