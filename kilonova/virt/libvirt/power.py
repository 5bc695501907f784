"""Power states and actions of one domain. What waits for the guest raises Again and holds no thread."""

import time
from dataclasses import dataclass
from typing import Any

import libvirt

from kilonova.objects.guest import PowerState
from kilonova.virt.driver import Aborted, Again, Progress
from kilonova.virt.libvirt.connection import telling

POLL_S = 0.3
PRESS_AGAIN_S = 5.0
STALE_S = 30.0
_STATES = {
    libvirt.VIR_DOMAIN_RUNNING: PowerState.RUNNING,
    libvirt.VIR_DOMAIN_BLOCKED: PowerState.RUNNING,
    libvirt.VIR_DOMAIN_PAUSED: PowerState.PAUSED,
    libvirt.VIR_DOMAIN_SHUTDOWN: PowerState.RUNNING,
    libvirt.VIR_DOMAIN_SHUTOFF: PowerState.SHUTDOWN,
    libvirt.VIR_DOMAIN_CRASHED: PowerState.CRASHED,
    libvirt.VIR_DOMAIN_PMSUSPENDED: PowerState.SUSPENDED,
}


def state_of(domain: Any, known: int | None = None) -> PowerState:
    """Return Nova's power state; off with a memory image on disk is SUSPENDED. known: libvirt's number."""
    with telling("The state of the guest cannot be read."):
        number = domain.state()[0] if known is None else known
        state = _STATES.get(number, PowerState.NOSTATE)
        if state == PowerState.SHUTDOWN and domain.hasManagedSaveImage():
            return PowerState.SUSPENDED
        return state


def create(domain: Any) -> None:
    """Start a guest, from its memory image if it has one; fine when it runs."""
    with telling("The guest could not be started.", elsewhere=True):
        try:
            domain.create()
        except libvirt.libvirtError:
            if not domain.isActive():
                raise


def destroy(domain: Any) -> None:
    """Turn a guest off at once; fine when it is off."""
    with telling("The guest could not be turned off."):
        try:
            domain.destroy()
        except libvirt.libvirtError:
            if domain.isActive():
                raise


def forget_memory(domain: Any) -> None:
    """Drop the memory image, so that the next start is a boot; fine when there is none."""
    with telling("The suspended state of the guest could not be removed."):
        if domain.hasManagedSaveImage():
            domain.managedSaveRemove()


def pause(domain: Any) -> None:
    """Freeze the guest's CPUs; fine when they are."""
    with telling("The guest could not be paused."):
        if domain.state()[0] != libvirt.VIR_DOMAIN_PAUSED:
            domain.suspend()


def unpause(domain: Any) -> None:
    """Let a paused guest go on; fine when it does."""
    with telling("The guest could not be unpaused."):
        if domain.state()[0] == libvirt.VIR_DOMAIN_PAUSED:
            domain.resume()


def suspend(domain: Any) -> None:
    """Write the guest's memory to disk and turn it off; fine when it is done already."""
    with telling("The guest could not be suspended."):
        if domain.isActive():
            domain.managedSave(0)


@dataclass
class _Wait:
    began: float
    pressed: float
    looked: float


class Waits:
    """Who is being shut down by ACPI, since when."""

    def __init__(self) -> None:
        self._waits: dict[str, _Wait] = {}

    def acpi_off(self, server_id: str, domain: Any, timeout_s: float, progress: Progress) -> None:
        """Return when the guest is off: by its power button, pressed again every 5 s, at once after ``timeout_s``.

        Raises Again while it waits. A paused guest cannot obey and is turned off.
        """
        now = time.monotonic()
        with telling("The state of the guest cannot be read."):
            state = domain.state()[0]
        if state in (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_CRASHED):
            self._waits.pop(server_id, None)
            return
        wait = self._waits.get(server_id)
        if wait is None or now - wait.looked > STALE_S:
            wait = self._waits[server_id] = _Wait(now, 0.0, now)
        wait.looked = now
        if timeout_s <= 0 or now - wait.began >= timeout_s or state == libvirt.VIR_DOMAIN_PAUSED:
            self._waits.pop(server_id, None)
            destroy(domain)
            return
        try:
            progress("waiting for the guest to shut down")
        except Aborted:
            self._waits.pop(server_id, None)
            raise
        if now - wait.pressed >= PRESS_AGAIN_S:
            wait.pressed = now
            self._press(domain)
        raise Again(min(POLL_S, max(0.01, wait.began + timeout_s - now)))

    @staticmethod
    def _press(domain: Any) -> None:
        with telling("The guest could not be asked to shut down."):
            try:
                domain.shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN)
            except libvirt.libvirtError:
                if domain.isActive():
                    raise
