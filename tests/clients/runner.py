"""Run commands of the stock client one after another in one process; a process each would cost a second each.

Reads a JSON list of argument lists a line from stdin, answers a JSON list of {code, out, err} a line. It runs what the
program ``openstack`` runs: ``openstackclient.shell.OpenStackShell().run(argv)``.
"""

import contextlib
import io
import json
import logging
import sys
from typing import Any


def one(argv: list[str]) -> dict[str, Any]:
    """Run one command."""
    from openstackclient.shell import OpenStackShell

    out, err = io.StringIO(), io.StringIO()
    for handler in list(logging.getLogger("").handlers):
        logging.getLogger("").removeHandler(handler)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = OpenStackShell().run(argv)
        except SystemExit as exc:
            code = exc.code if isinstance(exc.code, int) else 1
    return {"code": code, "out": out.getvalue(), "err": err.getvalue()}


def main() -> None:
    """Serve until stdin ends."""
    answers = sys.stdout
    for line in sys.stdin:
        answers.write(json.dumps([one(argv) for argv in json.loads(line)]) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
