"""What each server operation may leave, and nothing else."""

import collections
from collections.abc import Mapping
from typing import TYPE_CHECKING

from kilonova.operations.power import POWER_OF

if TYPE_CHECKING:
    from tests.operations.server_world import Shape

DISKS = 2
TOOLS = {  # kind -> (action, event)
    "server_password": ("changePassword", "set_admin_password"),
    "server_clear_password": ("clearPassword", "clearPassword"),
    "server_crash_dump": ("trigger_crash_dump", "trigger_crash_dump"),
}
STATES = {  # kind -> (vm_state before, vm_state after, action)
    "server_start": ("stopped", "active", "start"),
    "server_stop": ("active", "stopped", "stop"),
    "server_reboot_soft": ("active", "active", "reboot"),
    "server_reboot_hard": ("active", "active", "reboot"),
    "server_pause": ("active", "paused", "pause"),
    "server_unpause": ("paused", "active", "unpause"),
    "server_suspend": ("active", "suspended", "suspend"),
    "server_resume": ("suspended", "active", "resume"),
    "server_soft_delete": ("active", "soft-delete", "delete"),
    "server_restore": ("soft-delete", "active", "restore"),
}

SHELVES = {  # kind -> (action, vm_state before, vm_state after, event, images more)
    "server_shelve": ("shelve", "active", "shelved_offloaded", "shelve", 1),
    "server_shelve_offload": (
        "shelveOffload",
        "shelved",
        "shelved_offloaded",
        "shelve_offload",
        0,
    ),
    "server_unshelve": ("unshelve", "shelved_offloaded", "active", "unshelve", -1),
}
REMADE = {  # kind -> (vm_state before, vm_state after, action, disks more)
    "server_rebuild": ("active", "active", "rebuild", 0),
    "server_rescue": ("active", "rescued", "rescue", 1),
    "server_unrescue": ("rescued", "active", "unrescue", -1),
}
MOVES = {  # kind -> (action, event)
    "server_migrate": ("migrate", "compute_resize_instance"),
    "confirm_move": ("confirmResize", "compute_confirm_resize"),
    "revert_move": ("revertResize", "compute_revert_resize"),
}
IMAGES = {  # kind -> (action, event)
    "server_snapshot": ("createImage", "snapshot"),
    "server_backup": ("createBackup", "backup"),
    "server_snapshot_volumes": ("createImage", "snapshot"),
}


def created(shape: "Shape") -> dict[str, int]:
    """What a server that was built adds."""
    n, mine = shape.nics, 1 if shape.user_port else 0
    return {
        "server:cell1:active:None": 1,
        "mapping:cell1": 1,
        "quota:vcpus": 1,
        "quota:memory_mib": 512,
        "consumer": 1,
        "held:VCPU": 1,
        "held:MEMORY_MB": 512,
        "held:DISK_GB": 1 - shape.made,
        "port:made:bound": n,
        "port:user:unbound": -mine,
        "address": n - mine,
        "group membership": n - mine,
        "secret:cell1": 1 if shape.user_data else 0,
        "tag:cell1": shape.tags,
        "action:create:ok": 1,
        "event:compute__do_build_and_run_instance:Success": 1,
        "operation:server_create:done": 1,
        "guest": 1,
        "disk": DISKS - shape.made,
        "tap": n,
        "nic": n,
        **with_volumes(shape),
    }


def with_volumes(shape: "Shape", sign: int = 1) -> dict[str, int]:
    """What a server's volumes add: those that the create made, and the user's own."""
    n = shape.made + shape.own
    return {
        "attachment:attached": n * sign,
        "volume:user:available": -shape.own * sign,
        "volume:user:in-use": shape.own * sign,
        "volume:made:in-use": shape.made * sign,
        "volume file": shape.made * sign,
        "volume writer": n * sign,
    }


def not_created(shape: "Shape", state: str = "failed") -> dict[str, int]:
    """What an unwound create leaves: ERROR in cell0, one fault, a failed action."""
    return {
        "server:cell0:error:None": 1,
        "mapping:cell0": 1,
        "quota:vcpus": 1,
        "quota:memory_mib": 512,
        "tag:cell0": shape.tags,
        "action:create:Error": 1,
        "event:conductor_schedule_and_build_instances:Error": 1,
        "fault:cell0": 1 if state == "failed" else 0,
        f"operation:server_create:{state}": 1,
    }


