"""Ask a host's agent a question that changes nothing: API -> agent, at most 10 s, no journal."""

from kilonova.bus.interface import NobodyListens
from kilonova.common.errors import Unavailable
from kilonova.objects import query as q
from kilonova.objects.base import Versioned, decode, encode
from kilonova.operations.services import Services

TIMEOUT_S = 10.0


class HostSilent(Unavailable):
    """The host is down or did not answer in time. The message names no host."""

    code = "host_silent"


def ask(
    services: Services, host: str, question: Versioned, timeout_s: float = TIMEOUT_S
) -> Versioned:
    """Return the answer's body, a QueryFailed too. Raises HostSilent."""
    if not services.hosts.is_up(host):
        raise HostSilent("The host of this instance is unavailable at this time.", host=host)
    body = encode(q.Query(host=host, body=question))  # type: ignore[arg-type]
    try:
        reply = services.bus.request(f"agent.{host}.query", body, timeout_s)
    except NobodyListens as exc:
        raise HostSilent(
            "The host of this instance does not answer at this time.", host=host
        ) from exc
    return decode(reply, q.QueryReply).body
