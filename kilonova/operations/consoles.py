"""Remote consoles: a token for one console of one run of a guest, and what it opens.

No operation and no journal: a token is a row that expires. Where the websockets end is the console proxy's business
(kilonova/console/proxy.py): in one process it asks ``admit`` here, else over the bus, which ``serve`` answers.
"""

import secrets
import socket
from collections.abc import Callable
from urllib.parse import quote

from kilonova.bus.interface import Subscription
from kilonova.cells.asking import CellDown
from kilonova.common.errors import (
    BadRequest,
    Conflict,
    Forbidden,
    KilonovaError,
    NotFound,
    Unavailable,
)
from kilonova.db import console_tokens, servers
from kilonova.db.engine import Row
from kilonova.objects import query as q
from kilonova.objects.base import decode, encode
from kilonova.objects.console import ConsoleAdmit, ConsoleAdmitted
from kilonova.operations.ask import ask
from kilonova.operations.services import Services

TOKEN_LIFE_S = 600.0
ADMIT = "console.admit"
NO_TOKEN = "The token has expired or is invalid."  # noqa: S105 - words for whom it is refused
KINDS = {"novnc": "vnc", "serial": "serial"}
Open = Callable[[str, str, str, str], socket.socket]  # (host, server, kind, boot)


class Consoles:
    """The consoles of this cloud. address: returns where the proxy is, starting it if need be.

    open_: how this very process reaches guests; None: a proxy elsewhere does.
    """

    def __init__(
        self, services: Services, address: Callable[[], str], open_: Open | None = None
    ) -> None:
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
        if self._open is None:
            raise Unavailable("Consoles are opened by the console proxy.")
        found = self._find(token)
        self._take(token, found)
        return self._open(found["host"], found["server"], found["kind"], found["boot"])

    def serve(self) -> Subscription:
        """Answer console proxies in other processes; several that answer share the questions."""
        return self._services.bus.subscribe(ADMIT, self._answer, queue="consoles")

    def _answer(self, subject: str, body: bytes) -> bytes:
        answer: q.ConsoleWay | q.QueryFailed
        try:
            answer = self._way(decode(body, ConsoleAdmit).token)
        except KilonovaError as exc:
            answer = q.QueryFailed(code=exc.code, message=exc.message)
        return encode(ConsoleAdmitted(body=answer))

    def _way(self, token: str) -> q.ConsoleWay:
        """Return the way to what a token stands for, and make it useless; as ``admit``.

        A host that does not answer now spends no token; one that says no does.
        """
        found = self._find(token)
        question = q.ConsoleOpenQuery(
            server_id=found["server"], kind=found["kind"], boot=found["boot"]
        )
        answer = ask(self._services, found["host"], question)
        if isinstance(answer, q.ConsoleWay):
            self._take(token, found)
            return answer
        if isinstance(answer, q.QueryFailed) and answer.code in ("driver", "guest_missing"):
            self._take(token, found)
            raise Conflict(answer.message)
        raise Unavailable("The host gave no answer about the console.")

    def _find(self, token: str) -> Row:
        """Return a token's row. Forbidden; Unavailable when it may be in a cell that does not answer."""
        services, now = self._services, self._services.now()
        silent: CellDown | None = None
        for name in services.real_cells():
            try:
                found = services.ask_cell(name, lambda tx: console_tokens.find(tx, token, now))
            except CellDown as exc:
                silent = exc
                continue
            if found is not None:
                return found
        raise silent or Forbidden(NO_TOKEN)

    def _take(self, token: str, found: Row) -> None:
        """Forget a token. Forbidden when another one was faster, or the server is gone, or elsewhere."""
        services, server = self._services, found["server"]
        cell = services.cell(services.hosts.cell_of(found["host"]))
        taken = cell.write(lambda tx: console_tokens.take(tx, token, services.now()))
        row = cell.read(lambda tx: servers.find(tx, server))
        if taken is None or row is None or row["deleted"] or row["host"] != found["host"]:
            raise Forbidden(NO_TOKEN)
