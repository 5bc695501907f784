"""List cells; add one by its database; take one out of scheduling (its servers go on) or back in; forget an empty one.

kilonova cell list
kilonova cell add NAME --url postgresql://user:password@host/name
kilonova cell move NAME --url URL             its database is there now, or has another password
kilonova cell disable NAME
kilonova cell enable NAME
kilonova cell delete NAME [--force]           one without servers; --force: with its hosts, or although it is silent
"""

import argparse

from kilonova.cli import output
from kilonova.cli.client import Client, connect
from kilonova.cli.common import Failed, common_options
from kilonova.server import state

CELLS = "/kilonova/v1/cells"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    common_options(parser)
    parser.add_argument("verb", choices=("list", "add", "move", "disable", "enable", "delete"))
    parser.add_argument("name", nargs="?", metavar="NAME")
    parser.add_argument("--url", help="of its database: sqlite:////path, postgresql:// or mysql://")
    parser.add_argument("--force", action="store_true", help="delete: with its hosts")


def run(args: argparse.Namespace) -> int:
    """Do it."""
    if args.verb != "list" and not args.name:
        raise Failed(f"which cell? kilonova cell {args.verb} NAME", 2)
    if args.verb in ("add", "move") and not args.url:
        raise Failed(f"where is its database? kilonova cell {args.verb} NAME --url URL", 2)
    client = connect(state.chosen(args.state_dir))
    if args.verb != "list":
        return _change(client, args)
    cells = client.get(CELLS)["cells"]
    if args.json:
        output.print_json(cells)
    else:
        output.table(
            ["cell", "database", "scheduling", "hosts", "servers", "url", "why"],
            [
                (
                    c["name"],
                    c["state"],
                    "disabled" if c["disabled"] else "enabled",
                    c["hosts"],
                    c["servers"],
                    c["database"],
                    c["why"],
                )
                for c in cells
            ],
        )
    return 0


def _change(client: Client, args: argparse.Namespace) -> int:
    path = f"{CELLS}/{args.name}"
    if args.verb == "add":
        found = client.call("POST", CELLS, {"name": args.name, "url": args.url})["cell"]
        said = f"{args.name} is added: hosts may join it now."
    elif args.verb == "move":
        found = client.call("PUT", path, {"url": args.url})["cell"]
        said = f"the database of {args.name} is {found['database']} now."
    elif args.verb == "delete":
        client.call("DELETE", f"{path}?force=1" if args.force else path)
        found, said = {"name": args.name}, f"{args.name} is forgotten; its database stays."
    else:
        disabled = args.verb == "disable"
        found = client.call("PUT", path, {"disabled": disabled})["cell"]
        said = (
            f"{args.name} is {args.verb}d: {'no' if disabled else 'new'} servers are placed there."
        )
    if args.json:
        output.print_json(found)
    else:
        print(said)
    return 0
