"""The embedded image service as one API of the application, mounted on /image."""

from collections.abc import Mapping

from kilonova.http import errors as forms
from kilonova.http.policy import Policy
from kilonova.http.service import Service
from kilonova.image.embedded.routes.data import DataRoutes
from kilonova.image.embedded.routes.images import ImageRoutes
from kilonova.image.embedded.routes.info import InfoRoutes
from kilonova.image.embedded.routes.members import MemberRoutes
from kilonova.image.embedded.rules import RULES
from kilonova.image.embedded.store import EmbeddedImages


def service(
    images: EmbeddedImages, public_url: str = "", overrides: Mapping[str, str] | None = None
) -> Service:
    """Return the Glance v2 API over ``images``. overrides: a policy file's rules.

    public_url is not needed: links are made from the application's.
    """
    nouns = (InfoRoutes(images), ImageRoutes(images), MemberRoutes(images), DataRoutes(images))
    return Service(
        name="image",
        mount="/image",
        routes=[route for noun in nouns for route in noun.routes()],
        policy=Policy(RULES, overrides),
        render=forms.image,
        exact=True,
    )
