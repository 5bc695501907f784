"""Router advertisements of one router: a dnsmasq in its namespace that says prefixes, MTU and DNS, no address.

source: dnsmasq(8), --enable-ra, --dhcp-range modes ra-only and ra-stateless, --ra-param; RFC 4861 for what guests make
of it. Addresses by DHCPv6 come from the network's own DHCP (dhcp.py): here unknown hosts are ignored.
"""

import ipaddress
import os
import pwd
from pathlib import Path

from kilonova.agent.helper import names
from kilonova.agent.helper.run import alive, await_pid_file, end, spawn
from kilonova.agent.helper.settings import Settings
from kilonova.objects.netstate import RouterInterface, RouterState

INTERVAL_S, LIFETIME_S = 60, 1800
_MODES = {"slaac": "ra-only", "dhcpv6-stateless": "ra-stateless", "dhcpv6-stateful": "static"}


def ensure(settings: Settings, router: RouterState) -> None:
    """Advertise what the router's document says; restart dnsmasq only where it must. Repeatable."""
    legs = [leg for leg in router.interfaces if leg.adverts] if router.admin_up else []
    if not legs:
        remove(settings, router.id)
        return
    directory = settings.runtime("ra", router.id)
    owner = pwd.getpwnam(settings.dns_user)
    os.chown(directory, owner.pw_uid, owner.pw_gid)
    arguments = [*_arguments(directory, legs), f"--user={settings.dns_user}"]
    known, text = directory / "arguments", "\n".join(arguments)
    running = alive(directory / "pid", str(directory))
    if running is not None:
        if known.exists() and known.read_text() == text:
            return
        end(running)
    known.write_text(text)
    (directory / "pid").unlink(missing_ok=True)
    pid = spawn(arguments, ns=names.router_ns(settings.tag, router.id), log=directory / "out")
    await_pid_file(pid, directory / "pid", directory / "out")


def _arguments(directory: Path, legs: list[RouterInterface]) -> list[str]:
    arguments = [
        "dnsmasq", "--conf-file=/dev/null", "--no-hosts", "--no-resolv", "--port=0", "--enable-ra",
        "--bind-interfaces", "--except-interface=lo", f"--dhcp-leasefile={directory / 'leases'}",
        f"--pid-file={directory / 'pid'}", f"--log-facility={directory / 'log'}",
        "--keep-in-foreground",
    ]  # fmt: skip
    tags = 0
    for leg in sorted(legs, key=lambda x: x.port_id):
        name = names.router_leg(leg.port_id)
        arguments.append(f"--interface={name}")
        arguments.append(f"--ra-param={name},mtu:{leg.mtu},{INTERVAL_S},{LIFETIME_S}")
        for advert in leg.adverts:
            prefix, tag = ipaddress.ip_network(advert.cidr), f"r{tags}"
            tags += 1
            span = f"{prefix.network_address},{_MODES[advert.mode]},{prefix.prefixlen}"
            arguments.append(f"--dhcp-range=set:{tag},{span}")
            if advert.mode == "dhcpv6-stateful":
                arguments.append(f"--dhcp-ignore=tag:{tag},tag:!known")
            if advert.dns:
                servers = ",".join(f"[{s}]" for s in advert.dns)
                arguments.append(f"--dhcp-option=tag:{tag},option6:dns-server,{servers}")
    return arguments


def remove(settings: Settings, router_id: str) -> None:
    """End the router's dnsmasq and remove its files; fine when there is none."""
    directory = settings.runtime_root / "ra" / router_id
    running = alive(directory / "pid", str(directory))
    if running is not None:
        end(running)
    if directory.is_dir():
        for file in directory.iterdir():
            file.unlink()
        directory.rmdir()


def sweep(settings: Settings, wanted: set[str]) -> None:
    """Remove what belongs to routers that are not here any more."""
    root = settings.runtime_root / "ra"
    for path in root.iterdir() if root.is_dir() else ():
        if path.name not in wanted:
            remove(settings, path.name)
