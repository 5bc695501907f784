"""The agent of real guests as root starts it: a root helper here, and the agent beside it as the cloud's user.

What only root may read (credentials, authorities) is handed to that user as copies, made anew at each start.
"""

import dataclasses
import os
import pwd
from collections.abc import Callable
from pathlib import Path

from kilonova import __version__
from kilonova.common.config import BadConfig, Settings
from kilonova.common.deployment import Tables, needed
from kilonova.server import ground, helper_beside, kvm, privileges, state
from kilonova.server.agent_role import hosts_of
from kilonova.server.ground import StartFailed


def run(
    path: Path,
    settings: Settings,
    tables: Tables,
    serve: Callable[[Tables], int],
    failed: Callable[[str], None],
) -> int:
    """Run the agent of a configuration until it ends; return its exit code. Raises BadConfig, StartFailed.

    serve: runs the agent with the tables that its user can use. failed: hears why it could not.
    """
    needed(path, tables, "agent")
    if os.geteuid() != 0:
        raise BadConfig("real guests need the root helper: start 'kilonova agent' as root")
    directory = Path(tables.deployment.state_dir)
    name = ground.cloud_user(libvirt=True, ephemeral=False)
    ground.prepare(directory, name, with_helper=True)
    user = privileges.find_user(name)
    if user is None:
        raise StartFailed(f"there is no user {name}")
    if state.deployment(directory) is None:  # what 'kilonova down --purge' goes by
        made = state.Deployment(
            "libvirt", __version__, hosts=tables.agent.hosts, split=True, seeded=()
        )
        state.save_deployment(directory, made)
    helper = helper_beside.open_(directory, settings.resolv_conf)
    virt_type = tables.agent.virt_type or kvm.virt_type(directory / "host" / "kvm.json")
    told = _handed_over(directory, tables, user)
    agent = dataclasses.replace(
        told.agent, helper=str(helper_beside.helper_socket(directory)), virt_type=virt_type
    )
    body = helper_beside.Body(
        lambda: serve(dataclasses.replace(told, agent=agent)),
        failed,
    )
    return helper_beside.run(helper, user, [*privileges.code_directories(), directory], body)


def _handed_over(directory: Path, tables: Tables, user: pwd.struct_passwd) -> Tables:
    """Return the tables with files that the agent's user can read; they lie in root's own part of the directory."""
    folder = directory / "host" / "handed"
    folder.mkdir(mode=0o755, exist_ok=True)

    def give(text: str | None, name: str) -> str | None:
        if text is None:
            return None
        try:
            content = Path(text).read_text()
        except OSError as exc:
            raise BadConfig(f"{text} cannot be read: {exc.strerror}") from exc
        state.write_text(folder / name, content)
        os.chown(folder / name, user.pw_uid, user.pw_gid)
        return str(folder / name)

    bus, agent = tables.bus, tables.agent
    if agent.credentials_dir is not None:
        for _, host in hosts_of(tables):
            give(str(Path(agent.credentials_dir) / f"{host}.creds"), f"{host}.creds")
        agent = dataclasses.replace(agent, credentials_dir=str(folder))
    bus = dataclasses.replace(
        bus, credentials=give(bus.credentials, "bus.creds"), ca=give(bus.ca, "bus-ca.pem")
    )
    agent = dataclasses.replace(agent, ca=give(agent.ca, "api-ca.pem"))
    return dataclasses.replace(tables, bus=bus, agent=agent)
