"""A small client of our own public API, for the other commands: standard library only, so that it starts at once."""

import http.client
import json
import os
import ssl
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from kilonova.cli.common import Failed
from kilonova.server import state

MICROVERSION = "2.96"
_IDENTITY = "/identity"


class Refused(Failed):
    """The cloud answered with an error. http_status: of the answer."""

    def __init__(self, http_status: int, message: str) -> None:
        super().__init__(message)
        self.http_status = http_status


class Client:
    """Calls as one user. Raises Refused for an answer of 400 or more, Failed when nothing answers."""

    def __init__(
        self, url: str, user: str, password: str, project: str, cacert: str | None
    ) -> None:
        self.url = url.rstrip("/")
        self._who = (user, password, project)
        self._cacert = cacert
        self._token: str | None = None
        self.project_id = ""

    def _connection(self) -> http.client.HTTPConnection:
        at = urlsplit(self.url)
        host, port = at.hostname or "127.0.0.1", at.port
        if at.scheme == "https":
            context = ssl.create_default_context(cafile=self._cacert)
            return http.client.HTTPSConnection(host, port or 443, timeout=60, context=context)
        return http.client.HTTPConnection(host, port or 80, timeout=60)

    def _send(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[Any, dict[str, str]]:
        all_headers = {"Accept": "application/json", **(headers or {})}
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            all_headers["Content-Type"] = "application/json"
        link = self._connection()
        try:
            link.request(method, urlsplit(self.url).path + path, data, all_headers)
            answer = link.getresponse()
            raw = answer.read()
        except (OSError, http.client.HTTPException) as exc:
            raise Failed(
                f"{self.url} does not answer: {exc}. Is it still starting? Try 'kilonova status'.",
                3,
            ) from exc
        finally:
            link.close()
        value = _json(raw)
        if answer.status >= 400:
            raise Refused(answer.status, _words(value) or f"{method} {path}: HTTP {answer.status}")
        return value, {k.lower(): v for k, v in answer.getheaders()}

    def login(self) -> None:
        """Get a token by password. Repeating it is fine."""
        user, password, project = self._who
        domain = {"id": "default"}
        body = {
            "auth": {
                "identity": {
                    "methods": ["password"],
                    "password": {"user": {"name": user, "domain": domain, "password": password}},
                },
                "scope": {"project": {"name": project, "domain": domain}},
            }
        }
        value, headers = self._send("POST", "/identity/v3/auth/tokens", body)
        self._token = headers["x-subject-token"]
        self.project_id = value["token"]["project"]["id"]

    def call(self, method: str, path: str, body: Any = None, **query: object) -> Any:
        """Call one path, for example ``/compute/v2.1/servers``; return the decoded answer or None."""
        if self._token is None:
            self.login()
        if query:
            path = f"{path}?{urlencode(query)}"
        headers = {
            "X-Auth-Token": self._token or "",
            "OpenStack-API-Version": f"compute {MICROVERSION}",
        }
        return self._send(method, path, body, headers)[0]

    def get(self, path: str, **query: object) -> Any:
        """Read one path."""
        return self.call("GET", path, **query)

    def ready(self) -> bool:
        """Tell whether the cloud takes work."""
        try:
            self._send("GET", "/readyz")
        except Failed:
            return False
        return True


def _json(raw: bytes) -> Any:
    try:
        return json.loads(raw) if raw else None
    except ValueError:
        return raw.decode("utf-8", "replace")


def _words(value: Any) -> str:
    """Return the message inside an error of any of the APIs."""
    if not isinstance(value, dict):
        return ""
    if isinstance(value.get("message"), str):
        return str(value["message"])
    for inner in value.values():
        if isinstance(inner, dict):
            text = inner.get("message") or inner.get("detail")
            if isinstance(text, str):
                return text
    return ""


def connect(directory: Path, cloud: str = "admin") -> Client:
    """Return a client of the cloud that runs on a state directory, as admin or as demo.

    Where none runs (a deployment of several processes, another machine): of the one that OS_AUTH_URL and the variables
    beside it name, as every OpenStack client has them. Raises Failed (3).
    """
    run = state.running(directory)
    if run is None:
        elsewhere = _named_by(os.environ)
        if elsewhere is not None:
            return elsewhere
        raise Failed(
            f"no cloud runs on {directory}. Start it with 'kilonova up'; or name one that runs elsewhere by "
            "OS_AUTH_URL, OS_USERNAME, OS_PASSWORD, OS_PROJECT_NAME (and OS_CACERT).",
            3,
        )
    passwords = state.read_json(directory / state.PASSWORDS)
    if passwords is None:
        raise Failed(
            f"{directory / state.PASSWORDS} is missing; the passwords of this cloud were in it."
        )
    project = "admin" if cloud == "admin" else "demo"
    return Client(run.url, cloud, passwords[cloud], project, run.cacert)


def _named_by(variables: Mapping[str, str]) -> Client | None:
    """Return a client of the cloud that the variables of OpenStack's clients name; None: they name none."""
    found = variables.get("OS_AUTH_URL", "").rstrip("/")
    if not found:
        return None
    missing = [n for n in ("OS_USERNAME", "OS_PASSWORD", "OS_PROJECT_NAME") if not variables.get(n)]
    if missing:
        raise Failed(f"OS_AUTH_URL is set, and {', '.join(missing)} is not.", 3)
    url = found.removesuffix("/v3").removesuffix(_IDENTITY)
    if url == found.removesuffix("/v3"):
        raise Failed(
            f"OS_AUTH_URL must end with {_IDENTITY}/v3, not {found}: our services are beside it.", 3
        )
    user, password, project = (
        variables[n] for n in ("OS_USERNAME", "OS_PASSWORD", "OS_PROJECT_NAME")
    )
    return Client(url, user, password, project, variables.get("OS_CACERT") or None)


def wait_for(what: str, ask: Callable[[], Any], timeout_s: float, pause_s: float = 0.2) -> Any:
    """Ask until the answer is true, return it; Failed when it is not within ``timeout_s``."""
    end = time.monotonic() + timeout_s
    while True:
        answer = ask()
        if answer:
            return answer
        if time.monotonic() > end:
            raise Failed(f"waited {timeout_s:.0f} s in vain for {what}")
        time.sleep(pause_s)
