"""The switches of simulated hosts: every failure that an operation must live through.

Names (``world.faults.set``, or a build's ``faults``, which come from the server's metadata ``kilonova:fault``):
    build_fail            every build of the server fails
    build_fail_once       its first build fails; another try, here or elsewhere, works
    build_elsewhere       builds fail on the host that is tried first and work on any other
    build_fail_everywhere fails on each host, and each says that another may do better
    refuse                the host says that it cannot make the server, before anything is made
    build_hang            never ends until it is aborted
    power_fail, power_fail_once, power_hang        the same for power actions
    delete_fail, delete_fail_once, delete_hang     the same for the delete
    attach_nic_fail …, detach_nic_fail … (_once, _hang)   the same for NICs of a guest that is there
    attach_disk_fail …, detach_disk_fail …, extend_disk_fail …, copy_disk_fail …   the same for disks of such a guest
    swap_disk_fail …      the same where its volume goes to another host
    detach_disk_busy      the guest does not let go of a disk: the detach is tried again and again
    set_password_fail …, inject_nmi_fail …    the same for what is done to the system in a guest
    remake_fail …, restore_fail …, forget_fail …    the same for rebuild and rescue, their undo and their end
    remake_fail_late      the guest is off and its disks exchanged, then it fails
    snapshot_fail, snapshot_fail_once, snapshot_hang   the same for the copy of a disk
    hold_disk_fail …, resume_disk_fail …   the same for a disk over NBD that grows
    snapshot_no_room      the host's disk is full in the middle of it
    resize_fail, confirm_fail, revert_fail (…_once, …_hang)   the same for the three parts of a resize
    live_check_destination_fail, live_check_source_fail, live_prepare_fail, live_migrate_fail, live_leave_fail,
    live_arrive_fail, live_rollback_fail, live_rollback_destination_fail   the same for each part of a live migration
                          (…_once, …_hang); one that hangs while it migrates ends when it is aborted or forced
    hypervisor_down       builds, power actions, deletes and looks fail: the hypervisor does not answer
    lost_guest            the build works, then the guest is gone without a word
    guest_crash           the build works, then the guest crashes and says so
A failed build leaves its disks: whoever does not undo it is seen in the ledger.

Faults of a host's volumes; ``server`` is the volume's id there:
    volume_make_fail, volume_remove_fail, volume_extend_fail, snapshot_fail, snapshot_remove_fail, volume_upload_fail
                          each also with _once; one that makes something leaves a part file
    volume_reimage_fail …, volume_restore_fail …   the same for a volume that is written anew, and its undo
    volume_reimage_fail_late   the old data are aside, then it fails
    volume_hang           every order about the volume's data hangs until it is aborted
    export_fail           the volume is not exported
"""

import threading
from collections.abc import Iterable


class Faults:
    """Which failures are switched on. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rules: dict[tuple[str, str | None, str | None], int] = {}
        self._spent: set[tuple[str, str]] = set()
        self._first: dict[str, str] = {}
        self.hits: dict[str, int] = {}

    def set(
        self,
        fault: str,
        *,
        host: str | None = None,
        server: str | None = None,
        times: int = 1 << 30,
    ) -> None:
        """Switch a fault on, for one host or server or all; it happens ``times`` times (0: switch it off)."""
        with self._lock:
            self._rules[fault, host, server] = times

    @property
    def any(self) -> bool:
        """Tell whether any programmatic fault is switched on."""
        return bool(self._rules)

    def clear(self) -> None:
        """Switch every programmatic fault off; ``hits`` stay."""
        with self._lock:
            self._rules.clear()

    def strikes(self, fault: str, host: str, server: str, asked: Iterable[str] = ()) -> bool:
        """Tell whether a fault happens now, and count it. ``asked``: names that the server's metadata asks for."""
        if not self._rules and not asked:
            return False
        with self._lock:
            if fault in asked or self._use(fault, host, server):
                once = fault.endswith("_once")
                if once and fault in asked and (fault, server) in self._spent:
                    return False
                if fault == "build_elsewhere" and self._first.setdefault(server, host) != host:
                    return False
                self._spent.add((fault, server))
                self.hits[fault] = self.hits.get(fault, 0) + 1
                return True
            return False

    def _use(self, fault: str, host: str, server: str) -> bool:
        for key in (
            (fault, None, None),
            (fault, host, None),
            (fault, None, server),
            (fault, host, server),
        ):
            left = self._rules.get(key, 0)
            if left > 0:
                self._rules[key] = left - 1 if not fault.endswith("_once") else 0
                return True
        return False
