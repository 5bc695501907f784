"""Certificates by which hosts of a cloud know each other: who a host is, never where.

The authority's key is made of the deployment's secret, so every process that has that signs alike, and nothing is
stored. A host makes its own key, which never leaves it. Who signs must know by other means who asks: the bus does.
"""

import datetime
import hashlib
import hmac
from typing import Any

from kilonova.common import certificates
from kilonova.common.certificates import Wanted, key_pem, load_key, new_key, pem_of

ISSUER = "Kilonova hosts"
DAYS = 1825
"""Of a host's certificate. QEMU reads one when a disk is attached, and keeps it as long as the guest runs."""
_FIRST = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
_LAST = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)  # RFC 5280: no known end
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""Of the group of the curve P-256. source: FIPS 186-4, D.1.2.3."""


def name_of(host: str) -> str:
    """Return what a host is called in its certificate: whatever its name is made of, and never another's."""
    return f"{hashlib.sha256(host.encode()).hexdigest()[:40]}.hosts.kilonova"


def new_request(host: str, key: str | None) -> tuple[str, str]:
    """Return (private key, request for a certificate) of a host; the key is made when there is none."""
    private = new_key() if key is None else load_key(key)
    return key or key_pem(private), certificates.request(name_of(host), private)


class HostAuthority:
    """Signs for hosts."""

    def __init__(self, secret: bytes) -> None:
        """secret: 32 bytes or more that nobody else has."""
        self._secret = secret

    @property
    def certificate(self) -> str:
        """Return the authority's own certificate; those of one secret stand for each other."""
        key = self._key()
        return pem_of(
            certificates.make(Wanted(ISSUER, ISSUER, _FIRST, _LAST), key.public_key(), key)
        )

    def sign(self, host: str, request: str, days: float = DAYS) -> str:
        """Return a certificate of a host for the key of its request. ValueError for what is no request."""
        public, now = certificates.requested_key(request), datetime.datetime.now(datetime.UTC)
        name = name_of(host)
        first = now - certificates.DAY
        last = now + days * certificates.DAY
        wanted = Wanted(name, ISSUER, min(first, last), last, [name], both_ends=True)
        return pem_of(certificates.make(wanted, public, self._key()))

    def _key(self) -> Any:
        from cryptography.hazmat.primitives.asymmetric import ec

        raw = hmac.digest(self._secret, b"authority of hosts", "sha512")
        number = int.from_bytes(raw, "big") % (_ORDER - 1) + 1
        return ec.derive_private_key(number, ec.SECP256R1())
