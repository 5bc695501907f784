"""Remote consoles: a token for one console of one run of a guest, and what it opens.

No operation and no journal: a token is a row that expires. Where the websockets end is the console proxy's business
(kilonova/console/proxy.py), which asks ``admit`` here.
"""

import secrets
import socket
from collections.abc import Callable
from urllib.parse import quote

from kilonova.common.errors import BadRequest, Conflict, Forbidden, NotFound, Unavailable
from kilonova.db import console_tokens, servers
from kilonova.db.engine import Row
from kilonova.objects import query as q
from kilonova.operations.ask import ask
from kilonova.operations.services import Services

TOKEN_LIFE_S = 600.0
KINDS = {"novnc": "vnc", "serial": "serial"}
Open = Callable[[str, str, str, str], socket.socket]  # (host, server, kind, boot)


class Consoles:
    """The consoles of this cloud. address: returns where the proxy listens, starting it if need be."""

    def __init__(self, services: Services, address: Callable[[], str], open_: Open) -> None:
        self._services = services
        self._address = address
        self._open = open_

    def make(self, row: Row, type_: str) -> str:
        """Return a URL that opens a server's console once. type_: novnc or serial.

        BadRequest: no such console; Conflict: the guest does not run; Unavailable: host or proxy cannot be reached.
        """
        kind = KINDS.get(type_)
        if kind is None:
            raise BadRequest(f"Unavailable console type {type_}.")
        host = row["host"]
        if host is None:
            raise Conflict(f"Instance {row['uuid']} is not ready")
        services = self._services
        answer = ask(services, host, q.ConsoleQuery(server_id=row["uuid"], kind=kind))
        if isinstance(answer, q.QueryFailed):
            if answer.code == "guest_missing":
                raise NotFound(f"Instance {row['uuid']} has no guest on its host.")
            if answer.code == "driver":
                raise Conflict(answer.message)
            raise Unavailable(answer.message)
        if not isinstance(answer, q.ConsoleReady):
            raise Unavailable("The host gave no answer about the console.")
        base, boot = self._address(), answer.boot
        token, now = secrets.token_urlsafe(32), services.now()
        cell = services.cell(services.hosts.cell_of(host))
        cell.write(
            lambda tx: console_tokens.add(
                tx,
                token,
                server=row["uuid"],
                host=host,
                kind=kind,
                boot=boot,
                expires_at=now + TOKEN_LIFE_S,
                now=now,
            )
        )
        if kind == "serial":
            return f"{base.replace('http', 'ws', 1)}/?token={token}"
        return f"{base}/vnc_lite.html?path={quote(f'?token={token}', safe='')}"

    def admit(self, token: str) -> socket.socket:
        """Open what a token stands for, and make it useless. Forbidden, alike for a wrong and a spent one.

        The guest must be the same run on the same host: a token dies with a stop, a move, a delete.
        """
        services = self._services
        for name in services.real_cells():
            cell = services.cell(name)
            if not cell.read(lambda tx: console_tokens.is_known(tx, token, services.now())):
                continue
            found = cell.write(lambda tx: console_tokens.take(tx, token, services.now()))
            if found is None:
                continue
            server = found["server"]
            row = cell.read(lambda tx, s=server: servers.find(tx, s))  # type: ignore[misc]
            if row is None or row["deleted"] or row["host"] != found["host"]:
                break
            return self._open(found["host"], server, found["kind"], found["boot"])
        raise Forbidden("The token has expired or is invalid.")
