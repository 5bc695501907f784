"""The two system users are made, removed and made again, also where an earlier release left a group behind.

Before, ``userdel`` kept the group of a user with another member, and the next ``up`` failed: "group exists".
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHILD = """
import grp
import subprocess
from kilonova.agent.helper import users

users.remove_users()
users.remove_users()
subprocess.run(["groupadd", "--system", users.QEMU], check=True)
assert set(users.ensure_users()) == {users.CLOUD, users.QEMU}
assert users.CLOUD in grp.getgrnam(users.QEMU).gr_mem
assert users.ensure_users() == []
users.remove_users()
left = {g.gr_name for g in grp.getgrall()} & {users.CLOUD, users.QEMU}
assert users.missing_users() == [users.CLOUD, users.QEMU] and not left, left
print("again and again")
"""


@pytest.mark.real
@pytest.mark.skipif(os.geteuid() != 0, reason="makes users, in a copy of /etc: needs root")
def test_users_are_made_removed_and_made_again(tmp_path: Path) -> None:
    etc = tmp_path / "etc"
    etc.mkdir()
    for name in ("passwd", "group", "shadow", "gshadow", "login.defs", "nsswitch.conf", "subuid"):
        if Path("/etc", name).exists():
            lines = Path("/etc", name).read_text().splitlines(keepends=True)
            (etc / name).write_text("".join(x for x in lines if not x.startswith("kilonova")))
    with (etc / "login.defs").open("a") as f:  # numbers that no running cloud of this machine has
        f.write("SYS_UID_MIN 400\nSYS_UID_MAX 450\nSYS_GID_MIN 400\nSYS_GID_MAX 450\n")
    for name in ("default", "pam.d", "security"):
        if Path("/etc", name).is_dir():
            shutil.copytree(Path("/etc", name), etc / name, symlinks=True)
    shutil.copytree("/etc/alternatives", etc / "alternatives", symlinks=True)
    private = 'mount --bind "$1" /etc && exec "$2" -c "$3"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", private, "sh", str(etc), sys.executable, CHILD],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout.strip() == "again and again", done.stderr
