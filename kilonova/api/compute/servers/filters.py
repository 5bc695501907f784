"""Query parameters of the server lists, read as Nova reads them."""

from typing import Any

from kilonova.cells.filters import Filters, Order
from kilonova.common import pattern
from kilonova.common.clock import parse_iso
from kilonova.common.errors import BadRequest, Forbidden
from kilonova.http.microversion import V
from kilonova.http.request import Request
from kilonova.operations.states import states_of_status

# parameter -> column, for every caller
_TENANT = {
    "name": "name",
    "status": "",
    "image": "image_id",
    "flavor": "",
    "changes-since": "",
    "changes-before": "",
    "reservation_id": "reservation_id",
    "ip": "",
    "ip6": "",
    "all_tenants": "",
    "tags": "",
    "tags-any": "",
    "not-tags": "",
    "not-tags-any": "",
    "locked": "",
    "availability_zone": "availability_zone",
    "config_drive": "config_drive",
    "key_name": "key_name",
    "created_at": "",
    "launched_at": "",
    "terminated_at": "",
    "power_state": "power_state",
    "task_state": "task_state",
    "vm_state": "vm_state",
    "progress": "progress",
    "user_id": "user_id",
}
_ADMIN = {
    "host": "host",
    "node": "node",
    "hostname": "hostname",
    "project_id": "project_id",
    "tenant_id": "project_id",
    "uuid": "uuid",
    "launch_index": "launch_index",
    "root_device_name": "root_device",
    "kernel_id": "",
    "ramdisk_id": "",
    "description": "description",
    "access_ip_v4": "access_ip_v4",
    "access_ip_v6": "access_ip_v6",
    "display_description": "description",
    "display_name": "name",
    "locked_by": "locked_by",
    "deleted": "",
    "changes_since": "",
}
_MATCH = ("name", "display_name")
_SORT = {
    "access_ip_v4": "access_ip_v4",
    "access_ip_v6": "access_ip_v6",
    "availability_zone": "availability_zone",
    "config_drive": "config_drive",
    "created_at": "created_at",
    "display_description": "description",
    "display_name": "name",
    "host": "host",
    "hostname": "hostname",
    "image_ref": "image_id",
    "instance_type_id": "flavor",
    "key_name": "key_name",
    "launch_index": "launch_index",
    "launched_at": "launched_at",
    "locked_by": "locked_by",
    "node": "node",
    "power_state": "power_state",
    "progress": "progress",
    "project_id": "project_id",
    "root_device_name": "root_device",
    "task_state": "task_state",
    "terminated_at": "terminated_at",
    "updated_at": "updated_at",
    "user_id": "user_id",
    "uuid": "uuid",
    "vm_state": "vm_state",
}
_INTEGERS = frozenset(("power_state", "progress", "launch_index"))
_TRUE, _FALSE = ("1", "t", "true", "on", "y", "yes"), ("0", "f", "false", "off", "n", "no")


def read_filters(req: Request, *, detail: bool) -> Filters | None:
    """Return the filters; None when nothing can match (an unknown status, as a tenant)."""
    q = req.query
    admin = req.may("os_compute_api:servers:allow_all_filters")
    out: dict[str, Any] = {"project_id": _project(req, detail)}
    out |= {"equals": {}, "matches": {}, "patterns": {}}
    for name in q.names():
        column = _TENANT.get(name) or (_ADMIN.get(name, "") if admin else "")
        if not column or (name == "project_id" and out["project_id"]):
            continue
        values = [v for v in q.all(name) if v != ""]
        if name in _MATCH:
            if values:
                _match(out, name, column, values[-1])
        elif values:
            out["equals"][column] = tuple(_typed(name, column, v) for v in values)
    if not _status(req, out):
        return None
    _times(req, out)
    _tags(req, out)
    if req.version >= V(2, 73) and (locked := q.get("locked")) is not None:
        out["locked"] = flag("locked", locked)
    if (address := q.get("ip") or q.get("ip6")) is not None:
        out["address"] = _plain(address)
    if (flavor := q.get("flavor")) is not None:
        out["matches"]["flavor"] = f'"flavorid":"{_plain(flavor)}"'
    deleted = q.get("deleted") if admin else None
    if deleted is not None:
        out["deleted"] = flag("deleted", deleted)
    elif out.get("changes_since") is not None:
        out["deleted"] = None
    return Filters(**out)


