"""What a service is to the application that it is mounted in: routes, policy, versions and the form of its errors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from kilonova.http import errors as forms
from kilonova.http.microversion import Microversion
from kilonova.http.policy import Policy
from kilonova.http.request import Request
from kilonova.http.routing import Route

ID_HEADER = "x-openstack-request-id"

Once = Callable[[Request, Route], Any]
"""Does a request that carries an Idempotency-Key; returns what the handler would."""


@dataclass(frozen=True)
class Microversions:
    """How a service negotiates: the type in ``OpenStack-API-Version: <type> 2.1`` and an older header, if any."""

    kind: str
    low: Microversion
    high: Microversion
    default: Microversion
    legacy_header: str | None = None


@dataclass(frozen=True)
class Service:
    """One API: its mount ("/compute"), routes, default policy, error form and microversions (None: it has none).

    once: does requests that carry an Idempotency-Key, on routes that say how. exact: a path with a slash at its end, an
    empty id that is, is not found (but for the versions' roots).
    """

    name: str
    mount: str
    routes: Sequence[Route]
    policy: Policy
    render: forms.Render
    microversions: Microversions | None = None
    once: Once | None = None
    exact: bool = False
    id_headers: tuple[str, ...] = (ID_HEADER,)
    extra_headers: dict[str, str] = field(default_factory=dict)
