"""What the API answers about itself, and to the services beside it."""

from kilonova.http.answer import LINKS, NUMBER, OBJECT, TEXT, TEXTS, Field, Json, many, one

_VERSION = {
    "id": Field(TEXT),
    "status": Field(TEXT),
    "version": Field(TEXT),
    "min_version": Field(TEXT),
    "updated": Field(TEXT),
    "links": Field(LINKS),
}
_MEDIA: Json = {"type": "array", "items": OBJECT}
VERSIONS = many("versions", _VERSION)
VERSION = one("version", {**_VERSION, "media-types": Field(_MEDIA)})

_EXTENSION = {
    **{n: Field(TEXT) for n in ("alias", "name", "description", "namespace", "updated")},
    "links": Field(LINKS),
}
EXTENSIONS = many("extensions", _EXTENSION)
EXTENSION = one("extension", _EXTENSION)

_EVENT = {
    "name": Field(TEXT),
    "server_uuid": Field(TEXT),
    "status": Field(TEXT),
    "tag": Field(TEXT, always=False),
    "code": Field(NUMBER),
}
EVENTS = many("events", _EVENT)
_COUNTS = ("num_hosts", "num_hosts_done", "num_hosts_running", "num_hosts_not_run")
_REPORT = {
    **{n: Field(TEXT) for n in ("period_beginning", "period_ending", "overall_status")},
    **{n: Field(NUMBER) for n in (*_COUNTS, "total_instances", "total_errors")},
    "hosts_not_run": Field(TEXTS),
    "log": Field(OBJECT),
}
AUDIT_LOGS = one("instance_usage_audit_logs", _REPORT)
AUDIT_LOG = one("instance_usage_audit_log", _REPORT)
