"""A request as a handler sees it, and what a handler gives back."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO
from urllib.parse import parse_qsl, quote

from kilonova.common.context import Context
from kilonova.common.errors import BadRequest, Forbidden
from kilonova.http.microversion import Microversion
from kilonova.http.policy import Policy


class Query:
    """Query parameters in order, each name with all its values."""

    __slots__ = ("pairs",)

    def __init__(self, text: str) -> None:
        try:
            self.pairs = parse_qsl(
                text, keep_blank_values=True, max_num_fields=500, errors="strict"
            )
        except (ValueError, UnicodeDecodeError) as exc:
            raise BadRequest(
                "The query string is not valid UTF-8 or has too many parameters."
            ) from exc

    def get(self, name: str, default: str | None = None) -> str | None:
        """Return the last value of ``name``."""
        found = default
        for k, v in self.pairs:
            if k == name:
                found = v
        return found

    def all(self, name: str) -> list[str]:
        """Return every value of ``name``."""
        return [v for k, v in self.pairs if k == name]

    def names(self) -> list[str]:
        """Return each name once, in order."""
        return list(dict.fromkeys(k for k, _ in self.pairs))

    def as_lists(self) -> dict[str, list[str]]:
        """Return name -> values, the form that query schemas check."""
        out: dict[str, list[str]] = {}
        for k, v in self.pairs:
            out.setdefault(k, []).append(v)
        return out

    def __contains__(self, name: str) -> bool:
        return any(k == name for k, _ in self.pairs)

    def __bool__(self) -> bool:
        return bool(self.pairs)


SPARE = "kilonova.spare"
"""In the WSGI environment: gives a stream that lasts a thread of its own."""


@dataclass(slots=True)
class Request:
    """One request after authentication, negotiation, policy and schema.

    cloud: the process's services (kilonova.operations.services.Services). body: the decoded JSON, None when none came.
    stream/length: the raw body for routes declared with ``stream=True``.
    base: public URL of this service's mount, without a trailing slash ("http://127.0.0.1:8774/compute").
    """

    method: str
    path: str
    params: dict[str, str]
    query: Query
    headers: dict[str, str]
    ctx: Context
    version: Microversion
    body: Any
    stream: BinaryIO | None
    length: int | None
    base: str
    root: str
    cloud: Any
    policy: Policy
    peer: str = ""

    def authorize(self, rule: str, target: dict[str, object] | None = None) -> None:
        """Raise Forbidden unless the caller may do ``rule``; without a target, to its own project."""
        self.policy.require(self.ctx, rule, target if target is not None else self.own())

    def may(self, rule: str, target: dict[str, object] | None = None) -> bool:
        """Tell whether the caller may do ``rule``."""
        return self.policy.allows(self.ctx, rule, target if target is not None else self.own())

    def own(self) -> dict[str, object]:
        """Return the caller itself as a policy target."""
        return {
            "project_id": self.ctx.project_id,
            "user_id": self.ctx.user_id,
            "domain_id": self.ctx.domain_id,
        }

    def project(self) -> str:
        """Return the caller's project; Forbidden for tokens without one."""
        if self.ctx.project_id is None:
            raise Forbidden("This request needs a token that is scoped to a project.")
        return self.ctx.project_id

    def url(self, *parts: str) -> str:
        """Return an absolute public URL below this service's mount; parts are quoted."""
        return "/".join([self.base, *(quote(p, safe="") for p in parts)])


@dataclass(slots=True)
class Response:
    """An answer. body: anything msgspec encodes, bytes as they are, an iterator of bytes, or None for no body.

    lasting: the stream goes on for minutes and mostly waits; it does not take one of the server's threads from others.
    told_once: why a retry under the same Idempotency-Key does not get this answer again (it holds a secret).
    """

    body: Any = None
    status: int | None = None  # None: the route's success status
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str = "application/json"
    stream: Iterator[bytes] | Iterable[bytes] | None = None
    told_once: str | None = None
    lasting: bool = False
