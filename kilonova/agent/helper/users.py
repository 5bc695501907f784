"""The two system users: ``kilonova`` for the cloud process, ``kilonova-qemu`` for guests."""

import grp
import pwd

from kilonova.agent.helper.run import run

CLOUD = "kilonova"
QEMU = "kilonova-qemu"


def missing_users() -> list[str]:
    """Return which of the two users do not exist."""
    missing = []
    for name in (CLOUD, QEMU):
        try:
            pwd.getpwnam(name)
        except KeyError:
            missing.append(name)
    return missing


def ensure_users() -> list[str]:
    """Make the missing users (system, no login, no home); return their names. Needs root. Raises CommandFailed."""
    made = missing_users()
    for name in made:
        add_user(name)
    groups = {QEMU: CLOUD}
    if _has_group("kvm"):
        run(["usermod", "--append", "--groups", "kvm", QEMU])
    for group, member in groups.items():
        if member not in grp.getgrnam(group).gr_mem:
            run(["usermod", "--append", "--groups", group, member])
    return made


def add_user(name: str) -> None:
    """Make a system user without login or home. Needs root. Raises CommandFailed."""
    shell = ["--shell", "/usr/sbin/nologin", "--home-dir", "/nonexistent", "--no-create-home"]
    group = ["--gid", name] if _has_group(name) else ["--user-group"]
    run(["useradd", "--system", *group, *shell, name])


def remove_users() -> None:
    """Remove both users and their groups, whichever are there. Needs root. Raises CommandFailed.

    The member goes before the group it is in: ``userdel`` keeps a group that still has members.
    """
    there = {CLOUD, QEMU} - set(missing_users())
    for name in (CLOUD, QEMU):
        if name in there:
            run(["userdel", name])
        if _has_group(name):
            run(["groupdel", name])


def _has_group(name: str) -> bool:
    try:
        grp.getgrnam(name)
    except KeyError:
        return False
    return True
