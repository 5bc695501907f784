"""URLs by which hosts fetch and bring images' bytes: each is signed for one host, image, method and time.

An order carries such a URL; the host needs no token, and what leaks is good for one image, one way, one day.
"""

import hashlib
import hmac
import time
from collections.abc import Callable
from urllib.parse import quote, urlencode

from kilonova.common.errors import Forbidden

LIFE_S = 86400.0
MOUNT = "/image-data"


class UrlSigner:
    """Makes and checks the URLs. key: secret of the deployment, the same in every process of it."""

    def __init__(
        self, key: bytes, base: str, now: Callable[[], float] = time.time, life_s: float = LIFE_S
    ) -> None:
        self._key = hashlib.sha256(b"image urls" + key).digest()
        self._base = base.rstrip("/")
        self._now = now
        self._life_s = life_s

    def url(self, image_id: str, host: str, method: str) -> str:
        """Return a URL. method: GET or PUT."""
        expires = str(int(self._now() + self._life_s))
        query = urlencode(
            {"expires": expires, "signature": self._sign(image_id, host, method, expires)}
        )
        return f"{self._base}{MOUNT}/{quote(host or '-', safe='')}/{image_id}?{query}"

    def check(self, image_id: str, host: str, method: str, expires: str, signature: str) -> None:
        """Raise Forbidden, alike for a wrong and for an old signature."""
        mine = self._sign(image_id, "" if host == "-" else host, method, expires)
        fits = hmac.compare_digest(mine.encode(), signature.encode())
        if not fits or not expires.isdigit() or int(expires) < self._now():
            raise Forbidden("The signature of the URL is wrong or has expired.")

    def _sign(self, *parts: str) -> str:
        text = "\n".join(parts).encode()
        return hmac.new(self._key, text, hashlib.sha256).hexdigest()
