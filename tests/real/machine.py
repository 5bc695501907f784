"""What a reboot, or a machine that lost its power, takes away from a host of ours."""

import contextlib
import os
import shutil
import signal
from pathlib import Path

from kilonova.agent.helper import names
from kilonova.agent.helper.run import CommandFailed, ip, links, namespaces, run
from kilonova.agent.helper.verbs import libvirt
from kilonova.agent.helper.verbs.purge import list_leftovers
from tests.real.outside import until


def end_runtime(tag: str) -> None:
    """End everything that a reboot ends: every process, namespace, link, nft table, runtime file of a host."""
    for pid, _ in libvirt.processes(tag):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    runtime = Path(f"/run/kilonova-{tag}")
    for pid_file in runtime.glob("**/pid"):
        with contextlib.suppress(ProcessLookupError, ValueError):
            os.kill(int(pid_file.read_text()), signal.SIGKILL)
    until(lambda: not libvirt.processes(tag), "no process of the runtime is left")
    for name in namespaces():
        if names.is_ours(name, tag):
            run(["ip", "netns", "del", name])
    for link in (names.uplink(tag), names.dns_link(tag), names.public_bridge(tag)):
        if link in links():
            ip([f"link delete {link}"])
    with contextlib.suppress(CommandFailed):
        run(["nft", "delete", "table", "inet", names.table(tag)])
    shutil.rmtree(runtime, ignore_errors=True)
    assert [x for x in list_leftovers(tag) if not x.startswith("unknown")] == []