def flag(name: str, text: str) -> bool:
    """Read a boolean parameter; BadRequest that names it."""
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise BadRequest(f"{name} must be true or false, not {text[:40]!r}")


def _match(out: dict[str, Any], name: str, column: str, text: str) -> None:
    """Nova matches names by regular expression, in either case of letters; most are a part of the name."""
    plain = text.removeprefix(".*").removesuffix(".*")
    if pattern.is_plain(plain):
        out["matches"][column] = plain
        return
    try:
        pattern.matcher(text)
    except ValueError:
        raise BadRequest(f"{name} is not a regular expression: {text[:80]!r}") from None
    out["patterns"][column] = text


def _plain(text: str) -> str:
    """An address or a flavor's id: what Nova would take for anchors is dropped."""
    return text.removeprefix("^").removesuffix("$").removeprefix(".*").removesuffix(".*")


def _typed(name: str, column: str, value: str) -> Any:
    if column in _INTEGERS:
        if not value.lstrip("-").isdigit():
            raise BadRequest(f"{name} must be a whole number, not {value[:40]!r}")
        return int(value)
    if column == "config_drive":
        return "True" if flag(name, value) else ""
    return None if value.lower() == "null" else value


def _project(req: Request, detail: bool) -> str | None:
    text = req.query.get("all_tenants")
    wanted = text is not None and (text == "" or flag("all_tenants", text))
    if wanted:
        kind = "detail" if detail else "index"
        req.authorize(f"os_compute_api:servers:{kind}:get_all_tenants")
        return req.query.get("project_id") or req.query.get("tenant_id")
    if req.ctx.project_id is None:
        raise Forbidden("This request needs a token that is scoped to a project.")
    return req.ctx.project_id


def _status(req: Request, out: dict[str, Any]) -> bool:
    wanted = [s for s in req.query.all("status") if s]
    if not wanted:
        return True
    vm: set[str] = set()
    tasks: set[str] = set()
    plain = False
    for text in wanted:
        states, of_task = states_of_status(text)
        vm |= set(states)
        tasks |= set(of_task)
        plain = plain or (bool(states) and not of_task)
    if not vm:
        return False
    if "deleted" in vm:
        if not req.may("os_compute_api:servers:allow_all_filters"):
            raise Forbidden("Only administrators may list deleted instances")
        out["deleted"] = True
    out["equals"]["vm_state"] = tuple(sorted(vm))
    if tasks and not plain:
        out["equals"]["task_state"] = tuple(sorted(tasks))
    return True


def _times(req: Request, out: dict[str, Any]) -> None:
    for name, key in (("changes-since", "changes_since"), ("changes-before", "changes_before")):
        text = req.query.get(name)
        if text is None or (name == "changes-before" and not req.version >= V(2, 66)):
            continue
        try:
            out[key] = parse_iso(text.replace(" ", "+"))
        except ValueError as exc:
            raise BadRequest(
                f"Invalid {name} value: {text[:60]!r} is not an ISO 8601 time"
            ) from exc
    since, before = out.get("changes_since"), out.get("changes_before")
    if since is not None and before is not None and before < since:
        raise BadRequest("The value of changes-since must be less than or equal to changes-before.")


def _tags(req: Request, out: dict[str, Any]) -> None:
    if not req.version >= V(2, 26):
        return
    names = {
        "tags": "tags",
        "tags-any": "tags_any",
        "not-tags": "not_tags",
        "not-tags-any": "not_tags_any",
    }
    for name, key in names.items():
        if (text := req.query.get(name)) is not None:
            out[key] = tuple(t for t in text.split(",") if t)


def read_order(req: Request) -> Order:
    """Return the sort order; BadRequest for an unknown key or direction."""
    keys, dirs = req.query.all("sort_key"), req.query.all("sort_dir")
    if not keys:
        descending = not dirs or _descending(dirs[0])
        return Order((("created_at", descending),))
    out = []
    for i, key in enumerate(keys):
        column = _SORT.get(key)
        if column is None:
            raise BadRequest(f"Sort key supplied is not valid: {key[:40]!r}")
        out.append((column, _descending(dirs[i]) if i < len(dirs) else _descending("desc")))
    return Order(tuple(dict.fromkeys(out)))


def _descending(text: str) -> bool:
    if text.lower() not in ("asc", "desc"):
        raise BadRequest(f"Unknown sort direction {text[:40]!r}, must be asc or desc")
    return text.lower() == "desc"
