"""List hosts; take one out of scheduling (its guests go on) or back in; get every server off one; find unmapped ones.

kilonova host list
kilonova host discover
kilonova host disable NAME --reason "new memory on Friday"
kilonova host enable NAME
kilonova host add NAME [--cell CELL]          a token, good once, with which a machine joins a deployment
kilonova host revoke NAME                     its credentials on the bus are refused from now on
kilonova host drain NAME --dry-run            what would be moved, how, and where to
kilonova host drain NAME [--cold] [--no-wait]  move it all; running servers live, with --cold also turned off
kilonova host drain NAME --across-cells       a server for which its cell has no other host goes to another cell
"""

import argparse
import time
from typing import Any

from kilonova.cli import output
from kilonova.cli.client import Client, Refused, connect
from kilonova.cli.common import Failed, common_options
from kilonova.cli.status import STATUS
from kilonova.server import state

_SERVICES = "/compute/v2.1/os-services"
_LOOK_S = 0.5


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    common_options(parser)
    verbs = ("list", "add", "revoke", "discover", "enable", "disable", "drain")
    parser.add_argument("verb", choices=verbs)
    parser.add_argument("name", nargs="?", metavar="NAME")
    parser.add_argument("--cell", default="cell1", help="add: of the new host")
    parser.add_argument("--reason", help="why a host is taken out")
    parser.add_argument("--dry-run", action="store_true", help="drain: only say what would be done")
    parser.add_argument("--cold", action="store_true", help="drain: a running server may be off")
    parser.add_argument("--across-cells", action="store_true", help="drain: to other cells too")
    parser.add_argument(
        "--at-once", type=int, default=4, metavar="N", help="drain: moves at a time"
    )
    parser.add_argument("--no-wait", action="store_true", help="drain: do not wait for its end")


def run(args: argparse.Namespace) -> int:
    """Do it."""
    if args.verb not in ("list", "discover") and not args.name:
        raise Failed(f"which host? kilonova host {args.verb} NAME", 2)
    client = connect(state.chosen(args.state_dir))
    if args.verb == "drain":
        return _drain(client, args)
    if args.verb == "add":
        return _add(client, args)
    if args.verb == "revoke":
        return _revoke(client, args)
    if args.verb == "discover":
        return _discover(client, args)
    if args.verb != "list":
        return _set(client, args)
    hosts = client.get(STATUS)["hosts"]
    if args.json:
        output.print_json(hosts)
        return 0
    output.table(
        ["host", "cell", "state", "scheduling", "servers", "last heard", "reason"],
        [
            (
                h["host"],
                h["cell"],
                h["state"],
                "disabled" if h["disabled"] else "enabled",
                h["servers"],
                h["seen_at"],
                h["disabled_reason"],
            )
            for h in hosts
        ],
    )
    return 0


def _add(client: Client, args: argparse.Namespace) -> int:
    """Print the line that makes another machine a host."""
    try:
        made = client.call("POST", "/join/tokens", {"host": args.name, "cell": args.cell})
    except Refused as exc:
        if exc.http_status == 404:
            raise Failed(
                "this cloud takes no other machines: it is one process, or its api has no [bus] account_seed"
            ) from exc
        raise
    if args.json:
        output.print_json({**made, "url": client.url})
        return 0
    print(
        "On the other machine, within an hour and once (with --ca FILE if the certificate is your own authority's):"
    )
    words = f"--config /etc/kilonova/agent.toml --join {client.url} --token {made['token']}"
    print(f"\n    kilonova agent {words}\n")
    return 0


def _revoke(client: Client, args: argparse.Namespace) -> int:
    """Take a host's credentials back."""
    try:
        client.call("DELETE", f"/join/hosts/{args.name}")
    except Refused as exc:
        if exc.http_status == 404:
            raise Failed(
                "this cloud signs no credentials: its api has no [bus] account_seed"
            ) from exc
        raise
    if args.json:
        output.print_json({"host": args.name, "revoked": True})
    else:
        print(f"The bus refuses {args.name} now; 'kilonova host add' gives it new credentials.")
    return 0


def _discover(client: Client, args: argparse.Namespace) -> int:
    found = client.call("POST", "/kilonova/v1/hosts/discover", {})["findings"]
    if args.json:
        output.print_json(found)
        return 0
    for f in found:
        print(f"{f['message']} {f['repair'] or ''}".rstrip())
    print("Hosts map themselves when they register." if found else "Every host is mapped.")
    return 0


def _set(client: Client, args: argparse.Namespace) -> int:
    found = client.get(_SERVICES, host=args.name, binary="nova-compute")["services"]
    if not found:
        raise Failed(f"there is no host {args.name!r}; 'kilonova host list' names them")
    body: dict[str, str] = {"status": f"{args.verb}d"}
    if args.reason and args.verb == "disable":
        body["disabled_reason"] = args.reason
    answer = client.call("PUT", f"{_SERVICES}/{found[0]['id']}", body)["service"]
    if args.json:
        output.print_json(answer)
    else:
        print(f"{args.name} is {answer['status']}.")
    return 0


def _drain(client: Client, args: argparse.Namespace) -> int:
    """Begin a drain and follow it; ended or interrupted, it goes on in the cloud. 1: some servers stay."""
    path = f"/kilonova/v1/hosts/{args.name}/drain"
    body: dict[str, Any] = {"dry_run": args.dry_run, "cold": args.cold, "at_once": args.at_once}
    if args.across_cells:
        body["across_cells"] = True
    if args.reason:
        body["reason"] = args.reason
    found = client.call("POST", path, body)["drain"]
    if args.dry_run or args.no_wait:
        return _tell(args, found)
    before = ""
    while found["state"] not in ("done", "failed", "cancelled"):
        found = client.get(path)["drain"]
        said = _progress(found)
        if said != before and not args.json:
            print(said, flush=True)
        before = said
        time.sleep(_LOOK_S)
    _tell(args, found)
    return 0 if found["state"] == "done" and not found["servers"] else 1


def _progress(found: dict[str, Any]) -> str:
    ways = [s["way"] for s in found["servers"]]
    stay, busy = ways.count("none"), ways.count("wait")
    return (
        f"{found['moved']} moved, {busy} under way, {len(ways) - stay - busy} to come, {stay} stay"
    )


def _tell(args: argparse.Namespace, found: dict[str, Any]) -> int:
    if args.json:
        output.print_json(found)
        return 0
    if found["servers"]:
        output.table(
            ["server", "name", "state", "way", "to", "cell", "why"],
            [
                (s["server"], s["name"], s["vm_state"], s["way"], s["to"], s["to_cell"], s["why"])
                for s in found["servers"]
            ],
        )
    elif found["state"] == "planned":
        print(f"{args.name} has no servers.")
    if found["operation"]:
        print(f"The drain of {args.name} is {found['state']}: operation {found['operation']}.")
    return 0
