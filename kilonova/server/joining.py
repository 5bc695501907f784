"""A machine joins a deployment: it trades its token for credentials, and writes what its agent starts with."""

import http.client
import json
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kilonova.common.errors import Conflict, KilonovaError
from kilonova.server.state import write_text

STATE_DIR = "/var/lib/kilonova"


class NotJoined(KilonovaError):
    """The deployment said no, or nothing; the message is for the person who asked."""

    code = "not_joined"


@dataclass(frozen=True)
class Asked:
    """url: of the API. ca: PEM file that its certificate is checked against. config: the file to write."""

    url: str
    token: str
    config: Path
    ca: Path | None = None
    driver: str = "libvirt"
    state_dir: str = STATE_DIR


def join(asked: Asked) -> str:
    """Join, write configuration, credentials, authority (0600); return the host's name. Raises NotJoined, Conflict."""
    if asked.config.exists():
        raise Conflict(
            f"{asked.config} is there already: this machine has joined; start it without --join"
        )
    got, own_address = _ask(asked)
    host, folder = str(got["host"]), asked.config.absolute().parent
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_text(folder / f"{host}.creds", got["credentials"])
    bus = {"url": got["urls"], "credentials": str(folder / f"{host}.creds")}
    if got["ca"] is not None:
        write_text(folder / "bus-ca.pem", got["ca"])
        bus["ca"] = str(folder / "bus-ca.pem")
    agent = {"driver": asked.driver, "cell": got["cell"], "name": host}
    agent["console_listen"] = own_address
    if asked.ca is not None:
        agent["ca"] = str(asked.ca.absolute())
    write_text(asked.config, _toml(deployment={"state_dir": asked.state_dir}, bus=bus, agent=agent))
    return host


def _ask(asked: Asked) -> tuple[dict[str, Any], str]:
    """Return what the deployment gave, and by which of its addresses this machine reached it."""
    at = urlsplit(asked.url)
    local = at.hostname in ("127.0.0.1", "::1", "localhost")
    if at.scheme not in ("http", "https") or at.hostname is None:
        raise NotJoined(f"{asked.url} is not the URL of an API")
    if at.scheme == "http" and not local:
        raise NotJoined(
            "a token is not sent in the clear: https, and --ca FILE if its authority is your own"
        )
    connection: http.client.HTTPConnection
    if at.scheme == "https":
        context = ssl.create_default_context(cafile=None if asked.ca is None else str(asked.ca))
        connection = http.client.HTTPSConnection(at.hostname, at.port, timeout=30, context=context)
    else:
        connection = http.client.HTTPConnection(at.hostname, at.port, timeout=30)
    try:
        body = json.dumps({"token": asked.token})
        path = at.path.rstrip("/") + "/join/hosts"
        connection.connect()
        own_address = str(connection.sock.getsockname()[0])
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        value = json.loads(answer.read() or b"null")
    except (OSError, http.client.HTTPException, ValueError) as exc:
        raise NotJoined(f"{asked.url} does not answer: {exc}") from exc
    finally:
        connection.close()
    if answer.status != 200 or not isinstance(value, dict):
        words: Any = next(iter(value.values()), {}) if isinstance(value, dict) else {}
        said = words.get("message") if isinstance(words, dict) else None
        raise NotJoined(said or f"{asked.url} takes no hosts: HTTP {answer.status}")
    return value, own_address


def _toml(**tables: dict[str, Any]) -> str:
    """Return tables of texts and lists; JSON's are TOML's too."""
    out = []
    for name, values in tables.items():
        out += [f"[{name}]", *(f"{k} = {json.dumps(v)}" for k, v in values.items()), ""]
    return "\n".join(out)
