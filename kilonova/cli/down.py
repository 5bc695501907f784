"""Stop the cloud in order. Guests go on running and are found again by the next 'up'.

--guests ends the guests, their networks and libvirtd too; records and disks stay, and 'up' starts what was ACTIVE.
--purge ends all that and removes the state directory: exactly what was made, nothing else.
"""

import argparse
import contextlib
import os
import shutil
import signal
import socket
from pathlib import Path

from kilonova.cli import output
from kilonova.cli.client import wait_for
from kilonova.cli.common import Failed, common_options
from kilonova.server import helper_beside, state


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    common_options(parser)
    parser.add_argument("--guests", action="store_true", help="end guests and their networks too")
    parser.add_argument(
        "--purge", action="store_true", help="end and remove everything that was made"
    )


def run(args: argparse.Namespace) -> int:
    """Stop what runs; fine when nothing does."""
    directory = state.chosen(args.state_dir)
    found = state.running(directory)
    made = state.deployment(directory)
    if found is not None:
        stop(found)
    elif (args.guests or args.purge) and _helper_answers(directory):
        raise Failed(
            f"an agent runs on {directory}: stop it first ('systemctl stop kilonova-agent')"
        )
    removed = _clean_host(directory, made, purge=args.purge) if args.guests or args.purge else []
    if args.purge:
        _remove(directory)
    words = _words(found, made, args, directory)
    if args.json:
        output.print_json(
            {"stopped": found.pid if found else None, "left": removed, "state_dir": str(directory)}
        )
    else:
        print(words)
        for item in removed:
            print(f"still there: {item}")
    return 1 if removed else 0


def _helper_answers(directory: Path) -> bool:
    """Tell whether somebody serves as root helper of a state directory."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(helper_beside.helper_socket(directory)))
        except OSError:
            return False
    return True


def _words(
    found: state.Run | None,
    made: state.Deployment | None,
    args: argparse.Namespace,
    directory: Path,
) -> str:
    if args.purge:
        return (
            f"Stopped, and {directory} is gone."
            if found or made
            else "There was nothing to remove."
        )
    if found is None:
        return f"No cloud runs on {directory}." + (" Its guests were ended." if args.guests else "")
    if made is not None and made.driver == "libvirt" and not args.guests:
        return (
            "Stopped. Guests go on running; 'kilonova up' finds them again, 'kilonova down --guests' ends them,"
            "\n'kilonova down --purge' removes everything."
        )
    if args.guests:
        return "Stopped, and the guests with it. 'kilonova up' starts again those that were ACTIVE."
    return "Stopped. 'kilonova up' goes on where it was."


def stop(found: state.Run) -> None:
    """End the cloud's processes in order, by their ids; by force when they do not within 60 s."""
    try:
        os.kill(found.pid, signal.SIGTERM)
    except ProcessLookupError:
        return
    except PermissionError as exc:
        raise Failed(
            f"process {found.pid} belongs to somebody else; run this as its user or as root"
        ) from exc

    def gone() -> bool:
        return state.ticks(found.pid) != found.started_ticks

    try:
        wait_for("the cloud to stop", gone, 60, 0.02)
    except Failed:
        with contextlib.suppress(ProcessLookupError):
            os.kill(found.pid, signal.SIGKILL)
        wait_for("the cloud to die", gone, 10, 0.02)
    if found.helper_pid is not None:
        helper = found.helper_pid
        wait_for("the root helper to end", lambda: not _is_helper(helper), 20, 0.02)


def _is_helper(pid: int) -> bool:
    if state.ticks(pid) is None:
        return False
    try:
        return b"kilonova" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _clean_host(directory: Path, made: state.Deployment | None, *, purge: bool) -> list[str]:
    """End guests, exports, libvirtd, dnsmasq; remove networks; return what is left all the same."""
    if made is None or made.driver != "libvirt":
        return []
    if os.geteuid() != 0:
        raise Failed("guests and networks of this machine are root's; run this as root")
    from kilonova.agent.exports import end_exports
    from kilonova.agent.helper.verbs import machine
    from kilonova.agent.helper.verbs import purge as everything

    left: list[str] = []
    first = helper_beside.helper_settings(directory)
    before = [int(p.name[-1]) for p in directory.glob("host-[2-9]")]  # of a start with more hosts
    for number in range(max(made.hosts, *before, 1), 0, -1):
        settings = first if number == 1 else machine.settings_of(first, number)
        agent = directory / ("agent" if number == 1 else f"agent-{number}")
        if purge:
            everything.remove_everything(settings)
        else:
            everything.end_everything(settings)
        end_exports(agent)
        kept = settings.directory_root if purge else None
        left += everything.list_leftovers(settings.tag, kept)
    return left


def _remove(directory: Path) -> None:
    known = (state.DEPLOYMENT, "owner.lock", "logs", state.RUN)
    if not directory.exists():
        return
    if any(directory.iterdir()) and not any((directory / name).exists() for name in known):
        raise Failed(
            f"{directory} does not look like a state directory of Kilonova; nothing was removed"
        )
    if os.geteuid() != 0 and directory.stat().st_uid != os.geteuid():
        raise Failed(f"{directory} belongs to somebody else")
    shutil.rmtree(directory)
    if os.geteuid() == 0 and directory == state.default_dir():
        _remove_users()


def _remove_users() -> None:
    """Remove the two system users, when no cloud of this machine needs them any more."""
    from kilonova.agent.helper import users
    from kilonova.agent.helper.run import CommandFailed

    if any(Path("/run/netns").glob("kilonova-*")):
        return
    with contextlib.suppress(CommandFailed):
        users.remove_users()
