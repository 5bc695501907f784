"""Which boot of a host this is: another one after the machine, or only our runtime on it, went down.

The kernel's boot id is not enough: where everything of ours was ended (every QEMU, libvirtd, dnsmasq) guests must be
started again as after a reboot. So a token rests in the runtime directory; it is made anew when nothing of ours lives.
"""

import os
from collections.abc import Callable
from pathlib import Path

from kilonova.common.ids import new_hex

KERNEL = Path("/proc/sys/kernel/random/boot_id")


def boot_id(token: Path, alive: Callable[[], bool]) -> str:
    """Return the id of this boot; the same until the machine reboots, the token goes, or nothing is alive.

    token: a file in the runtime directory. alive: tells whether any process of our runtime (libvirtd, a QEMU) runs;
    ask it before they are started.
    """
    kernel = KERNEL.read_text().strip() if KERNEL.exists() else "unknown"
    try:
        known = token.read_text()
    except FileNotFoundError:
        known = ""
    if known.startswith(f"{kernel} ") and alive():
        return known.replace(" ", ".")
    made = f"{kernel} {new_hex()[:12]}"
    part = token.with_name(f"{token.name}.part")
    part.write_text(made)
    os.replace(part, token)
    return made.replace(" ", ".")


def runs(pid_files: Path, pattern: str = "*.pid") -> bool:
    """Tell whether a process named by one of the pid files in a directory runs; for ``alive``."""
    for file in pid_files.glob(pattern):
        try:
            pid = int(file.read_text())
            os.kill(pid, 0)
        except PermissionError:
            return True
        except (OSError, ValueError):
            continue
        return True
    return False