def deleted(shape: "Shape", vm_state: str = "active") -> dict[str, int]:
    """What the delete of a built server changes."""
    n, mine = shape.nics, 1 if shape.user_port else 0
    return {
        f"server:cell1:{vm_state}:None": -1,
        "deleted:cell1": 1,
        "mapping:cell1": -1,
        "quota:vcpus": 0 if vm_state == "soft-delete" else -1,
        "quota:memory_mib": 0 if vm_state == "soft-delete" else -512,
        "consumer": -1,
        "held:VCPU": -1,
        "held:MEMORY_MB": -512,
        "held:DISK_GB": shape.made - 1,
        "port:made:bound": -n,
        "port:user:unbound": mine,
        "address": mine - n,
        "group membership": mine - n,
        "secret:cell1": -1 if shape.user_data else 0,
        "tag:cell1": -shape.tags,
        "action:delete:ok": 1,
        "event:compute_terminate_instance:Success": 1,
        "operation:server_delete:done": 1,
        "guest": -1,
        "disk": shape.made - DISKS,
        "tap": -n,
        "nic": -n,
        **with_volumes(shape, -1),
    }


_COUNTS = {"server_soft_delete": -1, "server_restore": 1}  # in the quota


def powered(kind: str, state: str, power: int | None) -> dict[str, int]:
    """What a power operation changes. Unwound it leaves a fault, a failed action, and the state that the guest is in.

    power: the guest's power state: what an unwound operation did before it failed shows in the record.
    """
    old, new, action = STATES[kind]
    event = f"event:compute_{action}_instance"
    out: collections.Counter[str] = collections.Counter()
    if state == "done" or power == POWER_OF.get(new):
        out[f"server:cell1:{old}:None"] -= 1
        out[f"server:cell1:{new}:None"] += 1
    if state == "done" and kind in _COUNTS:
        out.update({"quota:vcpus": _COUNTS[kind], "quota:memory_mib": 512 * _COUNTS[kind]})
    result, outcome = ("ok", "Success") if state == "done" else ("Error", "Error")
    out.update({f"action:{action}:{result}": 1, f"{event}:{outcome}": 1})
    out.update({f"operation:{kind}:{state}": 1})
    if state == "failed":
        out["fault:cell1"] += 1
    return dict(out)


def imaged(kind: str, state: str) -> dict[str, int]:
    """What an operation that makes an image leaves: with ``server_backup`` the one before goes."""
    action, event = IMAGES[kind]
    done = state == "done"
    result, outcome = ("ok", "Success") if done else ("Error", "Error")
    return {
        "image:active": 1 if done and kind != "server_backup" else 0,
        f"action:{action}:{result}": 1,
        f"event:compute_{event}_instance:{outcome}": 1,
        f"operation:{kind}:{state}": 1,
        "fault:cell1": 1 if state == "failed" else 0,
    }


_MORE = {"held:VCPU": 2, "held:MEMORY_MB": 1024, "held:DISK_GB": 2, "consumer": 1}
_LESS = {"held:VCPU": -1, "held:MEMORY_MB": -512, "held:DISK_GB": -1, "consumer": -1}


def _resize(kind: str, action: str, state: str) -> dict[str, int]:
    ok, event = ("ok", "Success") if state == "done" else ("Error", "Error")
    name = {
        "server_resize": "compute_resize_instance",
        "confirm_resize": "compute_confirm_resize",
        "revert_resize": "compute_revert_resize",
    }
    out = {
        f"action:{action}:{ok}": 1,
        f"event:{name[kind]}:{event}": 1,
        f"operation:{kind}:{state}": 1,
    }
    return out if state == "done" else {**out, "fault:cell1": 1}


