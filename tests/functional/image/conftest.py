"""A whole image API on a temporary directory, with callers made of headers: ``X-Auth-Token: project:role``."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import falcon.testing
import pytest

from kilonova.common.clock import ManualClock
from kilonova.common.context import Context
from kilonova.common.errors import Unauthorized
from kilonova.http.app import Application
from kilonova.image.embedded.service import service
from kilonova.image.embedded.store import EmbeddedImages, Settings
from tests import databases

IMPLIED = {
    "admin": ("admin", "manager", "member", "reader"),
    "member": ("member", "reader"),
    "reader": ("reader",),
}


def authenticate(token: str | None, service_token: str | None, request_id: str) -> Context:
    """Read ``project:role``."""
    if not token or ":" not in token:
        raise Unauthorized("The request you have made requires authentication.")
    project, _, role = token.partition(":")
    return Context(
        request_id=request_id, user_id="u-" + project, project_id=project, roles=IMPLIED[role]
    )


class Cloud:
    """The image service and its API."""

    def __init__(self, root: Path, **settings: Any) -> None:
        self.root = root
        self.clock = ManualClock()
        self.database = databases.at(root / "image.sqlite", "image")
        self.images = EmbeddedImages(self.database, root / "data", self.clock, Settings(**settings))
        self.app = Application([service(self.images)], None, authenticate, "http://cloud:8774")
        self.http = falcon.testing.TestClient(self.app.wsgi)

    def call(
        self,
        method: str,
        path: str,
        who: str = "alpha:member",
        json_body: Any = None,
        body: bytes | None = None,
        **headers: str,
    ) -> falcon.testing.Result:
        """Make one request; header names are given with underscores."""
        sent = {k.replace("_", "-"): v for k, v in headers.items()}
        if who:
            sent["X-Auth-Token"] = who
        if json_body is not None:
            body = json.dumps(json_body).encode()
            sent.setdefault("Content-Type", "application/json")
        if body is not None and "Content-Type" not in sent:
            sent["Content-Type"] = "application/octet-stream"
        path, _, query = path.partition("?")
        return self.http.simulate_request(
            method, "/image" + path, headers=sent, body=body, query_string=query
        )

    def make(self, who: str = "alpha:member", **fields: Any) -> dict[str, Any]:
        """Create an image record (raw and bare unless said) and return it."""
        body = {"name": "i", "disk_format": "raw", "container_format": "bare", **fields}
        result = self.call("POST", "/v2/images", who, body)
        assert result.status_code == 201, result.text
        return dict(result.json)

    def active(self, data: bytes = b"x" * 1024, who: str = "alpha:member", **fields: Any) -> Any:
        """Create an image with bytes and return it."""
        image = self.make(who, **fields)
        result = self.call("PUT", f"/v2/images/{image['id']}/file", who, body=data)
        assert result.status_code == 204, result.text
        return self.call("GET", f"/v2/images/{image['id']}", who).json

    def files(self) -> list[str]:
        """Return the names of all files of images."""
        return sorted(p.name for p in (self.root / "data").rglob("*") if p.is_file())

    def patch(self, image_id: str, ops: Any, who: str = "alpha:member") -> falcon.testing.Result:
        """Change an image."""
        kind = "application/openstack-images-v2.1-json-patch"
        return self.call("PATCH", f"/v2/images/{image_id}", who, ops, Content_Type=kind)

    def close(self) -> None:
        self.images.close()
        self.database.close()


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    made = Cloud(tmp_path)
    yield made
    made.close()
