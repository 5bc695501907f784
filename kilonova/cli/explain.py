"""Say where a server would go and why, claiming nothing.

kilonova explain --flavor m1.small [--image tiny-linux] [--zone nova] [--hint group=ID] [--property k=v]
"""

import argparse
from typing import Any

from kilonova.cli import output
from kilonova.cli.client import Client, connect
from kilonova.cli.common import Failed, common_options
from kilonova.server import state


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    common_options(parser)
    add = parser.add_argument
    add("--flavor", required=True, help="name or id")
    add("--image", default="tiny-linux", help="name or id, default tiny-linux")
    add("--zone", metavar="ZONE", help="availability zone")
    add("--host", help="one host, by name")
    add("--hint", action="append", default=[], metavar="KEY=VALUE")
    add("--count", type=int, default=1, metavar="N")


def run(args: argparse.Namespace) -> int:
    """Ask for a decision and show its table."""
    client = connect(state.chosen(args.state_dir))
    server: dict[str, Any] = {
        "name": "explain",
        "flavorRef": _id_of(client, "/compute/v2.1/flavors", "flavors", args.flavor),
        "imageRef": _id_of(client, "/image/v2/images", "images", args.image),
        "networks": "none",
        "min_count": args.count,
        "max_count": args.count,
    }
    if args.zone:
        server["availability_zone"] = args.zone
    if args.host:
        server["host"] = args.host
    body: dict[str, Any] = {"server": server}
    if args.hint:
        body["os:scheduler_hints"] = dict(_pair(h) for h in args.hint)
    answer = client.call("POST", "/kilonova/v1/explain", body)
    if args.json:
        output.print_json(answer)
    else:
        _show(answer)
    return 0


def _pair(text: str) -> tuple[str, str]:
    key, sign, value = text.partition("=")
    if not sign:
        raise Failed(f"--hint takes KEY=VALUE, not {text!r}", 2)
    return key, value


def _id_of(client: Client, path: str, kind: str, wanted: str) -> str:
    found = [x for x in client.get(path)[kind] if wanted in (x["id"], x["name"])]
    if not found:
        raise Failed(f"there is no {kind[:-1]} {wanted!r}")
    return str(found[0]["id"])


def _show(answer: Any, indent: str = "") -> None:
    """Print whatever a decision holds: lists of records as tables, the rest as facts."""
    for key, value in answer.items() if isinstance(answer, dict) else ():
        name = key.replace("_", " ")
        if isinstance(value, dict) and value:
            print(f"{indent}{name}:")
            _show(value, indent + "  ")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            print(f"\n{indent}{name}:")
            keys = list(value[0])
            output.table(keys, [[v.get(k) for k in keys] for v in value])
        elif value not in (None, [], {}):
            shown = ", ".join(map(str, value)) if isinstance(value, list) else value
            print(f"{indent}{name}: {shown}")
