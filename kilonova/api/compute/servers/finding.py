"""Find the server of the path and ask policy about it: for reading, and for changing."""

from kilonova.api.compute.servers import reading
from kilonova.cells.filters import Rendered
from kilonova.common.errors import Conflict
from kilonova.http.request import Request
from kilonova.operations.accept import Found, find_server


def _target(owner: str, user: str) -> dict[str, object]:
    return {"project_id": owner, "user_id": user}


def seen(req: Request, rule: str) -> Rendered:
    """Return a server to read. NotFound alike for missing and foreign ones; Forbidden when ``rule`` says no."""
    row = reading.find(req, req.params["server_id"])
    req.authorize(rule, _target(row["project_id"], row["user_id"]))
    return row


def found(req: Request, rule: str) -> Found:
    """Return a server to change. Raises as ``seen``."""
    server = find_server(req.cloud, req.ctx, req.params["server_id"])
    mapping = server.mapping
    req.authorize(rule, _target(mapping["project_id"], mapping["user_id"]))
    return server


def placed(row: Rendered) -> str:
    """Return the host of a server. Conflict, in Nova's words, when it has none yet."""
    host: str | None = row["host"]
    if host is None:
        raise Conflict(f"Instance {row['uuid']} is not ready")
    return host
