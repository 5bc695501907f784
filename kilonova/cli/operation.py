"""List, show or cancel operations: what they wait for, what would be undone, what went wrong.

kilonova operation list [--live] [--server ID]
kilonova operation show ID
kilonova operation cancel ID      it unwinds at its next step
"""

import argparse
import time
from typing import Any

from kilonova.cli import output
from kilonova.cli.client import connect
from kilonova.cli.common import Failed, common_options
from kilonova.server import state

_BASE = "/kilonova/v1/operations"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    common_options(parser)
    parser.add_argument("verb", choices=("list", "show", "cancel"))
    parser.add_argument("id", nargs="?", metavar="ID")
    parser.add_argument("--live", action="store_true", help="only those that have not ended")
    parser.add_argument("--server", metavar="ID", help="only those of one server")
    parser.add_argument("--limit", type=int, default=50, metavar="N")


def run(args: argparse.Namespace) -> int:
    """Do it."""
    if args.verb != "list" and not args.id:
        raise Failed(f"which operation? kilonova operation {args.verb} ID", 2)
    client = connect(state.chosen(args.state_dir))
    if args.verb == "list":
        query: dict[str, object] = {"all_projects": 1, "limit": args.limit}
        if args.live:
            query["live"] = 1
        if args.server:
            query["resource"] = args.server
        found = client.get(_BASE, **query)["operations"]
        if args.json:
            output.print_json(found)
        else:
            output.table(
                ["id", "kind", "resource", "state", "step", "waits for", "accepted"],
                [
                    (
                        o["id"],
                        o["kind"],
                        o["resource"],
                        o["state"],
                        o["step"],
                        o["waits_for"],
                        _when(o["accepted_at"]),
                    )
                    for o in found
                ],
            )
        return 0
    if args.verb == "cancel":
        client.call("POST", f"{_BASE}/{args.id}/cancel", {})
        print("It will unwind at its next step; 'kilonova operation show' tells how far it is.")
        return 0
    one = client.get(f"{_BASE}/{args.id}")["operation"]
    if args.json:
        output.print_json(one)
    else:
        _show(one)
    return 0


def _when(moment: float | None) -> str:
    """Return a time of day, with the date when it is not today; times come as seconds since the epoch."""
    if moment is None:
        return ""
    at = time.localtime(moment)
    same = at[:3] == time.localtime()[:3]
    return time.strftime("%H:%M:%S" if same else "%Y-%m-%d %H:%M:%S", at)


def _fact(key: str, value: Any) -> Any:
    if key.endswith(("_at", "_by", "deadline")):
        return _when(value)
    if isinstance(value, dict):
        return ", ".join(f"{k}: {v}" for k, v in value.items())
    return value


def _show(one: dict[str, Any]) -> None:
    steps, undo = one.pop("steps"), one.pop("would_undo", None)
    shown = {k: v for k, v in one.items() if v not in (None, 0, "", False)}
    output.facts([(k.replace("_", " "), _fact(k, v)) for k, v in shown.items()])
    if undo:
        print(f"would undo: {', '.join(undo)}")
    print()
    output.table(
        ["step", "direction", "try", "state", "began", "seconds", "host", "error"],
        [
            [
                s["step"],
                s["direction"],
                s["attempt"],
                s["state"],
                _when(s["started_at"]),
                _took(s),
                s.get("host"),
                s.get("error"),
            ]
            for s in steps
        ],
    )


def _took(step: dict[str, Any]) -> str:
    ended = step.get("ended_at")
    return "" if ended is None else f"{ended - step['started_at']:.3f}"
