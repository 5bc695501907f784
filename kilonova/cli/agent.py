"""Run the agent of this machine, or those of simulated hosts (driver fake). It knows no database.

kilonova agent --config FILE [--hosts N] [--name-prefix NAME]
kilonova agent --config FILE --join URL --token TOKEN [--ca FILE]     as 'kilonova host add' printed: joins, then runs
"""

import argparse
import dataclasses
import sys
from pathlib import Path

from kilonova.cli import role
from kilonova.cli.common import Failed
from kilonova.common.deployment import Tables
from kilonova.server.plan import Plan


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    role.arguments(parser)
    add = parser.add_argument
    add("--hosts", type=int, metavar="N", help="simulated hosts of this process")
    add("--name-prefix", metavar="NAME", help="they are called NAME1, NAME2 …")
    add("--join", metavar="URL", help="of the deployment's API: get credentials and write the file")
    add("--token", metavar="TOKEN", help="good once")
    add("--ca", metavar="FILE", help="whom the API's certificate must be of, PEM")
    add("--driver", choices=("libvirt", "fake"), default="libvirt", help="with --join")
    add("--agent-dir", metavar="DIR", default="/var/lib/kilonova", help="with --join: its state")


def run(args: argparse.Namespace) -> int:
    """Join if asked to, then serve until a signal."""
    if args.join:
        _join(args)
    given = {"hosts": args.hosts, "name_prefix": args.name_prefix}
    asked = {k: v for k, v in given.items() if v is not None}

    def make(plan: Plan, tables: Tables) -> role.Running:
        from kilonova.server.agent_role import AgentProcess

        agent = dataclasses.replace(tables.agent, **asked)
        return AgentProcess(plan, dataclasses.replace(tables, agent=agent))

    path = Path(args.config)
    settings, tables = role.read(path)
    if tables.agent.driver != "libvirt" or tables.agent.helper is not None:
        return role.serve_as("agent", path, settings, tables, make)
    from kilonova.server import real_agent

    return real_agent.run(
        path,
        settings,
        tables,
        lambda t: role.serve_as("agent", path, settings, t, make),
        lambda text: print(f"kilonova: {text}", file=sys.stderr),
    )


def _join(args: argparse.Namespace) -> None:
    from kilonova.server import joining

    if not args.token:
        raise Failed("--join needs --token, which 'kilonova host add NAME' prints", 2)
    ca = Path(args.ca) if args.ca else None
    config = Path(args.config)
    asked = joining.Asked(args.join, args.token, config, ca, args.driver, args.agent_dir)
    host = joining.join(asked)
    print(
        f"This machine is the host {host}; next time: kilonova agent --config {config}", flush=True
    )
