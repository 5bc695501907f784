"""Errors in the form that each API's clients parse."""

from collections.abc import Callable
from typing import Any

from kilonova.common.errors import KilonovaError

Render = Callable[[int, KilonovaError, str], dict[str, Any]]

_COMPUTE = {
    400: "badRequest",
    401: "unauthorized",
    403: "forbidden",
    404: "itemNotFound",
    405: "badMethod",
    406: "notAcceptable",
    409: "conflictingRequest",
    413: "overLimit",
    415: "badMediaType",
    422: "unprocessableEntity",
    429: "overLimit",
    500: "computeFault",
    501: "notImplemented",
    503: "serviceUnavailable",
}
_TITLES = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    406: "Not Acceptable",
    409: "Conflict",
    410: "Gone",
    411: "Length Required",
    413: "Request Entity Too Large",
    415: "Unsupported Media Type",
    422: "Unprocessable Entity",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
}


def compute(status: int, error: KilonovaError, request_id: str) -> dict[str, Any]:
    """Nova's form: ``{"itemNotFound": {"code": 404, "message": ...}}``."""
    return {_COMPUTE.get(status, "computeFault"): {"code": status, "message": error.message}}


def identity(status: int, error: KilonovaError, request_id: str) -> dict[str, Any]:
    """Keystone's form."""
    return {
        "error": {"code": status, "title": _TITLES.get(status, "Error"), "message": error.message}
    }


def network(status: int, error: KilonovaError, request_id: str) -> dict[str, Any]:
    """Neutron's form; the type is the error's class name unless it has an attribute ``kind``."""
    return {
        "NeutronError": {
            "type": getattr(error, "kind", type(error).__name__),
            "message": error.message,
            "detail": "",
        }
    }


def image(status: int, error: KilonovaError, request_id: str) -> dict[str, Any]:
    """A form that Glance's clients show: code, title, message."""
    return {
        "code": f"{status} {_TITLES.get(status, 'Error')}",
        "title": _TITLES.get(status, "Error"),
        "message": error.message,
    }


def placement(status: int, error: KilonovaError, request_id: str) -> dict[str, Any]:
    """Placement's form: a list of errors; the code is the error's ``placement_code`` where it has one."""
    conflict = error.code == "generation_mismatch"
    default = "placement.concurrent_update" if conflict else "placement.undefined_code"
    return {
        "errors": [
            {
                "status": status,
                "title": _TITLES.get(status, "Error"),
                "detail": error.message,
                "code": getattr(error, "placement_code", default),
                "request_id": request_id,
            }
        ]
    }
