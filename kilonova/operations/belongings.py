"""What goes with a guest besides its disks: the password that it posted, and its UEFI variables.

A brief step asks the host from which the guest goes, and keeps the answer in its output (the password is encrypted for
its owner's key); the order that makes the guest elsewhere brings it there.
"""

from typing import Any

import msgspec

from kilonova.objects.guest import Belongings, GuestBuild
from kilonova.objects.query import PasswordQuery, PostedPassword
from kilonova.operations.ask import HostSilent, ask
from kilonova.operations.services import Services
from kilonova.saga.definition import NotYet, StepFailed

LOOK_S = 5.0


def of_guest(services: Services, host: str, server_id: str) -> Belongings | None:
    """Return what a guest has on its host. Raises HostSilent; StepFailed: it cannot be read."""
    found = ask(services, host, PasswordQuery(server_id=server_id, variables=True), LOOK_S)
    if not isinstance(found, PostedPassword):
        raise StepFailed("What the server has on its host besides disks cannot be read.")
    if not found.text and found.variables is None:
        return None
    return Belongings(password=found.text, variables=found.variables)


def left_on(services: Services, host: str, server_id: str) -> Any:
    """Return it as JSON, for a step's output; None of a host that is down. Raises NotYet: the host is silent."""
    try:
        left = of_guest(services, host, server_id)
    except HostSilent as exc:
        if services.hosts.is_up(host):
            raise NotYet("The host does not answer.", after_s=2.0) from exc
        left = None
    return None if left is None else msgspec.to_builtins(left)


def read(left: Any) -> Belongings | None:
    """Read what ``left_on`` gave."""
    return None if left is None else msgspec.convert(left, Belongings)


def bring(build: GuestBuild, left: Any) -> GuestBuild:
    """Return a guest with what ``left_on`` gave."""
    return build.replace(belongings=read(left))
