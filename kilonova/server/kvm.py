"""Which kind of guest this machine runs: asked of a guest once per boot, as root, and remembered."""

import json
import os
from pathlib import Path

from kilonova.agent import doctor

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def virt_type(memory: Path) -> str:
    """Return "kvm" where a guest was seen to run by it, else "qemu". memory: the file that keeps the answer.

    ``KILONOVA_VIRT_TYPE`` overrides. /dev/kvm being there proves nothing: on some machines guests hang.
    """
    forced = os.environ.get("KILONOVA_VIRT_TYPE")
    if forced in ("kvm", "qemu"):
        return forced
    boot = BOOT_ID.read_text().strip()
    try:
        kept = json.loads(memory.read_text())
    except (OSError, ValueError):
        kept = {}
    if kept.get("boot") == boot:
        return str(kept["virt_type"])
    works = Path("/dev/kvm").exists() and doctor.try_kvm()[0]
    found = "kvm" if works else "qemu"
    memory.write_text(json.dumps({"boot": boot, "virt_type": found}))
    return found
