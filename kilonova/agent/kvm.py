"""Does KVM run guests here? Asked of a guest, not of /dev/kvm: on some machines the device is there and guests hang.

A boot sector is not proof enough (it was seen to run where kernels hang), so a whole kernel is booted from an image.
"""

import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

TRY_S = 15.0
MARK = b"GUEST START"


def works(image: Path | None, timeout_s: float = TRY_S) -> bool:
    """Boot the tiny image by KVM and see whether its userspace speaks within ``timeout_s`` seconds.

    image: a qcow2 file, which stays as it is; None: nothing can be proven, so no.
    """
    program = shutil.which("qemu-system-x86_64")
    if program is None or image is None or not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    with tempfile.TemporaryDirectory(prefix="kilonova-kvm-") as scratch:
        said = Path(scratch) / "said"
        command = [program, "-accel", "kvm", "-machine", "pc", "-m", "192", "-nodefaults"]
        command += ["-display", "none", "-serial", f"file:{said}"]
        command += ["-drive", f"file={image},format=qcow2,if=virtio,snapshot=on"]
        guest = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "TMPDIR": scratch},
        )
        try:
            end = time.monotonic() + timeout_s
            while time.monotonic() < end and guest.poll() is None:
                if said.exists() and MARK in said.read_bytes():
                    return True
                time.sleep(0.1)
            return False
        finally:
            guest.kill()
            guest.wait()


def remembered(memory: Path, image: Path | None) -> bool:
    """``works``, asked once per boot of the machine; ``memory``: the file that keeps the answer."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    try:
        kept = json.loads(memory.read_text())
    except (OSError, ValueError):
        kept = {}
    if kept.get("boot") == boot and (kept.get("asked") or image is None):
        return bool(kept.get("works"))
    found = works(image)
    memory.write_text(json.dumps({"boot": boot, "works": found, "asked": image is not None}))
    return found
