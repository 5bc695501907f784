"""Who may do what with images: Glance's rule names with its default roles. source: glance/policies/image.py."""

from kilonova.common.context import Context
from kilonova.http.request import Request
from kilonova.objects.image import Image

_MEMBER = "role:admin or (role:member and project_id:%(project_id)s)"
_READER = "role:admin or (role:reader and project_id:%(project_id)s)"
_OPEN = (
    "(project_id:%(project_id)s or project_id:%(member_id)s or 'community':%(visibility)s "
    "or 'public':%(visibility)s or 'shared':%(visibility)s)"
)

RULES: dict[str, str] = {
    "default": "!",
    "context_is_admin": "role:admin",
    "add_image": _MEMBER,
    "delete_image": _MEMBER,
    "get_image": f"role:admin or (role:reader and {_OPEN})",
    "get_images": _READER,
    "modify_image": _MEMBER,
    "publicize_image": "role:admin",
    "communitize_image": _MEMBER,
    "download_image": f"role:admin or (role:member and {_OPEN})",
    "upload_image": _MEMBER,
    "add_member": _MEMBER,
    "delete_member": _MEMBER,
    "get_member": "role:admin or role:reader and (project_id:%(project_id)s or project_id:%(member_id)s)",
    "get_members": "role:admin or role:reader and (project_id:%(project_id)s or project_id:%(member_id)s)",
    "modify_member": "role:admin or (role:member and project_id:%(member_id)s)",
    "deactivate": _MEMBER,
    "reactivate": _MEMBER,
    "tasks_api_access": "role:admin",
    # ours: Glance asks nothing here but a valid token
    "get_schemas": "@",
    "get_info": "@",
}


def target(ctx: Context, image: Image, member_id: str | None = None) -> dict[str, object]:
    """Return an image that the caller can see as a policy target.

    member_id: whose membership is asked about; None: the caller's own where the image is shared.
    """
    if member_id is None and image.visibility == "shared":
        member_id = ctx.project_id
    return {
        "project_id": image.owner,
        "owner": image.owner,
        "member_id": member_id,
        "visibility": image.visibility,
    }


def require(req: Request, rule: str, image: Image, member_id: str | None = None) -> None:
    """Raise Forbidden unless the caller may do ``rule`` to this image."""
    req.authorize(rule, target(req.ctx, image, member_id))
