"""Images' bytes for hosts: by signed URLs, without a token (kilonova/image/signing.py)."""

from kilonova.http import errors as forms
from kilonova.http.policy import PUBLIC, Policy
from kilonova.http.request import Request, Response
from kilonova.http.routing import Route
from kilonova.http.service import Service
from kilonova.image.embedded.routes.data import Body, pieces
from kilonova.image.embedded.store import EmbeddedImages
from kilonova.image.signing import MOUNT, UrlSigner

_PATH = "/{host}/{image_id}"


class HostRoutes:
    """Handlers; nothing is read before the signature was checked."""

    def __init__(self, images: EmbeddedImages, signer: UrlSigner) -> None:
        self.images = images
        self.signer = signer

    def service(self) -> Service:
        """Return the routes as a service of their own."""
        return Service(
            name="image-data",
            mount=MOUNT,
            routes=(
                Route("GET", _PATH, self.download, PUBLIC, 200, (403, 404, 409)),
                Route("PUT", _PATH, self.upload, PUBLIC, 204, (403, 404, 409), stream=True),
            ),
            policy=Policy({}),
            render=forms.image,
        )

    def _check(self, req: Request, method: str) -> str:
        query = req.query
        image_id = req.params["image_id"]
        expires, signature = query.get("expires") or "", query.get("signature") or ""
        self.signer.check(image_id, req.params["host"], method, expires, signature)
        return image_id

    def download(self, req: Request) -> Response:
        """Send an image's bytes."""
        data = self.images.open(self._check(req, "GET"))
        return Response(
            stream=Body(data),
            headers={"Content-Length": str(data.size)},
            content_type="application/octet-stream",
        )

    def upload(self, req: Request) -> None:
        """Take an image's bytes, once; 409 says that it has some."""
        self.images.upload(self._check(req, "PUT"), pieces(req), req.length)
