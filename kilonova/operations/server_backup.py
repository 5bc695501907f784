"""Make an image of a server and keep so many of its type: createBackup.

snapshot, describe, upload    as in server_snapshot.py
rotate      the oldest backups of the type, beyond those that are kept, are deleted
finish      the server is what it was
"""

from kilonova.operations.services import Services
from kilonova.operations.snapshots import snapshot_saga
from kilonova.saga.definition import NoUndo, Output, Run, Step


def rotate(run: Run) -> Output:
    """Delete what is beyond the rotation, the oldest first; with rotation 0 the new one too."""
    services: Services = run.services
    image = services.images.find(run.params.image_id)
    if image is None or image.owner is None:
        return {}
    wanted = {
        "image_type": "backup",
        "backup_type": run.params.backup_type,
        "instance_uuid": run.resource,
    }
    kept = run.params.rotation
    for old in services.images.made_with(image.owner, wanted)[kept:]:
        services.images.delete(old.id)
    return {}


SAGA = snapshot_saga(
    "server_backup",
    Step(
        "rotate",
        rotate,
        NoUndo("a backup that is beyond the rotation is not made again"),
        60.0,
    ),
)
