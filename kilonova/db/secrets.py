"""Secrets at rest: AES-GCM, by reference, decrypted only when an order is encoded.

The key file (0600) lies outside the database. Each secret belongs to an owner (an operation, an attachment, a server)
and is deleted in the transaction that ends the owner.
"""

import hashlib
import hmac
import os
from pathlib import Path

import sqlalchemy as sa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from kilonova.common.errors import NotFound
from kilonova.common.ids import new_uuid
from kilonova.common.secret import Secret
from kilonova.db.engine import Tx
from kilonova.db.schema.cell import secret
from kilonova.db.sql import P, Q, insert

_PUT = insert(secret)
_GET = Q(sa.select(secret).where(secret.c.id == P("id")))
_GIVE = Q(sa.update(secret).where(secret.c.id == P("id_")).values(owner=P("owner")))
_DROP_ONE = Q(sa.delete(secret).where(secret.c.id == P("id")))
_DROP = Q(sa.delete(secret).where(secret.c.owner.in_((P("owner"), P("other")))))


class Vault:
    """Seals and opens secrets with one key."""

    def __init__(self, key: bytes) -> None:
        self._aes = AESGCM(key)
        self._key = key

    @classmethod
    def at(cls, path: Path) -> "Vault":
        """Open the key file, making one (0600) the first time."""
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return cls(path.read_bytes())
        with os.fdopen(fd, "wb") as f:
            f.write(AESGCM.generate_key(bit_length=256))
            f.flush()
            os.fsync(f.fileno())
        return cls(path.read_bytes())

    def derived(self, purpose: bytes) -> bytes:
        """Return a key for another purpose, made from this one; it does not tell this one."""
        return hmac.digest(self._key, b"derived:" + purpose, "sha256")

    def put(
        self, tx: Tx, *, owner: str, kind: str, value: Secret, now: float, id_: str | None = None
    ) -> str:
        """Store a secret; return its reference."""
        ref = id_ or new_uuid()
        nonce = os.urandom(12)
        sealed = self._aes.encrypt(nonce, value.reveal().encode(), f"{ref}:{kind}".encode())
        tx.put(_PUT, id=ref, owner=owner, kind=kind, nonce=nonce, sealed=sealed, created_at=now)
        return ref

    def get(self, tx: Tx, ref: str) -> Secret:
        """Open a secret. Raises NotFound when its life has ended."""
        row = tx.one(_GET, id=ref)
        if row is None:
            raise NotFound("a secret that is needed is gone", ref=ref)
        aad = f"{row['id']}:{row['kind']}".encode()
        return Secret(self._aes.decrypt(row["nonce"], row["sealed"], aad).decode())

    def seal(self, kind: str, value: Secret) -> bytes:
        """Return a sealed secret that is kept in its owner's own row, and ends with it."""
        nonce = os.urandom(12)
        return nonce + self._aes.encrypt(nonce, value.reveal().encode(), kind.encode())

    def unseal(self, kind: str, sealed: bytes) -> Secret:
        """Open what ``seal`` made for the same kind."""
        return Secret(self._aes.decrypt(sealed[:12], sealed[12:], kind.encode()).decode())

    def digest(self, data: bytes) -> str:
        """Return a keyed digest: without the key file nobody can try out what was digested."""
        return hmac.new(self._key, b"digest\0" + data, hashlib.sha256).hexdigest()

    def move(self, tx: Tx, target: Tx, ref: str, *, owner: str) -> None:
        """Copy a sealed secret to another database under a new owner; fine when it is there already."""
        row = tx.one(_GET, id=ref)
        if row is not None and target.one(_GET, id=ref) is None:
            target.run(_PUT, **{**dict(row), "owner": owner})


def drop(tx: Tx, owner: str, other: str | None = None) -> None:
    """End every secret of an owner, or of two."""
    tx.put(_DROP, owner=owner, other=other)


def give(tx: Tx, ref: str, owner: str) -> None:
    """Let a secret live as long as another owner."""
    tx.put(_GIVE, id_=ref, owner=owner)


def drop_one(tx: Tx, ref: str) -> None:
    """End one secret."""
    tx.put(_DROP_ONE, id=ref)
