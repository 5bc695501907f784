"""``kilonova …``: find the command's file, read its arguments, run it, turn errors into words and exit codes.

Exit codes: 0 done; 1 refused or failed, the reason on stderr; 2 the command line is wrong; 3 nothing runs where
something must; 130 interrupted.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

from kilonova.cli.common import Failed
from kilonova.common.errors import KilonovaError

COMMANDS = {
    "up": "start a whole cloud in one process",
    "down": "stop it; with --purge remove everything it made",
    "status": "what runs, at a glance",
    "doctor": "what real guests need of this machine, and how to mend it",
    "hello": "boot a first server and say how to log in",
    "operation": "list, show or cancel operations",
    "explain": "why a server would go where it would go; claims nothing",
    "audit": "compare all records with each other and with the hosts",
    "host": "list hosts, take one out of scheduling or back in",
    "cell": "list cells",
    "bus": "make what NATS needs of a deployment",
    "api": "one API of a deployment of several processes",
    "conductor": "one conductor of it",
    "agent": "the agent of a host of it",
    "console": "one console proxy of it",
    "config": "check or show the configuration",
    "db": "bring the databases to this release",
    "backup": "copy the state directory while the cloud runs",
    "restore": "put a copy back",
    "service": "install or remove the systemd unit",
}


class _Parser(argparse.ArgumentParser):
    """argparse, but an unknown option names the command that explains itself."""

    def error(self, message: str) -> Any:
        self.exit(2, f"{self.prog}: {message}\nTry '{self.prog} --help'.\n")


def _overview() -> str:
    from kilonova import __version__

    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {words}" for name, words in COMMANDS.items()]
    return "\n".join(
        [
            f"Kilonova {__version__}: an OpenStack compute cloud in one command.",
            "",
            "usage: kilonova COMMAND [options]",
            "",
            *lines,
            "",
            "'kilonova COMMAND --help' explains one. Start with 'kilonova up', or 'kilonova up --driver fake'",
            "for a simulated cloud without root.",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code. Never shows a stack trace for an error that we raise on purpose."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0 if words else 2
    if words[0] in ("--version", "version"):
        from kilonova import __version__

        print(f"kilonova {__version__}")
        return 0
    if words[0] not in COMMANDS:
        print(f"kilonova: there is no command {words[0]!r}.\n\n{_overview()}", file=sys.stderr)
        return 2
    module = importlib.import_module(f"kilonova.cli.{words[0]}")
    parser = _Parser(prog=f"kilonova {words[0]}", description=module.__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    module.arguments(parser)
    return _run(module, parser.parse_args(words[1:]))


def _run(module: Any, args: argparse.Namespace) -> int:
    try:
        return int(module.run(args) or 0)
    except Failed as exc:
        print(f"kilonova: {exc.message}", file=sys.stderr)
        return exc.exit_code
    except KilonovaError as exc:
        print(f"kilonova: {exc.message}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as exc:
        where = f"{exc.filename}: " if exc.filename else ""
        print(f"kilonova: {where}{exc.strerror or exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
