"""Install or remove a systemd unit that runs 'kilonova up' at boot.

kilonova service install [--print] [-- OPTIONS OF UP]
kilonova service uninstall
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from kilonova.cli.common import Failed
from kilonova.server import state

UNIT = Path("/etc/systemd/system/kilonova.service")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("verb", choices=("install", "uninstall"))
    parser.add_argument("--print", action="store_true", help="show the unit, change nothing")
    parser.add_argument("--state-dir", metavar="DIR")
    parser.add_argument("options", nargs="*", metavar="OPTION", help="of 'up', after --")


def unit_text(program: str, directory: Path, options: list[str]) -> str:
    """Return the unit. Guests live in the same control group and must outlive a restart, hence KillMode=process."""
    words = " ".join(_quoted(w) for w in (program, "up", "--state-dir", str(directory), *options))
    return f"""[Unit]
Description=Kilonova, an OpenStack compute cloud
Documentation=https://docs.openstack.org/api-ref/compute/
After=network-online.target
Wants=network-online.target

[Service]
Type=notify
NotifyAccess=all
ExecStart={words}
Restart=on-failure
RestartSec=2
KillMode=process
TimeoutStartSec=120
TimeoutStopSec=90
LimitNOFILE=65536
Delegate=yes

[Install]
WantedBy=multi-user.target
"""


def _quoted(word: str) -> str:
    if word and all(c.isalnum() or c in "/._-=:,+@" for c in word):
        return word
    return (
        '"'
        + word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
        + '"'
    )


def run(args: argparse.Namespace) -> int:
    """Write, check and enable the unit, or take it away."""
    program = shutil.which("kilonova") or str(Path(sys.argv[0]).resolve())
    text = unit_text(str(Path(program).absolute()), state.chosen(args.state_dir), args.options)
    if args.print:
        print(text, end="")
        return 0
    if os.geteuid() != 0:
        raise Failed(f"{UNIT} belongs to root; run this as root")
    if args.verb == "uninstall":
        return _uninstall()
    return _install(text, running=state.running(state.chosen(args.state_dir)) is not None)


def check(text: str) -> str | None:
    """Return what systemd-analyze finds wrong with a unit; None when nothing, or when there is no such program."""
    program = shutil.which("systemd-analyze")
    if program is None:
        return None
    with tempfile.TemporaryDirectory() as work:
        path = Path(work) / "kilonova.service"
        path.write_text(text)
        done = subprocess.run(  # noqa: S603
            [program, "verify", "--man=no", str(path)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    said = [line for line in done.stderr.splitlines() if "kilonova.service" in line]
    return "\n".join(said) or None


def _install(text: str, *, running: bool) -> int:
    fault = check(text)
    if fault is not None:
        raise Failed(f"systemd does not like the unit: {fault}")
    state.write_text(UNIT, text, 0o644)
    print(
        f"{UNIT} is written"
        + (" and was checked by systemd-analyze." if shutil.which("systemd-analyze") else ".")
    )
    if Path("/run/systemd/system").is_dir():
        _systemctl("daemon-reload")
        _systemctl("enable", *([] if running else ["--now"]), "kilonova.service")
        if running:  # a second 'up' would say so and end, which systemd takes for a failure
            print(
                "It is enabled. A cloud runs already: 'kilonova down && systemctl start kilonova'."
            )
        else:
            print("It is enabled and started.")
    else:
        print(
            "systemd does not run here; the unit counts from the next boot with systemd ('systemctl enable kilonova')."
        )
    return 0


def _uninstall() -> int:
    if not UNIT.exists():
        print("There was no unit.")
        return 0
    if Path("/run/systemd/system").is_dir():
        _systemctl("disable", "--now", "kilonova.service")
    UNIT.unlink()
    if Path("/run/systemd/system").is_dir():
        _systemctl("daemon-reload")
    print(f"{UNIT} is gone. Guests and records are untouched.")
    return 0


def _systemctl(*words: str) -> None:
    done = subprocess.run(["systemctl", *words], capture_output=True, text=True, check=False)  # noqa: S603, S607
    if done.returncode != 0:
        raise Failed(f"systemctl {' '.join(words)}: {done.stderr.strip()}")
