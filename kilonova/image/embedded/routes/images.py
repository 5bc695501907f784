"""/v2/images: list, create, show, change, delete, tags, deactivate, reactivate."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, urlencode

from kilonova.common.errors import BadRequest, Forbidden, NotFound
from kilonova.common.ids import new_uuid
from kilonova.db.engine import Tx
from kilonova.http.request import Request, Response
from kilonova.http.routing import Route
from kilonova.image.embedded import listing, patch, rules, view
from kilonova.image.embedded.store import EmbeddedImages
from kilonova.objects.image import Image

_COLLECTION = "/v2/images"
_ONE = "/v2/images/{image_id}"


class ImageRoutes:
    """Handlers of images themselves."""

    def __init__(self, images: EmbeddedImages) -> None:
        self.images = images

    def routes(self) -> Sequence[Route]:
        """Return this file's rows of the route table."""
        return (
            Route("GET", _COLLECTION, self.index, "get_images", errors=(400,)),
            Route("POST", _COLLECTION, self.create, "add_image", 201, (400, 403, 409, 413)),
            Route("GET", _ONE, self.show, "get_image", errors=(404,)),
            Route("PATCH", _ONE, self.change, "modify_image", 200, (400, 403, 404, 409, 413, 415)),
            Route("DELETE", _ONE, self.delete, "delete_image", 204, (403, 404)),
            Route("PUT", _ONE + "/tags/{tag}", self.add_tag, "modify_image", 204, (400, 403, 404)),
            Route("DELETE", _ONE + "/tags/{tag}", self.drop_tag, "modify_image", 204, (403, 404)),
            Route("POST", _ONE + "/actions/deactivate", self.deactivate, "deactivate", 204, (403,)),
            Route("POST", _ONE + "/actions/reactivate", self.reactivate, "reactivate", 204, (403,)),
        )

    def index(self, req: Request) -> dict[str, Any]:
        """List the images that the caller may see, a page at a time."""
        ask = listing.parse(req.query)
        page, more = self.images.db.read(lambda tx: listing.select(tx, req.ctx, ask))
        pairs = [(k, v) for k, v in req.query.pairs if k != "marker"]
        body: dict[str, Any] = {
            "images": [view.show(i) for i in page],
            "first": _link(pairs),
            "schema": "/v2/schemas/images",
        }
        if more:
            body["next"] = _link([*pairs, ("marker", page[-1].id)])
        return body

    def create(self, req: Request) -> Response:
        """Make an image's record; its bytes come later."""
        body = req.body
        if not isinstance(body, dict):
            raise BadRequest("The request needs a JSON object as its body.")
        for name in body:
            patch.check_reserved(name)
            if name in view.READ_ONLY:
                raise Forbidden(f"Attribute '{name}' is read-only.")
        view.check_body(body)
        start = Image(id=new_uuid(), status="queued", owner=req.ctx.project_id)
        image = view.with_body(start, {k: v for k, v in body.items() if k != "id"})
        image = image.replace(id=str(body.get("id", start.id)).lower())
        if image.owner is None and not req.ctx.is_admin:
            raise Forbidden("An image needs an owner: use a token that is scoped to a project.")
        _check_owner(req, start, image)
        rules.require(req, "add_image", image)
        _check_visibility(req, start, image)
        made = self.images.create(image)
        headers = {
            "Location": req.url("v2", "images", made.id),
            "OpenStack-image-import-methods": "glance-direct",
        }
        return Response(view.show(made), headers=headers)

    def show(self, req: Request) -> dict[str, Any]:
        """Show one image."""
        image = self.images.get(req.ctx, req.params["image_id"])
        rules.require(req, "get_image", image)
        return view.show(image)

    def change(self, req: Request) -> dict[str, Any]:
        """Change an image by a JSON patch."""
        changes = patch.parse(req.headers.get("content-type", ""), req.body)

        def work(tx: Tx, image: Image) -> Image:
            rules.require(req, "modify_image", image)
            new = patch.apply(image, changes)
            _check_owner(req, image, new)
            _check_visibility(req, image, new)
            return new

        return view.show(self.images.change(req.ctx, req.params["image_id"], work))

    def delete(self, req: Request) -> None:
        """Delete an image and its bytes."""
        self.images.remove(
            req.ctx, req.params["image_id"], lambda image: rules.require(req, "delete_image", image)
        )

    def add_tag(self, req: Request) -> None:
        """Tag an image; fine when it has the tag."""
        tag = req.params["tag"]
        view.check_body({"tags": [tag]})

        def work(tx: Tx, image: Image) -> Image:
            rules.require(req, "modify_image", image)
            return image.replace(tags=tuple(sorted({*image.tags, tag})))

        self.images.change(req.ctx, req.params["image_id"], work)

    def drop_tag(self, req: Request) -> None:
        """Take a tag off an image."""
        tag = req.params["tag"]

        def work(tx: Tx, image: Image) -> Image:
            rules.require(req, "modify_image", image)
            if tag not in image.tags:
                raise NotFound("The image has no such tag.")
            return image.replace(tags=tuple(t for t in image.tags if t != tag))

        self.images.change(req.ctx, req.params["image_id"], work)

    def deactivate(self, req: Request) -> None:
        """Make an image's bytes unreadable for everybody but administrators."""
        self._set(req, "deactivate", "active", "deactivated")

    def reactivate(self, req: Request) -> None:
        """Undo a deactivation."""
        self._set(req, "reactivate", "deactivated", "active")

    def _set(self, req: Request, rule: str, before: str, after: str) -> None:
        image = self.images.get(req.ctx, req.params["image_id"])
        rules.require(req, rule, image)
        self.images.set_status(image.id, before, after)


def _link(pairs: list[tuple[str, str]]) -> str:
    return "/v2/images" + ("?" + urlencode(pairs, quote_via=quote) if pairs else "")


def _check_owner(req: Request, before: Image, after: Image) -> None:
    if after.owner != before.owner and not req.ctx.is_admin:
        raise Forbidden(f"You are not permitted to create images owned by '{after.owner!s:.64}'.")


def _check_visibility(req: Request, before: Image, after: Image) -> None:
    if after.visibility == before.visibility:
        return
    if after.visibility == "public":
        rules.require(req, "publicize_image", after)
    if after.visibility == "community":
        rules.require(req, "communitize_image", after)