RESIZES: dict[str, dict[str, dict[str, int]]] = {
    "server_resize": {
        "done": {
            **_resize("server_resize", "resize", "done"),
            **_MORE,
            "server:cell1:active:None": -1,
            "server:cell1:resized:None": 1,
            "quota:vcpus": 1,
            "quota:memory_mib": 512,
            "kept disk": DISKS,
            "migration:finished": 1,
        },
        "failed": {**_resize("server_resize", "resize", "failed"), "migration:error": 1},
    },
    "confirm_resize": {
        "done": {
            **_resize("confirm_resize", "confirmResize", "done"),
            **_LESS,
            "server:cell1:active:None": 1,
            "server:cell1:resized:None": -1,
            "kept disk": -DISKS,
            "migration:finished": -1,
            "migration:confirmed": 1,
        },
    },
    "revert_resize": {
        "done": {
            **_resize("revert_resize", "revertResize", "done"),
            **{k: -v for k, v in _MORE.items()},
            "server:cell1:active:None": 1,
            "server:cell1:resized:None": -1,
            "quota:vcpus": -1,
            "quota:memory_mib": -512,
            "kept disk": -DISKS,
            "migration:finished": -1,
            "migration:reverted": 1,
        },
        "failed": _resize("revert_resize", "revertResize", "failed"),
    },
}
"""What a resize, its confirm and its revert change, by how they ended."""


def moved(kind: str, state: str, shape: "Shape") -> dict[str, int]:
    """What a move to another host changes, its confirm and its revert, by how they ended.

    The guest that was left stands at the source, off, with its disks and its claim, until the confirm or the revert.
    """
    action, event = MOVES[kind]
    away = kind == "server_migrate"
    ok, result = ("ok", "Success") if state == "done" else ("Error", "Error")
    out = {f"action:{action}:{ok}": 1, f"operation:{kind}:{state}": 1}
    if state != "done":
        out |= {f"event:{event}:{result}": 1, "fault:cell1": 1 if state == "failed" else 0}
        return {**out, "migration:error": 1 if away else 0}
    way = 1 if away else -1
    out |= {
        "server:cell1:active:None": -way,
        "server:cell1:resized:None": way,
        "consumer": way,
        "held:VCPU": way,
        "held:MEMORY_MB": 512 * way,
        "held:DISK_GB": (1 - shape.made) * way,
        "guest": way,
        "disk": (DISKS - shape.made) * way,
        "nic": shape.nics * way,
        "migration:finished": way,
    }
    if away:
        names = ("prep_resize", "resize_instance", "finish_resize")
        return {**out, **{f"event:compute_{n}:Success": 1 for n in names}}
    ended = "confirmed" if kind == "confirm_move" else "reverted"
    return {**out, f"event:{event}:Success": 1, f"migration:{ended}": 1}


def interface(kind: str, state: str, shape: "Shape") -> dict[str, int]:
    """What attaching or detaching a NIC changes; unwound it leaves a fault and a failed action."""
    verb, mine = kind.removeprefix("interface_"), shape.attach_user_port
    way = 1 if verb == "attach" else -1
    event = f"event:compute_{verb}_interface"
    if state == "failed":
        out = {f"action:{verb}_interface:Error": 1, f"{event}:Error": 1, "fault:cell1": 1}
        return {**out, f"operation:{kind}:failed": 1}
    return {
        f"action:{verb}_interface:ok": 1,
        f"{event}:Success": 1,
        f"operation:{kind}:done": 1,
        "port:made:bound": way,
        "port:user:unbound": -way if mine else 0,
        "address": 0 if mine else way,
        "group membership": 0 if mine else way,
        "tap": way,
        "nic": way,
    }


def remade(kind: str, state: str) -> dict[str, int]:
    """What a rescue, or its end, changes."""
    old, new, action, disks = REMADE[kind]
    done = state == "done"
    result, outcome = ("ok", "Success") if done else ("Error", "Error")
    out: collections.Counter[str] = collections.Counter()
    if done:
        out[f"server:cell1:{old}:None"] -= 1
        out[f"server:cell1:{new}:None"] += 1
        out["disk"] += disks
    out[f"action:{action}:{result}"] += 1
    out[f"event:compute_{action}_instance:{outcome}"] += 1
    out[f"operation:{kind}:{state}"] += 1
    out["fault:cell1"] += 1 if state == "failed" else 0
    return dict(out)


