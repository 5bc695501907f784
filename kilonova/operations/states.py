"""The states of a server, by Nova's names, and which of them each operation accepts.

source: compute API guide, "Server concepts", and the compute API reference, "Servers - run an action".
"""

from collections.abc import Mapping
from dataclasses import dataclass

ACTIVE = "active"
BUILDING = "building"
PAUSED = "paused"
SUSPENDED = "suspended"
STOPPED = "stopped"
RESCUED = "rescued"
RESIZED = "resized"
SOFT_DELETED = "soft-delete"
DELETED = "deleted"
ERROR = "error"
SHELVED = "shelved"
SHELVED_OFFLOADED = "shelved_offloaded"

VM_STATES = frozenset(
    (
        ACTIVE,
        BUILDING,
        PAUSED,
        SUSPENDED,
        STOPPED,
        RESCUED,
        RESIZED,
        SOFT_DELETED,
        DELETED,
        ERROR,
        SHELVED,
        SHELVED_OFFLOADED,
    )
)


@dataclass(frozen=True)
class Transition:
    """What one operation needs and shows: vm_states it starts from, task_state while it runs, vm_state at its end.

    busy: task_states in which it is accepted all the same, and waits for its turn (Saga.in_turn).
    """

    action: str  # instance action name, as GET /servers/{id}/os-instance-actions says it
    start: frozenset[str]
    task_state: str
    end: str | None
    verb: str  # how Nova names it in "Cannot 'verb' instance ... while it is in vm_state ..."
    busy: frozenset[str] = frozenset()


QUEUED = frozenset(("attaching_interface", "detaching_interface"))
"""Task_states behind which others queue: Nova shows none then, and takes the next request at once."""


def _t(action: str, start: set[str], task_state: str, end: str | None, verb: str) -> Transition:
    return Transition(action, frozenset(start), task_state, end, verb)


def _q(action: str, start: set[str], task_state: str, end: str | None, verb: str) -> Transition:
    """An operation that is accepted behind those that attach and detach."""
    return Transition(action, frozenset(start), task_state, end, verb, QUEUED)


_IMAGED = {ACTIVE, STOPPED, PAUSED, SUSPENDED}  # what an image is made of
# of these Nova changes disks; task_state "": it is left alone
_WITH_DISKS = {
    *(ACTIVE, PAUSED, SUSPENDED, STOPPED, RESIZED, SOFT_DELETED),
    *(SHELVED, SHELVED_OFFLOADED),
}

TRANSITIONS: Mapping[str, Transition] = {
    "server_start": _q("start", {STOPPED}, "powering-on", ACTIVE, "start"),
    "server_stop": _q("stop", {ACTIVE, ERROR}, "powering-off", STOPPED, "stop"),
    "server_reboot_soft": _q("reboot", {ACTIVE}, "rebooting", ACTIVE, "reboot"),
    "server_reboot_hard": _q(
        "reboot", {ACTIVE, STOPPED, PAUSED, SUSPENDED, ERROR}, "rebooting_hard", ACTIVE, "reboot"
    ),
    "server_pause": _q("pause", {ACTIVE}, "pausing", PAUSED, "pause"),
    "server_unpause": _q("unpause", {PAUSED}, "unpausing", ACTIVE, "unpause"),
    "server_suspend": _q("suspend", {ACTIVE}, "suspending", SUSPENDED, "suspend"),
    "server_resume": _q("resume", {SUSPENDED}, "resuming", ACTIVE, "resume"),
    "server_resize": _t("resize", {ACTIVE, STOPPED}, "resize_prep", RESIZED, "resize"),
    "server_migrate": _t("migrate", {ACTIVE, STOPPED}, "resize_prep", RESIZED, "migrate"),
    "confirm_resize": _t("confirmResize", {RESIZED}, "resize_confirming", ACTIVE, "confirm_resize"),
    "revert_resize": _t("revertResize", {RESIZED}, "resize_reverting", ACTIVE, "revert_resize"),
    "confirm_move": _t("confirmResize", {RESIZED}, "resize_confirming", ACTIVE, "confirm_resize"),
    "revert_move": _t("revertResize", {RESIZED}, "resize_reverting", ACTIVE, "revert_resize"),
    "server_resize_cross_cell": _t("resize", {ACTIVE, STOPPED}, "resize_prep", RESIZED, "resize"),
    "server_migrate_cross_cell": _t(
        "migrate", {ACTIVE, STOPPED}, "resize_prep", RESIZED, "migrate"
    ),
    "confirm_resize_cross_cell": _t(
        "confirmResize", {RESIZED}, "resize_confirming", ACTIVE, "confirm_resize"
    ),
    "revert_resize_cross_cell": _t(
        "revertResize", {RESIZED}, "resize_reverting", ACTIVE, "revert_resize"
    ),
    "server_unshelve_cross_cell": _t(
        "unshelve", {SHELVED_OFFLOADED}, "unshelving", ACTIVE, "unshelve"
    ),
    "server_soft_delete": _t("delete", _IMAGED, "soft-deleting", SOFT_DELETED, "soft_delete"),
    "server_restore": _t("restore", {SOFT_DELETED}, "restoring", ACTIVE, "restore"),
    "server_password": _t("changePassword", {ACTIVE}, "updating_password", None, "set_password"),
    "server_clear_password": _t(
        "clearPassword", _IMAGED | {RESCUED, ERROR}, "clearing_password", None, "clear_password"
    ),
    "server_crash_dump": _t(
        "trigger_crash_dump",
        {ACTIVE, PAUSED, RESCUED, RESIZED, ERROR},
        "triggering_crash_dump",
        None,
        "trigger_crash_dump",
    ),
    "server_shelve": _t("shelve", _IMAGED, "shelving", SHELVED, "shelve"),
    "server_shelve_offload": _t(
        "shelveOffload", {SHELVED}, "shelving_offloading", SHELVED_OFFLOADED, "shelve_offload"
    ),
    "server_unshelve": _t(
        "unshelve", {SHELVED, SHELVED_OFFLOADED}, "unshelving", ACTIVE, "unshelve"
    ),
    "server_rebuild": _t("rebuild", {ACTIVE, STOPPED, ERROR}, "rebuilding", ACTIVE, "rebuild"),
    "server_rescue": _t("rescue", {ACTIVE, STOPPED, ERROR}, "rescuing", RESCUED, "rescue"),
    "server_unrescue": _t("unrescue", {RESCUED}, "unrescuing", ACTIVE, "unrescue"),
    "server_snapshot": _t("createImage", _IMAGED, "image_snapshot", None, "create_image"),
    "server_snapshot_volumes": _t("createImage", _IMAGED, "image_snapshot", None, "create_image"),
    "server_backup": _t("createBackup", _IMAGED, "image_backup", None, "backup"),
    "interface_attach": _q(
        "attach_interface",
        {ACTIVE, PAUSED, STOPPED},
        "attaching_interface",
        None,
        "attach_interface",
    ),
    "interface_detach": _q(
        "detach_interface",
        {ACTIVE, PAUSED, STOPPED},
        "detaching_interface",
        None,
        "detach_interface",
    ),
    "volume_attach": _q("attach_volume", _WITH_DISKS, "", None, "attach_volume"),
    "volume_detach": _q("detach_volume", _WITH_DISKS, "", None, "detach_volume"),
    "volume_swap": _q("swap_volume", {ACTIVE, PAUSED, RESIZED}, "", None, "swap_volume"),
    "server_evacuate": _t("evacuate", {ACTIVE, STOPPED, ERROR}, "rebuilding", ACTIVE, "evacuate"),
    "live_migrate": _t("live-migration", {ACTIVE, PAUSED}, "migrating", None, "os-migrateLive"),
    "server_evacuate_cross_cell": _t(
        "evacuate", {ACTIVE, STOPPED, ERROR}, "rebuilding", ACTIVE, "evacuate"
    ),
    "live_migrate_cross_cell": _t(
        "live-migration", {ACTIVE, PAUSED}, "migrating", None, "os-migrateLive"
    ),
    "server_delete": _t("delete", set(VM_STATES), "deleting", DELETED, "delete"),
    "server_create": _t("create", {BUILDING}, "spawning", ACTIVE, "create"),
}

