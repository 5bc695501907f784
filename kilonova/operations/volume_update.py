"""Change what ends with a server: a record change of one disk, no saga."""

from kilonova.common.errors import NotFound
from kilonova.db import servers
from kilonova.db.engine import Tx
from kilonova.operations import server_disks
from kilonova.operations.accept import Found
from kilonova.operations.services import Services


def start(services: Services, found: Found, volume_id: str, delete_on_termination: bool) -> None:
    """Set ``delete_on_termination`` of an attached volume; repeatable. NotFound: it is not attached (any more)."""

    def put(tx: Tx) -> None:
        row = servers.find(tx, found.id)
        disks = [] if row is None or row["deleted"] else server_disks.read(row)
        if server_disks.find_volume(disks, volume_id) is None:
            raise NotFound(f"Instance {found.id} is not attached to volume {volume_id}")
        changed = [
            d.replace(delete_on_termination=delete_on_termination)
            if d.volume_id == volume_id
            else d
            for d in disks
        ]
        servers.set_columns(
            tx, found.id, disks=server_disks.write(changed), updated_at=services.now()
        )

    services.cell(found.mapping["cell"]).write(put)
