"""What is there: versions, schemas, import methods, stores, and the tasks that there never are."""

from collections.abc import Callable, Sequence
from typing import Any

from kilonova.common.errors import NotFound
from kilonova.http.policy import PUBLIC
from kilonova.http.request import Request, Response
from kilonova.http.routing import Route
from kilonova.image.embedded import rules, view
from kilonova.image.embedded.store import EmbeddedImages

VERSIONS = ("v2.9", "v2.8", "v2.7", "v2.6", "v2.5", "v2.4", "v2.3", "v2.2", "v2.1", "v2.0")


class InfoRoutes:
    """Handlers of what describes the service."""

    def __init__(self, images: EmbeddedImages) -> None:
        self.images = images

    def routes(self) -> Sequence[Route]:
        """Return this file's rows of the route table."""
        schemas = {
            "image": view.IMAGE_SCHEMA,
            "images": view.IMAGES_SCHEMA,
            "member": view.MEMBER_SCHEMA,
            "members": view.MEMBERS_SCHEMA,
        }
        return (
            Route("GET", "/", self.versions, PUBLIC, 300),
            Route("GET", "/versions", self.versions, PUBLIC, 200),
            Route("GET", "/v2", self.versions, PUBLIC, 300),
            *(
                Route("GET", f"/v2/schemas/{name}", _constant(document), "get_schemas")
                for name, document in schemas.items()
            ),
            Route("GET", "/v2/info/import", self.import_methods, "get_info"),
            Route("GET", "/v2/info/stores", self.stores, "get_info"),
            Route("GET", "/v2/tasks", self.tasks, "tasks_api_access"),
            Route("GET", "/v2/tasks/{task_id}", self.task, "tasks_api_access", errors=(404,)),
            Route("GET", "/v2/images/{image_id}/tasks", self.image_tasks, "get_image"),
        )

    def versions(self, req: Request) -> dict[str, Any]:
        """List the versions of the API."""
        links = [{"rel": "self", "href": req.base + "/v2/"}]
        return {
            "versions": [
                {"id": v, "status": "CURRENT" if v == VERSIONS[0] else "SUPPORTED", "links": links}
                for v in VERSIONS
            ]
        }

    def import_methods(self, req: Request) -> dict[str, Any]:
        """Say how images may be imported."""
        return {
            "import-methods": {
                "description": "Import methods available.",
                "type": "array",
                "value": ["glance-direct"],
            }
        }

    def stores(self, req: Request) -> dict[str, Any]:
        """Say where images are kept: in one place."""
        return {"stores": [{"id": "local", "default": "true"}]}

    def tasks(self, req: Request) -> dict[str, Any]:
        """List tasks: imports are done when they answer, so there are none."""
        return {"tasks": [], "first": "/v2/tasks", "schema": "/v2/schemas/tasks"}

    def task(self, req: Request) -> Response:
        """Show a task that does not exist."""
        raise NotFound(f"Task not found for task_id {req.params['task_id']:.64}")

    def image_tasks(self, req: Request) -> dict[str, Any]:
        """List an image's tasks: none."""
        image = self.images.get(req.ctx, req.params["image_id"])
        rules.require(req, "get_image", image)
        return {"tasks": []}


def _constant(document: dict[str, Any]) -> Callable[[Request], dict[str, Any]]:
    def show(req: Request) -> dict[str, Any]:
        """Show a JSON schema."""
        return document

    return show
