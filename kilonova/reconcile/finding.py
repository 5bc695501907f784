"""What a reconciler says about a difference between what should be and what is."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from kilonova.common.errors import KilonovaError
from kilonova.common.log import get_logger
from kilonova.operations.services import Services
from kilonova.reconcile.picture import Picture

log = get_logger(__name__)
YOUNG_S = 300.0
"""Nothing younger is repaired: a list taken a moment ago may be out of date."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One difference.

    kind: its name. subject: id of what it is about. where: database, cell or host. message: in words, for operators.
    repair: what the reconciler does about it by itself; None: it is listed, somebody has to decide.
    about: servers and operations; while one of them is worked on, the difference means nothing.
    since: when what differs was last touched (seconds since the epoch; 0: unknown, long ago). extra: for the repair.
    """

    kind: str
    subject: str
    where: str
    message: str
    repair: str | None = None
    about: tuple[str, ...] = ()
    since: float = 0.0
    extra: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, str, str]:
        return (self.kind, self.subject, self.where)

    def shown(self) -> dict[str, Any]:
        """Return it in JSON values."""
        return {k: v for k, v in asdict(self).items() if k not in ("about", "since", "extra")}


def settled(found: list[Finding], picture: Picture) -> list[Finding]:
    """Drop what is about something that was worked on before or after the reading."""
    busy = picture.busy if found else set()
    return [f for f in found if not busy.intersection(f.about)]


class Reconciler(Protocol):
    """One file of this folder: a module with these names."""

    EVERY_S: float

    @staticmethod
    def look(picture: Picture) -> list[Finding]:
        """Return every difference, touching nothing."""
        ...

    @staticmethod
    def run(services: Services) -> list[Finding]:
        """Look, and repair what is safe to repair; return what was found."""
        ...


def repaired(
    services: Services,
    look: Callable[[Picture], list[Finding]],
    mend: Callable[[Services, Finding], bool],
    *,
    young_s: float = YOUNG_S,
) -> list[Finding]:
    """Look once; mend what has a repair and is old enough. ``mend`` checks again before it acts.

    One finding that cannot be mended does not keep the others from it.
    """
    picture = Picture(services)
    found = settled(look(picture), picture)
    for f in found:
        if f.repair is None or picture.at - f.since < young_s:
            continue
        try:
            if mend(services, f):
                log.warning("repaired: %s", f.message, extra={"finding": f.kind, "id": f.subject})
        except KilonovaError as exc:
            log.warning("not repaired: %s", exc.message, extra={"finding": f.kind, "id": f.subject})
    return found
