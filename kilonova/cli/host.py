"""List hosts; take one out of scheduling (its guests go on) or back in.

kilonova host list
kilonova host disable NAME --reason "new memory on Friday"
kilonova host enable NAME
"""

import argparse

from kilonova.cli import output
from kilonova.cli.client import Client, connect
from kilonova.cli.common import Failed, common_options
from kilonova.cli.status import STATUS
from kilonova.server import state

_SERVICES = "/compute/v2.1/os-services"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    common_options(parser)
    parser.add_argument("verb", choices=("list", "enable", "disable"))
    parser.add_argument("name", nargs="?", metavar="NAME")
    parser.add_argument("--reason", help="why a host is taken out")


def run(args: argparse.Namespace) -> int:
    """Do it."""
    if args.verb != "list" and not args.name:
        raise Failed(f"which host? kilonova host {args.verb} NAME", 2)
    client = connect(state.chosen(args.state_dir))
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