STATUS: Mapping[str, str] = {
    ACTIVE: "ACTIVE",
    BUILDING: "BUILD",
    PAUSED: "PAUSED",
    SUSPENDED: "SUSPENDED",
    STOPPED: "SHUTOFF",
    RESCUED: "RESCUE",
    RESIZED: "VERIFY_RESIZE",
    SOFT_DELETED: "SOFT_DELETED",
    DELETED: "DELETED",
    ERROR: "ERROR",
    SHELVED: "SHELVED",
    SHELVED_OFFLOADED: "SHELVED_OFFLOADED",
}

_BY_TASK: Mapping[tuple[str, str], str] = {
    (ACTIVE, "rebooting"): "REBOOT",
    (ACTIVE, "reboot_pending"): "REBOOT",
    (ACTIVE, "reboot_started"): "REBOOT",
    (ACTIVE, "rebooting_hard"): "HARD_REBOOT",
    (STOPPED, "rebooting_hard"): "HARD_REBOOT",
    (PAUSED, "rebooting_hard"): "HARD_REBOOT",
    (SUSPENDED, "rebooting_hard"): "HARD_REBOOT",
    (ERROR, "rebooting_hard"): "HARD_REBOOT",
    (ACTIVE, "rebuilding"): "REBUILD",
    (STOPPED, "rebuilding"): "REBUILD",
    (ERROR, "rebuilding"): "REBUILD",
    (ACTIVE, "updating_password"): "PASSWORD",
    (ACTIVE, "migrating"): "MIGRATING",
    (PAUSED, "migrating"): "MIGRATING",
    (ACTIVE, "resize_prep"): "RESIZE",
    (ACTIVE, "resize_migrating"): "RESIZE",
    (ACTIVE, "resize_migrated"): "RESIZE",
    (ACTIVE, "resize_finish"): "RESIZE",
    (STOPPED, "resize_prep"): "RESIZE",
    (STOPPED, "resize_migrating"): "RESIZE",
    (STOPPED, "resize_migrated"): "RESIZE",
    (STOPPED, "resize_finish"): "RESIZE",
    (RESIZED, "resize_reverting"): "REVERT_RESIZE",
}


def status(vm_state: str, task_state: str | None) -> str:
    """Return the API's status of a server."""
    if task_state is not None:
        special = _BY_TASK.get((vm_state, task_state))
        if special is not None:
            return special
    return STATUS.get(vm_state, "UNKNOWN")


def states_of_status(wanted: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return (vm_states, task_states) that a status filter may match; empty vm_states: no such status."""
    upper = wanted.upper()
    vm = tuple(v for v, s in STATUS.items() if s == upper)
    pairs = [k for k, s in _BY_TASK.items() if s == upper]
    if pairs:
        return tuple(sorted({v for v, _ in pairs})), tuple(sorted({t for _, t in pairs}))
    return vm, ()
