"""Refusals in Cinder's words. source: cinder.exception; clients and Nova branch on the status, people read the text."""

from http import HTTPStatus
from typing import ClassVar

from kilonova.common.errors import BadRequest, Conflict, NotFound, QuotaExceeded


class OverLimit(QuotaExceeded):
    """Cinder's API answers a full quota with 413; compute knows it as 403."""

    status: ClassVar[HTTPStatus] = HTTPStatus.REQUEST_ENTITY_TOO_LARGE


class UsedByServer(Conflict):
    """An attachment that a server has connected: only compute takes it away (OSSA-2023-003)."""


_NOUNS = {
    "volume": "Volume {} could not be found.",
    "snapshot": "Snapshot {} could not be found.",
    "attachment": "Volume attachment could not be found with filter: attachment_id = {}.",
    "type": "Volume type {} could not be found.",
    "backup": "Backup {} could not be found.",
    "transfer": "Transfer {} could not be found.",
    "service": "Service {} could not be found.",
    "message": "Message {} could not be found.",
    "group": "Group {} could not be found.",
}


def missing(noun: str, given: object) -> NotFound:
    """Return the 404 of one noun; the same for absent and for foreign ones."""
    return NotFound(_NOUNS[noun].format(str(given)[:255]))


def invalid_volume(reason: str) -> BadRequest:
    """Return InvalidVolume: the volume's state does not allow it."""
    return BadRequest(f"Invalid volume: {reason}")


def invalid_snapshot(reason: str) -> BadRequest:
    """Return InvalidSnapshot."""
    return BadRequest(f"Invalid snapshot: {reason}")


def invalid_input(reason: str) -> BadRequest:
    """Return InvalidInput; ``reason`` names the field."""
    return BadRequest(f"Invalid input received: {reason}")


def used_by(server_id: str) -> UsedByServer:
    """Return what whoever is not compute hears about a volume that a server has."""
    return UsedByServer(f"Detach volume from instance {server_id} using the Compute API")
