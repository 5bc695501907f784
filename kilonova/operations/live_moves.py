"""Where a guest that moves live is: asked of both hosts, and what follows from their answers."""

from kilonova.objects.base import encode
from kilonova.objects.live_orders import LiveSteering, LiveWhere, LiveWish
from kilonova.objects.query import ConfigDrive, ConfigDriveQuery, LiveMove, LiveMoveQuery
from kilonova.operations.ask import HostSilent, ask
from kilonova.operations.services import Services
from kilonova.saga.definition import StepFailed

LOOK_S = 5.0


def look(
    services: Services, host: str, server_id: str, timeout_s: float = LOOK_S
) -> LiveMove | None:
    """Return what a host says of a guest; None when it says nothing."""
    try:
        found = ask(services, host, LiveMoveQuery(server_id=server_id), timeout_s)
    except HostSilent:
        return None
    return found if isinstance(found, LiveMove) else None


def config_drive(services: Services, host: str, server_id: str) -> str | None:
    """Return the config drive's bytes as its host packs them. Raises HostSilent; StepFailed: it cannot be read."""
    found = ask(services, host, ConfigDriveQuery(server_id=server_id), LOOK_S)
    if not isinstance(found, ConfigDrive):
        raise StepFailed("The config drive of the server cannot be read.")
    return found.packed


def steer(services: Services, host: str, server_id: str, wish: LiveWish) -> None:
    """Tell the source what somebody wants; a message that is lost can be sent again."""
    body = encode(LiveSteering(host=host, server_id=server_id, wish=wish))
    services.bus.publish(f"agent.{host}.state", body)


def arrived(
    source: LiveMove | None,
    target: LiveMove | None,
    *,
    source_lost: bool = False,
    target_lost: bool = False,
) -> bool | None:
    """Decide whether a guest has moved: True, False (it is at the source, or gone with it), None: nobody can tell yet.

    source_lost: it is known to be down. target_lost: it was declared dead. A guest that still sends its memory, or is
    being received, may yet arrive.
    """
    there = LiveWhere.ABSENT if target is None else target.where
    here = LiveWhere.UNKNOWN if source is None else source.where
    if there == LiveWhere.HERE or here == LiveWhere.LEFT:
        return True
    if here == LiveWhere.HERE:
        return False
    if here == LiveWhere.LEAVING or there == LiveWhere.COMING:
        return None
    if source is None and not source_lost:
        return None
    if target is None and not target_lost:
        return None
    return False
