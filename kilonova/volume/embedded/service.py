"""The Block Storage v3 API as a service of the process's one port, mounted at /volume."""

from collections.abc import Mapping

from kilonova.http import errors as forms
from kilonova.http.app import Microversions, Service
from kilonova.volume.embedded.routes.attachments import AttachmentRoutes
from kilonova.volume.embedded.routes.common import HIGH, LOW
from kilonova.volume.embedded.routes.info import Info
from kilonova.volume.embedded.routes.volumes import VolumeRoutes
from kilonova.volume.embedded.rules import policy
from kilonova.volume.embedded.volumes import EmbeddedVolumes


def service(volumes: EmbeddedVolumes, overrides: Mapping[str, str] | None = None) -> Service:
    """Return the service. overrides: a policy file's rules."""
    parts = (Info(), VolumeRoutes(volumes), AttachmentRoutes(volumes))
    return Service(
        name="volume",
        mount="/volume",
        routes=[route for part in parts for route in part.routes()],
        policy=policy(overrides),
        render=forms.compute,
        microversions=Microversions(kind="volume", low=LOW, high=HIGH, default=LOW),
    )
