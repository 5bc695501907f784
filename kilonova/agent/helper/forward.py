"""Somebody else's FORWARD DROP (Docker, ufw, firewalld, an own rule set): found, mended where that is safe, or named.

An accept in our own nft table cannot overrule a drop in another table, so our rule must stand in theirs.
"""

import shutil
from typing import Any

import msgspec

from kilonova.agent.helper import names
from kilonova.agent.helper.run import CommandFailed, run


def _comment(tag: str) -> str:
    return f"kilonova-{tag}"


def blockers() -> list[tuple[str, str, str]]:
    """Return (family, table, chain) of foreign forward chains whose policy is drop."""
    try:
        listed = msgspec.json.decode(run(["nft", "-j", "list", "chains"]))
    except CommandFailed:
        return []
    found = []
    for entry in listed.get("nftables", ()):
        chain: dict[str, Any] = entry.get("chain", {})
        if chain.get("hook") != "forward" or chain.get("family") not in ("ip", "inet"):
            continue
        if chain.get("policy") == "drop" and not chain["table"].startswith("kilonova_"):
            found.append((chain["family"], chain["table"], chain["name"]))
    return found


def foreign_rejects() -> list[str]:
    """Return the names of firewalls that refuse forwarding by rules of their own, which we do not touch."""
    try:
        tables = run(["nft", "list", "tables"])
    except CommandFailed:
        return []
    return ["firewalld"] if "table inet firewalld" in tables else []


def _iptables_drops() -> bool:
    if shutil.which("iptables", path="/usr/sbin:/sbin:/usr/bin") is None:
        return False
    try:
        return "-P FORWARD DROP" in run(["iptables", "-w", "5", "-S", "FORWARD"])
    except CommandFailed:
        return False


def _iptables_rules(tag: str) -> list[list[str]]:
    comment = ["-m", "comment", "--comment", _comment(tag), "-j", "ACCEPT"]
    bridge = names.public_bridge(tag)
    return [["FORWARD", "-i", bridge, *comment], ["FORWARD", "-o", bridge, *comment]]


def mend(tag: str) -> list[str]:
    """Let the public bridge through each foreign FORWARD DROP; return what was done or must be done by hand."""
    notes: list[str] = []
    if _iptables_drops():
        for chain, *rest in _iptables_rules(tag):
            try:
                run(["iptables", "-w", "5", "-C", chain, *rest])
            except CommandFailed:
                run(["iptables", "-w", "5", "-I", chain, "1", *rest])
                notes.append(f"iptables: {' '.join([chain, *rest])}")
    for family, table, chain in blockers():
        if table == "filter" and chain == "FORWARD" and _iptables_drops():
            continue  # the same chain, mended above
        if _ours(family, table, chain, tag):
            continue
        for side in ("iifname", "oifname"):
            match = [side, names.public_bridge(tag), "accept", "comment", f'"{_comment(tag)}"']
            run(["nft", "insert", "rule", family, table, chain, *match])
        notes.append(f"nft: {family} {table} {chain} lets {names.public_bridge(tag)} through")
    for firewall in foreign_rejects():
        notes.append(
            f"{firewall} may refuse forwarding: firewall-cmd --zone=trusted"
            f" --add-interface={names.public_bridge(tag)}"
        )
    return notes


def _ours(family: str, table: str, chain: str, tag: str) -> list[int]:
    listed = msgspec.json.decode(run(["nft", "-j", "list", "chain", family, table, chain]))
    rules = [entry["rule"] for entry in listed["nftables"] if "rule" in entry]
    return [rule["handle"] for rule in rules if rule.get("comment") == _comment(tag)]


def _forward_chains() -> list[tuple[str, str, str]]:
    listed = msgspec.json.decode(run(["nft", "-j", "list", "chains"]))
    chains = [entry["chain"] for entry in listed.get("nftables", ()) if "chain" in entry]
    return [
        (c["family"], c["table"], c["name"])
        for c in chains
        if c.get("hook") == "forward" and not c["table"].startswith("kilonova_")
    ]


def leftovers(tag: str) -> list[str]:
    """Return our rules that stand in other people's chains."""
    found = []
    for family, table, chain in _forward_chains():
        found += [
            f"nft rule {family} {table} {chain} {h}" for h in _ours(family, table, chain, tag)
        ]
    return found


def unmend(tag: str) -> None:
    """Take our rules out of other people's chains; nothing else."""
    if shutil.which("iptables", path="/usr/sbin:/sbin:/usr/bin") is not None:
        for chain, *rest in _iptables_rules(tag):
            try:
                run(["iptables", "-w", "5", "-D", chain, *rest])
            except CommandFailed:
                continue  # there is none
    for family, table, chain in _forward_chains():
        for handle in _ours(family, table, chain, tag):
            run(["nft", "delete", "rule", family, table, chain, "handle", str(handle)])
