"""/v2/images/{id}/members: with whom an image is shared, and whether they want it."""

from collections.abc import Sequence
from typing import Any

from kilonova.common.errors import BadRequest, Conflict, Forbidden, NotFound, TooLarge
from kilonova.db.engine import Tx
from kilonova.http.request import Request
from kilonova.http.routing import Route
from kilonova.image.embedded import rules, view
from kilonova.image.embedded import schema as s
from kilonova.image.embedded.store import EmbeddedImages
from kilonova.objects.image import Image

_ONE = "/v2/images/{image_id}"


class MemberRoutes:
    """Handlers of an image's members."""

    def __init__(self, images: EmbeddedImages) -> None:
        self.images = images

    def routes(self) -> Sequence[Route]:
        """Return this part's rows of the route table."""
        many, one = _ONE + "/members", _ONE + "/members/{member_id}"
        return (
            Route("GET", many, self.index, "get_members", errors=(403, 404)),
            Route("POST", many, self.create, "add_member", 200, (400, 403, 404, 409, 413)),
            Route("GET", one, self.show, "get_member", errors=(404,)),
            Route("PUT", one, self.change, "get_member", 200, (400, 403, 404)),
            Route("DELETE", one, self.delete, "delete_member", 204, (403, 404)),
        )

    def _shared(self, tx: Tx, req: Request) -> Image:
        image = self.images.seen(tx, req.ctx, req.params["image_id"])
        if image.visibility != "shared":
            raise Forbidden("Only shared images have members.")
        return image

    def index(self, req: Request) -> dict[str, Any]:
        """List members: all for the owner, itself for a member."""

        def work(tx: Tx) -> list[Any]:
            image = self._shared(tx, req)
            rules.require(req, "get_members", image)
            return [r for r in tx.all(s.MEMBERS, id=image.id) if self._may_see(req, image, r)]

        rows = self.images.db.read(work)
        return {"members": [view.show_member(r) for r in rows], "schema": "/v2/schemas/members"}

    @staticmethod
    def _may_see(req: Request, image: Image, row: Any) -> bool:
        mine = req.ctx.project_id
        return req.ctx.is_admin or (mine is not None and mine in (image.owner, row["member_id"]))

    def _member(self, tx: Tx, req: Request, image: Image) -> Any:
        row = tx.one(s.MEMBER, id=image.id, member_id=req.params["member_id"])
        if row is None or not self._may_see(req, image, row):
            raise NotFound(
                f"{req.params['member_id']:.64} not found in the member list of the image."
            )
        return row

    def create(self, req: Request) -> dict[str, Any]:
        """Share an image with a project."""
        member = req.body.get("member") if isinstance(req.body, dict) else None
        if not isinstance(member, str) or not 1 <= len(member) <= 255:
            raise BadRequest("Expected a dict with 'member': the id of a project.")

        def work(tx: Tx) -> Any:
            image = self._shared(tx, req)
            rules.require(req, "add_member", image)
            if tx.one(s.MEMBER, id=image.id, member_id=member) is not None:
                raise Conflict(f"Image member {member:.64} already exists.")
            if tx.value(s.COUNT_MEMBERS, id=image.id) >= self.images.settings.members_per_image:
                raise TooLarge("The limit on the number of members of an image is reached.")
            now = self.images.clock.now()
            tx.run(
                s.INSERT_MEMBER,
                image_id=image.id,
                member_id=member,
                status="pending",
                created_at=now,
                updated_at=now,
            )
            return tx.one(s.MEMBER, id=image.id, member_id=member)

        return view.show_member(self.images.db.write(work))

    def show(self, req: Request) -> dict[str, Any]:
        """Show one member."""
        return view.show_member(
            self.images.db.read(lambda tx: self._member(tx, req, self._shared(tx, req)))
        )

    def change(self, req: Request) -> dict[str, Any]:
        """Accept or reject an image: the member itself says so, not the owner."""
        status = req.body.get("status") if isinstance(req.body, dict) else None
        if status not in ("pending", "accepted", "rejected"):
            raise BadRequest("Expected a status: pending, accepted or rejected.")

        def work(tx: Tx) -> Any:
            image = self._shared(tx, req)
            row = self._member(tx, req, image)
            member = row["member_id"]
            rules.require(req, "modify_member", image, member)
            now = self.images.clock.now()
            tx.run(s.SET_MEMBER, id=image.id, member=member, to_status=status, now=now)
            return tx.one(s.MEMBER, id=image.id, member_id=member)

        return view.show_member(self.images.db.write(work))

    def delete(self, req: Request) -> None:
        """Stop sharing with a project."""

        def work(tx: Tx) -> None:
            image = self._shared(tx, req)
            rules.require(req, "delete_member", image)
            member = self._member(tx, req, image)["member_id"]
            tx.run(s.DROP_MEMBER, id=image.id, member_id=member)

        self.images.db.write(work)
