"""Say what runs, at a glance: the cloud, its hosts, its servers, its operations, its databases."""

import argparse
import time
from typing import Any

from kilonova.cli import output
from kilonova.cli.client import connect
from kilonova.cli.common import common_options
from kilonova.server import launch, state

STATUS = "/kilonova/v1/status"
VERSIONS = "/kilonova/v1/versions"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    common_options(parser)


def run(args: argparse.Namespace) -> int:
    """Show it; exit code 3 when nothing runs."""
    directory = state.chosen(args.state_dir)
    found = state.running(directory)
    if found is None:
        if args.json:
            output.print_json({"running": False, "state_dir": str(directory)})
        else:
            made = state.deployment(directory)
            print(
                f"No cloud runs on {directory}"
                + (f" (driver {made.driver})." if made else "; there is none yet.")
            )
            print("'kilonova up' starts it.")
        return 3
    client = connect(directory)
    seen = {**client.get(STATUS), "versions": client.get(VERSIONS)["versions"]}
    what = {**launch.describe(directory, found), **seen, "running": True, "ready": client.ready()}
    if args.json:
        output.print_json(what)
    else:
        _show(what, found)
    return 0


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{n} {name}" for name, n in sorted(counts.items()) if n) or "none"


def _spoken(versions: dict[str, Any]) -> str:
    """Say what all services write, and who holds it back."""
    services = versions["services"]
    count = sum(s["count"] for s in services)
    if not versions["pinned"]:
        return f"{count} services, all write as {versions['release']} does"
    holders = [s["name"] for s in services if s["older"] and s["holds"]]
    return f"{count} services, held at older versions by {', '.join(holders) or 'the pin'}"


def _show(what: dict[str, Any], found: state.Run) -> None:
    hosts: list[dict[str, str]] = what["hosts"]
    up = sum(h["state"] == "up" for h in hosts)
    cells: list[dict[str, object]] = what["cells"]
    sizes: dict[str, int] = what["databases"]
    ready = what["ready"]
    words = "takes work" if ready else "is not ready"
    print(f"{output.mark(bool(ready))} Kilonova {found.version} {words} at {found.url}")
    output.facts(
        [
            ("  runs for", output.age(time.time() - found.started_at)),
            (
                "  process",
                f"{found.pid}" + (f", root helper {found.helper_pid}" if found.helper_pid else ""),
            ),
            ("  driver", found.driver),
            ("  hosts", f"{up} up of {len(hosts)}, in {len(cells)} cell{'s' * (len(cells) != 1)}"),
            ("  servers", _counted(what["servers"])),
            ("  operations", _counted(what["operations"]) + " under way"),
            ("  databases", ", ".join(f"{k} {output.size(v)}" for k, v in sorted(sizes.items()))),
            ("  versions", _spoken(what["versions"])),
            ("  state", what["state_dir"]),
        ]
    )
    down = [h for h in hosts if h["state"] != "up"]
    if down:
        print()
        output.table(
            ["host", "cell", "state", "last heard"],
            [(h["host"], h["cell"], h["state"], h["seen_at"]) for h in down],
        )
