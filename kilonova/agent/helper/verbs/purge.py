"""``down --purge``: exactly what was made is ended and removed; and the list of what is still there."""

import shutil
from pathlib import Path

from kilonova.agent.helper import forward, names
from kilonova.agent.helper.run import (
    CommandFailed,
    alive,
    drop_namespace,
    end,
    ip,
    links,
    namespaces,
    run,
    sysctl,
)
from kilonova.agent.helper.settings import Settings
from kilonova.agent.helper.verbs import libvirt

PARTS = ("net", "libvirt", "before")


def remove_everything(settings: Settings) -> None:
    """End every process, then remove every namespace, link, table and file of this tag. Repeatable; nothing else."""
    end_everything(settings)
    for part in PARTS:
        shutil.rmtree(settings.directory_root / part, ignore_errors=True)


def end_everything(settings: Settings) -> None:
    """Leave the machine as a reboot would: files of the state directory stay, and with them what guests are."""
    tag, run_root = settings.tag, settings.runtime_root
    libvirt.stop(settings)
    for pid, _ in libvirt.guests(tag):
        end(pid)
    daemons = (*run_root.glob("net/*/pid"), *run_root.glob("ra/*/pid"))
    for pid_file in (run_root / "dns" / "pid", *daemons):
        running = alive(pid_file, str(pid_file.parent))
        if running is not None:
            end(running)
    for pid, text in libvirt.processes(tag):
        if f"{run_root}/" in text:
            end(pid)
    for name in sorted(namespaces()):
        if names.is_ours(name, tag) and name != names.host_ns(tag):
            drop_namespace(name)
    have = links()
    mine = _links_of(tag)
    ip([f"link delete {link}" for link in mine if link in have])
    drop_namespace(names.host_ns(tag))
    drop_namespace(names.machine_ns(tag))
    for table in _tables(tag):
        run(["nft", "-f", "-"], text=f"table inet {table} {{ }}\ndelete table inet {table}\n")
    forward.unmend(tag)
    before = settings.noted("ip_forward")
    if before == "0" and not _other_clouds(tag):
        sysctl({"net/ipv4/ip_forward": before})
    shutil.rmtree(run_root, ignore_errors=True)


def _links_of(tag: str) -> tuple[str, ...]:
    """Return the links of a tag in the machine's own namespace; those of other hosts there go with their namespaces."""
    return (
        names.uplink(tag),
        names.dns_link(tag),
        names.public_bridge(tag),
        names.underlay_bridge(tag),
    )


def _other_clouds(tag: str) -> bool:
    return any(link.startswith("kn-pub-") and link != names.public_bridge(tag) for link in links())


def _tables(tag: str) -> tuple[str, str]:
    return names.table(tag), names.underlay_table(tag)


def list_leftovers(tag: str, directory: Path | None = None) -> list[str]:
    """Return what is still there of a tag: "namespace x", "link x", "table x", "process pid …", "file …"."""
    mine = {n for n in namespaces() if names.is_ours(n, tag) or n == names.machine_ns(tag)}
    found = [f"namespace {name}" for name in sorted(mine)]
    known = _links_of(tag)
    found += [f"link {link}" for link in sorted(links()) if link in known]
    found += [f"process {pid} {command[:80]}" for pid, command in libvirt.processes(tag)]
    try:
        there = run(["nft", "list", "tables"]).splitlines()
        found += [f"table inet {t}" for t in _tables(tag) if f"table inet {t}" in there]
        found += forward.leftovers(tag)
    except CommandFailed as exc:
        found.append(f"unknown: {exc.message}")
    runtime = Path(f"/run/kilonova-{tag}")
    if runtime.exists():
        found.append(f"file {runtime}")
    if directory is not None:
        found += [f"file {directory / part}" for part in PARTS if (directory / part).exists()]
    return found
