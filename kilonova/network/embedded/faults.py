"""Refusals in Neutron's words: an HTTP status by class, Neutron's exception name as ``kind``.

source: neutron_lib.exceptions and neutron_lib.exceptions.l3; clients branch on the status and, rarely, on the type.
"""

from kilonova.common import errors as e


class Refused(e.BadRequest):
    """400 with Neutron's type name."""

    def __init__(self, kind: str, message: str, **facts: object) -> None:
        super().__init__(message, **facts)
        self.kind = kind


class Missing(e.NotFound):
    """404 with Neutron's type name."""

    def __init__(self, kind: str, message: str, **facts: object) -> None:
        super().__init__(message, **facts)
        self.kind = kind


class Clash(e.Conflict):
    """409 with Neutron's type name."""

    def __init__(self, kind: str, message: str, **facts: object) -> None:
        super().__init__(message, **facts)
        self.kind = kind


class Denied(e.Forbidden):
    """403 with Neutron's type name."""

    def __init__(self, kind: str, message: str, **facts: object) -> None:
        super().__init__(message, **facts)
        self.kind = kind


def invalid(message: str) -> Refused:
    """Return Neutron's InvalidInput; ``message`` names the field."""
    return Refused("InvalidInput", f"Invalid input for operation: {message}.")


_NOT_FOUND = {
    "network": ("NetworkNotFound", "Network {} could not be found."),
    "subnet": ("SubnetNotFound", "Subnet {} could not be found."),
    "port": ("PortNotFound", "Port {} could not be found."),
    "router": ("RouterNotFound", "Router {} could not be found"),
    "floatingip": ("FloatingIPNotFound", "Floating IP {} could not be found"),
    "security_group": ("SecurityGroupNotFound", "Security group {} does not exist"),
    "security_group_rule": ("SecurityGroupRuleNotFound", "Security group rule {} does not exist"),
    "agent": ("AgentNotFound", "Agent {} could not be found."),
}


def missing(resource: str, given: str) -> Missing:
    """Return Neutron's 404 for one resource; the same for absent and for foreign ones."""
    kind, text = _NOT_FOUND[resource]
    return Missing(kind, text.format(str(given)[:80]))


def over_quota(resources: list[str]) -> Clash:
    """Return Neutron's OverQuota (409)."""
    return Clash("OverQuota", f"Quota exceeded for resources: {resources}.")
