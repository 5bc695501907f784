"""``python -m kilonova.agent.helper --socket S --state-dir D --tag T --owner kilonova``: the root helper."""

import argparse
import os
import sys
from pathlib import Path

from kilonova.agent.helper import names
from kilonova.agent.helper.server import main
from kilonova.agent.helper.settings import Settings
from kilonova.common import log


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="kilonova-helper", description=__doc__)
    parser.add_argument("--socket", type=Path, required=True)
    parser.add_argument("--state-dir", type=Path, required=True, help="root's own directory")
    parser.add_argument("--tag", type=names.check_tag, required=True)
    parser.add_argument("--owner", default="kilonova", help="user that may call")
    parser.add_argument("--qemu-user", default="kilonova-qemu")
    parser.add_argument("--qemu-group", default="kilonova-qemu")
    parser.add_argument("--resolv-conf", default="/etc/resolv.conf")
    parser.add_argument("--until-stdin-ends", action="store_true", help="end with the starter")
    parser.add_argument("--log", type=Path, default=None)
    return parser.parse_args()


def run() -> None:
    given = _parse()
    if os.geteuid() != 0:
        sys.exit("the root helper runs as root")
    log.set_up(given.log.open("a") if given.log is not None else None)
    given.state_dir.mkdir(parents=True, exist_ok=True)
    settings = Settings(
        tag=given.tag,
        directory_root=given.state_dir.resolve(),
        owner=given.owner,
        qemu_user=given.qemu_user,
        qemu_group=given.qemu_group,
        resolv_conf=given.resolv_conf,
    )
    main(settings, given.socket, until_stdin_ends=given.until_stdin_ends)


if __name__ == "__main__":
    run()
