"""Take credentials back while nats-server runs: it is told the account anew, and drops the connections made with them.

Who holds the account's seed may do so, from wherever the bus is reached; every server of a cluster hears it. What was
taken back before stays so: the server is asked first. source: NATS documentation, *JWTs*, "$SYS.REQ.CLAIMS.UPDATE".
"""

import base64
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from kilonova.bus.credentials import Authority, account_token
from kilonova.bus.nats import Address, NatsBus
from kilonova.common.errors import Conflict, Unavailable

ANSWER_S = 5.0


def revoke(address: Address, authority: Authority, name: str) -> None:
    """Have the credentials of a name that were signed until now refused, at once. Safe to repeat.

    Raises Unavailable: the bus does not answer; Conflict: it is not one that can be told, or says no.
    """
    now = time.time()
    with tempfile.TemporaryDirectory(prefix="kilonova-bus-") as folder:  # 0700
        own = Path(folder) / "system.creds"
        own.write_text(authority.of_the_system(now).reveal())
        bus = NatsBus(replace(address, name="revoke", credentials=own), workers=1)
        try:
            if not bus.connected.wait(ANSWER_S):
                raise Unavailable(
                    "The bus does not answer, or its nats.conf is of an older release: "
                    "'kilonova bus revoke' where that is writes it anew."
                )
            _tell(bus, authority, name, int(now))
        finally:
            bus.close()


def _tell(bus: NatsBus, authority: Authority, name: str, at: int) -> None:
    account = authority.account.public
    before = _claims(bus.request(f"$SYS.REQ.ACCOUNT.{account}.CLAIMS.LOOKUP", b"", ANSWER_S))
    mine = account_token(replace(authority, revoked={**authority.revoked, name: at}), at)
    claims = _claims(mine.encode())["nats"]
    merged = {**before.get("nats", {}).get("revocations", {}), **claims["revocations"]}
    newer = max(
        at, int(before.get("iat", 0)) + 1
    )  # the server keeps what is newer, in whole seconds
    token = authority.operator.token("kilonova", account, {**claims, "revocations": merged}, newer)
    answer: dict[str, Any] = json.loads(
        bus.request("$SYS.REQ.CLAIMS.UPDATE", token.encode(), ANSWER_S)
    )
    if answer.get("error") or answer.get("data", {}).get("code") != 200:
        raise Conflict("The bus did not take the change.", answer=str(answer)[:500])


def _claims(token: bytes) -> dict[str, Any]:
    """Return what a token says; {} for none. Who signed it is not looked at: what is made of it is signed anew."""
    parts = token.decode().split(".")
    if len(parts) != 3:
        return {}
    padded = parts[1] + "=" * (-len(parts[1]) % 4)
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(padded))
    return found
