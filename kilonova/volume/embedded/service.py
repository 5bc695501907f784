"""The Block Storage v3 API as a service of the process's one port, mounted at /volume."""

from collections.abc import Mapping
from typing import Protocol

from kilonova.http import errors as forms
from kilonova.http.routing import Route
from kilonova.http.service import Microversions, Service
from kilonova.volume.embedded.routes.actions import ActionRoutes
from kilonova.volume.embedded.routes.attachments import AttachmentRoutes
from kilonova.volume.embedded.routes.backup_records import BackupRecordRoutes
from kilonova.volume.embedded.routes.backups import BackupRoutes
from kilonova.volume.embedded.routes.common import HIGH, LOW
from kilonova.volume.embedded.routes.connections import ConnectionRoutes
from kilonova.volume.embedded.routes.info import Info
from kilonova.volume.embedded.routes.messages import MessageRoutes
from kilonova.volume.embedded.routes.migrations import MigrationRoutes
from kilonova.volume.embedded.routes.pairs import Pairs
from kilonova.volume.embedded.routes.quotas import QuotaRoutes
from kilonova.volume.embedded.routes.services import ServiceRoutes
from kilonova.volume.embedded.routes.snapshots import SnapshotRoutes
from kilonova.volume.embedded.routes.transfers import TransferRoutes
from kilonova.volume.embedded.routes.types import TypeRoutes
from kilonova.volume.embedded.routes.volumes import VolumeRoutes
from kilonova.volume.embedded.rules import policy
from kilonova.volume.embedded.store import volumes as store
from kilonova.volume.embedded.volumes import EmbeddedVolumes


class _HasRoutes(Protocol):
    def routes(self) -> list[Route]: ...


def service(volumes: EmbeddedVolumes, overrides: Mapping[str, str] | None = None) -> Service:
    """Return the service. overrides: a policy file's rules."""
    parts: list[_HasRoutes] = [
        Info(),
        VolumeRoutes(volumes),
        Pairs(volumes, VolumeRoutes(volumes).find, store.change, "metadata").at(
            "/volumes/{volume_id}",
            "volume:get_volume_metadata",
            "volume:update_volume_metadata",
            "volume:delete_volume_metadata",
        ),
        ActionRoutes(volumes),
        MigrationRoutes(volumes),
        ConnectionRoutes(volumes),
        SnapshotRoutes(volumes),
        AttachmentRoutes(volumes),
        BackupRoutes(volumes),
        BackupRecordRoutes(volumes),
        TransferRoutes(volumes),
        TypeRoutes(volumes),
        MessageRoutes(volumes),
        QuotaRoutes(volumes),
        ServiceRoutes(volumes),
    ]
    return Service(
        name="volume",
        mount="/volume",
        routes=[route for part in parts for route in part.routes()],
        policy=policy(overrides),
        render=forms.compute,
        microversions=Microversions(kind="volume", low=LOW, high=HIGH, default=LOW),
    )
