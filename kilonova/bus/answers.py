"""Hosts' answers on the bus: the subject names the host, because that is what a host's credentials are good for."""

from kilonova.common.log import get_logger
from kilonova.objects.base import IncompatibleVersion, decode
from kilonova.objects.order import Answer

log = get_logger(__name__)


def subject(host: str, home: str) -> str:
    """Return where a host publishes an answer for operations of a home database."""
    return f"answer.{host}.{home}"


def of_all_hosts(home: str) -> str:
    """Return what to subscribe to for the answers to a home database's operations."""
    return f"answer.*.{home}"


def read(subject: str, body: bytes) -> Answer | None:
    """Return an answer; None when it cannot be read, or names another host than its subject. Both are logged."""
    try:
        answer = decode(body, Answer)
    except IncompatibleVersion as exc:
        log.warning("an answer that cannot be read", extra={"subject": subject, "why": exc.message})
        return None
    host = subject.split(".", 2)[1]
    if answer.host != host:
        log.warning("an answer names another host than its subject", extra={"host": host})
        return None
    return answer
