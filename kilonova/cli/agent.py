"""Run the agent of this machine, or those of simulated hosts (driver fake). It knows no database.

kilonova agent --config FILE [--hosts N] [--name-prefix NAME]
"""

import argparse
import dataclasses

from kilonova.cli import role
from kilonova.common.deployment import Tables
from kilonova.server.plan import Plan


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    role.arguments(parser)
    parser.add_argument("--hosts", type=int, metavar="N", help="simulated hosts of this process")
    parser.add_argument("--name-prefix", metavar="NAME", help="they are called NAME1, NAME2 …")


def run(args: argparse.Namespace) -> int:
    """Serve until a signal."""
    given = {"hosts": args.hosts, "name_prefix": args.name_prefix}
    asked = {k: v for k, v in given.items() if v is not None}

    def make(plan: Plan, tables: Tables) -> role.Running:
        from kilonova.server.agent_role import AgentProcess

        agent = dataclasses.replace(tables.agent, **asked)
        return AgentProcess(plan, dataclasses.replace(tables, agent=agent))

    return role.serve("agent", args, make)
