"""Does KVM run guests here? Asked of a guest, not of /dev/kvm: on some machines the device is there and guests hang."""

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

TRY_S = 6.0
# A boot sector that writes to COM1 and halts: mov dx,0x3f8; mov al,'K'; out dx,al; cli; hlt; jmp $-1
_BOOT = bytes.fromhex("baf803b04beefaf4ebfd").ljust(510, b"\0") + b"\x55\xaa"


def works(timeout_s: float = TRY_S) -> bool:
    """Boot a sector by KVM and see whether it speaks within ``timeout_s`` seconds."""
    program = shutil.which("qemu-system-x86_64")
    if program is None or not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    with tempfile.TemporaryDirectory(prefix="kilonova-kvm-") as scratch:
        disk, said = Path(scratch) / "boot", Path(scratch) / "said"
        disk.write_bytes(_BOOT.ljust(1 << 20, b"\0"))
        command = [
            program,
            "-accel",
            "kvm",
            "-machine",
            "pc",
            "-m",
            "16",
            "-nodefaults",
            "-display",
            "none",
        ]
        command += ["-drive", f"file={disk},format=raw,if=ide", "-serial", f"file:{said}"]
        guest = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            end = time.monotonic() + timeout_s
            while time.monotonic() < end and guest.poll() is None:
                if said.exists() and b"K" in said.read_bytes():
                    return True
                time.sleep(0.05)
            return False
        finally:
            guest.kill()
            guest.wait()
