"""Which releases take part, and what all of them write: ``GET /kilonova/v1/versions``."""

from typing import Any

from kilonova.common.errors import Unavailable
from kilonova.http.request import Request
from kilonova.operations.services import Services


def show_versions(req: Request) -> Any:
    """Show every service's release, and the deployment's pin where it is older than this release."""
    services: Services = req.cloud
    if services.versions is None:
        raise Unavailable("This process keeps no account of versions.")
    return {"versions": services.versions.view()}