def attached(kind: str, state: str) -> dict[str, int]:
    """What an attach changes, or a detach."""
    action = "attach_volume" if kind == "volume_attach" else "detach_volume"
    done = state == "done"
    sign = 0 if not done else 1 if kind == "volume_attach" else -1
    result, outcome = ("ok", "Success") if done else ("Error", "Error")
    return {
        "attachment:attached": sign,
        "volume:user:available": -sign,
        "volume:user:in-use": sign,
        "volume writer": sign,
        f"action:{action}:{result}": 1,
        f"event:compute_{action}:{outcome}": 1,
        f"operation:{kind}:{state}": 1,
        "fault:cell1": 1 if state == "failed" else 0,
    }


def swapped(state: str) -> dict[str, int]:
    """What a swap changes, and the migration that it is of: nothing but its history."""
    done = state == "done"
    result, outcome = ("ok", "Success") if done else ("Error", "Error")
    return {
        f"action:swap_volume:{result}": 1,
        f"event:compute_swap_volume:{outcome}": 1,
        f"operation:volume_swap:{state}": 1,
        "fault:cell1": 1 if state == "failed" else 0,
    }


def told(kind: str, state: str) -> dict[str, int]:
    """What an operation on the system in a guest leaves: nothing but its history."""
    action, event = TOOLS[kind]
    result, outcome = ("ok", "Success") if state == "done" else ("Error", "Error")
    return {
        f"action:{action}:{result}": 1,
        f"event:compute_{event}_instance:{outcome}": 1,
        f"operation:{kind}:{state}": 1,
        "fault:cell1": 1 if state == "failed" else 0,
    }


def shelved(kind: str, state: str, shape: "Shape") -> dict[str, int]:
    """What a shelve that frees the host changes, or the end of it."""
    action, old, new, event, images = SHELVES[kind]
    done, n = state == "done", shape.nics
    result, outcome = ("ok", "Success") if done else ("Error", "Error")
    way = 1 if kind == "server_unshelve" else -1
    moved = {
        f"server:cell1:{old}:None": -1,
        f"server:cell1:{new}:None": 1,
        "consumer": way,
        "held:VCPU": way,
        "held:MEMORY_MB": 512 * way,
        "held:DISK_GB": way,
        "guest": way,
        "disk": DISKS * way,
        "tap": n * way,
        "nic": n * way,
        "port:made:bound": n * way,
        "port:made:unbound": -n * way,
        "image:active": images,
    }
    return {
        **(moved if done else {}),
        f"action:{action}:{result}": 1,
        f"event:compute_{event}_instance:{outcome}": 1,
        f"operation:{kind}:{state}": 1,
        "fault:cell1": 1 if state == "failed" else 0,
    }


def plus(before: Mapping[str, int], *deltas: Mapping[str, int]) -> dict[str, int]:
    """Return a ledger with changes; what is nought is absent."""
    total = collections.Counter(before)
    for delta in deltas:
        for k, v in delta.items():
            total[k] += v
    return {k: v for k, v in total.items() if v}


def expected(
    before: Mapping[str, int], kind: str, state: str, shape: "Shape", power: int | None = None
) -> dict[str, int]:
    """Return what the ledger must be after one operation."""
    if kind == "server_create":
        return plus(before, created(shape) if state == "done" else not_created(shape, state))
    if kind == "server_delete":
        return plus(before, deleted(shape))
    if kind in TOOLS:
        return plus(before, told(kind, state))
    if kind in SHELVES:
        return plus(before, shelved(kind, state, shape))
    if kind in REMADE:
        return plus(before, remade(kind, state))
    if kind in ("volume_attach", "volume_detach"):
        return plus(before, attached(kind, state))
    if kind == "volume_swap":
        return plus(before, swapped(state))
    if kind in IMAGES:
        return plus(before, imaged(kind, state))
    if kind in RESIZES:
        return plus(before, RESIZES[kind][state])
    if kind in MOVES:
        return plus(before, moved(kind, state, shape))
    if kind.startswith("interface_"):
        return plus(before, interface(kind, state, shape))
    return plus(before, powered(kind, state, power))
